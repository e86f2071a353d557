"""What several models have in common: images as floats, activations, checks of their options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from mnistjax.config import ConfigError, shorten, unknown
from mnistjax.ops import Padding

ACTIVATIONS = {
    "celu": nn.celu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "identity": lambda x: x,
    "leaky_relu": nn.leaky_relu,
    "relu": nn.relu,
    "selu": nn.selu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "softplus": nn.softplus,
    "softsign": nn.soft_sign,
    "tanh": nn.tanh,
}


LARGEST = 2**31 - 1  # what a size fits in; one that memory doesn't hold fails when it is allocated
MOST_LAYERS = 100  # each is traced and compiled by itself
HIGHEST = {"blocks": MOST_LAYERS, "convolutions": MOST_LAYERS, "depth": MOST_LAYERS, "kernel": 64}
CHOICES = {"activation": ACTIVATIONS, "padding": get_args(Padding)}  # of the options that are words


class Model(nn.Module):
    """A network whose options are checked when it is made: ConfigError where one is wrong.

    By their defaults: floats are shares of units to drop, whole numbers and lists of them sizes. Words are
    those of CHOICES.
    """

    num_classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            if field.name not in ("parent", "name"):
                _check(field.name, getattr(self, field.name), field.default)


def _check(option: str, value: Any, default: Any) -> None:
    if option in CHOICES:
        check_choice(option, value, CHOICES[option])
    elif type(default) is float:
        check_rate(option, value)
    elif type(default) in (int, tuple):
        check_sizes(option, value)


def to_float(images: Array) -> Array:
    """Images (B, H, W, C) as float32 in [0, 1]: whole numbers, uint8 say, divided by 255, floats as they are.

    ConfigError for another number of axes.
    """
    if images.ndim != 4:
        raise ConfigError(f"images must have the shape (B, H, W, C), (1, 28, 28, 1) say; got {images.shape}")
    floats = jnp.asarray(images, jnp.float32)
    return floats / 255 if jnp.issubdtype(images.dtype, jnp.integer) else floats


def flatten(x: Array) -> Array:
    """(B, ...) as (B, features); B may be 0, of which `reshape(B, -1)` makes nothing."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def hidden_layers(x: Array, widths: Sequence[int], activation: str, dropout: float, train: bool) -> Array:
    """A dense layer, an activation and dropout for each width: (B, features) to (B, widths[-1])."""
    for width in widths:
        x = ACTIVATIONS[activation](nn.Dense(width)(x))
        x = nn.Dropout(dropout, deterministic=not train)(x)
    return x


def check_choice(option: str, value: str, allowed: Iterable[str]) -> None:
    if value not in (names := list(allowed)):
        raise unknown(option, value, names)


def check_sizes(option: str, value: int | tuple[int, ...]) -> None:
    highest = HIGHEST.get(option, LARGEST)
    for size in value if isinstance(value, tuple) else (value,):
        if type(size) is not int or not 1 <= size <= highest:
            allowed = f"whole numbers of at least 1 and at most {highest}"
            raise ConfigError(f"{option} must be {allowed}; got {shorten(size)!r}")
    if isinstance(value, tuple):
        check_layers(option, len(value))


def check_layers(option: str, layers: int) -> None:
    if layers > MOST_LAYERS:
        raise ConfigError(f"{option} must make at most {MOST_LAYERS} layers; got {layers}")


def check_rate(option: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{option} must be a number from 0 up to, not including, 1; got {shorten(value)!r}")


def check_divides(option: str, part: int, name: str, whole: int) -> None:
    if whole % part:
        raise ConfigError(f"{option} must divide {name}, {whole}; got {part}")
