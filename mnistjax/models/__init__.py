"""Linen modules and the open table of their names.

B batch, H W image side, C channels, K classes. Every model maps images (B, H, W, C), uint8 or float in
[0, 1], to logits (B, K), or (B, 1) for a binary task. `train=True` switches on dropout and batch statistics.
"""

import dataclasses
import fnmatch
import functools
import importlib.metadata
import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import Array

from mnistjax.backend import isolated
from mnistjax.checks import TEXT, check_value, is_same_definition
from mnistjax.config import ConfigError, freeze, one_line, shorten, unknown
from mnistjax.models.calls import trace_layers
from mnistjax.models.convolutional import CNN, CNNBN, LeNet5, ResNet, Separable
from mnistjax.models.dense import MLP, Neuron
from mnistjax.models.layers import ACTIVATIONS as ACTIVATIONS
from mnistjax.models.layers import CHOICES, Model
from mnistjax.models.layers import to_float as to_float
from mnistjax.models.tokens import MLPMixer, ViT

MODELS: dict[str, type[nn.Module]] = {
    "cnn": CNN,
    "cnn_bn": CNNBN,
    "lenet5": LeNet5,
    "mlp": MLP,
    "mlp_mixer": MLPMixer,
    "neuron": Neuron,
    "resnet": ResNet,
    "separable": Separable,
    "vit": ViT,
}

MOST_PARAMETERS = 2**60  # more would overflow XLA's int64 sizes


def register_model(name: str, module: type[nn.Module]) -> None:
    """Adds a model to the table; ConfigError if another module has the name, and for one that is no model.

    The module's dataclass fields, each with a default, are its options. One of them must be `num_classes`,
    the number of logits per image. The module is called as `module(images, train=False)`. One that is defined
    again, in a notebook's cell, say, replaces its older version; runs of both have the same identity.
    """
    check_value("the name of a model", name, TEXT)
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise ConfigError(f"model {name}: a class of flax.linen.Module expected, got {shorten(module)!r}")
    if "num_classes" not in {field.name for field in dataclasses.fields(module)}:
        raise ConfigError(f"model {name}: its class needs a field num_classes, the logits per image")
    older = MODELS.get(name, module)
    if not is_same_definition(module, older):
        other = older.__qualname__
        raise ConfigError(f"a model named {name!r} is registered already: {other}; choose another name")
    if older is not module:
        jax.clear_caches()  # the older version's programs
    MODELS[name] = module


@functools.cache
def _load_entry_points() -> None:
    """Adds the models that installed packages declare in the entry-point group `mnistjax.models`."""
    for entry in importlib.metadata.entry_points(group="mnistjax.models"):
        try:
            register_model(entry.name, entry.load())
        except Exception as error:  # the code of others
            warnings.warn(f"the model {entry.name} is left out: {one_line(error)}", stacklevel=2)


def list_models(pattern: str = "*") -> list[str]:
    """The sorted names of the models that match a wildcard pattern.

    >>> list_models("*n*")
    ['cnn', 'cnn_bn', 'lenet5', 'neuron', 'resnet']
    """
    _load_entry_points()
    return sorted(fnmatch.filter(MODELS, pattern))


def find_model(name: str) -> type[nn.Module]:
    """The Linen module with this name; ConfigError, with the nearest name, if there is none."""
    if name not in list_models():
        raise unknown("model", name, MODELS)
    return MODELS[name]


def model_options(name: str) -> dict[str, Any]:
    """The options that a config can set, with their defaults: flags, numbers, words and lists."""
    return {option: default for option, default in _fields(name).items() if is_plain(default)}


def _fields(name: str) -> dict[str, Any]:
    fields = dataclasses.fields(find_model(name))
    return {f.name: f.default for f in fields if f.init and f.name not in ("num_classes", "parent", "name")}


def is_plain(value: Any) -> bool:
    """Whether a value is a flag, a number, a word, None, or a tuple of such."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, float, int, str)


def create_model(name: str, *, num_classes: int = 10, **options: Any) -> nn.Module:
    """A Linen module by name; ConfigError for an unknown name or option, or a wrong value.

    >>> create_model("mlp", hidden=64).hidden
    (64,)
    """
    fields = _fields(name)
    for option in options:
        if option not in fields:
            raise unknown(f"option of model {name}", option, fields)
    module = find_model(name)
    values = {option: _like(module, option, value, fields[option]) for option, value in options.items()}
    return module(num_classes=_native(num_classes), **values)


class Inside(NamedTuple):
    """What a module is made of."""

    variables: Mapping[str, tuple[int, ...]]  # their shapes by path: "params/Dense_0/kernel"
    head: str | None  # name of the layer whose output the logits are, if there is one
    logits: Any  # their shape for one image; None if they are no array

    @property
    def collections(self) -> set[str]:
        """The names of the collections of variables: "params", and perhaps "batch_stats"."""
        return {path.partition("/")[0] for path in self.variables}


@functools.lru_cache(256)  # a call takes 6 ms, and the jobs of a sweep share a few modules
@isolated()
def look_inside(module: nn.Module, image_shape: tuple[int, int, int] = (28, 28, 1)) -> Inside:
    """The variables and the head of a module.

    Raises ConfigError if the module has more than MOST_PARAMETERS, and the module's own error if it does not
    accept images of this shape (H, W, C).
    """
    image, head, shape = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8), None, None

    def init(key: Array, image: Array) -> Any:
        nonlocal head, shape
        (logits, variables), calls = trace_layers(lambda: module.init_with_output(key, image))
        head = calls[-1].layer.name if calls and calls[-1].output is logits else None
        shape = getattr(logits, "shape", None)
        return variables

    flat: Any = flatten_dict(jax.eval_shape(init, jax.random.key(0), image), sep="/")
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    count = sum(map(math.prod, shapes.values()))
    if count > MOST_PARAMETERS:
        raise ConfigError(f"a model of {count:.1e} parameters is too large; at most {MOST_PARAMETERS:.1e}")
    return Inside(shapes, head, shape)


def _native(value: Any) -> Any:
    """The value with Python numbers in place of NumPy's."""
    if isinstance(value, tuple):
        return tuple(map(_native, value))
    return value.item() if isinstance(value, np.generic) else value


_KINDS = {bool: "true or false", float: "a number", int: "a whole number", str: "a word", tuple: "a list"}


def _like(module: type[nn.Module], option: str, value: Any, default: Any) -> Any:
    """`value` with the type of the option's default: 64 becomes (64,), a list a tuple, 0 becomes 0.0."""
    try:
        like = freeze(value)
    except RecursionError:
        raise ConfigError(f"{option} must not be lists nested so deeply") from None
    if default is None or not is_plain(default):
        return like
    like = _native(like)
    if option == "standardize" and issubclass(module, Model):
        check_value(option, like, CHOICES[option])
        return like if isinstance(like, bool) else tuple(tuple(map(float, part)) for part in like)
    if isinstance(default, tuple) and not isinstance(like, tuple):
        like = (like,)
    if isinstance(default, float) and type(like) is int and abs(like) < 2**53:
        like = float(like)
    if type(like) is not type(default):
        allowed = f"{_KINDS[type(default)]}, like {default!r}"
        raise ConfigError(f"{option} must be {allowed}; got {shorten(value)!r}")
    return like
