"""The progress of a sweep at a terminal, and its table of results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mnistjax.job import Job
from mnistjax.progress import Pace, live_bar, make_console, relative, tell
from mnistjax.seeds import by_seed, find_format, group_seeds, short_key
from mnistjax.sweeps.events import Event, JobEnded, JobPaused, JobProgress, JobStarted
from mnistjax.sweeps.halving import Halving
from mnistjax.sweeps.ledger import ENDED_WELL, RESULTS, Ledger
from mnistjax.tracking import read_views
from mnistjax.verdicts import MOST_COMPARED, compare
from mnistjax.words import path_argument, shell_join

if TYPE_CHECKING:
    from rich.console import Console

    from mnistjax.sweeps.run import Sweep

LINE_SECONDS = 2.0  # between two plain lines; in a long sweep 2 % of the time so far
DRAW_SECONDS = 0.2  # between two drawings of a notebook's bar
SHOWN = 12  # rows of the table
WIDEST, FEW = 10, 3  # a table of at most FEW keys does not fold values of up to WIDEST characters


class Tally:
    """Counts events: finished jobs, the best validation accuracy, speed, time left."""

    def __init__(self, jobs: Sequence[Job], ledger: Ledger, halving: Halving | None = None) -> None:
        self._jobs, self._entries, self._halving = {job.number: job for job in jobs}, ledger.entries, halving
        share = halving.share if halving else 1.0  # the expected part of the epochs
        self._planned = {
            job.number: round(share * job.plan.stopping.epochs * job.plan.spec.train_count) for job in jobs
        }  # images
        self._seen: dict[int, int] = {}  # images
        self._left, self._trained = sum(self._planned.values()), 0  # images, the latter by this process
        self._pace = Pace()
        self.total, self.over, self.failed, self.running = len(jobs), 0, 0, set[int]()
        self._best: tuple[float, str] | None = None

    def count(self, event: Event) -> str:
        """Counts an event; returns one line: finished jobs, groups, failures, the best job, the pace."""
        match event:
            case JobStarted(number):
                self.running.add(number)
            case JobProgress(number, seen, row):
                self._advance(number, seen)
                if row is not None:
                    best = row["val/accuracy"], self._jobs[number].name or ""
                    self._best = max(self._best or best, best)
            case JobEnded(number, status, _):
                self.running.discard(number)
                self.over += 1
                self.failed += status in ("failed", "diverged")
                if not self._halving:
                    self._left -= self._planned[number] - self._seen.get(number, 0)
            case JobPaused(number):
                self.running.discard(number)
        words = [f"{self.over}/{self.total} jobs"]
        if self._halving:
            words += filter(None, [self._halving.describe_rung()])
        if groups := {self._entries[number].group for number in self.running}:
            words.append(f"group {', '.join(map(str, sorted(groups)))}")
        if self.failed:
            words.append(f"{self.failed} failed")
        if self._best:
            words.append(f"best val {self._best[0]:.2%} ({self._best[1]})")
        pace = self._pace(self._trained, self._trained + max(0, self._left)) if self._seen else ""
        return "  ".join(words) + pace

    def _advance(self, number: int, seen: int) -> None:
        """Counts the images that a job has seen; those before its first event, by an earlier process."""
        self._trained += seen - self._seen.get(number, seen)
        self._left -= seen - self._seen.get(number, 0)
        self._seen[number] = seen


@contextlib.contextmanager
def show_sweep(
    jobs: Sequence[Job], ledger: Ledger, halving: Halving | None
) -> Iterator[Callable[[Event], None]]:
    """Shows the events of a sweep: a live line at a terminal or in a notebook, else one every two seconds."""
    console, tally = make_console(), Tally(jobs, ledger, halving)
    if console.is_jupyter:
        yield draw_in_notebook(tally)
        return
    if console.is_terminal:
        with live_bar(console) as draw:
            yield lambda event: draw(text=tally.count(event), completed=tally.over, total=tally.total)
        return
    start = printed = time.monotonic()

    def print_line(event: Event) -> None:
        nonlocal printed
        line, now = tally.count(event), time.monotonic()
        last = isinstance(event, JobEnded) and tally.over == tally.total
        due = now - printed >= max(LINE_SECONDS, 0.02 * (now - start))
        if (due and not isinstance(event, JobStarted)) or last:
            printed = now
            print(line, flush=True)

    yield print_line


def draw_in_notebook(tally: Tally) -> Callable[[Event], None]:
    """A function that shows events by a bar below a notebook's cell, drawn at most every DRAW_SECONDS."""
    import html

    from IPython.display import display

    handle: Any = display({"text/plain": ""}, raw=True, display_id=True)
    drawn = 0.0

    def draw(event: Event) -> None:
        nonlocal drawn
        line, now = tally.count(event), time.monotonic()
        if now - drawn >= DRAW_SECONDS or tally.over == tally.total:
            drawn = now
            bar = f"<progress value={tally.over} max={tally.total}></progress> {html.escape(line)}"
            handle.update({"text/plain": line, "text/html": bar}, raw=True)

    return draw


def show_table(console: Console, sweep: Sweep) -> None:
    """Prints the mean over seeds of each configuration, the best by the monitored metric first.

    The table of binary tasks has F1, which means more than accuracy there.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    monitor, binary = sweep.monitor, any(job.plan.spec.task == "binary" for job in sweep.jobs.values())
    rows = sweep.results()
    ranked = group_seeds(rows, monitor)
    keys = list(dict.fromkeys(key for seeds in ranked for key in seeds.config))
    metrics = [monitor, "test/accuracy", *(["test/f1"] if binary else [])]  # the interval is the last one's
    console.print(f"\nBy {monitor}, mean and standard deviation over seeds:")
    table = Table(box=SIMPLE, pad_edge=False)
    for key in keys:
        widest = max(len(seeds.config.get(key, "")) for seeds in ranked[:SHOWN])
        least = min(widest, WIDEST) if len(keys) <= FEW else None
        table.add_column(short_key(key, keys), overflow="fold", min_width=least)
    stopped = any(seeds.stopped for seeds in ranked)
    for name in ("n", *["epochs"] * stopped, *metrics, *["95 %"] * (not stopped)):
        table.add_column(name, justify="right", no_wrap=True)
    for seeds in ranked[:SHOWN]:
        spreads = [seeds.spreads[metric] for metric in metrics]
        formats = [*map(find_format, metrics)]
        n, last = spreads[0].n, spreads[-1]
        table.add_row(
            *(seeds.config.get(key, "") for key in keys),
            f"{n} of {n + seeds.not_done}" if seeds.not_done and not seeds.stopped else str(n),
            *[str(seeds.stopped or "all")] * stopped,
            *map(format, spreads, formats),
            *[f"± {last.mean_half_width:{formats[-1]}}" if last.n > 1 else "-"] * (not stopped),
        )
    if len(ranked) > SHOWN:
        table.caption = f"the best {SHOWN} of {len(ranked)}; all in results.csv"
    console.print(table)
    values = by_seed(rows, monitor)
    for verdict in compare(values, monitor, most=1) if len(values) <= MOST_COMPARED else ():
        words = f"{verdict:{find_format(monitor)}}"
        console.print(f"verdict    {words}", soft_wrap=True)


def find_places(ledger: Ledger) -> dict[str, str]:
    """Where W&B shows a sweep, by name, or the command that brings it there; empty without W&B."""
    folder = path_argument(relative(ledger.folder))
    if not ledger.wandb:
        return {}
    if not ledger.wandb.startswith("http"):
        return {"W&B": f"offline; to upload all: {shell_join(['mnistjax-sync', folder])}"}
    views = read_views(ledger.folder / "report")
    shown = {name: views[f"{name}_url"] for name in ("workspace", "report")} if views else {}
    more = {"views": f"for a workspace and a report: {shell_join(['mnistjax-report', folder, '--wandb'])}"}
    return {"W&B": ledger.wandb_sweep["url"] if ledger.wandb_sweep else ledger.wandb, **(shown or more)}


def report_sweep(sweep: Sweep) -> int:
    """Prints the table of results and why jobs are not done; returns the number that did not end well."""
    console = make_console()
    show_table(console, sweep)
    places = {"results": f"{relative(sweep.ledger.folder)}/{RESULTS}", **find_places(sweep.ledger)}
    for name, place in places.items():
        console.print(f"{name:<10} {place}", soft_wrap=True)
    return report_jobs(sweep)


def report_jobs(sweep: Sweep) -> int:
    """Tells which jobs are not done, and why; returns the number of those that did not end well."""
    stopped = [entry for entry in sweep.entries if entry.status == "stopped"]
    failed = [entry for entry in sweep.entries if entry.status not in ENDED_WELL]
    if stopped or failed:
        done = len(sweep.entries) - len(failed) - len(stopped)
        words = f", {len(stopped)} stopped at a rung" if stopped else ""
        tell(f"{done} of {len(sweep.entries)} jobs done{words}")
    for entry in failed:
        name = sweep.jobs[entry.number].name if entry.number in sweep.jobs else ""
        reason = f", {entry.reason}" if entry.reason else ""
        tell(f"job {entry.number} ({name}): {entry.status}{reason}")
    return len(failed)
