"""A trained model as a list of plain operations, from its jaxpr, for programs that are not in Python.

The operations are those of JAX (`jax.lax`), with their attributes as lists and numbers. What depends on no
image is computed here.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import core

from mnistjax.backend import isolated
from mnistjax.config import ConfigError, to_plain
from mnistjax.metrics import probabilities
from mnistjax.ops import portable
from mnistjax.zoo.card import Card

BODIES = {  # of the primitives that only call one, its parameter
    **dict.fromkeys(("jit", "pjit", "checkpoint", "remat2"), "jaxpr"),
    **dict.fromkeys(("closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
IMAGE = "image"  # name of the input


def _conv(own: Mapping[str, Any]) -> dict[str, Any]:
    if own["batch_group_count"] != 1 or {*own["lhs_dilation"]} != {1} or len(own["window_strides"]) != 2:
        raise ConfigError(
            "a page can't compute a transposed convolution, or one of other than two dimensions"
        )
    images, kernels, out = own["dimension_numbers"]
    return {
        "images": [images[0], *images[2:], images[1]],  # as (B, H, W, C)
        "kernels": [*kernels[2:], kernels[1], kernels[0]],  # as (h, w, C, D)
        "out": np.argsort([out[0], *out[2:], out[1]]).tolist(),
        "strides": own["window_strides"],
        "padding": own["padding"],
        "dilation": own["rhs_dilation"],
        "groups": own["feature_group_count"],
    }


def _windows(own: Mapping[str, Any]) -> dict[str, Any]:
    if {*own["base_dilation"], *own["window_dilation"]} != {1}:
        raise ConfigError("a page can't compute windows with gaps")
    window, strides, padding = (own[name] for name in ("window_dimensions", "window_strides", "padding"))
    return {"window": window, "strides": strides, "padding": padding}


def _slice(own: Mapping[str, Any]) -> dict[str, Any]:
    strides = own["strides"] or [1] * len(own["start_indices"])
    return {"start": own["start_indices"], "limit": own["limit_indices"], "strides": strides}


SIMPLE = (
    "abs add add_any and ceil clamp copy cos div eq erf exp expand_dims expm1 floor ge gt is_finite le log "
    "log1p logistic lt max min mul ne neg not or pow reshape rsqrt select_n sign sin sqrt square squeeze "
    "stop_gradient sub tanh"
)
OPERATIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    **dict.fromkeys(SIMPLE.split(), lambda own: {}),
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_sum"), lambda own: {"axes": own["axes"]}),
    "broadcast_in_dim": lambda own: {"axes": own["broadcast_dimensions"]},
    "concatenate": lambda own: {"axis": own["dimension"]},
    "conv_general_dilated": _conv,
    "convert_element_type": lambda own: {"whole": np.issubdtype(own["new_dtype"], np.integer)},
    "dot_general": lambda own: dict(zip(("contract", "batch"), own["dimension_numbers"], strict=True)),
    "integer_pow": lambda own: {"power": own["y"]},
    "pad": lambda own: {"sides": own["padding_config"]},
    "reduce_window_max": _windows,
    "reduce_window_sum": _windows,
    "slice": _slice,
    "stack": lambda own: {"axis": own["axis"]},
    "transpose": lambda own: {"order": own["permutation"]},
}
"""Makes the attributes of an operation, as an interpreter reads them, from those of its primitive."""


@isolated()
def trace_operations(model: nn.Module, variables: Any, card: Card) -> dict[str, Any]:
    """The program that computes the logits (1, K) and the probabilities of one float image (1, H, W, C).

    It has the `operations`, each [name, inputs, output, attributes]; the `constants` by name, as shape and
    base64 of little-endian float32; the shape of the `image`, and the names of the two `outputs`. An input is
    a name or a number. ConfigError for a model with an operation that is not in OPERATIONS.
    """

    def outputs(image: jax.Array) -> Any:
        with portable():
            logits = model.apply(variables, image)
        return logits, probabilities(card.task, jnp.asarray(logits))

    shape = (1, *card.image_shape)
    closed = jax.make_jaxpr(outputs)(jnp.zeros(shape, jnp.float32))
    tracer = _Tracer(card.model)
    names = tracer.walk(closed.jaxpr, closed.consts, [IMAGE])
    return {
        "image": shape,
        "outputs": [tracer.name(value) for value in names],
        "operations": tracer.operations,
        "constants": tracer.constants,
    }


class _Tracer:
    """The operations found so far. A value is the name of what depends on the image, or a constant array."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.operations: list[list[Any]] = []
        self.constants: dict[str, list[Any]] = {}
        self._known: dict[int, tuple[str, Any]] = {}  # the names of constants, which are kept alive here

    def walk(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Adds the operations of a jaxpr, and returns the values of its outputs."""
        values: dict[Any, Any] = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True)
        )

        def read(place: Any) -> Any:
            return place.val if isinstance(place, core.Literal) else values[place]

        for equation in jaxpr.eqns:
            given = [read(place) for place in equation.invars]
            results = self._compute(equation, given)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(place) for place in jaxpr.outvars]

    def _compute(self, equation: Any, given: Sequence[Any]) -> list[Any]:
        primitive, own = equation.primitive, equation.params
        if primitive.name in BODIES:
            body = own[BODIES[primitive.name]]
            return self.walk(getattr(body, "jaxpr", body), getattr(body, "consts", ()), given)
        if not any(isinstance(value, str) for value in given):
            found = primitive.bind(*given, **own)
            return list(found) if primitive.multiple_results else [found]
        if primitive.name not in OPERATIONS:
            raise ConfigError(f"a page can't compute {primitive.name}, which this {self._model} needs")
        (out,) = equation.outvars
        attributes = to_plain(OPERATIONS[primitive.name](own) | {"shape": out.aval.shape})
        name = f"v{len(self.operations)}"
        self.operations.append([primitive.name, [self._input(value) for value in given], name, attributes])
        return [name]

    def _input(self, value: Any) -> str | float:
        """A value as an input: a finite number of no axes is written as such."""
        if not isinstance(value, str) and np.ndim(value) == 0 and np.isfinite(value):
            return float(value)
        return self.name(value)

    def name(self, value: Any) -> str:
        """The name of a value; a constant gets one when it is first used."""
        if isinstance(value, str):
            return value
        if id(value) not in self._known:
            name = f"c{len(self.constants)}"
            array = np.asarray(value).astype("<f4")
            self.constants[name] = [array.shape, base64.b64encode(array.tobytes()).decode()]
            self._known[id(value)] = name, value
        return self._known[id(value)][0]
