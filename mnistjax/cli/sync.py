"""The command `mnistjax-sync`: runs from their records to Weights & Biases, each row exactly once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mnistjax import files, records
from mnistjax.backend import import_jax
from mnistjax.cli import Parser, check_working_folder, errors_to_code
from mnistjax.cli.report import check_folders
from mnistjax.config import ConfigError
from mnistjax.progress import find_answer_code, tell
from mnistjax.report.runs import RunRecord, read_runs
from mnistjax.tracking import Tracker, check_login, make_run_id

SIDE_BY_SIDE = 8  # runs; a run waits for W&B's server most of the time
PATIENCE = 120.0  # seconds for W&B to take a run


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 all runs are there, 1 some are not, 2 a wrong argument or no login, 130 stopped."""
    with errors_to_code(stopped="interrupted; the same command goes on") as exit:
        check_working_folder()
        import_jax()
        args = parse_arguments(argv)
        return sync(read_runs(args.folders), args.project, args.entity) or find_answer_code()
    return exit.code


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; ConfigError for a wrong one."""
    parser = Parser("mnistjax-sync", description=__doc__, allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of runs or sweeps, or above")
    parser.add_argument("--project", help="at W&B; that of each run's config unless given")
    parser.add_argument("--entity", help="at W&B: a user or a team; that of each run's config unless given")
    args = parser.parse_args(argv)
    check_folders(args.folders)
    return args


def sync(runs: Sequence[RunRecord], project: str | None, entity: str | None) -> int:
    """The exit code: W&B has the runs that are over, under the same ids as if they had been online."""
    check_login()
    over = [run for run in runs if run.begun and run.status != "running" and not run.damaged]
    for run in runs:
        if run.damaged:
            tell(f"{run.folder}: {run.reason}")
    if left := len(runs) - len(over):
        tell(f"{left:,} of {len(runs):,} runs are not over, or not whole; they are left out")

    def bring(run: RunRecord) -> bool:
        try:
            files.check_links(run.folder)  # W&B's client writes there
        except ConfigError as error:
            tell(str(error))
            return False
        tracker = Tracker(
            run.folder,
            config=records.read_config(run.folder),
            run_id=make_run_id(str(run.identity), str(run.started)),
            mode="online",
            project=project or run.config.get("wandb.project", "mnistjax"),
            entity=entity or run.config.get("wandb.entity"),
            tags=run.config.get("wandb.tags") or (),
            group=run.sweep,
            name=run.name,
            patience=PATIENCE,
            tell=tell,
        )
        tracker.replay(run.rows)
        tracker.finish(run.status, run.summary)
        return not tracker.failed

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        arrived = sum(pool.map(bring, over))
    tell(f"{arrived:,} of {len(over):,} runs are at W&B")
    return int(arrived < len(runs))
