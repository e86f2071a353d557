"""The arguments stored in a sweep folder. Only those that describe its jobs are used.

The folder may come from a stranger. So no keys of Hydra (launchers, callbacks, logging), no executors, no
folders and no interpolations are taken from it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnistjax import records
from mnistjax.cli.overrides import list_choices, parse_overrides
from mnistjax.cli.search import OPTIONS, SWEEPERS
from mnistjax.config import ConfigError, shorten
from mnistjax.data import AUTO
from mnistjax.progress import relative, tell
from mnistjax.sweeps.ledger import LEDGER, Ledger
from mnistjax.words import HUB, JOB_KEYS, OUTPUT_KEYS, folder_word, shell_join

SEARCH_KEYS = ("hydra/sweeper", *(f"hydra.sweeper.{name}" for name in OPTIONS))
NEEDED = {  # start of a word -> stored words that are refused unless the command line has such a word
    "hydra/sweeper=": ("hydra/sweeper", "hydra.sweeper"),
    "sweep.executor=": ("sweep.executor=submitit", "sweep.submitit"),
    "init_from=": ("init_from=",),
    "hydra.searchpath=": ("hydra.searchpath=",),  # the folders of its own experiments
}
FOLDER_WORDS = tuple(f"{key}=" for key in OUTPUT_KEYS)  # left out silently
LONGEST_KEY = 100  # characters
SWEEP_KEYS = ("sweep.mode", "sweep.lanes", "sweep.halving", "sweep.rank", "sweep.timeout", "sweep.fail_fast")


def is_taken(override: Any) -> bool:
    """Whether a stored override is used: it describes jobs by plain values or names of our files.

    A data folder is used only if it already contains our data.
    """
    key, line = override.key_or_group, override.input_line
    if key in SEARCH_KEYS:
        return re.fullmatch(rf"hydra/sweeper=({'|'.join(SWEEPERS)})|[\w.]+=\d+", line) is not None
    if override.package is not None or "${" in line or len(key) > LONGEST_KEY:
        return False
    if key not in SWEEP_KEYS and re.split(r"[./]", key)[0] not in (*JOB_KEYS, "wandb"):
        return False
    text = line.partition("=")[2]
    if key == "data.dir":
        return os.path.isdir(os.path.join(os.path.expanduser(text.strip("'\"")), "mnistjax"))
    if key == "init_from":  # a sweep from a stranger downloads nothing
        return HUB not in text
    if list_choices(key):
        return re.fullmatch(r"[\w\-,() ]*", text) is not None  # no path to another file
    return True


def take_arguments(ledger: Ledger, given: Sequence[str]) -> list[str]:
    """Returns the stored arguments of a sweep that are used, and tells the user the others.

    ConfigError if it used a sweeper, a cluster or its own experiments, which the user must name again.
    """
    words = [o.input_line for o in parse_overrides(ledger.arguments) if is_taken(o)]
    place, known = relative(ledger.folder), {*words, *given}
    left = [word for word in ledger.arguments if word not in known and not word.startswith(FOLDER_WORDS)]
    needed = [
        word
        for instead, keys in NEEDED.items()
        for word in left
        if word.lstrip("+").startswith(keys) and not any(other.startswith(instead) for other in given)
    ]
    if needed:
        again = shell_join(["mnistjax", "-m", folder_word("sweep.resume", place), *needed])
        raise ConfigError(f"not taken from {place}, but only from the command line: {again}")
    if left:
        tell(f"not taken from {place}/{LEDGER}: {shell_join(left)[:400]}")
    return words


def take_jobs(ledger: Ledger) -> list[list[str]]:
    """The stored overrides of each job of a sweep, without those of the whole sweep.

    ConfigError for an override of a job that is not used.
    """
    jobs = []
    for entry in ledger.entries.values():
        jobs.append([])
        for override in parse_overrides(entry.overrides):
            if is_taken(override):
                jobs[-1].append(override.input_line)
            elif not override.key_or_group.startswith(("sweep.", "data.dir")):
                raise ConfigError(
                    f"job {entry.number} of {relative(ledger.folder)} has the override "
                    f"{shorten(override.input_line)!r}, which is not taken from a stored sweep"
                )
    return jobs


def find_auto(ledger: Ledger) -> str | None:
    """The data set that data=auto meant when a sweep began; None if its jobs don't tell."""
    found = set()
    for entry in ledger.entries.values():
        chosen = [word for word in entry.overrides if word.startswith("data=")]
        if entry.group < len(ledger.groups) and chosen in ([], ["data=auto"]):
            found.add(ledger.groups[entry.group]["data"][0])
    return found.pop() if len(found) == 1 and found <= {*AUTO} else None


def find_run_auto(folder: Path) -> str | None:
    """The data set that data=auto meant when the run in a folder began; None if its records don't tell."""
    with contextlib.suppress(ConfigError, OSError):  # `find_outcome` tells the user
        summary = records.read_summary(folder)
        data = summary["data"] if summary else records.read_config(folder).get("data")
        if isinstance(data, dict) and data.get("name") in AUTO:
            return data["name"]
    return None
