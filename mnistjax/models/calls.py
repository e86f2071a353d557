"""The calls of a model's layers, and which layer is its head."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn


class LayerCall(NamedTuple):
    """A call of a layer, with its first argument and its output."""

    layer: nn.Module
    input: Any
    output: Any


def trace_layers(function: Callable[[], Any]) -> tuple[Any, list[LayerCall]]:
    """A function's result, and the calls of a model's top-level layers during it, in their order."""
    calls: list[LayerCall] = []

    def record(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and len(context.module.path) == 1:
            calls.append(LayerCall(context.module, args[0] if args else None, output))
        return output

    with nn.intercept_methods(record):
        return function(), calls
