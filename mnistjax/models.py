"""Linen modules and the open table of their names.

B batch, H W image side, C channels, K classes. Every model maps images (B, H, W, C), uint8 or float
in [0, 1], to logits (B, K), or (B, 1) for a binary task, and takes `train=True` for dropout and the like.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib.metadata
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from mnistjax.config import ConfigError, freeze, unknown
from mnistjax.ops import Padding, conv2d, conv2d_max_pool

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


class Neuron(nn.Module):
    """One linear layer, 784 -> K: the report's single neuron (equation 9), softmax regression for K > 1."""

    cpu_micro_batch: ClassVar[int] = 128  # images; a 48,000 batch takes 13 ms so, 85 ms in one piece

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = to_float(images).reshape(len(images), -1)  # (B, H*W*C)
        return nn.Dense(self.num_classes)(x)


class MLP(nn.Module):
    """Dense layers of the given widths, each with an activation and dropout, then a linear layer."""

    num_classes: int = 10
    hidden: tuple[int, ...] = (512,)
    activation: str = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)
        check_sizes(hidden=self.hidden)
        check_rate("dropout", self.dropout)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = to_float(images).reshape(len(images), -1)  # (B, H*W*C)
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](nn.Dense(width)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)


class ConvBlock(nn.Module):
    """`convolutions` times (convolution, bias, activation), with 2 x 2 max-pooling before the last bias.

    Pooling first gives the same numbers for every monotonic activation and leaves a quarter of the work.
    """

    channels: int
    kernel: int
    convolutions: int
    padding: Padding
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for index in range(self.convolutions):
            shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
            kernel = self.param(f"kernel_{index}", nn.initializers.he_normal(), shape)
            convolve = conv2d_max_pool if index == self.convolutions - 1 else conv2d
            x = convolve(x, kernel, self.padding)  # the last (B, H/2, W/2, channels)
            bias = self.param(f"bias_{index}", nn.initializers.zeros, (self.channels,))
            x = ACTIVATIONS[self.activation](x + bias.reshape(1, 1, 1, -1))
        return x


class CNN(nn.Module):
    """A block of convolutions and pooling for each of `channels`, then an MLP: the report's system D."""

    cpu_micro_batch: ClassVar[int] = 16  # images; the intermediates of more leave the cache of a core

    num_classes: int = 10
    channels: tuple[int, ...] = (8, 32)
    kernel: int = 3
    convolutions: int = 2
    padding: Padding = "valid"
    hidden: tuple[int, ...] = (128,)
    activation: str = "relu"
    dropout: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("padding", self.padding, get_args(Padding))
        check_sizes(
            channels=self.channels, hidden=self.hidden, kernel=self.kernel, convolutions=self.convolutions
        )
        check_rate("dropout", self.dropout)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = to_float(images)  # (B, H, W, C)
        lost = self.convolutions * (self.kernel - 1) if self.padding == "valid" else 0  # pixels a block
        for channels in self.channels:
            if min(x.shape[1:3]) - lost < 2:  # nothing left to pool
                raise ConfigError(
                    f"channels: {len(self.channels)} blocks are too many for images of {images.shape[1]} x "
                    f"{images.shape[2]} (kernel {self.kernel}, padding {self.padding})"
                )
            x = ConvBlock(channels, self.kernel, self.convolutions, self.padding, self.activation)(x)
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](nn.Dense(width)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)


MODELS: dict[str, type[nn.Module]] = {"cnn": CNN, "mlp": MLP, "neuron": Neuron}


def register_model(name: str, module: type[nn.Module]) -> None:
    """Adds a row to the table of models; ValueError if the name is taken by another module.

    The module's dataclass fields, each with a default, are its options; `num_classes`, which it must
    have, is the number of logits per image. It is called as `module(images, train=False)`.
    """
    if MODELS.get(name, module) is not module:
        raise ValueError(f"a model named {name!r} is registered already: {MODELS[name].__qualname__}")
    MODELS[name] = module


@functools.cache
def _load_entry_points() -> None:
    """Adds the rows that installed packages declare under the entry-point group `mnistjax.models`."""
    for entry in importlib.metadata.entry_points(group="mnistjax.models"):
        register_model(entry.name, entry.load())


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a wildcard pattern, sorted.

    >>> list_models("*n*")
    ['cnn', 'neuron']
    """
    _load_entry_points()
    return sorted(fnmatch.filter(MODELS, pattern))


def find_model(name: str) -> type[nn.Module]:
    """The Linen module of that name; ConfigError names the nearest."""
    if name not in list_models():
        raise unknown("model", name, MODELS)
    return MODELS[name]


def model_options(name: str) -> dict[str, Any]:
    """The options of a model that a config can set, with their defaults: flags, numbers, words, lists."""
    return {option: default for option, default in _fields(name).items() if _is_plain(default)}


def _fields(name: str) -> dict[str, Any]:
    fields = dataclasses.fields(find_model(name))
    return {f.name: f.default for f in fields if f.init and f.name not in ("num_classes", "parent", "name")}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, float, int, str)


def create_model(name: str, *, num_classes: int = 10, **options: Any) -> nn.Module:
    """A Linen module from the table; ConfigError for an unknown name or option, or a wrong value.

    >>> create_model("mlp", hidden=64).hidden
    (64,)
    """
    fields = _fields(name)
    for option in options:
        if option not in fields:
            raise unknown(f"option of model {name}", option, fields)
    values = {option: _like(option, value, fields[option]) for option, value in options.items()}
    return find_model(name)(num_classes=num_classes, **values)


@functools.lru_cache(256)  # 6 ms for a module, and the jobs of a sweep have few
def list_collections(module: nn.Module) -> frozenset[str]:
    """The names of a module's variables for 28 x 28 images: "params", and "batch_stats", say.

    ConfigError, or what the module raises, where such images do not fit it.
    """
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.uint8)
    return frozenset(jax.eval_shape(module.init, jax.random.key(0), image))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module at the top of a model, as an image passes through it."""

    name: str  # "Dense_0"
    kind: str  # "Dense"
    options: dict[str, Any]  # those that are not at their default, {"features": 128}
    shape: tuple[int, ...]  # of its output for one image
    parameters: int


def list_layers(module: nn.Module, image_shape: tuple[int, ...] = (28, 28, 1)) -> list[Layer]:
    """The layers of a model in the order of an image's way; those that do nothing in evaluation, too."""
    calls: list[tuple[nn.Module, tuple[int, ...]]] = []

    def record(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and len(context.module.path) == 1:
            calls.append((context.module, output.shape[1:]))
        return output

    with nn.intercept_methods(record):
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
        params = jax.eval_shape(module.init, jax.random.key(0), image).get("params", {})
    return [
        Layer(
            layer.path[0],
            type(layer).__name__,
            {name: value for name in _own(layer) if _is_plain(value := getattr(layer, name))},
            shape,
            sum(leaf.size for leaf in jax.tree.leaves(params.get(layer.path[0], {}))),
        )
        for layer, shape in calls
    ]


def _own(layer: nn.Module) -> list[str]:
    """The names of a module's fields that are not at their default."""
    fields = [field for field in dataclasses.fields(layer) if field.name not in ("parent", "name")]
    return [field.name for field in fields if field.init and getattr(layer, field.name) != field.default]


def _like(option: str, value: Any, default: Any) -> Any:
    """`value` in the type of the option's default: an int is a list of one, a list a tuple, 0 a float."""
    if default is None or not _is_plain(default):
        return value
    value = freeze(value)
    if isinstance(default, tuple) and not isinstance(value, tuple):
        value = (value,)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise ConfigError(f"{option} must be a {type(default).__name__}, like {default!r}; got {value!r}")
    return value


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
