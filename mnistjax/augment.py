"""Random changes of training images, drawn from a key on the device. An evaluation changes nothing.

Their strengths are numbers of the Hyper, so that another strength needs no new program. A strength of None is
absent: no code is traced for it. The last epochs of a run may leave the images unchanged, so that the network
and its batch statistics end on images like those that they will be used for.

B batch, H W image sides, C channels.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates

from mnistjax.checks import Check, check_value, optional, whole
from mnistjax.config import MOST_STEPS, ConfigError, unknown

LIMITS = {
    "rotation": 180.0,  # degrees, at most, either way
    "scaling": 0.9,  # share by which height and width each grow or shrink, at most
    "shear": 60.0,  # degrees that an upright line leans, at most, either way
    "shift": 28.0,  # pixels in each direction, at most
    "elastic": 28.0,  # pixels in each direction, root mean square
    "erasing": 1.0,  # share of the images that lose a rectangle
    "flip": 1.0,  # share of the images that are mirrored left to right
    "crop": 28.0,  # whole pixels in each direction, at most
}
# Pixels, sigma of the elastic field's autocorrelation: noise smoothed by 2.8; 4 in Simard et al. (2003).
SMOOTHNESS = 4.0
MOVES = 2**32 - 1  # stream of flips and crops; lower numbers would be keys that `split` makes, too
ERASED = 0.1, 0.4  # sides of the lost rectangle, shares of the image's: of 1 to 16 % of its area


def _strength(highest: float, *, pixels: bool) -> Check:
    def holds(x: Any) -> bool:
        number = isinstance(x, int | float | np.number) and type(x) is not bool and bool(0 <= x <= highest)
        return number and (not pixels or float(x).is_integer())

    kind = "whole number" if pixels else "number"
    return optional(Check(holds, f"a {kind} from 0 to {highest:g}"))


CHECKS = {option: _strength(highest, pixels=option == "crop") for option, highest in LIMITS.items()}
CHECKS["epochs"] = whole(0, None, highest=MOST_STEPS)  # the number of first epochs that change the images


def check_augmentation(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that are not None; ConfigError names the option, what was given and what is allowed."""
    for option, value in values.items():
        if option not in CHECKS:
            raise unknown("option of augment", option, CHECKS)
        check_value(f"augment.{option}", value, CHECKS[option])
    numbers = {option: float(value) for option, value in values.items() if value is not None}
    if [*numbers] == ["epochs"]:
        raise ConfigError(f"augment.epochs needs one of augment.{', augment.'.join(LIMITS)}; all are null")
    return numbers


def strengths(numbers: Mapping[str, Any], epoch: Any) -> dict[str, Any]:
    """The strengths in an epoch, counted from 0; they are 0 from the epoch `epochs` on."""
    on = epoch < numbers.get("epochs", math.inf)
    return {option: jnp.where(on, numbers[option], 0.0) for option in numbers if option != "epochs"}


def augment(numbers: Mapping[str, Any], key: Array, images: Array) -> Array:
    """Images (B, H, W, C) in [0, 1], each changed at random, in this order.

    Mirrored, moved by whole pixels; rotated, scaled, sheared, shifted and bent in one step; erased in part.
    """
    exact = numbers.keys() & {"flip", "crop"}
    if exact:
        images = flip_and_crop(numbers, jax.random.fold_in(key, MOVES), images)
    if exact == numbers.keys():
        return images
    one = functools.partial(_augment_one, numbers)
    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def flip_and_crop(numbers: Mapping[str, Any], key: Array, images: Array) -> Array:
    """Images (B, H, W, C), mirrored left to right and moved by whole pixels, black outside; exact.

    Moving is a random crop of the padded image, but needs no padding, whose size is traced. Rows and columns
    are chosen by products with zeros and ones: on a CPU XLA would put a gather into the convolution after it,
    and gather each pixel many times. A step of the default CNN, 7.7 ms, takes 0.5 ms more, else up to 1.2 ms.
    """
    count, height, width, _ = images.shape
    chance, *shares = jax.random.uniform(key, (3, count, 1), jnp.float32)
    most = jnp.floor(numbers.get("crop", 0.0))
    down, right = (jnp.floor(jnp.stack(shares) * (2 * most + 1)) - most).astype(jnp.int32)
    rows, columns = np.arange(height)[None] - down, np.arange(width)[None] - right  # (B, H), (B, W)
    columns = jnp.where(chance < numbers.get("flip", 0.0), width - 1 - columns, columns)
    pick = functools.partial(jax.nn.one_hot, dtype=jnp.float32)  # zeros for a place outside
    rows, columns = pick(rows, height), pick(columns, width)
    return jnp.einsum("bij,bjwc,bvw->bivc", rows, images, columns, precision="highest")


def _augment_one(numbers: Mapping[str, Any], key: Array, image: Array) -> Array:
    warp_key, erase_key = jax.random.split(key)
    if numbers.keys() - {"flip", "crop", "erasing"}:
        image = sample(image, source_places(numbers, warp_key, (image.shape[0], image.shape[1])))
    if "erasing" in numbers:
        image = erase(numbers["erasing"], erase_key, image)
    return image


def source_places(numbers: Mapping[str, Any], key: Array, sides: tuple[int, int]) -> Array:
    """The row and column (2, H, W) in an image from which each pixel of the changed image is taken."""
    affine_key, elastic_key = jax.random.split(key)
    turn, *rest, lean = jax.random.uniform(affine_key, (6,), jnp.float32, minval=-1)
    grow, move = (jnp.stack(pair).reshape(2, 1, 1) for pair in (rest[:2], rest[2:]))
    angle = jnp.deg2rad(numbers.get("rotation", 0.0)) * turn
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    center = np.array(sides, np.float32).reshape(2, 1, 1) / 2 - 0.5
    rows, columns = np.indices(sides).astype(np.float32) - center
    if "shear" in numbers:
        columns = columns + jnp.tan(jnp.deg2rad(numbers["shear"]) * lean) * rows
    places = jnp.stack([cos * rows - sin * columns, sin * rows + cos * columns])
    places = places / (1 + numbers.get("scaling", 0.0) * grow) + center + numbers.get("shift", 0.0) * move
    if "elastic" in numbers:
        places += numbers["elastic"] * smooth_noise(elastic_key, (2, *sides))
    return places


def smooth_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Random fields (..., H, W) of mean square 1 that vary over about SMOOTHNESS pixels.

    White noise on a coarse grid, spread by Gaussians: needs a tenth of the random numbers of a fine grid.
    """
    *some, height, width = shape
    rows, columns = _spread(height), _spread(width)
    noise = jax.random.normal(key, (*some, rows.shape[1], columns.shape[1]), jnp.float32)
    return jnp.einsum("hi,...ij,wj->...hw", rows, noise, columns)


def _spread(side: int) -> np.ndarray:
    """Gaussians (side, knots) around knots SMOOTHNESS / 1.5 pixels apart; the squares of a row sum to 1."""
    knots = np.linspace(0, side - 1, math.ceil(1.5 * side / SMOOTHNESS) + 1)
    weights = np.exp(-(((np.arange(side)[:, None] - knots) / SMOOTHNESS) ** 2))
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def sample(image: Array, places: Array) -> Array:
    """The image (H, W, C) at places (2, H, W), linear between pixels and 0 outside."""

    def channel(pixels: Array) -> Array:
        return map_coordinates(pixels, list(places), order=1, mode="constant")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def erase(share: Any, key: Array, image: Array) -> Array:
    """The image (H, W, C); with probability `share` it loses a rectangle, which may reach beyond the edge."""
    chance, *rest = jax.random.uniform(key, (5,), jnp.float32)
    inside = []
    for side, size, middle in zip(image.shape, rest[:2], rest[2:], strict=False):
        half = (ERASED[0] + (ERASED[1] - ERASED[0]) * size) / 2
        inside.append(jnp.abs((np.arange(side, dtype=np.float32) + 0.5) / side - middle) < half)
    lost = inside[0][:, None] & inside[1][None, :] & (chance < share)
    return jnp.where(lost[:, :, None], 0.0, image)
