"""The 1,797 real handwritten digits embedded in scikit-learn, in MNIST's shape."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mnistjax.data.arrays import SIDE, Arrays
from mnistjax.data.splits import choose_fifth

TEST_SEED = 20_1797  # of the choice of test images; independent of the run's seed
BOX = 20  # pixels a side of the box that MNIST's digits fill


def load_digits() -> Arrays:
    """The embedded digits as 28 x 28 images, with a fixed, stratified 20 % as their test split."""
    rows = read_embedded()
    images, labels = enlarge(rows[:, :-1].reshape(-1, 8, 8)), rows[:, -1].astype(np.int32)
    test = choose_fifth(labels, TEST_SEED)
    names = tuple(map(str, range(10)))
    return Arrays(images[~test], labels[~test], images[test], labels[test], names)


def read_embedded() -> np.ndarray:
    """The rows (1797, 65) int64: 64 pixels from 0 to 16, and the digit.

    They are read from the file of `sklearn.datasets.load_digits`, because importing scikit-learn would take
    more than a third of the time of a short run.
    """
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, np.int64, delimiter=",")
    from sklearn.datasets import load_digits as load_embedded

    pixels, labels = load_embedded(return_X_y=True)
    return np.column_stack([pixels, labels]).astype(np.int64)


def enlarge(images: np.ndarray) -> np.ndarray:
    """Images (N, 28, 28) uint8 from (N, 8, 8) integers 0..16: scaled to 20 x 20 bilinearly, then padded.

    Integer arithmetic gives the same bytes on every machine: output pixel i is at (4 i - 3) / 10 input
    pixels, so the weights are tenths.
    """
    tenths = np.clip(4 * np.arange(BOX) - 3, 0, 70)  # clipped to the outermost pixels
    weights = np.maximum(0, 10 - abs(tenths[:, None] - 10 * np.arange(8)))  # (20, 8), rows sum to 10
    boxes = weights @ images @ weights.T  # (N, 20, 20), values 0..1600
    margin = (SIDE - BOX) // 2
    return np.pad((boxes * 255 + 800) // 1600, [(0, 0), (margin, margin), (margin, margin)]).astype(np.uint8)
