"""Records the results of nine small runs and sweeps, to show that a change of the code changes no bit.

    python scripts/fingerprints.py before.json           # before the change; takes about three minutes
    python scripts/fingerprints.py --compare before.json # after it; exit code 1 if the results differ

A run's fingerprint is its identity, the SHA-256 of its checkpoint, its rows and summary without times, and
the names of its files. Bits depend on the processor and the versions, so use the same machine for both.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from mnistjax.checkpoints import CHECKPOINT, encode_checkpoint, read_checkpoint

ROOT = Path(__file__).parents[1]
CONDITIONS = ("lanes", "devices", "processor", "jax")  # of a checkpoint, that a fingerprint keeps
TIMES = ("seconds", "seconds_per_epoch", "group_seconds_per_epoch", "compile_seconds")
COMMANDS: dict[str, list[str]] = {
    "neuron": ["model=neuron", "train.batch_size=32", "train.epochs=3"],
    "mlp": ["model=mlp", "model.hidden=64", "train.epochs=2"],
    "cnn": ["model=cnn", "train.epochs=1"],
    "batch statistics and dropout": ["model=cnn_bn", "model.dropout=0.3", "data=digits", "train.epochs=2"],
    "augmentation": ["model=cnn", "augment.rotation=10", "augment.shift=2", "data=digits", "train.epochs=2"],
    "binary": ["model=mlp", "task=binary", "train.batch_size=all", "train.epochs=3"],
    "accumulation": ["model=mlp", "train.batch_size=4096", "train.micro_batch=300", "train.epochs=2"],
    "vmapped group": ["-m", "model=mlp", "model.hidden=16", "seed=0,1,2", "sweep.mode=vmap", "train.epochs=2",
                      "optimizer.learning_rate=0.001,0.003"],
    "interleaved": ["-m", "model=neuron", "task=binary", "optimizer=rmsprop", "seed=0,1", "train.epochs=2",
                    "optimizer.learning_rate=0.001,0.002,0.003,0.004,0.005,0.006,0.007,0.008",
                    "schedule=constant"],
}  # fmt: skip


def run(words: list[str], folder: Path) -> None:
    """Runs a command in a folder; shows its output only if it fails."""
    place = "hydra.sweep.dir=out" if words[0] == "-m" else "hydra.run.dir=out"
    data = [] if any(word.startswith("data=") for word in words) else ["data=mnist"]
    command = [sys.executable, "-m", "mnistjax", *words, *data, place, "wandb.mode=disabled"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    if result.returncode:
        raise SystemExit(f"{' '.join(words)}\n{result.stdout}")


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMES}


def fingerprint(folder: Path) -> dict[str, Any]:
    """The content of a run folder, except times."""
    status = json.loads((folder / "status.json").read_text("utf-8"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    return {
        "identity": status["identity"],
        "status": sorted(status),
        "checkpoint": hashlib.sha256(without_versions(folder / CHECKPOINT)).hexdigest(),
        "config": hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest(),
        "rows": [without_times(row) for row in rows],
        "summary": without_times(summary),
        "files": list_files(folder),
    }


def without_versions(path: Path) -> bytes:
    """The content of a checkpoint without the versions of Flax and others, which change no code of ours."""
    checkpoint = read_checkpoint(path)
    conditions = {key: checkpoint.meta["conditions"][key] for key in CONDITIONS}
    return encode_checkpoint(checkpoint.arrays, {**checkpoint.meta, "conditions": conditions})


def list_files(folder: Path) -> list[str]:
    """The sorted paths of all files in a folder, except previous checkpoints, which depend on the clock."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if "checkpoint.previous" not in name)


def take(words: list[str]) -> dict[str, Any]:
    """The fingerprints of a command's runs, by their folder."""
    with tempfile.TemporaryDirectory() as scratch:
        run(words, Path(scratch))
        out = Path(scratch) / "out"
        if not (out / "sweep.json").exists():
            return {"run": fingerprint(out)}
        ledger = json.loads((out / "sweep.json").read_text("utf-8"))
        header = (out / "results.csv").read_text("utf-8").splitlines()[0]
        sweep = {"ledger": sorted(ledger), "groups": ledger["groups"], "results": header}
        runs = {str(job["number"]): fingerprint(out / str(job["number"])) for job in ledger["jobs"]}
        return {"sweep": {**sweep, "files": list_files(out)}, **runs}


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), choices=COMMANDS, metavar="NAME")
    args = parser.parse_args()
    before = json.loads(args.file.read_text("utf-8")) if args.compare else {}
    taken, differences = {}, []
    for name in args.only:
        taken[name] = json.loads(json.dumps(take(COMMANDS[name])))
        print(f"{name}: {len(taken[name])} fingerprints", flush=True)
        for folder in {**taken[name], **before.get(name, {})} if args.compare else ():
            old, new = before.get(name, {}).get(folder, {}), taken[name].get(folder, {})
            differences += [
                f"{name}, {folder}: {key}" for key in {**old, **new} if old.get(key) != new.get(key)
            ]
    if not args.compare:
        args.file.write_text(json.dumps(taken, indent=1), "utf-8")
    print("\n".join(differences) if differences else "compared: no difference" if args.compare else "written")
    raise SystemExit(bool(differences))


if __name__ == "__main__":
    main()
