"""A finished run, opened again: its Plan, its data set, and its predictions for the test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnistjax import records
from mnistjax.compose import label, plan_run, read_settings
from mnistjax.config import ConfigError, Plan
from mnistjax.data import Dataset, find_data
from mnistjax.tracking import Examples


def reopen(folder: Path) -> tuple[Plan, Dataset]:
    """The Plan and the data set of the finished run in a folder.

    The data is the user's own copy, wherever it is now. ConfigError if the run is not done, or if its records
    do not belong together.
    """
    status, summary = records.read_status(folder), records.read_summary(folder)
    settings = read_settings(records.read_config(folder))
    data = summary.get("data") if summary else None
    if status is None or not isinstance(data, dict):
        raise ConfigError(f"{folder} holds no run that is done")
    dataset = label(find_data(str(data.get("name")), str(data.get("sha256"))), settings)
    plan = plan_run(settings, dataset)
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
    return Examples(test.images, test.labels, predict(plan.spec, variables, test.images), dataset.class_names)
