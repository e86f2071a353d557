"""The command `mnistjax-report`: a page, tables and figures of runs and sweeps, or a comparison of two."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import files, records
from mnistjax.checks import PROJECT, check_value, optional
from mnistjax.cli import Parser, check_surroundings, errors_to_code, papers
from mnistjax.config import ConfigError, one_line
from mnistjax.progress import flush_stdout, relative, tell
from mnistjax.report.runs import RunRecord, merge_runs, read_runs
from mnistjax.sweeps.ledger import load_ledger
from mnistjax.tracking import (
    check_login,
    default_entity,
    read_views,
    save_sweep,
    shorten_name,
    write_views,
)

if TYPE_CHECKING:
    from mnistjax.report.workspace import Place, Views


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mnistjax-report`; returns 0 done, 1 W&B failed, 2 wrong argument or no login, 130 stopped."""
    with errors_to_code() as exit:
        check_surroundings()
        return run(argv) or flush_stdout()
    return exit.code


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; ConfigError if one is wrong."""
    parser = make_parser("mnistjax-report", __doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: FOLDER/report)")
    parser.add_argument("--wandb", action="store_true", help="also save a workspace and a report at W&B")
    help = "write nothing: show the page at an address of this machine, kept up to date while a sweep runs"
    parser.add_argument("--watch", action="store_true", help=help)
    parser.add_argument("--port", type=int, metavar="N", help="port of that address (default: a free one)")
    papers.add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    check_arguments(args)
    papers.check_arguments(args)
    if args.watch and (args.out or args.wandb):
        raise ConfigError("--watch writes and sends nothing: it goes without --out and --wandb")
    if args.port is not None and not args.watch:
        raise ConfigError("--port is for --watch")
    if args.port is not None and not 0 <= args.port < 65536:
        raise ConfigError(f"--port must be a number from 0 to 65,535; got {args.port}")
    return args


def make_parser(name: str, description: str | None) -> Parser:
    """A parser with the arguments FOLDER..., --project and --entity."""
    parser = Parser(name, description=description, allow_abbrev=False)
    help = "a run, a sweep, or a folder that contains some"
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help=help)
    parser.add_argument("--project", help="W&B project (default: the one in the runs' config)")
    parser.add_argument("--entity", help="W&B user or team (default: the login's)")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raises ConfigError unless these are folders, and a project and an entity that W&B could have."""
    check_value("--project", args.project, optional(PROJECT))
    check_value("--entity", args.entity, optional(PROJECT))
    for folder in args.folders:
        if not os.path.isdir(folder):  # Path.is_dir raises if the name is too long
            raise ConfigError(f"{folder} is no folder")


def run(argv: Sequence[str] | None) -> int:
    """Writes the report, or tables and figures for papers, and returns the exit code."""
    args = parse_arguments(argv)
    if papers.is_wanted(args):
        papers.run(args)
        return 0
    from mnistjax.backend import import_jax, prepare_backend

    import_jax()
    from mnistjax.report.comparison import compare_runs, find_labels
    from mnistjax.report.comparison_text import show_comparison
    from mnistjax.report.dashboard import make_data, write_report
    from mnistjax.report.output import check_output

    title = ", ".join(folder.resolve().name for folder in args.folders)
    if args.watch:
        return watch(args, title)
    out = args.out or args.folders[0] / "report"
    check_output(out)
    sides = [read_runs(folder) for folder in args.folders]
    runs, comparison = merge_runs(itertools.chain(*sides)), None
    if len(sides) == 2:
        comparison = compare_runs(*sides, metric=args.metric, labels=find_labels(*args.folders))
    data = make_data(runs)
    views = make_views(runs, data, args, title, out) if args.wandb else None
    prepare_backend()
    with files.writing(out):
        page, missing = write_report(runs, data, out, title=title, comparison=comparison)
    if missing:
        tell(f"without misclassified images: {missing}")
    if comparison:
        show_comparison(comparison)
    tell(f"{len(runs):,} run{'s' * (len(runs) != 1)} -> {relative(page)}")
    return save_views(views, out) or save_sweeps(runs, views.place) if views else 0


def watch(args: argparse.Namespace, title: str) -> int:
    """Serves the page until a signal ends it."""
    from mnistjax.report.watch import Server, Watched

    watched = Watched(args.folders, title)
    watched.read()
    try:
        server = Server(watched, args.port or 0)
    except OSError as error:
        raise ConfigError(f"port {args.port} can't be used: {error.strerror}") from None
    with server:
        tell(f"watching at http://{server.names[0]}/ (Ctrl-C ends it)")
        server.serve_forever()
    return 0


def save_sweeps(runs: Sequence[RunRecord], place: Place) -> int:
    """Makes the Sweeps at W&B of online sweeps that lack theirs; returns the exit code."""
    from mnistjax.sweeps.mirror import find_run_ids, find_sweep_change

    folders = {run.folder.parent: run.config.get("train.monitor", "val/loss") for run in runs if run.sweep}
    where = {"entity": place.entity, "project": place.project}
    for folder, monitor in folders.items():
        try:
            with records.lock(folder):
                ledger = load_ledger(folder)
                online = str(ledger.wandb).startswith("http")
                change = find_sweep_change(ledger, find_run_ids(ledger), monitor, **where) if online else None
                if change:
                    ledger.wandb_sweep = change.describe(*save_sweep(*change, **where))
                    ledger.save()
                    tell(f"W&B Sweep -> {ledger.wandb_sweep['url']}")
        except Exception as error:  # W&B's client can raise any type
            tell(f"W&B did not save the Sweep of {folder}: {one_line(error)}")
            return 1
    return 0


def save_views(views: Views, out: Path) -> int:
    """Saves the views at W&B and their ids beside the report; returns the exit code."""
    for name, view in (("workspace", views.workspace), ("report", views.report)):
        try:
            view.save()
        except Exception as error:  # W&B's client can raise any type
            tell(f"W&B did not save the {name}: {one_line(error)}")
            return 1
        tell(f"W&B {name} -> {view.url}")
    write_views(out, views.describe())
    return 0


def make_views(
    runs: Sequence[RunRecord], data: dict[str, Any], args: argparse.Namespace, title: str, out: Path
) -> Views:
    """The unsaved W&B workspace and report of the runs' sweeps, or of the whole project for other runs.

    They will replace those that were saved for the report in the folder `out` before.
    """
    from mnistjax.report import workspace

    projects = sorted({str(run.config.get("wandb.project", "mnistjax")) for run in runs})
    if args.project is None and len(projects) != 1:
        raise ConfigError(
            f"the runs belong to several W&B projects; choose one with --project: {', '.join(projects)}"
        )
    sweeps = {run.sweep for run in runs}
    check_login()
    place = workspace.Place(
        entity=args.entity or default_entity(),
        project=args.project or projects[0],
        title=shorten_name(f"mnistjax {title}"),
        sweeps=sorted(shorten_name(str(sweep)) for sweep in sweeps) if None not in sweeps else (),
    )
    views = workspace.make_views(data, place)
    views.replace(read_views(out, place.entity, place.project))
    return views
