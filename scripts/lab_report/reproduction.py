"""Trains the networks of the lab report, and keeps the results."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab_report.page import write_page
from lab_report.record import Record, make_record, merge_records, summarize, to_markdown
from lab_report.study import EXPERIMENTS, OPTIMIZERS, TIMES, Study, pick, read_study, read_times
from lab_report.tables import TABLES
from mnistjax import records
from mnistjax.backend import cores
from mnistjax.config import ConfigError
from mnistjax.report.runs import RunRecord, read_runs
from sections import write_section

RECORD_FILE = Path(__file__).with_name("record.json")
README = Path(__file__).with_name("README.md")
PROJECT_README = README.parents[2] / "README.md"
SECTION = "lab report"  # in both READMEs
TUNING = "learning_rate"  # the experiment of short runs
TUNED = "tuned"  # the step of the short runs, and of long runs at the learning rates that they choose
STEPS = (*EXPERIMENTS, TUNED, TIMES)
ABOUT = "reproduce.json"
MONITOR = "val/accuracy"  # chooses a learning rate


class Reproduction:
    """The sweeps and runs in a folder; its `reproduce.json` keeps data, quick, and each step's seconds."""

    def __init__(self, folder: Path, data: str, quick: bool) -> None:
        self.folder, self._words = folder, [f"data={data}"]
        self.about: dict[str, Any] = {"data": data, "quick": quick, "cores": cores(), "seconds": {}}
        if (folder / ABOUT).exists():
            earlier = json.loads((folder / ABOUT).read_bytes())
            for key in ("data", "quick"):
                if earlier[key] != self.about[key]:
                    raise ConfigError(f"{folder} was begun with {key} {earlier[key]}")
            self.about |= earlier

    def sweep(self, name: str, *words: str) -> Sequence[RunRecord]:
        """Trains the sweep in the subfolder of that name, or the rest of it, and returns its runs.

        Failed runs are not trained again.
        """
        place = self.folder / name
        if not (place / "sweep.json").exists():
            self._call(name, "-m", *words, *self._words, f"hydra.sweep.dir={place}")
        elif any(run.status not in ("done", "failed", "diverged") for run in read_runs(place)):
            self._call(name, "-m", f"sweep.resume={place}")
        return read_runs(place)

    def time(self, name: str, *words: str) -> None:
        """Trains a single run of five epochs, unless it is done."""
        place = self.folder / TIMES / name
        if (records.read_status(place) or {}).get("status") != "done":
            options = "train.epochs=5", f"hydra.run.dir={place}", "resume=true"
            self._call(TIMES, *words, *self._words, *options)

    def tune(self, study: Study) -> None:
        """Trains each optimizer at its own learning rate, if that is not the lab report's."""
        self.sweep(TUNING, f"experiment={TUNING}")
        rates = self.choose_rates()
        for name, runs in self.read_tuned(study).items():
            if not runs:
                words = f"optimizer={name}", f"optimizer.learning_rate={rates[name]}"
                self.sweep(f"{TUNED}_{name}", "experiment=optimizer", *words)

    def read_tuned(self, study: Study) -> dict[str, Sequence[RunRecord]]:
        """The runs of each optimizer at the learning rate of its best short run."""
        runs = {}
        for name, rate in self.choose_rates().items():
            own = read_study(self.folder, [f"{TUNED}_{name}"]).get(f"{TUNED}_{name}", [])
            where = {"optimizer.name": name, "optimizer.learning_rate": rate}
            runs[name] = pick(study, "optimizer", where) or own
        return runs

    def _call(self, step: str, *words: str) -> None:
        print(f"\n$ mnistjax {' '.join(words)}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "mnistjax", *words]).returncode
        seconds = self.about["seconds"]
        seconds[step] = seconds.get(step, 0.0) + time.monotonic() - began
        self.folder.mkdir(parents=True, exist_ok=True)
        records.write_json(self.folder / ABOUT, self.about)
        if code not in (0, 1):  # a wrong argument, or a signal; the page shows failed jobs
            raise SystemExit(code)

    def choose_rates(self) -> dict[str, float]:
        """The learning rate of each optimizer's best short run."""
        best: dict[str, tuple[float, float]] = {}
        for run in read_study(self.folder, [TUNING]).get(TUNING, []):
            if run.status == "done":
                name, rate = run.config["optimizer.name"], run.config["optimizer.learning_rate"]
                best[name] = max(best.get(name, (-1.0, 0.0)), (float(run.rows[-1][MONITOR]), rate))
        return {name: best[name][1] for name in OPTIMIZERS if name in best}


def reproduce(work: Reproduction, steps: Sequence[str]) -> None:
    """Trains the missing runs of these steps, and writes the page of all runs in the folder."""
    short = ["train.epochs=2", "seed=0,1"] if work.about["quick"] else []
    for name in EXPERIMENTS:
        if name in steps:
            work.sweep(name, f"experiment={name}", *short)
    study = read_study(work.folder)
    if TUNED in steps and not short:
        work.tune(study)
    study |= {f"{TUNED}_{name}": runs for name, runs in work.read_tuned(study).items()}
    if TIMES in steps and not short:
        for row in {row.name: row for table in TABLES for row in table.rows}.values():
            work.time(row.name, *row.overrides)
    record = make_record(study, read_times(work.folder), work.about)
    print(f"\n{write_page(work.folder / 'report', study, record)}")


def write_readme(record: Record) -> None:
    """Merges a record into `record.json`; writes its tables and their summary to the two READMEs."""
    if RECORD_FILE.exists():
        record = merge_records(json.loads(RECORD_FILE.read_bytes()), record)
    write_section(README, SECTION, to_markdown(record))
    write_section(PROJECT_README, SECTION, summarize(record))
    records.write_json(RECORD_FILE, record)
