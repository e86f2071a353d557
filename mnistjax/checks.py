"""Checks of single values from the command line or a file. An error is one line that says what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mnistjax.config import ConfigError, Stopping, shorten, to_plain, unknown

LARGEST = 1e300  # the largest number; a million of them have a sum that a float can hold
MOST_CLASSES = 1000  # of a data set; a confusion matrix has this squared


def is_same_definition(one: Any, other: Any) -> bool:
    """Whether two classes or functions are one, or versions of one, which has been defined again."""
    places = [[getattr(x, name, None) for name in ("__module__", "__qualname__")] for x in (one, other)]
    return one is other or (places[0] == places[1] and None not in places[0])


class Check(NamedTuple):
    """A test of a value, and a text for its error."""

    holds: Callable[[Any], bool]
    allowed: str  # "a whole number >= 1"
    names: tuple[str, ...] = ()  # the allowed names of a choice


def whole(lowest: int, *others: str | None, highest: int | None = None) -> Check:
    """A whole number >= `lowest`, and <= `highest` if given, or one of the other values."""
    number = (
        f"a whole number >= {lowest}" if highest is None else f"a whole number from {lowest} to {highest}"
    )
    words = [number, *("null" if other is None else repr(other) for other in others)]

    def holds(x: Any) -> bool:
        is_other = any(x is other or (type(x) is str and x == other) for other in others)
        return is_other or (type(x) is int and x >= lowest and (highest is None or x <= highest))

    return Check(holds, " or ".join(words))


def choice(*names: str) -> Check:
    """One of these names."""
    return Check(lambda x: type(x) is str and x in names, ", ".join(names), names)


def optional(check: Check) -> Check:
    """A value that passes another check, or null."""
    return Check(lambda x: x is None or check.holds(x), f"{check.allowed} or null")


def list_of(check: Check, allowed: str) -> Check:
    """A list of values that pass another check."""
    return Check(lambda x: type(x) is list and all(map(check.holds, x)), allowed)


def _is_number(x: Any) -> bool:
    return (type(x) in (int, float) and abs(x) <= LARGEST) or (type(x) is str and x in ("nan", "inf", "-inf"))


def _is_time(x: Any) -> bool:
    try:
        return type(x) is str and bool(datetime.fromisoformat(x))
    except ValueError:
        return False


TEXT = Check(lambda x: type(x) is str and x != "" and "\0" not in x, "a name")
FOLDER = Check(lambda x: type(x) is str and "\0" not in x, "a folder")  # "": the default
ANY_TEXT = Check(lambda x: type(x) is str, "text")
FLAG = Check(lambda x: type(x) is bool, "true or false")
PAIRS = list_of(Check(lambda x: type(x) is list and len(x) == 2 and type(x[0]) is str, ""), "a list of pairs")
TEXTS = list_of(ANY_TEXT, "a list of words, such as [one,two]")
NAMES = list_of(TEXT, "a list of names")
PROJECT = Check(  # what W&B takes: a part of an address
    lambda x: TEXT.holds(x) and len(x) <= 128 and not set(x) & set("/\\#?%:"),
    "a name of at most 128 characters without / \\ # ? % :",
)
TAGS = list_of(  # what W&B takes
    Check(lambda x: TEXT.holds(x) and len(x) <= 64, ""),
    "a list of words of 1 to 64 characters, such as [one,two]",
)
NUMBER = Check(_is_number, 'a number, "nan", "inf" or "-inf"')
FINITE = Check(lambda x: type(x) in (int, float) and abs(x) <= LARGEST, "a finite number")
SECONDS = Check(lambda x: FINITE.holds(x) and x >= 0, "a number of seconds >= 0")
TIME = Check(_is_time, "a time, such as 2026-11-27T10:00:00+00:00")
MAPPING = Check(lambda x: isinstance(x, Mapping), "a mapping")
SEED = whole(0, highest=2**32 - 1)
FREEZE = Check(
    lambda x: TEXT.holds(x) or (isinstance(x, (list, tuple)) and all(map(TEXT.holds, x))),
    "a pattern of parts of the model, or a list of such, for example [Conv*,'*/bias']",
)
CLASS_WEIGHTS = optional(choice("balanced"))
SHUFFLE = choice("own", "shared")
STOPPING = {  # by key of a config, in the order of the fields of Stopping
    "train.epochs": whole(1),
    "train.early_stopping": whole(1, None),
    "train.keep": choice("last", "best"),
    "train.monitor": choice("val/loss", "val/accuracy", "val/f1"),
}


def show_shape(shape: Sequence[int]) -> str:
    """A shape in words: "28 x 28 x 1"."""
    return " x ".join(map(str, shape))


def check_value(key: str, value: Any, check: Check) -> None:
    """Raises ConfigError unless the value passes the check."""
    if check.holds(value):
        return
    if check.names and isinstance(value, str):
        raise unknown(key, value, check.names)
    raise ConfigError(f"{key} must be {check.allowed}; got {shorten(value)!r}")


def check_training(seed: Any, stopping: Stopping) -> None:
    """Raises ConfigError for a wrong seed or stopping rule; their numbers may be NumPy's."""
    check_value("seed", to_plain(seed), SEED)
    for value, (key, check) in zip(to_plain(stopping).values(), STOPPING.items(), strict=True):
        check_value(key, value, check)
