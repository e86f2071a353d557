"""A user's own data set in an npz file."""

import io
import itertools
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistjax.data import DataError, npz
from mnistjax.data.arrays import check_arrays
from mnistjax.data.npz import load_npz
from mnistjax.data.splits import hold_out
from test_data import one_line, refused_within

COUNTS = {"train": 100, "test": 20, "val": 15}


def draw(count, classes=4, shape=(9, 7)):
    """Images whose first two pixels are their number, and labels."""
    images = np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)
    images.reshape(count, -1)[:, :2] = np.stack(np.divmod(np.arange(count), 256), -1)
    return images, np.arange(count) * 3 % classes


def make(form=npz.KERAS, parts=("train", "test", "val"), **options):
    """The arrays of a data set by name."""
    arrays = {}
    for part in parts:
        images, labels = draw(COUNTS[part], **options)
        arrays |= {form[f"{part}_images"]: images, form[f"{part}_labels"]: labels}
    return arrays


def numbers(images):
    """The numbers of images that `draw` made."""
    first, second = images.reshape(len(images), -1)[:, :2].T.astype(int)
    return (first * 256 + second).tolist()


def load(folder, arrays, group=None, save=np.savez):
    save(folder / "own.npz", **arrays)
    return check_arrays("npz", load_npz(folder / "own.npz", group))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (32, 32, 3), (5, 5, 2)])
@pytest.mark.parametrize("form", [npz.KERAS, npz.MEDMNIST])
def test_all_parts_of_both_forms(form, shape, save, tmp_path):
    arrays = make(form, shape=shape)
    found = load(tmp_path, arrays, save=save)
    for part, key in form.items():
        expected = arrays[key][..., 0] if shape[2:] == (1,) and "images" in part else arrays[key]
        np.testing.assert_array_equal(found.by_name[part], expected)
    assert found.class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i4", "<u4", "<i8", ">u8"])
def test_labels_may_have_any_type_of_integers(dtype, column, tmp_path):
    arrays = make(parts=("train",))
    labels = arrays["y_train"].astype(dtype)
    found = load(
        tmp_path,
        {
            **arrays,
            "y_train": labels[:, None] if column else labels,
            "x_test": arrays["x_train"],
            "y_test": labels,
        },
    )
    np.testing.assert_array_equal(found.test_labels, arrays["y_train"])
    assert found.train_labels.dtype == np.int32


@pytest.mark.parametrize("given", [("train",), ("train", "test"), ("train", "val")])
def test_missing_parts_are_held_out_of_the_training_part(given, tmp_path):
    found = load(tmp_path, make(parts=given))
    expected = (
        {"train": 64, "test": 20, "val": 16} if given == ("train",) else {"train": 80, "test": 20, "val": 20}
    )
    expected |= {part: COUNTS[part] for part in given if part != "train"}
    assert {part: len(found.by_name[f"{part}_labels"]) for part in COUNTS} == expected
    held = [part for part in COUNTS if part not in given or part == "train"]
    together = itertools.chain(*(numbers(found.by_name[f"{part}_images"]) for part in held))
    assert sorted(together) == list(range(100))
    for part in held:
        np.testing.assert_array_equal(
            np.asarray(numbers(found.by_name[f"{part}_images"])) * 3 % 4, found.by_name[f"{part}_labels"]
        )
        assert np.ptp(np.bincount(found.by_name[f"{part}_labels"])) == 0  # stratified
    again = load(tmp_path, make(parts=given))
    np.testing.assert_array_equal(again.val_images, found.val_images)


def test_the_test_part_is_held_out_first_and_then_the_validation_part(tmp_path):
    found = load(tmp_path, make(parts=("train",)))
    rest, held = hold_out(draw(100)[1])
    assert numbers(found.test_images) == held.tolist()
    train, val = hold_out(draw(100)[1][rest])
    assert numbers(found.val_images) == rest[val].tolist()
    assert numbers(found.train_images) == rest[train].tolist()


@pytest.mark.parametrize("kind", ["int64", "uint8", "<U5"])
@pytest.mark.parametrize("given", [("train",), ("train", "test")])
def test_groups_stay_together(given, kind, tmp_path):
    people = [number // 5 for number in range(100)]
    found = load(tmp_path, {**make(parts=given), "person": np.array(people).astype(kind)}, "person")
    held = [part for part in COUNTS if part not in given or part == "train"]
    groups = [{people[number] for number in numbers(found.by_name[f"{part}_images"])} for part in held]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20
    assert sum(len(found.by_name[f"{part}_labels"]) for part in held) == 100


def test_class_names(tmp_path):
    names = np.array(["cat", "dog", "größer", "no such image"])
    assert load(tmp_path, {**make(), "class_names": names}).class_names == tuple(names)


def test_a_folder_with_one_file(tmp_path):
    with pytest.raises(
        DataError, match=r"one \.npz file expected, found none; data\.raw_dir may name a file"
    ) as error:
        load_npz(tmp_path)
    one_line(error)
    np.savez(tmp_path / "a.npz", **make())
    (tmp_path / "notes.txt").touch()
    assert len(load_npz(tmp_path).test_labels) == 20
    np.savez(tmp_path / "b\n.npz", **make())
    with pytest.raises(DataError, match=r"found 'a\.npz', 'b\\n\.npz'") as error:
        load_npz(tmp_path)
    one_line(error)
    assert len(load_npz(tmp_path / "a.npz").test_labels) == 20
    with pytest.raises(DataError, match=r"none\.npz: a readable npz file expected, found: No such file"):
        load_npz(tmp_path / "none.npz")


X, Y = draw(100)
INCOMPLETE = {
    "no arrays": ({}, r"x_train, y_train, \.\.\. or train_images, train_labels, \.\.\. expected, found none"),
    "other names": ({"images": X, "labels": Y}, "expected, found 'images', 'labels'"),
    "a strange name": ({"a\nb": X}, r"found 'a\\nb'"),
    "both forms": ({**make(), **make(npz.MEDMNIST)}, "not both, expected, found 'x_train'"),
    "no labels": ({"x_train": X}, "the arrays x_train and y_train expected, found no y_train"),
    "no images": ({"train_labels": Y}, "found no train_images"),
    "no test labels": ({"x_train": X, "y_train": Y, "x_test": X}, "found no y_test"),
    "no validation images": ({"x_train": X, "y_train": Y, "y_val": Y}, "found no x_val"),
    "one class": ({"x_train": X, "y_train": Y * 0}, "at least 2 different class names"),
    "four images": (
        {"x_train": X[:4], "y_train": Y[:4]},
        "training split: at least 5 images expected, found 4",
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_what_is_missing_is_said_in_one_line(case, tmp_path):
    arrays, expected = INCOMPLETE[case]
    with pytest.raises(DataError, match=expected) as error:
        load(tmp_path, arrays)
    one_line(error)


WRONG = {
    "float images": (
        {"x_train": X / 255},
        r"x_train: uint8 \(N, H, W\) or .* expected, found float64",
    ),
    "bool images": ({"x_train": X > 9}, r"found bool \(100, 9, 7\)"),
    "int images": ({"x_train": X.astype(int)}, "found int64"),
    "flat images": ({"x_train": X.reshape(100, -1)}, r"found uint8 \(100, 63\)"),
    "no image": ({"x_train": X[:0], "y_train": Y[:0]}, r"found uint8 \(0, 9, 7\)"),
    "empty images": ({"x_train": X[:, :0]}, r"found uint8 \(100, 0, 7\)"),
    "Fortran order": (
        {"x_train": np.asfortranarray(X)},
        "in C order expected, found .* in Fortran order",
    ),
    "objects": ({"x_train": np.array([{}, 1], object)}, r"found object \(2,\)"),
    "a structure": ({"x_train": np.zeros(9, "u1,i4")}, "x_train: uint8"),
    "a number": ({"x_train": np.uint8(1)}, r"found uint8 \(\)"),
    "float labels": (
        {"y_train": Y / 1},
        r"y_train: integers \(N,\) or \(N, 1\) in C order .* float64",
    ),
    "bool labels": ({"y_train": Y > 1}, "found bool"),
    "string labels": ({"y_train": Y.astype(str)}, "found <U"),
    "object labels": ({"y_train": Y.astype(object)}, "found object"),
    "one-hot labels": ({"y_train": np.eye(4, dtype=int)[Y]}, r"found int64 \(100, 4\)"),
    "negative labels": ({"y_train": Y - 1}, "y_train: labels 0 to 999 expected, found -1"),
    "a label too many": ({"y_train": Y + 997}, "labels 0 to 999 expected, found 1000"),
    "too many names": ({"class_names": np.arange(1001).astype(str)}, "at most 1,000 classes .* found 1,001"),
    "huge labels": ({"y_train": Y.astype("u8") + 2**63}, "found 9223372036854775808"),
    "one label less": ({"y_train": Y[1:]}, "100 labels expected as in x_train, found 99"),
    "other sizes": ({"x_test": X[:20, :5]}, r"images of \(9, 7\) as in the training split"),
    "three names": ({"class_names": np.array(list("abc"))}, "labels 0 to 2 expected, found 3"),
    "equal names": ({"class_names": np.array(list("abca"))}, "at least 2 different class names"),
    "an empty name": (
        {"class_names": np.array(["a", "", "b", "c"])},
        "printable names expected, found ''",
    ),
    "a line break": ({"class_names": np.array(["a\n", "b", "c", "d"])}, r"found 'a\\n'"),
    "half a character": ({"class_names": np.array(["a", "\ud800", "c", "d"])}, r"found '\\ud800'"),
    "object names": ({"class_names": np.array(list("abcd"), object)}, "strings of type <U .* object"),
    "byte names": ({"class_names": np.array([b"a", b"b"])}, r"found \|S1"),
    "number names": ({"class_names": np.arange(4)}, "strings of type <U .* found int64"),
    "a matrix of names": ({"class_names": np.array([["a", "b"]])}, r"found <U1 \(1, 2\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_named_in_one_line(case, tmp_path):
    changed, expected = WRONG[case]
    with pytest.raises(DataError, match=expected) as error:
        load(tmp_path, {**make(), **changed})
    one_line(error)


WRONG_GROUPS = {
    "no such array": (None, "the array 'person' .data.group. expected, found 'x_train', 'y_train'"),
    "objects": (np.array(["a"] * 100, object), "integers or strings of type <U .* found object"),
    "bytes": (np.array([b"a"] * 100), r"found \|S1"),
    "floats": (np.ones(100), "found float64"),
    "a column": (np.ones((100, 1), int), r"found int64 \(100, 1\)"),
    "one less": (np.ones(99, int), "person: a value for each of 100 images expected, found 99"),
    "one person": (np.ones(100, int), r"own\.npz: at least 2 groups expected, found 1"),
    "two persons": (np.arange(100) % 2, r"own\.npz: each group has all examples of a class"),
}


@pytest.mark.parametrize("case", WRONG_GROUPS)
def test_wrong_groups(case, tmp_path):
    person, expected = WRONG_GROUPS[case]
    arrays = make(parts=("train",)) | ({} if person is None else {"person": person})
    with pytest.raises(DataError, match=expected) as error:
        load(tmp_path, arrays, "person")
    one_line(error)


def header(shape, dtype="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def described(text):
    text = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


NPY = {
    "empty": (b"", "x_train: a readable npy file expected"),
    "HTML": (b"<html>", "x_train: a readable npy file expected"),
    "truncated": (header((100, 9, 7)) + bytes(99), "not 6,300 bytes after the header"),
    "longer": (header((100, 9, 7)) + bytes(6301), "not 6,300 bytes after the header"),
    "many zeros": (header((100, 9, 7)) + bytes(2**27), "not 6,300 bytes after the header"),
    "a huge shape": (
        header((10**12, 28, 28)) + bytes(99),
        r"at most 4,294,967,296 bytes expected, found 784,000",
    ),
    "a large shape": (header((1_000_000, 28, 28)) + bytes(99), "not 784,000,000 bytes"),
    "a huge side": (header((1, 1, 2**31)) + bytes(99), "not 2,147,483,648 bytes"),
    "negative sides": (header((7, -9, -1)) + bytes(63), r"found uint8 \(7, -9, -1\)"),
    "a negative count": (header((-1, 9, 7)) + bytes(63), r"found uint8 \(-1, 9, 7\)"),
    "version 3": (b"\x93NUMPY\x03\x00" + b"\xff" * 99, r"version \(3, 0\)"),
    "a long header": (described("{" + " " * 60_000 + "}"), "no header: Header info length"),
    "code as header": (described("__import__('os').system('false')"), "no header"),
    "deep brackets": (described("[" * 9_000), "no header"),
    "no dictionary": (described("(1, 2)"), "no header"),
    "an unknown type": (described("{'descr': 'x9', 'fortran_order': False, 'shape': (1,)}"), "no header"),
    "long numbers": (
        described("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"),
        "no header",
    ),
}


def put_npy(folder, content, key="x_train"):
    """An npz of good arrays and one with this content."""
    stream = io.BytesIO()
    np.savez(stream, **make())
    with zipfile.ZipFile(stream) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | {f"{key}.npy": content}
    with zipfile.ZipFile(folder / "own.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return folder / "own.npz"


@pytest.mark.parametrize("case", NPY)
def test_hostile_arrays_end_in_one_line(case, tmp_path):
    content, expected = NPY[case]
    path = put_npy(tmp_path, content)
    message = refused_within(8 << 20, lambda: load_npz(path), expected)
    assert message.startswith(f"{path}:x_train: ")


def test_strings_of_impossible_characters_are_refused(tmp_path):
    content = header((4,), "<U2") + b"\xff" * 32
    with pytest.raises(DataError, match="printable names expected") as error:
        load_npz(put_npy(tmp_path, content, "class_names"))
    one_line(error)


@pytest.mark.parametrize("make_it", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_anything_but_a_file_is_refused(make_it, tmp_path):
    make_it(tmp_path / "own.npz")
    for path in (tmp_path, tmp_path / "own.npz"):
        with pytest.raises(DataError, match="a file expected, found a") as error:
            load_npz(path)
        one_line(error)


def small_file():
    stream = io.BytesIO()
    images, labels = draw(12, classes=2, shape=(2, 2))
    np.savez_compressed(stream, x_train=images, y_train=labels, class_names=np.array(["a", "b"]))
    return stream.getvalue()


SMALL = small_file()


@given(
    st.lists(st.tuples(st.integers(0, len(SMALL)), st.binary(max_size=3)), max_size=6), st.integers(0, 2000)
)
def test_any_bytes_are_a_data_set_or_an_error(tmp_path_factory, changes, length):
    content = bytearray(SMALL)
    for place, value in changes:
        content[place : place + len(value)] = value
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(content[: length or None] if length < 100 else content)
    try:
        arrays = check_arrays("npz", load_npz(path))
    except DataError as error:
        message = str(error)
    else:
        message = ""
        assert arrays.train_images.shape[1:] == (2, 2)
    assert "\n" not in message


def test_arrays_of_other_names_are_named_in_a_warning(tmp_path, caplog):
    arrays = make(parts=("train",))
    load(tmp_path, {**arrays, "x_valid": arrays["x_train"], "note": np.zeros(3)})
    assert "not used: 'x_valid'; expected names: x_train, y_train, x_test, " in caplog.text
    caplog.clear()
    load(tmp_path, {**make(), "person": np.arange(100)}, "person")
    assert "data.group changes nothing" in caplog.text
