"""The command `mnistjax`: a Hydra app that makes jobs; the only room that imports hydra.

Everything is composed, validated and planned before any folder is made, Hydra's own included.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mnistjax.cli.jobs import call_hydra, prepare_jobs, run_single
from mnistjax.cli.overrides import add_rows, base_overrides, compose, composing
from mnistjax.config import ConfigError, unknown
from mnistjax.job import find_version
from mnistjax.progress import tell


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command: 0 done, 1 failed, 2 a wrong config or argument, 130 or 143 stopped."""
    return find_code(run_command, argv)


def find_code(
    run: Callable[[list[str]], int], argv: Sequence[str] | None, stopped: str = "interrupted"
) -> int:
    """The exit code of what the arguments, or the process's own, ask for; an error is told in one line."""
    try:
        return run(sys.argv[1:] if argv is None else list(argv))
    except ConfigError as error:
        tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        tell(stopped)
        return 130
    except BrokenPipeError:  # `mnistjax --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run_command(argv: list[str]) -> int:
    """The exit code of what the arguments ask for."""
    args = parse_arguments(argv)
    if args.version:
        print(f"mnistjax {find_version()}")
        return 0
    words, question = args.overrides, args.help or args.cfg or args.info
    if question:
        with composing():
            compose(words)  # for our messages, not Hydra's
    if question or args.shell_completion or args.hydra_help:
        add_rows()
        return call_hydra([*words, *(word for word in argv if word not in words)])
    with composing():
        cfg = compose(base_overrides(words) if args.multirun else words)
        multirun = args.multirun or str(cfg.hydra.mode) == "RunMode.MULTIRUN"
        jobs = [] if multirun else prepare_jobs([words])
    if multirun:
        from mnistjax.cli.multirun import run_multirun

        return run_multirun(words)
    return run_single(jobs[0], Path(cfg.hydra.run.dir))


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; `{self.prog} --help` shows how")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The flags of Hydra's that we pass on, and the KEY=VALUE words in `overrides`.

    Not passed on: another primary config, and --experimental-rerun, which loads a pickle.
    """
    parser = Parser("mnistjax", add_help=False, allow_abbrev=False)
    switches = ("--help", "-h"), ("--multirun", "-m"), ("--run", "-r"), ("--shell-completion", "-sc")
    for names in (*switches, ("--hydra-help",), ("--resolve",), ("--version",)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--package", "-p")
    infos = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=infos)
    parser.add_argument("overrides", nargs="*")
    args, rest = parser.parse_known_intermixed_args(argv)
    if rest:
        known = [name for action in parser._actions for name in action.option_strings]
        raise unknown("flag", rest[0], known)
    if args.resolve and not (args.cfg or args.help):
        raise ConfigError("--resolve goes with --cfg or --help only")
    return args
