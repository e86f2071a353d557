"""Checks and cleans the records of runs, which may come from anyone, before a report shows them."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.records.fields import EXACT, OPTIONAL_FIELDS, VALIDATED
from mnistjax.report.runs import RunRecord
from mnistjax.words import printable

TESTED = ("test/accuracy", "test/f1", "test/loss", *OPTIONAL_FIELDS)
MAX_CLASS_NAME = 40  # characters


def check_run(run: RunRecord) -> RunRecord:
    """The run with texts that any file can hold; a failed run if its records make no sense."""
    texts = {name: getattr(run, name) for name in ("status", "reason", "name", "identity")}
    texts = {name: None if text is None else clean(text) for name, text in texts.items()}
    run = replace(run, **texts, config={clean(key): plain(value) for key, value in run.config.items()})
    try:
        records.check_rows("metrics.jsonl", run.rows)
        if run.status == "done":
            records.check_summary("summary.json", run.summary, len(run.rows))
    except ConfigError as error:
        return replace(run, status="failed", reason=clean(error), rows=[], summary={}, damaged=True)
    return run


def clean(value: Any) -> str:
    """A value as text that can be encoded: lone surrogates, which file names may have, become escapes."""
    text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
    return text.encode(errors="backslashreplace").decode()


def plain(value: Any) -> Any:
    """A value for JSON: null, a flag, a finite number, a text, or a list of these; all others as text."""
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return value if abs(value) <= EXACT else hex(value)[:100]  # `str` refuses thousands of digits
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)) and not any(isinstance(x, (list, tuple, Mapping)) for x in value):
        return [plain(item) for item in value]
    return clean(value)


def find_monitor(runs: Iterable[RunRecord]) -> str:
    """The validation metric that most runs monitor; of equals the first, val/loss."""
    found = [str(run.config.get("train.monitor")) for run in runs]
    return max(VALIDATED, key=found.count)


def class_names(run: RunRecord) -> list[str]:
    """The class names of the run's task; numbers if the records are too old to have names."""
    data = run.summary.get("data")
    if isinstance(data, Mapping) and data.get("class_names"):
        names = [printable(name) for name in data["class_names"]]
        return [name if len(name) <= MAX_CLASS_NAME else f"{name[: MAX_CLASS_NAME - 1]}…" for name in names]
    return [str(number) for number in range(len(run.summary["test/confusion_matrix"]))]
