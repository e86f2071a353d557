"""A record of the benchmark as tables in Markdown and as a picture."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from benchmark.race import OURS, PEERS
from mnistjax.markdown import format_table
from mnistjax.report.figures import save
from mnistjax.seeds import Spread
from sections import write_section

README = Path(__file__).with_name("README.md")
PROJECT_README = README.parents[2] / "README.md"
SECTION = "benchmark"  # in both READMEs
SUMMARIZED = ("neuron, batch 32", "MLP-64", "CNN, the default")
HEADS = {
    "Keras, TensorFlow": "Keras, TF",
    "Keras, TensorFlow, many steps": "many steps",
    "Keras, JAX": "Keras, JAX",
    "Keras, JAX, many steps": "many steps",
    "PyTorch": "PyTorch",
    "PyTorch, bfloat16": "bfloat16",
    "Flax example": "Flax loop",
    "scikit-learn": "scikit-learn",
}
MARKS = "osD^vP*X"  # one for each peer


def seconds_of(facts: Mapping[str, Any]) -> tuple[float, bool] | None:
    """The median of a contender's rounds and True, or its best look and False; None if it did not run."""
    if seconds := facts.get("seconds"):
        return statistics.median(seconds), True
    looks = [look["seconds"] for look in facts.get("looks", ()) if "seconds" in look]
    return (min(looks), False) if looks else None


def floor_of(result: Mapping[str, Any]) -> float:
    return max(result["floor"]["products"], result["floor"]["bytes"])


def trainings(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The results with a floor, by workload."""
    return {name: result for name, result in record["results"].items() if "floor" in result}


def to_markdown(record: Mapping[str, Any]) -> str:
    """The machine, the table of workloads and the table of other measurements."""
    machine, results = record["machine"], record["results"]
    versions: dict[str, str] = {}
    for result in trainings(record).values():
        for name in PEERS:
            versions |= result.get(name, {}).get("versions", {})
    made = ", ".join(f"{library} {version}" for library, version in sorted(versions.items()))
    peers = [peer for peer in HEADS if any(peer in result for result in results.values())]
    signs = mark_commits(record)
    marks = {name: signs[commit] for name, commit in record["commits"].items()}
    older = [f"{commit}{sign}" for commit, sign in signs.items() if sign]
    commits = record["commit"] + (f" (rows with a number: {', '.join(older)})" if older else "")
    about = (
        f"*{record['date'][:10]}, commit {commits}: {machine['cores']} cores, {machine['processor']},\n"
        f"{machine['gemm_gflops']:.0f} GFLOP/s in a large matrix product, {machine['read_gbytes']:.0f} GB/s\n"
        f"of reading; {made}.*\n"
    )
    rows = [["", "mnistjax", "floor", *(HEADS[peer] for peer in peers)]]
    for name, result in trainings(record).items():
        ours, _ = seconds_of(result[OURS]) or (math.nan, False)
        cells = [name + marks[name], duration(ours), f"{floor_of(result) / ours:.2f}"]
        for peer in peers:
            theirs = seconds_of(result.get(peer, {}))
            cells.append(("" if theirs[1] else "~") + ratio(theirs[0] / ours) if theirs else "")
        rows.append(cells)
    others = [["", "time", "beside"], *_list_others(results, marks)]
    return "\n".join([about, format_table(rows), format_table(others, left=["beside"])])


def summarize(record: Mapping[str, Any]) -> str:
    """A list of a few workloads: seconds of an epoch, and how many times as long the other libraries take."""
    lines = []
    for name, result in trainings(record).items():
        ours = seconds_of(result[OURS])
        found = {peer: seconds_of(result.get(peer, {})) for peer in HEADS}
        theirs = sorted((*seconds, peer) for peer, seconds in found.items() if seconds)
        if name in SUMMARIZED and ours and theirs:
            low, high = (
                f"{'' if exact else '~'}{ratio(seconds / ours[0])} ({peer})"
                for seconds, exact, peer in (theirs[0], theirs[-1])
            )
            lines.append(f"- {name}: {duration(ours[0])} per epoch; others take {low} to {high}")
    return "\n".join(lines)


def mark_commits(record: Mapping[str, Any]) -> dict[str, str]:
    """The mark of each commit for the rows that were measured at it; empty for the record's own commit."""
    others = sorted({*record["commits"].values()} - {record["commit"]})
    return {record["commit"]: "", **{commit: f" [{i}]" for i, commit in enumerate(others, 1)}}


def _list_others(results: Mapping[str, Any], marks: Mapping[str, str]) -> list[list[str]]:
    """Rows for the measured ones of sweeps, starts, accuracy and memory."""
    rows = []
    if sweep := results.get("sweep, 45 MLPs"):
        ours = statistics.median(sweep[OURS]["seconds"])
        medians = {name: statistics.median(facts["seconds"]) for name, facts in sweep.items() if name != OURS}
        theirs = [f"{name}: {ratio(seconds / ours)}" for name, seconds in medians.items()]
        name = "`-m`, 45 MLP-64 of 10 epochs" + marks["sweep, 45 MLPs"]
        rows.append(_row(name, sweep[OURS], "; ".join(theirs) + " in a loop"))
    if sweep := results.get("sweep, 1,000 neurons"):
        single = statistics.median(sweep["single processes"]["seconds"])
        factor = ratio(single / statistics.median(sweep[OURS]["seconds"]))
        beside = f"1,000 single commands, one after the other: {factor}"
        name = "`-m`, 1,000 neurons of 10 epochs, batch 128" + marks["sweep, 1,000 neurons"]
        rows.append(_row(name, sweep[OURS], beside))
    for name in ("neuron", "MLP-64", "default"):
        for event, text in (("first epoch", "to the end of its first epoch"), ("whole", "whole, 3 epochs")):
            if warm := results.get("start", {}).get(f"{name}, {event}, warm"):
                cold = statistics.median(results["start"][f"{name}, {event}, cold"]["seconds"])
                beside = f"with an empty compile cache {duration(cold)}"
                rows.append(_row(f"the command, {name}, {text}{marks['start']}", warm, beside))
    if reached := results.get("99 %", {}).get(OURS):
        accuracy = reached["accuracy"]
        compiling, shuffling = (duration(statistics.median(reached[x])) for x in ("compile", "shuffle"))
        beside = (
            f"test accuracy {Spread(tuple(accuracy)):.2%} ({len(accuracy)} seeds), "
            f"compiling {compiling}, shuffling {shuffling}"
        )
        rows.append(_row("`experiment=fast_99` from Python" + marks["99 %"], reached, beside))
    for name in ("MLP-64", "CNN, 34,826 parameters"):
        if result := results.get(name):
            theirs = "; ".join(
                f"{peer} {result[peer]['memory_mb']:,.0f}"
                for peer in ("Keras, TensorFlow", "Keras, JAX", "PyTorch")
                if "memory_mb" in result.get(peer, {})
            )
            ours = f"{result[OURS]['memory_mb']:,.0f} MB"
            rows.append([f"memory, training, {name}{marks[name]}", ours, f"{theirs} MB"])
    return rows


def _row(name: str, facts: Mapping[str, Sequence[float]], beside: str) -> list[str]:
    return [name, duration(statistics.median(facts["seconds"])), beside]


def duration(seconds: float) -> str:
    """Three digits: "15.3 ms", "1.35 s"."""
    if seconds < 1:
        return f"{_digits(1000 * seconds)} ms"
    return f"{_digits(seconds)} s"


def ratio(value: float) -> str:
    return f"{value:.0f}x" if value >= 10 else f"{value:.1f}x"


def _digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1e-9))))}f}"


def show(record: Mapping[str, Any], path: Path) -> str:
    """Writes the tables to both READMEs and the picture to `path`; returns the tables and file names."""
    write_section(README, SECTION, to_markdown(record))
    write_section(PROJECT_README, SECTION, summarize(record))
    return "\n".join([to_markdown(record), *map(str, save(picture(record), path))])


def picture(record: Mapping[str, Any]) -> Figure:
    """A figure of every contender's seconds by workload, with ours and the floor."""
    results = trainings(record)
    figure = Figure(figsize=(9, 0.48 * len(results) + 1.5), layout="constrained")
    axes = figure.subplots()
    colors = ["#0072B2", "#56B4E9", "#E69F00", "#F0E442", "#D55E00", "#CC79A7", "#999999", "#000000"]
    for row, result in enumerate(results.values()):
        axes.plot([floor_of(result)] * 2, [row - 0.3, row + 0.3], color="#222222", label="floor", lw=2)
        for (peer, mark), color in zip(zip(HEADS, MARKS, strict=True), colors, strict=True):
            if theirs := seconds_of(result.get(peer, {})):
                face = color if theirs[1] else "white"
                axes.plot(theirs[0], row, mark, label=peer, ms=6, mfc=face, mec=color)
        ours = seconds_of(result[OURS])
        if ours:
            axes.plot(ours[0], row, "o", color="#009E73", ms=10, label=OURS, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlabel("time of an epoch of 48,000 images, or to evaluate 10,000 (logarithmic)")
    axes.set_title("Training and evaluation on MNIST; further left is faster", loc="left")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = [name for name in (OURS, "floor", *HEADS) if name in handles]
    figure.legend([handles[name] for name in order], order, loc="outside lower center", ncols=4)
    return figure
