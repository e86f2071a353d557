"""Measures how costs grow with the jobs of a sweep, lanes, images and parameters.

    python scripts/growth.py [--only CURVE ...] [--jobs 100000]
    python scripts/growth.py --readme

Each point is measured in a process of its own and kept in scripts/growth/growth.json. The tables and the
figure beside it are made from that; `--readme` measures nothing.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import mnistjax
from accelerator import time_lanes
from benchmark.measure import DEFAULTS, MLP
from mnistjax.backend import processor
from mnistjax.config import Stopping
from mnistjax.data import Dataset, Split
from mnistjax.markdown import format_table
from mnistjax.report.axes import COLORS, MARKERS
from mnistjax.report.figures import new_figure, save, style
from sections import write_section

PLACE = Path(__file__).parent / "growth"
MEGABYTE = 1e6  # bytes
ROUNDS = 3
POINTS = {
    "jobs": (10, 100, 1_000, 10_000, 100_000),
    "lanes": (1, 4, 16, 64, 256, 1_024),
    "images": (1_000, 10_000, 100_000, 1_000_000),
    "parameters": (16, 64, 256, 1_024, 4_096),  # hidden units
}
COLUMNS = {
    "train": "sweep (s)",
    "resume": "resume (s)",
    "report": "report (s)",
    "sweep.json": "sweep.json (MB)",
    "results.csv": "results.csv (MB)",
    "index.html": "page (MB)",
    "epoch": "epoch (s)",
    "memory": "memory (MB)",
}


def command(*words: str) -> tuple[float, float]:
    """Seconds of a command, and the most megabytes that one of its processes had."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(words)} failed:\n{log.read()}")
    return seconds, megabytes(usage)


def megabytes(usage: resource.struct_rusage) -> float:
    """The peak of the resident memory, which Linux counts in units of 1,024 bytes and macOS in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1_024) / MEGABYTE


def measure_jobs(count: int) -> dict[str, float]:
    """A sweep of neurons on digits, an epoch each: training, resuming it when it is over, page and files."""
    words = ["model=neuron", "task=binary", "data=digits", "train.epochs=1", f"seed=range({count})"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sweep"
        words += ["wandb.mode=disabled", f"hydra.sweep.dir={folder}"]
        train, memory = command("-m", "mnistjax", "-m", *words)
        resumed, more = command("-m", "mnistjax", "-m", f"sweep.resume={folder}")
        program = "import sys; from mnistjax.cli.report import main; sys.exit(main())"
        report, most = command("-c", program, str(folder))
        paths = folder / "sweep.json", folder / "results.csv", folder / "report" / "index.html"
        files = {path.name: path.stat().st_size / MEGABYTE for path in paths}
    return {"train": train, "resume": resumed, "report": report, **files, "memory": max(memory, more, most)}


def measure_lanes(width: int) -> dict[str, float]:
    """MLP-64 on digits, so many runs as lanes of one program: seconds of an epoch of a run."""
    task = {**DEFAULTS, **MLP}
    return {"epoch": statistics.median(time_lanes(task, mnistjax.load_data("digits"), width))}


def measure_images(count: int) -> dict[str, float]:
    """MLP-64 on so many training images, which repeat MNIST's, and a quarter as many validation images."""
    data = mnistjax.load_data("mnist")
    return measure_epoch(replace(data, train=repeat(data.train, count), val=repeat(data.val, count // 4)), 64)


def measure_parameters(hidden: int) -> dict[str, float]:
    """An MLP with so many hidden units on MNIST."""
    return measure_epoch(mnistjax.load_data("mnist"), hidden)


def measure_epoch(data: Dataset, hidden: int) -> dict[str, float]:
    """The seconds of an epoch of an MLP, with its evaluation, and the number of parameters."""
    options = {"model": "mlp", "model_options": {"hidden": hidden}}
    plan = mnistjax.make_plan(data, **options, optimizer="sgd", batch_size=64)
    result = mnistjax.fit(plan.spec, plan.hyper, data=data, stopping=Stopping(1 + ROUNDS))
    assert result.status == "done", result.reason
    parameters = sum(leaf.size for leaf in jax.tree.leaves(result.variables["params"]))
    return {"epoch": statistics.median(row["seconds"] for row in result.rows[1:]), "count": parameters}


def repeat(part: Split, count: int) -> Split:
    """So many images with their labels, from the first on, again and again."""
    return Split(np.resize(part.images, (count, *part.images.shape[1:])), np.resize(part.labels, count))


def alone(function: Callable[[int], dict[str, float]], size: int) -> dict[str, float]:
    """Calls a function in a new process; adds the most megabytes that this had."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, function, size).result()


def call(function: Callable[[int], dict[str, float]], size: int) -> dict[str, float]:
    mnistjax.prepare_backend()
    return {**function(size), "memory": megabytes(resource.getrusage(resource.RUSAGE_SELF))}


IN_PROCESS = {"lanes": measure_lanes, "images": measure_images, "parameters": measure_parameters}


def measure(only: Sequence[str], most_jobs: int) -> None:
    """Measures these curves into growth.json."""
    path = PLACE / "growth.json"
    record: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"points": {}}
    record |= {"processor": processor(), "jax": jax.__version__}
    for name in only:
        points = record["points"][name] = {}
        for size in POINTS[name]:
            if name != "jobs" or size <= most_jobs:
                points[f"{size}"] = (
                    alone(IN_PROCESS[name], size) if name in IN_PROCESS else measure_jobs(size)
                )
                print(name, f"{size:,}", points[f"{size}"], flush=True)
                path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def make_table(name: str, points: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each point, in Markdown."""
    columns = [column for column in COLUMNS if column in next(iter(points.values()))]
    rows = [[name, *(COLUMNS[column] for column in columns)]]
    for size, facts in points.items():
        cells = [
            f"{facts[column]:,.0f}" if facts[column] >= 100 else f"{facts[column]:.3g}" for column in columns
        ]
        rows.append([f"{facts.get('count', int(size)) if name == 'parameters' else int(size):,}", *cells])
    return format_table(rows)


def draw(curves: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Seconds and megabytes against the size, a panel for each curve, in logarithms."""
    figure = new_figure(9.6, 7.2)
    with style():
        for axes, (name, points) in zip(figure.subplots(2, 2).flat, curves.items(), strict=False):
            parameters = name == "parameters"
            sizes = [facts["count"] if parameters else int(size) for size, facts in points.items()]
            columns = [column for column in COLUMNS if column in next(iter(points.values()))]
            for column, color, marker in zip(columns, COLORS, MARKERS, strict=False):
                values = [facts[column] for facts in points.values()]
                axes.plot(sizes, values, color=color, marker=marker, label=COLUMNS[column])
            axes.set(title=name.capitalize(), xlabel=name, xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:,.10g}")
                axis.set_minor_formatter(NullFormatter())
            axes.legend(fontsize=8)
    return figure


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[*POINTS], choices=POINTS, metavar="CURVE")
    parser.add_argument("--jobs", type=int, default=10_000, help="of the largest sweep")
    parser.add_argument("--readme", action="store_true")
    args = parser.parse_args()
    if not args.readme:
        measure(args.only, args.jobs)
    record = json.loads((PLACE / "growth.json").read_text("utf-8"))
    tables = [make_table(name, points) for name, points in record["points"].items()]
    machine = f"*{record['processor']}, JAX {record['jax']}*"
    write_section(PLACE / "README.md", "tables", "\n".join([machine, "", *tables]))
    save(draw(record["points"]), PLACE / "growth.png")


if __name__ == "__main__":
    main()
