"""Small data, plans and run folders for tests: images made up on the spot, records as a run writes them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax import checkpoints, records
from mnistjax.config import Stopping
from mnistjax.data import Dataset, Split
from mnistjax.feed import Feed
from mnistjax.plan import make_plan
from mnistjax.report.runs import RunRecord
from mnistjax.report.sanitize import CURVES
from mnistjax.train import Batch, share_mesh


@functools.cache
def made_up_data(train: int = 230, val: int = 37, test: int = 53, classes: int = 10) -> Dataset:
    """Images with a bright bar whose place is the class, in noise: learnable, and of awkward sizes."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = rng.integers(0, classes, count).astype(np.int32)
        images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 3] += 150
        return Split(images, labels)

    return Dataset(
        "made_up", split(train), split(val), split(test), tuple(map(str, range(classes))), sha256="0" * 64
    )


def small_plan(*, epochs: int = 2, data: Dataset | None = None, model: str = "mlp", **options):
    """A Plan and its data: a small MLP on made-up images unless told otherwise."""
    data = made_up_data() if data is None else data
    if model == "mlp":
        options.setdefault("model_options", {"hidden": 8})
    options.setdefault("stopping", Stopping(epochs))
    options.setdefault("batch_size", 32)
    options.setdefault("schedule", "constant")
    return make_plan(data, model=model, **options), data


def make_batches(spec, data: Dataset, rows: np.ndarray, shares: int = 1, mesh=None) -> Batch:
    """The batches of a segment's rows, in one share and for one device unless told otherwise."""
    return Feed(data.train, shares, mesh or share_mesh(spec, spread=False)).take(rows)


ODD: dict[str, Any] = {
    "inf": float("inf"),
    "nan": float("nan"),
    "negative": -1,
    "a flag": True,
    "5,000 digits": 10**5000,
    "-5,000 digits": -(10**5000),
    "digits as text": "9" * 5000,
    "long text": "x" * 5000,
    "half a character": "\ud800",
    "a long list": [1] * 5000,
    "a mapping": {"a": 1},
}
"""Values that no option of a model or an optimizer takes."""

SUMMARY: dict[str, Any] = {
    **{f"test/{name}": 0.1 + 0.2 for name in ("loss", "accuracy", "f1", "precision", "recall")},
    "test/count": 10,
    "test/confusion_matrix": [[1, 2], [3, 4]],
    "kept_epoch": 2,
    "seconds_per_epoch": 0.5,
    "compile_seconds": 1.5,
    "parameters": 785,
    "data": {"name": "mnist", "sha256": "0" * 64, "class_names": ["other", "0"]},
    "spec": {
        "model": "neuron",
        "model_options": [],
        "task": "binary",
        "num_classes": 1,
        "train_count": 48000,
        "batch_size": 64,
    },
    "device": {"platform": "cpu", "processor": "a processor"},
    "seed": 0,
    "identity": "0",
}
"""`summary.json` of a run of two epochs."""


def write_run(
    folder: Path,
    status: records.Status = "done",
    *,
    seed: int = 0,
    reason: str | None = None,
    epochs: int = 2,
    identity: str | None = None,
    summary: dict[str, Any] | None = None,
    **config: Any,
) -> None:
    """Writes a run folder as a run does."""
    identity = str(seed) if identity is None else identity
    folder.mkdir(parents=True)
    records.write_config(folder, {"seed": seed, "train": {"monitor": "val/loss"}, **config})
    metrics = [f"{part}/{name}" for part in ("train", "val") for name in records.METRICS]
    for epoch in range(1, epochs + 1):
        own = {"epoch": epoch, "examples_seen": 48000 * epoch, "seconds": 0.5}
        records.append_row(folder, {**own, **dict.fromkeys(metrics, 1 / epoch)})
    meta = {"epoch": epochs, "step": 750 * epochs, "identity": identity}
    checkpoints.save_checkpoint(folder, {"state/params/w": np.zeros(3, np.float32)}, meta=meta)
    if status == "done":
        own = {"kept_epoch": epochs, "seed": seed, "identity": identity}
        records.write_summary(folder, {**SUMMARY, **own, **(summary or {})})
    records.write_status(folder, status, identity=identity, epoch=epochs, started="2026-01-01", reason=reason)


def made_run(number=0, status: Any = "done", epochs=3, accuracy=0.9, **config: Any):
    """A RunRecord, as read from a folder, with made-up rows and a summary if it is done."""
    own = {"examples_seen": 1, "seconds": 1.0}
    rows = [{"epoch": e + 1, **own, **dict.fromkeys(CURVES, 1 / (e + 1 + number))} for e in range(epochs)]
    data = {**SUMMARY["data"], "class_names": ["a", "b"]}
    summary = {**SUMMARY, "test/accuracy": accuracy, "data": data, "kept_epoch": max(epochs, 1)}
    config = {"seed": number, "train.monitor": "val/loss", **config}
    started = None if status == "waiting" else "2026"
    summary = summary if status == "done" else {}
    return RunRecord(Path(f"/runs/{number}"), status, None, config, rows, summary, started)
