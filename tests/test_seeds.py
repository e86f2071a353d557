"""Statistics over seeds, beside those of scipy."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnistjax.checks import LARGEST
from mnistjax.seeds import Spread, by_seed, group_seeds, seeds_table

VALUES = st.lists(st.integers(-1000, 1000).map(lambda x: x / 1000), min_size=2, max_size=8, unique=True)


def row(rate, accuracy, status="done"):
    return {"optimizer.learning_rate": rate, "status": status, "val/accuracy": accuracy, "epoch": 3}


ROWS = [
    row("0.1", "0.5"),
    row("0.2", "0.9"),
    row("0.2", "0.7"),
    row("0.2", "", "failed"),
    row("9", "", "failed"),
]


@given(VALUES)
def test_the_intervals_equal_scipys(values):
    spread = Spread(tuple(values))
    n, mean, std = len(values), float(sum(values) / len(values)), float(stats.tstd(values))
    assert (spread.n, spread.mean, spread.std) == (n, pytest.approx(mean), pytest.approx(std))
    test: Any = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(0.95)
    assert spread.mean_half_width == pytest.approx((high - low) / 2)
    assert spread.next_half_width == pytest.approx((high - low) / 2 * math.sqrt(n + 1))


def test_a_spread_of_few_values():
    none, one, two = Spread(()), Spread((0.5,)), Spread((0.9, 0.7))
    assert math.isnan(none.mean)
    assert all(math.isnan(x) for x in (one.std, one.mean_half_width, one.next_half_width))
    assert [f"{spread:.2%}" for spread in (none, one, two)] == ["-", "50.00%", "80.00% ± 14.14%"]
    assert two.mean_half_width == pytest.approx(12.7062 * 0.1, rel=1e-4)  # Student's t, one degree of freedom


def test_configurations_are_ordered_by_their_mean_and_count_their_failures():
    best, second, none = group_seeds(ROWS, "val/accuracy")
    spread = best.spreads["val/accuracy"]
    assert best.config == {"optimizer.learning_rate": "0.2"}
    assert (spread.n, best.not_done, spread.mean) == (2, 1, pytest.approx(0.8))
    assert spread.std == pytest.approx(0.2 / 2**0.5)
    assert (second.spreads["val/accuracy"].n, second.not_done) == (1, 0)
    assert (none.spreads["val/accuracy"].n, none.not_done) == (0, 1)
    lowest_first = group_seeds([{**run, "val/loss": run["val/accuracy"]} for run in ROWS], "val/loss")
    assert [seeds.config["optimizer.learning_rate"] for seeds in lowest_first] == ["0.1", "0.2", "9"]


def test_a_seed_counts_once():
    rows = [{**row("0.1", value), "seed": seed} for seed, value in ((0, "0.5"), (1, "0.7"), (0, "0.9"))]
    (seeds,) = group_seeds([*rows, {**row("0.1", "", "failed"), "seed": 2}], "val/accuracy")
    assert (seeds.spreads["val/accuracy"].values, seeds.not_done) == ((0.5, 0.7), 1)


def test_the_table_leaves_unknown_deviations_empty():
    best, second, none = seeds_table(ROWS, "val/accuracy")
    assert list(best) == [
        "optimizer.learning_rate",
        *(
            f"{name} {x}"
            for name in ("val/accuracy", "test/accuracy", "test/f1")
            for x in ("mean", "std", "95 % +-")
        ),
        "n",
        "not done",
    ]
    assert best["val/accuracy std"] == pytest.approx(0.2 / 2**0.5)
    assert (second["val/accuracy mean"], second["val/accuracy std"]) == (0.5, None)
    assert none["val/accuracy 95 % +-"] is None


def test_a_stopped_seed_does_not_count_beside_one_that_is_done():
    """The one was stopped at a rung, the other ended before by early stopping, or is of another sweep."""
    one, other = group_seeds(
        [row("0.1", "0.9"), row("0.1", "0.5", "stopped"), row("0.2", "0.7", "stopped")], "val/accuracy"
    )
    assert (one.spreads["val/accuracy"].values, one.stopped, one.not_done) == ((0.9,), None, 1)
    assert (other.spreads["val/accuracy"].values, other.stopped, other.not_done) == ((0.7,), 3, 1)
    rows = [
        {**row("0.1", value, status), "seed": seed}
        for seed, (value, status) in enumerate(
            [("0.9", "done"), ("0.5", "stopped"), ("0.4", "failed"), ("", "done")]
        )
    ]
    assert by_seed(rows, "val/accuracy") == {"learning_rate=0.1": {0: 0.9}}


def test_stopped_configurations_follow_those_that_are_done_by_how_far_they_came():
    stopped = [row("0.1", "0.9", "stopped"), row("0.2", "0.8", "stopped"), row("0.3", "0.7", "stopped")]
    ranked = group_seeds([*stopped[:2], {**stopped[2], "epoch": 9}, row("0.4", "0.6")], "val/accuracy")
    assert [seeds.config["optimizer.learning_rate"] for seeds in ranked] == ["0.4", "0.3", "0.1", "0.2"]


def test_the_largest_numbers_of_a_record_have_a_spread():
    spread = Spread((LARGEST,) * 1000 + (-LARGEST,))
    assert spread.mean == pytest.approx(LARGEST * 999 / 1001)
    assert spread.std > 0


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite_have_no_mean_and_come_last(word):
    rows = [
        row("0.1", word),
        row("0.1", "inf"),
        row("0.2", "0.5"),
        row("0.2", "0.7"),
        row("0.3", "", "failed"),
    ]
    first, second, third = group_seeds(rows, "val/accuracy")
    assert first.config == {"optimizer.learning_rate": "0.2"}
    assert {second.config["optimizer.learning_rate"], third.config["optimizer.learning_rate"]} == {
        "0.1",
        "0.3",
    }
    spread = Spread((float(word), 1.0))
    assert math.isnan(spread.mean)
    assert math.isnan(spread.std)
    assert math.isnan(spread.mean_half_width)
    assert f"{spread:.2%}" == "nan% ± nan%"
    assert len(seeds_table(rows, "val/accuracy")) == 3
