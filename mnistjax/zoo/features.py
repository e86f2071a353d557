"""What a model looks like inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.summary import tabulate
from jax import Array

from mnistjax.config import ConfigError
from mnistjax.zoo.ensemble import Ensemble


def features(model: nn.Module, variables: Any, images: Array) -> Array:
    """The activations (B, F) that a model's last layer turns into logits, of images (B, H, W, C).

    Safe under `jit`, `vmap` and `grad`. ConfigError for an ensemble, which has a last layer in each member,
    and for a model whose logits are not what its last layer returns.
    """
    if isinstance(model, Ensemble):
        raise ConfigError("an ensemble has no last layer of its own; load a model of one run")
    last: list[Any] = [None, None]  # what the last layer took and returned

    def take(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and len(context.module.path) == 1:
            last[:] = *args[:1], output
        return output

    with nn.intercept_methods(take):
        logits = model.apply(variables, images)
    if last[-1] is not logits:
        raise ConfigError(f"a {type(model).__name__}'s logits are not what its last layer returns")
    return last[0]


def summary(model: nn.Module, image_shape: tuple[int, int, int] = (28, 28, 1)) -> str:
    """A table of a model's layers for one image: shapes, floating-point operations as XLA counts them,
    parameters."""
    image = jnp.zeros((1, *image_shape), jnp.uint8)
    options: dict[str, Any] = {"force_terminal": False, "width": 120}
    table = tabulate(model, jax.random.key(0), depth=1, compute_flops=True, console_kwargs=options)
    return table(image).strip("\n")
