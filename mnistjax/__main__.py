"""The commands as programs; `python -m mnistjax` is `mnistjax`."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys


def run(module: str) -> None:
    """Runs the `main` of a module and ends the process, after a signal without waiting for any thread.

    Ctrl-C waits until the module is imported: in an import, OmegaConf made another error of it, for example.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    main = importlib.import_module(module).main
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    if code > 128:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


mnistjax = functools.partial(run, "mnistjax.cli")
report = functools.partial(run, "mnistjax.cli.report")
export = functools.partial(run, "mnistjax.cli.export")
predict = functools.partial(run, "mnistjax.cli.predict")
sync = functools.partial(run, "mnistjax.cli.sync")

if __name__ == "__main__":
    mnistjax()
