"""The command `mnistjax-predict`: reads the digits in picture files."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import files
from mnistjax.cli import Parser, check_surroundings, errors_to_code
from mnistjax.config import ConfigError
from mnistjax.progress import find_answer_code, relative, tell

if TYPE_CHECKING:
    import numpy as np
    from flax import linen as nn

    from mnistjax.pictures import Digit
    from mnistjax.zoo import Card


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mnistjax-predict`; returns 0 done, 2 wrong argument or file, 130 stopped."""
    with errors_to_code() as exit:
        check_surroundings()

        from mnistjax.backend import import_jax, prepare_backend

        import_jax()
        from mnistjax.pictures import read_digits
        from mnistjax.zoo import load

        args = parse_arguments(argv)
        explained = name_explained(args.explain, args.images) if args.explain else []
        prepare_backend()
        trained = load(args.model)
        found = [read_digits(path) for path in args.images]
        predictions = predict_digits(trained, found)
        if explained:
            explain(explained, args.images, found, predictions)
        read = zip(args.images, predictions, strict=True)
        if args.json:
            print(json.dumps([{"file": path, "digits": digits} for path, digits in read]))
        else:
            print(*(describe(path, digits) for path, digits in read), sep="\n")
        return find_answer_code()
    return exit.code


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; ConfigError if one is wrong."""
    from mnistjax.zoo import list_models

    parser = Parser("mnistjax-predict", description=__doc__, allow_abbrev=False)
    names = ", ".join(list_models(pretrained=True))
    parser.add_argument("model", metavar="MODEL", help=f"a trained model: {names}, or the folder of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a PNG, JPEG or BMP file")
    parser.add_argument("--json", action="store_true", help="print one JSON array to stdout")
    parser.add_argument(
        "--explain", type=Path, metavar="DIR", help="write pictures that show what the model saw"
    )
    return parser.parse_args(argv)


def predict_digits(
    trained: tuple[nn.Module, Any, Card], found: Sequence[Sequence[Digit]]
) -> list[list[dict[str, Any]]]:
    """The digits of each picture, with class, probability and runner-up, as --json prints them.

    The model is called once for all pictures, because JAX would compile a program for each number of digits.
    """
    import numpy as np

    from mnistjax.zoo.classify import classify

    images = [digit.image for digits in found for digit in digits]
    shares = iter(classify(*trained, np.array(images, np.uint8).reshape(-1, 28, 28)))
    return [[_describe_digit(trained[2], next(shares)) for _ in digits] for digits in found]


def _describe_digit(card: Card, shares: np.ndarray) -> dict[str, Any]:
    best, second = (int(index) for index in shares.argsort()[::-1][:2])
    names = [int(name) if name.isdecimal() else name for name in card.class_names]
    return {
        "class": names[best],
        "probability": round(float(shares[best]), 6),
        "runner_up": names[second],
        "runner_up_probability": round(float(shares[second]), 6),
    }


def describe(path: str, digits: Sequence[dict[str, Any]]) -> str:
    """A line with all digits of a picture, then a line for each digit."""
    path = os.fsencode(path).decode(errors="replace")  # file names can have bytes that are not UTF-8
    if not digits:
        return f"{path}: no digit found"
    read = " ".join(str(digit["class"]) for digit in digits)
    lines = [
        f"  {digit['class']}  {digit['probability']:.1%}, else {digit['runner_up']} "
        f"({digit['runner_up_probability']:.1%})"
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
        with _naming_folder(folder):
            check_drawn(path)
            check_drawn(path.with_suffix(".svg"))
    return explained


def explain(
    explained: Sequence[Path],
    paths: Sequence[str],
    found: Sequence[Sequence[Digit]],
    predictions: Sequence[Sequence[dict[str, Any]]],
) -> None:
    """Draws each picture with boxes around its digits and the images that the model saw, as PNG and SVG."""
    import numpy as np

    from mnistjax.pictures import read_picture
    from mnistjax.report.figures import picture_figure, save

    for target, path, digits, named in zip(explained, paths, found, predictions, strict=True):
        titles = [f"{one['class']}  {one['probability']:.1%}" for one in named]
        boxes, images = [digit.box for digit in digits], [digit.image for digit in digits]
        figure = picture_figure(read_picture(path), boxes, np.array(images), titles)
        with _naming_folder(target.parent):
            save(figure, target)
        tell(f"explained -> {relative(target)}")


@contextlib.contextmanager
def _naming_folder(folder: Path) -> Iterator[None]:
    """Turns an OSError inside into a ConfigError that names the folder."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {files.describe(error, folder)}") from None
