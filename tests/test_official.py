"""Official files in the forms in which people have them; small data sets stand for the known ones."""

import gzip
import hashlib
import io
import os
import zipfile

import numpy as np
import pytest

from mnistjax import data
from mnistjax.data import DataError, builders, idx, official
from mnistjax.data.arrays import ARRAYS, Missing, Unreachable
from test_data import HAS_REAL, REAL, one_line, refused_within, to_idx

SETS = ("mnist", "fashion_mnist", "kmnist", "emnist")
NAMES = {part: f"{stem}.gz" for part, stem in idx.FILES.items()}


def arrays(dataset):
    """The parts of a small data set."""
    random = np.random.default_rng(SETS.index(dataset))
    shapes = {
        "train_images": (30, 28, 28),
        "train_labels": 30,
        "test_images": (20, 28, 28),
        "test_labels": 20,
    }
    return {part: random.integers(0, 10, shape, np.uint8) for part, shape in shapes.items()}


def archives(dataset):
    """The official files of a small data set, by name."""
    contents = {
        NAMES[part]: gzip.compress(to_idx(array), 9, mtime=1) for part, array in arrays(dataset).items()
    }
    if dataset != "emnist":
        return contents
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(f"gzip/{name}"), content)
    return {"gzip.zip": stream.getvalue()}


def read(path, filename):
    """The parts in an official file, as a builder reads them."""
    (part,) = (part for part, name in NAMES.items() if name == filename)
    return {part: (idx.read_file(path, idx.ITEMS[part]), str(path))}


def find(dataset, folder):
    """What `find_arrays` finds if the small data sets are the official ones."""
    known = [
        official.Archive(name, file, f"https://x/{file}", len(content), hashlib.sha256(content).hexdigest())
        for name in SETS
        for file, content in archives(name).items()
    ]
    return official.find_arrays(dataset, folder, known, read)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    rows = {name: arrays(name).values() for name in official.CONTENTS}
    sums = {name: tuple(hashlib.sha256(to_idx(a)).hexdigest() for a in row) for name, row in rows.items()}
    monkeypatch.setattr(official, "CONTENTS", sums)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_keras(folder, dataset, **replaced):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(
        folder / "mnist.npz", **dict(zip(names, arrays(dataset).values(), strict=True)) | replaced
    )


def put_csv(folder, dataset, titles=True):
    own = arrays(dataset)
    for half in ("train", "test"):
        table = np.column_stack([own[f"{half}_labels"], own[f"{half}_images"].reshape(-1, 784)])
        title = ",".join(["label", *(f"{i}x{j}" for i in range(28) for j in range(28))])
        np.savetxt(
            folder / f"{dataset.replace('_', '-')}_{half}.csv",
            table,
            "%d",
            ",",
            header=title if titles else "",
            comments="",
        )


def dotted(name):
    return name.replace("-idx", ".idx")


def each(place):
    """A function that puts each part's content where `place(folder, name, zipped, plain)` says."""

    def put_all(folder, dataset):
        for part, array in arrays(dataset).items():
            place(folder, idx.FILES[part], archives(dataset)[NAMES[part]], to_idx(array))

    return put_all


FORMS = {
    "as downloaded": each(lambda folder, name, zipped, plain: put(folder / f"{name}.gz", zipped)),
    "unpacked": each(lambda folder, name, zipped, plain: put(folder / name, plain)),
    "unpacked, dots": each(lambda folder, name, zipped, plain: put(folder / dotted(name), plain)),
    "packed again, dots": each(
        lambda folder, name, zipped, plain: put(folder / f"{dotted(name)}.gz", gzip.compress(plain, 1))
    ),
    "torchvision": each(lambda folder, name, zipped, plain: put(folder / "VISION/raw" / name, plain)),
    "torchvision's MNIST": each(lambda folder, name, zipped, plain: put(folder / "raw" / name, plain)),
    "Kaggle": each(lambda folder, name, zipped, plain: put(folder / name / name, plain)),
    "Kaggle, dots": each(
        lambda folder, name, zipped, plain: put(folder / dotted(name) / dotted(name), plain)
    ),
    "Keras": put_keras,
    "Keras's folder": each(lambda folder, name, zipped, plain: put(folder / "HYPHEN" / f"{name}.gz", zipped)),
    "CSV": put_csv,
    "CSV without titles": lambda folder, dataset: put_csv(folder, dataset, titles=False),
}


def make(folder, form, dataset):
    """Puts a data set in a form into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    FORMS[form](folder, dataset)
    names = {"VISION": official.TORCHVISION[dataset], "HYPHEN": dataset.replace("_", "-")}
    for placeholder, name in names.items():
        if (folder / placeholder).exists():
            (folder / placeholder).rename(folder / name)
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_a_data_set_is_found_in_each_form(dataset, form, tmp_path):
    if (dataset, form) == ("fashion_mnist", "Keras"):
        pytest.skip("Keras has the official files of Fashion-MNIST")
    found = find(dataset, make(tmp_path / "x", form, dataset))
    assert {*found} == {*ARRAYS}
    for part, array in arrays(dataset).items():
        np.testing.assert_array_equal(found[part][0], array)
        assert found[part][0].dtype == np.uint8


def test_parts_may_have_different_forms_and_a_damaged_file_may_have_a_good_copy(tmp_path):
    for part, form in zip(ARRAYS, ("as downloaded", "unpacked", "Kaggle", "torchvision"), strict=True):
        source = make(tmp_path / form, form, "mnist")
        for path in source.rglob(f"{idx.FILES[part]}*"):
            if path.is_file():
                put(tmp_path / "all" / path.relative_to(source), path.read_bytes())
    assert {*find("mnist", tmp_path / "all")} == {*ARRAYS}
    put(tmp_path / "all" / NAMES["test_images"], b"")
    assert {*find("mnist", tmp_path / "all")} == {*ARRAYS}


@pytest.mark.parametrize("form", ["as downloaded", "unpacked", "packed again, dots", "Kaggle"])
@pytest.mark.parametrize("wanted", SETS)
@pytest.mark.parametrize("given", ["mnist", "fashion_mnist"])
def test_files_of_another_data_set_are_named_and_left_alone(given, wanted, form, tmp_path):
    folder = make(tmp_path, form, given)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if wanted == given:
        return
    with pytest.raises(Missing) as error:
        find(wanted, folder)
    message = one_line(error)
    assert f"the official files of {wanted} are not in it (" in message
    assert f" is of {given})" in message
    assert "gzip.zip expected" in message if wanted == "emnist" else NAMES["test_labels"] in message
    assert "truncated" not in message
    assert "replace" not in message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("given", ["kmnist", "emnist"])
def test_packed_files_of_any_data_set_are_named(given, tmp_path):
    for name, content in archives(given).items():
        put(tmp_path / name, content)
    with pytest.raises(Missing, match=rf"\({next(iter(archives(given)))} is of {given}\)"):
        find("mnist", tmp_path)


def test_an_npz_of_another_data_set_is_named(tmp_path):
    put_keras(tmp_path, "fashion_mnist")
    with pytest.raises(Missing, match=r"\(mnist.npz is of fashion_mnist\)"):
        find("mnist", tmp_path)


def test_both_data_sets_may_be_in_one_folder(tmp_path):
    make(tmp_path, "unpacked", "mnist")
    make(tmp_path / "fashion_mnist", "as downloaded", "fashion_mnist")
    for dataset in ("mnist", "fashion_mnist"):
        np.testing.assert_array_equal(
            find(dataset, tmp_path)["test_images"][0], arrays(dataset)["test_images"]
        )


def test_what_has_no_known_checksum_is_not_used(tmp_path):
    make(tmp_path, "unpacked", "kmnist")
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte: can't be verified: no official file"
    ) as error:
        find("kmnist", tmp_path)
    one_line(error)


def test_missing_parts_are_named_with_what_was_looked_for(tmp_path):
    make(tmp_path, "unpacked", "mnist")
    (tmp_path / idx.FILES["test_labels"]).unlink()
    with pytest.raises(DataError, match=rf"not in it: {NAMES['test_labels']} expected .*mnist.npz") as error:
        find("mnist", tmp_path)
    assert not isinstance(error.value, Missing)
    one_line(error)


def swap(folder):
    own = arrays("mnist")
    put_keras(folder, "mnist", x_test=own["test_images"][::-1])


def put_npy(folder, content):
    """An npz whose first array has this content."""
    put_keras(folder, "mnist")
    with zipfile.ZipFile(folder / "mnist.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | {"x_train.npy": content}
    with zipfile.ZipFile(folder / "mnist.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)


def npy(shape, dtype="|u1", length=0):
    stream = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue() + bytes(length)


def objects():
    stream = io.BytesIO()
    np.save(stream, np.array([{}, 1], object))
    return stream.getvalue()


def put_row(folder, text):
    put_csv(folder, "mnist")
    with open(folder / "mnist_test.csv", "ab") as file:
        file.write(text)


BAD = {
    "another order": (swap, "mnist.npz:x_test: can't be verified"),
    "no zip": (
        lambda folder: put(folder / "mnist.npz", b"PK"),
        "a readable npz file expected, found: File is not",
    ),
    "empty": (lambda folder: put(folder / "mnist.npz", b""), "npz file expected"),
    "no such array": (lambda folder: np.savez(folder / "mnist.npz", x=1), "no item named 'x_train.npy'"),
    "floats": (lambda folder: put_keras(folder, "mnist", x_train=np.zeros((30, 28, 28))), "float64"),
    "pickled": (lambda folder: put_npy(folder, objects()), "found: object"),
    "a huge shape": (lambda folder: put_npy(folder, npy((10**12, 28, 28))), r"\(1000000000000, 28, 28\)"),
    "many zeros": (lambda folder: put_npy(folder, npy((30, 28, 28), length=2**27)), "not 23,520 bytes"),
    "a long header": (
        lambda folder: put_npy(folder, b"\x93NUMPY\x03\x00" + b"\xff" * 99),
        r"version \(3, 0\)",
    ),
    "truncated": (lambda folder: put_npy(folder, npy((30, 28, 28), length=99)), "not 23,520 bytes"),
    "a pipe": (lambda folder: os.mkfifo(folder / "mnist.npz"), "a file expected, found a pipe"),
    "a folder": (lambda folder: (folder / "mnist.npz").mkdir(), "a file expected, found a folder"),
    "a pipe as CSV": (lambda folder: os.mkfifo(folder / "mnist_train.csv"), "a file expected, found a pipe"),
    "words": (
        lambda folder: put_row(folder, b"zero" + b",0" * 784),
        "a readable CSV file expected, found: .*zero",
    ),
    "a large number": (lambda folder: put_row(folder, b"256" + b",0" * 784), "256"),
    "a short row": (lambda folder: put_row(folder, b"1,2"), "columns"),
    "a row more": (lambda folder: put_row(folder, b"1" + b",0" * 784), "can't be verified"),
    "an empty CSV": (lambda folder: put(folder / "mnist_test.csv", b""), "rows of"),
    "bytes": (lambda folder: put(folder / "mnist_test.csv", b"\x80\x00" * 999), "CSV file expected"),
    "a large CSV": (
        lambda folder: put(folder / "mnist_test.csv", b"") or os.truncate(folder / "mnist_test.csv", 2**29),
        "536,870,912 bytes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_hostile_files_end_in_one_line(case, tmp_path):
    damage, expected = BAD[case]
    damage(tmp_path)
    refused_within(8 << 20, lambda: find("mnist", tmp_path), expected)


def test_loops_of_links_count_as_missing(tmp_path):
    for name in (*NAMES.values(), "mnist", "MNIST", "raw", "mnist.npz"):
        (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(Missing):
        find("mnist", tmp_path)


def test_a_bomb_with_an_official_name_takes_no_memory(tmp_path):
    bomb = np.array([0x0803, 10**6, 28, 28], ">u4").tobytes() + bytes(2**27)
    put(tmp_path / NAMES["train_images"], gzip.compress(bomb, 1))
    refused_within(8 << 20, lambda: find("mnist", tmp_path), "wrong checksum")


# --- through the doors


@pytest.mark.skipif(not HAS_REAL, reason="needs the official MNIST files")
def test_real_files_of_mnist_are_not_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(
        DataError, match=rf"{REAL}: the official files of fashion_mnist .* is of mnist\)"
    ) as error:
        data.load_data("fashion_mnist", data_dir=tmp_path, raw_dir=REAL)
    one_line(error)
    assert os.listdir(tmp_path / "mnistjax") == ["fashion_mnist.lock"]


@pytest.mark.skipif(not HAS_REAL, reason="needs the official MNIST files")
def test_real_files_are_known_unpacked(tmp_path, monkeypatch):
    monkeypatch.undo()
    for part, name in NAMES.items():
        put(tmp_path / dotted(idx.FILES[part]), gzip.decompress((REAL / name).read_bytes()))
    found = official.find_arrays("mnist", tmp_path, builders._archives(), read)
    assert len(found["train_images"][0]) == 60_000


def test_auto_ignores_a_folder_of_another_data_set(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(builders, "check_reachable", lambda url: (_ for _ in ()).throw(Unreachable("no")))
    monkeypatch.setenv("MNISTJAX_RAW_DIR", str(make(tmp_path / "raw", "unpacked", "fashion_mnist")))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    data._load.cache_clear()
    assert data.load_data("auto").name == "digits"
    assert "no file of MNIST is in it" in caplog.text


def test_the_users_own_files_may_have_dots_but_not_two_contents(tmp_path):
    for part, array in arrays("mnist").items():
        put(tmp_path / dotted(idx.FILES[part]), to_idx(array))
    assert len(data.load_data("idx", raw_dir=tmp_path).test.images) == 20
    put(tmp_path / NAMES["test_images"], archives("mnist")[NAMES["test_images"]])
    data._load.cache_clear()
    assert len(data.load_data("idx", raw_dir=tmp_path).test.images) == 20
    put(tmp_path / NAMES["test_images"], archives("kmnist")[NAMES["test_images"]])
    data._load.cache_clear()
    with pytest.raises(DataError, match=r"ubyte\.gz and .*t10k-images\.idx3-ubyte differ; keep one") as error:
        data.load_data("idx", raw_dir=tmp_path)
    one_line(error)
