"""The report's numbers (Laczko and Joshi, "Neural Networks from Scratch"), and ours beside them.

Accuracy and F1 are those of the 10,000 test images of MNIST. The report trained each network once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnistjax.report.runs import RunRecord, done, read_runs

Verdict = Literal["reproduced", "better", "not reproduced", "undecided", "too few runs"]
Study = Mapping[str, Sequence[RunRecord]]  # the runs of each experiment, by its name in conf/experiment

EXPERIMENTS = ("batch_size", "activation", "width", "multiclass", "optimizer")
ENOUGH = 3  # runs for a verdict: with two, Student's t leaves room for almost any number
TIMES = "times"  # the folder of single runs that are only timed


@dataclass(frozen=True)
class Row:
    """A network of the report: where our runs of it lie, and what the report has."""

    label: str  # in its table
    experiment: str  # of conf/experiment, and the name of the sweep's folder
    where: Mapping[str, Any]  # dotted keys that tell its jobs from others of the sweep
    reported: Mapping[str, float]  # by metric of summary.json, or cell of a binary confusion matrix
    seconds: float | None = None  # per epoch, on a machine that the report does not name

    @property
    def name(self) -> str:
        """A folder's name."""
        return f"{self.experiment}-{self.label}".replace(",", "")

    @property
    def overrides(self) -> list[str]:
        """What a command says to train it."""
        words = [f"experiment={self.experiment}"]
        for key, value in self.where.items():
            words.append(f"{key.removesuffix('.name')}={str(value).replace(' ', '')}")
        return words


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    title: str
    column: str  # what the labels are
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> list[str]:
        """Those of its rows, in their order."""
        return list(dict.fromkeys(metric for row in self.rows for metric in row.reported))


def _rows(
    experiment: str,
    where: Callable[[Any], Mapping[str, Any]],
    numbers: Mapping[Any, Sequence[float]],
    metrics: Sequence[str] = ("test/accuracy", "test/f1"),
) -> tuple[Row, ...]:
    """A row for each key of the numbers: those of the metrics, then the seconds per epoch where known."""
    return tuple(
        Row(
            f"{key:,}" if isinstance(key, int) else key,
            experiment,
            where(key),
            dict(zip(metrics, values, strict=False)),
            values[len(metrics)] if len(values) > len(metrics) else None,
        )
        for key, values in numbers.items()
    )


FULL_BATCH = {"train.batch_size": "all"}
TABLES = (
    Table(
        "Table I. One neuron, zero or not: the confusion matrix of the full batch",
        "batch size",
        _rows(
            "batch_size",
            lambda _: FULL_BATCH,
            {"all": (943, 37, 48, 8972)},
            ("true positives", "false negatives", "false positives", "true negatives"),
        ),
    ),
    Table(
        "Table II. One neuron, zero or not, by batch size",
        "batch size",
        _rows(
            "batch_size",
            lambda size: {"train.batch_size": size},
            {
                32: (0.9870, 0.9143, 5),
                64: (0.9906, 0.9506, 2),
                128: (0.9903, 0.9486, 1),
                1024: (0.9893, 0.9466, 0.3),
                "all": (0.9916, 0.9573, 0.04),
            },
        ),
    ),
    Table(
        "Table III. 64 hidden neurons, zero or not, by activation",
        "activation",
        _rows(
            "activation",
            lambda name: {"model.activation": name},
            {"sigmoid": (0.9964, 0.9822), "tanh": (0.9970, 0.9838), "relu": (0.9974, 0.9866)},
        ),
    ),
    Table(
        "Table IV. A hidden layer, zero or not, by width",
        "neurons",
        _rows(
            "width",
            lambda width: {"model.hidden": width},
            {16: (0.9972, 0.9857), 64: (0.9974, 0.9866), 1024: (0.9983, 0.9912)},
        ),
    ),
    Table(
        "System C. 64 hidden neurons, ten digits",
        "optimizer",
        _rows("multiclass", lambda _: {}, {"sgd": (0.9585,)}, ("test/accuracy",)),
    ),
    Table(
        "System D. A convolutional network, ten digits, by optimizer (SGD with momentum)",
        "optimizer",
        _rows(
            "optimizer",
            lambda name: {"optimizer.name": name},
            {"momentum": (0.9937,), "rmsprop": (0.9663,), "adam": (0.9692,)},
            ("test/accuracy",),
        ),
    ),
)


def read_study(folder: Path, names: Sequence[str] = EXPERIMENTS) -> dict[str, list[RunRecord]]:
    """The runs of the experiments that lie in the folder, each in a sweep folder of its name."""
    return {name: read_runs([folder / name]) for name in names if (folder / name).exists()}


def pick(study: Study, experiment: str, where: Mapping[str, Any] | None = None) -> list[RunRecord]:
    """The runs of an experiment whose config says so."""
    wanted = (where or {}).items()
    return [run for run in study.get(experiment, ()) if all(run.config.get(k) == v for k, v in wanted)]


def measure(run: RunRecord, metric: str) -> float:
    """A metric of a run that is done, or a cell of its binary confusion matrix."""
    cells = ("true negatives", "false positives", "false negatives", "true positives")
    if metric in cells:  # digit 0, the positive class, is the second one
        (tn, fp), (fn, tp) = run.summary["test/confusion_matrix"]
        return dict(zip(cells, map(float, (tn, fp, fn, tp)), strict=True))[metric]
    return float(run.summary[metric])


@dataclass(frozen=True)
class Ours:
    """What our finished runs of a row have of one metric."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def std(self) -> float:
        """Of a sample; nan for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def half_width(self) -> float:
        """Of the 95 % prediction interval for one more run, Student's t; nan for one run."""
        from scipy.stats import t

        n = len(self.values)
        return float(t.ppf(0.975, n - 1)) * self.std * math.sqrt(1 + 1 / n) if n > 1 else math.nan

    def verdict(self, metric: str, reported: float) -> Verdict:
        """Whether the report's one run could be one of ours: it lies in the prediction interval for one more.

        Where it lies outside and ours are better, the row is better. An interval that holds all that an
        accuracy or F1 can be, as where some seeds do not learn, decides nothing.
        """
        if len(self.values) < ENOUGH:
            return "too few runs"
        if metric.startswith("test/") and self.half_width >= max(self.mean, 1 - self.mean):
            return "undecided"
        if abs(reported - self.mean) <= self.half_width:
            return "reproduced"
        lower_is_better = metric.startswith("false")
        return "better" if (self.mean > reported) != lower_is_better else "not reproduced"


@dataclass(frozen=True)
class Compared:
    """A row of a table with our runs beside it."""

    row: Row
    ours: Mapping[str, Ours]  # by metric
    failed: int  # runs that are not done; none of them is in `ours`
    seconds: float | None  # per epoch of a single run, where one was timed

    @property
    def verdict(self) -> Verdict:
        """The worst of its metrics': a row is reproduced only if all of them are, or are better."""
        found = {self.ours[metric].verdict(metric, value) for metric, value in self.row.reported.items()}
        ranking: tuple[Verdict, ...] = ("too few runs", "not reproduced", "undecided", "better", "reproduced")
        return next(verdict for verdict in ranking if verdict in found)

    @property
    def why(self) -> str:
        """How far off is what is not reproduced, and the runs of what is undecided, in words."""
        words = []
        for metric, value in self.row.reported.items():
            ours = self.ours[metric]
            match ours.verdict(metric, value):
                case "not reproduced":
                    words.append(f"{name_of(metric)} {ours.mean - value:+.4g}")
                case "undecided":
                    each = " and ".join(f"{one:.4f}" for one in ours.values)
                    words.append(f"{name_of(metric)} of our runs {each}")
        return ", ".join(words)


def compare(table: Table, study: Study, times: Mapping[str, float] | None = None) -> Iterator[Compared]:
    """The rows of a table with our runs: all seeds, none left out; `times` by the rows' names."""
    for row in table.rows:
        runs = pick(study, row.experiment, row.where)
        finished = done(runs)
        ours = {metric: Ours(tuple(measure(run, metric) for run in finished)) for metric in row.reported}
        yield Compared(row, ours, len(runs) - len(finished), (times or {}).get(row.name))


def read_times(folder: Path) -> dict[str, float]:
    """Seconds per epoch of the single runs that were timed, by the name of their row."""
    runs = read_runs([folder / TIMES]) if (folder / TIMES).exists() else []
    return {run.folder.name: float(run.summary["seconds_per_epoch"]) for run in runs if run.status == "done"}


def name_of(metric: str) -> str:
    """In a table's head."""
    return {"test/accuracy": "accuracy", "test/f1": "F1"}.get(metric, metric)


def table_cells(table: Table, compared: Sequence[Compared]) -> list[list[str]]:
    """A table as text: its head, then a row for each of its own."""
    timed = any(one.row.seconds for one in compared)
    head = [table.column]
    for metric in table.metrics:
        head += [f"{name_of(metric)}, report", "ours"]
    lines = [[*head, "n", "verdict", *(["seconds per epoch, report", "ours"] if timed else [])]]
    for one in compared:
        cells = [one.row.label]
        for metric, reported in one.row.reported.items():
            cells += [_number(metric, reported), _spread(metric, one.ours[metric])]
        cells.append(_count(one))
        cells.append(one.verdict + (f": {one.why}" if one.why else ""))
        if timed:
            cells += [f"{one.row.seconds:g}" if one.row.seconds else "", _seconds(one.seconds)]
        lines.append(cells)
    return lines


def _count(one: Compared) -> str:
    n = len(next(iter(one.ours.values())).values)
    return f"{n} ({one.failed} not done)" if one.failed else str(n)


def _number(metric: str, value: float) -> str:
    return f"{value:.4f}" if metric.startswith("test/") else f"{value:,.0f}"


def _spread(metric: str, ours: Ours) -> str:
    if not ours.values:
        return ""
    std = "" if math.isnan(ours.std) else " ± " + (_number(metric, ours.std))
    return f"{_number(metric, ours.mean)}{std}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A table of text in Markdown."""
    head, *rows = cells
    rule = ["---"] + ["---:" if name != "verdict" else "---" for name in head[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows)) + "\n"
