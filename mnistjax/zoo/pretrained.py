"""A trained model as a folder, in the layout of the Hugging Face hub."""

import contextlib
import dataclasses
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from flax import linen as nn

from mnistjax import files
from mnistjax.backend import isolated
from mnistjax.config import ConfigError, to_plain
from mnistjax.markdown import escape_markdown
from mnistjax.zoo import MODEL, check_replaceable, encode_model
from mnistjax.zoo.card import Card

CONFIG, README, LIBRARY = "config.json", "README.md", "mnistjax"
MARK = "<!-- written by mnistjax: without this line it is not replaced -->"
LARGEST = files.MIB  # of a README or a config that is looked at
TEXT = """# {name}

{model} with {parameters:,} parameters, trained on {data}: {accuracy:.2%} of the test images right.

```python
import mnistjax

model, variables, card = mnistjax.load("FOLDER")  # this folder
mnistjax.classify(model, variables, card, images)  # probabilities of images {shape}
```

{card}
"""


@isolated()
def save_pretrained(
    folder: str | Path,
    model: nn.Module,
    variables: Mapping[str, Any],
    card: Card,
    *,
    license: str | None = None,
) -> Path:
    """Writes a trained model as a folder that `load` and the Hugging Face hub read; returns its path.

    `model.safetensors` is a file as `save` writes it, `config.json` has the architecture and the class names,
    `README.md` a model card with the hub's metadata, among it the `license` ("apache-2.0") if given. Existing
    files are replaced only if `save_pretrained` wrote them; a README of your own stays. ConfigError, and
    nothing is written, unless the card and the variables are those of the model.
    """
    folder = Path(folder)
    name = folder.resolve().name
    content = encode_model(model, variables, card, name)
    card = dataclasses.replace(card, name=name, sha256="")
    if os.path.lexists(folder / MODEL):
        check_replaceable(folder / MODEL)
    if os.path.lexists(folder / CONFIG) and not is_own_config(folder / CONFIG):
        raise ConfigError(f"{folder / CONFIG} is of another model, so it is not replaced")
    kept = os.path.lexists(folder / README) and not is_own_readme(folder / README)
    files.make_folder(folder)
    files.replace(folder / MODEL, content)
    files.replace(folder / CONFIG, (json.dumps(make_config(card), indent=2) + "\n").encode())
    if not kept:
        files.replace(folder / README, make_readme(card, name, license).encode())
    return folder


def is_own_config(path: Path) -> bool:
    """Whether `save_pretrained` wrote a config."""
    with contextlib.suppress(OSError, files.DamagedFile):
        found = files.read_json(path, limit=LARGEST)
        return isinstance(found, dict) and found.get("library_name") == LIBRARY
    return False


def is_own_readme(path: Path) -> bool:
    """Whether a README was written by `save_pretrained`, and nobody claimed it since."""
    try:
        return MARK.encode() in files.read_bytes(path, limit=LARGEST)
    except (OSError, files.DamagedFile):
        return False


def make_config(card: Card) -> dict[str, Any]:
    """The content of `config.json`: the architecture, and the class names in the hub's form."""
    return {
        "library_name": LIBRARY,
        "architectures": [card.model],
        "model_type": card.model,
        "options": to_plain(dict(card.options)),
        "members": card.members,
        "task": card.task,
        "num_classes": card.num_classes,
        "image_shape": [*card.image_shape],
        "id2label": {str(number): name for number, name in enumerate(card.class_names)},
        "label2id": {name: number for number, name in enumerate(card.class_names)},
    }


def make_readme(card: Card, name: str, license: str | None) -> str:
    """The model card: metadata in YAML, then what the model is, and how it is used."""
    average = {"args": {"average": "macro"}} if card.task == "multiclass" else {}
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": card.data, "type": card.data, "split": "test"},
        "metrics": [
            {"type": "accuracy", "value": card.test_accuracy},
            {"type": "f1", "value": card.test_f1, **average},
        ],
    }
    meta = {
        **({"license": license} if license else {}),
        "library_name": LIBRARY,
        "pipeline_tag": "image-classification",
        "tags": ["jax", "flax"],
        "datasets": [card.data],
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": name, "results": [result]}],
    }
    shape = ", ".join(map(str, card.image_shape))
    facts = {"parameters": card.parameters, "accuracy": card.test_accuracy, "shape": f"(N, {shape})"}
    shown = {"name": escape_markdown(name), "data": escape_markdown(card.data)}
    text = TEXT.format(**shown, model=card.model, card=textwrap.indent(str(card), "    "), **facts)
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---\n\n{MARK}\n\n{text}"
