"""Opens pictures in files with any content: PNG, JPEG, BMP or WebP, within limits, turned upright."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mnistjax import files
from mnistjax.config import ConfigError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # of such files, in any case
MOST_BYTES = 64 << 20
MOST_PIXELS = 64_000_000
MOST_SCANS = 100  # per JPEG: each is decoded at full size; cameras and browsers write at most 10
SCAN, END = 0xDA, 0xD9  # markers in a JPEG
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)  # markers with a length, and END
ORIENTATION = 0x0112  # the key in EXIF data
TURNS = {  # names of Pillow's transpositions, by orientation
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class BadPicture(ConfigError):
    """A file that is not a whole picture within the limits: its name and, in one line, the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason


@contextlib.contextmanager
def open_picture(
    path: str | os.PathLike[str], name: str | None = None, *, header: bool = False
) -> Iterator[Image]:
    """Opens a picture, which Pillow decodes when it is first used; links are followed.

    With `header`, only what tells its size and mode is read of a file of most formats. Everything that fails
    inside becomes a BadPicture with the file's `name`, by default its path.
    """
    from PIL import Image, UnidentifiedImageError

    name = os.fspath(path) if name is None else name
    try:
        with open(files.open_plain(path, os.O_RDONLY, follow=True), "rb") as file:
            yield _open(file, name, header)
    except BadPicture:
        raise
    except files.DamagedFile as error:
        raise BadPicture(name, str(error).removeprefix(f"{path} ")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadPicture(name, f"has too many pixels; the limit is {MOST_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BadPicture(name, "is not a picture in PNG, JPEG, BMP or WebP format") from None
    except Exception as error:  # decoders raise anything for a damaged file
        reason = getattr(error, "strerror", None) or one_line(error)[:120]
        raise BadPicture(name, f"can't be read as a picture: {reason}") from None


def _open(file: io.BufferedReader, name: str, header: bool) -> Image:
    """The picture in an open file; BadPicture if it is over a limit."""
    from PIL import Image, WebPImagePlugin

    assert WebPImagePlugin  # imported here, because Pillow would import the plugins of all its formats
    if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
        raise BadPicture(name, f"has {size:,} bytes; the limit is {MOST_BYTES:,}")
    content = b"" if header else file.read(size)
    picture = Image.open(file if header else io.BytesIO(content), formats=FORMATS)
    if picture.width * picture.height > MOST_PIXELS:
        pixels = f"{picture.width:,} x {picture.height:,} pixels"
        raise BadPicture(name, f"has {pixels}; the limit is {MOST_PIXELS:,}")
    if content.startswith(b"\xff\xd8") and _has_too_many_scans(content):
        raise BadPicture(name, f"has more than {MOST_SCANS} scans, the limit for a JPEG")
    return picture


def _has_too_many_scans(content: bytes) -> bool:
    """Whether the first picture in a JPEG file, which other pictures may follow, has more than MOST_SCANS."""
    place = scans = 0
    while scans <= MOST_SCANS and (marker := MARKER.search(content, place)) and marker[1][0] != END:
        scans += marker[1][0] == SCAN
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans > MOST_SCANS


def find_orientation(picture: Image) -> int:
    """The orientation of a picture, 1 to 8, from its EXIF data or XMP; 1 (upright) if they can't be read.

    A PNG file may have it after the pixels: it is found once the picture is decoded.
    """
    from PIL import Image

    try:
        orientation = Image.Image.getexif(picture).get(ORIENTATION, 1)  # PngImageFile's would decode
    except Exception:  # damaged EXIF data, which other programs ignore, raises anything
        return 1
    return orientation if orientation in TURNS else 1


def turn_upright(picture: Image) -> Image:
    """The decoded picture, turned or mirrored as its orientation says."""
    picture.load()
    return turn(picture, find_orientation(picture))


def turn(picture: Image, orientation: int) -> Image:
    """A picture of this orientation as it is meant to be seen."""
    from PIL import Image

    name = TURNS.get(orientation)
    return picture.transpose(Image.Transpose[name]) if name else picture


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides Pillow's warnings inside, such as those about damaged EXIF data.

    Use it around all threads, not in each: Python's filters of warnings belong to the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def is_picture(name: str | Path) -> bool:
    """Whether a file's name ends as those of pictures do."""
    return os.path.splitext(name)[1].lower() in SUFFIXES
