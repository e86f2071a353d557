"""The batches of a single run, gathered on the host while the device trains on those before.

On CPU a gather inside the program takes longer than the neuron's training; NumPy copies whole images, on a
core that would be idle. Many lanes gather on the device instead (`train.lane_segment`).

N training images, S shares of a batch, P pieces of a share, M images of a piece.
"""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh

from mnistjax.data import Split
from mnistjax.train import Batch, fill_up, place

ALIGNMENT = 64  # bytes, from which on JAX reads a NumPy array in place on CPU


class Feed:
    """The batches of segments, one after the other; the device must be done with those before the last."""

    def __init__(self, train: Split, shares: int, mesh: Mesh) -> None:
        self._images, self._labels = train.images.reshape(len(train.images), -1), train.labels
        self._shares, self._mesh = shares, mesh
        self._buffers: list[np.ndarray] = []  # two, in turn: the device reads one while the next is filled
        self._rows: np.ndarray | None = None
        self._batches: Batch | None = None

    def take(self, rows: np.ndarray) -> Batch:
        """The batches (S, steps, P, M, ...) of a segment's rows (..., S * P, M), made now or before."""
        self.make(rows)
        assert self._batches is not None
        return self._batches

    def make(self, rows: np.ndarray) -> None:
        """The next batches are made, and on their way to the devices."""
        if self._rows is not None and np.array_equal(rows, self._rows):  # as in every epoch of a full batch
            return
        self._rows = rows
        shares = share_pieces(rows, self._shares)
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


def share_pieces(rows: np.ndarray, shares: int) -> np.ndarray:
    """Rows (..., S * P, M) as (S, steps, P, M), with pieces of padding (~row) where there are fewer."""
    rows = fill_up(rows.reshape(-1, *rows.shape[-2:]), shares)
    steps, pieces, micro = rows.shape
    return rows.reshape(steps, shares, pieces // shares, micro).swapaxes(0, 1)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array whose memory begins at a multiple of ALIGNMENT."""
    size = int(np.prod(shape))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].reshape(shape)
