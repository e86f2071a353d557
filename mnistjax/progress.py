"""Prints the progress and the results of a run: a live bar at a terminal, plain lines elsewhere.

Printing never ends a run: output that can't be written, because its reader left or the disk is full, is
dropped.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import io
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax.files import open_plain
from mnistjax.words import printable

if TYPE_CHECKING:
    from rich.console import Console

    from mnistjax.run import Callback, Progress

LINE_SECONDS = 1.0  # between two plain lines, at least
MATRIX_CLASSES = 10  # a larger confusion matrix does not fit into 80 columns
CONFUSIONS = 10  # confusions that are listed instead of a larger matrix
RESULTS = {  # the columns of a run's test results, with their format
    "loss": ".4f",
    **dict.fromkeys(("accuracy", "balanced_accuracy", "precision", "recall", "f1"), ".2%"),
    "auc": ".4f",
    "count": ",.0f",
}
AS_BYTES = "mnistjax.as_bytes"  # name of our error handler in Python's codecs


@contextlib.contextmanager
def guard_output() -> Iterator[None]:
    """Replaces the process's stdout and stderr inside by streams to which writing never fails.

    Streams that were replaced already, for example by pytest, are left alone. A stream that the shell closed
    (`>&-`) gets a descriptor, so that none of our files takes its number.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    before = sys.stdout, sys.stderr, logging.raiseExceptions
    logging.raiseExceptions = False
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guard(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guard(sys.stderr, 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Guarded):
                stream.flush()
        sys.stdout, sys.stderr, logging.raiseExceptions = before


def flush_stdout() -> int:
    """Flushes stdout; returns 1, after an error message, if some output was lost, else 0.

    Output after the reader has left, as `head` does, does not count as lost.
    """
    if not isinstance(sys.stdout, Guarded):
        return 0
    sys.stdout.flush()
    if loss := sys.stdout.descriptor.loss:
        tell(f"error: the answer can't be written to stdout: {loss}")
    return int(bool(loss))


class Guarded(io.TextIOWrapper):
    """A text stream to a descriptor.

    A character that the encoding lacks becomes "?". Bytes of a file name that are not text are unchanged.
    """

    def __init__(self, descriptor: Unfailing, encoding: str) -> None:
        errors = AS_BYTES if "?".encode(encoding) == b"?" else "replace"
        super().__init__(io.BufferedWriter(descriptor), encoding, errors, line_buffering=True)
        self.descriptor = descriptor


class Unfailing(io.FileIO):
    """A descriptor to which writing never fails; `loss` is the reason if some output was lost."""

    def __init__(self, descriptor: int, *, missing: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._missing, self.loss = missing, None

    def write(self, content: Any) -> int:
        try:
            while (written := super().write(content)) is None:  # a non-blocking pipe is full
                select.select([], [self], [])
        except OSError as error:
            if error.errno != errno.EPIPE:  # EPIPE: the reader left
                self.loss = error.strerror
            return len(content)
        if self._missing:
            self.loss = "it is closed"
        return written


def _guard(stream: Any, number: int) -> Guarded:
    if stream is None:  # the shell closed it
        return Guarded(Unfailing(number, missing=True), "utf-8")
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    return Guarded(Unfailing(stream.fileno(), missing=False), stream.encoding)


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """The byte behind a surrogate, which Python uses for undecodable file names; "?" for other characters."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    try:
        return character.encode("ascii", "surrogateescape"), error.start + 1
    except UnicodeEncodeError:
        return "?", error.start + 1


codecs.register_error(AS_BYTES, _as_bytes)


class LogFile(logging.FileHandler):
    """A handler for the log of a run folder, opened at the first message.

    It never writes through a link, and drops messages if the disk is full.
    """

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)

    def _open(self) -> Any:
        descriptor = open_plain(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().emit(record)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().close()


def make_console(*, stderr: bool = False) -> Console:
    """A console of `rich` that prints names as they are: they have no markup and no codes of emoji."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show_banner(text: str) -> None:
    """Prints a conspicuous panel to stderr."""
    from rich.panel import Panel

    panel = Panel(text, title="PLEASE NOTE", border_style="bold red", padding=(1, 2))
    make_console(stderr=True).print(panel)


@contextlib.contextmanager
def live_bar(console: Console) -> Iterator[Callable[..., None]]:
    """Yields a function that redraws a bar: its `description`, `completed`, `total` and `text`."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Bar(*columns, console=console, refresh_per_second=5, expand=True) as bar:
        yield functools.partial(bar.update, bar.add_task("", total=None, text="compiling"))


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Callback]:
    """Yields a callback that shows a run's progress: a live bar at a terminal, else a line per epoch."""
    if not console.is_terminal:
        yield PlainLines()
        return
    with live_bar(console) as draw:
        pace = Pace()

        def show(progress: Progress) -> None:
            epoch = min(progress.epoch + (progress.row is None), progress.epochs)
            draw(
                description=f"epoch {epoch}/{progress.epochs}",
                completed=progress.step,
                total=progress.epochs * progress.steps_per_epoch,
                text=describe(progress, pace),
            )

        yield show


class PlainLines:
    """A callback that prints a line per epoch, at most one per second, and always the last one."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._printed = -LINE_SECONDS  # time of the last line, seconds

    def __call__(self, progress: Progress) -> None:
        text, now = describe(progress, self._pace), time.monotonic()
        if progress.row is None or (now - self._printed < LINE_SECONDS and not progress.final):
            return
        self._printed = now
        print(f"epoch {progress.epoch}/{progress.epochs}  {text}", flush=True)


class Pace:
    """Images per second and the time left as text, measured from the first call, so without compiling."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # time in seconds, images

    def __call__(self, seen: float, total: float) -> str:
        """The text after `seen` of `total` images; "" at first."""
        now = time.monotonic()
        start, before = self._first = self._first or (now, seen)
        if seen <= before:
            return ""
        speed = (seen - before) / max(now - start, 1e-9)
        return f"  {speed:,.0f} images/s  {format_seconds(max(total - seen, 0) / speed)} left"


def describe(progress: Progress, pace: Pace) -> str:
    """The metrics of a segment as text, with the validation accuracy if an epoch has ended, and the pace."""
    text = f"loss {progress.train['loss']:.4f} accuracy {progress.train['accuracy']:.2%}"
    if progress.row is not None:
        text += f" val {progress.row['val/accuracy']:.2%}"
    steps = progress.epochs * progress.steps_per_epoch
    return text + pace(progress.examples_seen, progress.examples_seen * steps / progress.step)


def format_seconds(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds.

    >>> format_seconds(3725), format_seconds(65)
    ('1:02:05', '1:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show_results(
    console: Console, summary: Mapping[str, Any], class_names: Sequence[str], places: Mapping[str, str]
) -> None:
    """Prints the test results, the confusion matrix and the places of the records."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, title=f"Test results on {summary['data']['name']}")
    columns = {name: form for name, form in RESULTS.items() if f"test/{name}" in summary}
    for name in columns:
        title = {"balanced_accuracy": "balanced", "f1": "F1", "auc": "AUC", "count": "images"}.get(name, name)
        table.add_column(title, justify="right")
    table.add_row(*(f"{float(summary[f'test/{name}']):{form}}" for name, form in columns.items()))
    console.print(table, confusion_table(summary["test/confusion_matrix"], class_names))
    for name, place in places.items():
        console.print(f"{name:<10} {place}", soft_wrap=True)


def confusion_table(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Any:
    """The confusion matrix as a table, with true classes in rows; only its largest entries if it is wide."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    if len(matrix) > MATRIX_CLASSES:
        table = Table(
            "true", "predicted", "images", title=f"The {CONFUSIONS} most frequent confusions", box=SIMPLE
        )
        cells = ((count, i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j)
        for count, i, j in sorted(cells, reverse=True)[:CONFUSIONS]:
            table.add_row(class_names[i], class_names[j], str(count))
        return table
    table = Table(title="Confusion matrix", caption="rows: true, columns: predicted", box=SIMPLE)
    table.add_column("")
    for name in class_names:
        table.add_column(name[:5], justify="right")
    for i, (name, row) in enumerate(zip(class_names, matrix, strict=True)):
        cells = [Text(str(count), "bold") if i == j else str(count or ".") for j, count in enumerate(row)]
        table.add_row(name[:11], *cells)
    return table


def tell(line: str) -> None:
    """Prints one line to stderr, with control characters escaped."""
    # The line break is in the text, so that lines of several threads do not mix.
    print(f"{printable(line)}\n", end="", file=sys.stderr, flush=True)


def relative(path: Path) -> str:
    """The path relative to the working folder if it is inside that, else unchanged."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
