"""A run while it trains: its records, its W&B run, and how it ends."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import records
from mnistjax.compose import find_start, flatten
from mnistjax.config import ConfigError, one_line
from mnistjax.finished import describe_model, find_collection, find_examples
from mnistjax.job import Job, Outcome, find_outcome
from mnistjax.progress import make_console, relative, show_progress, show_results, tell
from mnistjax.recorder import INSIDE_SEGMENT, Recorder, RunEnd, RunStart, describe_change, open_run
from mnistjax.run_summary import describe_data, summarize_run
from mnistjax.signals import stop_signals
from mnistjax.tracking import Tracker, find_options, find_tags, make_run_id
from mnistjax.words import path_argument, shell_join

if TYPE_CHECKING:
    from mnistjax.plan import Start
    from mnistjax.run import Callback, Result, Run

log = logging.getLogger(__name__)


class ActiveRun:
    """A job while it trains in its locked folder, with its records and its W&B run."""

    def __init__(
        self,
        job: Job,
        start: RunStart,
        *callbacks: Callback,
        lock: contextlib.ExitStack | None = None,
    ) -> None:
        """`callbacks` are called after the recorder and W&B. The caller closes `lock` at the end."""
        self.job, self.start, self.lock = job, start, lock or contextlib.ExitStack()
        self.recorder = Recorder(job, start)
        self.trained: Start | None = None
        if job.plan.start and start.snapshot is None:
            try:
                self.trained = read_start(job)
            except ConfigError as error:
                self.recorder.close(RunEnd("failed", str(error)))
                raise
        options: dict[str, Any] = job.tracker_options()
        options["run_id"] = make_run_id(job.plan.identity, start.started)
        options = find_options(start.agent_run, options) | {"group": job.group, "name": job.name}
        options["tags"] = find_tags(dict(flatten(job.config)) | {"data.name": job.data.name}, options["tags"])
        new = start.agent_run is not None and not start.rows
        self.tracker = Tracker(job.folder, config=job.config, job_type="train", new=new, **options)
        if job.wandb_mode == "online":
            self.tracker.replay(start.rows)  # those of commands that were offline
        if self.tracker.enabled:  # counting the classes takes time
            self.tracker.use_data(describe_data(job.data))
        self.callbacks = [self.recorder, self.tracker, *callbacks]

    @property
    def on_agent(self) -> bool:
        """Whether an agent of W&B has started this process, and can start it again."""
        return bool(self.start.agent_run and self.start.agent_run.sweep)

    @functools.cached_property
    def run(self) -> Run:
        """The run for `fit_runs`."""
        from mnistjax.run import Run

        plan, start = self.job.plan, self.start
        return Run(
            plan.hyper,
            plan.seed,
            plan.stopping,
            start.snapshot,
            start.rows,
            self.callbacks,
            start=self.trained.variables if self.trained else None,
            pause=self.job.pause,
        )

    def end(self, result: Result) -> RunEnd:
        """Records the end of the run. If that fails, the run has failed, so that it never looks finished."""
        if result.error:
            return self.fail(result.error)
        end = RunEnd(result.status, result.reason)
        try:
            if result.status == "done":
                end = RunEnd("done", summary=summarize_run(self.job, result, self.start.continued))
            self.recorder.close(end)
        except Exception as error:
            return self.fail(error)
        return end

    def fail(self, error: Exception) -> RunEnd:
        """Records that the run failed with this error."""
        reason = str(error) if isinstance(error, ConfigError) else one_line(error)
        end = RunEnd("failed", reason, traceback="".join(traceback.format_exception(error)))
        self.recorder.close(end)
        return end


def read_start(job: Job) -> Start:
    """The trained variables that a job starts from; ConfigError if they are no longer those of its plan."""
    start = find_start(job.settings, job.data)
    if start is None or start.sha256 != job.plan.start:
        raise ConfigError(f"init_from={job.settings['init_from']} has changed since the run was planned")
    return start


def run_job(job: Job) -> Outcome:
    """Trains a job in its folder, which Hydra has made, unless its run there is over already."""
    with records.lock(job.folder):
        if outcome := find_outcome(job, resume=job.settings["resume"], hydra_was_here=True):
            return outcome
        return train_job(job, open_run(job))


def train_job(job: Job, start: RunStart) -> Outcome:
    """Trains a job in its locked folder until its end or a signal; shows progress and results."""
    from mnistjax.loop import fit_runs
    from mnistjax.programs import make_program

    console, examples = make_console(), None
    active = ActiveRun(job, start)
    print(describe_start(job, start, active.trained), flush=True)
    for change in start.continued:
        log.warning("after epoch %s the run %s", change["epoch"], describe_change(change))
    with stop_signals() as stop:
        try:
            with show_progress(console) as progress, stop.limit(functools.partial(abandon, active)):
                active.callbacks.append(progress)
                program = make_program(job.plan.spec, job.data)
                ((_, result),) = fit_runs(program, [[active.run]], stop=stop)
            if result.status == "done" and job.wandb_mode != "disabled":
                examples = find_examples(job.plan, job.data, result.variables)
            end = active.end(result)
        except KeyboardInterrupt:
            end = RunEnd("interrupted", "stopped at once")
            active.recorder.close(end)
        except Exception as error:
            end = active.fail(error)
        if end.traceback:
            log.error("the run failed\n%s", end.traceback)
        if end.summary and examples:
            active.tracker.show(examples, end.summary)
            collection = find_collection(job.overrides, job.plan.spec.model, job.plan.data)
            active.tracker.log_model(describe_model(job.folder, collection, job.settings["wandb.registry"]))
        preempted = active.on_agent and signal.SIGTERM in stop.received and end.status == "interrupted"
        active.tracker.finish(end.status, end.summary, preempted=preempted)
    if end.summary:
        places = find_places(job.folder, active.tracker.address)
        show_results(console, end.summary, job.data.class_names, places)
    return find_end_outcome(job, end, stop.received)


def abandon(active: ActiveRun, number: int) -> None:
    """Ends the process inside a segment that takes too long after a signal; keeps the last checkpoint."""
    active.recorder.close(RunEnd("interrupted", INSIDE_SEGMENT))
    preempted = active.on_agent and number == signal.SIGTERM
    active.tracker.finish("interrupted", wait=preempted, preempted=preempted)
    tell(f"{signal.Signals(number).name}: stopped; to continue: {active.job.resume_command()}")
    os._exit(128 + number)


def find_end_outcome(job: Job, end: RunEnd, received: list[int]) -> Outcome:
    """The outcome of a run, with what the user can do next; `received` are numbers of signals."""
    if end.status == "failed":
        return Outcome(1, f"failed: {end.reason} (see {relative(job.folder / records.LOG)})")
    if end.status == "interrupted":
        return Outcome(128 + received[0], f"{end.reason}; to continue: {job.resume_command()}")
    return Outcome(int(end.status != "done"), end.reason)


def describe_start(job: Job, start: RunStart, trained: Start | None) -> str:
    """One line: the model, the data, the optimizer, what it starts from, and the run folder."""
    spec, data = job.plan.spec, job.data
    counts = " + ".join(f"{len(part.images):,}" for part in (data.train, data.val, data.test))
    at = f", continued after epoch {len(start.rows)}" if start.snapshot else ""
    if trained:
        at = f", from {trained.name}{' with a new last layer' if trained.new_head else ''}"
    return f"{spec.model} on {data.name} ({counts} images), {spec.optimizer}{at} -> {relative(job.folder)}"


def find_places(folder: Path, wandb_address: str | None) -> dict[str, str]:
    """The places of the records and of the W&B run, by name."""
    if wandb_address and not wandb_address.startswith("http"):
        place = path_argument(relative(folder))
        wandb_address = f"offline; to upload: {shell_join(['mnistjax-sync', place])}"
    return {"run folder": relative(folder), **({"W&B": wandb_address} if wandb_address else {})}
