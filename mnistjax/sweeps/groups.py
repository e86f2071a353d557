"""Jobs -> groups of one Spec -> assignments for workers, and how many jobs train at a time."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mnistjax.backend import free_memory, training_devices
from mnistjax.config import Spec, to_plain
from mnistjax.data import Dataset
from mnistjax.devices import count_shards
from mnistjax.job import Job
from mnistjax.layout import SEGMENT_FLOPS, epoch_flops
from mnistjax.step import build_model, init

Mode = Literal["auto", "map", "vmap", "chunk"]
DataKey = tuple[str, ...]
"""Name, SHA-256 and positive class of a data set."""

CHUNK_LANES = 8  # lanes in mode `chunk`, unless given
MOST_LANES = 1024  # in mode `vmap`, unless given
MOST_INTERLEAVED = 8  # jobs; making their shared batches is then a small part of training neurons
MEMORY_SHARE = 0.5  # share of the free memory that jobs may use
# Speed of a core if a step is spread over several: an epoch of system D takes 5.4 s on 2 cores, 7.6 s on one.
SPREAD_SPEED = 0.7


@dataclass(frozen=True)
class Group:
    """Jobs of one Spec on one data set, trained by one compiled program."""

    spec: Spec
    data: DataKey
    jobs: tuple[int, ...]  # numbers
    width: int  # lanes of the program; 1 is the program of a single run
    threads: int  # programs that run at a time


@dataclass(frozen=True, eq=False)
class Assignment:
    """Jobs for one worker, in the order of their Specs; with several lanes they have one Spec."""

    jobs: tuple[Job, ...]  # without their data
    data: DataKey
    width: int  # lanes of a program
    threads: int  # programs that run at a time
    interleaved: Mapping[Spec, int]  # the most jobs that take turns in a program of one lane; 1 if missing
    alone: bool = False  # whether no other jobs may join, because one of these is to blame for a crash


def data_key(dataset: Dataset, positive: int | None) -> DataKey:
    return dataset.name, dataset.sha256, str(positive)


def make_groups(
    jobs: Mapping[int, Job],
    *,
    mode: Mode,
    lanes: int | Literal["auto"],
    widths: Mapping[tuple[Spec, DataKey], int] | None = None,
) -> list[Group]:
    """The groups of numbered jobs, in the order of their first jobs.

    `widths` are the widths of a resumed sweep's groups, which keep them and therefore their bits.
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
    (in turn: interleaved runs of one order; shared: `vmap` with one order for all):

                             one     map    vmap in turn  shared
        neuron batch 64    0.025   0.022   0.020   0.012   0.009
        neuron batch 1024  0.026   0.023   0.017   0.018   0.009
        mlp 64 batch 64    0.236   0.132   0.129   0.124   0.114
        mlp 1024 batch 64   1.78    1.34    1.42    1.32    2.00

    So on a CPU each thread has a program of one lane, with the bits of single runs. Only neurons that share
    their order are all lanes of one program, as are all jobs on other devices, where nothing was measured.
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
    """The number of programs of one lane that run at a time, limited by the memory.

    A step is spread over as many devices as it has shards, unless there are enough jobs to keep all devices
    busy with one device each.
    """
    devices, shards = training_devices(), count_shards(spec)
    at_once = devices // shards
    if -(-jobs // devices) * shards * SPREAD_SPEED < -(-jobs // at_once):
        at_once = devices
    at_once = min(at_once, jobs)
    if jax.default_backend() == "cpu":  # all devices share one memory
        at_once = min(at_once, int(free_bytes() * MEMORY_SHARE // lane_bytes(spec)))
    return max(1, at_once)


def count_interleaved(spec: Spec, jobs: int, threads: int) -> int:
    """The most jobs that take turns in a program of one lane.

    Each thread should get several sets of such jobs. One turn of all jobs in a set should take no longer than
    a segment, because a sweep can only stop between two turns.
    """
    epochs = int(SEGMENT_FLOPS / max(1.0, epoch_flops(spec)))
    return max(1, min(MOST_INTERLEAVED, jobs // (4 * threads), epochs))


def make_assignments(
    groups: Iterable[Group], jobs: Mapping[int, Job], *, merge: bool = True
) -> list[Assignment]:
    """The assignments of the groups' jobs that are in `jobs`.

    Groups of one lane on the same data are merged, so that the next group compiles and starts beside the last
    jobs of the one before. The 27 jobs of `experiment=quickstart` in 3 groups take 31.5 s instead of 33.0 s
    (medians of 3).
    """
    assignments, groups = list[Assignment](), list(groups)
    sharing = Counter((g.data, g.width) for g in groups for number in g.jobs if number in jobs)
    for group in groups:
        left = tuple(replace(jobs[number], dataset=None) for number in group.jobs if number in jobs)
        if not left:
            continue
        count = sharing[group.data, group.width] if merge else len(left)  # jobs on the same threads
        interleaved = count_interleaved(group.spec, count, group.threads) if group.width == 1 else 1
        assignment = Assignment(left, group.data, group.width, group.threads, {group.spec: interleaved})
        if merge and assignments and can_join(assignments[-1], assignment):
            assignments[-1] = join(assignments[-1], assignment)
        else:
            assignments.append(assignment)
    return assignments


def can_join(first: Assignment, second: Assignment) -> bool:
    """Whether the threads of the first assignment can train the jobs of the second one as well.

    True if both have one lane, the same data and equally many shards, and if the memory still allows as many
    threads.
    """
    kinds = {(a.width, a.data, count_shards(a.jobs[0].plan.spec), a.alone) for a in (first, second)}
    alike = first.width == 1 and not first.alone and len(kinds) == 1
    return alike and join(first, second).threads >= first.threads


def join(first: Assignment, second: Assignment) -> Assignment:
    """Two assignments as one, with as many threads as every Spec in it allows."""
    jobs = (*first.jobs, *second.jobs)
    threads = min(count_threads(spec, len(jobs)) for spec in {job.plan.spec for job in jobs})
    return replace(first, jobs=jobs, threads=threads, interleaved={**first.interleaved, **second.interleaved})


def free_bytes() -> int:
    """The bytes of memory for training: all of an accelerator's, or what is free on this machine."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return int((device.memory_stats() or {}).get("bytes_limit", 8 << 30))
    return free_memory() or (4 << 30)


@functools.cache
def lane_bytes(spec: Spec) -> int:
    """The bytes of a lane, roughly: twice the State, the gradients, and the activations, also backward."""
    hyper: dict[str, dict[str, float]] = {"optimizer": {}, "schedule": {}}
    for name in spec.hyper_names:
        group, _, option = name.partition(".")
        hyper.setdefault(group, {})[option] = 1.0
    state = init.eval_shape(spec.without_batches, hyper, jax.random.key(0))
    activations = _activation_bytes(spec.model_only, spec.micro_batch)
    return 3 * sum(map(_size, jax.tree.leaves(state))) + 2 * activations


@functools.cache
def _activation_bytes(spec: Spec, images: int) -> int:
    """The bytes of what a model makes of so many images."""
    model = build_model(spec)
    batch = jax.ShapeDtypeStruct((images, *spec.image_shape), jnp.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    program = jax.make_jaxpr(model.apply)(variables, batch)
    return sum(_size(var.aval) for equation in program.jaxpr.eqns for var in equation.outvars)


def _size(array: Any) -> int:
    return math.prod(array.shape) * getattr(array.dtype, "itemsize", 8)


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


DATA_FIELDS = ("data", "the data's SHA-256", "task.positive")
RATES = {"cpu": 3e10, "gpu": 2e12, "tpu": 2e12}  # operations per second of small models, roughly
STEP_SECONDS = {"cpu": 2e-6, "gpu": 2e-5, "tpu": 2e-5}  # time of an empty step


def estimate_seconds(group: Group, jobs: Mapping[int, Job], share: float = 1.0) -> float:
    """The estimated time of a group with compilation, right within a factor of about three.

    `share` is the part of the epochs that is trained.
    """
    platform = jax.default_backend()
    spec = group.spec
    epochs = share * sum(jobs[number].plan.stopping.epochs for number in group.jobs)
    work = epoch_flops(spec) / RATES.get(platform, 3e10)
    idle = spec.steps_per_epoch * STEP_SECONDS.get(platform, 2e-6) / group.width
    side_by_side = min(group.threads, len(group.jobs)) ** 0.8
    return 3.0 + epochs * (work + idle + 0.01) / side_by_side


def cut(assignment: Assignment, seconds: float) -> list[Assignment]:
    """Splits an assignment of one Spec into parts that should each take at most this time.

    But no part has fewer jobs than the program has lanes, unless too few are left.
    """
    jobs, width = assignment.jobs, assignment.width
    numbered = dict(enumerate(jobs))
    group = Group(jobs[0].plan.spec, assignment.data, tuple(numbered), width, assignment.threads)
    parts = math.ceil(estimate_seconds(group, numbered) / seconds)
    size = -(-max(1, len(jobs) // parts) // width) * width
    return [replace(assignment, jobs=jobs[i : i + size]) for i in range(0, len(jobs), size)]


def _count(things: Sized, name: str) -> str:
    """ "1 job", "2 jobs"."""
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def describe_groups(groups: Sequence[Group], jobs: Mapping[int, Job], share: float) -> list[str]:
    """Text lines: the size, time and memory of each group, and how it differs from the first one.

    `share` is the part of the epochs that is trained.
    """
    total = sum(estimate_seconds(group, jobs, share) for group in groups)
    lines = [
        f"{_count(jobs, 'job')} in {_count(groups, 'group')}, {_count(groups, 'compiled training program')}, "
        f"about {_format_time(total)} on {jax.default_backend()}"
    ]
    for index, group in enumerate(groups):
        lanes = f"{group.width} lanes" if group.width > 1 else f"{group.threads} at a time"
        spec, seconds = group.spec, estimate_seconds(group, jobs, share)
        memory = lane_bytes(spec) * max(group.width, group.threads) / 2**20
        lines.append(
            f"group {index}: {_count(group.jobs, 'job')} ({_ranges(group.jobs)}), {lanes}, about "
            f"{_format_time(seconds)}, {memory:,.0f} MiB; {spec.model}, {spec.optimizer}, batch "
            f"{spec.batch_size}, {group.data[0]}"
        )
        if index:
            first = groups[0]
            reasons = differences(first.spec, spec)
            pairs = zip(DATA_FIELDS, first.data, group.data, strict=True)
            reasons += [f"{name} ({one}, {two})" for name, one, two in pairs if one != two][:1]
            lines.append(f"  not in group 0 because of {', '.join(reasons)}")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """Increasing numbers as at most six ranges, "0-3, 7"."""
    runs = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [sorted({pairs[0][1], pairs[-1][1]}) for _, run in runs if (pairs := list(run))]
    return ", ".join(["-".join(map(str, pair)) for pair in ends[:6]] + ["..."] * (len(ends) > 6))


def _format_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
