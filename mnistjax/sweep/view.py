"""What a sweep shows while it runs, and the table at its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mnistjax.progress import format_seconds
from mnistjax.seeds import group_seeds
from mnistjax.sweep.ledger import Entry
from mnistjax.sweep.worker import Begun, Ended, JobProgress, Report

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 2.0  # between two plain lines; more in a long sweep, of which each is then 2 %
SHOWN = 12  # rows of the table


class Tally:
    """The state of a sweep from its reports: jobs over, the best validation accuracy, speed, time left."""

    def __init__(
        self, names: Mapping[int, str], examples: Mapping[int, int], groups: Mapping[int, int]
    ) -> None:
        self._names, self._planned, self._groups = names, examples, groups  # by number, of jobs to train
        self._seen: dict[int, int] = {}
        self._first: dict[int, int] = {}  # images that a resumed job had seen
        self._began: float | None = None  # seconds on the clock, at the first progress: compiling is over
        self.total, self.over, self.failed, self.running = len(names), 0, 0, set[int]()
        self._best: tuple[float, str] | None = None

    def __call__(self, report: Report) -> None:
        match report:
            case Begun(number):
                self.running.add(number)
            case JobProgress(number, _, seen, row):
                self._began = self._began or time.monotonic()
                self._first.setdefault(number, seen)
                self._seen[number] = seen
                if row is not None:
                    best = row["val/accuracy"], self._names.get(number, "")
                    self._best = max(self._best or best, best)
            case Ended(number, status, _):
                self.running.discard(number)
                self.over += 1
                self.failed += status in ("failed", "diverged")
                self._first.setdefault(number, self._planned.get(number, 0))  # over before it began
                self._seen[number] = self._planned.get(number, 0)

    def fields(self) -> dict[str, str]:
        """The words of a line."""
        words = {"jobs": f"{self.over}/{self.total} jobs"}
        groups = {self._groups[number] for number in self.running if number in self._groups}
        if groups:
            words["groups"] = f"group {', '.join(map(str, sorted(groups)))}"
        if self.failed:
            words["failed"] = f"{self.failed} failed"
        if self._best:
            words["best"] = f"best val {self._best[0]:.2%} ({self._best[1]})"
        trained = sum(seen - self._first.get(number, 0) for number, seen in self._seen.items())
        if self._began is not None and trained:
            speed = trained / max(time.monotonic() - self._began, 1e-9)
            left = sum(self._planned.values()) - sum(self._seen.values())
            words["speed"] = f"{speed:,.0f} images/s"
            words["left"] = f"{format_seconds(max(left, 0) / speed)} left"
        return words


@contextlib.contextmanager
def show_sweep(console: Console, tally: Tally) -> Iterator[Callable[[Report], None]]:
    """The view of a sweep: one live line at a terminal, else a line every two seconds."""
    if console.is_terminal:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        with Bar(BarColumn(bar_width=30), TextColumn("{task.fields[text]}"), console=console) as bar:
            task = bar.add_task("", total=tally.total, text="compiling")

            def draw(report: Report) -> None:
                tally(report)
                text = "  ".join(tally.fields().values())
                bar.update(task, completed=tally.over, text=text)

            yield draw
        return
    began = printed = time.monotonic()

    def print_line(report: Report) -> None:
        nonlocal printed
        tally(report)
        now = time.monotonic()
        last = isinstance(report, Ended) and tally.over == tally.total
        due = now - printed >= max(LINE_SECONDS, 0.02 * (now - began))
        if (due and not isinstance(report, Begun)) or last:
            printed = now
            print("  ".join(tally.fields().values()), flush=True)

    yield print_line


def show_table(
    console: Console, rows: Sequence[Mapping[str, Any]], monitor: str, *, binary: bool = False
) -> None:
    """Prints the jobs aggregated over seeds, the best on validation first; with F1 for binary tasks."""
    from rich.box import SIMPLE
    from rich.table import Table

    ranked = group_seeds(rows, monitor)
    keys = list(dict.fromkeys(key for seeds in ranked for key in seeds.config))
    metrics = [monitor, "test/accuracy", *(["test/f1"] if binary else [])]  # the interval is the last one's
    console.print(f"\nBy {monitor}, mean and standard deviation over seeds:", highlight=False)
    table = Table(box=SIMPLE, pad_edge=False)
    for key in keys:
        table.add_column(short_key(key, keys), overflow="fold")
    for name in ("n", *metrics, "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for seeds in ranked[:SHOWN]:
        spreads = [seeds.spreads[metric] for metric in metrics]
        formats = [".2%" if metric.endswith("accuracy") else ".4f" for metric in metrics]
        n, last = spreads[0].n, spreads[-1]
        table.add_row(
            *(seeds.config.get(key, "") for key in keys),
            f"{n} of {n + seeds.not_done}" if seeds.not_done else str(n),
            *map(format, spreads, formats),
            f"± {last.mean_half_width:{formats[-1]}}" if last.n > 1 else "-",
        )
    if len(ranked) > SHOWN:
        table.caption = f"the best {SHOWN} of {len(ranked)}; all in results.csv"
    console.print(table)


def short_key(key: str, keys: Sequence[str]) -> str:
    """A key without its group where that is enough to know it: optimizer.learning_rate is learning_rate."""
    key = key.removesuffix(".name")
    last = key.rpartition(".")[2]
    return last if sum(other.removesuffix(".name").rpartition(".")[2] == last for other in keys) == 1 else key


def failures(entries: Sequence[Entry], names: Mapping[int, str]) -> list[str]:
    """A line for each job that is not done."""
    return [
        f"job {entry.number} ({names.get(entry.number, '')}): {entry.status}"
        + (f", {entry.reason}" if entry.reason else "")
        for entry in entries
        if entry.status != "done"
    ]
