"""mnistjax under several Pythons, to compare versions of JAX, in rounds that take turns."""

import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mnistjax
from benchmark import race
from mnistjax.backend import cores, processor
from mnistjax.markdown import format_table
from sections import write_section

README = Path(__file__).with_name("README.md")
SECTION = "versions"


def compare(workloads: Mapping[str, Mapping[str, Any]], pythons: Sequence[Path], rounds: int) -> str:
    """Measures workloads under each Python; returns a Markdown table, which it also writes to the README.

    Seconds are medians; a ratio is to the first Python's seconds.
    """
    data, rows, head = mnistjax.load_data("mnist"), [], [""]
    with tempfile.TemporaryDirectory() as scratch:
        file = race.save_arrays(data, Path(scratch))
        for name, workload in workloads.items():
            images = len((data.test if workload["evaluates"] else data.train).images)
            task = {**workload, "data": str(file), "images": images, "warm_images": images}
            processes = [race.Process(race.OURS, task, {}, python) for python in pythons]
            first, *others = (statistics.median(seconds) for seconds in take_turns(processes, task, rounds))
            rows.append([name, f"{first:.4g} s", *(f"{s:.4g} s ({s / first:.2f}x)" for s in others)])
            print(*rows[-1], sep="   ", flush=True)
            head = ["", *(_describe(process.ready["versions"]) for process in processes)]
            for process in processes:
                process.end()
    machine = f"*{cores()} cores, {processor()}, {platform.system()}; medians of {rounds} rounds.*"
    text = f"{machine}\n\n{format_table([head, *rows])}"
    write_section(README, SECTION, text)
    return text


def take_turns(processes: Sequence[race.Process], task: Mapping[str, Any], rounds: int) -> list[list[float]]:
    """The seconds of each process in each round; every second round goes through them in reverse."""
    seconds: list[list[float]] = [[] for _ in processes]
    looks = [race.ask(process, task, 1, task["images"]) for process in processes]
    repeats = max(1, min(100, round(1 / max(looks))))
    order = list(range(len(processes)))
    for _ in range(rounds):
        for index in order:
            seconds[index].append(race.ask(processes[index], task, repeats, task["images"]))
        order.reverse()
    return seconds


def _describe(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
