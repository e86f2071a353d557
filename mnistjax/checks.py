"""Checks of single values, from the command line or from a file: one line says what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from mnistjax.config import ConfigError, unknown

SHOWN = 80  # characters of a wrong value in a message


class Check(NamedTuple):
    holds: Callable[[Any], bool]
    allowed: str  # for the message: "a whole number >= 1"


def whole(lowest: int, *others: str | None, highest: int | None = None) -> Check:
    """A whole number of at least `lowest`, at most `highest` if given, or one of the other values."""
    number = (
        f"a whole number >= {lowest}" if highest is None else f"a whole number from {lowest} to {highest}"
    )
    words = [number, *("null" if other is None else repr(other) for other in others)]

    def holds(x: Any) -> bool:
        is_other = any(x is other or (type(x) is str and x == other) for other in others)
        return is_other or (type(x) is int and x >= lowest and (highest is None or x <= highest))

    return Check(holds, " or ".join(words))


def choice(*names: str) -> Check:
    """One of these words."""
    return Check(lambda x: type(x) is str and x in names, ", ".join(names))


def optional(check: Check) -> Check:
    """What another check takes, or null."""
    return Check(lambda x: x is None or check.holds(x), f"{check.allowed} or null")


def matching(pattern: str, allowed: str) -> Check:
    """Text that a regular expression matches whole."""
    return Check(lambda x: type(x) is str and re.fullmatch(pattern, x) is not None, allowed)


def list_of(check: Check, allowed: str) -> Check:
    """A list whose every item another check takes."""
    return Check(lambda x: type(x) is list and all(map(check.holds, x)), allowed)


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) or (type(x) is str and x in ("nan", "inf", "-inf"))


def _is_time(x: Any) -> bool:
    try:
        return type(x) is str and datetime.fromisoformat(x).tzinfo is not None
    except ValueError:
        return False


TEXT = Check(lambda x: type(x) is str and x != "" and "\0" not in x, "a name")
ANY_TEXT = Check(lambda x: type(x) is str, "text")
FLAG = Check(lambda x: type(x) is bool, "true or false")
TEXTS = list_of(ANY_TEXT, "a list of words, [one,two]")
NUMBER = Check(_is_number, 'a number, "nan", "inf" or "-inf"')
SECONDS = Check(lambda x: type(x) in (int, float) and math.isfinite(x) and x >= 0, "a number of seconds >= 0")
SHARE = Check(lambda x: type(x) in (int, float) and 0 <= x <= 1, "a number from 0 to 1")
TIME = Check(_is_time, "a time, 2026-11-27T10:00:00+00:00 say")
SHA256 = matching(r"[0-9a-f]{64}", "a SHA-256 in 64 digits")
MAPPING = Check(lambda x: isinstance(x, Mapping), "a mapping")
SEED = whole(0, highest=2**32 - 1)


def check_value(key: str, value: Any, check: Check) -> None:
    """ConfigError unless the check holds."""
    if check.holds(value):
        return
    names = check.allowed.split(", ")
    if len(names) > 1 and isinstance(value, str):
        raise unknown(key, shorten(value), names)
    raise ConfigError(f"{key} must be {check.allowed}; got {shorten(value)!r}")


def shorten(value: Any) -> Any:
    """A value for a message; text, a list or a number that is very long is cut."""
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return f"a number of more than {SHOWN} digits"
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= SHOWN:
        return value
    return f"{text[:SHOWN]}..."
