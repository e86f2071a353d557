"""What a report takes from records that may be a stranger's: texts, plain values, numbers that fit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.report.runs import RunRecord

CURVES = tuple(f"{part}/{name}" for part in ("val", "train") for name in ("loss", "accuracy", "f1"))
TESTED = ("test/accuracy", "test/f1", "test/loss")
TIMES = ("seconds_per_epoch", "compile_seconds")
LONGEST = 40  # characters of a class name


def check_run(run: RunRecord) -> RunRecord:
    """The run with words that any file can hold; as failed, with the reason, if its records make no sense."""
    run = replace(
        run,
        status=clean(run.status),
        reason=None if run.reason is None else clean(run.reason),
        name=None if run.name is None else clean(run.name),
        identity=None if run.identity is None else clean(run.identity),
        config={clean(key): plain(value) for key, value in run.config.items()},
    )
    try:
        records.check_rows("metrics.jsonl", run.rows)
        if run.status == "done":
            records.check_summary("summary.json", run.summary, len(run.rows))
    except ConfigError as error:
        return replace(run, status="failed", reason=clean(error), rows=[], summary={}, damaged=True)
    return run


def clean(value: Any) -> str:
    """A value as text that can be encoded: half a surrogate pair, of a file's name say, becomes an escape."""
    text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
    return text.encode(errors="backslashreplace").decode()


def plain(value: Any) -> Any:
    """A value as null, true, false, a finite number, a text, or a list of these; all else as text."""
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return value if abs(value) <= records.EXACT else hex(value)[:100]  # `str` refuses thousands of digits
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)) and not any(isinstance(x, (list, tuple, Mapping)) for x in value):
        return [plain(item) for item in value]
    return clean(value)


def class_names(run: RunRecord) -> list[str]:
    """Of the run's task; numbers if its records are older than their names."""
    data = run.summary.get("data")
    if isinstance(data, Mapping) and data.get("class_names"):
        return [_visible(name) for name in data["class_names"]]
    return [str(number) for number in range(len(run.summary["test/confusion_matrix"]))]


def _visible(name: str) -> str:
    """A class name for pictures and the page, cut if it is long, with escapes for what can't be seen."""
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return seen if len(seen) <= LONGEST else f"{seen[: LONGEST - 1]}…"
