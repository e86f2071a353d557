"""Sweeps that a script trains with the command `mnistjax`, and how scripts end at an error."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnistjax.config import ConfigError
from mnistjax.report.runs import RunRecord, read_runs


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the script at a ConfigError with one line and exit code 2."""
    try:
        yield
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def train_seeds(words: Sequence[str], seeds: Sequence[int], folder: Path) -> Sequence[RunRecord]:
    """Trains the runs of a sweep over seeds that are not done yet, and returns all of them."""
    return train(["-m", *words, f"seed={','.join(map(str, seeds))}"], folder)


def train(words: Sequence[str], folder: Path) -> Sequence[RunRecord]:
    """Trains the runs of a sweep that are not done yet, and returns all of them.

    SystemExit, with the exit code of the command, if one of them fails.
    """
    if not (folder / "sweep.json").exists():
        _call(*words, f"hydra.sweep.dir={folder}")
    elif any(run.status != "done" for run in read_runs(folder)):
        _call("-m", f"sweep.resume={folder}")
    return read_runs(folder)


def _call(*words: str) -> None:
    print(f"\n$ mnistjax {' '.join(words)}", flush=True)
    if code := subprocess.run([sys.executable, "-m", "mnistjax", *words]).returncode:
        raise SystemExit(code)


def show_time(seconds: float) -> str:
    """A time for people: "59 s", "2 min"."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
