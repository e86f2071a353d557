"""USPS in LIBSVM's format; small files stand for the official ones."""

import bz2
import hashlib
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistjax.data import DataError, usps
from mnistjax.data.arrays import Missing, check_arrays
from mnistjax.data.download import File
from test_data import one_line, refused_within

COUNTS = {"train": 20, "test": 10}
NAMES = {"train": "usps.bz2", "test": "usps.t.bz2"}


def draw(half):
    """Pixels (N, 16, 16) in -1..1 with 6 decimals, and digits (N,)."""
    random = np.random.default_rng(COUNTS[half])
    values = random.uniform(-1, 1, (COUNTS[half], 16, 16)).round(6)
    values[0, 0, :3] = -1, 1, 0
    return values, np.arange(COUNTS[half]) % 10


def to_lines(values, digits):
    rows = zip(values.reshape(len(values), -1), digits, strict=True)
    return [
        " ".join([str(digit + 1), *(f"{n + 1}:{value:.6f}" for n, value in enumerate(row))])
        for row, digit in rows
    ]


def pack(lines):
    return bz2.compress(b"".join(f"{line} \n".encode() for line in lines))


def write_official(folder, **replaced):
    folder.mkdir(exist_ok=True)
    for half, name in NAMES.items():
        (folder / name).write_bytes(replaced.get(half, pack(to_lines(*draw(half)))))
    return folder


def pin(folder, monkeypatch):
    sums = {half: hashlib.md5((folder / name).read_bytes()).hexdigest() for half, name in NAMES.items()}
    pinned = {half: File(name, f"https://x/{name}", f"md5:{sums[half]}") for half, name in NAMES.items()}
    monkeypatch.setattr(usps, "FILES", pinned)
    monkeypatch.setattr(usps, "COUNTS", COUNTS)


def read(folder):
    return usps.read(raw_dir=folder, downloads=folder / "downloads")


@pytest.mark.parametrize("place", ["", "usps"])
def test_values_become_bytes_and_labels_digits(place, tmp_path, monkeypatch):
    pin(write_official(tmp_path / place), monkeypatch)
    arrays = check_arrays("usps", read(tmp_path))
    for half in COUNTS:
        values, digits = draw(half)
        images = arrays.by_name[f"{half}_images"]
        assert images.shape == values.shape
        np.testing.assert_allclose(images / 127.5 - 1, values, atol=0.5 / 127.5 + 1e-9)
        assert images[0, 0, :3].tolist() == [0, 255, 128]
        np.testing.assert_array_equal(arrays.by_name[f"{half}_labels"], digits)
    assert arrays.class_names == tuple("0123456789")


def test_official_checksums():
    assert [file.name for file in usps.FILES.values()] == [*NAMES.values()]
    assert usps.FILES["train"].checksum == "md5:ec16c51db3855ca6c91edd34d0e9b197"
    assert usps.COUNTS == {"train": 7291, "test": 2007}


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    pin(write_official(tmp_path), monkeypatch)
    (tmp_path / "usps.t.bz2").unlink()
    with pytest.raises(Missing, match=r"usps\.t\.bz2 expected there or in its subfolder usps") as error:
        read(tmp_path)
    one_line(error)
    os.mkfifo(tmp_path / "usps.t.bz2")
    with pytest.raises(DataError, match="a file expected, found a pipe"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>", b"BZh9" * 99])
def test_another_file_is_refused(content, tmp_path):
    write_official(tmp_path, train=content)
    with pytest.raises(
        DataError, match=r"usps\.bz2: wrong checksum: MD5 ec16.*replace it by https:"
    ) as error:
        read(tmp_path)
    one_line(error)


LINES = to_lines(*draw("train"))
GOOD = pack(LINES)
DAMAGED = {
    "empty": (b"", "ended before the end-of-stream"),
    "no line": (bz2.compress(b""), "0 lines, not 20|readable LIBSVM file expected"),
    "HTML": (b"<html>", "Invalid data stream"),
    "zipped HTML": (bz2.compress(b"<html>sign in</html>\n"), "readable LIBSVM file expected"),
    "truncated": (GOOD[:-100], "readable LIBSVM file expected"),
    "a flipped byte": (GOOD[:500] + b"\xff\xff" + GOOD[502:], "readable LIBSVM file expected"),
    "a line less": (pack(LINES[1:]), "19 lines, not 20"),
    "a line more": (pack([*LINES, LINES[0]]), "21 lines, not 20"),
    "a large value": (pack([*LINES[1:], "1 1:1.5"]), "values outside"),
    "no number": (pack([*LINES[1:], "1 1:nan"]), "values outside"),
    "infinity": (pack([*LINES[1:], "1 1:inf"]), "values outside"),
    "a word": (pack([*LINES[1:], "1 1:one"]), "readable LIBSVM file expected"),
    "a pixel more": (pack([*LINES[1:], "1 257:0.5"]), "readable LIBSVM file expected"),
    "a huge index": (pack([*LINES[1:], f"1 {10**12}:0.5"]), "readable LIBSVM file expected"),
    "pixel 0": (pack([*LINES[1:], "1 0:0.5"]), "readable LIBSVM file expected"),
    "label 0": (pack([*LINES[1:], "0 1:0.5"]), r"the label 0\.0, not 1 to 10"),
    "label 11": (pack([*LINES[1:], "11 1:0.5"]), "the label 11"),
    "label 1.5": (pack([*LINES[1:], "1.5 1:0.5"]), "the label 1.5"),
    "no label": (pack([*LINES[1:], "nan 1:0.5"]), "the label nan"),
    "two labels": (pack([*LINES[1:], "1,2 1:0.5"]), "readable LIBSVM file expected"),
    "many lines": (bz2.compress(b"1\n" * 2**18), "262144 lines, not 20"),
    "a bomb": (bz2.compress(bytes(2**27)), "more than 67,108,864 bytes"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_with_a_right_checksum_end_in_one_line(case, tmp_path, monkeypatch):
    content, expected = DAMAGED[case]
    pin(write_official(tmp_path, train=content), monkeypatch)
    message = refused_within(2 * usps.LARGEST, lambda: read(tmp_path), expected)
    assert message.startswith(str(tmp_path / "usps.bz2"))


def test_pixels_that_are_left_out_are_0(tmp_path, monkeypatch):
    pin(write_official(tmp_path, train=pack([*LINES[1:], "1 2:1"])), monkeypatch)
    assert read(tmp_path).train_images[-1, 0, :3].tolist() == [128, 255, 128]


@given(st.text("0123456789.:-+e #qidna\n", max_size=99), st.integers(0, 3))
def test_any_text_is_values_or_an_error(text, count):
    try:
        values, labels = usps._parse(text.encode(), count)
    except ValueError:
        return
    assert values.shape == (len(labels), 256)
    assert np.isin(labels, range(1, 11)).all()
