"""Trained models: by name from the package, or from the folder of a run.

A packaged one is a safetensors file in `weights/` that holds the variables and their card, with the SHA-256
of both, as `encode_weights` writes them. An ensemble's members are kept as float16 numbers there.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mnistjax import checkpoints, files, models, records
from mnistjax.config import ConfigError, freeze, to_plain, unknown
from mnistjax.zoo.card import CARD_FIELDS
from mnistjax.zoo.card import Card as Card

WEIGHTS = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that match a wildcard pattern, sorted: of architectures, or of what `load` takes.

    >>> list_models("mlp*")
    ['mlp', 'mlp_mixer']
    """
    if not pretrained:
        return models.list_models(pattern)
    return sorted(fnmatch.filter((path.stem for path in WEIGHTS.glob(f"*{SUFFIX}")), pattern))


def load(name: str | Path) -> tuple[nn.Module, dict[str, Any], Card]:
    """A trained model, its variables and its card: a packaged one by name, or that of a run's folder.

    `model.apply(variables, images)` are the logits of images (B, 28, 28, 1), uint8 or float in [0, 1].
    ConfigError for an unknown name, a folder without a run, a run that is not done, or files that are damaged
    or can't be read.
    """
    try:
        if _is_folder(name):
            card, arrays = describe_run(Path(name)), read_variables(Path(name))
        else:
            weights = _read_weights(str(name))
            arrays = {path: _widen(array) for path, array in weights.arrays.items()}
            card = _make_card(str(weights.path), weights.meta, weights.sha256)
    except OSError as error:
        raise ConfigError(f"{name} can't be read: {error.strerror}") from None
    model = models.create_model(card.model, num_classes=card.num_classes, **dict(card.options))
    if card.members > 1:
        from mnistjax.zoo.ensemble import Ensemble

        model = Ensemble(model, card.members)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1), jnp.uint8))
    return model, jax.tree.map(jnp.asarray, checkpoints.unflatten(template, arrays)), card


def _is_folder(name: str | Path) -> bool:
    """Whether a run's folder is meant: a Path, or text that names no packaged model but looks like one."""
    if isinstance(name, Path):
        return True
    folder = Path(name)
    return name not in ("", *list_models(pretrained=True)) and (folder.is_dir() or len(folder.parts) > 1)


def read_card(name: str) -> Card:
    """The card of a packaged model; ConfigError for an unknown name, or a damaged file."""
    weights = _read_weights(name)
    return _make_card(str(weights.path), weights.meta, weights.sha256)


def describe_run(folder: Path, **more: Any) -> Card:
    """The card of the run in a folder, with `more` fields set; ConfigError unless it is done."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder")
    if (folder / "sweep.json").exists():
        raise ConfigError(
            f"{folder} holds a sweep, each of whose runs has a folder in it: {folder / '0'}, ..."
        )
    if records.read_status(folder) is None:
        raise ConfigError(f"{folder} holds no run")
    record = records.read_record(folder)
    if record.summary is None:
        raise ConfigError(f"the run in {folder} is not done ({record.status['status']})")
    fields = {"name": str(folder), **_describe(record.summary, record.rows), **more}
    return _make_card(str(folder), fields)


def _describe(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a card that a run's records tell."""
    spec, data, matrix = summary["spec"], summary["data"], summary["test/confusion_matrix"]
    return {
        "model": spec["model"],
        "options": spec["model_options"],
        "task": spec["task"],
        "num_classes": spec["num_classes"],
        "class_names": data.get("class_names") or [str(number) for number in range(len(matrix))],
        "data": data["name"],
        "data_sha256": data["sha256"],
        "seed": summary["seed"],
        "epochs": summary["kept_epoch"],
        "val_accuracy": float(rows[summary["kept_epoch"] - 1]["val/accuracy"]),
        "test_accuracy": float(summary["test/accuracy"]),
        "test_f1": float(summary["test/f1"]),
        "test_confusion_matrix": matrix,
        "parameters": summary["parameters"],
        "seconds": sum(row["seconds"] for row in rows),
        "device": list(summary["device"].items()),
        "identity": summary["identity"],
    }


def read_variables(folder: Path) -> dict[str, np.ndarray]:
    """The variables that a run kept, of its last epoch or its best one, by their path in `model.init`'s.

    ConfigError for a folder without a checkpoint, or with none that is whole, of this run and of its end.
    """
    checkpoint, record = checkpoints.load_checkpoint(folder), records.read_record(folder)
    if checkpoint is None or record.summary is None:
        raise ConfigError(f"{folder} holds no checkpoint of a run that is done")
    records.check_final(checkpoint.path, checkpoint.meta, record.summary, len(record.rows))
    best, state = {}, {}
    for path, array in checkpoint.arrays.items():
        if path.startswith("best/"):
            best[path.removeprefix("best/")] = array
        elif path.startswith(("state/params/", "state/collections/")):
            state[path.removeprefix("state/").removeprefix("collections/")] = array
    return best or state


def encode_weights(card: Card, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The file of a packaged model."""
    meta = to_plain(card)
    del meta["sha256"]
    return checkpoints.encode_checkpoint(arrays, meta)


def _read_weights(name: str) -> checkpoints.Checkpoint:
    names = list_models(pretrained=True)
    if name not in names:
        raise unknown("pretrained model", name, names)
    return checkpoints.read_checkpoint(WEIGHTS / f"{name}{SUFFIX}")


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _make_card(where: str, fields: Mapping[str, Any], sha256: str = "") -> Card:
    """The card of these fields; DamagedFile, which names where they are from, if one is missing or wrong."""
    known = {field.name for field in dataclasses.fields(Card)} - {"sha256"}
    plain = {key: to_plain(value) for key, value in fields.items() if key in known}
    records.check_fields(where, {"command": None, "tried": [], "members": 1, **plain}, CARD_FIELDS)
    classes = len(plain["test_confusion_matrix"])
    if len(plain["class_names"]) != classes:
        raise files.DamagedFile(f"{where} is damaged: class_names must be {classes} names")
    return Card(**{key: freeze(value) for key, value in plain.items()}, sha256=sha256)
