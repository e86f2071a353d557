"""Kills a run at every write, trains on disks of every size, trains thousands of jobs; counts the outcomes.

    python scripts/endure.py kills    # a SIGKILL before each call that opens, syncs or renames a file
    python scripts/endure.py disks    # a run and a sweep on disks of 4, 8, 12, ... kB (as root, on Linux)
    python scripts/endure.py jobs --count 10000    # neurons; prints memory, open files and threads

A killed run must have the same bits after resuming as a run that was never killed. On a full disk a command
must end by itself, with exit code 1 or 2 and no traceback, and only a run whose files are complete may have
the status "done".
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnistjax import checkpoints, records
from mnistjax.config import ConfigError

SMALL = ["data=digits", "model=mlp", "model.hidden=8", "train.batch_size=230", "wandb.mode=disabled"]
ROOT = str(Path(__file__).parents[1])
SECONDS = 120.0  # a command must end by itself in this time
KILLED = -9

COMMAND = """
import os, signal, sys
from mnistjax import cli, recorder
left = int(sys.argv.pop(1))
recorder.SAVE_SECONDS = 0.0
def watched(name):
    real = getattr(os, name)
    def call(path, *more, **options):
        global left
        inside = not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(os.getcwd())
        if inside or name == "fsync":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(path, *more, **options)
    setattr(os, name, call)
for name in ("open", "fsync", "replace", "mkdir", "unlink"):
    watched(name)
code = cli.main()
print("writes", -left, file=sys.stderr)
sys.exit(code)
"""


def start(folder: Path, words: list[str], kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; kills it at its write number `kill_at` unless that is 0."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COMMAND, str(kill_at), *SMALL, *words]
    options: dict[str, Any] = {"timeout": SECONDS, "capture_output": True, "text": True, "errors": "replace"}
    return subprocess.run(command, cwd=folder, env=environment, **options)


def outcome(folder: Path) -> tuple[bytes, list[dict[str, object]]]:
    """A run's checkpoint, and its rows without times; equal for equal runs."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in records.read_rows(folder)]
    return (folder / checkpoints.CHECKPOINT).read_bytes(), rows


def count_writes(home: Path) -> int:
    """The number of writes of a run that is not killed, in the folder `straight`."""
    ended = start(home, ["train.epochs=2", "hydra.run.dir=straight"])
    return int(ended.stderr.rpartition("writes ")[2])


def kill_and_resume(home: Path, number: int) -> str:
    """Kills a run at one of its writes and resumes it; returns "same bits", or what is wrong."""
    words = ["train.epochs=2", f"hydra.run.dir=killed-{number}", "resume=true"]
    if start(home, words, number).returncode != KILLED:
        return "not killed"
    ended = start(home, words)
    if ended.returncode:
        return f"exit code {ended.returncode}: {ended.stderr[-300:]}"
    same = outcome(home / "straight") == outcome(home / f"killed-{number}")
    return "same bits" if same else "OTHER BITS"


@contextlib.contextmanager
def disk(kilobytes: int) -> Iterator[Path]:
    """Mounts a file system of that size; PermissionError if that is refused."""
    with tempfile.TemporaryDirectory() as folder:
        options = f"size={kilobytes}k,nr_inodes=10k"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if subprocess.run(mount, capture_output=True).returncode:
            raise PermissionError("no file system can be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def fill(kilobytes: int, *, sweep: bool) -> str:
    """Trains a run or a sweep on a disk of that size; returns its exit code, or what is wrong."""
    words = ["-m", "seed=0,1,2", "hydra.sweep.dir=x"] if sweep else ["hydra.run.dir=x"]
    with disk(kilobytes) as folder:
        try:
            ended = start(folder, [*words, "train.epochs=2"])
        except subprocess.TimeoutExpired:
            return "DOES NOT END"
        if "Traceback" in ended.stderr:
            return f"A TRACEBACK: {ended.stderr[-500:]}"
        if ended.returncode not in (0, 1, 2):
            return f"EXIT CODE {ended.returncode}"
        if ended.returncode and "No space left" not in ended.stderr:
            return f"NO REASON: {ended.stderr[-500:]}"
        folders = [folder / "x" / str(number) for number in range(3)] if sweep else [folder / "x"]
        whole = [is_whole(run) for run in folders]
        if ended.returncode == 0 and whole != [True] * len(whole):
            return "LOST"
        return "LIED" if None in whole else f"exit code {ended.returncode}"


def is_whole(folder: Path) -> bool | None:
    """Whether a run is done with all of its files; None if it has the status "done" but not the files."""
    try:
        status = records.read_status(folder)
    except (ConfigError, OSError):
        return False
    if status is None or status["status"] != "done":
        return False
    try:
        records.read_record(folder)
    except ConfigError:
        return None
    return True


def measure(pid: int) -> tuple[int, int, int]:
    """Memory in MiB, open files and threads of a process; OSError if it has ended."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    )
    return int(status["VmRSS"].split()[0]) // 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def train_jobs(home: Path, count: int) -> str:
    """Trains a sweep of `count` neurons; prints the memory of its processes after each tenth of the jobs."""
    words = ["data=digits", "model=neuron", "train.batch_size=all", "train.epochs=1", "wandb.mode=disabled"]
    command = [
        sys.executable,
        "-m",
        "mnistjax",
        "-m",
        *words,
        f"seed=range({count})",
        "hydra.sweep.dir=sweep",
    ]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    began, tenth = time.monotonic(), 0
    with open(home / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.2)
            done = len(list((home / "sweep").glob("[0-9]*")))
            if done * 10 // count > tenth:
                tenth = done * 10 // count
                with contextlib.suppress(OSError):
                    measured = " ".join(_measure_all(process.pid))
                    print(f"{done:,} jobs, {time.monotonic() - began:.0f} s: {measured}", flush=True)
    print((home / "log").read_text("utf-8")[-600:])
    done = sum(is_whole(home / "sweep" / str(number)) is True for number in range(count))
    print(f"{done:,} of {count:,} complete, {time.monotonic() - began:.0f} s")
    return f"exit code {process.returncode}" if done == count else "LOST"


def _measure_all(pid: int) -> Iterator[str]:
    """Memory, open files and threads of a process and of its children, as text."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    for name, number in (("command", pid), *(("worker", int(child)) for child in children)):
        memory, files, threads = measure(number)
        yield f"{name} {memory:,} MiB, {files} files, {threads} threads;"


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "disks", "jobs"])
    parser.add_argument("--count", type=int, default=1000, help="jobs")
    parser.add_argument("--step", type=int, default=1, help="test every STEP-th write or disk size")
    parser.add_argument("--most", type=int, default=400, help="kB of the largest disk")
    args = parser.parse_args()
    found: Counter[str] = Counter()
    if args.what == "kills":
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            for number in range(1, count_writes(home) + 1, args.step):
                found[result := kill_and_resume(home, number)] += 1
                print(f"killed at write {number}: {result}", flush=True)
    elif args.what == "jobs":
        with tempfile.TemporaryDirectory() as folder:
            found[train_jobs(Path(folder), args.count)] += 1
    else:
        for kilobytes in range(4, args.most + 1, 4 * args.step):
            for sweep in (False, True):
                found[result := fill(kilobytes, sweep=sweep)] += 1
                print(f"{'a sweep' if sweep else 'a run'} on {kilobytes} kB: {result}", flush=True)
    for result, count in found.most_common():
        print(f"{count:6} {result}")
    good = ("same bits", "exit code 0", "exit code 1", "exit code 2")
    raise SystemExit(any(result not in good for result in found))


if __name__ == "__main__":
    main()
