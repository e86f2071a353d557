"""People's pictures: digits are found, ordered and made like MNIST's; hostile files are refused."""

import dataclasses
import itertools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import ndimage

from mnistjax.config import ConfigError
from mnistjax.pictures import find_digits, read_picture
from mnistjax.pictures.ink import find_ink
from mnistjax.pictures.normalize import BOX_SIDE
from pictures import BACKGROUNDS, BROKEN, PLAIN, WAYS, draw
from test_decode import HOSTILE, SCAN


def digits_in(picture):
    return find_digits(np.asarray(picture, np.float32) / 255)


def image_of(picture):
    (digit,) = digits_in(picture)
    return digit.image


def distance(one, other):
    """Mean absolute difference of levels at the best shift by at most one pixel."""
    steps = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    return min(np.abs(np.roll(one, step, (0, 1)).astype(int) - other).mean() for step in steps)


# Finding digits


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_digit_is_found_and_made_like_mnists(way):
    for digit in range(10):
        image = image_of(draw(str(digit), way, seed=digit))
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        sides = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert max(sides) == BOX_SIDE
        shares = image / image.sum()
        center = [(shares.sum(axis=axis) * np.arange(28)).sum() for axis in (1, 0)]
        assert_allclose(center, 14, atol=0.51)  # as in MNIST
        assert image.max() == 255


def test_light_on_dark_gives_the_same_image_as_dark_on_light():
    picture = draw("5")
    assert_array_equal(image_of(picture), image_of(255 - picture))


@pytest.mark.parametrize("digit", "2589")
def test_size_place_and_paper_hardly_change_the_image(digit):
    plain = image_of(draw(digit, seed=1))
    for change in (
        {"height": 60},
        {"height": 700},
        {"aside": (3.0, 1.0)},
        {"shade": 0.4},
        {"noise": 0.06},
        {"paper": 0.7, "ink": 0.4},
    ):
        other = image_of(draw(digit, dataclasses.replace(PLAIN, **change), seed=1))
        assert distance(plain, other) < 5, change


def test_an_image_like_mnists_hardly_changes():
    for digit in "0123456789":
        image = image_of(draw(digit, seed=3))
        assert distance(image, image_of(image)) < 6
        assert distance(image, image_of(255 - image)) < 6


@pytest.mark.parametrize("way", [PLAIN, WAYS[2], WAYS[-2]], ids=lambda way: way.name)
def test_several_digits_are_read_line_by_line(way):
    found = digits_in(draw("314\n15926\n53", way))
    boxes = [digit.box for digit in found]
    assert len(boxes) == 10
    lines = boxes[:3], boxes[3:8], boxes[8:]
    for line, below in itertools.pairwise(lines):
        assert max(bottom for _, _, bottom, _ in line) < min(top for top, _, _, _ in below)
    for line in lines:
        assert sorted(line, key=lambda box: box[1]) == line


@pytest.mark.parametrize("text", ["71", "12", "117", "112"])
@pytest.mark.parametrize("slant", [0.0, 0.2, 0.5])
def test_digits_that_overhang_their_neighbours_stay_apart(text, slant):
    picture = draw(text, dataclasses.replace(PLAIN, slant=slant, width=0.06, step=0.52, habit=1))
    marks: Any = ndimage.label(picture < 128, np.ones((3, 3)))
    assert marks[1] == len(text)  # no two marks touch
    assert len(digits_in(picture)) == len(text)


@pytest.mark.parametrize("spots", [0, 250])
def test_dots_and_reflections_of_stronger_contrast_than_the_digit_are_ignored(spots):
    pencil = dataclasses.replace(PLAIN, height=300, ink=0.75, paper=0.9)
    plain, picture = draw("5", pencil), draw("5", pencil)
    for row, column in [(20, 20), (31, 60), (100, 40)]:
        picture[row : row + 3, column : column + 3] = spots
    assert distance(image_of(picture), image_of(plain)) < 2


def test_parts_of_a_digit_are_joined_and_specks_are_ignored():
    picture = draw("5")
    height = picture.shape[0]
    picture[: height // 3][picture[: height // 3].cumsum(axis=0) == 0] = picture[0, 0]
    top = np.flatnonzero((picture < 128).any(axis=1))[0]
    gap = slice(top + 26, top + 31)
    picture[gap] = picture[0, 0]  # separates its bar
    assert len(digits_in(picture)) == 1
    picture[20:24, 20:24] = 0
    picture[-20:-14, -30:-10] = 0
    assert len(digits_in(picture)) == 1


@pytest.mark.parametrize("level", [0, 128, 255])
def test_nothing_is_found_on_plain_shaded_or_noisy_paper(level):
    assert digits_in(np.full((90, 120), level)) == []
    assert digits_in(np.full((1, 1), level)) == []
    random = np.random.default_rng(0)
    assert digits_in(np.clip(level + 10 * random.standard_normal((200, 200)), 0, 255)) == []
    assert digits_in(np.linspace(50, 200, 300)[None] + np.zeros((200, 1))) == []
    assert not find_ink(np.full((50, 60), level / 255, np.float32), np.ones((50, 60), bool)).any()


def test_digits_at_the_edge_and_a_dotted_zero_are_found():
    picture = draw("12", dataclasses.replace(PLAIN, margin=0.3))
    columns = np.flatnonzero((picture < 128).any(axis=0))
    rows = np.flatnonzero((picture < 128).any(axis=1))
    tight = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert len(digits_in(tight)) == 2
    assert len(digits_in(picture[:, columns[0] + 4 :])) == 2
    zero = draw("0", dataclasses.replace(PLAIN, height=300))
    middle = zero.shape[0] // 2, int(np.flatnonzero((zero < 128).any(axis=0)).mean())
    zero[middle[0] - 20 : middle[0] + 20, middle[1] - 15 : middle[1] + 15] = 20  # a dotted zero
    (digit,) = digits_in(zero)
    assert _height(digit) > 300


def _height(digit):
    top, _, bottom, _ = digit.box
    return bottom - top


def test_a_picture_with_too_many_marks_is_refused():
    picture = np.full((900, 900), 250)
    for row in range(10, 890, 40):
        for column in range(10, 890, 40):
            picture[row : row + 12, column : column + 8] = 0
    with pytest.raises(ConfigError, match=r"found 484 marks.*the limit is 300"):
        digits_in(picture)


@pytest.mark.parametrize("way", BROKEN + BACKGROUNDS, ids=lambda way: way.name)
def test_gaps_faint_strokes_lines_and_shadows_neither_split_nor_add_digits(way):
    found = [len(digits_in(draw(str(digit), way, seed=30 + digit))) for digit in range(10)]
    assert found.count(1) >= 9, found  # 10 here, but for tilted squares


def test_a_faint_stroke_is_as_dark_in_the_image_as_the_others():
    for digit in "2345789":
        dark, faint = (dataclasses.replace(PLAIN, faint=faint) for faint in (0.999, 0.3))
        assert distance(image_of(draw(digit, dark)), image_of(draw(digit, faint))) < 4


def test_a_shadow_hardly_changes_the_image():
    for way in (way for way in BACKGROUNDS if way.behind == "shadow"):
        for digit in "0134567":
            plain = image_of(draw(digit, dataclasses.replace(way, behind=""), seed=5))
            assert distance(image_of(draw(digit, way, seed=5)), plain) < 3


@pytest.mark.parametrize("behind", ["", "lines"])
def test_a_page_of_120_digits_is_found_line_by_line(behind):
    page = draw("\n".join(12 * ["0123456789"]), dataclasses.replace(PLAIN, height=40, behind=behind))
    boxes = [digit.box for digit in digits_in(page)]
    assert len(boxes) == 120
    for line in np.array(boxes).reshape(12, 10, 4):
        assert (np.diff(line[:, 1]) > 0).all()


def test_two_digits_close_to_each_other_are_not_one_broken_digit():
    for text in ("11", "10", "77", "35"):
        close = dataclasses.replace(PLAIN, height=60, width=0.06, step=0.74)
        assert len(digits_in(draw(text, close))) == 2
    upper, lower = (draw(digit, dataclasses.replace(PLAIN, margin=0.1)) for digit in "56")
    assert len(digits_in(np.concatenate([upper, lower]))) == 2


def test_a_small_digit_painted_without_grey_gets_the_grey_edges_of_mnists():
    for digit in "0123456789":
        painted = np.where(image_of(draw(digit)) > 127, 0, 255)
        image = image_of(painted)
        assert ((image > 25) & (image < 230)).sum() > 0.4 * (image > 25).sum()


# Reading files


def write(path, picture, **options):
    Image.fromarray(picture).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp"])
def test_all_formats_give_the_same_lightness(tmp_path, name):
    picture = draw("8")
    lightness = read_picture(write(tmp_path / name, picture))
    assert lightness.shape == picture.shape
    assert lightness.dtype == np.float32
    assert np.abs(lightness - picture / 255).mean() < 0.01


def test_sixteen_bits_colours_transparency_and_orientation(tmp_path):
    picture = draw("4")
    expected = image_of(picture)

    def read(name):
        (digit,) = find_digits(read_picture(tmp_path / name))
        return digit.image

    write(tmp_path / "deep.png", picture.astype(np.uint16) * 257)
    assert_array_equal(read("deep.png"), expected)
    blue = np.stack([picture, picture, np.full_like(picture, 250)], axis=-1)
    write(tmp_path / "colour.png", blue)
    assert distance(read("colour.png"), expected) < 2
    for ink in (0, 255):  # the paper is transparent
        layers = np.stack([np.full_like(picture, ink)] * 3 + [255 - picture], axis=-1)
        write(tmp_path / "clear.png", layers)
        assert distance(read("clear.png"), expected) < 2
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    write(tmp_path / "turned.jpg", np.rot90(picture), exif=exif)
    assert distance(read("turned.jpg"), expected) < 3


def test_a_large_photograph_is_scaled_down(tmp_path):
    photo = np.asarray(Image.fromarray(draw("6")).resize((4000, 3000)))
    for name in ("a.jpg", "a.png"):
        assert max(read_picture(write(tmp_path / name, photo)).shape) <= 1000


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_content_after_the_first_picture_of_a_file_is_ignored(tmp_path):
    write(tmp_path / "a.jpg", draw("3"), progressive=True)
    plain = read_picture(tmp_path / "a.jpg")
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(200 * (SCAN + bytes(100)))  # like the frames of a film
    assert_array_equal(read_picture(tmp_path / "a.jpg"), plain)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux has /proc")
def test_the_largest_allowed_picture_needs_little_memory(tmp_path):
    Image.new("RGBA", (8000, 8000), "white").save(tmp_path / "white.png")
    code = """
import re, sys
from pathlib import Path
from mnistjax.pictures import find_digits, read_picture
assert find_digits(read_picture(sys.argv[1])) == []
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])"""
    command = [sys.executable, "-c", code, str(tmp_path / "white.png")]
    assert int(subprocess.run(command, check=True, capture_output=True).stdout) < 2 << 20  # KiB
