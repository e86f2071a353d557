"""Pictures in files with any content: all formats and modes are opened, upright; hostile ones are refused."""

import contextlib
import io
import os
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

from mnistjax.config import ConfigError
from mnistjax.decode import (
    MOST_BYTES,
    MOST_PIXELS,
    ORIENTATION,
    BadPicture,
    find_orientation,
    is_picture,
    open_picture,
    quiet,
    turn_upright,
)
from pictures import draw

SCAN = b"\xff\xda"
PICTURE = Image.fromarray(draw("3"))
FORMATS = {"PNG": {}, "JPEG": {"quality": 95}, "BMP": {}, "WEBP": {"lossless": True}}
MODES = {  # that Pillow writes
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["1", "L", "RGB", "CMYK"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "WEBP": ["L", "LA", "P", "RGB", "RGBA"],
}


def encode(picture, format, **options):
    file = io.BytesIO()
    picture.save(file, format, **FORMATS.get(format, {}), **options)
    return file.getvalue()


def png_header(width, height):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = zlib.compress(bytes(1000), 9)
    start = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def whole_png():
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    return file.getvalue()


def gif():
    file = io.BytesIO()
    PICTURE.save(file, "GIF")
    return file.getvalue()


def jpeg_of_scans(count):
    """A progressive JPEG with that many extra scans; decoding all of them would take hours."""
    file = io.BytesIO()
    PICTURE.resize((4000, 4000)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    return repeat_scan(content, len(content) - 2, count)


def repeat_scan(content, end, count):
    last = content.rindex(SCAN, 0, end)
    return content[:last] + content[last:end] * count + content[end:]


def pictures_of_scans(count):
    """A camera's file of several pictures, the first of which has that many extra scans."""
    file = io.BytesIO()
    picture = PICTURE.resize((4000, 4000))
    picture.save(file, "MPO", save_all=True, append_images=[picture.resize((40, 40))], progressive=True)
    content = file.getvalue()
    return repeat_scan(content, content.index(b"\xff\xd9\xff\xd8"), count)


HOSTILE = {
    "empty.png": (b"", "is not a picture in PNG, JPEG, BMP or WebP format"),
    "text.png": (b"seven", "is not a picture in PNG, JPEG, BMP or WebP format"),
    "other.png": (gif(), "is not a picture in PNG, JPEG, BMP or WebP format"),
    "cut.png": (whole_png()[:900], "can't be read as a picture"),
    "damaged.png": (
        whole_png()[:18] + b"none" + whole_png()[22:],
        "is not a picture in PNG, JPEG, BMP or WebP format",
    ),
    "bomb.png": (png_header(50_000, 50_000), "has too many pixels; the limit is 64,000,000"),
    "wide.png": (png_header(2**31 - 1, 1), "has too many pixels; the limit is 64,000,000"),
    "huge.png": (png_header(9_000, 9_000), "has 9,000 x 9,000 pixels; the limit is 64,000,000"),
    "jpeg.jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "picture"),
    "scans.jpg": (jpeg_of_scans(3000), "has more than 100 scans"),
    "pictures.jpg": (pictures_of_scans(3000), "has more than 100 scans"),
    "bmp.bmp": (
        b"BM" + struct.pack("<IHHIIiiHHII", 100, 0, 0, 54, 40, -(2**31), -(2**31), 1, 32, 0, 0),
        "can't be read",
    ),
}


def webp_header(width, height):
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides + encode(PICTURE, "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


HOSTILE |= {
    "cut.webp": (encode(PICTURE, "WEBP")[:300], "can't be read as a picture"),
    "bomb.webp": (webp_header(16_384, 16_384), "picture.*: OSError|too many pixels"),  # Pillow 11, 13
    "wide.webp": (webp_header(9_000, 7_000), "can't be read as a picture"),
    "zeros.jpg": (bytes(1000), "is not a picture in PNG, JPEG, BMP or WebP format"),
}


def read(path, **options):
    """The decoded picture, upright, as an array."""
    with quiet(), open_picture(path, **options) as picture:
        return np.asarray(turn_upright(picture))


@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format in MODES for mode in MODES[format]])
def test_every_format_and_mode_is_opened(tmp_path, format, mode):
    made = Image.fromarray(np.uint16(257) * np.asarray(PICTURE)) if mode == "I;16" else PICTURE.convert(mode)
    (tmp_path / "a").write_bytes(encode(made, format))  # the content tells the format, not the name
    with quiet(), open_picture(tmp_path / "a", header=True) as picture:
        size, header_mode = picture.size, picture.mode
    with quiet(), open_picture(tmp_path / "a") as picture:
        decoded = turn_upright(picture).convert("RGB")
    assert size == PICTURE.size
    assert header_mode == picture.mode
    if mode != "I;16":
        assert np.abs(np.asarray(decoded, float) - np.asarray(made.convert("RGB"))).mean() < 1


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_their_orientation_says(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (tmp_path / "a").write_bytes(encode(PICTURE, format, exif=exif))
    with Image.open(tmp_path / "a") as picture:
        assert_array_equal(read(tmp_path / "a"), np.asarray(ImageOps.exif_transpose(picture)))
    with open_picture(tmp_path / "a", header=True) as picture:
        assert find_orientation(picture) == (orientation if 1 <= orientation <= 8 else 1)


@pytest.mark.parametrize("exif", [b"Exif\0\0none", b"Exif\0\0II*\0\xff\xff\xff\xff", bytes(100)])
def test_damaged_exif_data_are_ignored(tmp_path, exif):
    (tmp_path / "a").write_bytes(encode(PICTURE, "JPEG", exif=exif))
    (tmp_path / "b").write_bytes(encode(PICTURE, "JPEG"))
    assert_array_equal(read(tmp_path / "a"), read(tmp_path / "b"))


def test_a_header_is_read_without_the_pixels(tmp_path):
    for format in ("PNG", "JPEG", "BMP"):
        content = encode(Image.effect_noise((300, 300), 90), format)
        (tmp_path / "a").write_bytes(content[:2000])
        with open_picture(tmp_path / "a", header=True) as picture:
            assert (picture.size, find_orientation(picture)) == ((300, 300), 1)
        with pytest.raises(BadPicture, match="can't be read as a picture"):
            read(tmp_path / "a")


def error_of(path, **options):
    """The error of reading a picture, or None."""
    try:
        assert read(path, **options).size
    except BadPicture as error:
        return error
    return None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_with_its_name(tmp_path, name):
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    error = error_of(tmp_path / name, name="the name")
    assert error
    assert re.search(message, str(error))
    assert str(error) == f"the name {error.reason}"
    assert "\n" not in str(error)
    with contextlib.suppress(BadPicture), quiet(), open_picture(tmp_path / name, header=True) as picture:
        assert picture.width * picture.height <= MOST_PIXELS


CONTENTS = [encode(PICTURE.resize((40, 30)), format) for format in FORMATS]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CONTENTS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6))
def test_changed_bytes_give_a_picture_or_one_error(tmp_path, content, changes):
    changed = bytearray(content)
    for place, byte in changes:
        changed[place % len(changed)] = byte
    (tmp_path / "a").write_bytes(changed)
    for header in (True, False):
        assert "\n" not in str(error_of(tmp_path / "a", header=header))


def test_warnings_of_pillow_are_neither_shown_nor_errors(tmp_path):
    (tmp_path / "a").write_bytes(png_header(10_000, 9_500))
    with warnings.catch_warnings(record=True) as shown:
        assert "has 10,000 x 9,500 pixels; the limit is 64,000,000" in str(error_of(tmp_path / "a"))
    assert not shown
    with pytest.raises(BadPicture, match="has too many pixels"):  # the tests turn warnings into errors
        open_picture(tmp_path / "a").__enter__()


def test_pipes_folders_devices_and_large_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero"):
        with pytest.raises(ConfigError, match=f"^{path} is not a regular file$"):
            read(path)
    with pytest.raises(ConfigError, match=r"none\.png can't be read as a picture: No such file or directory"):
        read(tmp_path / "none.png")
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(MOST_BYTES + 1)
    for header in (True, False):
        with pytest.raises(ConfigError, match="has 67,108,865 bytes; the limit is 67,108,864"):
            read(tmp_path / "long.png", header=header)


def test_the_names_of_pictures():
    assert all(map(is_picture, ["a.png", "a.JPG", "a.b.Jpeg", "a.bmp", "a.WebP"]))
    assert not any(map(is_picture, ["a", "png", ".png", "a.txt", "a.png.part", "a.gif", "Thumbs.db"]))
