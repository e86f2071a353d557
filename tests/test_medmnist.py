"""MedMNIST's files: made-up ones with pinned checksums, and the real ones if they are there."""

import hashlib
import io
import os
import zipfile

import numpy as np
import pytest

from mnistjax.config import ConfigError
from mnistjax.data import DataError, medmnist
from mnistjax.data.arrays import Missing, check_arrays
from test_data import REAL, one_line

OFFICIAL = REAL.parent / "medmnist"
needs_files = pytest.mark.skipif(
    not all((OFFICIAL / f"{name}.npz").is_file() for name in ("retinamnist", "breastmnist")),
    reason="needs official files of MedMNIST",
)


def draw(image, counts, classes):
    """The arrays of a small file, as MedMNIST stores them."""
    random = np.random.default_rng(len(image))
    arrays = {}
    for half, count in zip(("train", "val", "test"), counts, strict=True):
        arrays[f"{half}_images"] = random.integers(0, 256, (count, *image), np.uint8)
        arrays[f"{half}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return arrays


def pack(arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def pin(subset, content, monkeypatch, counts=(30, 8, 9)):
    """Makes `content` the official file of a subset."""
    row = medmnist.SUBSETS[subset]._replace(counts=counts, md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(medmnist.SUBSETS, subset, row)
    return row


def small(subset):
    row = medmnist.SUBSETS[subset]
    return draw(row.image, (30, 8, 9), len(row.class_names))


def read(subset, folder):
    return medmnist.read(subset, raw_dir=folder, downloads=folder / "downloads")


@pytest.mark.parametrize("place", ["", "medmnist"])
@pytest.mark.parametrize("subset", medmnist.SUBSETS)
def test_each_subset_keeps_its_own_parts(subset, place, tmp_path, monkeypatch):
    arrays = small(subset)
    row = pin(subset, pack(arrays), monkeypatch)
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / f"{subset}.npz").write_bytes(pack(arrays))
    found = check_arrays(subset, read(subset, tmp_path))
    assert set(found.by_name) == set(arrays)
    for part, array in arrays.items():
        np.testing.assert_array_equal(found.by_name[part], array if "images" in part else array[:, 0])
    assert found.class_names == row.class_names


def test_the_table_is_plausible():
    assert len(medmnist.SUBSETS) == 11
    assert len({row.md5 for row in medmnist.SUBSETS.values()}) == 11
    for row in medmnist.SUBSETS.values():
        assert len(row.md5) == 32
        assert len({*row.class_names}) == len(row.class_names) >= 2
        assert row.image in ((28, 28), (28, 28, 3))


@needs_files
def test_the_real_retinamnist(tmp_path):
    arrays = check_arrays("medmnist", read("retinamnist", OFFICIAL.parent))
    assert arrays.train_images.shape == (1080, 28, 28, 3)
    assert [len(arrays.by_name[f"{half}_labels"]) for half in ("train", "val", "test")] == [1080, 120, 400]
    assert arrays.class_names == tuple("01234")
    assert np.bincount(arrays.test_labels).tolist() == [174, 46, 92, 68, 20]


@needs_files
def test_the_real_breastmnist():
    arrays = check_arrays("medmnist", read("breastmnist", OFFICIAL))
    assert arrays.train_images.shape == (546, 28, 28)
    assert [len(arrays.by_name[f"{half}_labels"]) for half in ("train", "val", "test")] == [546, 78, 156]
    assert arrays.class_names == ("malignant", "normal, benign")
    assert np.bincount(arrays.test_labels).tolist() == [42, 114]


def test_the_name_of_a_subset_is_needed_and_checked(tmp_path):
    with pytest.raises(DataError, match=r"needs data\.subset=NAME: pathmnist, .*, organsmnist$") as error:
        read(None, tmp_path)
    one_line(error)
    with pytest.raises(DataError, match=r"chestmnist: its images have up to 14 labels each") as error:
        read("chestmnist", tmp_path)
    one_line(error)
    with pytest.raises(ConfigError, match=r"unknown data\.subset 'brestmnist'; nearest is 'breastmnist'"):
        read("brestmnist", tmp_path)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "retinamnist.npz").write_bytes(b"")
    with pytest.raises(
        Missing, match=r"breastmnist\.npz expected there or in its subfolder medmnist"
    ) as error:
        read("breastmnist", tmp_path)
    one_line(error)


@pytest.mark.parametrize(
    ("content", "looks"), [(b"", "0 bytes"), (b"<html>sign in", "an HTML page"), (b"PK" * 999, "1998 bytes")]
)
def test_another_file_is_refused(content, looks, tmp_path):
    (tmp_path / "breastmnist.npz").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"wrong checksum: MD5 7506.*{looks}.*; replace it by https:"
    ) as error:
        read("breastmnist", tmp_path)
    one_line(error)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "breastmnist.npz")
    with pytest.raises(DataError, match="a file expected, found a pipe"):
        read("breastmnist", tmp_path)


def replace(**arrays):
    return lambda: pack({**small("breastmnist"), **arrays})


def encrypted():
    content = bytearray(replace()())
    for place in (content.find(b"PK\3\4") + 6, content.find(b"PK\1\2") + 8):
        content[place] |= 1
    return bytes(content)


def flipped():
    content = bytearray(replace()())
    content[2000] ^= 255
    return bytes(content)


def without_labels():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("train_images.npy", b"")
    return stream.getvalue()


IMAGES, LABELS = small("breastmnist")["train_images"], small("breastmnist")["train_labels"]
HOSTILE = {
    "empty": (lambda: b"", "File is not a zip file"),
    "HTML": (lambda: b"<html>", "File is not a zip file"),
    "a truncated zip": (lambda: replace()()[:-30], "File is not a zip file"),
    "a flipped byte": (flipped, "readable npz file expected"),
    "encrypted": (encrypted, "encrypted"),
    "an empty array": (without_labels, "readable npz file expected"),
    "floats": (replace(train_images=IMAGES / 255), "float64"),
    "objects": (replace(train_images=np.array([{}, 1], object)), "object"),
    "colour": (replace(train_images=np.stack([IMAGES] * 3, -1)), r"uint8 \(30, 28, 28, 3\)"),
    "Fortran order": (replace(train_images=np.asfortranarray(IMAGES)), r"uint8 \(30, 28, 28\)"),
    "one image less": (replace(train_images=IMAGES[1:]), "train_images of 29, not 30"),
    "one image more": (replace(train_images=IMAGES[[0, *range(30)]]), r"uint8 \(31, 28, 28\)"),
    "labels without a column": (replace(val_labels=LABELS[:8, 0]), r"uint8 \(8,\)"),
    "many labels": (replace(val_labels=np.zeros((8, 14), np.uint8)), r"uint8 \(8, 14\)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_files_with_a_right_checksum_end_in_one_line(case, tmp_path, monkeypatch):
    make, expected = HOSTILE[case]
    pin("breastmnist", make(), monkeypatch)
    (tmp_path / "breastmnist.npz").write_bytes(make())
    with pytest.raises(DataError, match=expected) as error:
        read("breastmnist", tmp_path)
    assert one_line(error).startswith(str(tmp_path / "breastmnist.npz"))
