"""The private parts of wandb that we use, because it offers no public way.

A test uses each of them, and fails if a version of wandb has moved one.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

# Settings with which a run has nothing but what we send.
QUIET: dict[str, Any] = {
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


_settings = threading.Lock()


def find_settings() -> Any:
    """wandb's settings for this process; the public `wandb.setup` would start its service process.

    wandb shows settings to other threads before it has filled them in, with its own server as their server.
    """
    from wandb.sdk import wandb_setup

    with _settings:
        return wandb_setup.singleton().settings


def silence() -> Any:
    """Makes wandb print nothing and send no telemetry of its own; returns its settings."""
    import wandb

    settings = find_settings()
    settings.silent = True
    wandb.termsetup(settings, None)
    with contextlib.suppress(ImportError, AttributeError):  # at the end it waits 10 s for a dead server
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()
    return settings


def use_new_artifact(run: Any, artifact: Any) -> None:
    """Logs a new artifact as an input of the run; the public `use_artifact` refuses that offline."""
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def save_sweep(
    config: Mapping[str, Any], runs: Sequence[str], sweep: str | None, *, entity: str, project: str
) -> tuple[str, str]:
    """Makes a Sweep of these runs, or adds them to the Sweep with this id and name; returns its id and URL.

    The public `wandb.sweep` makes only new ones, prints, and changes the environment.
    """
    import wandb
    from wandb.apis.public.sweeps import _sweep_with_runs, _upsert_sweep
    from wandb.util import app_url

    api: Any = wandb.Api()
    place: dict[str, Any] = {"entity": entity, "project": project}
    with kept_environment("WANDB_ENTITY", "WANDB_PROJECT"):
        found = _sweep_with_runs(api, sweep, "{}", **place) if sweep else None
        same = found and yaml.safe_load(found["config"]).get("name") == config["name"]
        known = found["id"] if found and same else None  # else it is gone, or another one
        saved, _ = _upsert_sweep(api, dict(config), obj_id=known, prior_runs=[*runs], **place)
    where = f"{saved['project']['entity']['name']}/{saved['project']['name']}"
    return str(saved["name"]), f"{app_url(api.settings['base_url'])}/{where}/sweeps/{saved['name']}"


@contextlib.contextmanager
def kept_environment(*names: str) -> Iterator[None]:
    """Restores these variables at the end."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
