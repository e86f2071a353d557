"""Jobs -> groups of one Spec -> tasks: how many lanes, why not one group, what it will take."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mnistjax.config import Spec, to_plain
from mnistjax.data import Dataset
from mnistjax.devices import count_shards
from mnistjax.job import Job
from mnistjax.layout import SEGMENT_FLOPS, epoch_flops
from mnistjax.step import build_model, init
from mnistjax.sweep.worker import Key

Mode = Literal["auto", "map", "vmap", "chunk"]

CHUNK = 8  # lanes of `chunk`, unless told
WIDEST = 1024  # lanes of `vmap`, unless told
TEAM = 8  # jobs; making their batches is then a small part of neurons' training
MEMORY_SHARE = 0.5  # of what is free
# Of a core whose step is spread over several: an epoch of system D takes 5.4 s on 2 cores, 7.6 s on one.
SPREAD_SPEED = 0.7


@dataclass(frozen=True)
class Group:
    """Jobs of one Spec on one data set: one compiled program."""

    spec: Spec
    data: Key
    jobs: tuple[int, ...]  # numbers
    width: int  # lanes of the program; 1 is that of a single run
    threads: int  # programs at a time


def data_key(dataset: Dataset, positive: int | None) -> Key:
    return dataset.name, dataset.sha256, str(positive)


def make_groups(
    jobs: Mapping[int, Job],
    *,
    mode: Mode,
    lanes: int | Literal["auto"],
    widths: Mapping[tuple[Spec, Key], int] | None = None,
) -> list[Group]:
    """The groups of numbered jobs, in the order of their first one.

    `widths` are those of an earlier part of the same sweep, which keep its bits.
    """
    numbers: dict[tuple[Spec, Key], list[int]] = {}
    for number, job in jobs.items():
        key = job.plan.spec, data_key(job.dataset, job.plan.positive)
        numbers.setdefault(key, []).append(number)
    groups = []
    for key, members in numbers.items():
        width = (widths or {}).get(key) or choose_width(key[0], len(members), mode, lanes)
        threads = count_threads(key[0], len(members)) if width == 1 else 1
        groups.append(Group(*key, tuple(members), width, threads))
    return groups


def choose_width(spec: Spec, jobs: int, mode: Mode, lanes: int | Literal["auto"]) -> int:
    """The lanes of a group's program.

    `auto` goes by `scripts/lanes.py`, on MNIST with 8 runs and 2 cores, in seconds per run and epoch:

                             one     map    vmap   teams  shared
        neuron batch 64    0.025   0.022   0.020   0.012   0.009
        neuron batch 1024  0.026   0.023   0.017   0.018   0.009
        mlp 64 batch 64    0.236   0.132   0.129   0.124   0.114
        mlp 1024 batch 64   1.78    1.34    1.42    1.32    2.00

    So on CPU it is one lane for each thread, which gives the bits of single runs, but all jobs as lanes for
    neurons that share their order.
    Elsewhere, where nothing was measured, it is as many lanes as there are jobs.
    """
    if mode == "auto":
        wide = spec.shuffle == "shared" and spec.model == "neuron"
        mode = "map" if jax.default_backend() == "cpu" and not wide else "vmap"
    if mode == "map":
        return 1
    devices = jax.device_count()
    wanted = (CHUNK if mode == "chunk" else min(jobs, WIDEST)) if lanes == "auto" else lanes
    fitting = int(free_bytes() * MEMORY_SHARE // lane_bytes(spec)) * devices
    if wanted > 1 and lanes == "auto":
        wanted = -(-wanted // devices) * devices  # every device has its share
    return max(1, min(wanted, fitting))


def count_threads(spec: Spec, jobs: int) -> int:
    """Programs of one lane that run side by side, where the memory is enough: each on as many devices as its
    steps have shares, or on one where there are jobs enough to keep all busy."""
    devices, shares = jax.device_count(), count_shards(spec)
    at_once = devices // shares
    if -(-jobs // devices) * shares * SPREAD_SPEED < -(-jobs // at_once):
        at_once = devices
    at_once = min(at_once, jobs)
    if jax.default_backend() == "cpu":  # whose devices share their memory
        at_once = min(at_once, int(free_bytes() * MEMORY_SHARE // lane_bytes(spec)))
    return max(1, at_once)


def count_team(spec: Spec, jobs: int, threads: int) -> int:
    """Jobs at most that take turns in a program of one lane: so many that each thread has a few teams, and
    that a turn of all costs no more than a segment, because a sweep stops between two turns."""
    epochs = int(SEGMENT_FLOPS / max(1.0, epoch_flops(spec)))
    return max(1, min(TEAM, jobs // (4 * threads), epochs))


def free_bytes() -> int:
    """Memory for training: the device's own, or what the machine has free."""
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
    """About the memory of one lane: its State twice, its gradients, its activations forward and backward."""
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
    """What keeps two Specs apart: "batch_size (64, 128)"."""
    one, two = to_plain(spec), to_plain(other)
    for plain in (one, two):
        plain |= {f"model.{option}": value for option, value in plain.pop("model_options")}
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    if "model" in keys:  # another model has other options, which say nothing more
        keys = [key for key in keys if not key.startswith("model.")]
    if "optimizer" in keys or "schedule" in keys:
        keys = [key for key in keys if key != "hyper_names"]
    return [f"{key} ({one.get(key)}, {two.get(key)})" for key in keys]


RATES = {"cpu": 3e10, "gpu": 2e12, "tpu": 2e12}  # operations a second of small models, roughly
STEP_SECONDS = {"cpu": 2e-6, "gpu": 2e-5, "tpu": 2e-5}  # of a step that has nothing to do


def estimate_seconds(group: Group, jobs: Mapping[int, Job]) -> float:
    """About how long a group takes, compile included; right within a factor of three or so."""
    platform = jax.default_backend()
    spec = group.spec
    epochs = sum(jobs[number].plan.stopping.epochs for number in group.jobs)
    work = epoch_flops(spec) / RATES.get(platform, 3e10)
    idle = spec.steps_per_epoch * STEP_SECONDS.get(platform, 2e-6) / group.width
    side_by_side = min(group.threads, len(group.jobs)) ** 0.8
    return 3.0 + epochs * (work + idle + 0.01) / side_by_side


def describe_plan(groups: Sequence[Group], jobs: Mapping[int, Job]) -> list[str]:
    """The plan for people, line by line."""
    total = sum(estimate_seconds(group, jobs) for group in groups)
    lines = [
        f"{len(jobs)} jobs in {len(groups)} groups, {len(groups)} compiled training programs, "
        f"about {format_about(total)} on {jax.default_backend()}"
    ]
    for index, group in enumerate(groups):
        lanes = f"{group.width} lanes" if group.width > 1 else f"{group.threads} at a time"
        spec, seconds = group.spec, estimate_seconds(group, jobs)
        memory = lane_bytes(spec) * max(group.width, group.threads) / 2**20
        lines.append(
            f"group {index}: {len(group.jobs)} jobs ({_ranges(group.jobs)}), {lanes}, about "
            f"{format_about(seconds)}, {memory:,.0f} MiB; {spec.model}, {spec.optimizer}, batch "
            f"{spec.batch_size}, {group.data[0]}"
        )
        if index:
            first = groups[0]
            apart = differences(first.spec, spec)
            if first.data != group.data:
                apart.append(f"data ({first.data[0]}, {group.data[0]})")
            lines.append(f"  not in group 0 because of {', '.join(apart)}")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """0-3, 7"""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    shown = ["-".join(map(str, part)) for part in parts[:6]]
    return ", ".join(shown + (["..."] if len(parts) > 6 else []))


def format_about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
