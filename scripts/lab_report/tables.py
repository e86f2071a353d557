"""The lab report's tables, compared with our runs.

Accuracy and F1 are measured on MNIST's 10,000 test images. The lab report trained each network once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab_report.study import VARIED, Study, measure, pick
from mnistjax.report.runs import done
from mnistjax.seeds import Spread

Verdict = Literal["reproduced", "better", "not reproduced", "undecided", "too few runs"]
WORST_FIRST: tuple[Verdict, ...] = ("too few runs", "not reproduced", "undecided", "better", "reproduced")
MIN_RUNS = 3  # for a verdict, because with two runs Student's t allows almost any number


@dataclass(frozen=True)
class Row:
    """A network of the lab report: how to find our runs of it, and the lab report's numbers."""

    label: str
    experiment: str  # in conf/experiment; also the name of the sweep's folder
    where: Mapping[str, Any]  # selects its jobs in the sweep: config values by dotted key
    reported: Mapping[str, float]  # by metric of summary.json, or by cell of a binary confusion matrix
    seconds: float | None = None  # per epoch, on a machine that the lab report does not name

    @property
    def name(self) -> str:
        """A name for a folder."""
        return f"{self.experiment}-{self.label}".replace(",", "")

    @property
    def overrides(self) -> list[str]:
        """The words of the command that trains it."""
        words = [f"experiment={self.experiment}"]
        for key, value in self.where.items():
            words.append(f"{key.removesuffix('.name')}={str(value).replace(' ', '')}")
        return words


@dataclass(frozen=True)
class Table:
    title: str
    column: str  # heads the labels
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for row in self.rows for metric in row.reported))


def _rows(
    experiment: str,
    numbers: Mapping[Any, Sequence[float]],
    metrics: Sequence[str] = ("test/accuracy", "test/f1"),
) -> tuple[Row, ...]:
    """A row for each value of the key that the experiment varies.

    The numbers of a row are the metrics, then the seconds per epoch if they are known.
    """
    rows = []
    for value, found in numbers.items():
        label = f"{value:,}" if isinstance(value, int) else value
        where = {VARIED[experiment][0]: value} if experiment in VARIED else {}
        seconds = found[len(metrics)] if len(found) > len(metrics) else None
        rows.append(Row(label, experiment, where, dict(zip(metrics, found, strict=False)), seconds))
    return tuple(rows)


TABLES = (
    Table(
        "Table I. One neuron, zero or not: the confusion matrix of the full batch",
        "batch size",
        _rows(
            "batch_size",
            {"all": (943, 37, 48, 8972)},
            ("true positives", "false negatives", "false positives", "true negatives"),
        ),
    ),
    Table(
        "Table II. One neuron, zero or not, by batch size",
        "batch size",
        _rows(
            "batch_size",
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
            {"sigmoid": (0.9964, 0.9822), "tanh": (0.9970, 0.9838), "relu": (0.9974, 0.9866)},
        ),
    ),
    Table(
        "Table IV. A hidden layer, zero or not, by width",
        "neurons",
        _rows("width", {16: (0.9972, 0.9857), 64: (0.9974, 0.9866), 1024: (0.9983, 0.9912)}),
    ),
    Table(
        "System C. 64 hidden neurons, ten digits",
        "optimizer",
        _rows("multiclass", {"sgd": (0.9585,)}, ("test/accuracy",)),
    ),
    Table(
        "System D. A convolutional network, ten digits, by optimizer (SGD with momentum)",
        "optimizer",
        _rows(
            "optimizer", {"momentum": (0.9937,), "rmsprop": (0.9663,), "adam": (0.9692,)}, ("test/accuracy",)
        ),
    ),
)


def judge(metric: str, reported: float, ours: Spread) -> Verdict:
    """Whether the lab report's one run could be one of ours.

    "reproduced" if it lies in the 95 % prediction interval for one more seed. "undecided" if that interval
    holds every value that an accuracy or F1 can have, as when some seeds do not learn.
    """
    if ours.n < MIN_RUNS:
        return "too few runs"
    if metric.startswith("test/") and ours.next_half_width >= max(ours.mean, 1 - ours.mean):
        return "undecided"
    if abs(reported - ours.mean) <= ours.next_half_width:
        return "reproduced"
    lower_is_better = metric.startswith("false")
    return "better" if (ours.mean > reported) != lower_is_better else "not reproduced"


@dataclass(frozen=True)
class Compared:
    """A row of a table, compared with our runs."""

    row: Row
    ours: Mapping[str, Spread]  # of the runs that are done, by metric
    failed: int  # runs that are not done
    seconds: float | None  # per epoch of a single run, if one was timed

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its metrics."""
        found = {judge(metric, value, self.ours[metric]) for metric, value in self.row.reported.items()}
        return next(verdict for verdict in WORST_FIRST if verdict in found)

    @property
    def explanation(self) -> str:
        """The differences of the metrics that are not reproduced, and our values of the undecided metrics."""
        words = []
        for metric, value in self.row.reported.items():
            ours = self.ours[metric]
            match judge(metric, value, ours):
                case "not reproduced":
                    words.append(f"{short_name(metric)} {ours.mean - value:+.4g}")
                case "undecided":
                    values = " and ".join(f"{one:.4f}" for one in ours.values)
                    words.append(f"{short_name(metric)} of our runs {values}")
        return ", ".join(words)


def compare(table: Table, study: Study, times: Mapping[str, float] | None = None) -> Iterator[Compared]:
    """The rows of a table, compared with our runs; `times` are seconds per epoch by the rows' names."""
    for row in table.rows:
        runs = pick(study, row.experiment, row.where)
        finished = done(runs)
        ours = {metric: Spread(tuple(measure(run, metric) for run in finished)) for metric in row.reported}
        yield Compared(row, ours, len(runs) - len(finished), (times or {}).get(row.name))


def short_name(metric: str) -> str:
    """test/accuracy -> accuracy, test/f1 -> F1."""
    return {"test/accuracy": "accuracy", "test/f1": "F1"}.get(metric, metric)


def table_cells(table: Table, compared: Sequence[Compared]) -> list[list[str]]:
    """A table as text, its head first."""
    timed = any(one.row.seconds for one in compared)
    head = [table.column]
    for metric in table.metrics:
        head += [f"{short_name(metric)}, lab report", "ours"]
    lines = [[*head, "n", "verdict", *(["seconds per epoch, lab report", "ours"] if timed else [])]]
    for one in compared:
        cells = [one.row.label]
        for metric, reported in one.row.reported.items():
            ours, digits = one.ours[metric], ".4f" if metric.startswith("test/") else ",.0f"
            cells += [format(reported, digits), format(ours, digits) if ours.n else ""]
        n = next(iter(one.ours.values())).n
        cells.append(f"{n} ({one.failed} not done)" if one.failed else str(n))
        cells.append(one.verdict + (f": {one.explanation}" if one.explanation else ""))
        if timed:
            cells += [f"{one.row.seconds:g}" if one.row.seconds else "", _seconds(one.seconds)]
        lines.append(cells)
    return lines


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
