"""The batches of a single run, gathered on the host while the device trains on those before.

On CPU a gather inside the program takes longer than the neuron's training; NumPy copies whole images, on a
core that would be idle. Many lanes gather on the device instead (`train.lane_segment`).

N training images, D devices, P pieces of a batch, M images of a piece.
"""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh

from mnistjax.data import Split
from mnistjax.train import Batch, fill_up, place

ALIGNMENT = 64  # bytes, from which on JAX reads a NumPy array in place on CPU


class Feed:
    """The batches of segments, one after the other; the device must be done with those before the last."""

    def __init__(self, train: Split, mesh: Mesh) -> None:
        self._images, self._labels = train.images.reshape(len(train.images), -1), train.labels
        self._mesh = mesh
        self._buffers: list[np.ndarray] = []  # two, in turn: the device reads one while the next is filled
        self._rows: np.ndarray | None = None
        self._batches: Batch | None = None

    def take(self, rows: np.ndarray) -> Batch:
        """The batches (D, steps, P/D, M, ...) of a segment's rows (..., P, M), made now or before."""
        self.make(rows)
        assert self._batches is not None
        return self._batches

    def make(self, rows: np.ndarray) -> None:
        """The next batches are made, and on their way to the devices."""
        if self._rows is not None and np.array_equal(rows, self._rows):  # as in every epoch of a full batch
            return
        self._rows = rows
        shares = share_pieces(rows, self._mesh.size)
        index = np.where(shares < 0, ~shares, shares)
        images = self._buffer((*index.shape, self._images.shape[1]))
        np.take(self._images, index, axis=0, out=images, mode="clip")
        parts = images, self._labels[index], (shares >= 0).astype(np.float32)
        self._batches = Batch(*place(parts, self._mesh))

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        if len(self._buffers) < 2:
            self._buffers.append(aligned(shape))
        else:
            self._buffers.reverse()
        return self._buffers[-1]


def share_pieces(rows: np.ndarray, devices: int) -> np.ndarray:
    """Rows (..., P, M) as (D, steps, P/D, M), with pieces of padding (~row) where P is no multiple of D."""
    rows = fill_up(rows.reshape(-1, *rows.shape[-2:]), devices)
    steps, pieces, micro = rows.shape
    return rows.reshape(steps, devices, pieces // devices, micro).swapaxes(0, 1)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array whose memory begins at a multiple of ALIGNMENT."""
    size = int(np.prod(shape))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].reshape(shape)
