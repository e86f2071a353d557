"""A model from the inside: the features that its last layer reads, and a table of its layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.summary import tabulate
from jax import Array

from mnistjax.backend import isolated
from mnistjax.config import ConfigError
from mnistjax.models.calls import trace_layers
from mnistjax.zoo.ensemble import Ensemble


def features(model: nn.Module, variables: Any, images: Array) -> Array:
    """The activations (B, F) from which a model's last layer makes the logits, for images (B, H, W, C).

    Works under `jit`, `vmap` and `grad`. ConfigError for an ensemble, which has a last layer in each member,
    and for a model whose logits are not the output of its last layer.
    """
    if isinstance(model, Ensemble):
        raise ConfigError("an ensemble has no last layer; load a model of one run")
    logits, layers = trace_layers(lambda: model.apply(variables, images))
    if not layers or layers[-1].output is not logits:
        raise ConfigError(f"the logits of a {type(model).__name__} are not the output of its last layer")
    return layers[-1].input


@isolated()
def summary(model: nn.Module, image_shape: tuple[int, int, int] = (28, 28, 1)) -> str:
    """A table of a model's layers for one image: shapes, XLA's count of operations, parameters."""
    image = jnp.zeros((1, *image_shape), jnp.uint8)
    options: dict[str, Any] = {"force_terminal": False, "width": 120}
    table = tabulate(model, jax.random.key(0), depth=1, compute_flops=True, console_kwargs=options)
    return table(image).strip("\n")
