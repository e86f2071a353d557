"""The images of batches, gathered on the host or on the device.

The host gathers for single runs, while the device trains on the batches before: a gather inside the program
takes longer on CPU than a neuron's training, and NumPy copies whole images on a core that would be idle. For
many lanes the device gathers.

N training images of (H, W) or (H, W, C), S shards of a batch, P micro-batches of a shard, M images of a
micro-batch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError
from jax import Array, lax
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8

from mnistjax.backend import isolated
from mnistjax.config import Spec
from mnistjax.data import Split
from mnistjax.devices import place
from mnistjax.layout import pad_rows
from mnistjax.step import Batch, build_model

ALIGNMENT = 64  # bytes; JAX reads a NumPy array on CPU in place if its memory begins at a multiple
PADDING = -1  # the label of an image that an evaluation does not count


class HostBatches:
    """The batches of one segment after another, in two buffers.

    Those of a segment overwrite those of the segment before the last one, which the device must have read.
    """

    def __init__(self, train: Split, shards: int, mesh: Mesh) -> None:
        self._images, self._labels = train.images.reshape(len(train.images), -1), train.labels
        self._shards, self._mesh = shards, mesh
        self._buffers: list[np.ndarray] = []  # two: the device reads one while the other is filled
        self._rows = np.zeros(0)
        self._batches: Batch | None = None

    def prepare(self, rows: np.ndarray) -> Batch:
        """Gathers the batches (S, steps, P, M, ...) of a segment's rows (steps, S * P, M), and returns them.

        They are on their way to the devices. Those of the last call are returned again for the same rows.
        """
        if self._batches is not None and np.array_equal(rows, self._rows):  # prepared early, or a full batch
            return self._batches
        self._rows = rows
        shards = split_shards(rows, self._shards)
        index = np.where(shards < 0, ~shards, shards)
        images = self._next_buffer((*index.shape, self._images.shape[1]))
        np.take(self._images, index, axis=0, out=images, mode="clip")
        parts = images, self._labels[index], (shards >= 0).astype(np.float32)
        self._batches = Batch(*place(parts, self._mesh))
        return self._batches

    def _next_buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        if len(self._buffers) < 2:
            self._buffers.append(aligned(shape))
        else:
            self._buffers.reverse()
        return self._buffers[-1]


def split_shards(
    rows: Int32[np.ndarray, "steps micro_batches M"], shards: int
) -> Int32[np.ndarray, "S steps P M"]:
    """Rows (steps, S * P, M) as (S, steps, P, M), with micro-batches of padding (~row) if there are fewer."""
    rows = pad_rows(rows, shards)
    steps, micro_batches, size = rows.shape
    return rows.reshape(steps, shards, micro_batches // shards, size).swapaxes(0, 1)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array whose memory begins at a multiple of ALIGNMENT."""
    size = int(np.prod(shape))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].reshape(shape)


def pick(tree: Any, index: Array, axis: int = 0) -> Any:
    """The arrays of a tree at an index, which is traced, of one axis."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index, axis, keepdims=False), tree)


def gather_rows(
    images: UInt8[Array, "N H W *C"], labels: Int32[Array, " N"], rows: Int32[Array, "..."]
) -> Batch:
    """The images and labels of rows (...); a row ~r stands for r as padding, of weight 0.

    Flat images behind a barrier: XLA would else gather in the model's image shape, pixel by pixel, and an
    epoch of the neuron takes twice as long on CPU.
    """
    index = jnp.where(rows < 0, ~rows, rows).ravel()
    pixels = images.reshape(len(images), -1)
    taken = lax.optimization_barrier(pixels.at[index].get(mode="promise_in_bounds"))
    weights = (rows >= 0).astype(jnp.float32)
    return Batch(taken.reshape(*rows.shape, -1), labels[index].reshape(rows.shape), weights)


@functools.cache
@isolated()
def can_slice(spec: Spec) -> bool:
    """Whether lanes can read the micro-batches of a full batch, which is not shuffled, as slices.

    A slice has the padding of the last micro-batch before its images; `epoch_rows` has it after them. That
    matters with random numbers, which belong to a place in a batch, and with batch statistics.
    """
    if not spec.full_batch or spec.train_count % spec.micro_batch == 0:
        return spec.full_batch
    if any(name.startswith("augment.") for name in spec.hyper_names):
        return False
    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.uint8)
    model = build_model(spec)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    if {*variables} != {"params"}:
        return False
    try:
        jax.eval_shape(functools.partial(model.apply, train=True), variables, image)
    except InvalidRngError:
        return False
    return True


def slice_rows(
    images: UInt8[Array, "N H W *C"], labels: Int32[Array, " N"], start: Int32[Array, ""], size: int
) -> Batch:
    """Rows start to start + size.

    Beyond the last row, earlier rows stand in with weight 0. A row labelled PADDING has weight 0, too.
    """
    first = jnp.minimum(start, len(images) - size)
    taken = lax.dynamic_slice_in_dim(images, first, size).reshape(size, -1)
    labels = lax.dynamic_slice_in_dim(labels, first, size)
    weights = ((first + jnp.arange(size, dtype=jnp.int32) >= start) & (labels != PADDING)).astype(jnp.float32)
    return Batch(taken, labels, weights)


def pad_split(split: Split, count: int) -> Split:
    """At least `count` images: black ones, which an evaluation does not count, are added."""
    missing = max(0, count - len(split.images))
    images = np.pad(split.images, [(0, missing)] + [(0, 0)] * (split.images.ndim - 1))
    return Split(images, np.pad(split.labels, (0, missing), constant_values=PADDING))


def place_split(split: Split, mesh: Mesh) -> tuple[Array, Array]:
    """Images and labels, a copy on each device of the mesh."""
    return place((split.images, split.labels), mesh, shared=True)
