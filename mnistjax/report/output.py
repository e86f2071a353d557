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
COMPARISON = "comparison.md"  # of two folders; removed by a report of others
DRAWN = ("curves", "confusion_matrix", "misclassified")
MARK = '<meta name="generator" content="mnistjax">'  # in every page of ours
TEXT_MARK = "<!-- written by mnistjax -->"  # in every text of ours
HEAD = 1000  # bytes at the start of a page or text that contain the mark
CHOOSE = "--out DIR chooses another folder"


def check_output(folder: Path) -> None:
    """Raises ConfigError unless a report may be written to the folder.

    The folder must be new, hold no file with a name of ours, or hold a page with our mark. Links are refused,
    because the files would be written elsewhere.
    """
    try:
        for place in (folder, folder / FIGURES):
            _exists(place, stat.S_ISDIR, "no folder")
        drawn = [path for name in DRAWN for path in find_pictures(folder, name)]
        for path in (folder / PAGE, folder / RUNS, folder / SEEDS, folder / COMPARISON, *drawn):
            exists = _exists(path, stat.S_ISREG, "no regular file")
            if exists and not has_mark(folder / PAGE, MARK.encode(), HEAD):
                raise ConfigError(f"{path} was not written by a report; {CHOOSE}")
        for path in drawn:
            check_drawn(path)
        if has_mark(folder / COMPARISON, TEXT_MARK.encode(), HEAD) is False:
            raise ConfigError(f"{folder / COMPARISON} was not written by a report; {CHOOSE}")
        for place in (folder, folder / FIGURES):
            _check_writable(place)
    except OSError as error:
        raise ConfigError(f"{files.describe(error, folder)}; {CHOOSE}") from None


def find_pictures(folder: Path, name: str) -> list[Path]:
    """The paths of a figure of the report, whether or not the files exist."""
    return [folder / FIGURES / f"{name}.{kind}" for kind in ("png", "svg")]


def _exists(path: Path, is_right: Callable[[int], bool], wrong: str) -> bool:
    """Whether something has that name; ConfigError if it is a link or of another kind."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not is_right(mode):
        raise ConfigError(f"{path} is {'a link' if stat.S_ISLNK(mode) else wrong}; {CHOOSE}")
    return True


def _check_writable(folder: Path) -> None:
    """Raises PermissionError unless the folder, or its nearest parent that exists, can be written."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
