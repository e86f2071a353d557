"""Starts worker processes. It imports no JAX, so that a command can start its worker before anything else.

Workers are spawned, not forked, and end when their parent does, because the pipe between them closes then.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
import sys
import types
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from mnistjax.signals import STOPPING

WORKER = "mnistjax worker"  # name of a worker process


class Spawned(NamedTuple):
    """A process that imports JAX, in 1 s, and then waits for the open tables and assignments."""

    process: BaseProcess
    connection: Connection

    def kill(self) -> None:
        """Kills it, if it is alive."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def spawn(*, with_main: bool = False) -> Spawned:
    """Starts a worker process; it runs the script of this one again only `with_main`. OSError if it can't."""
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True, name=WORKER)
    resource_tracker.ensure_running()  # here, because it unblocks signals
    with contextlib.nullcontext() if with_main else without_main(), _blocked_signals():
        process.start()
    theirs.close()
    return Spawned(process, connection)


def _work(connection: Connection) -> None:
    """What a worker process does."""
    for number in STOPPING:  # the parent also gets the signal, and sends "stop"
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    from mnistjax.backend import import_jax
    from mnistjax.config import ConfigError

    with contextlib.suppress(ConfigError):  # the parent tells it
        import_jax()

        from mnistjax import loop, programs  # noqa: F401  (it will need them)
        from mnistjax.sweeps.worker import serve

        serve(connection)
    gc.freeze()  # so that it ends sooner


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Hides the main module inside, so that a process that is started there does not run the script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Holds back signals that stop, also from a process that is started inside, until that ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
