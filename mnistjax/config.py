"""Types of a run: what is compiled (Spec), what is a number (Hyper), what is run (Plan).

The Spec is the compile key: jobs with equal Specs are one compiled program, whatever their
learning rates and seeds.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.resources
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LONGEST = 1_000  # characters of an error

Hyper = Mapping[str, Mapping[str, Any]]
"""Numbers of a run, `{"optimizer": {"learning_rate": 0.01, ...}, "schedule": {...}}`; always traced.

There is an `"augment"` only where training images are changed."""

Options = tuple[tuple[str, Any], ...]
"""Sorted, hashable keyword arguments."""


class ConfigError(ValueError):
    """A wrong value given by the user; its text says what was given, what is allowed and what is nearest.

    A text of more than LONGEST characters, from a file say, is cut in the middle.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= LONGEST else f"{text[:700]} ... {text[-250:]}")


def unknown(kind: str, given: str, allowed: Iterable[str]) -> ConfigError:
    """The error for a wrong name: what was given, what is nearest, what is allowed.

    >>> str(unknown("model", "cnm", ["mlp", "cnn"]))
    "unknown model 'cnm'; nearest is 'cnn' (allowed: cnn, mlp)"
    """
    given, names = shorten(given), sorted(map(str, allowed))
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    nearest = f"; nearest is {close[0]!r}" if close else ""
    return ConfigError(f"unknown {kind} {given!r}{nearest} (allowed: {', '.join(names)})")


SHOWN = 80  # characters of a wrong value in a message


def shorten(value: Any) -> Any:
    """A value for a message; text, a list or a number that is very long is cut."""
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return f"a number of more than {SHOWN} digits"
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # of Python's limits of digits, and of lists inside one another
        return f"a {type(value).__name__} too large to show"
    return value if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def one_line(error: BaseException) -> str:
    """What happened, for a record or a message: "ValueError: no luck"."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def freeze(value: Any) -> Any:
    """The hashable form of a config value: lists become tuples, mappings sorted tuples of pairs."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(k), freeze(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    return value


@dataclass(frozen=True)
class Spec:
    """Everything that changes shapes or code. Hashable; equal Specs share one compiled program.

    `hyper_names` lists the numbers that the optimizer, the schedule and the augmentation read, because a
    number that is absent (no weight decay, say) is code that is absent.
    """

    model: str
    model_options: Options
    optimizer: str
    schedule: str
    hyper_names: tuple[str, ...]
    task: Literal["multiclass", "binary"]
    num_classes: int  # logits per image: K, or 1 for a binary task
    train_count: int  # training images
    batch_size: int  # images per step; train_count for the full batch
    micro_batch: int  # images per gradient inside a step; batch_size when a step is one piece
    shuffle: Literal["own", "shared"] = "own"
    image_shape: tuple[int, int, int] = (28, 28, 1)  # H, W, C

    @property
    def classes(self) -> int:
        """Classes of the confusion matrix: 2 for a binary task, else K."""
        return 2 if self.task == "binary" else self.num_classes

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.train_count // self.batch_size)

    @property
    def full_batch(self) -> bool:
        """Whether a step takes all training images, which are then not shuffled."""
        return self.batch_size == self.train_count


@dataclass(frozen=True)
class Stopping:
    """When a run ends and which epoch it keeps; both look at validation only."""

    epochs: int
    patience: int | None = None  # epochs without a better `monitor` before stopping early
    keep: Literal["last", "best"] = "last"  # parameters that are tested and kept
    monitor: str = "val/loss"  # a validation metric; lower is better for loss, higher for the others


def badness(metric: str, value: float) -> float:
    """Lower is better: a loss as it is, any other metric negated."""
    return value if metric.endswith("loss") else -value


DEFAULT_STOPPING = Stopping(epochs=3)


@dataclass(frozen=True)
class Plan:
    """One run, whole: what `fit` needs and what the records keep."""

    spec: Spec
    hyper: Hyper
    seed: int
    stopping: Stopping
    positive: int | None  # the positive class of a binary task
    data: str  # name of the data set
    data_sha256: str  # of the decoded arrays
    identity: str = field(init=False)  # SHA-256 of the above; equal for equal jobs

    def __post_init__(self) -> None:
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        object.__setattr__(self, "identity", hashlib.sha256(canonical_json(content).encode()).hexdigest())


def to_plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses become dicts, tuples lists, NumPy scalars numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return getattr(value, "item", lambda: value)()


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


MOST_STEPS = 2**31 - 1  # of a run: they are counted as int32
_DURATION = re.compile(r"\s*((?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e-?[0-9]+)?)\s*(steps?|epochs?|%)\s*")


def steps(duration: Any, *, steps_per_epoch: int, epochs: int) -> float:
    """Optimizer steps in a duration: "500 steps", "2 epochs" or "5%" of the run; 0 is none.

    >>> steps("5%", steps_per_epoch=100, epochs=10)
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
        raise ConfigError(f"{shorten(duration)!r} is no duration; write 0, '500 steps', '2 epochs' or '5%'")
    return count


def conf_dir() -> Path:
    """The folder of the YAML files: beside the package in a checkout, inside it in an installed wheel."""
    packaged = Path(str(importlib.resources.files("mnistjax"))) / "conf"
    return packaged if packaged.is_dir() else packaged.parents[1] / "conf"
