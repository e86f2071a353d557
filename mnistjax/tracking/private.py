"""The private parts of wandb that we use, because it offers no public way.

A test uses each of them, and fails if a version of wandb has moved one.
"""

import contextlib
import subprocess
import sys
from typing import Any

# Settings with which a run has nothing but what we send.
QUIET: dict[str, Any] = {
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def find_settings() -> Any:
    """wandb's settings for this process; the public `wandb.setup` would start its service process."""
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings


def find_process() -> subprocess.Popen[bytes] | None:
    """wandb's service process; None if this process started none. AttributeError if wandb has moved it.

    The module is not imported here, because its import may hang.
    """
    module = sys.modules.get("wandb.sdk.wandb_setup")
    setup = module._singleton if module else None
    connection = setup._connection if setup else None
    service = connection._proc if connection else None
    return service._process if service else None


def release_service(*, kill: bool) -> None:
    """Makes wandb forget its service process if that is dead, so that the next run starts a new one.

    If `kill`, kills it first. Without this, wandb's exit hook would wait for the process without end, or
    raise.
    """
    process = None
    with contextlib.suppress(AttributeError):  # training goes on with a wandb that we do not know
        process = find_process()
    if process is None:
        return
    if kill:
        process.kill()
        process.wait()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)  # its connection breaks a moment before the process ends
    if process.poll() is not None:
        with contextlib.suppress(Exception):
            sys.modules["wandb"].teardown()
