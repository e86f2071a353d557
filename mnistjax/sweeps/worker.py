"""A worker process, which trains assignments until its parent ends it.

A model that crashes or hangs stops only this process.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from mnistjax.backend import prepare_backend
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.models import MODELS, list_models
from mnistjax.optim import OPTIMIZERS, list_optimizers
from mnistjax.sweeps.events import AssignmentEnded, Event
from mnistjax.sweeps.groups import Assignment, DataKey
from mnistjax.sweeps.trainer import Trainer

Tables = Mapping[str, Mapping[str, Any]]
"""The rows of the open tables: {"model": {name: row}, "optimizer": {name: row}}."""


def serve(connection: Connection) -> None:
    """Trains the assignments that arrive through the connection, until None arrives.

    Tables arrive first; they can contain rows that a script of the user registered in the parent. Data sets
    arrive as pairs (key, data), and "stop" stops the jobs. An assignment joins the one that is being trained.
    """
    try:
        tables = connection.recv()
    except (EOFError, OSError):
        return  # the parent is gone
    prepare_backend()
    add_tables(tables)
    assignments: queue.Queue[Assignment | None] = queue.Queue()
    datasets: dict[DataKey, Dataset] = {}
    trainer: Trainer | None = None
    stop, sending = threading.Event(), threading.Lock()

    def receive() -> None:
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the parent is gone
            if message == "stop":
                stop.set()
            elif isinstance(message, tuple):
                datasets[message[0]] = message[1]
            elif not (message and trainer and trainer.add(message)):
                assignments.put(message)

    def send(event: Event) -> None:
        with sending, contextlib.suppress(OSError):
            connection.send(event)

    threading.Thread(target=receive, daemon=True).start()
    while (assignment := assignments.get()) is not None:
        trainer = Trainer(assignment, datasets[assignment.data], send, stop.is_set)
        trainer.run()
        for _ in range(trainer.assignments):
            send(AssignmentEnded())


def copy_tables() -> Tables:
    """The open tables for a worker; ConfigError if a row can't be imported by another process."""
    tables: dict[str, Any] = {
        "model": {name: MODELS[name] for name in list_models()},
        "optimizer": {name: OPTIMIZERS[name] for name in list_optimizers()},
    }
    for kind, table in tables.items():
        for name, row in table.items():
            if not _is_importable(row):
                raise ConfigError(
                    f"{kind} {name!r} can't be imported by a worker process; define it at the top level of a "
                    f"module, or use sweep.executor=inline"
                )
    return tables


def _is_importable(row: Any) -> bool:
    """Whether another process can import what a row refers to, which may be a script without a file."""
    try:
        return not needs_main(row) or can_import_main()
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def needs_main(value: Any) -> bool:
    """Whether a pickled value refers to the main module, that is, to the script that Python runs."""
    return b"__main__" in pickle.dumps(value)


def can_import_main() -> bool:
    """Whether a process started by `multiprocessing` can import the main module of this one."""
    main = sys.modules["__main__"]
    if main.__spec__:  # python -m MODULE
        return not main.__spec__.name.endswith("__main__")
    return os.path.isfile(getattr(main, "__file__", None) or "")  # a notebook has none


def add_tables(tables: Tables) -> None:
    """Adds the parent's rows to the open tables of this process."""
    MODELS.update(tables["model"])
    OPTIMIZERS.update(tables["optimizer"])
