"""Signals that stop a run after its current segment, or inside it if it takes more than a few seconds.

Before and after that, Ctrl-C raises KeyboardInterrupt, as in all of Python, but only where it is safe.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from mnistjax.progress import tell

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 5.0  # for the current segment, which usually takes about 1 s
AGAIN_SECONDS = 1.0  # for it after a second signal
REPEAT_SECONDS = 0.1  # until Ctrl-C is tried again


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


@contextlib.contextmanager
def safe_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt as always, but not in an import, and again if it is lost.

    Of 180 Ctrl-C in the first 2.5 s of a sweep, Python's own handler lost 17: JAX's callback for each garbage
    collection dropped the exception. Two aborted the process in the import of JAX's extension modules. Of 180
    in the first 0.5 s, OmegaConf turned 5 into other errors.

    Outside of the main thread, or where the program has its own handler, nothing is changed.
    """
    if not in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    deadline, report = float("inf"), sys.unraisablehook

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal deadline
        now = time.monotonic()
        deadline = min(deadline, now + GRACE_SECONDS)
        signal.signal(signal.SIGALRM, repeat)
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        if now > deadline or not (_is_protected(frame) or _is_ending(sys.exception())):
            deadline = now + GRACE_SECONDS  # for what cleans up
            raise KeyboardInterrupt

    def repeat(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # if stop_signals has begun, its own
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:  # it is ignored, for a moment
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)

    def report_others(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            report(lost)

    sys.unraisablehook = report_others
    signal.signal(signal.SIGINT, handle)
    alarm = signal.getsignal(signal.SIGALRM)
    try:
        yield
    except Exception as error:
        if deadline < float("inf"):  # OmegaConf's way out of a KeyboardInterrupt fails, for example
            raise KeyboardInterrupt from error
        raise
    finally:
        if deadline < float("inf"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = report


def _is_protected(frame: FrameType | None) -> bool:
    """Whether this frame, or one that called it, imports a module or starts JAX's backend.

    JAX starts a thread for the latter, which ends after 60 s unless it is told to; the process waits for it.
    """
    while frame and not re.search(r"^<frozen importlib|\bxla_bridge\.py$", frame.f_code.co_filename):
        frame = frame.f_back
    return frame is not None


def _is_ending(error: BaseException | None) -> bool:
    """Whether this error, which is being handled, is a KeyboardInterrupt or comes from handling one."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
