"""Mirrors the records to W&B. No other package of mnistjax imports wandb.

No W&B call runs in the training thread. A Tracker has a daemon thread that imports wandb, opens the run and
works through a bounded queue. If anything fails there, the user gets one line and training continues.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import records
from mnistjax.config import one_line
from mnistjax.tracking.agent import AgentRun as AgentRun
from mnistjax.tracking.agent import drop_agent_run as drop_agent_run
from mnistjax.tracking.agent import find_options as find_options
from mnistjax.tracking.agent import take_agent_run as take_agent_run
from mnistjax.tracking.artifacts import Model as Model
from mnistjax.tracking.artifacts import log_model, make_dataset, make_model
from mnistjax.tracking.login import check_login as check_login
from mnistjax.tracking.login import default_entity as default_entity
from mnistjax.tracking.login import find_server
from mnistjax.tracking.login import resolve_mode as resolve_mode
from mnistjax.tracking.media import Examples as Examples
from mnistjax.tracking.media import make_images, make_table
from mnistjax.tracking.private import QUIET, kept_environment, release_service, use_new_artifact
from mnistjax.tracking.private import save_sweep as save_sweep
from mnistjax.tracking.sweeps import describe_sweep as describe_sweep
from mnistjax.tracking.sweeps import find_tags as find_tags
from mnistjax.tracking.sweeps import keep_safe as keep_safe
from mnistjax.tracking.sweeps import mark_best
from mnistjax.tracking.views import read_views as read_views
from mnistjax.tracking.views import write_views as write_views

if TYPE_CHECKING:
    from mnistjax.run import Progress

QUEUE = 10_000  # rows that may wait for W&B
STATUSES = ("done", "failed", "diverged", "stopped", "interrupted")  # the last tag of a run
# 255 is what wandb records for Ctrl-C; 1 for any other status
EXIT_CODES = {"done": 0, "stopped": 0, "interrupted": 255}
LONGEST_NAME = 128  # bytes of the name and the group of a run at W&B
OPEN_RUNS = 32  # at a time in a process; other runs wait, and lose nothing

_environment = threading.Lock()
_threads: dict[str, threading.Thread] = {}  # the last tracker of each run of this process, by the run's id
_places = threading.BoundedSemaphore(OPEN_RUNS)


def make_run_id(*parts: str) -> str:
    """The id of a W&B run, a hash of the parts."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def find_run_id(status: Mapping[str, Any]) -> str:
    """The id of the W&B run of the run with this `status.json`."""
    given = status.get("wandb")
    return given["id"] if given else make_run_id(status["identity"], status["started"])


def shorten_name(name: str) -> str:
    """A name that W&B takes: of a long one, its beginning and its end, with a hash of all of it between.

    Different names stay different.
    """
    content = name.encode(errors="backslashreplace")
    if len(content) > LONGEST_NAME:
        head, tail = content[:70].decode(errors="ignore"), content[-36:].decode(errors="ignore")
        return f"{head}…{hashlib.sha256(content).hexdigest()[:16]}…{tail}"
    return content.decode()


def find_address(folder: Path, run_id: str, sibling: str | None) -> str | None:
    """The URL of a W&B run if its sibling's address is a URL, else its folder; None if it has none."""
    if sibling and sibling.startswith("http"):
        return f"{sibling.rpartition('/')[0]}/{run_id}"
    found = sorted(folder.glob(f"wandb/offline-run-*-{run_id}"))
    return str(found[-1]) if found else None


class Tracker:
    """A callback that mirrors one run to W&B. Its files are in `<folder>/wandb/`.

    No method raises. Only `finish` and `join` wait for W&B, at most `patience` seconds. If tracking stops
    early, `tell` gets one line. `sweep` is the id of the run's Sweep. A `new` run takes nothing over from a
    run with its id at the server.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        config: Mapping[str, Any],
        run_id: str,
        mode: str,
        project: str = "mnistjax",
        entity: str | None = None,
        tags: Sequence[str] = (),
        group: str | None = None,
        name: str | None = None,
        job_type: str | None = None,
        sweep: str | None = None,
        new: bool = False,
        step_metric: str = "epoch",
        patience: float = 30.0,
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.address: str | None = None  # the run's URL, or its folder while offline
        self.failed = False  # whether W&B lacks something
        self.sweep: tuple[str, str] | None = None  # the id and the URL of the Sweep after `save_sweep`
        self._folder = Path(folder).absolute()
        self._patience = patience
        self._tell = tell
        self._stopped = threading.Event()
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(QUEUE)
        options = {"project": project, "entity": entity, "tags": list(tags), "job_type": job_type}
        options |= {"group": group and shorten_name(group), "name": name and shorten_name(name)}
        options |= {"config": dict(config), "id": run_id, "mode": mode}
        options["resume"] = "allow" if mode == "online" and not new else None
        arguments = options, step_metric, sweep, _threads.get(run_id)
        self._thread = threading.Thread(target=self._work, args=arguments, name="wandb", daemon=True)
        self.enabled = mode != "disabled"
        if not self.enabled:
            self._stopped.set()
        else:
            _threads[run_id] = self._thread
            self._thread.start()

    def __call__(self, progress: Progress) -> None:
        """Queues the row of an epoch that has just ended; takes microseconds."""
        if progress.row is not None:
            row = dict(progress.row)
            # Committed at once, because a kill would lose a row that waits for the next one.
            self._send(lambda run: run.log(row, step=row["epoch"], commit=True))

    def replay(self, rows: Iterable[Mapping[str, Any]], counter: str | None = None) -> None:
        """Sends the rows 1, 2, ... that W&B lacks: row n is its step n, or its `counter` has come to n."""

        def send(run: Any) -> None:
            last = run.starting_step - 1
            if counter:  # steps are also tables and images; a step may be lost that the summary knows
                last = min(run.summary.get(counter, 0), run.starting_step)
            for number, row in enumerate(rows, start=1):
                if number > last:
                    values = {k: records.as_number(v) for k, v in row.items()}
                    run.log(values, step=None if counter else number, commit=True)

        self._send(send)

    def log(self, values: Mapping[str, Any]) -> None:
        """Sends values as the next point of their curves."""
        self._send(lambda run: run.log(dict(values), commit=True))

    def log_tables(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Sends tables, given as rows by name, unless W&B has them already."""
        content = hashlib.sha256(repr(tables).encode()).hexdigest()

        def send(run: Any) -> None:
            if run.summary.get("tables/sha256") != content:
                with _files_below(self._folder):
                    run.log({name: make_table(rows) for name, rows in tables.items()})
                run.summary.update({"tables/sha256": content})

        self._send(send)

    def show(self, examples: Examples, summary: Mapping[str, Any], *, prefix: str = "") -> None:
        """Sends a finished run's images and confusion matrix, unless W&B has them already."""

        def send(run: Any) -> None:
            known = run.summary.keys()
            if f"{prefix}test/samples" not in known:
                images = {f"{prefix}{key}": value for key, value in make_images(summary, examples).items()}
                with _files_below(self._folder):
                    run.log(images)

        self._send(send)

    def log_model(self, model: Model) -> None:
        """Sends a finished run's checkpoint as a version of its collection."""

        def send(run: Any) -> None:
            with _files_below(self._folder):
                artifact = make_model(model)
            log_model(run, artifact, model)

        self._try("the model", send)

    def use_data(self, data: Mapping[str, Any]) -> None:
        """Sends the data set, in the form of a run's summary, as the input of the run."""

        def send(run: Any) -> None:
            with _files_below(self._folder):
                artifact = make_dataset(data)
            use_new_artifact(run, artifact)

        self._try("the data set", send)

    def save_sweep(self, config: Mapping[str, Any], runs: Sequence[str], known: str | None) -> None:
        """Makes a Sweep of these runs, or adds them to the `known` one; sets `sweep`. Only online."""

        def send(run: Any) -> None:
            if not run.offline:
                self.sweep = save_sweep(config, runs, known, entity=run.entity, project=run.project)

        self._try("the Sweep", send)

    def mark_best(self, group: str, best: Sequence[str]) -> None:
        """Gives the tag `best` to these runs of a group, and to no others of it. Only online."""
        tag = functools.partial(mark_best, group=shorten_name(group), best=best)
        self._try("the tags of the best", lambda run: None if run.offline else tag(run))

    def finish(
        self,
        status: str,
        summary: Mapping[str, Any] | None = None,
        *,
        wait: bool = True,
        preempted: bool = False,
    ) -> None:
        """Closes the run with its status and summary. W&B gives a `preempted` run to another agent."""

        def send(run: Any) -> None:
            values = {k: v for k, v in (summary or {}).items() if isinstance(v, (int, float, str))}
            known = run.config.keys()
            plain = {k: records.as_number(v) for k, v in values.items() if k not in known}
            run.summary.update({**plain, "status": status})
            run.tags = (*(tag for tag in run.tags if tag not in STATUSES), status)
            if preempted:
                run.mark_preempting()
            run.finish(exit_code=EXIT_CODES.get(status, 1))

        self._send(send)
        self._send(None)
        if wait:
            self.join()

    def join(self, waited: float = 0.0) -> None:
        """Waits until the run is closed, after `finish`; `waited` seconds of its patience are over."""
        if self._stopped.is_set():
            return
        self._thread.join(max(0.0, self._patience - waited))
        if self._thread.is_alive():
            self._stop(f"it did not finish within {self._patience:g} s")
            release_service(kill=True)
        self._stopped.set()

    def _try(self, what: str, task: Callable[[Any], None]) -> None:
        """Queues a call that adds something to the run. If it fails, `tell` gets a line, and the run goes on.

        The call may wait for the server, so it holds no lock meanwhile.
        """

        def attempt(run: Any) -> None:
            try:
                task(run)
            except Exception as error:
                self.failed = True
                with contextlib.suppress(OSError, ValueError):  # a closed terminal
                    self._tell(f"W&B did not take {what} of {self._folder}: {one_line(error)[:200]}")

        self._send(attempt)

    def _send(self, task: Callable[[Any], None] | None) -> None:
        """Queues a call for the thread; None ends the thread."""
        if not self._stopped.is_set():
            try:
                self._queue.put_nowait(task)
            except queue.Full:
                self._stop(f"{QUEUE:,} rows wait for it")

    def _stop(self, reason: str) -> None:
        """Ends tracking early, with one line for the user."""
        if not self._stopped.is_set():
            self.failed = True
            self._stopped.set()
            with contextlib.suppress(OSError, ValueError):  # a closed terminal
                self._tell(f"W&B tracking of {self._folder} stops ({reason}); the records continue")

    def _work(
        self, options: dict[str, Any], step_metric: str, sweep: str | None, before: threading.Thread | None
    ) -> None:
        """Opens the run, which `before` had until it was paused, and works through the queue."""
        run = None
        if before:
            before.join(self._patience)
        _places.acquire()
        try:
            run = _open(self._folder, options, step_metric, sweep, self._patience)
            self.address = run.url or None if options["mode"] == "online" else str(Path(run.dir).parent)
            while (task := self._queue.get()) is not None and not self._stopped.is_set():
                task(run)
        except Exception as error:  # no error may reach training
            self._stop(one_line(error)[:200])
        finally:
            if self._stopped.is_set():
                with contextlib.suppress(Exception):
                    if run is not None:
                        run.finish(exit_code=1)
                release_service(kill=False)
            _places.release()


def _open(folder: Path, options: dict[str, Any], step_metric: str, sweep: str | None, patience: float) -> Any:
    """Opens the W&B run with these options; waits at most `patience` seconds."""
    import wandb

    online = options["mode"] == "online"
    server, has_key = find_server()
    if online and not has_key:
        raise ValueError("no API key; `wandb login` sets one")  # wandb would ask at the terminal
    settings = wandb.Settings(
        base_url=server,
        console="off",
        silent=True,
        init_timeout=patience,
        finish_timeout=0.8 * patience,  # shorter than ours, so that W&B gives up first
        finish_timeout_raises=True,
        sweep_id=sweep,
        **QUIET,
    )
    with _files_below(folder):
        run = wandb.init(dir=folder, reinit="create_new", settings=settings, **options)
    run.define_metric(step_metric)
    run.define_metric("*", step_metric=step_metric)
    return run


@contextlib.contextmanager
def _files_below(folder: Path) -> Iterator[None]:
    """A context in which wandb's staging and cache folders are in the run folder, not in the user's home.

    wandb reads them from the environment only.
    """
    names = "WANDB_DATA_DIR", "WANDB_CACHE_DIR"
    with _environment, kept_environment(*names):
        for name in names:
            os.environ.setdefault(name, str(folder / "wandb"))
        yield
