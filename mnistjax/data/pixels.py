"""A picture as an image of a data set: grey or RGB, on white, of the wanted size.

H, W the sides of an image in pixels, C its channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnistjax.decode import find_orientation, turn

if TYPE_CHECKING:
    from PIL.Image import Image

FINER = 3  # times the wanted size, at least, is the size at which a JPEG is decoded
WHITE = 255
SIDEWAYS = range(5, 9)  # orientations that swap height and width


class Header(NamedTuple):
    """What a file tells about its picture without decoding it."""

    height: int  # of the upright picture
    width: int
    grey: bool


def read_header(picture: Image) -> Header:
    """The header of an opened picture."""
    sides = picture.height, picture.width
    height, width = sides[::-1] if find_orientation(picture) in SIDEWAYS else sides
    return Header(height, width, _is_grey(picture))


def _is_grey(picture: Image) -> bool:
    """Whether the picture's mode has no colours, or its palette none but greys. WebP has RGB only."""
    if picture.mode == "P":
        palette = np.reshape(picture.getpalette() or [], (-1, 3))
        return bool((palette == palette[:, :1]).all())
    return picture.mode in ("1", "L", "LA") or _is_deep(picture)


def _is_deep(picture: Image) -> bool:
    """Whether the pixels are greys of 16 bits, which Pillow gives a mode that begins with I."""
    return picture.mode.startswith("I")


def to_image(picture: Image, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """The opened picture as an image (H, W) uint8 for 1 channel, (H, W, 3) for 3.

    With a size it is scaled so that it covers the size, and what extends beyond on two sides is cropped:
    torchvision's Resize and CenterCrop in one, antialiased and bilinear like these. A JPEG is then decoded at
    1/2, 1/4 or 1/8 of its size if that is still FINER times the wanted size: a photograph of 12 megapixels
    takes a third of the time. Levels then differ by 0.3 on average from those of a whole decoding.
    """
    mode = "L" if channels == 1 else "RGB"
    least = FINER * max(size or (0,))
    drafted = picture.draft(mode, (least, least) if least else None)
    picture.load()
    orientation = find_orientation(picture)
    image = _flatten(picture, mode)
    if size is not None:
        height, width = size
        extent = drafted[1][2:] if drafted else image.size
        image = _cover(image, extent, (height, width) if orientation in SIDEWAYS else (width, height))
    return np.asarray(turn(image, orientation))


def _cover(picture: Image, extent: tuple[float, float], size: tuple[int, int]) -> Image:
    """The middle of a picture, scaled to a size. Sizes are W, H here.

    The extent is the part of the picture with content: of 900 rows, decoded at 1/8, 112.5 of 113.
    """
    from PIL import Image

    scale = min(extent[0] / size[0], extent[1] / size[1])
    left, top = (max(0.0, (extent[axis] - scale * size[axis]) / 2) for axis in (0, 1))
    box = left, top, extent[0] - left, extent[1] - top
    return picture.resize(size, Image.Resampling.BILINEAR, box=box)


def _flatten(picture: Image, mode: str) -> Image:
    """The decoded picture in mode L or RGB, white where it is transparent, as icons are mostly shown."""
    from PIL import Image

    if _is_deep(picture):
        deep = np.clip(np.asarray(picture), 0, 65535).astype(np.uint32)
        levels = ((deep + 128) // 257).astype(np.uint8)
        if (clear := picture.info.get("transparency")) is not None:
            levels[deep == clear] = WHITE
        return Image.fromarray(levels).convert(mode)
    if not picture.has_transparency_data:
        return picture.convert(mode)
    layers = picture.convert("RGBA")
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(layers.convert("RGB"), mask=layers.getchannel("A"))
    return ground.convert(mode)
