"""The runs of the lab report's experiments, and measurements of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax.config import ConfigError
from mnistjax.report.runs import RunRecord, read_runs

Study = Mapping[str, Sequence[RunRecord]]  # the runs of each experiment, by its name in conf/experiment
Number = Callable[[RunRecord], float]

EXPERIMENTS = ("batch_size", "activation", "width", "multiclass", "optimizer")
SGD = "momentum"  # the lab report's SGD, as we understand it (conf/experiment/optimizer.yaml)
OPTIMIZERS = (SGD, "rmsprop", "adam")
VARIED: dict[str, tuple[str, tuple[Any, ...]]] = {  # by experiment: the key that it varies, and its values
    "batch_size": ("train.batch_size", (32, 64, 128, 1024, "all")),
    "activation": ("model.activation", ("sigmoid", "tanh", "relu")),
    "width": ("model.hidden", (16, 64, 1024)),
    "optimizer": ("optimizer.name", OPTIMIZERS),
}
TIMES = "times"  # the folder of the single runs that measure time
SMOOTH_FROM = 10  # epochs after which a curve should be smooth
# Pairs of similar digits, of all 45.
ALIKE = [(0, 6), (1, 7), (2, 7), (3, 5), (3, 8), (4, 9), (5, 6), (5, 8), (7, 9), (8, 9)]
CELLS = ("true negatives", "false positives", "false negatives", "true positives")


class TooFew(ConfigError):
    """Fewer than two finished runs, or runs that are too short."""


def read_study(folder: Path, names: Sequence[str] = EXPERIMENTS) -> dict[str, Sequence[RunRecord]]:
    """The runs of each experiment that has a sweep folder of its name in this folder."""
    return {name: read_runs(folder / name) for name in names if (folder / name).exists()}


def pick(study: Study, experiment: str, where: Mapping[str, Any] | None = None) -> list[RunRecord]:
    """The runs of an experiment whose config has these values, by dotted key."""
    wanted = (where or {}).items()
    return [run for run in study.get(experiment, ()) if all(run.config.get(k) == v for k, v in wanted)]


def pick_value(study: Study, experiment: str, value: Any) -> list[RunRecord]:
    """The runs of an experiment with this value of the key that it varies."""
    return pick(study, experiment, {VARIED[experiment][0]: value})


def measure(run: RunRecord, metric: str) -> float:
    """A metric of a finished run's summary, or a cell of its binary confusion matrix."""
    if metric in CELLS:  # digit 0, the positive class, is the second one
        (tn, fp), (fn, tp) = run.summary["test/confusion_matrix"]
        return float(dict(zip(CELLS, (tn, fp, fn, tp), strict=True))[metric])
    return float(run.summary[metric])


def read_times(folder: Path) -> dict[str, float]:
    """Seconds per epoch of the timed single runs that are done, by the name of their row."""
    runs = read_runs(folder / TIMES) if (folder / TIMES).exists() else []
    return {run.folder.name: float(run.summary["seconds_per_epoch"]) for run in runs if run.status == "done"}


def curve(run: RunRecord, key: str) -> np.ndarray:
    """A column of `metrics.jsonl`, an entry per epoch."""
    return np.array([float(row[key]) for row in run.rows])


def after(run: RunRecord, key: str, epoch: int) -> np.ndarray:
    """The column after that epoch; TooFew if the run is not longer."""
    if len(run.rows) <= epoch:
        raise TooFew(f"a run has {len(run.rows)} epochs; more than {epoch} are needed")
    return curve(run, key)[epoch:]


def summary_number(metric: str) -> Number:
    return lambda run: measure(run, metric)


def irregularity(run: RunRecord) -> float:
    """The changes per epoch of the validation loss that cancel out, after ten epochs; 0 if monotonic."""
    values = after(run, "val/loss", SMOOTH_FROM)
    if len(values) < 3:
        return math.nan
    return float(np.abs(np.diff(values)).sum() - abs(values[-1] - values[0])) / (len(values) - 1)


def epochs_to_converge(run: RunRecord) -> float:
    """The first epoch whose validation loss is within a tenth of the lowest one."""
    values = curve(run, "val/loss")
    return 1.0 + float(np.argmax(values <= 1.1 * values.min()))


def loss_gap(run: RunRecord) -> float:
    """Validation loss less training loss, the mean of the last ten epochs."""
    return float(np.mean((curve(run, "val/loss") - curve(run, "train/loss"))[-10:]))


def f1_gap(run: RunRecord) -> float:
    """Training F1 less validation F1, the mean of the last ten epochs, in points of 0.01."""
    return 100 * float(np.mean((curve(run, "train/f1") - curve(run, "val/f1"))[-10:]))


def moves_together(run: RunRecord) -> float:
    """The correlation of the two losses' changes from epoch to epoch, after ten epochs."""
    train, val = (np.diff(after(run, key, SMOOTH_FROM)) for key in ("train/loss", "val/loss"))
    return float(np.corrcoef(train, val)[0, 1]) if len(train) > 1 and train.any() and val.any() else math.nan


def alike_share(run: RunRecord) -> float:
    """The share of errors that take one of ten pairs of similar digits for each other."""
    matrix = np.array(run.summary["test/confusion_matrix"])
    errors = matrix - np.diag(np.diag(matrix))
    return float(sum(errors[i, j] + errors[j, i] for i, j in ALIKE) / errors.sum())
