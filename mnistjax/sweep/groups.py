"""Jobs -> groups -> assignments: the jobs of one Spec, how many train at a time, and what a worker gets."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mnistjax.config import Spec, to_plain
from mnistjax.data import Dataset
from mnistjax.devices import count_shards
from mnistjax.job import Job
from mnistjax.layout import SEGMENT_FLOPS, epoch_flops
from mnistjax.step import build_model, init

Mode = Literal["auto", "map", "vmap", "chunk"]
DataKey = tuple[str, ...]
"""Name, SHA-256 and positive class of a data set."""

CHUNK_LANES = 8  # of the mode `chunk`, unless given
MOST_LANES = 1024  # of the mode `vmap`, unless given
MOST_INTERLEAVED = 8  # jobs; making their batches is then a small part of training neurons
MEMORY_SHARE = 0.5  # of the free memory
# Of a core when a step is spread over several: an epoch of system D takes 5.4 s on 2 cores, 7.6 s on one.
SPREAD_SPEED = 0.7


@dataclass(frozen=True)
class Group:
    """Jobs of one Spec on one data set, trained by one compiled program."""

    spec: Spec
    data: DataKey
    jobs: tuple[int, ...]  # numbers
    width: int  # lanes of the program; 1 is the program of a single run
    threads: int  # programs at a time


@dataclass(frozen=True, eq=False)
class Assignment:
    """Jobs for one worker, those of one Spec side by side; of one Spec only if they are lanes."""

    jobs: tuple[Job, ...]  # without their data
    data: DataKey
    width: int  # lanes of a program
    threads: int  # programs at a time
    interleaved: int  # at most so many jobs of one lane take turns in a program


def data_key(dataset: Dataset, positive: int | None) -> DataKey:
    return dataset.name, dataset.sha256, str(positive)


def make_groups(
    jobs: Mapping[int, Job],
    *,
    mode: Mode,
    lanes: int | Literal["auto"],
    widths: Mapping[tuple[Spec, DataKey], int] | None = None,
) -> list[Group]:
    """The groups of numbered jobs, in the order of their first job.

    `widths` are the widths of groups that the sweep has already: they keep them, and so their bits.
    """
    numbers: dict[tuple[Spec, DataKey], list[int]] = {}
    for number, job in jobs.items():
        key = job.plan.spec, data_key(job.data, job.plan.positive)
        numbers.setdefault(key, []).append(number)
    groups = []
    for key, members in numbers.items():
        width = (widths or {}).get(key) or choose_width(key[0], len(members), mode, lanes)
        threads = count_threads(key[0], len(members)) if width == 1 else 1
        groups.append(Group(*key, tuple(members), width, threads))
    return groups


def choose_width(spec: Spec, jobs: int, mode: Mode, lanes: int | Literal["auto"]) -> int:
    """The number of lanes of a group's program.

    `auto` follows `scripts/lanes.py`, on MNIST with 8 runs and 2 cores, in seconds per run and epoch
    (interleaved: runs of one seed; shared: `vmap` with one order for all):

                             one     map    vmap  interl. shared
        neuron batch 64    0.025   0.022   0.020   0.012   0.009
        neuron batch 1024  0.026   0.023   0.017   0.018   0.009
        mlp 64 batch 64    0.236   0.132   0.129   0.124   0.114
        mlp 1024 batch 64   1.78    1.34    1.42    1.32    2.00

    So on CPU it is one lane for each thread, with the bits of single runs, except for neurons that share
    their order: all jobs are lanes. On other devices, unmeasured, all jobs are lanes too.
    """
    if mode == "auto":
        wide = spec.shuffle == "shared" and spec.model == "neuron"
        mode = "map" if jax.default_backend() == "cpu" and not wide else "vmap"
    if mode == "map":
        return 1
    devices = jax.device_count()
    wanted = (CHUNK_LANES if mode == "chunk" else min(jobs, MOST_LANES)) if lanes == "auto" else lanes
    fitting = int(free_bytes() * MEMORY_SHARE // lane_bytes(spec)) * devices
    if wanted > 1 and lanes == "auto":
        wanted = -(-wanted // devices) * devices  # the same number on every device
    return max(1, min(wanted, fitting))


def count_threads(spec: Spec, jobs: int) -> int:
    """The number of programs of one lane that run at a time, as far as the memory allows.

    Each step is spread over as many devices as it has shards, or uses one device if the jobs are enough to
    keep all devices busy.
    """
    devices, shards = jax.device_count(), count_shards(spec)
    at_once = devices // shards
    if -(-jobs // devices) * shards * SPREAD_SPEED < -(-jobs // at_once):
        at_once = devices
    at_once = min(at_once, jobs)
    if jax.default_backend() == "cpu":  # all devices share one memory
        at_once = min(at_once, int(free_bytes() * MEMORY_SHARE // lane_bytes(spec)))
    return max(1, at_once)


def count_interleaved(spec: Spec, jobs: int, threads: int) -> int:
    """The number of jobs at most that take turns in a program of one lane.

    Small enough that each thread gets several times that many jobs, and that one turn of all takes no longer
    than a segment, because a sweep stops between two turns.
    """
    epochs = int(SEGMENT_FLOPS / max(1.0, epoch_flops(spec)))
    return max(1, min(MOST_INTERLEAVED, jobs // (4 * threads), epochs))


def make_assignments(
    groups: Iterable[Group], jobs: Mapping[int, Job], *, merge: bool = True
) -> list[Assignment]:
    """Assigns those jobs of the groups that are in `jobs`.

    Groups of one lane on the same data are merged: when a group runs out of jobs, the next one starts beside
    its last job, and compiles meanwhile. The 27 jobs of `experiment=quickstart` in 3 groups take 31.5 s
    instead of 33.0 s (medians of 3).
    """
    assignments: list[Assignment] = []
    for group in groups:
        left = tuple(replace(jobs[number], dataset=None) for number in group.jobs if number in jobs)
        if not left:
            continue
        assignment = assign(group, left)
        if merge and assignments and can_merge(assignments[-1], assignment):
            assignments[-1] = join(assignments[-1], assignment)
        else:
            assignments.append(assignment)
    return assignments


def assign(group: Group, jobs: Sequence[Job]) -> Assignment:
    """The assignment of these jobs of a group."""
    interleaved = count_interleaved(group.spec, len(jobs), group.threads) if group.width == 1 else 1
    return Assignment(tuple(jobs), group.data, group.width, group.threads, interleaved)


def can_merge(first: Assignment, second: Assignment) -> bool:
    """Whether two assignments may be merged: one lane, the same data, and steps of equally many shards."""
    shards = {count_shards(assignment.jobs[0].plan.spec) for assignment in (first, second)}
    return (
        first.width == second.width == 1
        and first.data == second.data
        and first.interleaved == second.interleaved
        and len(shards) == 1
    )


def join(first: Assignment, second: Assignment) -> Assignment:
    """Two assignments as one, with as many threads as every Spec in it allows."""
    jobs = (*first.jobs, *second.jobs)
    threads = min(count_threads(spec, len(jobs)) for spec in {job.plan.spec for job in jobs})
    return replace(first, jobs=jobs, threads=threads)


def free_bytes() -> int:
    """The memory for training: the device's own, or the free memory of the machine."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return int((device.memory_stats() or {}).get("bytes_limit", 8 << 30))
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 4 << 30


@functools.cache
def lane_bytes(spec: Spec) -> int:
    """A rough estimate: twice the State, the gradients, and the activations forward and backward."""
    hyper: dict[str, dict[str, float]] = {"optimizer": {}, "schedule": {}}
    for name in spec.hyper_names:
        group, _, option = name.partition(".")
        hyper.setdefault(group, {})[option] = 1.0
    state = jax.tree.leaves(init.eval_shape(spec, hyper, jax.random.key(0)))
    variables, images = _shapes(spec, spec.micro_batch)
    program = jax.make_jaxpr(build_model(spec).apply)(variables, images)
    made = [var.aval for equation in program.jaxpr.eqns for var in equation.outvars]
    return 3 * sum(map(_size, state)) + 2 * sum(map(_size, made))


def _shapes(spec: Spec, count: int) -> Any:
    images = jax.ShapeDtypeStruct((count, *spec.image_shape), jnp.uint8)
    return jax.eval_shape(build_model(spec).init, jax.random.key(0), images), images


def _size(array: Any) -> int:
    itemsize = getattr(array.dtype, "itemsize", 8)
    return math.prod(array.shape) * itemsize


def differences(spec: Spec, other: Spec) -> list[str]:
    """The fields in which two Specs differ: "batch_size (64, 128)"."""
    one, two = to_plain(spec), to_plain(other)
    for plain in (one, two):
        plain |= {f"model.{option}": value for option, value in plain.pop("model_options")}
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    if "model" in keys:  # a different model has different options
        keys = [key for key in keys if not key.startswith("model.")]
    if "optimizer" in keys or "schedule" in keys:
        keys = [key for key in keys if key != "hyper_names"]
    return [f"{key} ({one.get(key)}, {two.get(key)})" for key in keys]


RATES = {"cpu": 3e10, "gpu": 2e12, "tpu": 2e12}  # operations a second of small models, roughly
STEP_SECONDS = {"cpu": 2e-6, "gpu": 2e-5, "tpu": 2e-5}  # of an empty step


def estimate_seconds(group: Group, jobs: Mapping[int, Job]) -> float:
    """The estimated training time of a group, compiling included, within a factor of about three."""
    platform = jax.default_backend()
    spec = group.spec
    epochs = sum(jobs[number].plan.stopping.epochs for number in group.jobs)
    work = epoch_flops(spec) / RATES.get(platform, 3e10)
    idle = spec.steps_per_epoch * STEP_SECONDS.get(platform, 2e-6) / group.width
    side_by_side = min(group.threads, len(group.jobs)) ** 0.8
    return 3.0 + epochs * (work + idle + 0.01) / side_by_side


def describe_groups(groups: Sequence[Group], jobs: Mapping[int, Job]) -> list[str]:
    """Lines for people: the size, time and memory of each group, and why it is not part of the first one."""
    total = sum(estimate_seconds(group, jobs) for group in groups)
    lines = [
        f"{len(jobs)} jobs in {len(groups)} groups, {len(groups)} compiled training programs, "
        f"about {_format_time(total)} on {jax.default_backend()}"
    ]
    for index, group in enumerate(groups):
        lanes = f"{group.width} lanes" if group.width > 1 else f"{group.threads} at a time"
        spec, seconds = group.spec, estimate_seconds(group, jobs)
        memory = lane_bytes(spec) * max(group.width, group.threads) / 2**20
        lines.append(
            f"group {index}: {len(group.jobs)} jobs ({_ranges(group.jobs)}), {lanes}, about "
            f"{_format_time(seconds)}, {memory:,.0f} MiB; {spec.model}, {spec.optimizer}, batch "
            f"{spec.batch_size}, {group.data[0]}"
        )
        if index:
            first = groups[0]
            reasons = differences(first.spec, spec)
            if first.data != group.data:
                reasons.append(f"data ({first.data[0]}, {group.data[0]})")
            lines.append(f"  not in group 0 because of {', '.join(reasons)}")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as text, "0-3, 7"; at most six ranges."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    shown = ["-".join(map(str, part)) for part in parts[:6]]
    return ", ".join(shown + (["..."] if len(parts) > 6 else []))


def _format_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
