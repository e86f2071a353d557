"""Removes a shadow from a picture.

A shadow covers one to three corners of the picture, has an edge, and has dark digits in it; a table beside
the sheet has none.

H, W are the sides of the picture in pixels.
"""

import numpy as np
from scipy import ndimage

from mnistjax.pictures.ink import NEAR_INK, SMALLEST, edge_of, erode, find_blur, find_ink, label_marks

COARSE = 250  # pixels, the longer side of the picture in which shadows are looked for
THICKNESS = 0.15  # strokes are thinner than this share of the picture's longer side
DEPTH = 0.1  # the least difference in lightness between a shadow and the paper
DARKEST = 0.3  # the least lightness of a shadow, as a share of the paper's; darker is a table
SMALLEST_SHARE = 0.03  # of the picture, that a shadow covers, and that it leaves
NEAR = 0.03  # a digit is near a shadow within this share of the picture's longer side
EDGE_SHARE = 0.25  # the largest share of the picture that is neither light nor dark; more is mere shading


def remove_shadow(lightness: np.ndarray) -> np.ndarray:
    """The lightness (H, W) relative to the paper around each pixel, or unchanged if there is no shadow.

    The paper is what a morphological closing leaves of the picture: it fills dark strokes and keeps the
    shadow's edge.
    """
    shadow = _find_shadow(lightness)
    if not shadow.any():
        return lightness
    flat = np.clip(lightness / np.maximum(_find_paper(lightness), 0.02), 0, 1)
    labels, boxes = label_marks(find_ink(flat, np.ones(flat.shape, bool)) >= NEAR_INK)
    tall, shaded, at_edge = np.zeros((3, len(boxes) + 1), bool)
    tall[1:] = [box.height >= SMALLEST for box in boxes]
    reach = 2 * round(NEAR * max(lightness.shape)) + 1
    shaded[labels[np.asarray(ndimage.maximum_filter(shadow, reach), bool)]] = True
    at_edge[edge_of(labels)] = True
    if not np.any(tall & shaded & ~at_edge):
        return lightness
    at_edge[0] = False
    return np.where((shaded & at_edge)[labels], 1, flat)  # without the shadow's tips, thin as strokes


def _find_shadow(lightness: np.ndarray) -> np.ndarray:
    """The pixels (H, W) that lie in a shadow; none if the picture has none, or light ink in its dark part."""
    step = max(1, round(max(lightness.shape) / COARSE))
    coarse = ndimage.uniform_filter(lightness, step)[::step, ::step]
    paper = _find_paper(coarse)
    dark, light = np.quantile(paper, [SMALLEST_SHARE, 1 - SMALLEST_SHARE])
    none = np.zeros(lightness.shape, bool)
    if light - dark < DEPTH or dark < DARKEST * light:
        return none
    share = np.asarray((paper - dark) / (light - dark))
    inner = coarse[erode(share < 0.25, 3)]
    if not inner.size or ((share > 0.3) & (share < 0.7)).mean() > EDGE_SHARE:
        return none
    darkest, middle, lightest = np.quantile(inner, [0.005, 0.5, 0.995])
    labels, _ = label_marks(share < 0.5)
    corners = labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    if not corners.any() or corners.all() or lightest - middle > max(DEPTH, middle - darkest):
        return none
    shadow = np.isin(labels, corners[corners > 0])
    return np.kron(shadow, np.ones((step, step), bool))[: lightness.shape[0], : lightness.shape[1]]


def _find_paper(lightness: np.ndarray) -> np.ndarray:
    """The lightness (H, W) without dark strokes."""
    size = 2 * round(THICKNESS / 2 * max(lightness.shape)) + 1
    smooth = ndimage.gaussian_filter(lightness, find_blur(lightness))
    return np.asarray(ndimage.grey_closing(smooth, (size, size), mode="nearest"))
