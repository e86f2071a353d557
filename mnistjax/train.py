"""A run: State, the training step, an epoch as one scan, evaluation, and `fit`.

N training images, B batch, M micro-batch, P pieces of a batch (B = P * M), K classes.

`fit` is a function of (spec, hyper, seed, data): no files, no Hydra, no W&B. Whoever wants to watch or
record passes observers.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array, lax

from mnistjax.config import DEFAULT_STOPPING, ConfigError, Hyper, Spec, Stopping
from mnistjax.data import Dataset, order
from mnistjax.metrics import Sums, batch_sums, probabilities, summarize, zero_sums
from mnistjax.models import create_model
from mnistjax.optim import make_optimizer

INIT, DROPOUT = 0, 1  # the named streams of a run's key
GATHER_ROWS = 4096  # images gathered at a time: large enough for two threads, small enough for the cache
EVALUATE_ROWS = 500  # images per block of an evaluation
SEGMENT_FLOPS = 1e11  # about a second of a small CPU; a run can be saved and stopped between two segments


class State(NamedTuple):
    """All that training changes. A checkpoint is a State; a sweep is a stack of them."""

    params: Any
    collections: Any  # what else a model carries: batch statistics, say
    opt_state: Any
    step: Array  # () int32, optimizer steps done in the whole run
    sums: Sums  # of the current epoch


class Batch(NamedTuple):
    images: Array  # (B, H*W*C) uint8
    labels: Array  # (B,) int32
    weights: Array  # (B,) float32, 1 for an image and 0 for padding


def build_model(spec: Spec) -> nn.Module:
    return create_model(spec.model, num_classes=spec.num_classes, **dict(spec.model_options))


def initial_state(spec: Spec, hyper: Hyper, key: Array) -> State:
    """The State before the first step."""
    images = jnp.zeros((1, *spec.image_shape), jnp.uint8)
    collections = dict(build_model(spec).init(jax.random.fold_in(key, INIT), images))
    params = collections.pop("params")
    opt_state = make_optimizer(spec, hyper).init(params)
    return State(params, collections, opt_state, jnp.zeros((), jnp.int32), zero_sums(spec.classes))


# Not optimized, because it runs once: the CNN's compiles in 0.6 s instead of 2.5 s.
init = jax.jit(initial_state, static_argnames="spec", compiler_options={"xla_backend_optimization_level": 0})


def variables_of(state: State) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {"params": state.params, **state.collections}


def forward(spec: Spec, variables: Any, images: Array) -> Array:
    """The logits (B, K) of images (B, ...) in evaluation mode."""
    return cast(Array, build_model(spec).apply(variables, images.reshape(-1, *spec.image_shape)))


def train_step(
    spec: Spec, hyper: Hyper, key: Array, state: State, pieces: Any, fetch: Callable[[Any], Batch]
) -> State:
    """The State after one optimizer step on a batch of P pieces, each `fetch`ed when its turn comes.

    The pieces' gradients are added before the step: so a full batch is read once, and a convolution's
    intermediates stay in the cache.
    """
    model = build_model(spec)
    step_key = jax.random.fold_in(jax.random.fold_in(key, DROPOUT), state.step)

    def loss(
        params: Any, collections: Any, batch: Batch, dropout_key: Array
    ) -> tuple[Array, tuple[Any, Sums]]:
        logits, next_collections = model.apply(
            {"params": params, **collections},
            batch.images.reshape(-1, *spec.image_shape),
            train=True,
            rngs={"dropout": dropout_key},
            mutable=list(collections),
        )
        sums = batch_sums(spec.task, spec.classes, logits, batch.labels, batch.weights)
        return sums.loss, (dict(next_collections), sums)

    def add_piece(carry: Any, piece: Any) -> tuple[Any, None]:
        gradients, collections, sums, count, index = carry
        batch = fetch(piece)
        piece_gradients, (collections, piece_sums) = jax.grad(loss, has_aux=True)(
            state.params, collections, batch, jax.random.fold_in(step_key, index)
        )
        gradients, sums = jax.tree.map(jnp.add, (gradients, sums), (piece_gradients, piece_sums))
        return (gradients, collections, sums, count + jnp.sum(batch.weights), index + 1), None

    no_gradients = jax.tree.map(jnp.zeros_like, state.params)
    carry = (no_gradients, state.collections, state.sums, jnp.zeros(()), jnp.zeros((), jnp.int32))
    (gradients, collections, sums, count, _), _ = lax.scan(add_piece, carry, pieces)
    gradients = jax.tree.map(lambda gradient: gradient / count, gradients)
    updates, opt_state = make_optimizer(spec, hyper).update(gradients, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), collections, opt_state, state.step + 1, sums)


@functools.partial(jax.jit, static_argnames="spec", donate_argnames="state")
def train_segment(
    spec: Spec, hyper: Hyper, key: Array, state: State, images: Array, labels: Array, rows: Array
) -> State:
    """The State after a segment of an epoch: one scan over blocks of steps.

    images (N, H, W) uint8, labels (N,) int32, rows (blocks, steps, P, M) int32 as `epoch_rows` makes them.
    """
    gather = functools.partial(gather_rows, images, labels)

    def block(state: State, rows: Array) -> tuple[State, None]:
        if spec.micro_batch == spec.batch_size:  # gather several steps at once, it is faster
            pieces, fetch = gather(rows), lambda batch: batch
        elif spec.batch_size == spec.train_count:  # not shuffled, so each piece is a slice
            pieces, fetch = rows[..., 0], lambda start: slice_rows(images, labels, start, spec.micro_batch)
        else:
            pieces, fetch = rows, gather

        def step(state: State, pieces: Any) -> tuple[State, None]:
            return train_step(spec, hyper, key, state, pieces, fetch), None

        return lax.scan(step, state, pieces)

    starts_epoch = state.step % spec.steps_per_epoch == 0
    sums = jax.tree.map(lambda total: jnp.where(starts_epoch, 0, total), state.sums)
    return lax.scan(block, state._replace(sums=sums), rows)[0]


def gather_rows(images: Array, labels: Array, rows: Array) -> Batch:
    """The images and labels of rows (...); a row ~r stands for r as padding, of weight 0.

    Flat images behind a barrier: XLA would else gather in the model's image shape, pixel by pixel, and
    an epoch of the neuron takes twice as long on CPU.
    """
    index = jnp.where(rows < 0, ~rows, rows).ravel()
    pixels = images.reshape(len(images), -1)
    taken = lax.optimization_barrier(pixels.at[index].get(mode="promise_in_bounds"))
    weights = (rows >= 0).astype(jnp.float32)
    return Batch(taken.reshape(*rows.shape, -1), labels[index].reshape(rows.shape), weights)


def slice_rows(images: Array, labels: Array, start: Array, size: int) -> Batch:
    """Rows start to start + size; where that runs past the end, earlier rows of weight 0 stand in."""
    first = jnp.minimum(start, len(images) - size)
    taken = lax.dynamic_slice_in_dim(images, first, size).reshape(size, -1)
    weights = (first + jnp.arange(size) >= start).astype(jnp.float32)
    return Batch(taken, lax.dynamic_slice_in_dim(labels, first, size), weights)


@functools.partial(jax.jit, static_argnames="spec")
def evaluate(spec: Spec, variables: Any, images: Array, labels: Array) -> Sums:
    """The sums over all images (N, H, W) uint8, each counted once."""
    size = min(EVALUATE_ROWS, len(images))

    def add_block(sums: Sums, start: Array) -> tuple[Sums, None]:
        batch = slice_rows(images, labels, start, size)
        logits = forward(spec, variables, batch.images)
        more = batch_sums(spec.task, spec.classes, logits, batch.labels, batch.weights)
        return jax.tree.map(jnp.add, sums, more), None

    return lax.scan(add_block, zero_sums(spec.classes), jnp.arange(0, len(images), size))[0]


def predict(spec: Spec, variables: Any, images: np.ndarray) -> np.ndarray:
    """Class probabilities (N, K) float32 of images (N, H, W), K = 2 for a binary task; on the host."""
    blocks = [images[i : i + EVALUATE_ROWS] for i in range(0, len(images), EVALUATE_ROWS)]
    return np.concatenate([np.asarray(_predict_block(spec, variables, block)) for block in blocks])


@functools.partial(jax.jit, static_argnames="spec")
def _predict_block(spec: Spec, variables: Any, images: Array) -> Array:
    return probabilities(spec.task, forward(spec, variables, images))


class Layout(NamedTuple):
    """How an epoch's steps are cut: segments x blocks x steps = steps_per_epoch."""

    segments: int
    blocks: int
    steps: int


@functools.cache
def layout(spec: Spec) -> Layout:
    """The cut of an epoch, a function of the Spec alone: a block gathers about GATHER_ROWS images, a
    segment costs about SEGMENT_FLOPS."""
    total = spec.steps_per_epoch
    steps = max(d for d in _divisors(total) if d == 1 or d * spec.batch_size <= GATHER_ROWS)
    wanted = 3 * flops(spec) * spec.train_count / SEGMENT_FLOPS
    blocks = total // steps
    segments = min(d for d in _divisors(blocks) if d >= min(wanted, blocks))
    return Layout(segments, blocks // segments, steps)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@functools.cache
def flops(spec: Spec) -> float:
    """Floating-point operations of one image's forward pass, as XLA counts them."""
    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.uint8)
    model = build_model(spec)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    cost = jax.jit(model.apply).lower(variables, image).cost_analysis()
    return float(cost["flops"]) if cost else 0.0


def epoch_rows(spec: Spec, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch (segments, blocks, steps, P, M) int32: rows of the training images.

    The last batch is filled up with the epoch's first rows r, written ~r: they count nothing, but a
    model that looks at batch statistics sees real images. A full batch is not shuffled.
    """
    count, batch, micro = spec.train_count, spec.batch_size, spec.micro_batch
    full = batch == count
    rows = np.arange(count, dtype=np.int32)
    if not full:
        rows = order(count, seed=0 if spec.shuffle == "shared" else seed, epoch=epoch)
    rows = np.resize(rows, spec.steps_per_epoch * batch)
    rows[count:] = ~rows[count:]
    rows = rows.reshape(-1, batch)
    if missing := -batch % micro:
        fill = rows[:, :missing]
        rows = np.concatenate([rows, np.where(fill < 0, fill, ~fill)], axis=1)
    return rows.reshape(*layout(spec), -1, micro)


@dataclass(frozen=True)
class Moment:
    """What an observer sees after each segment of an epoch; training stands still meanwhile."""

    epoch: int  # epochs finished
    epochs: int  # epochs planned
    step: int  # optimizer steps done in the whole run
    steps_per_epoch: int
    examples_seen: int  # in the whole run
    train: dict[str, float]  # loss (nats), accuracy and f1 of the current epoch so far
    row: dict[str, Any] | None  # the finished epoch's record; None inside an epoch
    snapshot: Callable[[], Snapshot]  # a copy on the host of all that resuming needs
    final: bool  # the last moment of the run


Snapshot = Mapping[str, Any]
"""`{"state": State, "best": variables or None}`."""

Observer = Callable[[Moment], None]


@dataclass(frozen=True)
class Result:
    """What `fit` returns."""

    status: Literal["done", "diverged", "interrupted"]
    reason: str | None  # why, unless done
    epoch: int  # epochs finished
    rows: list[dict[str, Any]]  # one per epoch, as in metrics.jsonl
    state: State
    variables: dict[str, Any]  # what `model.apply` takes, of the kept epoch
    kept_epoch: int
    seconds_per_epoch: float  # median of the training passes; compile and evaluation excluded
    compile_seconds: float
    test: dict[str, Any] | None  # as `metrics.summarize` gives it; only when done


def fit(
    spec: Spec,
    hyper: Hyper,
    *,
    data: Dataset,
    seed: int = 0,
    stopping: Stopping = DEFAULT_STOPPING,
    snapshot: Snapshot | None = None,
    rows: Sequence[dict[str, Any]] = (),
    observers: Sequence[Observer] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """The trained run: a function of (spec, hyper, seed, data), tested once at its end.

    A run continues from a `snapshot` and the `rows` up to it, bit for bit as if it had never stopped.
    `stop` is asked after each segment; a run stopped by it is "interrupted". ConfigError where the
    data does not fit the Spec.
    """
    check_fits(spec, data)
    key, rows = jax.random.key(seed), list(rows)
    images, labels = jax.device_put((data.train.images, data.train.labels))
    val = jax.device_put((data.val.images, data.val.labels))
    with _compile_clock() as compiling:
        state, best = init(spec, hyper, key), None
        if snapshot:  # copied, because each step overwrites the State it is given
            state, best = jax.tree.map(jnp.array, snapshot["state"]), snapshot["best"]
        step, seconds = int(state.step), 0.0
        steps_per_segment = spec.steps_per_epoch // layout(spec).segments
        order = epoch_rows(spec, seed=seed, epoch=step // spec.steps_per_epoch)
        status = "done" if _is_over(rows, stopping) else None
        while status is None:
            epoch, offset = divmod(step, spec.steps_per_epoch)
            started, compiled = time.perf_counter(), sum(compiling)
            state = train_segment(spec, hyper, key, state, images, labels, order[offset // steps_per_segment])
            step += steps_per_segment
            ends_epoch = step % spec.steps_per_epoch == 0
            if ends_epoch:  # the host makes the next order while the device is busy
                order = epoch_rows(spec, seed=seed, epoch=epoch + 1)
            metrics = _curve_metrics(spec, state.sums)
            seconds += time.perf_counter() - started - (sum(compiling) - compiled)
            row = None
            if ends_epoch:
                val_metrics = _curve_metrics(spec, evaluate(spec, variables_of(state), *val))
                row = _row(spec, epoch + 1, seconds, metrics, val_metrics)
                rows.append(row)
                seconds = 0.0
                if stopping.keep == "best" and best_epoch(rows, stopping.monitor) == epoch + 1:
                    best = _host_copy(variables_of(state))
            status = _status(row, rows, stopping, stop)
            moment = Moment(
                epoch=len(rows),
                epochs=stopping.epochs,
                step=step,
                steps_per_epoch=spec.steps_per_epoch,
                examples_seen=_examples(spec, step),
                train=metrics,
                row=row,
                snapshot=functools.partial(_host_copy, {"state": state, "best": best}),
                final=status is not None,
            )
            for observer in observers:
                observer(moment)
        variables = variables_of(state) if best is None else best
        tested = None
        if status == "done":
            sums = evaluate(spec, variables, *jax.device_put((data.test.images, data.test.labels)))
            tested = summarize(spec.task, jax.device_get(sums))
    return Result(
        status=status,
        reason=_reason(status, rows),
        epoch=len(rows),
        rows=rows,
        state=state,
        variables=variables,
        kept_epoch=len(rows) if best is None else best_epoch(rows, stopping.monitor),
        seconds_per_epoch=statistics.median(row["seconds"] for row in rows) if rows else math.nan,
        compile_seconds=sum(compiling),
        test=tested,
    )


def check_fits(spec: Spec, data: Dataset) -> None:
    """ConfigError where a data set is not the one a Spec was made for."""
    if len(data.train.images) != spec.train_count:
        raise ConfigError(
            f"the Spec is for {spec.train_count} training images; {data.name} has {len(data.train.images)}"
        )
    if data.num_classes != spec.classes:
        raise ConfigError(f"the Spec is for {spec.classes} classes; {data.name} has {data.num_classes}")


def best_epoch(rows: Sequence[Mapping[str, Any]], monitor: str) -> int:
    """The first epoch with the best value of a validation metric: lowest for a loss, highest otherwise."""
    sign = 1 if monitor.endswith("loss") else -1
    return min(rows, key=lambda row: (sign * row[monitor], row["epoch"]))["epoch"]


def _is_over(rows: Sequence[Mapping[str, Any]], stopping: Stopping) -> bool:
    if len(rows) >= stopping.epochs:
        return True
    if stopping.patience is None or not rows:
        return False
    return len(rows) - best_epoch(rows, stopping.monitor) >= stopping.patience


def _status(
    row: Mapping[str, Any] | None,
    rows: Sequence[Mapping[str, Any]],
    stopping: Stopping,
    stop: Callable[[], bool],
) -> Literal["done", "diverged", "interrupted"] | None:
    """How the run ends here, or None where it goes on."""
    if row and not (math.isfinite(row["train/loss"]) and math.isfinite(row["val/loss"])):
        return "diverged"
    if row and _is_over(rows, stopping):
        return "done"
    return "interrupted" if stop() else None


def _reason(status: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    if status == "diverged":
        return f"the loss is not finite in epoch {len(rows)}"
    return f"stopped after {len(rows)} finished epochs" if status == "interrupted" else None


def _row(
    spec: Spec, epoch: int, seconds: float, train: Mapping[str, float], val: Mapping[str, float]
) -> dict[str, Any]:
    """An epoch's record: the curves' metrics of both parts; `seconds` are those of its training pass."""
    return {
        "epoch": epoch,
        "examples_seen": epoch * spec.train_count,
        "seconds": round(seconds, 6),
        **{f"train/{name}": value for name, value in train.items()},
        **{f"val/{name}": value for name, value in val.items()},
    }


def _curve_metrics(spec: Spec, sums: Sums) -> dict[str, float]:
    metrics = summarize(spec.task, jax.device_get(sums))
    return {name: metrics[name] for name in ("loss", "accuracy", "f1")}


def _examples(spec: Spec, step: int) -> int:
    epochs, steps = divmod(step, spec.steps_per_epoch)
    return epochs * spec.train_count + steps * spec.batch_size


def _host_copy(tree: Any) -> Any:
    """NumPy arrays of their own: `device_get` on CPU gives views of buffers that the next step overwrites."""
    return jax.tree.map(np.array, jax.device_get(tree))


@contextlib.contextmanager
def _compile_clock() -> Iterator[list[float]]:
    """The seconds of each trace, lowering and compilation inside the `with`, as they end."""
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
