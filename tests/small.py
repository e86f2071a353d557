"""Small data and plans for tests: the embedded digits, or images made up on the spot."""

import functools

import numpy as np

from mnistjax.config import Stopping
from mnistjax.data import Dataset, Split
from mnistjax.feed import Feed
from mnistjax.plan import make_plan
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
