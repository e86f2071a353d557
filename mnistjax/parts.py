"""The parts of a model that are trained: `train.freeze` and the head's own learning rate."""

import fnmatch
import functools
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import optax
from flax import linen as nn

from mnistjax.config import ConfigError, Spec, shorten, unknown
from mnistjax.models import create_model, look_inside


def train_parts(
    spec: Spec, optimizer: optax.GradientTransformation, head_factor: Any = None
) -> optax.GradientTransformation:
    """An optimizer that leaves frozen parameters as they are, with a factor for the steps of the head."""
    if head_factor is not None:
        model = create_model(spec.model, num_classes=spec.num_classes, **dict(spec.model_options))
        head = look_inside(model, spec.image_shape).head
        in_head = functools.partial(map_paths, lambda path: path[0] == head)
        optimizer = optax.chain(optimizer, optax.masked(optax.scale(head_factor), in_head))
    if not spec.freeze:
        return optimizer
    # A frozen parameter has no moments, and counts in no norm.
    parts: dict[Hashable, Any] = {True: optax.set_to_zero(), False: optimizer}
    return optax.partition(parts, functools.partial(map_paths, functools.partial(is_frozen, spec)))


def map_paths(function: Callable[[tuple[str, ...]], bool], params: Any) -> Any:
    """A tree like `params` with a function of each parameter's path, ("Dense_0", "kernel")."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(tuple(key.key for key in path)), params)


def is_frozen(spec: Spec, path: Sequence[str]) -> bool:
    """Whether a pattern of the Spec matches the path of a parameter, or of a layer that contains it."""
    names = ["/".join(path[: depth + 1]) for depth in range(len(path))]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in spec.freeze)


def keep_statistics(spec: Spec) -> AbstractContextManager[Any]:
    """A context in which a batch normalisation that is frozen uses its running statistics, and keeps them."""
    return nn.intercept_methods(functools.partial(_call, spec)) if spec.freeze else nullcontext()


def _call(
    spec: Spec, call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
) -> Any:
    layer = context.module
    if isinstance(layer, nn.BatchNorm) and is_frozen(spec, layer.path):
        object.__setattr__(layer, "use_running_average", None)  # else Flax refuses the argument
        args, kwargs = args[:1], {**kwargs, "use_running_average": True}
    return call(*args, **kwargs)


def check_parts(spec: Spec, model: nn.Module) -> None:
    """ConfigError if a frozen part is unknown, if all are frozen, or if there is no head for a factor."""
    inside = look_inside(model, spec.image_shape)
    paths = [path.removeprefix("params/") for path in inside.variables if path.startswith("params/")]
    names = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 2)}
    for pattern in spec.freeze:
        if not fnmatch.filter(names, pattern):
            layers = [name for name in names if name not in paths]
            raise unknown(f"part of {spec.model} in train.freeze", pattern, layers or names)
    if all(is_frozen(spec, path.split("/")) for path in paths):
        raise ConfigError(
            f"train.freeze={shorten(list(spec.freeze))} leaves nothing of {spec.model} to train"
        )
    if "optimizer.head_factor" in spec.hyper_names and inside.head is None:
        raise ConfigError(
            f"optimizer.head_factor: the logits of {spec.model} are not the output of its last layer"
        )
