"""Signals that stop a run after its current segment, or inside it if it takes more than a few seconds."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mnistjax.progress import tell

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 5.0  # for the current segment, which usually takes about 1 s
AGAIN_SECONDS = 1.0  # for it after a second signal


def in_main_thread() -> bool:
    """Whether this is the only thread in which Python lets a handler of a signal be set."""
    return threading.current_thread() is threading.main_thread()


class Stop:
    """Returns whether a signal has asked for a stop. `fit` calls it after each segment."""

    def __init__(self) -> None:
        self.received: list[int] = []  # numbers of signals
        self._noticed = False
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        if self.received:
            with self._lock:  # waits forever if the other thread is ending the process
                self._noticed = True
        return bool(self.received)

    @contextlib.contextmanager
    def limit(self, abandon: Callable[[int], None]) -> Iterator[None]:
        """Calls `abandon(number)`, which ends the process, if a signal is not noticed within GRACE_SECONDS.

        A thread does that, because Python runs no handler while the main thread waits for a device.
        """
        if not in_main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, args=(reader, abandon), daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._noticed = True
            signal.set_wakeup_fd(before)
            os.close(writer)
            thread.join()
            os.close(reader)

    def _watch(self, reader: int, abandon: Callable[[int], None]) -> None:
        number, deadline = 0, float("inf")
        while True:
            left = None if number == 0 else max(0.0, deadline - time.monotonic())
            if select.select([reader], [], [], left)[0]:
                received = os.read(reader, 1)
                if not received:
                    return
                if received[0] in STOPPING:
                    patience = GRACE_SECONDS if number == 0 else AGAIN_SECONDS
                    number, deadline = number or received[0], min(deadline, time.monotonic() + patience)
                continue
            with self._lock:
                if not self._noticed:
                    abandon(number)
            return


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns SIGINT, SIGTERM and SIGHUP into a request to stop; a second signal raises KeyboardInterrupt.

    Under nohup, SIGHUP is ignored as before. Outside of the main thread no handler is set.
    """
    stop = Stop()
    if not in_main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        stop.received.append(number)
        if len(stop.received) > 1:
            raise KeyboardInterrupt(stop.received[0])
        tell(f"{signal.Signals(number).name}: saving and stopping; a second signal stops at once")

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [number for number in STOPPING if not (number == signal.SIGHUP and ignored)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
