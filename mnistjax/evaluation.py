"""Evaluation of many images: sums over blocks of them, each image counted once; class probabilities, tests.

N images of (H, W) or (H, W, C), S shards of them, W lanes, K classes.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jaxtyping import Float32, Int32, Shaped, UInt8

from mnistjax.backend import isolated
from mnistjax.batches import PADDING, slice_rows
from mnistjax.config import Spec
from mnistjax.devices import (
    SAME,
    SHARDS,
    SPLIT,
    add_shards,
    count_shards,
    over_lanes,
    over_shards,
    place,
    shard_mesh,
)
from mnistjax.metrics import Sums, area_under_curve, batch_sums, probabilities, summarize, zero_sums
from mnistjax.step import Batch, build_model

BLOCK_ROWS = 500  # images per block of an evaluation, at most
CACHED_ROWS = 16  # at least; a ViT, which trains one image at a time, takes 1.25 times as long with fewer
PREDICT_ROWS = 2000  # images per call, at most; their number is part of the program

# Makes XLA's own loops 7 to 20 % faster on a CPU with AVX-512 (an MLP of 64, a neuron); others ignore it.
WIDE = {"xla_cpu_prefer_vector_width": 512}  # bits


def forward(spec: Spec, variables: Any, images: Shaped[Array | np.ndarray, "B ..."]) -> Float32[Array, "B K"]:
    """The logits (B, K) of images (B, ...) in evaluation mode."""
    return cast(Array, build_model(spec).apply(variables, images.reshape(len(images), *spec.image_shape)))


def evaluate_batch(spec: Spec, variables: Any, batch: Batch) -> Sums:
    """The sums of a batch in evaluation mode."""
    logits = forward(spec, variables, batch.images)
    return batch_sums(spec.task, spec.classes, logits, batch.labels, batch.weights)


def evaluate(
    spec: Spec,
    variables: Any,
    images: UInt8[np.ndarray | Array, "N H W *C"],
    labels: Int32[np.ndarray | Array, " N"],
) -> Sums:
    """The sums over images (N, ...) uint8, each counted once; those labelled PADDING are not counted."""
    mesh = shard_mesh(spec)
    return evaluate_on(mesh, spec, *place((variables, images, labels), mesh, shared=True))


def evaluate_on(
    mesh: Mesh, spec: Spec, variables: Any, images: Array | np.ndarray, labels: Array | np.ndarray
) -> Sums:
    """`evaluate` of arrays on the devices of a mesh, which share the work."""
    return _evaluate_on(mesh, spec.model_only, count_shards(spec), variables, images, labels)


@isolated()
@functools.partial(jax.jit, static_argnames=("spec", "mesh", "shards"), compiler_options=WIDE)
def _evaluate_on(mesh: Mesh, spec: Spec, shards: int, variables: Any, images: Array, labels: Array) -> Sums:
    function = functools.partial(sum_blocks, spec, axis=SHARDS if mesh.size > 1 else None)
    starts = block_starts(spec, len(images), shards)
    return over_shards(function, mesh, (SAME, SAME, SAME, SPLIT))(variables, images, labels, starts)


def evaluate_lanes(
    spec: Spec, variables: Any, images: Array | np.ndarray, labels: Array | np.ndarray
) -> Sums:
    """`evaluate` of W runs at once, whose variables are stacked."""
    return _evaluate_lanes(spec.model_only, variables, images, labels)


@isolated()
@functools.partial(jax.jit, static_argnames="spec", compiler_options=WIDE)
def _evaluate_lanes(spec: Spec, variables: Any, images: Array, labels: Array) -> Sums:
    lanes = len(jax.tree.leaves(variables)[0])
    function, starts = functools.partial(sum_blocks, spec), block_starts(spec, len(images))
    return over_lanes(function, (0, None, None, None), lanes)(variables, images, labels, starts)


def sum_blocks(
    spec: Spec,
    variables: Any,
    images: UInt8[Array, "N H W *C"],
    labels: Int32[Array, " N"],
    starts: Int32[Array, "S blocks"],
    axis: str | None = None,
) -> Sums:
    """The sums over the blocks of images (N, ...) uint8 that begin at `starts` (S, blocks)."""
    size = block_rows(spec, len(images))

    def add(sums: Sums, start: Array) -> tuple[Sums, None]:
        batch = slice_rows(images, labels, start, size)
        return jax.tree.map(jnp.add, sums, evaluate_batch(spec, variables, batch)), None

    return add_shards(lambda _, starts: lax.scan(add, zero_sums(spec.classes), starts)[0], starts, axis)


def block_rows(spec: Spec, count: int) -> int:
    """Images per block of an evaluation; few enough for a CPU's cache, which halves the time of a CNN."""
    cached = getattr(build_model(spec), "cpu_micro_batch", count) if jax.default_backend() == "cpu" else count
    return min(BLOCK_ROWS, max(CACHED_ROWS, cached), count)


def block_starts(spec: Spec, count: int, shards: int = 1) -> Int32[Array, "S blocks"]:
    """The first rows of the blocks of an evaluation (S, blocks); blocks past the end count nothing."""
    size = block_rows(spec, count)
    blocks = -(-count // (size * shards))
    return size * jnp.arange(blocks * shards, dtype=jnp.int32).reshape(shards, blocks)


def predict(spec: Spec, variables: Any, images: UInt8[np.ndarray, "N H W *C"]) -> Float32[np.ndarray, "N K"]:
    """Class probabilities (N, K) float32 of images (N, ...), K = 2 for a binary task; on the host."""
    mesh, model = shard_mesh(spec), spec.model_only
    variables = place(variables, mesh, shared=True)
    parts = [images[i : i + PREDICT_ROWS] for i in range(0, len(images), PREDICT_ROWS)]
    return np.concatenate(jax.device_get([_predict_on(mesh, model, variables, part) for part in parts]))


@isolated()
@functools.partial(jax.jit, static_argnames=("spec", "mesh"), compiler_options=WIDE)
def _predict_on(mesh: Mesh, spec: Spec, variables: Any, images: Array) -> Array:
    return _map_logits(mesh, spec, lambda logits: probabilities(spec.task, logits), variables, images)


def _map_logits(
    mesh: Mesh, spec: Spec, function: Callable[[Array], Array], variables: Any, images: Array
) -> Array:
    """The function of the logits (M, K) of all images, block by block: (N, ...)."""
    count, size = len(images), block_rows(spec, len(images))
    images = jnp.pad(images, ((0, -count % (size * mesh.size)), *[(0, 0)] * (images.ndim - 1)))

    def predict_blocks(variables: Any, blocks: Array) -> Array:
        return lax.map(lambda block: function(forward(spec, variables, block)), blocks)

    blocks = images.reshape(-1, size, *images.shape[1:])
    predicted = over_shards(predict_blocks, mesh, (SAME, SPLIT), SPLIT)(variables, blocks)
    return predicted.reshape(len(images), -1)[:count]


def measure_on(mesh: Mesh, spec: Spec, variables: Any, images: Array, labels: Array) -> dict[str, Any]:
    """The metrics of test images on the devices of a mesh: those of `summarize`, and `auc` for two classes.

    The area under the ROC curve is missing if all images are of one class.
    """
    metrics = summarize(spec.task, jax.device_get(evaluate_on(mesh, spec, variables, images, labels)))
    if spec.classes == 2:
        scores, true = jax.device_get((_score_on(mesh, spec.model_only, variables, images), labels))
        counted = true != PADDING
        area = area_under_curve(true[counted], scores[counted, 0])
        metrics |= {} if area is None else {"auc": area}
    return metrics


@isolated()
@functools.partial(jax.jit, static_argnames=("spec", "mesh"), compiler_options=WIDE)
def _score_on(mesh: Mesh, spec: Spec, variables: Any, images: Array) -> Array:
    """The scores (N, 1) of class 1 against class 0, as logits: two probabilities near 1 may round to 1."""

    def score(logits: Array) -> Array:
        return logits if logits.shape[-1] == 1 else logits[:, 1:] - logits[:, :1]

    return _map_logits(mesh, spec, score, variables, images)
