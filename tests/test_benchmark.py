"""The benchmark: what it counts, what it shows, and that real contenders answer it."""

import json

import numpy as np
import pytest

import benchmark
from mnistjax.data import load_data
from peers import floors, race, show

CNN = {**benchmark.DEFAULTS, **benchmark.CNN, "images": 48_000}


def test_products_are_those_of_the_network():
    found = floors.products(CNN, rows=1)
    weights = sum(k * n for _, k, n, _ in found)
    assert weights + 32 + 64 + 10 == 34_826  # with the biases
    assert [m for m, *_ in found] == [26 * 26, 11 * 11, 1]
    assert [inner for *_, inner in found] == [False, True, True]  # the images need no gradient


def test_a_full_batch_has_no_many_steps():
    assert race.takes_part("Keras, JAX", {**CNN, "batch_size": 48_000})
    assert not race.takes_part("Keras, JAX, many steps", {**CNN, "batch_size": 48_000})
    assert not race.takes_part("scikit-learn", CNN)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0084, "8.40 ms"), (0.1625, "162 ms"), (5.0321, "5.03 s"), (349.7, "350 s")]
)
def test_durations_have_three_digits(seconds, text):
    assert show.duration(seconds) == text


def test_the_readme_shows_the_newest_record():
    record = json.loads(benchmark.newest().read_text())
    text = (benchmark.ROOT / "README.md").read_text()
    assert show.BEGIN + "\n" + show.markdown(record) + "\n" + show.END in text


@pytest.mark.slow
def test_contenders_train_the_same_network(tmp_path):
    data = load_data("digits")
    arrays = {
        f"{part}_{name}": getattr(getattr(data, part), name)
        for part in ("train", "test")
        for name in ("images", "labels")
    }
    np.savez(tmp_path / "digits.npz", **arrays)
    options = {"dataset": "digits", "hidden": [16], "data": str(tmp_path / "digits.npz")}
    task = {**benchmark.DEFAULTS, **options, "images": len(data.train.images)}
    names = [race.OURS, "Flax example", "scikit-learn"]
    results = race.race(names, task, tmp_path, rounds=2)
    for name in names:
        assert len(results[name]["seconds"]) == 2, name
        assert min(results[name]["seconds"]) > 0, name
        assert results[name]["parameters"] == 784 * 16 + 16 + 16 * 10 + 10, name
    assert [look["settings"]["threads"] for look in results["Flax example"]["looks"]] == [2, 1]
