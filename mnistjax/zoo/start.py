"""Fine-tuning: a trained model as the start of a run."""

import functools
from pathlib import Path

import jax
import numpy as np

from mnistjax.checkpoints import digest, flatten
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.models import look_inside, model_options
from mnistjax.plan import Start
from mnistjax.words import make_text, shell_join
from mnistjax.zoo import load


def start_from(name: str | Path, data: Dataset, *, task: str = "multiclass") -> Start:
    """The variables of a trained model, for a run on another data set to start from.

    `name` is one that `load` takes. If the model's classes are not those of `data`, its last layer is left
    out, and the run initialises its own. For `task="binary"`, `data` is relabelled by `to_binary`. Raises
    ConfigError as `load`, for an ensemble, and if a last layer must be left out but the model has none.
    """
    path = Path(name)
    changed = path.stat().st_mtime_ns if path.exists() else None
    return _read_start(str(name), isinstance(name, Path), changed, data.class_names, task)


@functools.lru_cache(maxsize=8)  # the jobs of a sweep share a few
def _read_start(name: str, is_path: bool, changed: int | None, classes: tuple[str, ...], task: str) -> Start:
    """`start_from`, once for each state of a file or folder, which was last `changed` at this time."""
    model, variables, card = load(Path(name) if is_path else name)
    if card.members > 1:
        raise ConfigError(f"init_from={name} is an ensemble; a run can start from one network only")
    same = (card.class_names, card.task) == (classes, task)
    if not same:
        head = look_inside(model, card.image_shape).head
        if head is None:
            raise ConfigError(
                f"init_from={name} knows other classes than the data, and its last layer can't be replaced: "
                f"the logits of {card.model} are not the output of one"
            )
        variables = {
            kind: {layer: value for layer, value in layers.items() if layer != head}
            for kind, layers in variables.items()
        }
    variables = jax.tree.map(np.asarray, variables)
    words = [f"model={card.model}"]
    for option, value in card.options:
        if value != model_options(card.model).get(option):
            words.append(f"model.{option}={make_text(option, value)}")
    sha256 = digest(flatten(variables), {})
    return Start(variables, sha256, name, shell_join(words), not same, card.options)
