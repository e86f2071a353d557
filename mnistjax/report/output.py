"""The folder of a report: which files it has, and a check that they may be written."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from mnistjax import files
from mnistjax.config import ConfigError
from mnistjax.report.figures import check_drawn, has_mark

PAGE, RUNS, SEEDS, FIGURES = "index.html", "runs.csv", "seeds.csv", "figures"
DRAWN = ("curves", "confusion_matrix", "misclassified")
MARK = '<meta name="generator" content="mnistjax">'  # in every page of ours
HEAD = 1000  # bytes at the start of a page that contain the mark
CHOOSE = "--out DIR chooses another folder"


def check_output(folder: Path) -> None:
    """Raises ConfigError unless a report may be written to the folder.

    The folder must be new, hold no file with a name of ours, or hold a page with our mark. Links are refused,
    because the files would be written elsewhere.
    """
    try:
        for place in (folder, folder / FIGURES):
            if (mode := _mode(place)) is not None:
                _check_kind(place, mode, stat.S_ISDIR, "no folder")
        drawn = [path for name in DRAWN for path in find_pictures(folder, name)]
        for path in (folder / PAGE, folder / RUNS, folder / SEEDS, *drawn):
            if (mode := _mode(path)) is not None:
                _check_kind(path, mode, stat.S_ISREG, "no regular file")
                if not has_mark(folder / PAGE, MARK.encode(), HEAD):
                    raise ConfigError(f"{path} was not written by a report; {CHOOSE}")
        for path in drawn:
            check_drawn(path)
        for place in (folder, folder / FIGURES):
            _check_writable(place)
    except OSError as error:
        raise ConfigError(f"{files.describe(error, folder)}; {CHOOSE}") from None


def find_pictures(folder: Path, name: str) -> list[Path]:
    """The paths of a figure of the report, whether or not the files exist."""
    return [folder / FIGURES / f"{name}.{kind}" for kind in ("png", "svg")]


def _mode(path: Path) -> int | None:
    """The mode of a file, folder or link (not of its target); None if nothing has that name."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None


def _check_kind(path: Path, mode: int, is_right: Callable[[int], bool], wrong: str) -> None:
    if not is_right(mode):
        raise ConfigError(f"{path} is {'a link' if stat.S_ISLNK(mode) else wrong}; {CHOOSE}")


def _check_writable(folder: Path) -> None:
    """Raises PermissionError unless the folder, or its nearest parent that exists, can be written."""
    place = folder.absolute()
    while _mode(place) is None:
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
