"""The loop on the host: `fit` one run, `fit_teams` many in turn, or `fit_lanes` many at once.

Functions of (spec, hyper, seed, data): no files, no Hydra, no W&B. Whoever wants to watch or record
passes observers.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from mnistjax.config import DEFAULT_STOPPING, ConfigError, Hyper, Spec, Stopping, badness, one_line
from mnistjax.data import Dataset, Split
from mnistjax.feed import Feed
from mnistjax.metrics import Sums, summarize
from mnistjax.train import (
    PADDING,
    State,
    count_shares,
    epoch_rows,
    evaluate,
    evaluate_lanes,
    evaluate_on,
    init,
    lane_mesh,
    layout,
    order_seed,
    place,
    share_mesh,
    train_lanes,
    train_segment,
    variables_of,
)

RunStatus = Literal["done", "diverged", "interrupted", "failed"]


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


@dataclass(frozen=True, eq=False)
class Run:
    """One run to train. It continues from a `snapshot` and the `rows` up to it, bit for bit as if it had
    never stopped."""

    hyper: Hyper
    seed: int = 0
    stopping: Stopping = DEFAULT_STOPPING
    snapshot: Snapshot | None = None
    rows: Sequence[dict[str, Any]] = ()
    observers: Sequence[Observer] = ()


@dataclass(frozen=True)
class Result:
    """What `fit` returns."""

    status: RunStatus
    reason: str | None  # why, unless done
    epoch: int  # epochs finished
    rows: list[dict[str, Any]]  # one per epoch, as in metrics.jsonl
    state: State
    variables: dict[str, Any]  # what `model.apply` takes, of the kept epoch
    kept_epoch: int
    seconds_per_epoch: float  # median of the training passes, a lane's share; compile and evaluation excluded
    compile_seconds: float
    test: dict[str, Any] | None  # as `metrics.summarize` gives it; only when done
    lanes: int = 1  # of the program that it was trained in
    error: Exception | None = None  # of an observer, when failed


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
    data does not fit the Spec; what an observer raises is raised here.
    """
    run = Run(hyper, seed, stopping, snapshot, rows, observers)
    ((_, result),) = fit_teams(spec, [[run]], data=data, stop=stop)
    if result.error:
        raise result.error
    return result


def fit_teams(
    spec: Spec,
    teams: Iterable[Sequence[Run]],
    *,
    data: Dataset,
    stop: Callable[[], bool] = lambda: False,
    spread: bool = True,
) -> Iterator[tuple[Run, Result]]:
    """Each run with its Result, one team after the other, by the program of a single run and with its bits.

    The runs of a team take turns, segment by segment, on batches that are made once for all of them: the
    cost of many neurons halves. So they read the images in one order, that of their seed, and stand at one
    step; else ValueError. Large steps are `spread` over the devices, or left to the default one, to the same
    bits. A run whose observer raises is "failed", one that diverges leaves its team. Once `stop` is true the
    runs of the team end as "interrupted" after their segment, and no other begins.
    """
    check_fits(spec, data)
    program, stopped = _Turns(spec, data, spread), False
    with _compile_clock() as compiling:
        for team in teams:
            lanes = [_Lane(spec, run, compiling) for run in team]
            if len({(order_seed(spec, lane.run.seed), lane.step) for lane in lanes}) > 1:
                raise ValueError("the runs of a team must have one seed and stand at one step")
            program.put(lanes)
            active = dict(enumerate(lanes))
            while active:
                for slot, lane in [(slot, lane) for slot, lane in active.items() if lane.status]:
                    del active[slot]
                    yield lane.run, lane.result(program, slot)
                if active:
                    stopped = _advance(program, active, compiling, stop)
            if stopped:
                return


def fit_lanes(
    spec: Spec,
    runs: Iterable[Run],
    *,
    data: Dataset,
    width: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Run, Result]]:
    """Each run with its Result, as it ends; `width` runs at a time are the lanes of one program.

    A lane whose run has ended takes the next one. Width 1 is the program of a single run and gives its
    bits; another width gives bits of its own, which no neighbour changes. A run whose observer raises is
    "failed", one that diverges leaves its lane. Once `stop` is true the runs in the lanes end as
    "interrupted" after their segment, and no other begins.
    """
    if width == 1:
        yield from fit_teams(spec, ([run] for run in runs), data=data, stop=stop)
        return
    check_fits(spec, data)
    program, stopped = _Stack(spec, width, data), False
    lanes: list[_Lane | None] = [None] * width
    with _compile_clock() as compiling:
        waiting = _Waiting(_Lane(spec, run, compiling) for run in runs)
        while True:
            for slot, lane in enumerate(lanes):
                if lane and lane.status:
                    lanes[slot] = None
                    yield lane.run, lane.result(program, slot)
            for slot in () if stopped else range(width):
                if lanes[slot] is None and (lane := waiting.take(_common_step(spec, lanes))):
                    lanes[slot] = lane
                    program.put(slot, lane)
            active = {slot: lane for slot, lane in enumerate(lanes) if lane}
            if not active:
                return
            if not any(lane.status for lane in active.values()):  # else over before it began
                stopped = _advance(program, active, compiling, stop)


def _advance(
    program: _Turns | _Stack,
    active: Mapping[int, _Lane],
    compiling: Sequence[float],
    stop: Callable[[], bool],
) -> bool:
    """The lanes in these slots are a segment further, and their observers know; whether to stop."""
    started, compiled = time.perf_counter(), sum(compiling)
    program.advance(active)
    for lane in active.values():  # the host makes the next orders while the device is busy
        lane.advance()
    program.prepare(active)
    sums = program.sums(active)
    seconds = time.perf_counter() - started - (sum(compiling) - compiled)
    ends_epoch = any(lane.ends_epoch for lane in active.values())
    val_sums = program.evaluate(active) if ends_epoch else sums
    stopped = stop()
    for slot, lane in active.items():
        lane.seconds += seconds / len(active)
        state = functools.partial(program.state, slot)
        lane.record(program.at(sums, slot), program.at(val_sums, slot), state, stopped)
    return stopped


class _Lane:
    """One run's place in the loop: what the host keeps of it."""

    def __init__(self, spec: Spec, run: Run, compiling: Sequence[float]) -> None:
        self.spec, self.run = spec, run
        self.key = jax.random.key(run.seed)
        self.rows = list(run.rows)
        self.status: RunStatus | None = "done" if _is_over(self.rows, run.stopping) else None
        self.error: Exception | None = None
        self.seconds = 0.0  # of training in the current epoch
        self._compiling, self._compiled = compiling, sum(compiling)
        # The whole of it: to read a part of what could not be allocated as a whole never returns.
        self.start, self._best = jax.block_until_ready(init(spec, run.hyper, self.key)), None
        if run.snapshot:  # copied, because each step overwrites the State it is given
            self.start, self._best = jax.tree.map(jnp.array, run.snapshot["state"]), run.snapshot["best"]
        self.step = int(self.start.step)
        self._order = epoch_rows(spec, seed=run.seed, epoch=self.step // spec.steps_per_epoch)

    @property
    def segment(self) -> np.ndarray:
        """The rows of the next segment."""
        return self._order[self.step % self.spec.steps_per_epoch // self._steps_per_segment]

    @property
    def ends_epoch(self) -> bool:
        return self.step % self.spec.steps_per_epoch == 0

    @property
    def _steps_per_segment(self) -> int:
        return self.spec.steps_per_epoch // layout(self.spec).segments

    def advance(self) -> None:
        """The lane stands at the next segment."""
        self.step += self._steps_per_segment
        if self.ends_epoch:
            epoch = self.step // self.spec.steps_per_epoch
            self._order = epoch_rows(self.spec, seed=self.run.seed, epoch=epoch)

    def record(self, sums: Sums, val_sums: Sums, state: Callable[[], State], stop: bool) -> None:
        """The segment's metrics go to the observers, with a row where an epoch has ended."""
        spec, stopping = self.spec, self.run.stopping
        metrics, row = _curve_metrics(spec, sums), None
        if self.ends_epoch:
            row = _row(spec, len(self.rows) + 1, self.seconds, metrics, _curve_metrics(spec, val_sums))
            self.rows.append(row)
            self.seconds = 0.0
            if stopping.keep == "best" and best_epoch(self.rows, stopping.monitor) == row["epoch"]:
                self._best = _host_copy(variables_of(state()))
        self.status = _status(row, self.rows, stopping, stop)
        moment = Moment(
            epoch=len(self.rows),
            epochs=stopping.epochs,
            step=self.step,
            steps_per_epoch=spec.steps_per_epoch,
            examples_seen=_examples(spec, self.step),
            train=metrics,
            row=row,
            snapshot=lambda: _host_copy({"state": state(), "best": self._best}),
            final=self.status is not None,
        )
        try:
            for observer in self.run.observers:
                observer(moment)
        except Exception as error:
            self.status, self.error = "failed", error

    def result(self, program: _Turns | _Stack, slot: int) -> Result:
        """The Result of the run that has ended in this place."""
        assert self.status is not None
        spec, stopping, rows, tested = self.spec, self.run.stopping, self.rows, None
        state = program.state(slot)
        variables = variables_of(state) if self._best is None else self._best
        if self.status == "done":
            tested = summarize(spec.task, program.test(variables))
        return Result(
            status=self.status,
            reason=_reason(self.status, rows, self.error),
            epoch=len(rows),
            rows=rows,
            state=state,
            variables=variables,
            kept_epoch=len(rows) if self._best is None else best_epoch(rows, stopping.monitor),
            seconds_per_epoch=statistics.median(row["seconds"] for row in rows) if rows else math.nan,
            compile_seconds=sum(self._compiling) - self._compiled,
            test=tested,
            lanes=program.width,
            error=self.error,
        )


def _common_step(spec: Spec, lanes: Iterable[_Lane | None]) -> int | None:
    """The step at which a lane has to stand to join these, which share an order; None where any may."""
    return next((lane.step for lane in lanes if lane), None) if spec.shuffle == "shared" else None


class _Waiting:
    """The lanes whose turn has not come."""

    def __init__(self, lanes: Iterator[_Lane]) -> None:
        self._lanes, self._next = lanes, None

    def take(self, step: int | None) -> _Lane | None:
        """The next lane; None where there is none, or where it does not stand at `step`, if that is given."""
        self._next = self._next or next(self._lanes, None)
        if self._next is None or step not in (None, self._next.step):
            return None
        lane, self._next = self._next, None
        return lane


class _Turns:
    """The States of a team, and the program of a single run that advances one after the other.

    The next batches are made while the device is busy with those before.
    """

    width = 1

    def __init__(self, spec: Spec, data: Dataset, spread: bool) -> None:
        self._spec, self._data, self._mesh = spec, data, share_mesh(spec, spread=spread)
        self._feed = Feed(data.train, count_shares(spec), self._mesh)
        self._val = _place(data.val, self._mesh)
        self._states: list[State] = []

    def put(self, team: Sequence[_Lane]) -> None:
        """The lanes are in the slots, each at its start."""
        self._states = [place(lane.start, self._mesh, shared=True) for lane in team]

    def advance(self, active: Mapping[int, _Lane]) -> None:
        """The lanes in these slots are a segment further."""
        batches = self._feed.take(next(iter(active.values())).segment)
        for slot, lane in active.items():
            args = lane.run.hyper, lane.key, self._states[slot], batches, self._mesh
            self._states[slot] = train_segment(self._spec, *args)

    def prepare(self, active: Mapping[int, _Lane]) -> None:
        """The lanes' next batches are made, if they have any."""
        lane = max(active.values(), key=lambda lane: lane.run.stopping.epochs)
        if lane.step < lane.run.stopping.epochs * self._spec.steps_per_epoch:
            self._feed.make(lane.segment)

    def state(self, slot: int) -> State:
        """The State of one lane, of arrays that the next segment overwrites."""
        return self._states[slot]

    def sums(self, active: Mapping[int, _Lane]) -> Any:
        """The sums of the current epoch, by slot, on the host."""
        jax.block_until_ready(self._states)
        return jax.device_get({slot: self._states[slot].sums for slot in active})

    def evaluate(self, active: Mapping[int, _Lane]) -> Any:
        """The sums over the validation images, by slot, on the host."""
        variables = {slot: variables_of(self._states[slot]) for slot in active}
        evaluate = functools.partial(evaluate_on, self._mesh, self._spec)
        return jax.device_get({slot: evaluate(x, *self._val) for slot, x in variables.items()})

    def test(self, variables: Any) -> Sums:
        """The sums of one lane's variables over the test images, on the host."""
        return jax.device_get(evaluate_on(self._mesh, self._spec, variables, *self._test))

    @staticmethod
    def at(sums: Any, slot: int) -> Any:
        """One slot's part."""
        return sums[slot]

    @functools.cached_property
    def _test(self) -> tuple[Array, Array]:
        """The test images, once a run has ended; as many as `val`'s, whose program they share."""
        return _place(pad(self._data.test, len(self._data.val.images)), self._mesh)


class _Stack:
    """The stacked States of `width` lanes, and the one program that advances them all.

    A lane that no run needs goes on with what it last had.
    """

    def __init__(self, spec: Spec, width: int, data: Dataset) -> None:
        self.width = width
        self._spec, self._data, self._mesh = spec, data, lane_mesh(width)
        self._train = _place(data.train, self._mesh)
        self._val = _place(data.val, self._mesh)
        self._lanes: list[_Lane] = []
        self._states: Any = None
        self._host: Any = None  # the same on the host, once asked for

    def put(self, slot: int, lane: _Lane) -> None:
        """The lane is in this slot, at its start."""
        self._host = None
        if not self._lanes:
            self._lanes = [lane] * self.width
            self._states = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.width), lane.start)
        self._lanes[slot] = lane
        self._states = place(_put(self._states, slot, lane.start), self._mesh)
        self._hypers = jax.tree.map(lambda *x: np.asarray(x, np.float32), *(x.run.hyper for x in self._lanes))
        self._keys = jax.vmap(jax.random.key)(np.array([x.run.seed for x in self._lanes], np.uint32))

    def advance(self, active: Mapping[int, _Lane]) -> None:
        """All lanes are a segment further; where they share an order, it is that of any active one."""
        self._host = None
        shared = self._spec.shuffle == "shared"
        lane = next(iter(active.values()))
        rows = lane.segment if shared else np.stack([x.segment for x in self._lanes])
        args = self._hypers, self._keys, self._states, *self._train, rows
        self._states = train_lanes(self._spec, *args)

    def prepare(self, active: Mapping[int, _Lane]) -> None:
        """Nothing: the batches are gathered on the device."""

    def state(self, slot: int) -> State:
        """The State of one lane."""
        if self._host is None:  # once for all lanes
            self._host = jax.device_get(self._states)
        return self.at(self._host, slot)

    def sums(self, active: Mapping[int, _Lane]) -> Any:
        """The sums of the current epoch, stacked, on the host."""
        jax.block_until_ready(self._states)
        return jax.device_get(self._states.sums)

    def evaluate(self, active: Mapping[int, _Lane]) -> Any:
        """The sums over the validation images, stacked, on the host."""
        return jax.device_get(evaluate_lanes(self._spec, variables_of(self._states), *self._val))

    def test(self, variables: Any) -> Sums:
        """The sums of one lane's variables over the test images, on the host."""
        return jax.device_get(evaluate(self._spec, variables, *self._test))

    @staticmethod
    def at(stack: Any, slot: int) -> Any:
        """One slot's part."""
        return jax.tree.map(lambda leaf: np.array(leaf[slot]), stack)

    @functools.cached_property
    def _test(self) -> tuple[Array, Array]:
        """The test images, once a run has ended."""
        return jax.device_put((self._data.test.images, self._data.test.labels))


def _place(part: Split, mesh: Mesh) -> tuple[Array, Array]:
    """Images and labels, a copy on each device of the mesh."""
    return place((part.images, part.labels), mesh, shared=True)


def pad(part: Split, count: int) -> Split:
    """At least `count` images: filled up with black ones that evaluation does not count."""
    missing = max(0, count - len(part.images))
    images = np.pad(part.images, ((0, missing), (0, 0), (0, 0)))
    return Split(images, np.pad(part.labels, (0, missing), constant_values=PADDING))


@functools.partial(jax.jit, donate_argnums=0)
def _put(states: State, slot: int, state: State) -> State:
    return jax.tree.map(lambda stack, leaf: stack.at[slot].set(leaf), states, state)


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
    return min(rows, key=lambda row: (badness(monitor, row[monitor]), row["epoch"]))["epoch"]


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
    stop: bool,
) -> RunStatus | None:
    """How the run ends here, or None where it goes on."""
    if row and not (math.isfinite(row["train/loss"]) and math.isfinite(row["val/loss"])):
        return "diverged"
    if row and _is_over(rows, stopping):
        return "done"
    return "interrupted" if stop else None


def _reason(status: str, rows: Sequence[Mapping[str, Any]], error: Exception | None) -> str | None:
    if error:
        return one_line(error)
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
    """The seconds of each trace, lowering and compilation of this thread inside the `with`, as they end."""
    seconds: list[float] = []
    thread = threading.get_ident()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/") and threading.get_ident() == thread:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
