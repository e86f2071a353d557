"""A run as the host sees it: what it starts from, what callbacks see, when it ends, what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from mnistjax.checks import check_training
from mnistjax.config import DEFAULT_STOPPING, ConfigError, Hyper, Spec, Stopping, badness, one_line
from mnistjax.metrics import Sums, summarize
from mnistjax.plan import check_start
from mnistjax.step import State, build_model

RunStatus = Literal["done", "diverged", "stopped", "interrupted", "failed"]


class Snapshot(TypedDict):
    """All that a run needs to continue."""

    state: State
    best: dict[str, Any] | None  # variables of the best epoch so far, if it is kept


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each segment of an epoch; training waits meanwhile."""

    epoch: int  # epochs finished
    epochs: int  # epochs planned
    step: int  # optimizer steps since the start of the run
    steps_per_epoch: int
    examples_seen: int  # since the start of the run
    train: dict[str, float]  # loss (nats), accuracy and f1 of the current epoch so far
    row: dict[str, Any] | None  # the record of the epoch that has just ended; None inside an epoch
    snapshot: Callable[[], Snapshot]  # returns a copy on the host
    final: bool  # whether the run ends here


Callback = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class Run:
    """One run to train. With a `snapshot` and the `rows` up to it, it continues to the bits of a run that was
    never stopped."""

    hyper: Hyper
    seed: int = 0
    stopping: Stopping = DEFAULT_STOPPING
    snapshot: Snapshot | None = None
    rows: Sequence[dict[str, Any]] = ()
    callbacks: Sequence[Callback] = ()
    start: Mapping[str, Any] | None = None  # trained variables to start from, as `model.init` nests them
    pause: int | None = None  # epochs after which it ends as "stopped", to be continued or not

    def __post_init__(self) -> None:
        check_training(self.seed, self.stopping)

    @property
    def epochs(self) -> int:
        """The most epochs after which it ends."""
        return self.stopping.epochs if self.pause is None else min(self.pause, self.stopping.epochs)

    def check(self, spec: Spec) -> None:
        """Raises ConfigError unless the variables to start from fit the Spec, and the rows the snapshot."""
        if self.start is not None:
            check_start(spec, build_model(spec), self.start, "start", "nest it as `model.init` does")
        epochs = int(self.snapshot["state"].step) // spec.steps_per_epoch if self.snapshot else 0
        if epochs != len(self.rows):
            raise ConfigError(f"a snapshot after {epochs} epochs needs their rows; got {len(self.rows)}")


@dataclass(frozen=True)
class Result:
    """What `fit` returns."""

    status: RunStatus
    reason: str | None  # why, unless done
    epoch: int  # epochs finished
    rows: list[dict[str, Any]]  # one per epoch, as in metrics.jsonl
    state: State
    variables: dict[str, Any]  # the argument of `model.apply`, of the kept epoch
    kept_epoch: int
    seconds_per_epoch: float  # median of the training passes, a lane's share; compile and evaluation excluded
    compile_seconds: float
    test: dict[str, Any] | None  # of `metrics.summarize`, and `auc` for two classes; only when done
    lanes: int = 1  # of the program that trained it
    error: Exception | None = None  # raised by a callback; only when failed


def best_epoch(rows: Sequence[Mapping[str, Any]], monitor: str) -> int:
    """The first epoch with the best value of a validation metric: lowest for a loss, highest for others."""
    return min(rows, key=lambda row: (badness(monitor, row[monitor]), row["epoch"]))["epoch"]


def is_over(rows: Sequence[Mapping[str, Any]], stopping: Stopping) -> bool:
    if len(rows) >= stopping.epochs:
        return True
    if stopping.patience is None or not rows:
        return False
    return len(rows) - best_epoch(rows, stopping.monitor) >= stopping.patience


def find_end(run: Run, rows: Sequence[Mapping[str, Any]]) -> RunStatus | None:
    """How the run ends after these rows; None if it continues."""
    if is_over(rows, run.stopping):
        return "done"
    return "stopped" if len(rows) >= run.epochs else None


def find_status(
    run: Run, row: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]], stop: bool
) -> RunStatus | None:
    """How the run ends after a segment, whose epoch has ended if there is a `row`; None if it continues."""
    if row and not (math.isfinite(row["train/loss"]) and math.isfinite(row["val/loss"])):
        return "diverged"
    return (find_end(run, rows) if row else None) or ("interrupted" if stop else None)


def find_reason(status: str, rows: Sequence[Mapping[str, Any]], error: Exception | None) -> str | None:
    if error:
        return one_line(error)
    if status == "diverged":
        return f"the loss is not finite in epoch {len(rows)}"
    if status == "stopped":
        return f"paused after {len(rows)} epochs"
    return f"stopped after {len(rows)} finished epochs" if status == "interrupted" else None


def make_row(
    spec: Spec, epoch: int, seconds: float, train: Mapping[str, float], val: Mapping[str, float]
) -> dict[str, Any]:
    """An epoch's record, as in metrics.jsonl; `seconds` of its training pass."""
    return {
        "epoch": epoch,
        "examples_seen": epoch * spec.train_count,
        "seconds": round(seconds, 6),
        **{f"train/{name}": value for name, value in train.items()},
        **{f"val/{name}": value for name, value in val.items()},
    }


def curve_metrics(spec: Spec, sums: Sums) -> dict[str, float]:
    metrics = summarize(spec.task, sums)
    return {name: metrics[name] for name in ("loss", "accuracy", "f1")}


def count_examples(spec: Spec, step: int) -> int:
    epochs, steps = divmod(step, spec.steps_per_epoch)
    return epochs * spec.train_count + steps * spec.batch_size
