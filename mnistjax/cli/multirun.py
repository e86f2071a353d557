"""Sweeps: `mnistjax -m`, by our launcher or by the one that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnistjax import files, records
from mnistjax.cli.folders import find_folder, owning
from mnistjax.cli.launcher import FusedLauncher
from mnistjax.cli.overrides import (
    base_overrides,
    call_hydra,
    compose,
    composing,
    expand,
    is_jobs_own,
    parse_overrides,
    postpone,
    to_plain_config,
)
from mnistjax.cli.plugins import errors_about
from mnistjax.cli.prepare import Preparer, prepare_jobs
from mnistjax.cli.single import exit_code
from mnistjax.cli.stored import take_arguments, take_jobs
from mnistjax.compose import read_sweep
from mnistjax.config import ConfigError
from mnistjax.job import Job, Outcome, run_job
from mnistjax.progress import find_answer_code, relative, tell
from mnistjax.signals import stop_signals
from mnistjax.sweep.ledger import LEDGER, Ledger, check_unused, load_ledger
from mnistjax.tracking import leave_agent
from mnistjax.words import folder_word, quote, shell_join

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mnistjax.sweep.run import Sweep
    from mnistjax.sweep.worker import Ended


def run_multirun(words: list[str], resume: str | None) -> int:
    """The exit code of a sweep, new or in the folder to resume, by our launcher or by the one asked for."""
    from omegaconf import OmegaConf

    from mnistjax.sweep.run import Options, Sweep, show_plan

    if line := leave_agent():
        tell(line)
    # The worker trains; this process must not take a GPU's memory first.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    words = [word for word in words if not word.lstrip("+").startswith("sweep.resume=")]
    ledger = load_ledger(Path(resume).absolute()) if resume else None
    with composing():
        if ledger and not any(map(is_jobs_own, parse_overrides(words))):
            words = [*take_arguments(ledger, words), *words]
        cfg = compose(base_overrides(words))
        options = read_sweep(to_plain_config(cfg, resolve=True))
        folder = ledger.folder if ledger else find_folder(cfg, "sweep")
        own, tasks = expand(words, cfg)
        earlier = take_jobs(ledger) if ledger else []
        known = list(dict.fromkeys(map(tuple, [*earlier, *tasks])))  # a resumed job is among both
        prepared = dict(zip(known, prepare_jobs([[*own, *task] for task in known]), strict=True))
        jobs = {tuple(task): prepared[tuple(task)] for task in tasks}
        argv = postpone(words)
    if not str(cfg.hydra.launcher._target_).endswith(".FusedLauncher"):
        return run_apart(jobs, [*argv, "--multirun"])
    subdir = cast(dict[str, Any], OmegaConf.to_container(cfg.hydra.sweep, resolve=False))["subdir"]
    if subdir != "${hydra.job.num}":
        raise ConfigError(
            f"hydra.sweep.subdir={subdir} goes with hydra/launcher=basic; ours numbers its folders"
        )
    if cfg.sweep.plan:
        with errors_about("the plan"):  # which compiles what may be too large for any machine
            lines = show_plan([jobs[tuple(task)] for task in tasks], Options(**options))
        print("\n".join(lines))
        return find_answer_code()
    place = relative(folder)
    go_on = shell_join(["mnistjax", "-m", folder_word("sweep.resume", place)])
    if ledger is None and (folder / LEDGER).exists():
        raise ConfigError(f"{place} holds a sweep already; {go_on} goes on with it")
    if ledger is None:
        check_unused(folder)
    arguments = [word for word in words if not word.lstrip("+").startswith("hydra.sweep.dir=")]
    ledger = ledger or Ledger(folder, f"{datetime.now():%Y-%m-%d_%H-%M-%S}", records.now(), arguments)
    driver = Driver(Sweep(ledger, Options(**options)))
    for task, job in prepared.items():
        driver.know(task, job)
    try:
        with owning(folder), driver:
            code = call_hydra([*argv, f"hydra.sweep.dir={quote(folder)}", "--multirun"], folder=folder)
    except OSError as error:
        reason = files.describe(error, folder)
        if not driver.begun:
            raise ConfigError(reason) from None
        tell(f"the sweep could not be saved: {reason}")
        driver.report()
        tell(f"to go on: {go_on}")
        return 1
    except KeyboardInterrupt:
        tell(f"interrupted; to go on: {go_on}")
        if driver.hangs:
            os._exit(128 + driver.signal)
        return 128 + driver.signal
    return code or driver.report()


class Driver:
    """What the launcher drives: a sweep, with its view and its signals."""

    def __init__(self, sweep: Sweep) -> None:
        from rich.console import Console

        self.signal = 2  # that ended the sweep
        self.begun = False
        self._refused = False  # whether the disk took not all of what Hydra writes
        self._sweep, self._console = sweep, Console()
        self._numbers: dict[tuple[str, ...], int] = {}
        self._prepare = Preparer()
        FusedLauncher.driver = self

    def __enter__(self) -> Driver:
        self._sweep.__enter__()
        self.begun = True
        return self

    def __exit__(self, *error: Any) -> None:
        self._sweep.__exit__(*error)

    @property
    def hangs(self) -> bool:
        """Whether a thread of this process is left that trains and does not end."""
        return self._sweep.hangs

    def know(self, words: Sequence[str], job: Job) -> None:
        """The job of these overrides is part of the sweep."""
        self._numbers[tuple(words)] = self._sweep.add(job, list(words))

    def number(self, words: Sequence[str], compose: Callable[[], DictConfig]) -> int:
        """The number of the job of these overrides."""
        if tuple(words) not in self._numbers:
            config = to_plain_config(compose(), resolve=True)
            self.know(words, self._prepare(config, list(words)))
        return self._numbers[tuple(words)]

    def knows(self, words: Sequence[str]) -> bool:
        """Whether these overrides have been composed and validated."""
        return tuple(words) in self._numbers

    def job(self, number: int) -> tuple[list[str], dict[str, Any]]:
        """The overrides and the resolved config of a job."""
        return self._sweep.ledger.entries[number].overrides, self._sweep.jobs[number].config

    def train(self) -> Iterator[Ended]:
        """The end of each job that is trained now; KeyboardInterrupt after a signal."""
        from mnistjax.sweep.view import show_sweep
        from mnistjax.sweep.worker import Ended

        with stop_signals() as stop:
            try:
                with show_sweep(self._console, self._sweep.begin()) as show:
                    for report in self._sweep.run(stop):
                        show(report)
                        if isinstance(report, Ended):
                            yield report
            finally:
                self.signal = (stop.received or [self.signal])[0]
        if stop.received:
            raise KeyboardInterrupt

    def end(self, number: int) -> Ended:
        """The end of a job as the records have it."""
        return self._sweep.end(number)

    def refuse(self, error: OSError) -> None:
        """Tells once that the disk does not take what Hydra writes; the runs' own files are not concerned."""
        if not self._refused:
            tell(f"warning: {files.describe(error, self._sweep.ledger.folder)}; Hydra's files are not whole")
        self._refused = True

    def report(self) -> int:
        """Prints the table and the failures; the exit code."""
        from mnistjax.sweep.view import failures, show_table

        entries, rows = self._sweep.entries, self._sweep.results()
        show_table(self._console, rows, self._sweep.monitor, binary=self._sweep.binary)
        place = relative(self._sweep.ledger.folder)
        self._console.print(f"results    {place}/results.csv", highlight=False, soft_wrap=True, markup=False)
        lines = failures(entries, self._sweep.names())
        if lines:
            tell(f"{len(entries) - len(lines)} of {len(entries)} jobs done")
        for line in lines:
            tell(line)
        return int(bool(lines) or self._refused)


def run_apart(jobs: Mapping[tuple[str, ...], Job], argv: list[str]) -> int:
    """The exit code of the runs of a sweep by Hydra's own or another launcher, job by job."""
    task = Apart(jobs)
    try:
        code = call_hydra(argv, task)
    except JobFailed as error:  # in another process: the first; the records tell the others
        tell(f"{error}; the status.json of each run folder says how it ended")
        return 1
    except KeyboardInterrupt:
        code = 130
    return max(code, exit_code(task.outcomes))


class JobFailed(Exception):
    """A job in another process is not done."""


class Apart:
    """What another launcher calls for each job, in this process or in one of its own."""

    def __init__(self, jobs: Mapping[tuple[str, ...], Job] | None = None) -> None:
        self._jobs = jobs  # by their overrides
        self.outcomes: list[tuple[str, Outcome]] = []

    def __reduce__(self) -> Any:
        """In another process it makes its jobs anew, and has nobody to tell but Hydra."""
        return Apart, ()

    def __call__(self, cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        node, elsewhere = HydraConfig.get(), self._jobs is None
        words = list(node.overrides.task)
        name = f"job {node.job.num} ({' '.join(words)})"
        print(name, flush=True)
        try:
            job = (self._jobs or {}).get(tuple(words)) or Preparer()(
                to_plain_config(cfg, resolve=True), words
            )
            outcome = run_job(job, Path(node.runtime.output_dir))
        except ConfigError as error:
            outcome = Outcome(2, str(error))
        self.outcomes.append((name, outcome))
        if outcome.code > 128:
            raise KeyboardInterrupt
        if outcome.code and elsewhere:
            raise JobFailed(f"{name}: {outcome.reason}")
