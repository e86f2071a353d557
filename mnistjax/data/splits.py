"""Parts of a data set that has none of its own: always the same, with each class in its share."""

import numpy as np

from mnistjax.data.arrays import DataError

SPLIT_SEED = 48_12  # independent of the run's seed
FOLDS = 5  # one of them is held out: 20 %


def hold_out(labels: np.ndarray, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The sorted indices (rest, held out) of examples with labels (N,): about 80 % and 20 % of each class.

    Examples of one group (N,), of any values, stay together; classes keep their share as far as groups allow.
    DataError if there are too few groups.
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
    """A mask of whole groups with about a fifth of each class.

    In random order, the large ones first, each group is held out if the class counts are nearer to a fifth
    with it.
    """
    _, classes = np.unique(labels, return_inverse=True)
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise DataError(f"at least 2 groups expected, found {len(names)}: a part can't be held out")
    counts = np.zeros((len(names), classes.max() + 1), np.int64)
    np.add.at(counts, (members, classes), 1)
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    wanted, found = counts.sum(axis=0) / FOLDS, np.zeros(counts.shape[1])
    taken = np.zeros(len(names), bool)
    for group in shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]:
        with_it = found + counts[group]
        if taken.sum() < len(names) - 1 and np.sum((with_it - wanted) ** 2) < np.sum((found - wanted) ** 2):
            found, taken[group] = with_it, True
    if not taken.any():  # each group has more than twice a fifth; the smallest one is held out
        taken[shuffled[np.argmin(counts[shuffled].sum(axis=1))]] = True
    return taken[members]
