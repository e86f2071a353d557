# pyright: strict, reportUnknownMemberType=false
# (JAX is typed in part.)
"""How an epoch is cut: which images make a batch, which micro-batches a batch, which steps a segment.

N training images, B batch, P micro-batches of M images in a batch.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from mnistjax.backend import isolated
from mnistjax.config import Spec
from mnistjax.data import order
from mnistjax.step import build_model

GATHER_ROWS = 4096  # images gathered at a time: few calls, and few enough for a CPU's cache
SEGMENT_FLOPS = 1e11  # about a second of a small CPU; a run can be saved and stopped between two segments


class Layout(NamedTuple):
    """The cut of an epoch. Its last segment may be shorter than the others."""

    segment_steps: int  # a multiple of gather_steps
    gather_steps: int  # steps whose images a device gathers at once; a divisor of the steps of an epoch


@functools.cache
def layout(spec: Spec) -> Layout:
    """How an epoch is cut: a device gathers about GATHER_ROWS images at a time, and a segment costs about
    SEGMENT_FLOPS. Segments are equal unless that makes them shorter by a third or more.

    It changes no bit, so a run may be resumed under another version of JAX, which may count other operations.
    """
    steps = spec.steps_per_epoch * SEGMENT_FLOPS / max(1.0, epoch_flops(spec))  # of an ideal segment
    gather = largest_divisor(spec.steps_per_epoch, min(GATHER_ROWS // spec.batch_size, steps))
    blocks = spec.steps_per_epoch // gather
    ideal = int(min(blocks, steps / gather))
    equal = largest_divisor(blocks, ideal)
    return Layout(gather * (equal if 3 * equal > 2 * ideal else ideal), gather)


def largest_divisor(number: int, most: int | float) -> int:
    """The largest divisor of a number that is at most `most`, and at least 1."""
    return max(d for d in range(1, max(1, int(min(number, most))) + 1) if number % d == 0)


def count_argument(spec: Spec, count: int) -> int | None:
    """The argument `count` of `Program.advance` that makes it take this many steps.

    None for a whole segment if all segments are whole, because a loop of fixed length is faster.
    """
    length = layout(spec).segment_steps
    return None if count == length and spec.steps_per_epoch % length == 0 else count


def steps_left(spec: Spec, step: int) -> int:
    """Steps of the next segment of a run that has done `step` steps; it ends with the epoch at the latest."""
    return min(layout(spec).segment_steps, spec.steps_per_epoch - step % spec.steps_per_epoch)


@functools.cache
@isolated()
def flops(spec: Spec) -> float:
    """Floating-point operations of one image's forward pass, as XLA counts them."""
    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.uint8)
    model = build_model(spec)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    cost = jax.jit(model.apply).lower(variables, image).cost_analysis()
    return float(cost["flops"]) if cost else 0.0


def epoch_flops(spec: Spec) -> float:
    """Approximate operations of an epoch of training: forward once, and backward twice as many."""
    return 3 * flops(spec.model_only) * spec.train_count


def order_seed(spec: Spec, seed: int) -> int:
    """The seed of the order in which a run reads the images: its own, or 0 if all runs share one order."""
    return 0 if spec.shuffle == "shared" or spec.full_batch else seed


def epoch_rows(spec: Spec, *, seed: int, epoch: int) -> Int32[np.ndarray, "steps P M"]:
    """The rows of the training images that an epoch reads (steps, P, M) int32, read-only.

    The last batch is padded with the epoch's first rows r, written as the negative ~r: they have no weight,
    but a model with batch statistics sees real images. A full batch is not shuffled.
    """
    return _epoch_rows(spec, order_seed(spec, seed), 0 if spec.full_batch else epoch)


@functools.lru_cache(maxsize=8)  # interleaved runs of one seed ask for the same rows
def _epoch_rows(spec: Spec, seed: int, epoch: int) -> np.ndarray:
    count, batch, micro = spec.train_count, spec.batch_size, spec.micro_batch
    rows = np.arange(count, dtype=np.int32) if spec.full_batch else order(count, seed=seed, epoch=epoch)
    rows = np.resize(rows, spec.steps_per_epoch * batch)
    rows[count:] = ~rows[count:]
    rows = pad_rows(rows.reshape(-1, batch), micro).reshape(spec.steps_per_epoch, -1, micro)
    rows.flags.writeable = False
    return rows


def segment_rows(spec: Spec, *, seed: int, step: int, count: int) -> Int32[np.ndarray, "steps P M"]:
    """The rows of the next `count` steps, padded to a segment (segment_steps, P, M); no padding is read."""
    epoch, position = divmod(step, spec.steps_per_epoch)
    rows = epoch_rows(spec, seed=seed, epoch=epoch)[position : position + count]
    missing = layout(spec).segment_steps - len(rows)
    return np.pad(rows, ((0, missing), (0, 0), (0, 0))) if missing else rows


def pad_rows(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Rows (steps, X, ...) with X padded to a multiple by the first ones, written ~row."""
    fill = rows[:, np.arange(-rows.shape[1] % multiple) % rows.shape[1]]
    return np.concatenate([rows, np.where(fill < 0, fill, ~fill)], axis=1)
