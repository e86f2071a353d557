"""The command `mnistjax-sync`: sends runs from their records to Weights & Biases, each row exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mnistjax import files, records
from mnistjax.backend import import_jax
from mnistjax.cli import check_surroundings, errors_to_code
from mnistjax.cli.report import check_arguments, make_parser
from mnistjax.config import ConfigError
from mnistjax.progress import find_answer_code, tell
from mnistjax.report.runs import RunRecord, read_runs
from mnistjax.tracking import Tracker, check_login, make_run_id

PARALLEL = 8  # runs at a time; most of the time they wait for W&B's server
PATIENCE = 120.0  # seconds that W&B may take for a run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mnistjax-sync`; returns 0 all at W&B, 1 not all, 2 wrong argument or no login, 130 stopped."""
    with errors_to_code(stopped="interrupted; the same command continues") as exit:
        check_surroundings()
        import_jax()
        args = make_parser("mnistjax-sync", __doc__).parse_args(argv)
        check_arguments(args)
        return sync(read_runs(args.folders), args.project, args.entity) or find_answer_code()
    return exit.code


def sync(runs: Sequence[RunRecord], project: str | None, entity: str | None) -> int:
    """Sends the finished runs, under the ids that they would have online; returns the exit code."""
    check_login()
    over = [run for run in runs if run.begun and run.status != "running" and not run.damaged]
    for run in runs:
        if run.damaged:
            tell(f"{run.folder}: {run.reason}")
    if left := len(runs) - len(over):
        tell(f"{left:,} of {len(runs):,} runs are unfinished or damaged; they are left out")

    def send(run: RunRecord) -> bool:
        try:
            files.check_links(run.folder)  # W&B's client writes to the folder
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

    with ThreadPoolExecutor(PARALLEL) as pool:
        arrived = sum(pool.map(send, over))
    tell(f"{arrived:,} of {len(over):,} runs are at W&B")
    return int(arrived < len(runs))
