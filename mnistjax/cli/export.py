"""The command `mnistjax-export`: writes a trained model for other programs, or as a page to draw on."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import files
from mnistjax.cli import Parser, check_surroundings, errors_to_code
from mnistjax.config import ConfigError, unknown
from mnistjax.progress import flush_stdout, relative

if TYPE_CHECKING:
    from flax import linen as nn

    from mnistjax.zoo import Card

PAGE = ".html"
SUFFIXES = {
    ".onnx": "ONNX Runtime and others (install mnistjax[onnx])",
    ".stablehlo": "jax.export.deserialize",
    ".safetensors": "mnistjax.load",
    PAGE: "a browser: a page on which one draws a digit, as --html",
}
FOLDER = "mnistjax.load and the Hugging Face hub"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mnistjax-export`; returns 0 done, 1 failed, 2 wrong argument, 130 stopped.

    Nothing is written unless all of it can be made.
    """
    with errors_to_code() as exit:
        check_surroundings()
        args = parse_arguments(argv)
        targets = find_targets(args)

        from mnistjax.backend import import_jax, prepare_backend

        import_jax()
        from mnistjax.zoo import load
        from mnistjax.zoo.pretrained import save_pretrained

        prepare_backend()
        trained = load(args.model)
        contents = {path: encode(suffix, path.stem, *trained) for path, suffix in targets.items() if suffix}
        for path, suffix in targets.items():
            if suffix:
                files.make_folder(path.parent)
                files.replace(path, contents[path])
            else:
                save_pretrained(path, *trained)
            print(relative(path.absolute()))
        return flush_stdout()
    return exit.code


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; ConfigError if one is wrong."""
    parser = Parser("mnistjax-export", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a name, such as cnn_bn.mnist; a saved file or folder; a run's folder; hf-hub:USER/NAME",
    )
    kinds = "; ".join(f"*{suffix} for {reader}" for suffix, reader in SUFFIXES.items())
    parser.add_argument("file", nargs="?", metavar="FILE", help=f"{kinds}; a folder for {FOLDER}")
    parser.add_argument("--html", metavar="FILE", help="write the page to this file")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    return parser.parse_intermixed_args(argv)


def find_targets(args: argparse.Namespace) -> dict[Path, str]:
    """The files to write, with their suffixes, "" for a folder; ConfigError unless they can be written."""
    targets: dict[Path, str] = {}
    if args.file:
        path = Path(args.file)
        targets[path] = "" if args.file.endswith(os.sep) else path.suffix.lower()
    if args.html:
        if (suffix := Path(args.html).suffix.lower()) in {*SUFFIXES} - {PAGE}:
            raise ConfigError(f"--html {args.html} would write a page; for {suffix} leave out --html")
        targets[Path(args.html)] = PAGE
    if not targets:
        raise ConfigError("give a FILE to write, or --html FILE; `mnistjax-export --help` shows how")
    for path, suffix in targets.items():
        if suffix and suffix not in SUFFIXES:
            raise ConfigError(f"{unknown('suffix of a file', suffix, SUFFIXES)}; a folder is {path}{os.sep}")
        if suffix and path.is_dir():
            raise ConfigError(f"{path} is a folder; give a file that ends in {suffix}")
        if suffix and os.path.lexists(path) and not args.force:
            raise ConfigError(f"{path} exists; add --force to replace it, or give another name")
    return targets


def encode(suffix: str, name: str, model: nn.Module, variables: Any, card: Card) -> bytes:
    """The content of a file with this suffix."""
    if suffix == ".safetensors":
        from mnistjax.zoo import encode_model

        return encode_model(model, variables, card, name)
    if suffix == PAGE:
        from mnistjax.zoo.page import make_page

        return make_page(model, variables, card).encode()
    from mnistjax.zoo.convert import export

    return export(
        model, variables, "onnx" if suffix == ".onnx" else "stablehlo", image_shape=card.image_shape
    )
