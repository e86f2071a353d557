"""A whole picture becomes an image like those of the model's data set."""

import numpy as np
import pytest
from PIL import Image

from mnistjax.config import ConfigError
from mnistjax.pictures.whole import read_whole, resize


def write(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def make_shirt():
    """An image (28, 28) uint8 like Fashion-MNIST's: a thing that reaches two edges, light on black."""
    rows, columns = np.indices((28, 28))
    body = (abs(columns - 13.5) < 7) | ((rows < 12) & (abs(columns - 13.5) < 12))
    return np.where(body, 120 + 4 * rows, 0).astype(np.uint8)


@pytest.mark.parametrize("inverted", [True, False], ids=["on white", "on black"])
@pytest.mark.parametrize("margins", [(0, 0), (60, 10), (5, 90)])
def test_clothes_on_any_ground_become_light_on_black(tmp_path, inverted, margins):
    shirt = make_shirt()
    picture = np.pad(shirt.repeat(9, axis=0).repeat(9, axis=1), [(side, side) for side in margins])
    path = write(tmp_path / "shirt.png", 255 - picture if inverted else picture)
    image = read_whole(path, (28, 28, 1), light_on_dark=True)
    assert image.shape == (28, 28, 1)
    assert abs(image[..., 0].astype(int) - shirt).mean() < 6


def test_an_empty_picture_is_black(tmp_path):
    path = write(tmp_path / "white.png", np.full((50, 40), 255, np.uint8))
    assert not read_whole(path, (28, 28, 1), light_on_dark=True).any()


@pytest.mark.parametrize(
    ("size", "shape"), [((100, 100), (32, 32, 3)), ((40, 90), (17, 23, 3)), ((64, 8), (8, 8, 3))]
)
def test_a_photograph_covers_the_image_and_is_cropped_in_the_middle(tmp_path, size, shape):
    """A left half in red and a right half in blue stay so."""
    picture = np.zeros((*size, 3), np.uint8)
    picture[:, : size[1] // 2, 0] = picture[:, size[1] // 2 :, 2] = 250
    image = read_whole(write(tmp_path / "photo.png", picture), shape, light_on_dark=False)
    assert image.shape == shape
    assert image.dtype == np.uint8
    quarter = shape[1] // 4
    assert (image[:, :quarter] == (250, 0, 0)).all()
    assert (image[:, -quarter:] == (0, 0, 250)).all()


def test_modes_of_pictures(tmp_path):
    """16 bits, transparency and palettes; grey models read colours, colour models grey."""
    deep = write(tmp_path / "deep.png", np.full((9, 9), 200 * 257, np.uint16))
    assert (read_whole(deep, (5, 5, 1), light_on_dark=False) == 200).all()
    assert (read_whole(deep, (5, 5, 3), light_on_dark=False) == 200).all()
    clear = write(tmp_path / "clear.png", np.zeros((9, 9, 4), np.uint8))
    assert (read_whole(clear, (5, 5, 3), light_on_dark=False) == 255).all()
    Image.new("RGB", (9, 9), (10, 200, 30)).quantize(4).save(tmp_path / "palette.png")
    assert (read_whole(tmp_path / "palette.png", (5, 5, 3), light_on_dark=False) == (10, 200, 30)).all()


def test_upright_as_the_camera_says(tmp_path):
    picture = np.zeros((20, 40), np.uint8)
    picture[:, :20] = 255  # light on the left; turned by 90 degrees clockwise, light above
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "turned.jpg", picture, exif=exif, quality=95)
    image = read_whole(path, (40, 20, 1), light_on_dark=False)[..., 0]
    assert image[:15].min() > 200 > 50 > image[25:].max()


def test_a_wrong_file_is_one_line(tmp_path):
    (tmp_path / "text.png").write_text("a shirt")
    with pytest.raises(ConfigError, match=r"text.png is not a picture in PNG, JPEG, BMP or WebP format"):
        read_whole(tmp_path / "text.png", (28, 28, 1), light_on_dark=False)


@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 16, 1), (32, 40, 1)])
def test_digits_fit_models_of_other_sizes(shape):
    image = np.full((28, 28), 77, np.uint8)
    assert (resize(image, shape) == np.full(shape, 77)).all()
