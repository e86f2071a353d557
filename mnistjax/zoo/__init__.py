"""Trained models, by name from the package, from the folder of a run, or from a file that `save` wrote.

A packaged model is such a file in `weights/`: a safetensors file with the variables, their card, and the
SHA-256 of both, as `encode_weights` makes it. Most arrays of packaged models are stored as float16.
"""

import dataclasses
import fnmatch
import functools
import importlib.metadata
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mnistjax import checkpoints, files, models, records
from mnistjax.backend import isolated
from mnistjax.config import ConfigError, freeze, one_line, to_plain, unknown
from mnistjax.words import HUB
from mnistjax.zoo.card import CARD_FIELDS
from mnistjax.zoo.card import Card as Card

WEIGHTS = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
MODEL = f"model{SUFFIX}"  # in a folder that `save_pretrained` wrote
DEFAULTS = {"command": None, "tried": [], "members": 1, "image_shape": [28, 28, 1]}  # of the fields of a card


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """The sorted names of architectures, or of packaged models, that match a wildcard pattern.

    >>> list_models("mlp*")
    ['mlp', 'mlp_mixer']
    """
    if not pretrained:
        return models.list_models(pattern)
    return sorted(fnmatch.filter(find_packaged(), pattern))


def find_packaged() -> dict[str, Path]:
    """The files of the packaged models by name: ours, and those of other installed packages."""
    own = {path.stem: path for path in WEIGHTS.glob(f"*{SUFFIX}")}
    return {**{path.stem: path for path in find_others()}, **own}


@functools.cache
def find_others() -> list[Path]:
    """The files of the trained models in other installed packages.

    Such a package declares the module in whose folder they are, in the group `mnistjax.pretrained`. One that
    can't be imported costs a warning. Of two models with one name, ours is used, or the later one.
    """
    found = []
    for entry in importlib.metadata.entry_points(group="mnistjax.pretrained"):
        try:
            folders = [Path(folder) for folder in entry.load().__path__]
        except Exception as error:  # the code of others
            warnings.warn(
                f"the trained models of {entry.value} are left out: {one_line(error)}", stacklevel=2
            )
            continue
        found += sorted(path for folder in folders for path in folder.glob(f"*{SUFFIX}"))
    return found


@isolated()
def load(name: str | Path) -> tuple[nn.Module, dict[str, Any], Card]:
    """A trained model, its variables and card: from the package, a run, a saved file or folder, or the hub.

    `name` is that of a packaged model; the folder of a run; a file that `save`, or a folder that
    `save_pretrained` wrote; or "hf-hub:USER/NAME@REVISION", a model at the hub (install mnistjax[hub]).

    `model.apply(variables, images)` are the logits of images (B, H, W, C), uint8 or float in [0, 1], with
    H, W, C in `card.image_shape`.
    ConfigError for an unknown name, a folder without a finished run, and damaged or unreadable files.
    """
    try:
        if path := _find_file(name):
            card, arrays = _read_weights(path)
        else:
            card, arrays = describe_run(Path(name)), read_variables(Path(name))
    except OSError as error:
        raise ConfigError(f"{name} can't be read: {error.strerror}") from None
    model = _create(card)
    variables = checkpoints.unflatten(_find_shapes(model, card), arrays)
    return model, jax.tree.map(jnp.asarray, variables), card


@isolated()
def save(path: str | Path, model: nn.Module, variables: Mapping[str, Any], card: Card) -> Path:
    """Writes a trained model into one file that `load` and the tools of safetensors read; returns its path.

    The file has the variables, the card, named after the file, and the SHA-256 of both. It ends in
    `.safetensors`; an existing file is replaced only if it is one of these. ConfigError, and nothing is
    written, unless the card and the variables are those of the model.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path} must end in {SUFFIX}")
    content = encode_model(model, variables, card, path.stem)
    if os.path.lexists(path):
        check_replaceable(path)
    files.make_folder(path.parent)
    files.replace(path, content)
    return path


def encode_model(model: nn.Module, variables: Mapping[str, Any], card: Card, name: str) -> bytes:
    """The content of a model's file, with a card of this name.

    ConfigError unless the card and the variables are those of the model.
    """
    if model != _create(card):
        other = f"{card.model} {dict(card.options)}"
        raise ConfigError(f"the card of {card.name} is that of another model: {other}")
    arrays = checkpoints.flatten(variables)
    checkpoints.unflatten(_find_shapes(model, card), arrays)
    return encode_weights(dataclasses.replace(card, name=name), arrays)


def _create(card: Card) -> nn.Module:
    """The model that a card describes."""
    options = dict(card.options)
    if wrong := options.keys() - models.model_options(card.model).keys():
        raise unknown(f"option of model {card.model}", min(wrong), models.model_options(card.model))
    model = models.create_model(card.model, num_classes=card.num_classes, **options)
    if card.members > 1:
        from mnistjax.zoo.ensemble import Ensemble

        return Ensemble(model, card.members)
    return model


def _find_shapes(model: nn.Module, card: Card) -> Any:
    """The shapes of the variables of a card's model."""
    images = jax.ShapeDtypeStruct((1, *card.image_shape), jnp.uint8)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def is_own_model(path: Path) -> bool:
    """Whether `save` wrote a file."""
    try:
        _make_card(str(path), checkpoints.read_meta(path))
    except (ConfigError, OSError):
        return False
    return True


def check_replaceable(path: Path) -> None:
    """Raises ConfigError unless `save` wrote the file."""
    if not is_own_model(path):
        raise ConfigError(f"{path} is no model that was saved here, so it is not replaced")


def _find_file(name: str | Path) -> Path | None:
    """The file of a trained model, by any name that `load` takes; None if that is the folder of a run.

    A Path means a file or folder; so does a path as text, unless a packaged model has this name.
    """
    if str(name).startswith(HUB):
        from mnistjax.zoo.hub import download

        return download(str(name))
    path = Path(name)
    if path.suffix == SUFFIX and not path.is_dir():
        return path
    is_path = path.is_dir() or len(path.parts) > 1
    if isinstance(name, Path) or (is_path and name not in ("", *find_packaged())):
        return path / MODEL if os.path.lexists(path / MODEL) else None
    return _find_weights(str(name))


def read_card(name: str) -> Card:
    """The card of a packaged model; ConfigError for an unknown name or a damaged file."""
    return _read_weights(_find_weights(name))[0]


def describe_run(folder: Path, **more: Any) -> Card:
    """The card of the run in a folder, with the fields `more` replaced; ConfigError unless it is done."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    if (folder / "sweep.json").exists():
        raise ConfigError(f"{folder} is a sweep; give the folder of one of its runs, {folder / '0'}, ...")
    if records.read_status(folder) is None:
        raise ConfigError(f"{folder} has no run")
    record = records.read_record(folder)
    if record.summary is None:
        raise ConfigError(f"the run in {folder} is not done ({record.status['status']})")
    return _make_card(str(folder), {"name": str(folder), **_describe(record.summary, record.rows), **more})


def _describe(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a card from a run's records."""
    spec, data, matrix = summary["spec"], summary["data"], summary["test/confusion_matrix"]
    return {
        **{name: spec[name] for name in ("model", "task", "num_classes")},
        **{name: summary[name] for name in ("seed", "parameters", "identity")},
        "options": spec["model_options"],
        "image_shape": spec.get("image_shape", DEFAULTS["image_shape"]),
        "class_names": data.get("class_names") or [str(number) for number in range(len(matrix))],
        "data": data["name"],
        "data_sha256": data["sha256"],
        "epochs": summary["kept_epoch"],
        "val_accuracy": float(rows[summary["kept_epoch"] - 1]["val/accuracy"]),
        "test_accuracy": float(summary["test/accuracy"]),
        "test_f1": float(summary["test/f1"]),
        "test_confusion_matrix": matrix,
        "seconds": sum(row["seconds"] for row in rows),
        "device": list(summary["device"].items()),
    }


def read_variables(folder: Path) -> dict[str, np.ndarray]:
    """The variables of a finished run's last or best epoch, by their path in the variables of `model.init`.

    ConfigError unless the folder has an undamaged checkpoint from the end of this run.
    """
    checkpoint, record = checkpoints.load_checkpoint(folder), records.read_record(folder)
    if checkpoint is None or record.summary is None:
        raise ConfigError(f"{folder} has no checkpoint of a finished run")
    records.check_final(checkpoint.path, checkpoint.meta, record.summary, len(record.rows))
    best, state = {}, {}
    for path, array in checkpoint.arrays.items():
        if path.startswith("best/"):
            best[path.removeprefix("best/")] = array
        elif path.startswith(("state/params/", "state/collections/")):
            state[path.removeprefix("state/").removeprefix("collections/")] = array
    return best or state


def encode_weights(card: Card, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a packaged model's file."""
    meta = to_plain(card)
    del meta["sha256"]
    return checkpoints.encode_checkpoint(arrays, meta)


def _find_weights(name: str) -> Path:
    """The file of a packaged model."""
    files = find_packaged()
    if name not in files:
        raise unknown("pretrained model, saved file or folder of a run", name, files)
    return files[name]


def _read_weights(path: Path) -> tuple[Card, dict[str, np.ndarray]]:
    """The card and the float32 arrays in a file that `save` wrote, or of a packaged model."""
    if path.name in (checkpoints.CHECKPOINT, checkpoints.PREVIOUS):
        raise ConfigError(f"{path} is the checkpoint of a run; give the folder of the run, {path.parent}")
    weights = checkpoints.read_checkpoint(path)
    arrays = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in weights.arrays.items()
    }
    return _make_card(str(path), weights.meta, weights.sha256), arrays


def _make_card(where: str, fields: Mapping[str, Any], sha256: str = "") -> Card:
    """The card with these fields; DamagedFile, which names the source `where`, if one is missing or wrong."""
    known = {field.name for field in dataclasses.fields(Card)} - {"sha256"}
    plain = {key: to_plain(value) for key, value in fields.items() if key in known}
    records.check_fields(where, {**DEFAULTS, **plain}, CARD_FIELDS)
    binary, logits = plain["task"] == "binary", plain["num_classes"]
    if binary and logits != 1:
        allowed = "num_classes must be 1 for a binary task"
        raise files.DamagedFile(f"{where} is damaged: {allowed}; found {logits}")
    classes = 2 if binary else logits
    for field in ("class_names", "test_confusion_matrix"):
        if (found := len(plain[field])) != classes:
            allowed = f"{field} must be of {classes} classes"
            raise files.DamagedFile(f"{where} is damaged: {allowed}; found {found}")
    return Card(**{key: freeze(value) for key, value in plain.items()}, sha256=sha256)
