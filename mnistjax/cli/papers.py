"""The options of `mnistjax-report` for papers: --table prints a table, --figure draws a figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mnistjax import files
from mnistjax.config import ConfigError, shorten, unknown
from mnistjax.progress import relative, tell
from mnistjax.report.runs import Runs, read_runs

FORMATS = ("md", "tex", "csv")
KINDS = ("png", "svg", "pdf")
OTHERS = ("out", "wandb", "project", "entity", "watch")  # options of the report, which is not written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --table, --figure, --metric and --format."""
    group = parser.add_argument_group("instead of the report, tables and figures for papers")
    add: Any = group.add_argument
    help = "print a table of means over seeds: KEY, or KEY x KEY, such as optimizer x learning_rate"
    add("--table", nargs="+", metavar="KEY", help=help)
    help = "draw curves, parameters, a KEY or KEY x KEY into FILE.png, FILE.svg or FILE.pdf; may be repeated"
    add("--figure", nargs="+", action="append", metavar="WHAT", help=help)
    help = "metric of a table, figure or comparison (default: test/accuracy; of curves the monitored one; "
    help += "of a comparison both)"
    add("--metric", help=help)
    add("--format", metavar="|".join(FORMATS), help="format of the table (default: md)")


def check_arguments(args: argparse.Namespace) -> None:
    """Raises ConfigError unless these options go together."""
    if args.format is not None and args.table is None:
        raise ConfigError("--format is for --table")
    if args.metric is not None and not is_wanted(args) and (len(args.folders) != 2 or args.watch):
        raise ConfigError("--metric is for --table, --figure and the comparison of two folders")
    if args.format is not None and args.format not in FORMATS:
        raise unknown("format", args.format, FORMATS)
    given = [name for name in OTHERS if getattr(args, name)]
    if is_wanted(args) and given:
        raise ConfigError(f"--{given[0]} is for the report, which --table and --figure leave out")
    if args.table is not None:
        split_keys("--table", args.table)
    targets = [split_figure(words)[1] for words in args.figure or ()]
    for path in targets:
        if targets.count(path) > 1:
            raise ConfigError(f"{path} is given for {targets.count(path)} figures")


def is_wanted(args: argparse.Namespace) -> bool:
    return args.table is not None or args.figure is not None


def split_keys(option: str, words: list[str]) -> list[str]:
    """The one or two names in KEY or KEY x KEY, given as one word or three."""
    parts = " ".join(words).split()
    if len(parts) not in (1, 3) or parts[1:2] not in ([], ["x"]):
        raise ConfigError(
            f"{option} takes KEY or KEY x KEY, and FOLDERs come before it; got {shorten(' '.join(parts))!r}"
        )
    return parts[::2]


def split_figure(words: list[str]) -> tuple[list[str], Path]:
    """What a figure shows, and its file."""
    *what, file = words
    path = Path(file)
    if path.suffix[1:] not in KINDS or not what:
        kinds = "a file that ends in .png, .svg or .pdf"
        raise ConfigError(f"--figure takes WHAT and {kinds}; got {shorten(' '.join(words))!r}")
    return split_keys("--figure", what), path


def run(args: argparse.Namespace) -> None:
    """Draws the figures and prints the table. Nothing is written if there is a mistake in any of them."""
    runs = read_runs(*args.folders)
    text = format_table(runs, args) if args.table else ""
    if args.figure:
        draw(runs, [split_figure(words) for words in args.figure], args.metric)
    print(text, end="")


def format_table(runs: Runs, args: argparse.Namespace) -> str:
    """The text of the table; the notes of a CSV table go to stderr."""
    table = runs.table(*split_keys("--table", args.table), metric=args.metric or "test/accuracy")
    if args.format == "csv":
        for note in table.notes:
            tell(note)
        return table.to_csv()
    return table.to_latex() if args.format == "tex" else table.to_markdown()


def draw(runs: Runs, wanted: list[tuple[list[str], Path]], metric: str | None) -> None:
    """Draws the wanted figures into their files."""
    from mnistjax.report.figures import check_drawn, save

    figures = [(runs.figure(*what, metric=metric), path) for what, path in wanted]
    for _, path in figures:
        with files.writing(path):
            check_drawn(path)
    for figure, path in figures:
        with files.writing(path):
            save(figure, path, [path.suffix[1:]])
        tell(f"figure -> {relative(path)}")
