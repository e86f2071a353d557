"""Convolution and pooling that are fast on every backend.

B batch, H W image side, C channels in, D channels out, k kernel side.

XLA compiles the weight gradient of a convolution inside `lax.scan` to a naive loop on CPU (jax#12868):
1,280 ms a step for a 32-64 CNN at batch 128, where the products below take about 25 ms. So on CPU a
convolution is one matrix product over patches; elsewhere it is `lax.conv`.

A product with few columns is slow, too. So a narrow convolution makes four outputs, a 2 x 2 tile, from one
patch of (k + 1) x (k + 1): more arithmetic in wider products, and 2.3 (k = 3) to 2.8 (k = 5) times less
memory for patches. From 1 to 8 channels on 28 x 28 images that takes half the time or less.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

Padding = Literal["valid", "same"]

TILE_CHANNELS, TILE_SIDE = 16, 20  # tiles pay up to so many channels out, from this image side on


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
    return _conv_by_tiles(images, kernel) if _tiles_pay(images, kernel) else _conv_by_dot(images, kernel)


def _gradients_by_patches(images: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
    return jax.vjp(_conv_by_patches, images, kernel)[1](cotangent)


def _tiles_pay(images: Array, kernel: Array) -> bool:
    return kernel.shape[0] > 1 and kernel.shape[-1] <= TILE_CHANNELS and min(images.shape[1:3]) >= TILE_SIDE


def _conv_by_tiles(images: Array, kernel: Array) -> Array:
    """A k x k convolution as one of side (k + 2) // 2 over tiles of 2 x 2 pixels, a tile in the channels."""
    batch, height, width, channels = images.shape
    side, outputs = kernel.shape[0], kernel.shape[-1]
    tiles = (side + 2) // 2  # a 2 x 2 tile of outputs sees so many tiles of inputs in each direction
    rows, columns = height - side + 1, width - side + 1
    down, across = (rows + 1) // 2 + tiles - 1, (columns + 1) // 2 + tiles - 1
    images = jnp.pad(images, ((0, 0), (0, 2 * down - height), (0, 2 * across - width), (0, 0)))
    images = images.reshape(batch, down, 2, across, 2, channels).transpose(0, 1, 3, 2, 4, 5)

    spare = 2 * tiles - side
    shifted = [
        jnp.pad(kernel, ((i, spare - i), (j, spare - j), (0, 0), (0, 0))) for i in range(2) for j in range(2)
    ]  # the kernel at each of the four outputs' places
    kernel = jnp.stack(shifted, axis=3).reshape(tiles, 2, tiles, 2, channels, 4 * outputs)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(tiles, tiles, 4 * channels, 4 * outputs)

    result = _conv_by_dot(images.reshape(batch, down, across, 4 * channels), kernel)
    result = result.reshape(*result.shape[:3], 2, 2, outputs).transpose(0, 1, 3, 2, 4, 5)
    return result.reshape(batch, rows + rows % 2, columns + columns % 2, outputs)[:, :rows, :columns]


@jax.custom_vjp
def _conv_by_dot(images: Array, kernel: Array) -> Array:
    return _patches(images, kernel.shape[0]) @ kernel.reshape(-1, kernel.shape[-1])


def _dot_forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv_by_dot(images, kernel), (images, kernel)


def _dot_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    images, kernel = residuals
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


_conv_by_dot.defvjp(_dot_forward, _dot_backward)


def _patches(images: Array, side: int) -> Array:
    """Every k x k patch of images (B, H, W, C), flattened in kernel order: (B, H', W', k*k*C)."""
    height, width = images.shape[1] - side + 1, images.shape[2] - side + 1
    slices = [images[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return jnp.concatenate(slices, axis=-1)


def max_pool(images: Array, window: int = 2) -> Array:
    """The maxima of images (B, H, W, C) over window x window squares, stride `window`, edges cropped.

    As a maximum over axes, which shares the gradient among equal maxima: `reduce_window` and its gradient
    are slow on CPU.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // window, width // window
    images = images[:, : rows * window, : columns * window]
    return jnp.max(images.reshape(batch, rows, window, columns, window, channels), axis=(2, 4))
