"""Parts that are held out: fixed, each class in its share, no group on both sides."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mnistjax.data.arrays import DataError
from mnistjax.data.splits import choose_fifth, hold_out

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(np.array)


def make_labels(count=500, classes=10, seed=0):
    return np.random.RandomState(seed).randint(0, classes, count)


def make_groups(count, groups, seed=1):
    return np.random.RandomState(seed).randint(0, groups, count)


def share(labels, held):
    """The held-out share of each class."""
    return np.bincount(labels[held], minlength=labels.max() + 1) / np.bincount(labels)


def sha256(*arrays):
    return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in arrays)).hexdigest()


def test_the_splits_never_change():
    """Other splits would turn training images of earlier runs into test images."""
    labels = make_labels()
    assert sha256(*hold_out(labels)).startswith("32fe8f24b98a2083")
    assert sha256(*hold_out(labels, make_groups(500, 60))).startswith("6e4df6310ea8a844")


@given(LABELS)
def test_every_example_is_on_one_side_and_each_class_in_its_share(labels):
    rest, held = hold_out(labels)
    assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))
    assert (np.diff(rest) > 0).all()
    assert (np.diff(held) > 0).all()
    for label in np.unique(labels):
        total, found = (labels == label).sum(), (labels[held] == label).sum()
        assert abs(found - total / 5) <= 1
        assert 0 < found < total or (total == 1 and not found)


@given(LABELS, st.integers(2, 12), st.integers(0, 9))
def test_no_group_is_on_both_sides_and_each_class_keeps_an_example(labels, count, seed):
    groups = make_groups(len(labels), count, seed)
    try:
        rest, held = hold_out(labels, groups)
    except DataError:  # no group can be spared
        spare = [set(labels[groups != group]) == set(labels) for group in set(groups)]
        assert len(spare) == 1 or not any(spare)
        return
    assert len(held)
    assert not {*groups[rest]} & {*groups[held]}
    assert {*labels[rest]} == {*labels}
    assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))


@pytest.mark.parametrize(("groups", "within"), [(200, 0.02), (50, 0.07), (20, 0.13)])
def test_classes_keep_their_share_as_far_as_groups_allow(groups, within):
    for seed in range(5):
        labels = make_labels(1000, 5, seed)
        _, held = hold_out(labels, make_groups(1000, groups, seed + 9))
        assert abs(share(labels, held) - 0.2).max() < within


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    random = np.random.RandomState(0)
    labels = (random.uniform(size=2000) < 0.02).astype(int)
    _, held = hold_out(labels, random.randint(0, 100, 2000))
    assert abs(share(labels, held) - 0.2).max() < 0.03


def test_the_names_of_groups_may_be_text_and_labels_any_integers():
    labels, groups = make_labels(), make_groups(500, 60)
    names = np.array([f"person {group:03}" for group in groups])
    for one, two in zip(hold_out(labels, groups), hold_out(7 * labels - 30, names), strict=True):
        assert_array_equal(one, two)


def test_a_group_that_has_all_of_a_class_is_not_held_out():
    labels = np.array([0] * 8 + [1] * 3 + [0] * 40)
    groups = np.array([0] * 11 + [*range(1, 41)])
    rest, _ = hold_out(labels, groups)
    assert {*labels[rest]} == {0, 1}


def test_the_smallest_of_two_large_groups_is_held_out():
    labels, groups = np.array([0, 1] * 10), np.array([7] * 12 + [3] * 8)
    assert_array_equal(hold_out(labels, groups)[1], np.arange(12, 20))


def test_too_few_groups_are_an_error():
    labels = np.array([0, 1] * 10)
    with pytest.raises(DataError, match="at least 2 groups expected, found 1: a split can't be held out"):
        hold_out(labels, np.zeros(20, int))
    with pytest.raises(DataError, match="each group has all examples of a class: a split can't be held out"):
        hold_out(labels, labels)


def test_a_seed_chooses_its_fifth():
    labels = make_labels()
    assert_array_equal(choose_fifth(labels, 1), choose_fifth(labels, 1))
    assert (choose_fifth(labels, 1) != choose_fifth(labels, 2)).any()
