"""What several models have in common: images as floats, activations, checks of their options."""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from mnistjax.config import ConfigError, unknown

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


def to_float(images: Array) -> Array:
    """Images as float32 in [0, 1]: uint8 divided by 255, floats as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else jnp.asarray(images, jnp.float32)


def check_choice(option: str, value: str, allowed: Iterable[str]) -> None:
    if value not in (names := list(allowed)):
        raise unknown(option, value, names)


def check_sizes(**sizes: int | tuple[int, ...]) -> None:
    for option, value in sizes.items():
        for size in value if isinstance(value, tuple) else (value,):
            if type(size) is not int or size < 1:
                raise ConfigError(f"{option} must be whole numbers of at least 1; got {size!r}")


def check_rate(option: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{option} must be a number from 0 up to, not including, 1; got {value!r}")


def check_divides(option: str, part: int, name: str, whole: int) -> None:
    if whole % part:
        raise ConfigError(f"{option} must divide {name}, {whole}; got {part}")
