"""Trains every network of the report and writes its page: tables, conclusions and figures.

    python scripts/reproduce.py FOLDER [--quick] [--data mnist]
    python scripts/reproduce.py FOLDER --readme

Each experiment is a sweep in FOLDER; run again, it goes on where it was stopped. Then come each optimizer at
its own learning rate, chosen on the validation images by short runs of one seed, and single runs that are
only timed. `--quick` trains two epochs of two seeds, for a look. The page is FOLDER/report/report.html;
`--readme` writes its tables to the README, too, and trains nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from marked import replace_marked
from mnistjax import records
from mnistjax.report.conclusions import OPTIMIZERS
from mnistjax.report.page import RECORD, readme_text, write_page
from mnistjax.report.paper import EXPERIMENTS, TABLES, TIMES, pick, read_study, read_times
from mnistjax.report.runs import RunRecord, read_runs

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".github" / "report.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"
TUNING = "learning_rate"  # the experiment of short runs
STEPS = "reproduce.json"  # seconds of each step
MONITOR = "val/accuracy"  # that a learning rate is chosen by


class Reproduction:
    """The sweeps and runs in a folder, which keeps what they are about: data, quick, each step's seconds."""

    def __init__(self, folder: Path, data: str, quick: bool) -> None:
        self.folder, self._words = folder, [f"data={data}"]
        self.about: dict[str, Any] = {"data": data, "quick": quick, "seconds": {}}
        if (folder / STEPS).exists():
            earlier = json.loads((folder / STEPS).read_bytes())
            for key in ("data", "quick"):
                if earlier[key] != self.about[key]:
                    print(f"error: {folder} was begun with {key} {earlier[key]}", file=sys.stderr)
                    raise SystemExit(2)
            self.about = earlier

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

    def _call(self, step: str, *words: str) -> None:
        print(f"\n$ mnistjax {' '.join(words)}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "mnistjax", *words]).returncode
        seconds = self.about["seconds"]
        seconds[step] = seconds.get(step, 0.0) + time.monotonic() - began
        self.folder.mkdir(parents=True, exist_ok=True)
        records.write_json(self.folder / STEPS, self.about)
        if code not in (0, 1):  # a wrong word, or a signal; failed jobs are shown on the page
            raise SystemExit(code)

    def choose_rates(self) -> dict[str, float]:
        """The learning rate of each optimizer's best short run."""
        best: dict[str, tuple[float, float]] = {}
        for run in read_runs([self.folder / TUNING]):
            if run.status == "done":
                name, rate = run.config["optimizer.name"], run.config["optimizer.learning_rate"]
                best[name] = max(best.get(name, (-1.0, 0.0)), (float(run.rows[-1][MONITOR]), rate))
        return {name: best[name][1] for name in OPTIMIZERS if name in best}


def describe(data: str, quick: bool, seconds: dict[str, float]) -> str:
    """What was trained, how long it took and where."""
    total = sum(seconds.values()) / 60
    steps = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items())
    length = "two epochs of two seeds, for a look only" if quick else "the report's 100 epochs"
    return f"Data set {data}, {length}; {total:.1f} minutes on {os.cpu_count()} cores ({steps})."


def write_readme(record: dict[str, Any]) -> None:
    """The README now holds the record's tables."""
    replace_marked(README, BEGIN, END, f"\n\n{readme_text(record)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--data", default="mnist")
    args = parser.parse_args()
    if args.readme:
        record = json.loads((args.folder / "report" / RECORD).read_bytes())
        records.write_json(KEPT, record)
        write_readme(record)
        return
    short = ["train.epochs=2", "seed=0,1"] if args.quick else []
    work = Reproduction(args.folder.absolute(), args.data, args.quick)
    for name in EXPERIMENTS:
        work.sweep(name, f"experiment={name}", *short)
    study = read_study(work.folder)
    if not args.quick:
        work.sweep(TUNING, f"experiment={TUNING}")
        for name, rate in work.choose_rates().items():
            where = {"optimizer.name": name, "optimizer.learning_rate": rate}
            runs = pick(study, "optimizer", where)  # its own rate may be the report's
            if not runs:
                words = f"optimizer={name}", f"optimizer.learning_rate={rate}"
                runs = work.sweep(f"tuned_{name}", "experiment=optimizer", *words)
            study[f"tuned_{name}"] = runs
        for row in {row.name: row for table in TABLES for row in table.rows}.values():
            work.time(row.name, *row.overrides)
    note = describe(**work.about)
    print(f"\n{write_page(work.folder / 'report', study, times=read_times(work.folder), note=note)}")


if __name__ == "__main__":
    main()
