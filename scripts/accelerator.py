"""Times training on the GPU or TPU at hand: one run, many runs as lanes of one program, whole sweeps.

    python scripts/accelerator.py FOLDER [--data mnist] [--only NAME ...] [--widths 1 8 64 512 1024]

It writes FOLDER/accelerator.json and prints it as a table: seconds per run and epoch with the evaluation of
its end, without compiling, the median of three rounds. PyTorch, if this Python has it, trains a single run on
the same device, an eager loop over images in its memory, and evaluates nothing. A sweep is a whole command. A
width that does not fit in the memory has an error instead of a time.
"""

import importlib.util
import json
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import mnistjax
from benchmark import measure, race
from mnistjax.backend import processor
from mnistjax.config import Stopping
from mnistjax.data import Dataset
from mnistjax.markdown import format_table
from training import show_time

WORKLOADS = {name: measure.WORKLOADS[name] for name in ("neuron, batch 64", "MLP-64", "CNN, the default")}
WORKLOADS["MLP-1024"] = {"hidden": [1024]}
WIDTHS = (1, 8, 64, 512, 1024)
EPOCHS, ROUNDS = 2, 3
SWEEPS = {
    "neurons": ["model=neuron", "task=binary", "optimizer=rmsprop", "train.batch_size=64"],
    "MLP-64": ["model=mlp", "model.hidden=64", "optimizer=sgd", "train.batch_size=64"],
}


def time_lanes(task: Mapping[str, Any], data: Dataset, width: int) -> list[float]:
    """Seconds per run and epoch of so many runs as lanes of one program, in each round."""
    positive = 0 if task["binary"] else None
    data = data if positive is None else mnistjax.to_binary(data, positive)
    names = {"cnn": ("channels", "convolutions", "hidden", "dropout"), "mlp": ("hidden",), "neuron": ()}
    stopping = Stopping(EPOCHS)
    options: dict[str, Any] = {name: task[name] for name in ("model", "optimizer", "batch_size")}
    options |= {"model_options": {name: task[name] for name in names[task["model"]]}, "positive": positive}
    plans = [mnistjax.make_plan(data, seed=seed, stopping=stopping, **options) for seed in range(width)]
    program = mnistjax.make_program(plans[0].spec, data, width=width)
    seconds = []
    for _ in range(1 + ROUNDS):  # the first round compiles
        runs = [mnistjax.Run(plan.hyper, plan.seed, stopping) for plan in plans]
        started = time.perf_counter()
        for _, result in mnistjax.fit_runs(program, [runs]):
            assert result.status == "done", result.reason
        seconds.append((time.perf_counter() - started) / width / EPOCHS)
    return seconds[1:]


def time_pytorch(task: Mapping[str, Any], device: str) -> list[float]:
    """Seconds per epoch of PyTorch's loop on this device; RuntimeError if it can't."""
    settings = {"dtype": "float32", "compiled": False, "threads": 2, "device": device}
    process = race.Process(
        "PyTorch", {**task, "warm_images": race.LOOK_IMAGES}, settings, Path(sys.executable)
    )
    try:
        return [process.ask(epochs=1, images=task["images"]) for _ in range(ROUNDS)]
    finally:
        process.end()


def time_sweep(name: str, jobs: int, mode: str, data: str) -> list[float]:
    """Seconds of one command that trains so many jobs."""
    words = [*SWEEPS[name], f"seed=range({jobs})", f"train.epochs={EPOCHS}", f"sweep.mode={mode}"]
    return [measure.command(["-m", *words], data=data)[1]]


def attempt(timed: Any, *given: Any) -> dict[str, Any]:
    """The seconds of a measurement, or the last line of its error: the device's memory may be too small."""
    try:
        found = {"seconds": timed(*given)}
    except (RuntimeError, SystemExit) as error:  # JAX's errors are RuntimeErrors
        found = {"error": (str(error).strip().splitlines() or [type(error).__name__])[-1]}
    print("  ", *given[1:], found, flush=True)
    return found


def measure_all(args: Namespace) -> dict[str, Any]:
    """Everything, by workload or sweep and then by what was timed."""
    data = mnistjax.load_data(args.data)
    device = jax.devices()[0]
    torch_device = {"gpu": "cuda"}.get(device.platform, "cpu")
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        file = race.save_arrays(data, Path(scratch))
        for name in args.only:
            print(name, flush=True)
            task = {
                **measure.DEFAULTS,
                **WORKLOADS[name],
                "data": str(file),
                "images": len(data.train.images),
            }
            results[name] = {f"{width:,}": attempt(time_lanes, task, data, width) for width in args.widths}
            if importlib.util.find_spec("torch"):
                results[name]["PyTorch"] = attempt(time_pytorch, task, torch_device)
    for name in SWEEPS:
        for mode in ("auto", "vmap"):
            found = attempt(time_sweep, name, args.jobs, mode, args.data)
            results.setdefault(f"{args.jobs:,} {name}", {})[mode] = found
    about = {"device": device.device_kind, "devices": jax.device_count(), "processor": processor()}
    return {**about, "jax": jax.__version__, "data": data.name, "epochs": EPOCHS, "results": results}


def make_tables(record: Mapping[str, Any]) -> str:
    """Two tables in Markdown: seconds per run and epoch by the number of lanes, and times of whole sweeps."""
    sweeps = {name: found for name, found in record["results"].items() if "vmap" in found}
    lanes = {name: found for name, found in record["results"].items() if name not in sweeps}
    devices = f"{record['devices']} x {record['device']}, {record['processor']}"
    tables = [f"*{devices}, jax {record['jax']}, {record['data']}.*"]
    for first, group in (("seconds per run and epoch, by lanes", lanes), ("whole sweep", sweeps)):
        columns = [*dict.fromkeys(column for found in group.values() for column in found)]
        rows = [[first, *columns]]
        for name, found in group.items():
            rows.append([name, *(show(found[column], first) for column in columns)])
        tables.append(format_table(rows))
    return "\n\n".join(tables)


def show(found: Mapping[str, Any], kind: str) -> str:
    if "error" in found:
        return "-"
    seconds = statistics.median(found["seconds"])
    return show_time(seconds) if kind == "whole sweep" else f"{seconds:.3g}"


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--only", nargs="*", default=[*WORKLOADS], choices=WORKLOADS, metavar="NAME")
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS, metavar="LANES")
    parser.add_argument("--jobs", type=int, default=1000, help="of a sweep")
    args = parser.parse_args()
    mnistjax.prepare_backend()
    args.folder.mkdir(parents=True, exist_ok=True)
    record = measure_all(args)
    (args.folder / "accelerator.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(make_tables(record))


if __name__ == "__main__":
    main()
