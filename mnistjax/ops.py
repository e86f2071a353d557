"""Convolution and pooling that are fast on every backend.

B batch, H W image side, C channels in, D channels out, k kernel side, R S rows and columns of 2 x 2 tiles.

On CPU, XLA compiles the weight gradient of a convolution inside `lax.scan` to a naive loop (jax#12868), which
takes 1,280 ms per step for a 32-64 CNN at batch 128. Our convolutions are therefore matrix products on CPU,
in one of three forms, and `lax.conv` elsewhere. Before pooling, only pixels that are pooled are computed, as
tiles of 2 x 2 outputs whose maximum is taken in place. Microseconds per image for a gradient on one core, for
that CNN with pooling and for four 3 x 3 layers (8, 8, pool, 32, 32, pool):

    patches only, then pooling     340   272
    with tiles                     223
    with tiles and Winograd        170   228

Measured alone, patches are up to 3 times as fast for few channels in and 32 out, more so with AVX2 than with
AVX-512 (an Intel Xeon, also with XLA limited to AVX2). In whole epochs a 32-64 CNN then took 2 % (AVX-512) to
5 % (AVX2) less, but the default CNN 1 % and one of 5 x 5 kernels 12 % more. So the limits below stay.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Padding = Literal["valid", "same"]

_portable = contextvars.ContextVar("portable", default=False)

TILE_CHANNELS, TILE_SIDE = 16, 20  # tiles are faster for at most this D and at least this image side
WINOGRAD_PRODUCTS = 256  # Winograd's method is faster if C times D is at least this
CHUNK = 4  # images that one step of the sum in a depthwise gradient adds


def conv2d(images: Array, kernel: Array, padding: Padding = "valid", stride: int = 1) -> Array:
    """The cross-correlation of images (B, H, W, C) with a kernel (k, k, C, D): (B, H', W', D)."""
    images = _pad(images, kernel, padding)
    if not _for_cpu():
        return _conv_by_xla(images, kernel, stride)
    if stride > 1:
        return _conv_by_patches(images, kernel, stride)
    side, outputs = kernel.shape[0], kernel.shape[-1]
    height, width = images.shape[1] - side + 1, images.shape[2] - side + 1
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if _winograd_pays(kernel):
        return _join_tiles(_conv_by_winograd(images, kernel, rows, columns), height, width)
    if side > 1 and outputs <= TILE_CHANNELS and min(images.shape[1:3]) >= TILE_SIDE:
        return _join_tiles(_conv_by_tiles(images, kernel, rows, columns), height, width)
    return _conv_by_patches(images, kernel)


def conv2d_max_pool(images: Array, kernel: Array, padding: Padding = "valid") -> Array:
    """`max_pool(conv2d(images, kernel, padding))` over 2 x 2 squares: (B, H'//2, W'//2, D).

    Reverse-mode differentiable, once.
    """
    images = _pad(images, kernel, padding)
    if not _for_cpu():
        return max_pool(_conv_by_xla(images, kernel))
    side = kernel.shape[0]
    rows, columns = (images.shape[1] - side + 1) // 2, (images.shape[2] - side + 1) // 2
    convolve = _conv_by_winograd if _winograd_pays(kernel) else _conv_by_tiles
    return _highest(convolve(images, kernel, rows, columns))


def depthwise(images: Array, kernel: Array) -> Array:
    """Each channel of images (B, H, W, C) convolved with its own kernel (k, k, C), padded to (B, H, W, C).

    On CPU it is a sum of shifted images: inside a scan, a step on 64 images of 28 x 28 x 8 takes 4 ms so, and
    94 ms with XLA's convolution (7 x 7 x 32: 0.8 and 47 ms; an AMD EPYC). Reverse-mode differentiable, once.
    """
    side, _, channels = kernel.shape
    if _for_cpu():
        return _depthwise_by_shifts(images, kernel, (side - 1) // 2)
    padded = _pad(images, kernel, "same")
    return _conv_by_xla(padded, kernel.reshape(side, side, 1, channels), groups=channels)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """A context in which convolution is `lax.conv`, and `max_pool` one maximum, for exported programs."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def _for_cpu() -> bool:
    return jax.default_backend() == "cpu" and not _portable.get()


def _winograd_pays(kernel: Array) -> bool:
    side, _, channels, outputs = kernel.shape
    return side == 3 and channels * outputs >= WINOGRAD_PRODUCTS


def max_pool(images: Array) -> Array:
    """The maxima (B, H//2, W//2, C) over 2 x 2 squares of images (B, H, W, C); an odd edge is cropped.

    Equal maxima share the gradient. `reduce_window` is slow on CPU; the gradient of `jnp.max` compares the
    images with stored maxima, and is wrong or NaN where XLA computes either again with another rounding.
    """
    squares = _squares(images)
    if _portable.get():
        return squares.max(axis=(2, 4))  # no gradient of ours, whose operations not every format has
    squares = squares.transpose(2, 4, 0, 1, 3, 5)
    return _highest(squares.reshape(4, *squares.shape[2:]))


def average_pool(images: Array) -> Array:
    """The means (B, H//2, W//2, C) over 2 x 2 squares of images (B, H, W, C); an odd edge is cropped."""
    return _squares(images).mean(axis=(2, 4))


def _squares(images: Array) -> Array:
    batch, height, width, channels = images.shape
    rows, columns = height // 2, width // 2
    return images[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)


def _pad(images: Array, kernel: Array, padding: Padding) -> Array:
    if padding == "valid":
        return images
    before, after = (kernel.shape[0] - 1) // 2, kernel.shape[0] // 2
    return jnp.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))


def _conv_by_xla(images: Array, kernel: Array, stride: int = 1, groups: int = 1) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=axes, feature_group_count=groups
    )


def _conv_by_patches(images: Array, kernel: Array, stride: int = 1) -> Array:
    """The convolution as one product of two matrices; gradients of a product over three axes are slow."""
    patches = _patches(images, kernel.shape[0], stride)
    *places, size = patches.shape
    outputs = kernel.shape[-1]
    result = patches.reshape(math.prod(places), size) @ kernel.reshape(size, outputs)
    return result.reshape(*places, outputs)


def _patches(images: Array, side: int, stride: int) -> Array:
    """The k x k patches (B, H', W', k*k*C) of images (B, H, W, C), flattened in the kernel's order."""
    height, width = images.shape[1] - side + 1, images.shape[2] - side + 1
    slices = [
        images[:, i : i + height : stride, j : j + width : stride] for i in range(side) for j in range(side)
    ]
    return jnp.concatenate(slices, axis=-1)


def _fit_tiles(images: Array, kernel: Array, rows: int, columns: int) -> Array:
    """The images, cropped or padded to the pixels that R x S tiles of outputs depend on; even sides."""
    border = 2 * ((kernel.shape[0] + 2) // 2 - 1)
    height, width = 2 * rows + border, 2 * columns + border
    images = images[:, :height, :width]
    missing = ((0, 0), (0, height - images.shape[1]), (0, width - images.shape[2]), (0, 0))
    return jnp.pad(images, missing)


def _conv_by_tiles(images: Array, kernel: Array, rows: int, columns: int) -> Array:
    """The 2 x 2 outputs of each tile, (4, B, R, S, D), as one product over patches of (k + 1) x (k + 1).

    It takes more arithmetic in wider products, and 2.3 (k = 3) to 2.8 (k = 5) times less memory in patches.
    It is a convolution of side (k + 2) // 2 after groups of 2 x 2 pixels are moved to the channels.
    """
    images = _fit_tiles(images, kernel, rows, columns)
    batch, height, width, channels = images.shape
    side, outputs = kernel.shape[0], kernel.shape[-1]
    images = images.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)

    tiles = (side + 2) // 2  # 2 x 2 groups of inputs per tile of outputs, in each direction
    spare = 2 * tiles - side
    shifted = [
        jnp.pad(kernel, ((i, spare - i), (j, spare - j), (0, 0), (0, 0))) for i in range(2) for j in range(2)
    ]  # the kernel at the position of each of the four outputs
    kernel = jnp.stack(shifted, axis=3).reshape(tiles, 2, tiles, 2, channels, 4 * outputs)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(tiles, tiles, 4 * channels, 4 * outputs)

    result = _conv_by_patches(images.reshape(batch, height // 2, width // 2, 4 * channels), kernel)
    return jnp.moveaxis(result.reshape(batch, rows, columns, 4, outputs), 3, 0)


# Winograd's minimal filtering F(2 x 2, 3 x 3), equations 7 and 8 of Lavin and Gray (2016), for both
# directions at once: 16 products for four outputs, instead of 36 in a plain convolution.
_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
_INPUT, _KERNEL, _OUTPUT = (np.kron(matrix, matrix) for matrix in (_INPUT, _KERNEL, _OUTPUT))


def _conv_by_winograd(images: Array, kernel: Array, rows: int, columns: int) -> Array:
    """The 2 x 2 outputs of each tile, (4, B, R, S, D), by Winograd's method in matrix products."""
    images = _fit_tiles(images, kernel, rows, columns)
    batch, height, width, channels = images.shape
    outputs = kernel.shape[-1]
    phases = images.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(2, 4, 0, 1, 3, 5)
    count = batch * rows * columns
    pixels = [  # the 4 x 4 inputs of each tile
        phases[i % 2, j % 2, :, i // 2 : i // 2 + rows, j // 2 : j // 2 + columns].reshape(
            1, count * channels
        )
        for i in range(4)
        for j in range(4)
    ]
    inputs = jnp.matmul(_INPUT, jnp.concatenate(pixels)).reshape(16, count, channels)
    weights = jnp.matmul(_KERNEL, kernel.reshape(9, channels * outputs)).reshape(16, channels, outputs)
    products = lax.batch_matmul(inputs, weights).reshape(16, count * outputs)
    return jnp.matmul(_OUTPUT, products).reshape(4, batch, rows, columns, outputs)


def _join_tiles(tiles: Array, height: int, width: int) -> Array:
    """Tiles of 2 x 2 outputs (4, B, R, S, D) as images (B, height, width, D)."""
    _, batch, rows, columns, outputs = tiles.shape
    tiles = tiles.reshape(2, 2, batch, rows, columns, outputs).transpose(2, 3, 0, 4, 1, 5)
    return tiles.reshape(batch, 2 * rows, 2 * columns, outputs)[:, :height, :width]


@jax.custom_vjp
def _highest(tiles: Array) -> Array:
    """The maxima over the first axis, of length 4; equal maxima share the gradient."""
    return functools.reduce(jnp.maximum, tuple(tiles))


def _highest_forward(tiles: Array) -> tuple[Array, Array]:
    return _highest(tiles), tiles


def _highest_backward(tiles: Array, cotangent: Array) -> tuple[Array]:
    highest = _highest(tiles)
    hits = [tile == highest for tile in tiles]
    share = cotangent / functools.reduce(jnp.add, [hit.astype(cotangent.dtype) for hit in hits])
    return (jnp.stack([jnp.where(hit, share, 0) for hit in hits]),)


_highest.defvjp(_highest_forward, _highest_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_by_shifts(images: Array, kernel: Array, before: int) -> Array:
    """The depthwise convolution of images that are padded with so many pixels before their first one."""
    side, (height, width) = kernel.shape[0], images.shape[1:3]
    sides = (before, side - 1 - before)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
    kernel = kernel.reshape(side, side, 1, 1, 1, -1)
    shifted = (padded[:, i : i + height, j : j + width] * kernel[i, j] for i, j in np.ndindex(side, side))
    return functools.reduce(jnp.add, shifted)


def _depthwise_forward(images: Array, kernel: Array, before: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_by_shifts(images, kernel, before), (images, kernel)


def _depthwise_backward(before: int, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    images, kernel = residuals
    after = kernel.shape[0] - 1 - before
    to_images = _depthwise_by_shifts(cotangent, kernel[::-1, ::-1], after)
    return to_images, _depthwise_kernel_gradient(images, cotangent, (before, after))


def _depthwise_kernel_gradient(images: Array, cotangent: Array, sides: tuple[int, int]) -> Array:
    """The gradient (k, k, C). A scan over chunks of images adds whole rows of W times C numbers.

    XLA's sum over B, H and W reads one number at a time: 64 images of 14 x 14 take 4.6 ms with 32 channels,
    here 0.8 ms, and 1.5 and 0.3 ms with 12 (an AMD EPYC).
    """
    batch, height, width, channels = images.shape
    chunks, side = -(-batch // CHUNK), sum(sides) + 1
    spare = (0, chunks * CHUNK - batch)
    images = jnp.pad(images, (spare, sides, sides, (0, 0)))
    images = images.reshape(chunks, CHUNK, height + side - 1, (width + side - 1) * channels)
    cotangent = jnp.pad(cotangent, (spare, (0, 0), (0, 0), (0, 0)))
    cotangent = cotangent.reshape(chunks, CHUNK, height, width * channels)

    def add(sums: list[Array], chunk: tuple[Array, Array]) -> tuple[list[Array], None]:
        image, change = chunk
        for index, (i, j) in enumerate(np.ndindex(side, side)):
            rows = image[:, i : i + height, j * channels : (j + width) * channels]
            products = [rows[n] * change[n] for n in range(CHUNK)]
            sums[index] = functools.reduce(jnp.add, products, sums[index])
        return sums, None

    zeros = [jnp.zeros((height, width * channels), cotangent.dtype)] * side**2
    sums, _ = lax.scan(add, zeros, (images, cotangent))
    return jnp.stack(sums).reshape(side, side, height * width, channels).sum(2)


_depthwise_by_shifts.defvjp(_depthwise_forward, _depthwise_backward)
