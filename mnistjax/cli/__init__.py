"""The command `mnistjax`, a Hydra app. Only `mnistjax.cli` imports Hydra.

All jobs are composed, validated and planned before any folder is created, even Hydra's.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mnistjax.cli.overrides import add_rows, base_overrides, call_hydra, compose, composing, read_resume
from mnistjax.cli.plugins import check_hydra
from mnistjax.cli.single import run_single
from mnistjax.config import ConfigError, shorten, unknown
from mnistjax.files import describe
from mnistjax.progress import flush_stdout, guard_output, tell
from mnistjax.run_summary import find_version
from mnistjax.signals import safe_interrupts
from mnistjax.sweeps.spawn import WORKER
from mnistjax.words import read_words


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mnistjax`; returns 0 done, 1 failed, 2 wrong config or argument, 129, 130 or 143 stopped."""
    with errors_to_code() as exit, only_one():
        check_surroundings()
        argv = sys.argv[1:] if argv is None else list(argv)
        args = parse_arguments(argv)
        if args.version:
            print(f"mnistjax {find_version()}")
            return flush_stdout()
        words = read_words(args.overrides, multirun=args.multirun)
        if args.help or args.cfg or args.info or args.shell_completion or args.hydra_help:
            return answer(args, words, [word for word in argv if word not in args.overrides])
        with composing():
            cfg = compose(base_overrides(words) if args.multirun else words)
            check_hydra(cfg)
            if not args.multirun and str(cfg.hydra.mode) != "RunMode.MULTIRUN":
                return run_single(cfg, words)
            resume = read_resume(cfg)

        from mnistjax.cli.multirun import run_multirun

        return run_multirun(cfg, words, resume)
    return exit.code


# Python searches all of JAX's objects for garbage before it ends a process, in 0.2 s, except for frozen ones.
atexit.register(gc.freeze)

READ = ("MNISTJAX_", "TFDS_", "HYDRA_", "JAX_", "XLA_", "PJRT_", "WANDB_", "XDG_", "HOME", "NETRC")
RUNNING = threading.Lock()


@dataclass
class Exit:
    code: int = 0


@contextlib.contextmanager
def errors_to_code(stopped: str = "interrupted") -> Iterator[Exit]:
    """Turns an error or Ctrl-C inside into one printed line (`stopped` for Ctrl-C) and an exit code."""
    exit = Exit()
    drop_empty_variables()
    with guard_output():
        try:
            with safe_interrupts():
                yield exit
        except ConfigError as error:
            tell(f"error: {error}")
            exit.code = 2
        except UnicodeEncodeError as error:  # in the name of a file or folder
            text = shorten(error.object)
            tell(f"error: the locale's encoding, {error.encoding}, lacks a character of {text!r}")
            exit.code = 2
        except OSError as error:  # a full disk, for example
            tell(f"error: {describe(error, os.curdir)}")
            exit.code = 1
        except KeyboardInterrupt:
            tell(stopped)
            exit.code = 130


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Raises ConfigError if another thread is inside, because Hydra has one config in a process."""
    if not RUNNING.acquire(blocking=False):
        raise ConfigError("this process runs mnistjax already; wait, or start another process")
    try:
        yield
    finally:
        RUNNING.release()


def check_surroundings() -> None:
    """Raises ConfigError in a worker that imports the user's script, and without a working folder."""
    if multiprocessing.current_process().name == WORKER:
        guard = 'if __name__ == "__main__":'
        raise ConfigError(f"a worker imports {sys.argv[0]}, so its commands must be called under `{guard}`")
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(f"no working folder: {error.strerror}; change to one that exists") from None


def drop_empty_variables() -> None:
    """Unsets the variables that are empty and that we, JAX, Hydra or W&B read, here and in our workers."""
    for name, value in list(os.environ.items()):
        if not value and name.startswith(READ):
            del os.environ[name]


def answer(args: argparse.Namespace, words: list[str], flags: list[str]) -> int:
    """Answers a question such as --help with Hydra's own command, and returns the exit code."""
    if args.help or args.cfg or args.info:
        with composing():
            compose(base_overrides(words) if args.multirun else words)  # for our errors instead of Hydra's
    else:
        add_rows()
    return call_hydra([*words, *flags]) or flush_stdout()


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; `{self.prog} --help` shows how")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The flags of the command, which are Hydra's, and the KEY=VALUE words in `overrides`.

    Refused are Hydra's flags for another primary config, and --experimental-rerun, which loads a pickle.
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
        raise ConfigError("--resolve needs --cfg or --help")
    return args
