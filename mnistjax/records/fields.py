"""The fields of a run's records, and what their values must be."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mnistjax import checks
from mnistjax.checks import Check
from mnistjax.config import shorten
from mnistjax.files import DamagedFile

Status = Literal["running", "done", "failed", "diverged", "stopped", "interrupted"]
STATUSES: tuple[Status, ...] = ("running", "done", "failed", "diverged", "stopped", "interrupted")

METRICS = ("loss", "accuracy", "f1")
VALIDATED, TRAINED = (tuple(f"{split}/{name}" for name in METRICS) for split in ("val", "train"))
CURVES = VALIDATED + TRAINED
EXACT = 2**53  # a browser represents all whole numbers up to this one exactly


def is_square(matrix: Any) -> bool:
    """Whether a value is a square matrix of counts, as a list of lists."""
    if type(matrix) is not list or not 1 < len(matrix) <= checks.MOST_CLASSES:
        return False
    return all(
        type(row) is list and len(row) == len(matrix) and all(type(x) is int and 0 <= x <= EXACT for x in row)
        for row in matrix
    )


IMAGE_SHAPE = Check(
    lambda x: type(x) is list and len(x) == 3 and all(type(side) is int and 0 < side <= 2**16 for side in x),
    "the shape of an image, [28, 28, 1] for example",
)
MATRIX = Check(is_square, "a square matrix of whole numbers")
STATUS_FIELDS: dict[str, Check] = {
    "status": checks.choice(*STATUSES),
    "reason": checks.optional(checks.ANY_TEXT),
    "epoch": checks.whole(0),
    "started": checks.TIME,
    "ended": checks.optional(checks.TIME),
    "identity": checks.TEXT,
}
AGENT = {  # fields of `tracking.AgentRun`
    "id": checks.PROJECT,
    **dict.fromkeys(("sweep", "project", "entity"), checks.optional(checks.PROJECT)),
}
AGENT_RUN = checks.optional(
    Check(
        lambda x: isinstance(x, dict) and x.keys() == AGENT.keys() and all(AGENT[k].holds(x[k]) for k in x),
        "a W&B run: its id, sweep, project and entity",
    )
)
ROW_FIELDS: dict[str, Check] = {
    "epoch": checks.whole(1),
    "examples_seen": checks.whole(0),
    "seconds": checks.SECONDS,
    **dict.fromkeys(CURVES, checks.NUMBER),
}
SUMMARY_FIELDS: dict[str, Check] = {
    **{f"test/{name}": checks.NUMBER for name in (*METRICS, "precision", "recall")},
    "test/count": checks.whole(0),
    "test/confusion_matrix": MATRIX,
    "kept_epoch": checks.whole(1),
    "seconds_per_epoch": checks.NUMBER,
    "compile_seconds": checks.NUMBER,
    "parameters": checks.whole(0),
    "data": checks.MAPPING,
    "spec": checks.MAPPING,
    "device": checks.MAPPING,
    "seed": checks.SEED,
    "identity": checks.TEXT,
}
OPTIONAL_FIELDS = dict.fromkeys(("test/balanced_accuracy", "test/auc"), checks.NUMBER)
"""Fields that the summary of an older run lacks; only that of a task with two classes has an AUC."""
DATA_FIELDS: dict[str, Check] = {"name": checks.TEXT, "sha256": checks.TEXT}
SPEC_FIELDS: dict[str, Check] = {
    "model": checks.TEXT,
    "model_options": checks.PAIRS,
    "task": checks.choice("multiclass", "binary"),
    "num_classes": checks.whole(1, highest=100_000),
    "train_count": checks.whole(1),
    "batch_size": checks.whole(1),
}


def check_fields(where: str, content: Mapping[str, Any], fields: Mapping[str, Check]) -> None:
    """Raises DamagedFile unless `content` has all these fields with allowed values; it may have others."""
    for name, check in fields.items():
        if name not in content:
            raise DamagedFile(f"{where} is damaged: {name} is missing")
        if not check.holds(content[name]):
            found = shorten(content[name])
            raise DamagedFile(f"{where} is damaged: {name} must be {check.allowed}; found {found!r}")


def check_mapping(where: str, value: Any) -> dict[str, Any]:
    """The value; DamagedFile unless it is a mapping."""
    if not isinstance(value, dict):
        raise DamagedFile(f"{where} is damaged: a mapping is expected, found {shorten(value)!r}")
    return value


def check_summary(where: str, summary: Any, epochs: int | None = None) -> None:
    """Raises DamagedFile unless a value is the summary of a run, of `epochs` epochs if given."""
    given = {name: OPTIONAL_FIELDS[name] for name in OPTIONAL_FIELDS if name in check_mapping(where, summary)}
    check_fields(where, summary, SUMMARY_FIELDS | given)
    check_fields(f"{where}, data", summary["data"], DATA_FIELDS)
    check_fields(f"{where}, spec", summary["spec"], SPEC_FIELDS)
    classes, names = len(summary["test/confusion_matrix"]), summary["data"].get("class_names")
    if names is not None and not (checks.NAMES.holds(names) and len(names) == classes):
        raise DamagedFile(f"{where} is damaged: data.class_names must be {classes} names")
    if epochs is not None and summary["kept_epoch"] > epochs:
        raise DamagedFile(f"{where} is damaged: kept_epoch is {summary['kept_epoch']} of {epochs} epochs")


def check_epochs(where: str, rows: Sequence[Any]) -> None:
    """Raises DamagedFile unless these are the rows of epochs 1, 2, 3, ..."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or row.get("epoch") != number or type(row["epoch"]) is not int:
            raise DamagedFile(f"{where}, line {number}: the row of epoch {number} is expected")


def check_rows(where: str, rows: Sequence[Any]) -> None:
    """Raises DamagedFile unless these are the rows of epochs 1, 2, 3, ..., each with all metrics."""
    check_epochs(where, rows)
    for number, row in enumerate(rows, start=1):
        check_fields(f"{where}, line {number}", row, ROW_FIELDS)
