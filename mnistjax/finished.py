"""A finished run, opened again: its Plan, its data set, and its predictions for the test images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mnistjax import records
from mnistjax.checkpoints import CHECKPOINT
from mnistjax.compose import as_begun, label, plan_run, read_settings
from mnistjax.config import ConfigError, Plan, to_plain
from mnistjax.data import Dataset, find_data
from mnistjax.tracking import Examples, Model


def reopen(folder: Path) -> tuple[Plan, Dataset]:
    """The Plan and the data set of the finished run in a folder.

    The data is the user's own copy, wherever it is now. ConfigError if the run is not done, or if its records
    do not belong together.
    """
    status, summary = records.read_status(folder), records.read_summary(folder)
    settings = read_settings(records.read_config(folder))
    if status is None or summary is None:
        raise ConfigError(f"{folder} holds no run that is done")
    data, fraction = summary["data"], settings["data.validation_fraction"]
    dataset = label(find_data(data["name"], data["sha256"], fraction), settings)
    plan = as_begun(plan_run(settings, dataset), settings, [status["identity"]])
    if status["identity"] != plan.identity:
        raise ConfigError(f"the records in {folder} belong to different runs: their identities differ")
    return plan, dataset


def load_examples(plan: Plan, dataset: Dataset, folder: Path) -> Examples:
    """The test images with the probabilities predicted by the finished run in a folder."""
    from mnistjax import zoo

    _, variables, _ = zoo.load(folder)
    return find_examples(plan, dataset, variables)


def find_examples(plan: Plan, dataset: Dataset, variables: Any) -> Examples:
    """The test images with the probabilities predicted with these variables."""
    from mnistjax.evaluation import predict

    test = dataset.test
    probabilities = predict(plan.spec, variables, test.images)
    return Examples(
        test.images, test.labels, probabilities, dataset.class_names, light_on_dark=dataset.light_on_dark
    )


def find_collection(overrides: Iterable[str], model: str, data: str) -> str:
    """The name of the collection of a single run's model: its experiment, else its model and data set."""
    names = [word.removeprefix("experiment=") for word in overrides if word.startswith("experiment=")]
    return names[-1] if names else f"{model}-{data}"


def describe_model(folder: Path, collection: str, registry: str | None, *aliases: str) -> Model:
    """The model of the finished run in a folder, as W&B gets it."""
    from mnistjax import zoo

    card = {key: value for key, value in to_plain(zoo.describe_run(folder)).items() if key != "name"}
    return Model(collection, folder / CHECKPOINT, card, aliases, registry)
