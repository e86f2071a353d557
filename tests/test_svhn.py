"""SVHN's MATLAB files; small ones stand for the official ones."""

import hashlib
import io
import os
import sys

import numpy as np
import pytest
import scipy.io

from mnistjax.data import DataError, builders, svhn
from mnistjax.data.arrays import Missing, check_arrays
from test_data import one_line, refused_within

COUNTS = {"train": 30, "test": 11}


def draw(half):
    """Images (N, 32, 32, 3) and digits (N,)."""
    random = np.random.default_rng(COUNTS[half])
    images = random.integers(0, 256, (COUNTS[half], 32, 32, 3), np.uint8)
    return images, (np.arange(COUNTS[half]) % 10).astype(np.uint8)


def to_mat(images, digits, compressed=True, **more):
    """The content of a file as SVHN's: digit 0 has the label 10."""
    stream = io.BytesIO()
    labels = np.where(digits == 0, 10, digits).astype(digits.dtype)[:, None]
    arrays = {"X": images.transpose(1, 2, 3, 0), "y": labels, **more}
    scipy.io.savemat(stream, arrays, do_compression=compressed)
    return stream.getvalue()


def write_official(folder, **replaced):
    """Small files with the official names, some of another content, which become the official ones."""
    folder.mkdir(exist_ok=True)
    for half in COUNTS:
        (folder / f"{half}_32x32.mat").write_bytes(replaced.get(half) or to_mat(*draw(half)))
    return folder


def pin(folder, monkeypatch):
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    infos = {}
    for path in sorted(folder.glob("*.mat")):
        content = path.read_bytes()
        info = UrlInfo(Size(len(content)), hashlib.sha256(content).hexdigest(), path.name)
        infos[f"http://example.org/{path.name}"] = info
    monkeypatch.setattr(svhn.SvhnCropped, "url_infos", infos)
    monkeypatch.setattr(svhn.SvhnCropped, "counts", tuple(COUNTS.values()))


def prepare(folder, home):
    options = {"downloads": home / "downloads", "raw_dir": folder}
    return builders.prepare("svhn_cropped", data_dir=home / "tfds", **options)


def check(arrays):
    arrays = check_arrays("svhn_cropped", arrays)
    for half in COUNTS:
        images, digits = draw(half)
        np.testing.assert_array_equal(arrays.by_name[f"{half}_images"], images)
        np.testing.assert_array_equal(arrays.by_name[f"{half}_labels"], digits)
    assert arrays.class_names == tuple("0123456789")


@pytest.mark.parametrize("place", ["", "svhn_cropped"])
def test_label_10_is_digit_0(place, tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    pin(write_official(tmp_path / "raw" / place), monkeypatch)
    check(prepare(tmp_path / "raw", tmp_path))
    check(builders.decode("svhn_cropped", tmp_path / "tfds"))
    assert "tensorflow" not in sys.modules


def test_official_checksums_and_counts_without_the_extra_images():
    infos = svhn.SvhnCropped.url_infos
    assert [info.filename for info in infos.values()] == ["test_32x32.mat", "train_32x32.mat"]
    assert all(url.startswith("http://ufldl.stanford.edu/housenumbers/t") for url in infos)
    assert svhn.SvhnCropped.counts == (73_257, 26_032)


def test_a_missing_half_is_named(tmp_path, monkeypatch):
    pin(write_official(tmp_path), monkeypatch)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"are not in it: test_32x32\.mat expected there or in") as error:
        prepare(tmp_path, tmp_path)
    one_line(error)
    (tmp_path / "train_32x32.mat").unlink()
    with pytest.raises(Missing, match=r"test_32x32\.mat, train_32x32\.mat expected"):
        prepare(tmp_path, tmp_path)


@pytest.mark.parametrize(("content", "looks"), [(b"<html>" * 99_999, "an HTML page"), (b"", "truncated")])
def test_another_file_is_refused(content, looks, tmp_path, monkeypatch):
    pin(write_official(tmp_path), monkeypatch)
    (tmp_path / "train_32x32.mat").write_bytes(content)
    with pytest.raises(DataError, match=rf"train_32x32\.mat: wrong checksum: SHA-256 .*{looks}") as error:
        prepare(tmp_path, tmp_path)
    one_line(error)


def test_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    pin(write_official(tmp_path), monkeypatch)
    (tmp_path / "test_32x32.mat").unlink()
    os.mkfifo(tmp_path / "test_32x32.mat")
    with pytest.raises(DataError, match="a file expected, found a pipe"):
        prepare(tmp_path, tmp_path)


IMAGES, DIGITS = draw("train")
PLAIN, ZIPPED = (to_mat(IMAGES, DIGITS, compressed) for compressed in (False, True))


WRONG = {
    "empty": (b"", "readable MATLAB file"),
    "HTML": (b"<html>" * 99, "readable MATLAB file"),
    "truncated": (PLAIN[:-50_000], "readable MATLAB file"),
    "truncated, zipped": (ZIPPED[:-500], "readable MATLAB file"),
    "a flipped byte": (ZIPPED[:3000] + b"\xff" + ZIPPED[3001:], "readable MATLAB file"),
    "HDF5": (PLAIN[:124] + b"\x00\x02IM" + PLAIN[128:], "NotImplementedError"),
    "no labels": (PLAIN.replace(b"\1\0\1\0y", b"\1\0\1\0z"), "KeyError: 'y'"),
    "floats": (to_mat(IMAGES / 255, DIGITS), "X of float64"),
    "fractions as labels": (to_mat(IMAGES, DIGITS + 0.5), "y of float64"),
    "not a number": (to_mat(IMAGES, np.full(30, np.nan)), "y of float64"),
    "small images": (to_mat(IMAGES[:, ::2], DIGITS), r"X \(16, 32, 3, 30\)"),
    "grey images": (to_mat(IMAGES[..., :1], DIGITS), r"X \(32, 32, 1, 30\)"),
    "29 labels": (to_mat(IMAGES, DIGITS[1:]), r"and y \(29, 1\)"),
    "an object": (to_mat(IMAGES, DIGITS, y={"a": 1}), "ValueError: X"),
    "label 0": (to_mat(IMAGES, DIGITS, y=np.zeros((30, 1), np.uint8)), "labels 1 to 10 expected, found 0"),
    "label 11": (to_mat(IMAGES, DIGITS, y=np.full((30, 1), 11, np.uint8)), "found 11"),
    "29 images": (to_mat(IMAGES[1:], DIGITS[1:]), "30 images expected, found 29"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_with_a_right_checksum_end_in_one_line(case, tmp_path, monkeypatch):
    content, expected = WRONG[case]
    (tmp_path / "train_32x32.mat").write_bytes(content)
    (tmp_path / "test_32x32.mat").write_bytes(to_mat(*draw("test")))
    pin(tmp_path, monkeypatch)
    message = refused_within(64 << 20, lambda: prepare(tmp_path, tmp_path), expected)
    assert "train_32x32.mat" in message


def test_labels_may_be_floats_of_whole_numbers(tmp_path):
    (tmp_path / "x.mat").write_bytes(to_mat(IMAGES, DIGITS.astype(float)))
    images, labels = svhn.read_mat(tmp_path / "x.mat")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels % 10, DIGITS)
