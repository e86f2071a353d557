"""The folder of a run or a sweep: read from the config, checked before anything is written, then locked."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.files import describe, make_folder
from mnistjax.sweeps.ledger import LEDGER, RESULTS

if TYPE_CHECKING:
    from omegaconf import DictConfig

SHOWN = 200  # characters of a path in a message
WRITTEN_FIRST = (  # files that a run or a sweep writes before its first job starts
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
    *("multirun.yaml", LEDGER, RESULTS, records.LOCK, records.STATUS, records.CONFIG),
)
MAX_NAME = 255  # bytes in the name of a file or folder
MAX_PATH = 3_800  # bytes in the path of a folder: Linux allows 4,095, and its files have longer paths


def find_folder(cfg: DictConfig, kind: Literal["run", "sweep"]) -> Path:
    """The absolute path of the run's or the sweep's folder; ConfigError if it can't be made."""
    key, given, subdir = f"hydra.{kind}.dir", cfg.hydra[kind].dir, cfg.hydra.output_subdir
    if not isinstance(given, str) or not given:
        raise ConfigError(f"{key} must be a folder; got {given!r}")
    folder = Path(given).absolute()
    if "${" in str(folder):
        raise ConfigError(f"{key}={given}: Hydra does not allow ${{ in the path of a folder")
    check_path(key, folder)
    if subdir:
        check_path("hydra.output_subdir", folder / subdir)
    return folder


def check_path(key: str, folder: Path) -> None:
    """Raises ConfigError if a folder can't be made, as far as that is known without making it."""
    shown, size = _cut(folder), len(os.fsencode(folder))
    longest = max(len(os.fsencode(name)) for name in folder.parts)
    if size > MAX_PATH or longest > MAX_NAME:
        raise ConfigError(
            f"{key}={shown} is too long: {size:,} bytes, the longest name {longest:,}; "
            f"at most {MAX_PATH:,} and {MAX_NAME} are allowed"
        )
    for place in (folder, *folder.parents):
        try:
            is_folder = stat.S_ISDIR(place.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            if not place.is_symlink():
                continue
            raise ConfigError(f"{key}={shown}: {_cut(place)} is a broken link") from None
        except OSError as error:
            raise ConfigError(f"{key}={shown}: {describe(error, place)}") from None
        if not is_folder:
            raise ConfigError(f"{key}={shown}: {_cut(place)} is not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"{key}={shown}: {_cut(place)} is not writable")
        return


def _cut(path: Path) -> str:
    text = str(path)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}...{text[-SHOWN // 2 :]}"


@contextlib.contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Makes and locks a folder; removes it again if a ConfigError inside comes before the first job."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with contextlib.ExitStack() as stack:
        try:
            make_folder(folder)
            stack.enter_context(records.lock(folder))
        except OSError as error:
            discard(missing)
            raise ConfigError(f"this folder can't be written: {describe(error, folder)}") from None
        try:
            yield
        except ConfigError:
            discard(missing)
            raise


def discard(made: Sequence[Path]) -> None:
    """Removes folders that were made, innermost first, if they hold only files of WRITTEN_FIRST."""
    if not made:
        return
    hydra, files = made[0] / ".hydra", [made[0] / name for name in WRITTEN_FIRST]
    with contextlib.suppress(OSError):
        if {*made[0].rglob("*")} <= {*files, hydra}:
            for file in files:
                file.unlink(missing_ok=True)
            for place in (hydra, *made):
                if place.exists():
                    place.rmdir()
