"""`wandb.json` beside a report: its workspace and report at W&B, so that they are updated, not made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnistjax import checks, files, records
from mnistjax.checks import Check
from mnistjax.config import ConfigError

VIEWS = "wandb.json"
VIEW_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("entity", "project"), checks.PROJECT),
    **dict.fromkeys(("workspace", "workspace_name", "workspace_url", "report", "report_url"), checks.TEXT),
}


def read_views(folder: Path, entity: str | None = None, project: str | None = None) -> dict[str, str]:
    """The ids and URLs of the views of the report in a folder; empty if it has none in this project."""
    try:
        content = files.read_json(folder / VIEWS, limit=files.MIB)
        records.check_fields(str(folder / VIEWS), content, VIEW_FIELDS)
    except (ConfigError, OSError, TypeError):  # no file, or not ours
        return {}
    elsewhere = (entity and content["entity"] != entity) or (project and content["project"] != project)
    return {} if elsewhere else {name: content[name] for name in VIEW_FIELDS}


def write_views(folder: Path, views: Mapping[str, Any]) -> None:
    """Writes `wandb.json`."""
    records.write_json(folder / VIEWS, dict(views))
