"""The 1,797 real handwritten digits embedded in scikit-learn, in MNIST's shape."""

import numpy as np

from mnistjax.data.arrays import SIDE, Arrays
from mnistjax.data.splits import choose_fifth

TEST_SEED = 20_1797  # of the choice of test images; independent of the run's seed
BOX = 20  # pixels a side of the box that MNIST's digits fill


def load_digits() -> Arrays:
    """The embedded digits as 28 x 28 images, with a fixed, stratified 20 % as their test part."""
    from sklearn.datasets import load_digits as load_embedded

    pixels, labels = load_embedded(return_X_y=True)  # (1797, 64) float64, whole numbers 0..16
    images, labels = enlarge(np.asarray(pixels, np.int64).reshape(-1, 8, 8)), np.asarray(labels, np.int32)
    test = choose_fifth(labels, TEST_SEED)
    names = tuple(map(str, range(10)))
    return Arrays(images[~test], labels[~test], images[test], labels[test], names)


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
