"""Small data, plans and run folders for tests: images made up on the spot, records as a run writes them."""

import functools
import traceback
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn

from mnistjax import checkpoints, programs, records
from mnistjax.batches import HostBatches
from mnistjax.config import Stopping
from mnistjax.data import Dataset, Split
from mnistjax.devices import shard_mesh
from mnistjax.loop import fit
from mnistjax.plan import make_plan
from mnistjax.programs import segment_program
from mnistjax.records.fields import CURVES, METRICS
from mnistjax.report.runs import RunRecord
from mnistjax.run import Result
from mnistjax.step import Batch, State


@functools.cache
def made_up_data(
    train: int = 230, val: int = 37, test: int = 53, classes: int = 10, shape: tuple[int, ...] = (28, 28)
) -> Dataset:
    """Images with a bright bar whose place is the class, in noise: learnable, and of awkward sizes."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = rng.integers(0, classes, count).astype(np.int32)
        images = rng.integers(0, 60, (count, *shape), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[shape[0] * label // 14 :][:3] += 150
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


class Carrying(nn.Module):
    """A model with batch statistics and dropout."""

    num_classes: int = 10
    rate: float = 0.3

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1) / 255
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(12)(x))
        return nn.Dense(self.num_classes)(nn.Dropout(self.rate, deterministic=not train)(nn.relu(x)))


class Watched(nn.Module):
    """A model that notes the functions of ours that are running when training calls it."""

    num_classes: int = 10
    roads: ClassVar[list[list[str]]] = []

    @nn.compact
    def __call__(self, images, train=False):
        package = str(Path(programs.__file__).parent)
        own = [frame.name for frame in traceback.extract_stack() if frame.filename.startswith(package)]
        if train:
            self.roads.append(own)
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1) / 255)


def fit_plan(plan, data: Dataset, **more) -> Result:
    """The Result of a Plan."""
    return fit(plan.spec, plan.hyper, seed=plan.seed, data=data, stopping=plan.stopping, **more)


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(one, other):
    """Asserts that two trees, or two Results but for their times, have the same bits."""
    if isinstance(one, Result):
        assert_same((one.state, one.variables), (other.state, other.variables))
        assert without_seconds(one.rows) == without_seconds(other.rows)
        assert (one.status, one.test, one.kept_epoch) == (other.status, other.test, other.kept_epoch)
        return
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def count_traces(monkeypatch) -> list[str]:
    """The models of the training programs that are traced from now on, one for each trace.

    Programs of before are forgotten.
    """
    traced: list[str] = []
    programs.segment_program.cache_clear()
    programs.lanes_program.cache_clear()
    real = programs.start_segment

    def start_segment(spec, state):
        traced.append(spec.model)
        return real(spec, state)

    monkeypatch.setattr(programs, "start_segment", start_segment)
    return traced


def train_segment(spec, hyper, key, state, batches: Batch, mesh=None) -> State:
    """The State after these batches, by the compiled program of one device unless told otherwise."""
    return segment_program(spec, mesh or shard_mesh(spec, spread=False))(hyper, key, state, batches, None)


def make_batches(spec, data: Dataset, rows: np.ndarray, shards: int = 1, mesh=None) -> Batch:
    """The batches of a segment's rows, in one shard and for one device unless told otherwise."""
    return HostBatches(data.train, shards, mesh or shard_mesh(spec, spread=False)).prepare(rows)


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
    metrics = [f"{part}/{name}" for part in ("train", "val") for name in METRICS]
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
