"""A worker process, which trains assignments until its parent ends it.

A model that crashes or hangs stops only this process. Workers are spawned, not forked, and end when their
parent does, because the pipe between them closes then.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from mnistjax.backend import prepare_backend
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.models import MODELS, list_models
from mnistjax.optim import OPTIMIZERS, list_optimizers
from mnistjax.signals import STOPPING
from mnistjax.sweep.events import AssignmentEnded, Event
from mnistjax.sweep.groups import Assignment, DataKey
from mnistjax.sweep.trainer import Trainer

Tables = Mapping[str, Mapping[str, Any]]
"""The rows of the open tables: {"model": {name: row}, "optimizer": {name: row}}."""


def serve(connection: Connection, tables: Tables) -> None:
    """Trains the assignments that arrive through the connection, until None arrives.

    Data sets arrive as pairs (key, data), and "stop" stops the jobs. `tables` can contain rows that a script
    of the user registered in the parent.
    """
    for number in STOPPING:  # the parent also gets the signal, and sends "stop"
        signal.signal(number, signal.SIG_IGN)
    prepare_backend()
    add_tables(tables)
    assignments: queue.Queue[Assignment | None] = queue.Queue()
    datasets: dict[DataKey, Dataset] = {}
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
            else:
                assignments.put(message)

    def send(event: Event) -> None:
        with sending, contextlib.suppress(OSError):
            connection.send(event)

    threading.Thread(target=receive, daemon=True).start()
    while (assignment := assignments.get()) is not None:
        Trainer(assignment, datasets[assignment.data], send, stop.is_set).run()
        send(AssignmentEnded())


def copy_tables() -> Tables:
    """The open tables for a worker; ConfigError if a row can't be imported by another process."""
    tables: dict[str, Any] = {
        "model": {name: MODELS[name] for name in list_models()},
        "optimizer": {name: OPTIMIZERS[name] for name in list_optimizers()},
    }
    for kind, table in tables.items():
        for name, row in table.items():
            try:
                pickle.dumps(row)
            except (pickle.PicklingError, AttributeError, TypeError):
                raise ConfigError(
                    f"{kind} {name!r} can't be imported by a worker process; define it at the top level of a "
                    f"module, or use sweep.executor=inline"
                ) from None
    return tables


def add_tables(tables: Tables) -> None:
    """Adds the parent's rows to the open tables of this process."""
    MODELS.update(tables["model"])
    OPTIMIZERS.update(tables["optimizer"])
