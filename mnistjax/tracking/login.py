"""W&B's mode, server and login, read from the environment and the user's settings."""

import os
from pathlib import Path

from mnistjax.config import ConfigError, one_line, unknown
from mnistjax.probe import probe
from mnistjax.tracking.private import silence

MODES = {mode: mode for mode in ("auto", "online", "offline", "disabled")}
MODES |= {"run": "online", "shared": "online", "dryrun": "offline"}  # wandb's other words in WANDB_MODE
LOGIN_TIMEOUT = 10.0  # seconds


def resolve_mode(mode: str, *, timeout: float = 3.0) -> tuple[str, str | None]:
    """The mode "online", "offline" or "disabled", and a line for the user if `auto` became offline.

    `auto` means the value of WANDB_MODE, else online if there is a key and the server answers within
    `timeout` seconds.
    """
    asked = os.environ.get("WANDB_MODE", "auto") if mode == "auto" else mode
    if asked not in MODES:
        raise unknown("WANDB_MODE" if mode == "auto" else "wandb.mode", asked, MODES)
    if MODES[asked] != "auto":
        return MODES[asked], None
    obstacle = _find_obstacle(timeout)
    return ("offline", f"W&B is offline: {obstacle}") if obstacle else ("online", None)


def check_login() -> None:
    """Raises ConfigError if W&B's server does not answer, or its key is missing or invalid."""
    if obstacle := _find_obstacle(LOGIN_TIMEOUT):
        raise ConfigError(f"W&B: {obstacle}")


def _find_obstacle(timeout: float) -> str | None:
    """The reason why runs can't be online, or None."""
    try:
        url, has_key = find_server() if _may_have_key() else ("", False)
    except Exception as error:  # wandb's own errors can't be named without its import
        return one_line(error)[:200]
    if not has_key:
        return "no API key (`wandb login` sets one)"
    answer = probe(url, timeout=timeout, method="GET")
    if isinstance(answer, int) and answer < 500 and answer != 407:  # a proxy answers with 407 or 5xx
        return None
    return f"{url} did not answer within {timeout:g} s"


def default_entity() -> str:
    """The user or team that owns the login's runs; ConfigError if W&B does not name one."""
    import wandb

    try:
        entity = wandb.Api().default_entity
    except Exception as error:
        raise ConfigError(f"W&B: {one_line(error)}") from None
    if not entity:
        raise ConfigError("the W&B login has no default entity; set it with --entity")
    return str(entity)


def find_server() -> tuple[str, bool]:
    """The server's URL, and whether environment, netrc or wandb's settings hold credentials for it."""
    import wandb

    settings = silence()  # else `login` asks the server who has logged in
    settings.mode = "online"  # else `login` returns false; each run is told its own mode
    return settings.base_url, wandb.login(prompt=False, verify=False)


def _may_have_key() -> bool:
    """Whether wandb could find a key anywhere; if not, it need not be imported."""
    variables = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_CONFIG_DIR")
    files = (".netrc", "_netrc", ".config/wandb/settings")
    return any(map(os.environ.get, variables)) or any((Path.home() / file).exists() for file in files)
