"""The host's loop: `fit` trains one run, `fit_runs` many of one Spec.

Functions of (spec, hyper, seed, data): no files, no Hydra, no W&B. Callbacks watch and record.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnistjax.backend import compile_clock, isolated
from mnistjax.config import DEFAULT_STOPPING, Hyper, Spec, Stopping
from mnistjax.data import Dataset
from mnistjax.layout import count_argument, order_seed, segment_rows, steps_left
from mnistjax.metrics import Sums
from mnistjax.programs import Program, make_program
from mnistjax.run import (
    Callback,
    Progress,
    Result,
    Run,
    RunStatus,
    Snapshot,
    best_epoch,
    count_examples,
    curve_metrics,
    find_end,
    find_reason,
    find_status,
    make_row,
)
from mnistjax.step import State, init, variables_of


def fit(
    spec: Spec,
    hyper: Hyper,
    *,
    data: Dataset,
    seed: int = 0,
    stopping: Stopping = DEFAULT_STOPPING,
    snapshot: Snapshot | None = None,
    rows: Sequence[dict[str, Any]] = (),
    callbacks: Sequence[Callback] = (),
    start: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Trains one run and tests it once at its end: a function of (spec, hyper, seed, data).

    With a `snapshot` and the `rows` up to it, the run continues, and ends bit for bit like one never stopped.
    A run may start from trained variables, nested as by `model.init`; those that are missing are initialised.
    `stop` is called after each segment; if it returns true, the run ends as "interrupted". ConfigError if the
    data or the variables do not fit the Spec, if rows are missing, or for a wrong seed or stopping rule.
    Raises what a callback raises.
    """
    run = Run(hyper, seed, stopping, snapshot, rows, callbacks, start)
    ((_, result),) = fit_runs(make_program(spec, data), [[run]], stop=stop)
    if result.error:
        raise result.error
    return result


def fit_runs(
    program: Program, groups: Iterable[Sequence[Run]], *, stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Run, Result]]:
    """Trains runs of one Spec, and yields each with its Result when it ends.

    A program of one lane trains a group at a time: its runs take turns on the same batches, segment by
    segment; ValueError unless they read the images in one order and are at one step. In a program of many
    lanes each run takes the next free lane. A run whose callback raises ends as "failed", one whose loss is
    not finite as "diverged"; the others continue. Once `stop` returns true, the runs in the lanes end as
    "interrupted" after their segment, and no other begins.
    """
    spec, lanes, stopped = program.spec, dict[int, _Lane](), False
    if program.width > 1:
        groups = ([run] for group in groups for run in group)
    with compile_clock() as compiling:
        waiting = _Waiting(spec, ([_Lane(spec, run, compiling) for run in group] for group in groups))
        while True:
            for number in [number for number, lane in lanes.items() if lane.status]:
                lane = lanes.pop(number)
                yield lane.run, lane.result(program, number)
                program.remove(number)
            while not stopped and program.has_room(len(lanes)) and (group := waiting.take(lanes)):
                for lane in group:
                    number = next(number for number in itertools.count() if number not in lanes)
                    lanes[number] = lane
                    program.put(number, lane.run.hyper, lane.run.seed, lane.start)
            if not lanes:
                return
            if any(lane.status for lane in lanes.values()):  # over before it began
                continue
            started, compiled = time.perf_counter(), sum(compiling)
            count = min(steps_left(spec, lane.step) for lane in lanes.values())
            program.advance({n: lane.rows for n, lane in lanes.items()}, count_argument(spec, count))
            for lane in lanes.values():  # the device works meanwhile: JAX has only dispatched
                lane.advance(count)
            longest = max(lanes.values(), key=lambda lane: lane.run.epochs)
            if longest.step < longest.run.epochs * spec.steps_per_epoch:
                program.prepare(longest.rows)
            sums = program.sums()
            seconds = time.perf_counter() - started - (sum(compiling) - compiled)
            val_sums = program.evaluate([number for number, lane in lanes.items() if lane.ends_epoch])
            stopped = stop()
            for number, lane in lanes.items():
                lane.seconds += seconds / len(lanes)
                state = functools.partial(program.state, number)
                lane.record(sums[number], val_sums.get(number), state, stopped)


class _Waiting:
    """The groups whose runs have not begun."""

    def __init__(self, spec: Spec, groups: Iterator[list[_Lane]]) -> None:
        self._spec, self._groups, self._next = spec, groups, list[_Lane]()

    def take(self, lanes: Mapping[int, _Lane]) -> list[_Lane]:
        """The next group; nothing if none is left, or if it must wait for lanes at another step."""
        while not self._next:
            group = next(self._groups, None)
            if group is None:
                return []
            if len({(order_seed(self._spec, lane.run.seed), lane.step) for lane in group}) > 1:
                raise ValueError("interleaved runs must have one seed and be at one step")
            self._next = group
        if self._spec.shuffle == "shared" and {lane.step for lane in lanes.values()} - {self._next[0].step}:
            return []
        group, self._next = self._next, []
        return group


class _Lane:
    """What the host keeps of one run in a program."""

    @isolated()
    def __init__(self, spec: Spec, run: Run, compiling: Sequence[float]) -> None:
        self.spec, self.run = spec, run
        self.records = list(run.rows)
        self.status: RunStatus | None = find_end(run, self.records)
        self.error: Exception | None = None
        self.seconds = 0.0  # of training in the current epoch
        self._compiling, self._compiled = compiling, sum(compiling)
        run.check(spec)
        self._best: dict[str, Any] | None = None
        if run.snapshot:  # copied, because each segment overwrites the State it is given
            self.start, self._best = jax.tree.map(jnp.array, run.snapshot["state"]), run.snapshot["best"]
        else:  # wait for all of it: if memory ran out, reading one of its arrays would wait forever
            key = jax.random.key(run.seed)
            self.start = jax.block_until_ready(init(spec.without_batches, run.hyper, key, run.start))
        self.step = int(self.start.step)
        self.advance(0)

    def advance(self, count: int) -> None:
        """Counts these steps as done, and finds the rows of the next segment."""
        self.step += count
        left = steps_left(self.spec, self.step)
        self.rows = segment_rows(self.spec, seed=self.run.seed, step=self.step, count=left)

    @property
    def ends_epoch(self) -> bool:
        return self.step % self.spec.steps_per_epoch == 0

    def record(self, sums: Sums, val_sums: Sums | None, state: Callable[[], State], stop: bool) -> None:
        """Tells the callbacks how the segment went, with a row if an epoch has ended."""
        spec, stopping = self.spec, self.run.stopping
        metrics, row = curve_metrics(spec, sums), None
        if self.ends_epoch:
            assert val_sums is not None
            row = make_row(spec, len(self.records) + 1, self.seconds, metrics, curve_metrics(spec, val_sums))
            self.records.append(row)
            self.seconds = 0.0
            if stopping.keep == "best" and best_epoch(self.records, stopping.monitor) == row["epoch"]:
                self._best = _host_copy(variables_of(state()))
        self.status = find_status(self.run, row, self.records, stop)
        progress = Progress(
            epoch=len(self.records),
            epochs=stopping.epochs,
            step=self.step,
            steps_per_epoch=spec.steps_per_epoch,
            examples_seen=count_examples(spec, self.step),
            train=metrics,
            row=row,
            snapshot=lambda: _host_copy(Snapshot(state=state(), best=self._best)),
            final=self.status is not None,
        )
        try:
            for callback in self.run.callbacks:
                callback(progress)
        except Exception as error:
            self.status, self.error = "failed", error

    def result(self, program: Program, number: int) -> Result:
        """The Result of the run, which has ended in the lane of this number."""
        assert self.status is not None
        stopping, rows, state, test = self.run.stopping, self.records, program.state(number), None
        variables = variables_of(state) if self._best is None else self._best
        if self.status == "done":
            test = program.test(variables)
        return Result(
            status=self.status,
            reason=find_reason(self.status, rows, self.error),
            epoch=len(rows),
            rows=rows,
            state=state,
            variables=variables,
            kept_epoch=len(rows) if self._best is None else best_epoch(rows, stopping.monitor),
            seconds_per_epoch=statistics.median(row["seconds"] for row in rows) if rows else math.nan,
            compile_seconds=sum(self._compiling) - self._compiled,
            test=test,
            lanes=program.width,
            error=self.error,
        )


def _host_copy(tree: Any) -> Any:
    """NumPy arrays with their own memory: `device_get` on CPU returns views that the next step overwrites."""
    return jax.tree.map(np.array, jax.device_get(tree))
