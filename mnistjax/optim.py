# pyright: strict, reportMissingTypeStubs=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# (Optax has no stubs, and JAX is typed in part.)
"""The open tables of Optax optimizers and of schedules, built from a kind and traced numbers.

An optimizer is built inside the traced function from its name (in the Spec) and its numbers (in the Hyper),
so that another learning rate needs no new program. A number that is None is absent: no code is traced for it,
and its name is not in the Spec.
"""

import functools
import importlib.metadata
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from mnistjax.checks import Check, is_same_definition
from mnistjax.config import MOST_STEPS, ConfigError, Hyper, Spec, one_line, shorten, unknown
from mnistjax.parts import train_parts


class Optimizer(NamedTuple):
    make: Callable[..., optax.GradientTransformation]  # (learning_rate, **numbers)
    defaults: dict[str, float | None]


class Schedule(NamedTuple):
    factor: Callable[[Array, Mapping[str, Any]], Any]  # (step from 0, numbers) -> factor of the learning rate
    defaults: dict[str, float | str | None]  # a text is a duration, see `count_steps`


ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
# L2 decay in the gradient; limit of its global norm; factor of the learning rate of the last layer.
COMMON = {"weight_decay": None, "clip_norm": None, "head_factor": None}

OPTIMIZERS: dict[str, Optimizer] = {
    "adabelief": Optimizer(optax.adabelief, {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-16}),
    "adagrad": Optimizer(optax.adagrad, {"learning_rate": 1e-2, "eps": 1e-7}),
    "adam": Optimizer(optax.adam, {"learning_rate": 3e-3, **ADAM}),
    "adamax": Optimizer(optax.adamax, {"learning_rate": 1e-3, **ADAM}),
    "adamw": Optimizer(optax.adamw, {"learning_rate": 1e-3, **ADAM, "weight_decay": 1e-2}),
    "lamb": Optimizer(optax.lamb, {"learning_rate": 1e-2, **ADAM, "weight_decay": 0.0}),
    "lion": Optimizer(optax.lion, {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.99, "weight_decay": 1e-3}),
    "momentum": Optimizer(optax.sgd, {"learning_rate": 1e-2, "momentum": 0.9}),
    "nadam": Optimizer(optax.nadam, {"learning_rate": 1e-3, **ADAM}),
    "nesterov": Optimizer(
        functools.partial(optax.sgd, nesterov=True), {"learning_rate": 1e-2, "momentum": 0.9}
    ),
    "radam": Optimizer(optax.radam, {"learning_rate": 1e-3, **ADAM}),
    "rmsprop": Optimizer(optax.rmsprop, {"learning_rate": 1e-3, "decay": 0.9, "eps": 1e-7}),
    "sgd": Optimizer(optax.sgd, {"learning_rate": 1e-2}),
    "yogi": Optimizer(optax.yogi, {"learning_rate": 1e-2, "b1": 0.9, "b2": 0.999, "eps": 1e-3}),
}


def _cosine(t: Array, numbers: Mapping[str, Any]) -> Array:
    """Half a cosine from 1 to `final` over the run (Loshchilov and Hutter, 2017)."""
    progress = jnp.clip(t / numbers["total"], 0, 1)
    return numbers["final"] + (1 - numbers["final"]) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _one_cycle(t: Array, numbers: Mapping[str, Any]) -> Array:
    """Half a cosine from `initial` to 1 over `rise`, then half a one to `final` (Smith and Topin, 2018)."""
    rise, total = numbers["rise"], numbers["total"]
    up = jnp.clip(t / jnp.maximum(rise, 1), 0, 1)
    down = jnp.clip((t - rise) / jnp.maximum(total - rise, 1), 0, 1)
    start, end = numbers["initial"], numbers["final"]
    rising = start + (1 - start) * 0.5 * (1 - jnp.cos(jnp.pi * up))
    return jnp.where(t < rise, rising, end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * down)))


def _step(t: Array, numbers: Mapping[str, Any]) -> Array:
    """`factor` to the power of the number of `every` durations that have passed."""
    return numbers["factor"] ** jnp.floor(t / jnp.maximum(numbers["every"], 1))


# Not Optax's, because those branch in Python on their numbers, which are traced here.
SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(lambda t, numbers: 1.0, {"warmup": None}),
    "cosine": Schedule(_cosine, {"warmup": None, "final": 0.0}),
    "one_cycle": Schedule(_one_cycle, {"warmup": None, "rise": "30%", "initial": 0.04, "final": 1e-4}),
    "step": Schedule(_step, {"warmup": None, "every": "10 epochs", "factor": 0.5}),
}


def register_optimizer(
    name: str, make: Callable[..., optax.GradientTransformation], **defaults: float
) -> None:
    """Adds a row to the table of optimizers; ConfigError if the name is taken.

    `make(learning_rate, **numbers)` must accept a callable or traced `learning_rate` and traced
    numbers; `defaults` names them all, `learning_rate` included. A function that is defined again, in a
    notebook's cell, say, replaces its older version; runs of both have the same identity.
    """
    older = OPTIMIZERS[name].make if name in OPTIMIZERS else make
    if not is_same_definition(make, older):
        raise ConfigError(f"an optimizer named {name!r} is registered already; choose another name")
    if older is not make:
        jax.clear_caches()  # the older version's programs
    OPTIMIZERS[name] = Optimizer(make, {"learning_rate": 1e-3, **defaults})


@functools.cache
def _load_entry_points() -> None:
    """Adds the rows that installed packages declare under the entry-point group `mnistjax.optimizers`."""
    for entry in importlib.metadata.entry_points(group="mnistjax.optimizers"):
        try:
            row = entry.load()
            if not isinstance(row, Optimizer):
                raise TypeError(f"{entry.value} is no mnistjax.optim.Optimizer(make, defaults)")
            OPTIMIZERS.setdefault(entry.name, row)
        except Exception as error:  # the code of others
            warnings.warn(f"the optimizer {entry.name} is left out: {one_line(error)}", stacklevel=2)


def list_optimizers() -> list[str]:
    """The sorted names of the registered optimizers."""
    _load_entry_points()
    return sorted(OPTIMIZERS)


def optimizer_options(name: str) -> dict[str, float | None]:
    """The numbers of an optimizer with their defaults; None is absent."""
    if name not in list_optimizers():
        raise unknown("optimizer", name, OPTIMIZERS)
    return {**COMMON, **OPTIMIZERS[name].defaults}


def schedule_options(name: str) -> dict[str, float | str | None]:
    """The numbers and durations of a schedule with their defaults; None is absent."""
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    return dict(SCHEDULES[name].defaults)


_POSITIVE = Check(lambda x: x > 0, "a finite number > 0")
_NOT_NEGATIVE = Check(lambda x: x >= 0, "a finite number >= 0")
_RATE = Check(lambda x: 0 <= x < 1, "a number >= 0 and < 1")
_FRACTION = Check(lambda x: 0 <= x <= 1, "a number >= 0 and <= 1")
CHECKS = {  # all numbers must be finite, those without a check need no more
    "learning_rate": _POSITIVE,
    "clip_norm": _POSITIVE,
    "head_factor": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "eps": _NOT_NEGATIVE,
    "momentum": _RATE,
    "decay": _RATE,
    "b1": _RATE,
    "b2": _RATE,
    "factor": _FRACTION,
    "initial": _FRACTION,
    "final": _FRACTION,
}
DURATIONS = ("schedule.warmup", "schedule.every", "schedule.rise")


def check_numbers(
    optimizer: str, optimizer_values: Mapping[str, Any], schedule: str, schedule_values: Mapping[str, Any]
) -> Hyper:
    """The numbers of an optimizer and a schedule, with defaults for missing ones; durations stay as given.

    ConfigError names the option (`optimizer.learning_rate`), what was given and what is allowed.
    """
    merged = {
        "optimizer": _merge("optimizer", optimizer, optimizer_values, optimizer_options(optimizer)),
        "schedule": _merge("schedule", schedule, schedule_values, schedule_options(schedule)),
    }
    for group, numbers in merged.items():
        for option, value in numbers.items():
            if (key := f"{group}.{option}") in DURATIONS:
                count_steps(key, value, steps_per_epoch=1, epochs=1)
            else:
                numbers[option] = _check_number(key, value)
    return merged


def make_hyper(numbers: Hyper, schedule: str, *, steps_per_epoch: int, epochs: int) -> Hyper:
    """The Hyper of a run from checked numbers: durations become steps, a schedule gets the run's `total`.

    ConfigError if the run or a duration has more than MOST_STEPS steps.
    """
    if epochs > MOST_STEPS // steps_per_epoch:
        most = f"{MOST_STEPS // steps_per_epoch}, for {steps_per_epoch} steps an epoch"
        raise ConfigError(f"train.epochs must be at most {most}; got {shorten(epochs)}")
    times = dict(numbers["schedule"])
    for option, value in times.items():
        if (key := f"schedule.{option}") in DURATIONS:
            times[option] = count_steps(key, value, steps_per_epoch=steps_per_epoch, epochs=epochs)
    if schedule != "constant":
        times["total"] = float(steps_per_epoch * epochs)
    return {**numbers, "schedule": times}


_DURATION = re.compile(r"\s*((?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e-?[0-9]+)?)\s*(steps?|epochs?|%)\s*")


def count_steps(key: str, duration: Any, *, steps_per_epoch: int, epochs: int) -> float:
    """Optimizer steps in a duration: "500 steps", "2 epochs" or "5%" of the run; 0 is none.

    >>> count_steps("schedule.warmup", "5%", steps_per_epoch=100, epochs=10)
    50.0
    """
    if type(duration) in (int, float) and duration == 0:
        return 0.0
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    count = math.inf
    if match:
        number, unit = float(match[1]), match[2].rstrip("s")
        count = number * {"step": 1, "epoch": steps_per_epoch, "%": steps_per_epoch * epochs / 100}[unit]
    if not count <= MOST_STEPS:
        shown = shorten(duration)
        raise ConfigError(f"{key}: {shown!r} is no duration; write 0, '500 steps', '2 epochs' or '5%'")
    return count


def hyper_names(hyper: Hyper) -> tuple[str, ...]:
    """The dotted names of all numbers of a Hyper, sorted, for the Spec."""
    return tuple(sorted(f"{group}.{option}" for group, numbers in hyper.items() for option in numbers))


def _merge(group: str, name: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    for option in values:
        if option not in defaults:
            raise unknown(f"option of {group} {name}", option, defaults)
    merged = {**defaults, **values}
    # A null is absent if it is the default, else `_check_number` refuses it.
    return {o: value for o, value in merged.items() if value is not None or defaults[o] is not None}


def _check_number(key: str, value: Any) -> float:
    """The number as a float; ConfigError if it is not allowed, also after rounding to float32."""
    check = CHECKS.get(key.rpartition(".")[2], Check(math.isfinite, "a finite number"))
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and check.holds(number)):
        raise ConfigError(f"{key} must be {check.allowed}; got {shorten(value)!r}")
    with np.errstate(over="ignore", under="ignore"):
        single = float(np.float32(number))
    if not (math.isfinite(single) and check.holds(single)):
        raise ConfigError(
            f"{key} must be {check.allowed}; got {shorten(value)!r}, which is {single} as float32"
        )
    return number


def make_optimizer(spec: Spec, hyper: Hyper) -> optax.GradientTransformation:
    """The Optax optimizer of a run, from the Spec's names and the Hyper's (traced) numbers."""
    numbers, optimizer, chain = dict(hyper["optimizer"]), OPTIMIZERS[spec.optimizer], []
    if "clip_norm" in numbers:
        chain.append(optax.clip_by_global_norm(numbers.pop("clip_norm")))
    if "weight_decay" in numbers and "weight_decay" not in optimizer.defaults:
        chain.append(optax.add_decayed_weights(numbers.pop("weight_decay")))
    head_factor = numbers.pop("head_factor", None)
    numbers["learning_rate"] = learning_rate(spec.schedule, numbers["learning_rate"], hyper["schedule"])
    chain.append(optimizer.make(**numbers))
    return train_parts(spec, optax.chain(*chain) if len(chain) > 1 else chain[0], head_factor)


def learning_rate(schedule: str, peak: Any, numbers: Mapping[str, Any]) -> Any:
    """The learning rate: a number if it is constant, else a function of the step."""
    if not numbers:
        return peak

    def at_step(step: Array) -> Any:
        factor = SCHEDULES[schedule].factor(step, numbers)
        if "warmup" in numbers:
            factor *= jnp.minimum(1, (step + 1) / jnp.maximum(numbers["warmup"], 1))
        return peak * factor

    return at_step
