"""Converts a trained model for programs without this package: StableHLO, ONNX, a Flax NNX module."""

import logging
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.errors import ScopeParamShapeError
from flax.nnx import bridge
from jax import Array
from jax import export as jax_export

from mnistjax.backend import isolated
from mnistjax.config import ConfigError, unknown
from mnistjax.ops import portable

PLATFORMS = ("cpu", "cuda", "tpu")
FORMATS = ("stablehlo", "onnx")


@isolated()
def export(
    model: nn.Module,
    variables: Any,
    format: Literal["stablehlo", "onnx"] = "stablehlo",
    *,
    image_shape: tuple[int, int, int] = (28, 28, 1),
) -> bytes:
    """The model with its variables as the content of a file: images (B, H, W, C) to logits (B, K), for any B.

    `stablehlo` takes uint8 images, on CPU, CUDA and TPU; `jax.export.deserialize(bytearray(content))` has a
    method `call(images)`. JAX promises to read such a file for six months. `onnx` takes float32 images in
    [0, 1] and needs `mnistjax[onnx]`. Both have the format's own convolutions instead of our matrix products
    for CPUs. `image_shape` is (H, W, C), that of the card. ConfigError for another format, for a shape that
    does not fit the model, or if `mnistjax[onnx]` is missing.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)

    def logits(images: Array) -> Array:
        with portable():
            return cast(Array, model.apply(variables, images))

    try:
        jax.eval_shape(logits, jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8))
    except ScopeParamShapeError:  # jax2onnx would write a file that no program can load
        own = "give that of its images, card.image_shape"
        raise ConfigError(f"image_shape={image_shape} does not fit the model; {own}") from None
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
    logging.getLogger("onnx_ir.serde").setLevel(logging.ERROR)  # warns of missing shapes that nobody needs
    with jax.disable_jit():  # on JAX 0.12, jax2onnx 0.17 fails at a jitted function inside
        return to_onnx(logits, [("B", *image_shape)], model_name="mnistjax").SerializeToString()


@isolated()
def to_nnx(
    model: nn.Module, variables: Any, *, image_shape: tuple[int, int, int] = (28, 28, 1)
) -> bridge.ToNNX:
    """The model with its variables as a Flax NNX module, by Flax's bridge: `module(images)` are logits.

    It can be trained: `module(images, train=True, mutable=["batch_stats"])` updates its batch statistics.
    """
    module = bridge.ToNNX(model, rngs=nnx.Rngs(0))
    module.lazy_init(jnp.zeros((1, *image_shape), jnp.uint8))
    for name, value in bridge.variables.linen_vars_to_nnx_attrs(variables).items():
        setattr(module, name, nnx.data(value))
    return module
