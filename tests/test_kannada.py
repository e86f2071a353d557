"""Kannada-MNIST's npz files; small ones stand for the official ones."""

import gzip
import hashlib
import io
import os

import numpy as np
import pytest

from mnistjax.data import DataError, kannada
from mnistjax.data.arrays import Missing, check_arrays
from test_data import one_line

SHAPES = {
    "train_images": (30, 28, 28),
    "train_labels": (30,),
    "test_images": (20, 28, 28),
    "test_labels": (20,),
}


def draw(part):
    if "labels" in part:
        return (np.arange(SHAPES[part][0]) % 10).astype(np.uint8)
    return np.random.default_rng(len(part)).integers(0, 256, SHAPES[part], np.uint8)


def pack(save, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for part, row in kannada.FILES.items():
        stream = io.BytesIO()
        np.save(stream, draw(part))
        own = {"length": len(draw(part)), "array_id": git_id(stream.getvalue())}
        monkeypatch.setitem(kannada.FILES, part, row._replace(**own))


def write_official(folder, save=np.savez):
    folder.mkdir(exist_ok=True, parents=True)
    for part, row in kannada.FILES.items():
        (folder / row.file).write_bytes(pack(save, arr_0=draw(part)))
    return folder


def read(folder):
    return kannada.read(raw_dir=folder, downloads=folder / "downloads")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("place", ["", "kannada_mnist"])
def test_the_arrays_are_verified_however_they_are_packed(place, save, tmp_path):
    write_official(tmp_path / place, save)
    arrays = check_arrays("kannada_mnist", read(tmp_path))
    for part in SHAPES:
        np.testing.assert_array_equal(arrays.by_name[part], draw(part))
    assert arrays.class_names == tuple("0123456789")


def test_the_official_labels_have_the_pinned_ids(monkeypatch):
    """They are six thousand and a thousand of each digit in turn, as the published files have them."""
    monkeypatch.undo()
    assert {row.length for row in kannada.FILES.values()} == {60_000, 10_000}
    assert len({row.array_id for row in kannada.FILES.values()}) == 4


@pytest.mark.parametrize("shape", [(1,), (60_000,), (60_000, 28, 28), (7, 28, 28)])
def test_the_id_of_an_array_is_that_of_its_file(shape):
    stream = io.BytesIO()
    np.save(stream, np.ones(shape, np.uint8))
    assert kannada.find_array_id(np.ones(shape, np.uint8)) == git_id(stream.getvalue())


def test_a_missing_file_is_named(tmp_path):
    write_official(tmp_path)
    (tmp_path / "y_kannada_MNIST_test.npz").unlink()
    with pytest.raises(
        Missing, match=r"y_kannada_MNIST_test\.npz expected there or in its subfolder"
    ) as error:
        read(tmp_path)
    one_line(error)


IMAGES = draw("train_images")
WRONG = {
    "empty": (b"", "File is not a zip file"),
    "HTML": (b"<html>", "File is not a zip file"),
    "gzip": (gzip.compress(IMAGES.tobytes()), "File is not a zip file"),
    "truncated": (pack(np.savez, arr_0=IMAGES)[:-1000], "File is not a zip file"),
    "another name": (pack(np.savez, x=IMAGES), "no item named 'arr_0.npy'"),
    "another pixel": (
        pack(np.savez, arr_0=IMAGES ^ 1),
        r"Git id \w+ expected, found \w+; replace it by https:",
    ),
    "another order": (pack(np.savez, arr_0=IMAGES[::-1]), "Git id"),
    "one image less": (pack(np.savez, arr_0=IMAGES[1:]), "Git id"),
    "many images": (pack(np.savez, arr_0=np.repeat(IMAGES, 2, axis=0)), r"uint8 \(60, 28, 28\)"),
    "floats": (pack(np.savez, arr_0=IMAGES / 255), "float64"),
    "objects": (pack(np.savez, arr_0=np.array([{}, 1], object)), "object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_end_in_one_line(case, tmp_path):
    content, expected = WRONG[case]
    path = write_official(tmp_path) / "X_kannada_MNIST_train.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected) as error:
        read(tmp_path)
    assert one_line(error).startswith(str(path))


def test_a_pipe_is_not_waited_for(tmp_path):
    path = write_official(tmp_path) / "X_kannada_MNIST_train.npz"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="a file expected, found a pipe"):
        read(tmp_path)
