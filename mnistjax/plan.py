"""Named choices and numbers, with a data set -> the Plan of one run: Spec, Hyper and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax

from mnistjax.augment import check_augmentation
from mnistjax.config import DEFAULT_STOPPING, ConfigError, Plan, Spec, Stopping, freeze, shorten
from mnistjax.data import Dataset
from mnistjax.models import create_model, list_collections
from mnistjax.models import model_options as list_options
from mnistjax.optim import hyper_names, make_hyper

NOTHING: Mapping[str, Any] = {}


def make_plan(
    data: Dataset,
    *,
    model: str = "cnn",
    model_options: Mapping[str, Any] = NOTHING,
    optimizer: str = "adam",
    optimizer_options: Mapping[str, Any] = NOTHING,
    schedule: str = "one_cycle",
    schedule_options: Mapping[str, Any] = NOTHING,
    augment_options: Mapping[str, Any] = NOTHING,
    batch_size: int | Literal["all"] = 64,
    micro_batch: int | Literal["auto"] = "auto",
    shuffle: Literal["own", "shared"] = "own",
    stopping: Stopping = DEFAULT_STOPPING,
    positive: int | None = None,
    seed: int = 0,
) -> Plan:
    """The Plan of a run on a data set; options left out take their defaults.

    `positive` is None for a multiclass task; a binary one takes data that `to_binary` has relabelled
    and the class that is positive there. ConfigError names what does not fit, a batch larger than
    the training set for one.
    """
    count = len(data.train.images)
    batch = count if batch_size == "all" else batch_size
    if not 1 <= batch <= count:
        raise ConfigError(
            f"train.batch_size must be 'all' or a whole number from 1 to {count}, the training images of "
            f"{data.name}; got {shorten(batch)}"
        )
    outputs = data.num_classes if positive is None else 1
    module = create_model(model, num_classes=outputs, **model_options)
    largest = _largest_piece(module)  # refuses a model that images don't fit, whatever micro_batch is
    if micro_batch == "auto":
        micro_batch = min(batch, largest)
    if not 1 <= micro_batch <= batch:
        raise ConfigError(
            f"train.micro_batch must be 'auto' or from 1 to train.batch_size, {batch}; "
            f"got {shorten(micro_batch)}"
        )
    hyper = make_hyper(
        optimizer,
        optimizer_options,
        schedule,
        schedule_options,
        steps_per_epoch=-(-count // batch),
        epochs=stopping.epochs,
    )
    if augmentation := check_augmentation(augment_options):
        hyper = {**hyper, "augment": augmentation}
    spec = Spec(
        model=model,
        model_options=freeze({option: getattr(module, option) for option in list_options(model)}),
        optimizer=optimizer,
        schedule=schedule,
        hyper_names=hyper_names(hyper),
        task="multiclass" if positive is None else "binary",
        num_classes=outputs,
        train_count=count,
        batch_size=batch,
        micro_batch=micro_batch,
        shuffle=shuffle,
    )
    return Plan(spec, hyper, seed, stopping, positive, data.name, data.sha256)


def _largest_piece(module: Any) -> int:
    """Images that a step takes at once: a model's `cpu_micro_batch` on CPU, where its intermediates then
    stay in the cache; thousands elsewhere. All of the batch where a model carries batch statistics."""
    if list_collections(module) != {"params"}:
        return 2**31
    return getattr(module, "cpu_micro_batch", 1024) if jax.default_backend() == "cpu" else 8192
