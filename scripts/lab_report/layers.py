"""The layers of a model, for the lab report's figure of an architecture."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnistjax.models import is_plain
from mnistjax.models.calls import trace_layers


@dataclass(frozen=True)
class Layer:
    """A top-level layer of a model."""

    name: str  # "Dense_0"
    kind: str  # "Dense"
    options: dict[str, Any]  # those that differ from their defaults, {"features": 128}
    shape: tuple[int, ...]  # of the output for one image
    parameters: int


def list_layers(module: nn.Module, image_shape: tuple[int, ...] = (28, 28, 1)) -> list[Layer]:
    """The layers of a model in the order of their calls, including layers that act only in training."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    variables, calls = trace_layers(lambda: jax.eval_shape(module.init, jax.random.key(0), image))
    params = variables.get("params", {})
    return [
        Layer(
            layer.path[0],
            type(layer).__name__,
            _changed_options(layer),
            output.shape[1:],
            sum(leaf.size for leaf in jax.tree.leaves(params.get(layer.path[0], {}))),
        )
        for layer, _, output in calls
    ]


def _changed_options(layer: nn.Module) -> dict[str, Any]:
    """The plain options of a layer whose values are not their defaults."""
    fields = [f for f in dataclasses.fields(layer) if f.init and f.name not in ("parent", "name")]
    changed = {f.name: getattr(layer, f.name) for f in fields if getattr(layer, f.name) != f.default}
    return {name: value for name, value in changed.items() if is_plain(value)}
