"""The command `mnistjax-predict`: reads the digits in picture files, or says what else they show."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import files
from mnistjax.cli import Parser, check_surroundings, errors_to_code
from mnistjax.config import ConfigError
from mnistjax.progress import flush_stdout, relative, tell
from mnistjax.words import printable

if TYPE_CHECKING:
    import numpy as np
    from flax import linen as nn

    from mnistjax.pictures.ink import Box
    from mnistjax.zoo import Card

DOUBTFUL = 0.9  # the least probability of a digit that is not doubtful
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")  # a class whose name is one
SHOWN_NAMES = 10  # of classes; of more, the first three
BATCH_SECONDS = 0.5  # answers wait no longer for those of other pictures


@dataclass
class Picture:
    """What was found in a picture file."""

    path: str
    images: Sequence[np.ndarray] = ()  # (H, W, C) uint8: its digits, or the picture as one image
    boxes: Sequence[Box] | None = None  # of the digits; None if the picture is one image
    answers: list[dict[str, Any]] = field(default_factory=list)  # for each image, as --json prints them
    error: str = ""  # why the file can't be read


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mnistjax-predict`; returns 0 done, 1 failed, 2 wrong argument or file, 130 stopped.

    The digits in the other files are shown even if a file can't be read.
    """
    with errors_to_code() as exit:
        check_surroundings()

        from mnistjax.backend import import_jax, prepare_backend

        import_jax()
        from mnistjax.zoo import load

        args = parse_arguments(argv)
        explained = name_explained(args.explain, args.images) if args.explain else []
        prepare_backend()
        *_, card = trained = load(args.model)
        if not card.reads_handwriting:
            card.check_readable()
            tell(f"each picture is read as one image: {shorten_names(card)}")
        batches = read(trained, args.images)
        done = show(batches, args.images, explained, as_json=args.json)
        return flush_stdout() or (0 if done else 2)
    return exit.code


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; ConfigError if one is wrong."""
    from mnistjax.zoo import list_models

    parser = Parser("mnistjax-predict", description=__doc__, allow_abbrev=False)
    names = ", ".join(list_models(pretrained=True))
    others = "a saved file or folder; a run's folder; hf-hub:USER/NAME"
    parser.add_argument("model", metavar="MODEL", help=f"a trained model: {names}; {others}")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a PNG, JPEG, BMP or WebP file")
    parser.add_argument("--json", action="store_true", help="print one JSON array to stdout")
    parser.add_argument(
        "--explain", type=Path, metavar="DIR", help="write pictures that show what the model saw"
    )
    return parser.parse_intermixed_args(argv)


def shorten_names(card: Card) -> str:
    """What a model tells apart, for people: "cifar100 (apple; aquarium_fish; baby; ... 100 classes)"."""
    names, count = card.class_names, len(card.class_names)
    shown = "; ".join(names) if count <= SHOWN_NAMES else f"{'; '.join(names[:3])}; ... {count} classes"
    return f"{card.data} ({shown})"


def find_images(card: Card, path: str) -> Picture:
    """The picture with the images that a model reads: its digits, or the picture as one image."""
    from mnistjax.pictures import read_digits
    from mnistjax.pictures.whole import read_whole, resize

    if card.reads_handwriting:
        digits = read_digits(path)
        images = [resize(digit.image, card.image_shape) for digit in digits]
        return Picture(path, images, [digit.box for digit in digits])
    return Picture(path, [read_whole(path, card.image_shape, light_on_dark=card.light_on_dark)])


def read(trained: tuple[nn.Module, Any, Card], paths: Iterable[str]) -> Iterator[list[Picture]]:
    """The pictures of these files in batches, which fill a block of the model or take BATCH_SECONDS."""
    from mnistjax.zoo.classify import ROWS

    *_, card = trained
    batch: list[Picture] = []
    start = -BATCH_SECONDS  # the first picture does not wait
    for path in paths:
        try:
            batch.append(find_images(card, path))
        except ConfigError as error:
            boxes = [] if card.reads_handwriting else None
            batch.append(Picture(path, boxes=boxes, error=str(error)))
        full = sum(len(picture.images) for picture in batch) >= ROWS
        if full or time.monotonic() - start > BATCH_SECONDS:
            answer(trained, batch)
            yield batch
            batch, start = [], time.monotonic()
    answer(trained, batch)
    yield batch


def answer(trained: tuple[nn.Module, Any, Card], pictures: Sequence[Picture]) -> None:
    """Adds the answers to the pictures; one call of the model serves all of them."""
    import numpy as np

    from mnistjax.zoo.classify import classify

    images = [image for picture in pictures for image in picture.images]
    if not images:
        return
    *_, card = trained
    probabilities = iter(classify(*trained, np.array(images)))
    for picture in pictures:
        picture.answers = [_describe_answer(card, next(probabilities)) for _ in picture.images]


def _describe_answer(card: Card, probabilities: np.ndarray) -> dict[str, Any]:
    """An answer as --json prints it, with `doubtful` if its probability is below DOUBTFUL.

    Of 6,000 validation images of MNIST, drawn as pictures, cnn_bn.mnist reads 36 wrongly. It calls 67 % of
    these doubtful, and 0.7 % of the others.
    """
    best, second = (int(index) for index in probabilities.argsort()[::-1][:2])
    return {
        "class": _describe_class(card.class_names[best]),
        "probability": round(float(probabilities[best]), 6),
        "runner_up": _describe_class(card.class_names[second]),
        "runner_up_probability": round(float(probabilities[second]), 6),
        "doubtful": bool(probabilities[best] < DOUBTFUL),
    }


def _describe_class(name: str) -> str | int:
    """The name of a class as --json prints it: a number if that prints as the name does, unlike "07"."""
    return int(name) if NUMBER.fullmatch(name) else name


def show(
    batches: Iterable[list[Picture]], paths: Sequence[str], explained: Sequence[Path], *, as_json: bool
) -> bool:
    """Prints the pictures as they come, above a bar at a terminal; returns whether all could be read."""
    shown, done = 0, True
    with show_bar(len(paths)) as bar:
        for batch in batches:
            with bar(len(batch)):
                for picture in batch:
                    if picture.error:
                        tell(f"error: {picture.error}")
                        done = False
                    elif explained:
                        try:
                            explain(explained[shown], picture)
                        except ConfigError as error:  # a full disk hides no answer
                            tell(f"error: {error}")
                            done = False
                    if as_json:
                        print("," if shown else "[", to_json(picture), sep="\n", end="")
                    elif not picture.error:
                        print(describe(picture.path, picture.answers))
                    shown += 1
                sys.stdout.flush()
    if as_json:
        print("\n]")
    return done


@contextlib.contextmanager
def show_bar(total: int) -> Iterator[Callable[[int], AbstractContextManager]]:
    """Shows a bar if stderr is a terminal; yields a function that hides it inside, then advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_interactive or total == 1:
        yield contextlib.nullcontext
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task("", total=total)

    @contextlib.contextmanager
    def hidden(count: int) -> Iterator[None]:
        bar.stop()
        yield
        bar.advance(task, count)
        bar.start()

    with bar:
        yield hidden


def to_json(picture: Picture) -> str:
    """The picture as a JSON object with "digits", or "predictions" for the whole picture.

    For a file that can't be read, the list is empty and there is an "error".
    """
    key = "predictions" if picture.boxes is None else "digits"
    found = {"file": picture.path, key: picture.answers}
    return json.dumps(found | ({"error": picture.error} if picture.error else {}))


def describe(path: str, digits: Sequence[dict[str, Any]]) -> str:
    """A line with all digits of a picture, then a line for each digit."""
    path = printable(os.fsencode(path).decode(errors="replace"))  # its bytes may be no UTF-8
    if not digits:
        return f"{path}: no digit found"
    read = " ".join(printable(str(digit["class"])) for digit in digits)
    lines = [
        printable(
            f"  {digit['class']}  {digit['probability']:.1%}, else {digit['runner_up']} "
            f"({digit['runner_up_probability']:.1%}){', doubtful' if digit['doubtful'] else ''}"
        )
        for digit in digits
    ]
    return "\n".join([f"{path}: {read}", *lines])


def name_explained(folder: Path, paths: Sequence[str]) -> list[Path]:
    """The files for the explanations of the pictures: FOLDER/0-NAME.png, ...

    ConfigError if such a file, or the SVG beside it, exists and was not drawn by us.
    """
    from mnistjax.report.figures import check_drawn

    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link; give the folder itself, {folder.resolve()}")
    explained = [folder / f"{index}-{Path(path).stem}.png" for index, path in enumerate(paths)]
    for path in explained:
        with files.writing(folder):
            check_drawn(path)
            check_drawn(path.with_suffix(".svg"))
    return explained


def explain(target: Path, picture: Picture) -> None:
    """Draws a picture with boxes around its digits and the images that the model saw, as PNG and SVG."""
    import numpy as np

    from mnistjax.pictures import read_picture
    from mnistjax.report.figures import picture_figure, save

    titles = [f"{one['class']}  {one['probability']:.1%}" for one in picture.answers]
    images = np.array(picture.images)
    if picture.boxes:  # digits, as ink on paper
        images = 255 - images
    figure = picture_figure(read_picture(picture.path), picture.boxes or [], images, titles)
    with files.writing(target.parent):
        save(figure, target)
    tell(f"explained -> {relative(target)}")
