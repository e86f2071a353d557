"""`results.csv` of a sweep, with a row for each job, and the names of the jobs.

The table is made from the run folders, so it can be made again at any time.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnistjax import files, records
from mnistjax.compose import flatten
from mnistjax.config import ConfigError, to_plain
from mnistjax.records.fields import METRICS, OPTIONAL_FIELDS
from mnistjax.seeds import describe_value, is_option
from mnistjax.sweeps.ledger import RESULTS, Entry

TIMES = ("seconds_per_epoch", "compile_seconds")
SILENT = ("sweep", "wandb", "resume", "seed")  # keys that change no result; the seed has its own column


def varying(configs: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The values of each job's config that differ between jobs, by dotted key, without the seed.

    Keys that follow from a choice are left out: if all jobs with adam have b1=0.9, their names omit it.
    """
    flat = dict(zip(configs, align([dict(flatten(config)) for config in configs.values()]), strict=True))
    keys = dict.fromkeys(key for config in flat.values() for key in config)
    columns = {
        key: [json.dumps(to_plain(config.get(key))) for config in flat.values()]
        for key in keys
        if key.partition(".")[0] not in SILENT
    }
    columns = {key: values for key, values in columns.items() if len(set(values)) > 1}
    choices = {key.partition(".")[0]: values for key, values in columns.items() if key.endswith(".name")}

    def follows(key: str) -> bool:
        """Whether each choice of the key's group has only one value of the key."""
        names = choices.get(key.partition(".")[0])
        if names is None or key.endswith(".name"):
            return False
        return len(set(zip(names, columns[key], strict=True))) == len(set(names))

    chosen = [key for key in columns if not follows(key)]
    return {number: {key: config[key] for key in chosen if key in config} for number, config in flat.items()}


def align(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """These configs, by dotted key, with a list of one value as that value if another has a whole number.

    For `model.hidden=64` is short for [64].
    """
    short = {key for config in configs for key, value in config.items() if type(value) is int}
    return [
        {k: v[0] if k in short and type(v) is list and len(v) == 1 else v for k, v in config.items()}
        for config in configs
    ]


def short_name(config: Mapping[str, Any], seed: int) -> str:
    """The name of a run, made of its values that differ: {"optimizer.name": "adam"}, 3 -> "adam seed=3"."""
    return " ".join([*(describe_value(key, shown(value)) for key, value in config.items()), f"seed={seed}"])


def shown(value: Any) -> str:
    """A value of a config as text."""
    return json.dumps(to_plain(value)) if isinstance(value, (list, tuple)) else str(value)


def read_result(entry: Entry, folder: Path) -> dict[str, Any]:
    """The row of a job in `results.csv`, read from its run folder."""
    status, reason, rows, summary = entry.status, entry.reason, [], {}
    try:
        record = records.read_record(folder, whole=False)
        rows, summary = record.rows, record.summary or {}
    except FileNotFoundError:
        pass  # not started
    except (ConfigError, OSError) as error:
        status, reason = ("failed", str(error)) if status == "done" else (status, reason)
    return {**make_result(entry, rows, summary), "status": status, "reason": reason or ""}


def make_result(
    entry: Entry, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The row of a job in `results.csv`, from its rows and its summary, which is empty unless it is done."""
    row = records.find_kept_row(rows, summary)
    return {
        "number": entry.number,
        **{key: shown(value) for key, value in entry.config.items()},
        "seed": entry.seed,
        "status": entry.status,
        "reason": entry.reason or "",
        "epoch": len(rows),
        **{f"{part}/{name}": row.get(f"{part}/{name}", "") for part in ("train", "val") for name in METRICS},
        **{f"test/{name}": summary.get(f"test/{name}", "") for name in (*METRICS, "precision", "recall")},
        **{name: summary[name] for name in OPTIONAL_FIELDS if name in summary},
        "parameters": summary.get("parameters", ""),
        **{name: summary.get(name, "") for name in TIMES},
    }


def write_results(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `results.csv` with the columns of all rows."""
    rows = sorted(rows, key=lambda row: row["number"])
    own = [key for row in rows for key in row if is_option(key)]
    first = ["number", *dict.fromkeys(own), "seed"]
    write_csv(folder / RESULTS, rows, first)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], first: Iterable[str] = ()) -> None:
    """Writes a CSV file with the columns of all rows, the `first` columns first."""
    files.replace(path, format_csv(rows, first).encode())


def format_csv(rows: Sequence[Mapping[str, Any]], first: Iterable[str]) -> str:
    """The text of a CSV file with the columns of all rows, the `first` columns first."""
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerow({key: _cell(key) for key in columns})
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value for a table, with a quote before text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=@\t\r]|[+-](?![\d.]|inf)", value) else value
