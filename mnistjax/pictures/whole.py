"""A whole picture as one image, for models of clothes, photographs and the like.

H, W are the sides of the image in pixels, C its channels.
"""

from pathlib import Path

import numpy as np

from mnistjax.data.pixels import to_image
from mnistjax.decode import open_picture, quiet
from mnistjax.pictures.decode import read_picture

FAINT = 0.1  # lightness above the ground's that belongs to the thing in the picture


def read_whole(path: str | Path, image_shape: tuple[int, int, int], *, light_on_dark: bool) -> np.ndarray:
    """The picture in a PNG, JPEG, BMP or WebP file as an image (H, W, C) uint8.

    It is scaled and cropped as those of `data=folder` are. With `light_on_dark` it is made as those of
    Fashion-MNIST are: a picture on a light ground is inverted, empty margins are cut off, and all of the rest
    is scaled into the middle of a black image. C is 1 or 3. ConfigError if the file is not such a picture.
    """
    height, width, channels = image_shape
    if light_on_dark:
        return _put_on_black(read_picture(path), height, width)[..., None].repeat(channels, axis=2)
    with quiet(), open_picture(path) as picture:
        return to_image(picture, (height, width), channels).reshape(image_shape)


def _put_on_black(lightness: np.ndarray, height: int, width: int) -> np.ndarray:
    """What differs from the ground of a picture's lightness, in the middle of a black image (H, W) uint8."""
    from PIL import Image

    border = np.concatenate([lightness[0], lightness[-1], lightness[:, 0], lightness[:, -1]])
    ground = float(np.median(border))
    light = ground - lightness if ground > 0.5 else lightness - ground
    light = np.clip(light / max(1e-6, 1 - min(ground, 1 - ground)), 0, 1)
    rows, columns = (np.flatnonzero((light > FAINT).any(axis=axis)) for axis in (1, 0))
    image = np.zeros((height, width), np.uint8)
    if not rows.size:
        return image
    thing = Image.fromarray(light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = min(height / thing.height, width / thing.width)
    sides = [max(1, round(side * scale)) for side in thing.size]
    scaled = np.asarray(thing.resize(sides, Image.Resampling.BICUBIC, reducing_gap=3))
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    image[top : top + scaled.shape[0], left : left + scaled.shape[1]] = np.clip(scaled * 255 + 0.5, 0, 255)
    return image


def resize(image: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A digit's image (28, 28) uint8 as the image (H, W, 1) that a model takes."""
    from PIL import Image

    height, width, _ = image_shape
    if image.shape != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    return image[..., None]
