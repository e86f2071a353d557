"""The lightness of people's pictures.

H, W are the sides of the picture in pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mnistjax.decode import open_picture, quiet, turn_upright

WORKING_SIDE = 1000  # pixels; pictures with a longer side are scaled down


def read_picture(path: str | Path) -> np.ndarray:
    """The lightness (H, W) of a PNG, JPEG, BMP or WebP file, float32 in [0, 1], at most 1,000 pixels a side.

    Transparent pixels become white or black, whichever contrasts with the rest. ConfigError, in one line, if
    the file is not a whole picture.
    """
    with quiet(), open_picture(path) as picture:
        picture.draft("L", (WORKING_SIDE, WORKING_SIDE))  # decodes a JPEG no larger than needed
        return _lightness(turn_upright(picture))


def _lightness(picture: Any) -> np.ndarray:
    """The lightness (H, W) of a decoded picture of any mode, scaled down if it is too large."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits
        lightness = np.asarray(picture, np.float32) / 65535
    elif "A" in picture.getbands() or "transparency" in picture.info:
        layers = np.asarray(picture.convert("LA"), np.float32) / 255
        ink, alpha = layers[..., 0], layers[..., 1]
        mean = float((ink * alpha).sum() / max(alpha.sum(), 1e-6))
        lightness = alpha * ink + (1 - alpha) * (mean < 0.5)
    else:
        lightness = np.asarray(picture.convert("L"), np.float32) / 255
    scale = WORKING_SIDE / max(picture.size)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in picture.size]
        lightness = np.asarray(Image.fromarray(lightness).resize(size, Image.Resampling.BOX), np.float32)
    return np.clip(lightness, 0, 1)
