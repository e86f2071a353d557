"""Finds the lines of ruled and squared paper and of tables, which cross a picture from edge to edge.

As in the recognition of printed music, what is erased of a line are its thin places: where a digit's stroke
crosses it, the picture is thicker than the line.

H, W are the sides of the picture in pixels.
"""

import numpy as np
from scipy import ndimage

from mnistjax.pictures.ink import NEAR_INK, edge_of, label_marks
from mnistjax.pictures.marks import find_marks

LINE_INK = 0.2  # the least ink of a line's pixel
LONG = 1.5  # a line is longer than this multiple of the tallest digit's height
STEEPEST = 0.12  # the largest slope of a line, pixels per pixel
SLOPES = 49  # that are tried
COARSE = 240  # pixels, the longer side of the picture in which lines are looked for
COVERED = 0.85  # the least share of a line from edge to edge that is inked
WHOLE = 0.95  # the length of a line that crosses the picture, as a share of the picture's width
SHORTEST = 0.15  # the length of a line that cuts off a corner, as a share of the picture's width
PARALLEL = 0.02  # the largest difference of slopes
THIN = 0.5  # the least share of it that is thin
THICKEST = 0.02  # of a line, as a share of the picture's longer side
MOST_LINES = 60  # in each direction


def remove_lines(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) without lines, unless these can be parts of digits; the same array if there are none."""
    lines = find_lines(ink >= LINE_INK)
    if not lines.any():
        return ink
    rest = np.where(lines, 0, ink)
    labels, _ = label_marks(rest >= NEAR_INK)
    rest[np.isin(labels, edge_of(labels)) & (labels > 0)] = 0  # pieces of lines
    tallest = max((box.height for _, box in find_marks(rest)[1]), default=0)
    return rest if 0 < LONG * tallest < min(ink.shape) else ink


def find_lines(inked: np.ndarray) -> np.ndarray:
    """The inked pixels (H, W) that belong to lines only."""
    return _find_level_lines(inked) | _find_level_lines(inked.T).T


def _find_level_lines(inked: np.ndarray) -> np.ndarray:
    """The inked pixels (H, W) of the lines from the left edge to the right edge."""
    found = np.zeros(inked.shape, bool)
    most = THICKEST * max(inked.shape)
    thickness = _measure_runs(inked)
    thin = inked & (thickness <= 2 * most)
    y, x = np.mgrid[: inked.shape[0], : inked.shape[1]]
    scale = max(1, -(-max(inked.shape) // COARSE))
    for slope, start in _find_straight(thin, inked & ~thin, scale):
        near = thin & (np.abs(y - slope * x - start) <= scale + 1)
        # A quarter, because much of a line can lie along the strokes of digits in a column.
        usual = float(np.quantile(thickness[near], 0.25)) if near.any() else most + 1
        if usual <= most:
            found |= near & (thickness <= 1.5 * usual + 1)
    return found


def _find_straight(thin: np.ndarray, thick: np.ndarray, scale: int) -> list[tuple[float, float]]:
    """The slopes and starts, in pixels, of the straight lines that are inked nearly from edge to edge.

    At least half of a line is thin; the rest can be covered by thicker ink. Lines that cut off a corner of
    the picture count if they are parallel to a longer one.
    """
    height, width = (-(-side // scale) for side in thin.shape)
    slopes = np.linspace(-STEEPEST, STEEPEST, SLOPES)
    margin = int(STEEPEST * width) + 2
    thin_counts, thick_counts = (
        _count_by_line(_coarsen(part, scale), slopes, margin) for part in (thin, thick)
    )
    steep, starts = slopes[:, None] + 1e-6, np.arange(thin_counts.shape[1]) - margin
    ends = [np.clip((row - starts) / steep, 0, width) for row in (0, height)]
    length = np.abs(ends[1] - ends[0])
    counts = np.where((thin_counts + thick_counts >= COVERED * length), thin_counts, 0)
    counts[(thin_counts < THIN * length) | (length < SHORTEST * width)] = 0
    lines = []
    longest = np.where(length >= WHOLE * width, counts, 0)  # at first; then all that are parallel to it
    while longest.any() and len(lines) < MOST_LINES:
        index, row = (int(place) for place in np.unravel_index(longest.argmax(), counts.shape))
        if not lines:
            longest = np.where(np.abs(slopes - slopes[index])[:, None] <= PARALLEL, counts, 0)
        lines.append((float(slopes[index]), (row - margin + 0.5) * scale))
        longest[:, max(0, row - 2) : row + 3] = 0
    return lines


def _coarsen(marked: np.ndarray, scale: int) -> np.ndarray:
    """The picture (H, W) made smaller: a pixel is marked if it, or one above or below it, was anywhere."""
    height, width = (-(-side // scale) for side in marked.shape)
    padded = np.pad(marked, [(0, height * scale - marked.shape[0]), (0, width * scale - marked.shape[1])])
    coarse = padded.reshape(height, scale, width, scale).any(axis=(1, 3))
    return np.asarray(ndimage.binary_dilation(coarse, np.ones((3, 1))))


def _count_by_line(marked: np.ndarray, slopes: np.ndarray, margin: int) -> np.ndarray:
    """The number (slopes, H + 2 margin) of marked pixels on each straight line: a Hough transform."""
    rows, columns = np.nonzero(marked)
    starts = np.round(rows - slopes[:, None] * columns).astype(int) + margin
    return np.stack([np.bincount(start, minlength=len(marked) + 2 * margin) for start in starts])


def _measure_runs(inked: np.ndarray) -> np.ndarray:
    """The height (H, W) of the vertical run of inked pixels that each pixel lies in; 0 for the others."""
    runs = np.zeros(inked.shape, np.int32)
    bordered = np.pad(inked.T, [(0, 0), (1, 1)]).astype(np.int8)
    change = np.diff(bordered, axis=1)
    starts, ends = np.nonzero(change == 1), np.nonzero(change == -1)
    lengths = ends[1] - starts[1]
    runs.T[inked.T] = np.repeat(lengths, lengths)
    return runs
