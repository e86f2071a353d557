"""Kills a run with SIGKILL at random times, resumes it, and compares it with an undisturbed run.

    python scripts/kill_and_resume.py [--times 10] [KEY=VALUE ...]

Checkpoints must be equal bit for bit, and metrics.jsonl without `seconds`. Exit code 1 if they are not.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(folder: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """Starts a run in that folder, in a process without output."""
    options = [f"hydra.run.dir={folder}", "resume=true", "wandb.mode=disabled"]
    command = [sys.executable, "-m", "mnistjax", *options, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def read_rows(folder: Path) -> list[dict]:
    """The rows of `metrics.jsonl` without their seconds."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed = Path(scratch) / "undisturbed"
        began = time.monotonic()
        if start(undisturbed, args.words).wait():
            raise SystemExit("the undisturbed run failed")
        length = time.monotonic() - began
        print(f"undisturbed: {length:.1f} s, {len(read_rows(undisturbed))} epochs")
        bad = 0
        for number in range(args.times):
            folder, delay = Path(scratch) / str(number), random.uniform(0.1, 0.95) * length
            process = start(folder, args.words)
            time.sleep(delay)
            process.kill()
            process.wait()
            epochs = len(read_rows(folder)) if (folder / "metrics.jsonl").exists() else 0
            code = start(folder, args.words).wait()
            checkpoints = [path / "checkpoint.safetensors" for path in (undisturbed, folder)]
            same = code == 0 and len({path.read_bytes() for path in checkpoints}) == 1
            same = same and read_rows(undisturbed) == read_rows(folder)
            bad += not same
            result = "the same bits" if same else "DIFFERENT"
            print(f"killed after {delay:.1f} s, {epochs} epochs: {result}", flush=True)
    print(f"{args.times - bad} of {args.times} the same")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
