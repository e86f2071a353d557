"""Which pictures a folder holds: those of a folder per class, perhaps in train/, val/ and test/.

Other files, and names that begin with a dot, are ignored. Links to files and folders are followed.
"""

import hashlib
import itertools
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import NamedTuple

from mnistjax import files
from mnistjax.config import unknown
from mnistjax.data.arrays import DataError
from mnistjax.decode import is_picture

PART_OF = {  # by the name of a folder, in any case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
HIDDEN = "__MACOSX"  # what archives from a Mac contain beside the data
RUNS, DATE = ("outputs", "multirun"), re.compile(r"\d{4}-\d\d-\d\d")  # folders of runs, with one for each day

FolderId = tuple[int, int]
"""The device and inode of a folder: equal for all names and links of it."""


class Picture(NamedTuple):
    """A file that is a picture by its name."""

    path: str  # below the root
    label: int
    size: int  # bytes; -1 for a link to nothing
    modified: int  # nanoseconds


class Listing(NamedTuple):
    """The pictures of a folder; in each split by class, then by the bytes of their paths."""

    class_names: tuple[str, ...]
    folders: dict[str, str]  # of the splits, below the root; {"train": ""} without splits
    splits: dict[str, list[Picture]]  # "train", and "val" and "test" if the folder has them
    beside: list[str]  # paths of pictures beside the class folders, which belong to no class


def list_pictures(root: Path) -> Listing:
    """The pictures below the root, none of which is opened; DataError if they don't make a data set."""
    if not os.path.isdir(root):
        found = "a file" if os.path.exists(root) else "nothing"
        raise DataError(f"{root}: a folder with a folder per class expected, found {found}")
    folders = _find_splits(root)
    classes = _find_classes(root, folders)
    splits: dict[str, list[Picture]] = {}
    for split, folder in folders.items():
        members = {
            name: _list_class(root, os.path.join(folder, name), label)
            for label, name in enumerate(classes["train"])
            if name in classes[split]
        }
        splits[split] = list(itertools.chain(*members.values()))
        empty = [os.path.join(folder, name) for name in members if not members[name]]
        empty = empty if split == "train" else [] if splits[split] else [folder]
        if empty:
            named = ", ".join(f"{show(path)}/" for path in empty)
            raise DataError(f"{root}: no PNG, JPEG, BMP or WebP file in {named}")
    places = dict.fromkeys(["", *folders.values()])
    beside = [os.path.join(place, name) for place in places for name in _scan(root, place).pictures]
    return Listing(tuple(classes["train"]), folders, splits, beside)


def fingerprint(root: Path) -> str:
    """The SHA-256 of the names, sizes and times of all pictures below the root; 1 s for 100,000."""
    listed = [picture for split in list_pictures(root).splits.values() for picture in split]
    sha256 = hashlib.sha256()
    for path, size, modified in sorted((os.fsencode(path), size, time) for path, _, size, time in listed):
        sha256.update(b"%s\0%d %d\n" % (path, size, modified))
    return sha256.hexdigest()


def show(path: str) -> str:
    """A path as text in one line: bytes that are not UTF-8, and characters that don't print, are escaped.

    >>> show("cats/caf\\udce9\\n.png")
    'cats/caf\\\\xe9\\\\n.png'
    """
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def _find_splits(root: Path) -> dict[str, str]:
    """The folder of each split, "train" first; {"train": ""} if the class folders lie in the root itself.

    A folder is a split by its name, unless it holds pictures itself and lies beside classes: "train" may be a
    class, beside "bus".
    """
    folders = _scan(root, "").folders
    others = [name for name in folders if name.lower() not in PART_OF]
    found: dict[str, list[str]] = {}
    for name in folders:
        if name not in others and not (others and _scan(root, name).pictures):
            found.setdefault(PART_OF[name.lower()], []).append(name)
    if not found:
        return {"train": ""}
    named = ", ".join(f"{show(name)}/" for names in found.values() for name in names)
    if "train" not in found:
        raise DataError(f"{root}: train/ expected beside {named}")
    if others:
        allowed = "only train/, val/ and test/"
        raise DataError(f"{root}: {allowed} expected beside {named}, found {show(others[0])}/")
    for names in found.values():
        if len(names) > 1:
            same = "/ and ".join(map(show, names))
            raise DataError(f"{root}: {same}/ are names of one split; keep one of them")
    return {split: found[split][0] for split in ("train", "val", "test") if split in found}


def _find_classes(root: Path, folders: dict[str, str]) -> dict[str, list[str]]:
    """The sorted names of the class folders in each split; DataError if they are no classes."""
    classes = {split: sorted(_scan(root, folder).folders) for split, folder in folders.items()}
    names = classes["train"]
    for name in names:
        if not _is_line(name):
            path = show(os.path.join(folders["train"], name))
            raise DataError(f"{root}: the name of a class must be a line of UTF-8 text, found {path}/")
    if len(names) < 2:
        where = f"{root}: {show(folders['train'])}/" if folders["train"] else str(root)
        raise DataError(f"{where}: at least 2 class folders expected, found {', '.join(names) or 'none'}")
    for split, folder in folders.items():
        for name in classes[split]:
            if name not in names:
                raise DataError(f"{root}: {unknown(f'class in {show(folder)}/', show(name), names)}")
    return classes


def _is_line(text: str) -> bool:
    """Whether a text can be encoded and has no control characters or line separators."""
    return not any(unicodedata.category(mark) in ("Cs", "Cc", "Zl", "Zp") for mark in text)


def _list_class(root: Path, folder: str, label: int) -> list[Picture]:
    """The pictures in a class folder and below.

    Each folder is read once, and none that contains the class folder, so that links to folders can't loop.
    """
    path = (root / folder).absolute()
    seen = {_folder_id(os.stat(above)) for above in (path, *path.parents, *path.resolve().parents)}
    waiting, listed = [folder], []
    while waiting:
        inside = waiting.pop()
        found = _scan(root, inside)
        for name, folder_id in found.folders.items():
            if folder_id not in seen:
                seen.add(folder_id)
                waiting.append(os.path.join(inside, name))
        for name, facts in found.pictures.items():
            listed.append(Picture(os.path.join(inside, name), label, *facts))
    return sorted(listed, key=lambda picture: os.fsencode(picture.path))


class Content(NamedTuple):
    """What lies directly in a folder, in the order of the names' bytes."""

    folders: dict[str, FolderId]
    pictures: dict[str, tuple[int, int]]  # size and time


def _scan(root: Path, inside: str) -> Content:
    """The folders and pictures in a folder; DataError if it can't be read."""
    found = Content({}, {})
    try:
        with os.scandir(root / inside) as entries:
            for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
                if not (entry.name.startswith(".") or entry.name == HIDDEN or _holds_runs(entry)):
                    _add(found, entry)
    except OSError as error:
        raise DataError(show(files.describe(error, root / inside))) from None
    return found


def _holds_runs(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder of runs, which the command makes where it is started."""
    if entry.name not in RUNS or not entry.is_dir():
        return False
    names = os.listdir(entry.path)
    return any(map(DATE.fullmatch, names)) and not any(map(is_picture, names))


def _add(found: Content, entry: os.DirEntry[str]) -> None:
    """Adds an entry of a folder to what was found, if it is a folder or a picture."""
    try:
        status = entry.stat()
    except OSError:  # a link to nothing or to itself; if it is a picture by its name, reading gives the error
        status = None
    if status and stat.S_ISDIR(status.st_mode):
        found.folders[entry.name] = _folder_id(status)
    elif is_picture(entry.name):
        found.pictures[entry.name] = (status.st_size, status.st_mtime_ns) if status else (-1, -1)


def _folder_id(status: os.stat_result) -> FolderId:
    return status.st_dev, status.st_ino
