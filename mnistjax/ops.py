"""Convolution and pooling that are fast on every backend.

B batch, H W image side, C channels in, D channels out, k kernel side.

XLA compiles the weight gradient of a convolution inside `lax.scan` to a naive loop on CPU (jax#12868):
1,280 ms a step for a 32-64 CNN at batch 128, where the products below take about 25 ms. So on CPU a
convolution is one matrix product over patches; elsewhere it is `lax.conv`.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

Padding = Literal["valid", "same"]


def conv2d(images: Array, kernel: Array, padding: Padding = "valid") -> Array:
    """The cross-correlation of images (B, H, W, C) with a kernel (k, k, C, D), stride 1: (B, H', W', D).

    Reverse-mode differentiable, once.
    """
    if padding == "same":
        before, after = (kernel.shape[0] - 1) // 2, kernel.shape[0] // 2
        images = jnp.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))
    return _conv(images, kernel)


@jax.custom_vjp
def _conv(images: Array, kernel: Array) -> Array:
    return lax.platform_dependent(images, kernel, cpu=_conv_by_patches, default=_conv_by_xla)


def _conv_forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(images, kernel), (images, kernel)


def _conv_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(*residuals, cotangent, cpu=_gradients_by_patches, default=_gradients_by_xla)


_conv.defvjp(_conv_forward, _conv_backward)


def _conv_by_xla(images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _gradients_by_xla(images: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    return jax.vjp(_conv_by_xla, images, kernel)[1](cotangent)


def _conv_by_patches(images: Array, kernel: Array) -> Array:
    return _patches(images, kernel.shape[0]) @ kernel.reshape(-1, kernel.shape[-1])


def _gradients_by_patches(images: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    side, outputs = kernel.shape[0], kernel.shape[-1]
    patches = _patches(images, side)
    kernel_gradient = patches.reshape(-1, patches.shape[-1]).T @ cotangent.reshape(-1, outputs)
    patch_gradient = cotangent @ kernel.reshape(-1, outputs).T  # (B, H', W', k*k*C)
    pieces = jnp.split(patch_gradient, side * side, axis=-1)
    shifts = [(i, j) for i in range(side) for j in range(side)]
    image_gradient = sum(
        jnp.pad(piece, ((0, 0), (i, side - 1 - i), (j, side - 1 - j), (0, 0)))
        for piece, (i, j) in zip(pieces, shifts, strict=True)
    )
    return jnp.asarray(image_gradient), kernel_gradient.reshape(kernel.shape)


def _patches(images: Array, side: int) -> Array:
    """Every k x k patch of images (B, H, W, C), flattened in kernel order: (B, H', W', k*k*C)."""
    height, width = images.shape[1] - side + 1, images.shape[2] - side + 1
    slices = [images[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return jnp.concatenate(slices, axis=-1)


def max_pool(images: Array, window: int = 2) -> Array:
    """The maxima of images (B, H, W, C) over window x window squares, stride `window`, edges cropped.

    As the maximum of strided slices: `reduce_window` and its gradient are slow on CPU.
    """
    height, width = (side // window * window for side in images.shape[1:3])
    result = images[:, :height:window, :width:window]
    for i in range(window):
        for j in range(window):
            if i or j:
                result = jnp.maximum(result, images[:, i:height:window, j:width:window])
    return result
