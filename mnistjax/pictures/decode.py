"""People's pictures, read from files that may be anything.

H, W sides of the picture.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax.config import ConfigError, one_line

FORMATS = ("PNG", "JPEG", "BMP")
MOST_BYTES = 64 << 20
MOST_PIXELS = 64_000_000
MOST_SCANS = 100  # of a JPEG, each of which is decoded at its full size; cameras and browsers make up to 10
SCAN, END = 0xDA, 0xD9  # markers of a JPEG
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)  # of what has a length, and END
WORKING_SIDE = 1000  # pixels; larger pictures are scaled down to it


def read_picture(path: str | Path) -> np.ndarray:
    """The lightness (H, W) of a PNG, JPEG or BMP file, float32 in [0, 1], at most 1,000 pixels a side.

    What is transparent takes the colour that its ink stands out from. ConfigError for anything that is no
    whole picture, in one line.
    """
    content = _read_bytes(path)
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            size = f"{picture.width:,} x {picture.height:,} pixels"
            raise ConfigError(f"{path} has {size}; at most {MOST_PIXELS:,} are read")
        if content.startswith(b"\xff\xd8") and _has_too_many_scans(content):
            raise ConfigError(f"{path} has more than {MOST_SCANS} scans, so many are not read")
        picture.draft("L", (WORKING_SIDE, WORKING_SIDE))  # of a JPEG no more is decoded than is used
        picture.load()
        return _lightness(ImageOps.exif_transpose(picture))
    except ConfigError:
        raise
    except Image.DecompressionBombError:
        raise ConfigError(f"{path} has too many pixels; at most {MOST_PIXELS:,} are read") from None
    except Image.UnidentifiedImageError:
        raise ConfigError(f"{path} is no picture in PNG, JPEG or BMP format") from None
    except Exception as error:  # whatever a decoder raises for a damaged file
        raise ConfigError(f"{path} can't be read as a picture: {one_line(error)[:120]}") from None


def _read_bytes(path: str | Path) -> bytes:
    """The content of a regular file; a FIFO is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path} is no file that holds a picture")
            if status.st_size > MOST_BYTES:
                raise ConfigError(f"{path} has {status.st_size:,} bytes; at most {MOST_BYTES:,} are read")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(MOST_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None


def _has_too_many_scans(content: bytes) -> bool:
    """Whether the first picture in a JPEG's content has; others, a film say, may follow it."""
    place = scans = 0
    while scans <= MOST_SCANS and (marker := MARKER.search(content, place)) and marker[1][0] != END:
        scans += marker[1][0] == SCAN
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans > MOST_SCANS


def _lightness(picture: Any) -> np.ndarray:
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits
        levels = np.asarray(picture, np.float32)
        picture = Image.fromarray(levels / 65535)
    elif "A" in picture.getbands() or "transparency" in picture.info:
        layers = np.asarray(picture.convert("LA"), np.float32) / 255
        ink, alpha = layers[..., 0], layers[..., 1]
        mean = float((ink * alpha).sum() / max(alpha.sum(), 1e-6))
        picture = Image.fromarray(alpha * ink + (1 - alpha) * (mean < 0.5))
    else:
        picture = Image.fromarray(np.asarray(picture.convert("L"), np.float32) / 255)
    scale = WORKING_SIDE / max(picture.size)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.clip(np.asarray(picture, np.float32), 0, 1)
