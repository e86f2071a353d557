"""The command `mnistjax-sync`: sends runs and sweeps from their records to Weights & Biases.

Each row, image and model arrives once, however often the command runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnistjax import files, records
from mnistjax.backend import import_jax, prepare_backend
from mnistjax.cli import check_surroundings, errors_to_code
from mnistjax.cli.report import check_arguments, make_parser
from mnistjax.compose import flatten
from mnistjax.config import ConfigError
from mnistjax.finished import describe_model, find_collection, load_examples, reopen
from mnistjax.progress import flush_stdout, tell
from mnistjax.report.runs import RunRecord, read_runs
from mnistjax.sweeps.ledger import load_ledger
from mnistjax.sweeps.mirror import Mirror
from mnistjax.sweeps.results import read_result
from mnistjax.tracking import AgentRun, Tracker, check_login, find_options, find_run_id, find_tags

PARALLEL = 8  # runs at a time; most of the time they wait for W&B's server
PATIENCE = 120.0  # seconds that W&B may take for a run
WORDS = ".hydra/overrides.yaml"  # the overrides of a single run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mnistjax-sync`; returns 0 all at W&B, 1 not all, 2 wrong argument or no login, 130 stopped."""
    with errors_to_code(stopped="interrupted; the same command continues") as exit:
        check_surroundings()
        import_jax()
        args = make_parser("mnistjax-sync", __doc__).parse_intermixed_args(argv)
        check_arguments(args)
        place = {"project": args.project, "entity": args.entity}
        return sync(read_runs(*args.folders), place) or flush_stdout()
    return exit.code


def sync(runs: Sequence[RunRecord], place: Mapping[str, str | None]) -> int:
    """Sends the runs that have ended, under the ids that they would have online, and then their sweeps.

    `place` is the project and the entity, None for those of the runs. Returns the exit code.
    """
    check_login()
    over = [run for run in runs if run.begun and run.status != "running" and not run.damaged]
    for run in runs:
        if run.damaged:
            tell(f"{run.folder}: {run.reason}")
    if left := len(runs) - len(over):
        tell(f"{left:,} of {len(runs):,} runs are unfinished or damaged; they are left out")
    if any(run.summary for run in over):
        prepare_backend()  # for the predictions that W&B gets
    with ThreadPoolExecutor(PARALLEL) as pool:
        arrived = sum(pool.map(lambda run: send_run(run, place), over))
    tell(f"{arrived:,} of {len(over):,} runs are at W&B")
    sweeps = dict.fromkeys(run.folder.parent for run in over if run.sweep)
    lacking = [folder for folder in sweeps if not send_sweep(folder, place)]
    return int(arrived < len(runs) or bool(lacking))


def tracker_options(config: Mapping[str, Any], place: Mapping[str, str | None]) -> dict[str, Any]:
    """The options of a Tracker, with project and entity from `place`, else from a config by dotted key."""
    return {
        "project": place["project"] or config.get("wandb.project", "mnistjax"),
        "entity": place["entity"] or config.get("wandb.entity"),
        "tags": config.get("wandb.tags") or (),
        "mode": "online",
        "patience": PATIENCE,
        "tell": tell,
    }


def send_run(run: RunRecord, place: Mapping[str, str | None], agent_run: AgentRun | None = None) -> bool:
    """Sends a run, to `agent_run` instead of its own W&B run if given; returns whether W&B has all of it."""
    try:
        files.check_links(run.folder)  # W&B's client writes to the folder
        status = records.read_status(run.folder) or {}
        config = records.read_config(run.folder)
    except (ConfigError, OSError) as error:
        tell(str(error))
        return False
    options: dict[str, Any] = tracker_options(run.config, place) | {"run_id": find_run_id(status)}
    if agent_run or status.get("wandb"):
        known = {key: value for key, value in place.items() if value}
        options = find_options(replace(agent_run or AgentRun(**status["wandb"]), **known), options)
    data = run.summary.get("data", {})
    values = {**run.config, "data.name": data.get("name", run.config.get("data.name"))}
    options |= {"group": run.sweep, "name": run.name, "tags": find_tags(values, options["tags"])}
    tracker = Tracker(run.folder, config=config, job_type="train", **options)
    if data:
        tracker.use_data(data)
    tracker.replay(run.rows)
    if run.summary and not run.sweep:
        send_model(run, tracker)
    tracker.finish(run.status, run.summary)
    return not tracker.failed


def send_model(run: RunRecord, tracker: Tracker) -> None:
    """Sends the images and the model of a finished single run."""
    try:
        words = [str(word) for word in files.read_yaml(run.folder / WORDS, limit=files.MIB) or []]
    except (ConfigError, OSError, TypeError):
        words = []
    collection = find_collection(words, run.config["model.name"], run.summary["data"]["name"])
    try:
        tracker.log_model(describe_model(run.folder, collection, run.config.get("wandb.registry")))
        tracker.show(load_examples(*reopen(run.folder), run.folder), run.summary)
    except (ConfigError, OSError) as error:
        tell(f"warning: W&B does not get all of {run.folder}: {error}")


def send_sweep(folder: Path, place: Mapping[str, str | None]) -> bool:
    """Sends the run of a sweep, with its tables, best jobs and Sweep; returns whether W&B has all of it."""
    try:
        with records.lock(folder):
            ledger = load_ledger(folder)
            jobs = {number: ledger.job_folder(number) for number in ledger.entries}
            first = next(job for job in jobs.values() if (job / records.STATUS).exists())
            config = dict(flatten(records.read_config(first)))
            monitor, registry = config.get("train.monitor", "val/loss"), config.get("wandb.registry")
            results = [read_result(entry, jobs[entry.number]) for entry in ledger.entries.values()]
            mirror = Mirror(ledger, monitor, registry, **tracker_options(config, place))
            mirror.replay(results)
            sent = mirror.finish(results, lambda number: reopen(jobs[number]))
            ledger.save()
            return sent
    except (ConfigError, OSError) as error:
        tell(f"{folder}: {error}")
        return False
