"""A trained model for programs that do not have this package: StableHLO, ONNX, a Flax NNX module."""

from __future__ import annotations

import logging
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge
from jax import Array
from jax import export as jax_export

from mnistjax.config import ConfigError, unknown
from mnistjax.ops import portable

PLATFORMS = ("cpu", "cuda", "tpu")
FORMATS = ("stablehlo", "onnx")


def export(
    model: nn.Module,
    variables: Any,
    format: Literal["stablehlo", "onnx"] = "stablehlo",
    *,
    image_shape: tuple[int, int, int] = (28, 28, 1),
) -> bytes:
    """The model with its variables as a file's content: images (B, H, W, C) to logits (B, K), for any B.

    `stablehlo` takes uint8 images, on CPU, CUDA and TPU; what `jax.export.deserialize(bytearray(content))`
    gives has a `call(images)`. `onnx` takes float32 images in [0, 1]; it needs `mnistjax[onnx]`. Convolutions
    are those of the format, not our products for CPU. ConfigError for another format, or without that.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)

    def logits(images: Array) -> Array:
        with portable():
            return cast(Array, model.apply(variables, images))

    if format == "onnx":
        return _to_onnx(logits, image_shape)
    shape = (*jax_export.symbolic_shape("b"), *image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return bytes(jax_export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize())


def _to_onnx(logits: Any, image_shape: tuple[int, int, int]) -> bytes:
    try:
        from jax2onnx import to_onnx
    except ImportError:
        raise ConfigError("ONNX needs jax2onnx: pip install 'mnistjax[onnx]'") from None
    logging.getLogger("onnx_ir.serde").setLevel(logging.ERROR)  # it warns of shapes that are no lack
    return to_onnx(logits, [("B", *image_shape)], model_name="mnistjax").SerializeToString()


def to_nnx(
    model: nn.Module, variables: Any, *, image_shape: tuple[int, int, int] = (28, 28, 1)
) -> bridge.ToNNX:
    """The model with its variables as a Flax NNX module, by Flax's own bridge: `module(images)` are logits.

    It trains as one, too: `module(images, train=True, mutable=["batch_stats"])` updates what it carries.
    """
    module = bridge.ToNNX(model, rngs=nnx.Rngs(0))
    module.lazy_init(jnp.zeros((1, *image_shape), jnp.uint8))
    for name, value in bridge.variables.linen_vars_to_nnx_attrs(variables).items():
        setattr(module, name, nnx.data(value))
    return module
