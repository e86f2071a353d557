"""Splits of a data set that has none of its own: always the same, with each class in its share."""

import numpy as np

from mnistjax.data.arrays import DataError

SPLIT_SEED = 48_12  # independent of the run's seed
FOLDS = 5  # one of them is held out: 20 %
WHOLE = 1 << 20  # the share of a whole class, as an integer
MOST_ROUNDS = 10  # changes of the choice of groups; few are needed


def hold_out(labels: np.ndarray, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The sorted indices (rest, held out) of examples with labels (N,): about 80 % and 20 % of each class.

    The choice depends on the arguments only. Examples of one group (N,), of any values, stay together, and
    classes keep their share as far as that allows. DataError if there are too few groups.
    """
    held = choose_fifth(labels, SPLIT_SEED) if groups is None else _choose_groups(labels, groups)
    return np.flatnonzero(~held), np.flatnonzero(held)


def choose_fifth(labels: np.ndarray, seed: int) -> np.ndarray:
    """A mask of the same fifth of each class for a seed, at least one example of a class that has two."""
    chosen = np.zeros(len(labels), bool)
    random = np.random.RandomState(seed)  # NumPy keeps its stream (NEP 19)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(round(len(members) / FOLDS), int(len(members) > 1))
        chosen[random.permutation(members)[:count]] = True
    return chosen


def _choose_groups(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A mask of whole groups with about a fifth of each class; the others keep an example of each class.

    In random order, the large ones first, each group is held out, or is no longer, if the shares of the
    classes are then nearer to a fifth, by their squared differences; and again, until no group changes.
    Integers make it the same on every machine.
    """
    _, classes = np.unique(labels, return_inverse=True)
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise DataError(f"at least 2 groups expected, found {len(names)}: a split can't be held out")
    counts = np.zeros((len(names), classes.max() + 1), np.int64)
    np.add.at(counts, (members, classes), 1)
    left = counts.sum(axis=0)
    shares = np.rint(counts * WHOLE / left).astype(np.int64)
    missing = np.full_like(left, WHOLE // FOLDS)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros(len(names), bool)
    for _ in range(MOST_ROUNDS):
        before = held.copy()
        for group in order:
            sign = -1 if held[group] else 1
            then = missing - sign * shares[group]
            if then @ then < missing @ missing and np.all(left > sign * counts[group]):
                missing, left, held[group] = then, left - sign * counts[group], not held[group]
        if np.array_equal(before, held):
            break
    if not held.any():  # each group is too large
        held[_choose_smallest(counts)] = True
    return held[members]


def _choose_smallest(counts: np.ndarray) -> int:
    """The smallest group, of counts (groups, classes), that leaves the others an example of each class."""
    spare = np.flatnonzero(np.all(counts < counts.sum(axis=0), axis=1))
    if not spare.size:
        raise DataError("each group has all examples of a class: a split can't be held out")
    return int(spare[np.argmin(counts[spare].sum(axis=1))])
