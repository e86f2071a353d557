"""Shared parts of the models: images as floats, activations, dense layers, checks of options."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from mnistjax import checks
from mnistjax.checks import Check, check_value
from mnistjax.config import ConfigError
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

LARGEST = 2**31 - 1  # the largest size that fits in 32 bits; allocation fails long before
MOST_LAYERS = 100  # each is traced and compiled separately
HIGHEST = {**dict.fromkeys(("blocks", "convolutions", "depth", "repeats"), MOST_LAYERS), "kernel": 64}
Standard = tuple[tuple[float, ...], tuple[float, ...]]
"""The means and the deviations of C channels."""


def _is_standard(value: Any) -> bool:
    """Whether a value is a flag or a Standard."""
    if type(value) is not tuple:
        return type(value) is bool
    if len(value) != 2 or any(type(part) is not tuple or len(part) != len(value[0]) for part in value):
        return False
    numbers = all(type(x) in (int, float) and abs(x) <= 1e30 for part in value for x in part)
    return numbers and len(value[0]) > 0 and min(value[1]) >= 1e-6


CHOICES = {
    "activation": checks.choice(*ACTIVATIONS),
    "padding": checks.choice(*get_args(Padding)),
    "standardize": Check(
        _is_standard, "true, false, or the channels' means and deviations >= 1e-6, such as [[0.13], [0.31]]"
    ),
}
RATE = Check(lambda x: isinstance(x, (int, float)) and 0 <= x < 1, "a number >= 0 and < 1")


class Model(nn.Module):
    """A network that checks its options when it is made; ConfigError for a wrong one.

    The type of an option's default decides: a float is a dropout rate, an integer or a tuple is one or more
    sizes. Others have their check in CHOICES.
    """

    num_classes: int = 10
    standardize: bool | Standard = False  # `make_plan` takes the numbers for True from the training images

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            if field.name not in ("parent", "name"):
                _check(field.name, getattr(self, field.name), type(field.default))

    @nn.nowrap
    def read(self, images: Array) -> Array:
        """Images (B, H, W, C) as float32, in [0, 1], or with mean 0 and deviation 1 over the training images.

        ConfigError for another number of axes or channels, and while the numbers are unknown.
        """
        x = to_float(images)
        if self.standardize is False:
            return x
        if self.standardize is True:
            raise ConfigError(
                "standardize=true has no numbers: make_plan takes them from the training images; else give "
                "the channels' means and deviations, such as standardize=((0.13,), (0.31,))"
            )
        means, deviations = (np.array(part, np.float32).reshape(1, 1, 1, -1) for part in self.standardize)
        if means.size != x.shape[-1]:
            raise ConfigError(
                f"standardize must have as many means as the images have channels, {x.shape[-1]}; "
                f"got {means.size}"
            )
        return (x - means) / deviations


def _check(option: str, value: Any, kind: type) -> None:
    """Raises ConfigError for a wrong value of an option whose default is of this type."""
    if option in CHOICES:
        check_value(option, value, CHOICES[option])
    elif kind is float:
        check_value(option, value, RATE)
    elif kind in (int, tuple):
        size = checks.whole(1, highest=HIGHEST.get(option, LARGEST))
        for item in value if isinstance(value, tuple) else (value,):
            check_value(option, item, size)
        if isinstance(value, tuple):
            check_layers(option, len(value))


def check_layers(option: str, layers: int) -> None:
    """Raises ConfigError if an option makes too many layers."""
    if layers > MOST_LAYERS:
        raise ConfigError(f"{option} must make at most {MOST_LAYERS} layers; got {layers}")


def to_float(images: Array) -> Array:
    """Images (B, H, W, C) as float32 in [0, 1]: integers are divided by 255, floats are unchanged.

    ConfigError for another number of axes.
    """
    if images.ndim != 4:
        raise ConfigError(f"images must have the shape (B, H, W, C), like (1, 28, 28, 1); got {images.shape}")
    floats = jnp.asarray(images, jnp.float32)
    return floats / 255 if jnp.issubdtype(images.dtype, jnp.integer) else floats


def flatten(x: Array) -> Array:
    """(B, ...) as (B, features); `reshape(B, -1)` would fail for B = 0."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def hidden_layers(x: Array, widths: Sequence[int], activation: str, dropout: float, train: bool) -> Array:
    """The output (B, widths[-1]) of a dense layer, an activation and dropout for each width."""
    for width in widths:
        x = ACTIVATIONS[activation](nn.Dense(width)(x))
        x = nn.Dropout(dropout, deterministic=not train)(x)
    return x
