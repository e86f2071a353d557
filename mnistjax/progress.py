"""What a run shows while it trains and when it ends: a live bar at a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from mnistjax.loop import Moment, Observer

LINE_SECONDS = 1.0  # between two plain lines
MATRIX_CLASSES = 10  # a wider confusion matrix does not fit 80 columns
CONFUSIONS = 10  # shown of a wider one


def show_banner(text: str) -> None:
    """A panel on stderr that can't be missed."""
    from rich.console import Console
    from rich.panel import Panel

    Console(stderr=True).print(Panel(text, title="PLEASE NOTE", border_style="bold red", padding=(1, 2)))


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Observer]:
    """The observer that shows a run's progress: a live bar at a terminal, else a line per epoch."""
    if not console.is_terminal:
        yield PlainLines()
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=5, expand=True) as progress:
        task = progress.add_task("", total=None, epoch=0, epochs="?", text="compiling")
        pace = Pace()

        def show(moment: Moment) -> None:
            total = moment.epochs * moment.steps_per_epoch
            epoch = min(moment.epoch + (moment.row is None), moment.epochs)
            text = describe(moment, pace(moment))
            fields = {"epoch": epoch, "epochs": moment.epochs, "text": text}
            progress.update(task, total=total, completed=moment.step, **fields)

        yield show


class PlainLines:
    """An observer that prints a line per epoch, at most one a second, and always the last."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._printed = -LINE_SECONDS  # seconds on the clock

    def __call__(self, moment: Moment) -> None:
        speed, now = self._pace(moment), time.monotonic()
        if moment.row is None or (now - self._printed < LINE_SECONDS and not moment.final):
            return
        self._printed = now
        print(f"epoch {moment.epoch}/{moment.epochs}  {describe(moment, speed)}", flush=True)


class Pace:
    """Images per second and seconds left, from this process's second moment on: the first one compiles."""

    def __init__(self) -> None:
        self._start: tuple[float, Moment] | None = None

    def __call__(self, moment: Moment) -> tuple[float, float] | None:
        now = time.monotonic()
        if self._start is None:
            self._start = now, moment
            return None
        began, first = self._start
        seconds = max(now - began, 1e-9)
        steps_left = moment.epochs * moment.steps_per_epoch - moment.step
        return (
            (moment.examples_seen - first.examples_seen) / seconds,
            steps_left * seconds / (moment.step - first.step),
        )


def describe(moment: Moment, pace: tuple[float, float] | None) -> str:
    """The numbers of a moment; the accuracy on validation too where an epoch has ended."""
    numbers = f"loss {moment.train['loss']:.4f} accuracy {moment.train['accuracy']:.2%}"
    if moment.row is not None:
        numbers += f" val {moment.row['val/accuracy']:.2%}"
    if pace is not None:
        speed, left = pace
        numbers += f"  {speed:,.0f} images/s  {format_seconds(left)} left"
    return numbers


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
    """Prints the test results, the confusion matrix and where everything lies."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, title=f"Test results on {summary['data']['name']}")
    for name in ("loss", "accuracy", "precision", "recall", "f1", "count"):
        table.add_column({"f1": "F1", "count": "images"}.get(name, name), justify="right")
    percents = [f"{summary[f'test/{name}']:.2%}" for name in ("accuracy", "precision", "recall", "f1")]
    table.add_row(f"{summary['test/loss']:.4f}", *percents, f"{summary['test/count']:,}")
    console.print(table, confusion_table(summary["test/confusion_matrix"], class_names))
    for name, place in places.items():
        console.print(f"{name:<10} {place}", highlight=False, soft_wrap=True, markup=False)


def confusion_table(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Any:
    """The confusion matrix as a table, true classes in rows; the largest confusions where it is too wide."""
    from rich.box import SIMPLE
    from rich.table import Table

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
        cells = [f"[bold]{count}[/]" if i == j else str(count or "·") for j, count in enumerate(row)]
        table.add_row(name[:11], *cells)
    return table


def tell(line: str) -> None:
    """Prints one line to stderr."""
    print(line, file=sys.stderr, flush=True)


def relative(path: Path) -> str:
    """The path as seen from the working folder, where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
