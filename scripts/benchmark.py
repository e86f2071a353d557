"""Times mnistjax on MNIST beside the libraries that one would take instead, and what the machine allows.

    python scripts/benchmark.py [--only NAME ...] [--rounds 5] [--peers FOLDER]
    python scripts/benchmark.py --show

Contenders are processes (scripts/peers); libraries that mnistjax does not need live in virtual environments
that this script makes in FOLDER. A peer first trains a part of an epoch with each of its settings; then all
train in turn, each at its best setting. Seconds are wall time an epoch, compile excluded: the median of the
rounds. mnistjax's time is that of all of `fit`. A floor is the time of the matrix products alone, by NumPy at
their shapes, or of reading the images once, whichever is longer.

The results of each date and commit are kept as JSON in .github/benchmarks. All of it takes an hour and a half
on two cores, so a new file begins with the results of the newest one, if that is of this machine's kind, and
each names its commit; what today's commit has measured already is measured again only where it is named.
`--show` draws .github/benchmark.png and writes the README's table, both from the newest file.
"""

import argparse
import datetime
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mnistjax
from mnistjax.backend import cores, processor
from mnistjax.report.figures import save
from peers import floors, race, show

ROOT = Path(__file__).resolve().parents[1]
HISTORY, PICTURE = ROOT / ".github" / "benchmarks", ROOT / ".github" / "benchmark.png"

DEFAULTS = {
    "dataset": "mnist",
    "model": "mlp",
    "channels": [],  # of each block of 3 x 3 convolutions and 2 x 2 pooling
    "convolutions": 1,  # in a block
    "hidden": [],
    "dropout": 0.0,
    "binary": False,  # zero or not
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "batch_size": 64,
    "seed": 0,
    "evaluates": False,  # the test images, instead of training
}
NEURON = {"model": "neuron", "binary": True, "optimizer": "rmsprop"}
CNN = {"model": "cnn", "channels": [32, 64], "batch_size": 128}  # experiment=cnn_benchmark
DEEP = {"model": "cnn", "channels": [8, 32], "convolutions": 2, "hidden": [128], "dropout": 0.4}
MLP = {"hidden": [64]}
WORKLOADS: dict[str, dict[str, Any]] = {
    **{f"neuron, batch {size:,}": {**NEURON, "batch_size": size} for size in (32, 64, 128, 1024, 48_000)},
    **{f"MLP-{width}, zero or not": {"hidden": [width], "binary": True} for width in (16, 64, 1024)},
    "MLP-64": MLP,
    "CNN, 34,826 parameters": CNN,
    "CNN, the default": {**DEEP, "optimizer": "adam"},
    "evaluation, MLP-64": {**MLP, "evaluates": True},
    "evaluation, CNN": {**CNN, "evaluates": True},
}

RATES, SWEEP_EPOCHS = (0.0003, 0.001, 0.003, 0.01, 0.03), 10
JOBS = [
    {"optimizer": optimizer, "learning_rate": rate, "seed": seed}
    for optimizer, rate, seed in itertools.product(("sgd", "rmsprop", "adam"), RATES, range(3))
]
SWEEP_PEERS = "Keras, TensorFlow, many steps", "PyTorch"
SWEEP_WORDS = [
    *["model=mlp", "model.hidden=64", "schedule=constant", f"train.epochs={SWEEP_EPOCHS}", "seed=0,1,2"],
    *["optimizer=sgd,rmsprop,adam", "optimizer.learning_rate=" + ",".join(map(str, RATES))],
]
NEURON_WORDS = [
    *["model=neuron", "task=binary", "optimizer=rmsprop", "schedule=constant"],
    *["train.batch_size=128", f"train.epochs={SWEEP_EPOCHS}"],
]
MANY_NEURONS = ["optimizer.learning_rate=0.001,0.003,0.01,0.03", "seed=range(250)"]
STARTS = {
    "neuron": ["model=neuron", "task=binary"],
    "MLP-64": ["model=mlp", "model.hidden=64"],
    "default": [],
}


class Setting(NamedTuple):
    """Of a measurement."""

    rounds: int
    peers: Path  # the folder of their environments
    data: Path  # MNIST as arrays
    images: int  # of its training part


def command(words: Sequence[str], cache: Path | None = None) -> tuple[float, float]:
    """Seconds until a command of ours has ended its first epoch, if it is a single run, and until it ends."""
    environment = {**os.environ, "WANDB_MODE": "offline"}
    if cache:
        environment["XDG_CACHE_HOME"] = str(cache)
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w+") as log:
        words = [sys.executable, "-m", "mnistjax", *words, "data=mnist"]
        started, first = time.perf_counter(), math.nan
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            records = Path(folder).glob("outputs/*/*/metrics.jsonl")
            if math.isnan(first) and any(file.stat().st_size for file in records):
                first = time.perf_counter() - started
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(map(str, words))} ended with {process.returncode}:\n{log.read()}")
    return first, seconds


def measure_sweep(setting: Setting) -> dict[str, Any]:
    """45 networks: our command, all of it, beside loops over the jobs that train and do no more."""
    data = {"images": setting.images, "data": str(setting.data)}
    task = {**DEFAULTS, **MLP, **data, "compiled": False}
    results: dict[str, Any] = {race.OURS: {"seconds": []}}
    for name in SWEEP_PEERS:
        results[race.OURS]["seconds"].append(command(["-m", *SWEEP_WORDS])[1])
        chosen = race.choose(name, task, setting.peers, looks := [])
        if chosen:
            seconds = chosen[1].ask(jobs=JOBS, epochs=SWEEP_EPOCHS, images=setting.images)
            results[name] = {"seconds": [seconds], "settings": chosen[1].settings, "looks": looks}
            chosen[1].end()
    return results


def measure_neurons(setting: Setting) -> dict[str, Any]:
    """1,000 neurons in one sweep, beside a thousand times a single process of ours."""
    sweep, single = [], []
    for _ in range(min(setting.rounds, 3)):
        single.append(1000 * command(NEURON_WORDS)[1])
        sweep.append(command(["-m", *NEURON_WORDS, *MANY_NEURONS])[1])
        single.append(1000 * command(NEURON_WORDS)[1])
    return {race.OURS: {"seconds": sweep}, "single processes": {"seconds": single}}


def measure_starts(setting: Setting) -> dict[str, Any]:
    """Seconds until a command ends its first epoch, and until it ends, with an empty and a warm cache."""
    results: dict[str, Any] = {}
    for name, words in STARTS.items():
        for _ in range(min(setting.rounds, 3)):
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    first, whole = command(words, Path(cache))
                    results.setdefault(f"{name}, first epoch, {state}", []).append(first)
                    results.setdefault(f"{name}, whole, {state}", []).append(whole)
    return {name: {"seconds": seconds} for name, seconds in results.items()}


def measure_accuracy(setting: Setting) -> dict[str, Any]:
    """`experiment=fast_99` from Python, each seed in a process of its own with an empty compile cache."""
    program, results = Path(race.__file__).with_name("to_99.py"), {}
    for seed in range(10):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            answer = subprocess.run(
                [sys.executable, program, str(seed)],
                env=environment,
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
        for name, value in json.loads(answer.stdout.splitlines()[-1]).items():
            results.setdefault(name, []).append(value)
    return {race.OURS: results}


OTHERS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "sweep, 45 MLPs": measure_sweep,
    "sweep, 1,000 neurons": measure_neurons,
    "start": measure_starts,
    "99 %": measure_accuracy,
}


def measure(
    only: Sequence[str], rounds: int, folder: Path, record: dict[str, Any], keep: Callable[[], object]
) -> None:
    """Measures what is named, or else what the record lacks, and keeps the record after each."""
    data = mnistjax.load_data("mnist")
    commits, results = record["commits"], record["results"]
    names = only or [name for name in (*WORKLOADS, *OTHERS) if commits.get(name) != record["commit"]]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "mnist.npz"
        train, test = data.train, data.test
        np.savez(
            file,
            train_images=train.images,
            train_labels=train.labels,
            test_images=test.images,
            test_labels=test.labels,
        )
        for name in names:
            print(name, flush=True)
            if name in WORKLOADS:
                task = {**DEFAULTS, **WORKLOADS[name], "data": str(file)}
                task["images"] = len((test if task["evaluates"] else train).images)
                result = race.race(list(race.PEERS), task, folder, rounds)
                result["floor"] = floors.floor(task, record["machine"]["read_gbytes"])
            else:
                result = OTHERS[name](Setting(rounds, folder, file, len(train.images)))
            results[name], commits[name] = result, record["commit"]
            record["results"] = {n: results[n] for n in (*WORKLOADS, *OTHERS) if n in results}
            keep()
            for contender, facts in result.items():
                if seconds := facts.get("seconds"):
                    spread = f"{min(seconds):.4g} to {max(seconds):.4g}"
                    print(f"  {contender:<34}{statistics.median(seconds):>10.4g} s   {spread}", flush=True)


def describe_machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **floors.machine(),
    }


def newest() -> Path:
    files = sorted(HISTORY.glob("*.json"), key=lambda file: json.loads(file.read_text())["date"])
    if not files:
        raise SystemExit(f"{HISTORY} has no results yet; run this without --show first")
    return files[-1]


def earlier(record: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """The commits and results of a record; nothing where its machine is another."""
    same = all(record["machine"][key] == machine[key] for key in ("processor", "cores"))
    return {key: record[key] for key in ("commits", "results")} if same else {}


def commit() -> str:
    """The checkout's, with a + where files differ from it."""
    words = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], choices=[*WORKLOADS, *OTHERS], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=Path("~/.cache/mnistjax/peers").expanduser())
    parser.add_argument("--show", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if args.show:
        record = json.loads(newest().read_text())
        show.write_readme(ROOT / "README.md", record)
        print(show.markdown(record), *save(show.picture(record), PICTURE), sep="\n")
        return
    date, measured = datetime.datetime.now().isoformat(timespec="minutes"), commit()
    path = HISTORY / f"{date[:10]}-{measured}.json"
    HISTORY.mkdir(parents=True, exist_ok=True)
    if path.exists():
        record = json.loads(path.read_text())
    else:
        own = {"date": date, "commit": measured, "machine": describe_machine()}
        record = {**own, "commits": {}, "results": {}}
        if [*HISTORY.glob("*.json")]:
            record |= earlier(json.loads(newest().read_text()), record["machine"])
    measure(
        args.only,
        args.rounds,
        args.peers,
        record,
        lambda: path.write_text(json.dumps(record, indent=1) + "\n"),
    )


if __name__ == "__main__":
    main()
