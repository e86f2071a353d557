"""Decodes people's pictures from files with any content.

H, W are the sides of the picture in pixels.
"""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax import files
from mnistjax.config import ConfigError, one_line

FORMATS = ("PNG", "JPEG", "BMP")
MOST_BYTES = 64 << 20
MOST_PIXELS = 64_000_000
MOST_SCANS = 100  # per JPEG: each is decoded at full size; cameras and browsers write at most 10
SCAN, END = 0xDA, 0xD9  # markers in a JPEG
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)  # markers with a length, and END
WORKING_SIDE = 1000  # pixels; pictures with a longer side are scaled down


def read_picture(path: str | Path) -> np.ndarray:
    """The lightness (H, W) of a PNG, JPEG or BMP file, float32 in [0, 1], at most 1,000 pixels a side.

    Transparent pixels become white or black, whichever contrasts with the rest. ConfigError, in one line, if
    the file is not a whole picture.
    """
    from PIL import Image, ImageOps

    try:
        content = files.read_bytes(path, limit=MOST_BYTES, follow=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            size = f"{picture.width:,} x {picture.height:,} pixels"
            raise ConfigError(f"{path} has {size}; the limit is {MOST_PIXELS:,}")
        if content.startswith(b"\xff\xd8") and _has_too_many_scans(content):
            raise ConfigError(f"{path} has more than {MOST_SCANS} scans, the limit for a JPEG")
        picture.draft("L", (WORKING_SIDE, WORKING_SIDE))  # decodes a JPEG no larger than needed
        picture.load()
        return _lightness(ImageOps.exif_transpose(picture))
    except ConfigError:
        raise
    except Image.DecompressionBombError:
        raise ConfigError(f"{path} has too many pixels; the limit is {MOST_PIXELS:,}") from None
    except Image.UnidentifiedImageError:
        raise ConfigError(f"{path} is not a picture in PNG, JPEG or BMP format") from None
    except Exception as error:  # decoders raise anything for a damaged file
        reason = getattr(error, "strerror", None) or one_line(error)[:120]
        raise ConfigError(f"{path} can't be read as a picture: {reason}") from None


def _has_too_many_scans(content: bytes) -> bool:
    """Whether the first picture in a JPEG file, which other pictures may follow, has more than MOST_SCANS."""
    place = scans = 0
    while scans <= MOST_SCANS and (marker := MARKER.search(content, place)) and marker[1][0] != END:
        scans += marker[1][0] == SCAN
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans > MOST_SCANS


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
