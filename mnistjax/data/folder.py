"""A folder per class of pictures as a data set.

N images, H W their sides in pixels, C channels, K classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax import files
from mnistjax.backend import cores, free_memory
from mnistjax.checks import show_shape
from mnistjax.data.arrays import TITLES, Arrays, DataError
from mnistjax.data.listing import Listing, Picture, list_pictures, show
from mnistjax.data.listing import fingerprint as fingerprint
from mnistjax.data.pixels import Header, read_header, to_image
from mnistjax.data.reader import Reader
from mnistjax.data.splits import hold_out
from mnistjax.decode import MOST_BYTES, quiet

if TYPE_CHECKING:
    from PIL.Image import Image

WORKING_BYTES = 16  # per pixel of a picture while it is decoded and converted

Splits = dict[str, list[Picture]]
"""The pictures of "train", "val" and "test", in this order."""


def load_folder(
    root: Path,
    *,
    size: int | tuple[int, int] | None,
    channels: int | None,
    group: str | None,
    skip_bad: bool,
    threads: int | None = None,
) -> Arrays:
    """The pictures in ROOT/CLASS/, or in ROOT/train/CLASS/ and, if they exist, ROOT/val/ and ROOT/test/.

    For a missing split, 20 % of the training images are held out, always the same, of each class alike.
    `size`: the sides (H, W) to which pictures are scaled and cropped; None: all must have one size.
    `channels`: 1 for grey images (N, H, W), 3 for RGB; None: RGB unless all pictures are grey.
    `group`: a regular expression that finds, in CLASS/NAME, the group that stays in one split: its own group
    1 if it has one, else all that it matches.
    `skip_bad`: leave out damaged files. `threads` change no image. `load_data` has checked the types of all
    options; DataError, in one line, for all else that is wrong.
    """
    sides = (size, size) if isinstance(size, int) else size
    listing = list_pictures(root)
    splits = _assign(root, listing, group)
    reader = Reader(root, skip_bad, threads or cores())
    with quiet():
        headers = reader.read(_join(splits), lambda _, picture: read_header(picture), header=True)
        headers = [header for header in headers if header]
        splits = _drop(root, listing.class_names, splits, reader.bad)
        pictures = _join(splits)
        shape = _choose_shape(root, pictures, headers, sides, channels)
        images = _allocate(root, len(pictures), shape)
        reader.threads = _count_threads(reader.threads, headers, images.nbytes)

        def fill(row: int, picture: Image) -> None:
            image = to_image(picture, sides, 3 if shape[2:] else 1)
            if image.shape != shape:  # its orientation was behind its pixels, so the header did not tell it
                raise ValueError(f"{shape} expected, found {image.shape}")
            images[row] = image

        reader.read(pictures, fill)
    kept = [row for row, picture in enumerate(pictures) if picture.path not in reader.bad]
    for place, row in enumerate(kept):
        if place != row:
            images[place] = images[row]  # in place, because a copy may not fit in memory
    splits = _drop(root, listing.class_names, splits, reader.bad)
    warnings = tuple(_find_warnings(root, listing, group, reader.bad))
    return _gather(listing.class_names, splits, images, reader.bad)._replace(warnings=warnings)


def _join(splits: Splits) -> list[Picture]:
    return [*itertools.chain(*splits.values())]


def _assign(root: Path, listing: Listing, group: str | None) -> Splits:
    """The three splits; those that the folder lacks are held out of the training split."""
    splits = dict(listing.splits)
    for split in ("test", "val"):
        if split in splits:
            continue
        train = splits["train"]
        labels = np.array([picture.label for picture in train])
        groups = None if group is None else np.array(_find_groups(root, listing, "train", train, group))
        try:
            rest, held = hold_out(labels, groups)
        except DataError as error:
            raise DataError(f"{root}: data.group={group!r}: {error}") from None
        if not len(held):
            raise DataError(f"{root}: too few pictures to hold out a {TITLES[split][0]} split")
        splits["train"], splits[split] = ([train[row] for row in rows] for rows in (rest, held))
    return {split: splits[split] for split in ("train", "val", "test")}


def _find_groups(
    root: Path, listing: Listing, split: str, pictures: Iterable[Picture], group: str
) -> list[str]:
    """The group of each picture of a split; DataError if one has none."""
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DataError(f"data.group={group!r} is not a regular expression: {error}") from None
    prefix = listing.folders[split] and f"{listing.folders[split]}/"
    groups = []
    for picture in pictures:
        name = picture.path.removeprefix(prefix)
        found = pattern.search(name)
        name_of_group = found and found[min(1, pattern.groups)]
        if name_of_group is None:
            raise DataError(f"{root}: data.group={group!r} does not match {show(name)}")
        groups.append(name_of_group)
    return groups


def _drop(root: Path, class_names: Sequence[str], splits: Splits, bad: Mapping[str, str]) -> Splits:
    """The splits without damaged pictures; DataError if no other picture of a class or split is left."""
    kept = {split: [p for p in pictures if p.path not in bad] for split, pictures in splits.items()}
    for split, pictures in splits.items():
        left = {picture.label for picture in kept[split]}
        for picture in pictures:
            if not left or (split == "train" and picture.label not in left):
                of = f" of the class {show(class_names[picture.label])}" if split == "train" else ""
                example = f"{show(picture.path)} {bad[picture.path]}"
                raise DataError(f"{root}: all {TITLES[split][0]} pictures{of} are damaged; {example}")
    return kept


def _choose_shape(
    root: Path,
    pictures: Sequence[Picture],
    headers: Sequence[Header],
    sides: tuple[int, int] | None,
    channels: int | None,
) -> tuple[int, ...]:
    """The shape of an image, (H, W) or (H, W, 3); DataError if they differ and no size is given."""
    first = headers[0]
    for picture, header in zip(pictures, headers, strict=True):
        if sides is None and header[:2] != first[:2]:
            found = f"{_describe(pictures[0], first)} and {_describe(picture, header)}"
            raise DataError(f"{root}: pictures of one size expected, found {found}; data.size=32 scales them")
    grey = channels == 1 or (channels is None and all(header.grey for header in headers))
    return (*(sides or first[:2]), *(() if grey else (3,)))


def _describe(picture: Picture, header: Header) -> str:
    return f"{show(picture.path)} ({header.height} high, {header.width} wide)"


def _allocate(root: Path, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Memory for the images; DataError if there is not enough."""
    needed, free = count * math.prod(shape), free_memory()
    if free is not None and needed > free:
        images = f"{count:,} images of {show_shape(shape)}"
        memory = f"{needed:,} bytes of memory, {free:,} are free"
        raise DataError(f"{root}: {images} need {memory}; choose a smaller data.size")
    return np.empty((count, *shape), np.uint8)


def _count_threads(wanted: int, headers: Iterable[Header], reserved: int) -> int:
    """The threads that can decode the largest pictures side by side in the memory that is free."""
    largest = max(header.height * header.width for header in headers)
    free = free_memory()
    return wanted if free is None else max(1, min(wanted, (free - reserved) // (WORKING_BYTES * largest)))


def _find_warnings(root: Path, listing: Listing, group: str | None, bad: Container[str]) -> Iterator[str]:
    """Lines about pictures that belong to no class, and pictures and groups in train/ and another split."""
    if listing.beside:
        count, first = len(listing.beside), show(listing.beside[0])
        yield f"{root}: {count} pictures beside the class folders are not used, such as {first}"
    train = [picture for picture in listing.splits["train"] if picture.path not in bad]
    for split, pictures in listing.splits.items():
        if split == "train":
            continue
        folder = show(listing.folders[split])
        if copies := _find_copies(root, train, [picture for picture in pictures if picture.path not in bad]):
            example = " = ".join(show(picture.path) for picture in copies[0])
            yield f"{root}: {len(copies)} pictures of {folder}/ are also in train/: {example}"
        if group is not None:
            common: set[str] = set()
            with contextlib.suppress(DataError):  # names in a split of its own may have no group
                groups = [
                    {*_find_groups(root, listing, p, listing.splits[p], group)} for p in ("train", split)
                ]
                common = groups[0] & groups[1]
            if common:
                example = show(min(common))
                yield f"{root}: {len(common)} groups of {folder}/ are also in train/: {example}"


def _find_copies(
    root: Path, first: Iterable[Picture], second: Iterable[Picture]
) -> list[tuple[Picture, Picture]]:
    """The pictures of `second` whose files equal one of `first`. Only files of equal sizes are read."""
    sizes = {picture.size for picture in first} & {picture.size for picture in second}
    known: dict[bytes, Picture] = {}
    for picture in first:
        if picture.size in sizes and (digest := _hash_file(root / picture.path)):
            known.setdefault(digest, picture)
    found = [(_hash_file(root / picture.path), picture) for picture in second if picture.size in sizes]
    return [(known[digest], picture) for digest, picture in found if digest in known]


def _hash_file(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(files.read_bytes(path, limit=MOST_BYTES, follow=True)).digest()
    except (OSError, files.DamagedFile):  # it has changed since it was read
        return None


def _gather(
    class_names: tuple[str, ...], splits: Splits, images: np.ndarray, bad: Mapping[str, str]
) -> Arrays:
    """The arrays: views of the images, which lie split by split."""
    arrays: dict[str, Any] = {}
    start = 0
    for split, pictures in splits.items():
        arrays[f"{split}_images"] = images[start : start + len(pictures)]
        arrays[f"{split}_labels"] = np.array([picture.label for picture in pictures], np.int32)
        start += len(pictures)
    left_out = tuple(f"{show(path)}: {bad[path]}" for path in sorted(bad, key=os.fsencode))
    return Arrays(**arrays, class_names=class_names, left_out=left_out)
