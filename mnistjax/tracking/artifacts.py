"""Models and data sets as artifacts of W&B: versions in collections, with their lineage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINK_TIMEOUT = 60  # seconds that a registry may wait for the upload of a model


@dataclass(frozen=True)
class Model:
    """A finished run's model, as a version in a collection."""

    collection: str
    checkpoint: Path
    card: Mapping[str, Any]  # the metadata
    aliases: Sequence[str] = ()  # besides `latest`
    registry: str | None = None  # the registry that gets a link to it


def make_name(text: str) -> str:
    """The name of a collection: letters, digits, `_`, `.` and `-`, at most 120."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-")[:120] or "model"


def make_model(model: Model) -> Any:
    """The artifact of a model."""
    import wandb

    artifact = wandb.Artifact(make_name(model.collection), type="model", metadata=dict(model.card))
    # The file never changes again, so it is not copied to the staging folder or the cache.
    artifact.add_file(str(model.checkpoint), policy="immutable", skip_cache=True)
    return artifact


def log_model(run: Any, artifact: Any, model: Model) -> None:
    """Logs the artifact of a model as an output of the run. A registry gets its link only online."""
    logged = run.log_artifact(artifact, aliases=[*model.aliases])
    if model.registry and not run.offline:
        logged.wait(timeout=LINK_TIMEOUT)
        place = f"wandb-registry-{model.registry}/{make_name(model.collection)}"
        run.link_artifact(logged, place, aliases=[*model.aliases])


def make_dataset(data: Mapping[str, Any]) -> Any:
    """The artifact of a data set: a reference by its SHA-256, without its images.

    `data` is the field `data` of a run's summary.
    """
    import wandb

    name = make_name(data["name"])
    artifact = wandb.Artifact(name, type="dataset", metadata=dict(data))
    artifact.add_reference(f"sha256:{data['sha256']}", name=name, checksum=False)
    return artifact
