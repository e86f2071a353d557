"""The command `mnistjax`: a Hydra app that makes jobs; the only room that imports hydra.

Everything is composed, validated and planned before any folder is made, Hydra's own included.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mnistjax.cli.folders import find_folder
from mnistjax.cli.jobs import call_hydra, prepare_jobs, run_single
from mnistjax.cli.overrides import add_rows, base_overrides, compose, composing, read_resume
from mnistjax.cli.plugins import check_hydra
from mnistjax.config import ConfigError, unknown
from mnistjax.files import describe
from mnistjax.progress import find_answer_code, guard_output, tell
from mnistjax.signals import STOPPING
from mnistjax.summary import find_version
from mnistjax.words import read_words

STOPPED = tuple(128 + number for number in STOPPING)  # exit codes after a signal


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command: 0 done, 1 failed, 2 a wrong config or argument, 129, 130 or 143 stopped."""
    return find_code(run_command, argv, answers=False)


def command() -> None:
    """Runs `main` for a process of its own, and ends it.

    After a signal without waiting for what the device still computes, which Python's own end would.
    """
    code = main()
    if code in STOPPED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def find_code(
    run: Callable[[list[str]], int],
    argv: Sequence[str] | None,
    stopped: str = "interrupted",
    *,
    answers: bool = True,
) -> int:
    """The exit code of what the arguments, or the process's own, ask for; an error is told in one line.

    It is 1 if what a command `answers` on stdout is lost, on a full disk say.
    """
    with guard_output():
        try:
            check_working_folder()
            code = run(sys.argv[1:] if argv is None else list(argv))
            return (code or find_answer_code()) if answers else code
        except ConfigError as error:
            tell(f"error: {error}")
            return 2
        except OSError as error:  # a full disk, say, of a run or a report that had begun
            tell(f"error: {describe(error, os.curdir)}")
            return 1
        except KeyboardInterrupt:
            tell(stopped)
            return 130


def check_working_folder() -> None:
    """ConfigError if the working folder was deleted, or may not be read."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(f"no working folder: {error.strerror}; change to one that exists") from None


def run_command(argv: list[str]) -> int:
    """The exit code of what the arguments ask for."""
    args = parse_arguments(argv)
    if args.version:
        print(f"mnistjax {find_version()}")
        return find_answer_code()
    words = read_words(args.overrides, multirun=args.multirun)
    question = args.help or args.cfg or args.info
    if question:
        with composing():
            compose(words)  # for our messages, not Hydra's
    if question or args.shell_completion or args.hydra_help:
        add_rows()
        code = call_hydra([*words, *(word for word in argv if word not in args.overrides)])
        return code or find_answer_code()
    if args.multirun and not __debug__:  # in which Hydra's parser of range() works (hydra#2570)
        raise ConfigError("a sweep needs Python's assertions: without -O, and without PYTHONOPTIMIZE")
    with composing():
        cfg = compose(base_overrides(words) if args.multirun else words)
        check_hydra(cfg)
        multirun = args.multirun or str(cfg.hydra.mode) == "RunMode.MULTIRUN"
        if not multirun and (cfg.sweep.plan or cfg.sweep.resume):
            raise ConfigError(f"sweep.{'plan' if cfg.sweep.plan else 'resume'} goes with -m")
        folder = None if multirun else find_folder(cfg, "run")
        jobs = [] if multirun else prepare_jobs([words])
    if folder is None:
        from mnistjax.cli.multirun import run_multirun

        return run_multirun(words, read_resume(cfg))
    return run_single(jobs[0], folder)


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
