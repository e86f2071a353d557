"""The workloads of the benchmark, their measurements, and the records of the results."""

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

import mnistjax
from benchmark import floors, race
from mnistjax.backend import cores, processor

HERE = Path(__file__).parent
RECORDS = HERE / "records"

DEFAULTS = {
    "dataset": "mnist",
    "model": "mlp",
    "channels": [],  # in each block of 3 x 3 convolutions and 2 x 2 pooling
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
    """The arguments of every measurement."""

    rounds: int
    peers: Path  # the folder with the peers' environments
    data: Path  # MNIST as arrays
    images: int  # in its training part


def command(words: Sequence[str], cache: Path | None = None, data: str = "mnist") -> tuple[float, float]:
    """Seconds until the end of the first epoch (nan for a sweep) and until the end of one of our commands."""
    environment = {**os.environ, "WANDB_MODE": "offline"}
    if cache:
        environment["XDG_CACHE_HOME"] = str(cache)
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w+", encoding="utf-8") as log:
        words = [sys.executable, "-m", "mnistjax", *words, f"data={data}"]
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
    """45 networks: our whole command, beside loops over the jobs that only train."""
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
    """1,000 neurons in one sweep, beside a thousand times the seconds of one single run."""
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
    """`experiment=fast_99` from Python, one process for each seed, with an empty compile cache."""
    program, results = HERE / "fast_99.py", {}
    for seed in range(10):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            words = [sys.executable, program, str(seed)]
            answer = subprocess.run(
                words, env=environment, stdout=subprocess.PIPE, check=True, encoding="utf-8"
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
    """Measures the workloads in `only`, or else those that the record lacks; calls `keep` after each."""
    data = mnistjax.load_data("mnist")
    commits, results = record["commits"], record["results"]
    names = only or [name for name in (*WORKLOADS, *OTHERS) if commits.get(name) != record["commit"]]
    with tempfile.TemporaryDirectory() as scratch:
        file = race.save_arrays(data, Path(scratch))
        for name in names:
            print(name, flush=True)
            if name in WORKLOADS:
                task = {**DEFAULTS, **WORKLOADS[name], "data": str(file)}
                task["images"] = len((data.test if task["evaluates"] else data.train).images)
                result = race.race(list(race.PEERS), task, folder, rounds)
                result["floor"] = floors.floor(task, record["machine"]["read_gbytes"])
            else:
                result = OTHERS[name](Setting(rounds, folder, file, len(data.train.images)))
            results[name], commits[name] = result, record["commit"]
            record["results"] = {n: results[n] for n in (*WORKLOADS, *OTHERS) if n in results}
            keep()
            for contender, facts in result.items():
                if seconds := facts.get("seconds"):
                    spread = f"{min(seconds):.4g} to {max(seconds):.4g}"
                    print(f"  {contender:<34}{statistics.median(seconds):>10.4g} s   {spread}", flush=True)


def describe_machine() -> dict[str, Any]:
    """The processor, the software and the speed of this machine; takes a few seconds."""
    return {
        "processor": processor(),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **floors.machine(),
    }


def read_newest() -> dict[str, Any] | None:
    """The newest record, if there is one."""
    records = [json.loads(file.read_text("utf-8")) for file in RECORDS.glob("*.json")]
    return max(records, key=lambda record: record["date"], default=None)


def measure_all(only: Sequence[str], rounds: int, folder: Path) -> None:
    """Measures the workloads in `only`, or else those that today's commit has not measured, into its record.

    A new record begins with the results of the newest one if that is from such a machine.
    """
    date, commit = datetime.datetime.now().isoformat(timespec="minutes"), describe_commit()
    path = RECORDS / f"{date[:10]}-{commit}.json"
    if path.exists():
        record = json.loads(path.read_text("utf-8"))
    else:
        machine, newest = describe_machine(), read_newest()
        record = {"date": date, "commit": commit, "machine": machine, "commits": {}, "results": {}}
        if newest and all(newest["machine"][key] == machine[key] for key in ("processor", "cores")):
            record |= {key: newest[key] for key in ("commits", "results")}
    RECORDS.mkdir(exist_ok=True)
    measure(
        only, rounds, folder, record, lambda: path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    )


def describe_commit() -> str:
    """The commit of the checkout, followed by + if files differ from it."""
    words = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(
        words, cwd=HERE, stdout=subprocess.PIPE, check=True, encoding="utf-8"
    ).stdout.strip()
