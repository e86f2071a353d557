"""Runs in folders, read from their records."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import files, records
from mnistjax.compose import flatten
from mnistjax.config import ConfigError, unknown
from mnistjax.seeds import by_seed
from mnistjax.sweeps.ledger import LEDGER, load_ledger
from mnistjax.sweeps.results import align, short_name, shown, varying
from mnistjax.verdicts import Verdict, compare

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from mnistjax.report.comparison import Comparison
    from mnistjax.report.table import Table

LAST = ("sweep", "started", "folder")  # columns of a frame
PLACES = ("data.dir", "data.raw_dir")  # config keys that name folders and change no result


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run, or a job of a sweep, in any state."""

    folder: Path
    status: str  # as in status.json, or "waiting" for a job that has not started
    reason: str | None  # for the status; None if done
    config: Mapping[str, Any]  # by dotted key; if the job has not started, only what its sweep varies
    rows: Sequence[Mapping[str, Any]]  # in metrics.jsonl
    summary: Mapping[str, Any]  # empty unless done
    started: str | None = None  # ISO 8601
    identity: str | None = None
    sweep: str | None = None  # the id of its sweep
    name: str | None = None  # in its sweep
    damaged: bool = False  # its files are unreadable
    owner: object = None  # of a temporary folder, which is deleted with it

    @property
    def begun(self) -> bool:
        return self.started is not None

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    @property
    def kept_row(self) -> Mapping[str, Any]:
        """The row of the epoch that was kept, or the last one; empty before the first epoch has ended."""
        return records.find_kept_row(self.rows, self.summary)


class Runs(Sequence[RunRecord]):
    """Runs in the order of their folders or jobs; a slice is Runs, too."""

    def __init__(self, runs: Iterable[RunRecord]) -> None:
        self._runs = tuple(runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, index: Any) -> Any:
        found = self._runs[index]
        return Runs(found) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self._runs)

    def __repr__(self) -> str:
        counts = Counter(run.status for run in self)
        return f"<{len(self)} runs: {', '.join(f'{n} {status}' for status, n in counts.items()) or 'none'}>"

    def verdicts(self, metric: str = "val/accuracy", *, most: int | None = None) -> list[Verdict]:
        """Whether one configuration is better than another, for all pairs: see `mnistjax.verdicts.compare`.

        A configuration is all runs that differ only in their seed; those that are not done don't count.
        """
        rows = []
        for run, (_, values) in zip(self, name_runs(self), strict=True):
            config = {key: shown(value) for key, value in values.items()}
            value = run.kept_row.get(metric, run.summary.get(metric, ""))
            value = "" if isinstance(value, (list, dict)) else value  # a confusion matrix is no number
            rows.append({**config, "status": run.status, "seed": run.seed, metric: value})
        if not any(row[metric] != "" for row in rows):
            found = [record for run in self for record in (run.kept_row, run.summary)]
            known = {key for record in found for key in read_numbers(record) if "/" in key}
            if not known:
                raise ConfigError(f"none of the {len(self):,} runs has ended an epoch, so none is compared")
            raise unknown("metric", metric, known)
        return compare(by_seed(rows, metric), metric, most=most)

    def compare(
        self, other: Iterable[RunRecord] | str | os.PathLike[str], metric: str | None = None
    ) -> Comparison:
        """What differs between these runs, A, and others or those in a folder, B.

        See `mnistjax.report.comparison`.
        """
        from mnistjax.report.comparison import compare_runs

        found = read_runs(other) if isinstance(other, (str, os.PathLike)) else other
        return compare_runs(self, found, metric)

    def table(self, rows: str, columns: str | None = None, *, metric: str = "test/accuracy") -> Table:
        """A metric's means over seeds by one key of the config, or by two: see `mnistjax.report.table`."""
        from mnistjax.report.table import make_table

        return make_table(self, rows, columns, metric)

    def figure(self, what: str, columns: str | None = None, *, metric: str | None = None) -> Figure:
        """A matplotlib Figure: "curves", "parameters", a metric by one key of the config, or by two.

        See `mnistjax.report.sweep_figures`; `mnistjax.report.figures.save` writes it.
        """
        from mnistjax.report.sweep_figures import draw

        return draw(self, what, columns, metric)

    def to_frame(self, *, epochs: bool = False) -> pandas.DataFrame:
        """A pandas table with a row for each run, or for each epoch of each run.

        Its columns are the name, the config values that differ between the runs by dotted key (lists as
        tuples), the seed and status. With `epochs` the numbers of the epoch follow; else the reason, the
        number of epochs, the metrics of the kept one, of runs that are done the numbers of `summary.json`,
        and the sweep, the start and the folder. Whole numbers that some runs lack are of type Int64.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise ConfigError("a table needs pandas: pip install 'mnistjax[notebook]'") from None
        rows: list[dict[str, Any]] = []
        for run, (name, values) in zip(self, name_runs(self), strict=True):
            values = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
            own = {"name": name, **values, "seed": run.seed, "status": run.status}
            if epochs:
                rows += [{**own, **read_numbers(row)} for row in run.rows]
                continue
            numbers = {k: v for k, v in read_numbers(run.summary).items() if k != "seed"}
            metrics = {key: value for key, value in read_numbers(run.kept_row).items() if "/" in key}
            place = dict(zip(LAST, (run.sweep, run.started, str(run.folder)), strict=True))
            rows.append({**own, "reason": run.reason, "epochs": len(run.rows), **metrics, **numbers, **place})
        columns = sorted(dict.fromkeys(key for row in rows for key in row), key=LAST.__contains__)
        frame = pandas.DataFrame(rows, columns=columns)
        for key in columns:
            kinds = {type(value) for row in rows if (value := row.get(key)) is not None}
            missing = any(row.get(key) is None for row in rows)
            if missing and kinds in ({int}, {bool}):
                frame[key] = frame[key].astype("Int64" if kinds == {int} else "boolean")
            elif tuple in kinds:  # all of them, so that they can be sorted
                frame[key] = [v if isinstance(v, tuple) or v is None else (v,) for v in frame[key]]
        return frame


def read_numbers(record: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a row or a summary."""
    found = {key: records.as_number(value) for key, value in record.items()}
    return {key: value for key, value in found.items() if isinstance(value, (int, float))}


def read_runs(*folders: str | os.PathLike[str]) -> Runs:
    """The runs in and below these folders: single runs, and the jobs of sweeps in their order.

    Copies of a run's folder count once. ConfigError if a folder holds no run.
    """
    found = []
    for folder in map(Path, folders):
        below = list(_read(folder))
        if not below:
            raise ConfigError(f"{folder} holds no run: no {records.STATUS} and no {LEDGER} at or below it")
        found += below
    return merge_runs(found)


def merge_runs(found: Iterable[RunRecord]) -> Runs:
    """The runs, with the copies of a run's folder counted once."""
    found, runs = list(found), dict[Any, RunRecord]()
    begun = {(run.sweep, run.identity) for run in found if run.begun}
    for run in found:
        if not run.begun and (run.sweep, run.identity) in begun:  # of an older copy of its sweep
            continue
        key = (run.identity, run.started or run.sweep) if run.identity else run.folder.resolve()
        if _rank(run) > _rank(runs.setdefault(key, run)):
            runs[key] = run
    return Runs(runs.values())


def _rank(run: RunRecord) -> tuple[bool, int, bool]:
    """How a copy of a run ranks: the one that came farthest counts, of equal ones one found in its sweep."""
    return run.status == "done", len(run.rows), run.sweep is not None


def _read(top: Path) -> Iterator[RunRecord]:
    for place, subfolders, names in os.walk(top):
        folder = Path(place)
        subfolders.sort()
        if LEDGER in names:
            subfolders.clear()
            ledger = load_ledger(folder)
            for entry in ledger.entries.values():
                run = read_run(ledger.job_folder(entry.number))
                config = run.config or {**entry.config, "seed": entry.seed}
                name, identity = short_name(entry.config, entry.seed), run.identity or entry.identity
                if run.status == "waiting" and entry.status == "failed":  # it failed before it had a folder
                    run = replace(run, status=entry.status, reason=entry.reason)
                yield replace(run, config=config, sweep=ledger.id, name=name, identity=identity)
        elif records.STATUS in names:
            subfolders.clear()  # W&B has many files there
            yield read_run(folder)


def read_run(folder: Path) -> RunRecord:
    """The run in a folder; "waiting", without a config, if it has not started.

    A run that was killed is "interrupted"; a run whose files are damaged is "failed".
    """
    state, reason, facts = "failed", None, ()
    config: dict[str, Any] = {}
    try:
        status = records.read_status(folder)
        if status is None:
            return RunRecord(folder, "waiting", None, {}, [], {})
        state, reason, facts = status["status"], status["reason"], (status["started"], status["identity"])
        config = dict(flatten(records.read_config(folder)))
        record = records.read_record(folder, whole=False)
    except (ConfigError, OSError) as error:
        reason = reason if state == "failed" and reason else str(error)
        return RunRecord(folder, "failed", reason, config, [], {}, *facts, damaged=True)
    if state == "running" and not files.is_locked(folder / records.LOCK):
        if records.read_status(folder) != status:  # it has ended meanwhile
            return read_run(folder)
        state, reason = "interrupted", "its process is gone"
    return RunRecord(folder, state, reason, config, record.rows, record.summary or {}, *facts)


def done(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs that are done."""
    return [run for run in runs if run.status == "done"]


def read_configs(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The config of each run by dotted key, without the keys that name folders.

    If runs with equal keys of `data` had different data, as if pictures were added, `data.sha256` tells them
    apart by the first digits.
    """
    configs = align([{k: v for k, v in run.config.items() if k not in PLACES} for run in runs])
    asked = [str([(k, v) for k, v in config.items() if k.startswith("data.")]) for config in configs]
    found = [run.summary["data"]["sha256"] if run.summary else None for run in runs]
    several = Counter(place for place, sha256 in {*zip(asked, found, strict=True)} if sha256)
    for config, place, sha256 in zip(configs, asked, found, strict=True):
        if several[place] > 1 and sha256:
            config["data.sha256"] = sha256[:8]
    return configs


def name_runs(runs: Sequence[RunRecord]) -> list[tuple[str, dict[str, Any]]]:
    """The name of each run, and the config values that differ between the runs, by dotted key."""
    configs = read_configs(runs)
    # A job that has not started has only the keys that its sweep varies.
    begun = {i: config for i, config in enumerate(configs) if runs[i].begun}
    partial = [config for i, config in enumerate(configs) if i not in begun]
    keys = [key for config in (*varying(begun).values(), *partial) for key in config if key != "seed"]
    keys = list(dict.fromkeys(keys))
    own = [{key: config[key] for key in keys if key in config} for config in configs]
    return [
        (short_name(config, run.config.get("seed", 0)), config) for run, config in zip(runs, own, strict=True)
    ]
