"""Trains every network of the report and writes its page: tables, conclusions and figures.

    python scripts/reproduce.py FOLDER [--quick] [--only STEP...] [--data mnist]
    python scripts/reproduce.py FOLDER --readme

Each experiment is a sweep in FOLDER; run again, it goes on where it was stopped. Then come each optimizer at
its own learning rate, chosen on the validation images by short runs of one seed, and single runs that are
only timed. `--quick` trains two epochs of two seeds, for a look; `--only` leaves the other steps as they are.
The page is FOLDER/report/report.html. `--readme` trains nothing: what FOLDER has runs for replaces the same
in the README's tables, and in the record that they are made of.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marked import replace_marked
from mnistjax import records
from mnistjax.backend import cores
from mnistjax.config import ConfigError
from mnistjax.report.conclusions import OPTIMIZERS
from mnistjax.report.kept import Record, make_record, merge_records, readme_text
from mnistjax.report.page import RECORD, write_page
from mnistjax.report.paper import EXPERIMENTS, TABLES, TIMES, Study, pick, read_study, read_times
from mnistjax.report.runs import RunRecord, read_runs

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".github" / "report.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"
TUNING = "learning_rate"  # the experiment of short runs
TUNED = "tuned"  # the step of those and of long runs at the rates that they choose
STEPS = (*EXPERIMENTS, TUNED, TIMES)
ABOUT = "reproduce.json"
MONITOR = "val/accuracy"  # that a learning rate is chosen by


class Reproduction:
    """The sweeps and runs in a folder, which keeps what they are about: data, quick, each step's seconds."""

    def __init__(self, folder: Path, data: str, quick: bool) -> None:
        self.folder, self._words = folder, [f"data={data}"]
        self.about: dict[str, Any] = {"data": data, "quick": quick, "cores": cores(), "seconds": {}}
        if (folder / ABOUT).exists():
            earlier = json.loads((folder / ABOUT).read_bytes())
            for key in ("data", "quick"):
                if earlier[key] != self.about[key]:
                    raise ConfigError(f"{folder} was begun with {key} {earlier[key]}")
            self.about |= earlier

    def sweep(self, name: str, *words: str) -> list[RunRecord]:
        """The runs of the sweep in the subfolder of that name; failed ones are not trained again."""
        place = self.folder / name
        if not (place / "sweep.json").exists():
            self._call(name, "-m", *words, *self._words, f"hydra.sweep.dir={place}")
        elif any(run.status not in ("done", "failed", "diverged") for run in read_runs([place])):
            self._call(name, "-m", f"sweep.resume={place}")
        return read_runs([place])

    def time(self, name: str, *words: str) -> None:
        """A single run of five epochs."""
        place = self.folder / TIMES / name
        if (records.read_status(place) or {}).get("status") != "done":
            options = "train.epochs=5", f"hydra.run.dir={place}", "resume=true"
            self._call(TIMES, *words, *self._words, *options)

    def tune(self, study: Study) -> None:
        """Trains each optimizer at its own learning rate, where that is not the report's."""
        self.sweep(TUNING, f"experiment={TUNING}")
        rates = self.choose_rates()
        for name, runs in self.read_tuned(study).items():
            if not runs:
                words = f"optimizer={name}", f"optimizer.learning_rate={rates[name]}"
                self.sweep(f"{TUNED}_{name}", "experiment=optimizer", *words)

    def read_tuned(self, study: Study) -> dict[str, list[RunRecord]]:
        """The runs of each optimizer at the learning rate of its best short run; none where they lack."""
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
        if code not in (0, 1):  # a wrong word, or a signal; failed jobs are shown on the page
            raise SystemExit(code)

    def choose_rates(self) -> dict[str, float]:
        """The learning rate of each optimizer's best short run."""
        best: dict[str, tuple[float, float]] = {}
        for run in read_study(self.folder, [TUNING]).get(TUNING, []):
            if run.status == "done":
                name, rate = run.config["optimizer.name"], run.config["optimizer.learning_rate"]
                best[name] = max(best.get(name, (-1.0, 0.0)), (float(run.rows[-1][MONITOR]), rate))
        return {name: best[name][1] for name in OPTIMIZERS if name in best}


def write_readme(record: Record) -> None:
    """The kept record has what this one has, and the README its tables."""
    if KEPT.exists():
        record = merge_records(json.loads(KEPT.read_bytes()), record)
    replace_marked(README, BEGIN, END, f"\n\n{readme_text(record)}\n")
    records.write_json(KEPT, record)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    one_of = ", ".join(STEPS)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=one_of)
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--data", default="mnist")
    args = parser.parse_args()
    try:
        if args.readme:
            write_readme(json.loads((args.folder / "report" / RECORD).read_bytes()))
        else:
            reproduce(Reproduction(args.folder.absolute(), args.data, args.quick), args.only)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def reproduce(work: Reproduction, steps: Sequence[str]) -> None:
    """Trains what these steps lack and writes the page of all that is there."""
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


if __name__ == "__main__":
    main()
