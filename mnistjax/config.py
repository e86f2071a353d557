# pyright: strict
"""The types of a run: Spec (what is compiled), Hyper (numbers), Plan (the whole run); errors about values.

The Spec is the compile key: jobs with equal Specs share one compiled program, even if their learning rates
and seeds differ.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

LONGEST = 1_000  # characters in an error
SHOWN = 80  # characters of a wrong value in an error
MOST_STEPS = 2**31 - 1  # in a run, because steps are counted as int32

Hyper = Mapping[str, Mapping[str, Any]]
"""The traced numbers of a run: `{"optimizer": {"learning_rate": 0.01, ...}, "schedule": {...}}`.

It has the key `"augment"` only if training images are changed, `"loss"` only if classes have weights."""

Options = tuple[tuple[str, Any], ...]
"""Sorted, hashable keyword arguments."""


class ConfigError(ValueError):
    """A wrong value from the user. The text says what was given and what is allowed.

    A text of more than LONGEST characters is cut in the middle.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= LONGEST else f"{text[:700]} ... {text[-250:]}")


def unknown(kind: str, given: str, allowed: Iterable[str], first: Iterable[str] = ()) -> ConfigError:
    """The error for a wrong name, with the nearest and all allowed names; those in `first` are listed first.

    >>> str(unknown("model", "cnm", ["mlp", "cnn"]))
    "unknown model 'cnm'; nearest is 'cnn' (allowed: cnn, mlp)"
    """
    names = [*dict.fromkeys([*first, *sorted(map(str, allowed))])]
    given = shorten(given)
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    nearest = f"; nearest is {close[0]!r}" if close else ""
    return ConfigError(f"unknown {kind} {given!r}{nearest} (allowed: {', '.join(names)})")


def shorten(value: Any) -> Any:
    """A value for an error; a long text, list or number is cut."""
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return f"a number of more than {SHOWN} digits"
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # Python limits the digits of a number and the depth of a list
        return f"a {type(value).__name__} too large to show"
    return value if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def one_line(error: BaseException) -> str:
    """An error as one line: "ValueError: no luck"."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def freeze(value: Any) -> Any:
    """The hashable form of a config value: lists become tuples, mappings sorted tuples of pairs."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(k), freeze(v)) for k, v in cast("Mapping[Any, Any]", value).items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(freeze, cast("Sequence[Any]", value)))
    return value


@dataclass(frozen=True)
class Spec:
    """Everything that changes shapes or code. Equal Specs share one compiled program.

    `hyper_names` lists the numbers that the optimizer, the schedule, the augmentation and the loss use,
    because code without weight decay, for example, is other code.
    """

    model: str
    model_options: Options
    optimizer: str
    schedule: str
    hyper_names: tuple[str, ...]
    task: Literal["multiclass", "binary"]
    num_classes: int  # logits per image: K, or 1 for a binary task
    train_count: int  # training images
    batch_size: int  # images per step; train_count if a step takes all
    micro_batch: int  # images per gradient inside a step; batch_size if a step has one micro-batch
    shuffle: Literal["own", "shared"] = "own"
    image_shape: tuple[int, int, int] = (28, 28, 1)  # H, W, C
    freeze: tuple[str, ...] = ()  # patterns of the parameters that are not trained

    @property
    def classes(self) -> int:
        """Classes of the confusion matrix: 2 for a binary task, else K."""
        return 2 if self.task == "binary" else self.num_classes

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.train_count // self.batch_size)

    @property
    def full_batch(self) -> bool:
        """Whether each step takes all training images. They are not shuffled then."""
        return self.batch_size == self.train_count

    @property
    def without_batches(self) -> Spec:
        """The key of programs that see no batch, so that Specs share them."""
        return dataclasses.replace(self, train_count=1, batch_size=1, micro_batch=1, shuffle="own")

    @property
    def model_only(self) -> Spec:
        """The key of programs that only apply the model."""
        return dataclasses.replace(self.without_batches, optimizer="", schedule="", hyper_names=(), freeze=())


@dataclass(frozen=True)
class Stopping:
    """When a run ends and which epoch it keeps. Only validation metrics decide both."""

    epochs: int
    patience: int | None = None  # epochs without a better `monitor` before stopping early
    keep: Literal["last", "best"] = "last"  # epoch whose parameters are tested and saved
    monitor: str = "val/loss"  # a validation metric; lower is better for loss, higher for the others


def badness(metric: str, value: float) -> float:
    """The value of a metric such that lower is better: a loss is unchanged, other metrics are negated."""
    return value if metric.endswith("loss") else -value


DEFAULT_STOPPING = Stopping(epochs=3)


@dataclass(frozen=True)
class Plan:
    """One run, decided before it starts: everything that `fit` needs and the records keep."""

    spec: Spec
    hyper: Hyper
    seed: int
    stopping: Stopping
    positive: int | None  # the positive class of a binary task
    data: str  # name of the data set
    data_sha256: str  # of the decoded arrays
    start: str | None = None  # SHA-256 of the trained variables from which it starts
    identity: str = field(init=False)  # SHA-256 of all fields above

    def __post_init__(self) -> None:
        content = {f.name: to_plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init}
        for part, name in ((content, "start"), (content["spec"], "freeze")):
            if not part[name]:
                del part[name]  # as in identities from before there was this field
        object.__setattr__(self, "identity", hashlib.sha256(canonical_json(content).encode()).hexdigest())


def to_plain(value: Any) -> Any:
    """A value as JSON types: dataclasses become dicts, tuples lists, NumPy scalars numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [*map(to_plain, cast("Sequence[Any]", value))]
    return getattr(value, "item", lambda: value)()


def canonical_json(value: Any) -> str:
    """The JSON text of a value with sorted keys and no spaces: equal values have equal texts."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
