"""The benchmark: its counts, its tables, and real contenders."""

import numpy as np
import pytest

from benchmark import floors, measure, race, results
from mnistjax.data import load_data
from mnistjax.report.figures import render
from sections import replace_section

CNN = {**measure.DEFAULTS, **measure.CNN, "images": 48_000}


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
    assert results.duration(seconds) == text


def test_the_readmes_show_the_newest_record():
    record = measure.read_newest()
    assert record
    for path, content in (
        (results.README, results.to_markdown(record)),
        (results.PROJECT_README, results.summarize(record)),
    ):
        assert replace_section(path.read_text(), results.SECTION, content) == path.read_text()


def test_the_picture_has_times_at_its_ticks():
    record = measure.read_newest()
    assert record
    text = render(results.picture(record), "svg").decode()
    assert "100 ms" in text
    assert "mathdefault" not in text


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
    task = {**measure.DEFAULTS, **options, "images": len(data.train.images)}
    names = [race.OURS, "Flax example", "scikit-learn"]
    found = race.race(names, task, tmp_path, rounds=2)
    for name in names:
        assert len(found[name]["seconds"]) == 2, name
        assert min(found[name]["seconds"]) > 0, name
        assert found[name]["parameters"] == 784 * 16 + 16 + 16 * 10 + 10, name
    assert [look["settings"]["threads"] for look in found["Flax example"]["looks"]] == [2, 1]
