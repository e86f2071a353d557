"""Sweeps with the launcher of Hydra or of another plugin, which calls a task for each job."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import records
from mnistjax.active import run_job
from mnistjax.cli.launcher import JobFailed
from mnistjax.cli.overrides import call_hydra, to_plain_config
from mnistjax.cli.prepare import Preparer
from mnistjax.cli.single import exit_code
from mnistjax.config import ConfigError
from mnistjax.job import Job, Outcome
from mnistjax.progress import tell

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_by_launcher(jobs: Mapping[tuple[str, ...], Job], argv: list[str]) -> int:
    """Runs the jobs, by their overrides, one after another; returns the exit code."""
    task = JobTask(jobs)
    try:
        code = call_hydra(argv, task)
    except JobFailed as error:  # the first job that failed in another process
        tell(f"{error}; the status.json of each run folder says how it ended")
        return 1
    except KeyboardInterrupt:
        code = 130
    return max(code, exit_code(task.outcomes))


class JobTask:
    """Runs a job. A launcher calls it in this process, or pickles it for other processes."""

    def __init__(self, jobs: Mapping[tuple[str, ...], Job] | None = None) -> None:
        self._jobs = jobs  # None in another process
        self.outcomes: list[tuple[str, Outcome]] = []

    def __reduce__(self) -> Any:
        """Pickles without the jobs: another process validates its own, and reports failures to Hydra only."""
        return JobTask, ()

    def __call__(self, cfg: DictConfig) -> float:
        from hydra.core.hydra_config import HydraConfig

        node, elsewhere, value = HydraConfig.get(), self._jobs is None, math.nan
        words = list(node.overrides.task)
        name = f"job {node.job.num} ({' '.join(words)})"
        print(name, flush=True)
        try:
            job = (self._jobs or {}).get(tuple(words))
            job = job or Preparer()(to_plain_config(cfg), words)
            outcome = run_job(replace(job, folder=Path(node.runtime.output_dir)))
            if outcome.code == 0:
                record = records.read_record(node.runtime.output_dir, whole=False)
                value = records.find_kept_row(record.rows, record.summary or {})[cfg.train.monitor]
        except ConfigError as error:
            outcome = Outcome(2, str(error))
        self.outcomes.append((name, outcome))
        if outcome.code > 128:
            raise KeyboardInterrupt
        if outcome.code and elsewhere:
            raise JobFailed(f"{name}: {outcome.reason}")
        return float(value)
