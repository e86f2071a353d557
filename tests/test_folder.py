"""A folder per class of pictures: what is read and how, its parts, and every error in one line."""

import contextlib
import os
import random
import re
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps

import mnistjax
from mnistjax import data
from mnistjax.data import DataError
from mnistjax.data import reader as readers
from mnistjax.data.arrays import check_arrays, digest
from mnistjax.data.folder import fingerprint, load_folder
from mnistjax.data.listing import show
from mnistjax.data.pixels import to_image
from mnistjax.decode import MOST_BYTES, open_picture
from test_data import REAL, one_line
from test_decode import HOSTILE, encode

SIGNS = REAL.parent / "signdigits"
NOT_TEXT = os.fsdecode(b"caf\xe9")


def load(root, **options):
    defaults = {"size": None, "channels": None, "group": None, "skip_bad": False}
    arrays = load_folder(root, **(defaults | options))
    check_arrays("folder", arrays._replace(left_out=(), warnings=()))
    return arrays


def error_of(root, **options):
    with pytest.raises(DataError) as caught:
        load(root, **options)
    text = one_line(caught)
    assert text.isprintable()
    return text.removeprefix(f"{root}: ")


def plain(level, size=(6, 8)):
    """A grey picture of one level; its size is height, width."""
    return Image.new("L", size[::-1], level)


def noise(seed, size=(6, 8), mode="RGB"):
    levels = np.random.RandomState(seed).randint(0, 256, (*size, 3))
    return Image.fromarray(levels.astype(np.uint8)).convert(mode)


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def make(root, classes=("cats", "dogs"), count=10, suffix=".png", mode="RGB"):
    """A folder with `count` pictures of noise in each class."""
    for index, name in enumerate(classes):
        for number in range(count):
            save(root / name / f"{number:03}{suffix}", noise(1000 * index + number, mode=mode))
    return root


def joined(arrays):
    """All images and labels, training, validation, test."""
    parts = ("train", "val", "test")
    return [np.concatenate([getattr(arrays, f"{p}_{kind}") for p in parts]) for kind in ("images", "labels")]


def levels(arrays, part="train"):
    """The levels of images of one level each."""
    images = getattr(arrays, f"{part}_images")
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0].tolist()


# What is read


def test_the_files_are_the_images_of_the_classes(tmp_path):
    make(tmp_path)
    arrays = load(tmp_path)
    assert arrays.class_names == ("cats", "dogs")
    assert [len(arrays.by_name[f"{part}_images"]) for part in ("train", "val", "test")] == [12, 4, 4]
    images, labels = joined(arrays)
    found = {(label, image.tobytes()) for image, label in zip(images, labels, strict=True)}
    wanted = {(index, np.asarray(noise(1000 * index + n)).tobytes()) for index in (0, 1) for n in range(10)}
    assert found == wanted
    assert arrays.left_out == ()


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "Testing")])
def test_the_parts_of_a_folder_are_kept(tmp_path, names):
    train, val, test = names
    for number in range(5):
        save(tmp_path / train / "a" / f"{number}.png", plain(number))
        save(tmp_path / train / "b" / f"{number}.png", plain(number + 10))
    save(tmp_path / val / "b" / "0.png", plain(20))
    save(tmp_path / val / "a" / "0.png", plain(21))
    save(tmp_path / test / "b" / "0.png", plain(30))  # a class may be missing here
    arrays = load(tmp_path)
    assert levels(arrays) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert (levels(arrays, "val"), levels(arrays, "test")) == ([21, 20], [30])
    assert [arrays.train_labels.tolist(), arrays.test_labels.tolist()] == [[0] * 5 + [1] * 5, [1]]


@pytest.mark.parametrize("given", ["val", "test", None])
def test_a_missing_part_is_held_out_of_the_training_part(tmp_path, given):
    make(tmp_path / "train", count=25)
    if given:
        make(tmp_path / given, count=4)
    arrays = load(tmp_path)
    counts = {
        part: np.bincount(arrays.by_name[f"{part}_labels"]).tolist() for part in ("train", "val", "test")
    }
    expected = {"val": {"val": 4, "test": 5, "train": 20}, "test": {"val": 5, "test": 4, "train": 20}}
    rest = {"test": 5, "val": 4, "train": 16}
    assert counts == {part: [count] * 2 for part, count in expected.get(given or "", rest).items()}


def test_images_are_ordered_by_class_and_the_bytes_of_their_paths(tmp_path):
    names = ["B.png", "a-b.png", "a/b/c.png", "a/é.png", "a10.png", "a9.PNG", "b.Jpeg", "z.webp", "é.bmp"]
    for part in ("train", "val", "test"):
        for name in ("one", "two"):
            for number, inside in enumerate(random.Random(part).sample(list(enumerate(names)), len(names))):
                path, picture = tmp_path / part / name / inside[1], plain(10 * inside[0] + 5)
                save(path, picture, **({"lossless": True} if path.suffix == ".webp" else {}))
                os.utime(path, (number, number))
    arrays = load(tmp_path, channels=1)
    for part in ("train", "val", "test"):
        assert levels(arrays, part) == [10 * number + 5 for number in range(len(names))] * 2


def test_the_same_files_give_the_same_arrays_wherever_they_lie(tmp_path):
    make(tmp_path / "one")
    files = sorted((tmp_path / "one").rglob("*.png"))
    random.Random(0).shuffle(files)
    for file in files:
        other = tmp_path / "two" / file.relative_to(tmp_path / "one")
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other)
    one, two = (load(tmp_path / name) for name in ("one", "two"))
    assert digest(one) == digest(two)
    assert digest(one).startswith("5de30dd56804")  # images, their order and the split never change


@pytest.mark.parametrize("size", [None, 5])
def test_threads_change_nothing(tmp_path, size):
    make(tmp_path, count=70, suffix=".jpg")
    one, many = (load(tmp_path, size=size, threads=threads) for threads in (1, 7))
    assert digest(one) == digest(many)


def test_other_files_and_hidden_ones_are_ignored(tmp_path, caplog):
    make(tmp_path)
    before = load(tmp_path)
    for name in (
        "LICENSE",
        "Thumbs.db",
        ".DS_Store",
        "labels.csv",
        "cats/a.txt",
        "cats/Thumbs.db",
        "dogs/a.gif",
    ):
        (tmp_path / name).write_text("text")
    for name in ("cats/._000.png", ".cache/x.png", "__MACOSX/cats/x.png", "dogs/.git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert digest(load(tmp_path)) == digest(before)
    assert not load(tmp_path).warnings


def test_the_runs_of_a_command_in_the_folder_are_no_class(tmp_path):
    make(tmp_path)
    before = load(tmp_path)
    for folder in ("outputs", "multirun"):
        save(tmp_path / folder / "2026-11-29" / "12-00-00" / "wandb" / "x.png", plain(0))
        save(tmp_path / folder / "report" / "figures" / "x.png", plain(0))
    assert digest(load(tmp_path)) == digest(before)
    save(tmp_path / "outputs" / "x.png", plain(0))  # it is a class of that name
    assert load(tmp_path).class_names == ("cats", "dogs", "outputs")


def test_pictures_beside_the_classes_are_named_in_a_warning(tmp_path):
    make(tmp_path / "train")
    save(tmp_path / "overview.png", plain(0))
    save(tmp_path / "train" / "x.png", plain(0))
    expected = f"{tmp_path}: 2 pictures beside the class folders are not used, such as overview.png"
    assert load(tmp_path).warnings == (expected,)


def test_warnings_are_logged_by_every_command(tmp_path, caplog):
    make(tmp_path / "pictures" / "train")
    save(tmp_path / "pictures" / "overview.png", plain(0))
    for _ in range(2):
        data._load.cache_clear()  # as in another process, which finds the arrays prepared
        mnistjax.load_data("folder", data_dir=tmp_path / "data", raw_dir=tmp_path / "pictures")
        (record,) = caplog.records
        assert "1 pictures beside the class folders are not used" in record.getMessage()
        caplog.clear()


def test_a_class_may_have_the_name_of_a_part(tmp_path):
    make(tmp_path, ("bus", "car", "train"))
    assert load(tmp_path).class_names == ("bus", "car", "train")


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there, and equal in any case")
def test_names_that_are_not_utf8_or_differ_little_are_read(tmp_path):
    names = ("é", "e\u0301", "É", "ünï \u3000👩\u200d🔬", "A", "a")
    make(tmp_path, names)
    assert load(tmp_path).class_names == tuple(sorted(names))
    for number in range(3):
        save(tmp_path / "A" / NOT_TEXT / f"{NOT_TEXT}{number}.png", noise(number))
    assert len(joined(load(tmp_path))[0]) == 63
    (tmp_path / "A" / f"{NOT_TEXT}\n.png").write_text("x")
    assert error_of(tmp_path).startswith(r"A/caf\xe9\n.png is not a picture in PNG")


@given(st.binary(max_size=40).filter(lambda name: b"\0" not in name))
def test_any_name_is_shown_as_a_line_of_text(name):
    shown = show(os.fsdecode(name))
    assert shown.isprintable()
    assert shown.encode("utf-8") or not name


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    make(tmp_path / "store", ("cats", "dogs", "more"))
    root = tmp_path / "root"
    for name in ("cats", "dogs"):
        root.mkdir(exist_ok=True)
        (root / name).symlink_to(tmp_path / "store" / name)  # a class
    (tmp_path / "store" / "cats" / "more").symlink_to(tmp_path / "store" / "more")  # a folder in a class
    save(tmp_path / "elsewhere", plain(0), format="PNG")
    (tmp_path / "store" / "dogs" / "link.png").symlink_to(tmp_path / "elsewhere")  # a file
    targets = [".", "..", "../..", root, root / "cats", tmp_path, "more", "/", "loop8", "nothing"]
    for number, target in enumerate(targets):
        (tmp_path / "store" / "cats" / f"loop{number}").symlink_to(target)
    (tmp_path / "store" / "more" / "back").symlink_to("../cats")
    labels = joined(load(root))[1]
    assert np.bincount(labels).tolist() == [20, 11]
    (tmp_path / "store" / "dogs" / "itself.png").symlink_to("itself.png")
    assert "dogs/itself.png can't be read as a picture: Too many levels" in error_of(root)


def test_names_without_suffix_may_be_equal(tmp_path):
    make(tmp_path)
    make(tmp_path, suffix=".bmp")
    assert len(joined(load(tmp_path))[0]) == 40


# Images


COLOURS = [(level, level, level) for level in range(0, 256, 5)]


def with_palette(colours):
    picture = noise(1).convert("L").convert("P")
    picture.putpalette([level for colour in colours for level in colour])
    return picture


KINDS = {  # pictures, and whether they are grey
    "1": (noise(1, mode="1"), True),
    "L": (noise(1, mode="L"), True),
    "LA": (noise(1, mode="LA"), True),
    "grey palette": (with_palette((i, i, i) for i in range(255, -1, -1)), True),
    "palette": (with_palette((i, 0, 255 - i) for i in range(256)), False),
    "RGB": (noise(1), False),
    "RGBA": (noise(1, mode="RGBA"), False),
    "grey RGB": (noise(1, mode="L").convert("RGB"), False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_grey_pictures_give_grey_images_unless_channels_are_given(tmp_path, kind, channels):
    picture, grey = KINDS[kind]
    make(tmp_path, mode="L")
    for part in ("val", "test"):
        save(tmp_path / part / "cats" / "x.png", picture)
    shutil.copytree(tmp_path / "cats", tmp_path / "train" / "cats")
    shutil.copytree(tmp_path / "dogs", tmp_path / "train" / "dogs")
    shutil.rmtree(tmp_path / "cats")
    shutil.rmtree(tmp_path / "dogs")
    arrays = load(tmp_path, channels=channels)
    mode = "L" if channels == 1 or (grey and channels is None) else "RGB"
    assert arrays.train_images.shape == (20, 6, 8, 3)[: 3 if mode == "L" else 4]
    assert_array_equal(arrays.test_images[0], np.asarray(picture.convert("RGB").convert(mode)))


@pytest.mark.parametrize(("format", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("BMP", "L")])
def test_other_formats_have_their_own_modes(tmp_path, format, mode):
    make(tmp_path, mode=mode, suffix=f".{format.lower()}")
    assert load(tmp_path).train_images.ndim == (3 if mode == "L" else 4)


def test_sixteen_bits_become_eight(tmp_path):
    deep = np.array([[0, 128, 129, 257, 300, 32767, 65406, 65407, 65535]], np.uint16)
    for name in ("a", "b"):
        for number in range(6):
            save(tmp_path / name / f"{number}.png", Image.fromarray(deep + 0))
    assert load(tmp_path).train_images[0].tolist() == [[0, 0, 1, 1, 1, 127, 254, 255, 255]]
    save(tmp_path / "a" / "clear.png", Image.fromarray(deep), transparency=300)
    assert [0, 0, 1, 1, 255, 127, 254, 255, 255] in joined(load(tmp_path))[0].reshape(-1, 9).tolist()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "key"])
def test_transparent_pixels_are_white(tmp_path, kind):
    clear = noise(1, mode="RGBA")
    alpha = np.zeros((6, 8), np.uint8)
    alpha[:3] = 255
    options = {}
    if kind == "palette":
        clear, options = with_palette([(9, 9, 9)] * 255 + [(1, 2, 3)]), {"transparency": bytes(255) + b"\xff"}
        alpha = np.where(np.asarray(clear) == 255, 255, 0)
    elif kind == "key":
        clear = Image.fromarray(np.where(alpha[..., None], [7, 8, 9], [1, 2, 3]).astype(np.uint8))
        options = {"transparency": (1, 2, 3)}
    else:
        clear = clear.convert(kind)
        clear.putalpha(Image.fromarray(alpha))
    make(tmp_path)
    save(tmp_path / "cats" / "x.png", clear, **options)
    expected = np.asarray(clear.convert("RGB")).copy()
    expected[alpha == 0] = 255
    assert expected.tobytes() in {image.tobytes() for image in joined(load(tmp_path))[0]}


def test_half_transparent_pixels_are_half_white():
    picture = Image.new("RGBA", (1, 1), (0, 100, 200, 128))
    assert abs(to_image(picture, None, 3).astype(int) - [[[127, 177, 227]]]).max() <= 1


def test_pictures_lie_as_their_orientation_says(tmp_path):
    for name in ("a", "b"):
        for number in range(6):
            exif = Image.Exif()
            turns = {0: 1, 1: 8, 2: 3, 3: 6}  # orientations by quarter turns
            exif[0x0112] = turns[number % 4]
            levels = np.rot90(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5, -number)
            save(tmp_path / name / f"{number}.png", Image.fromarray(np.ascontiguousarray(levels)), exif=exif)
    images, _ = joined(load(tmp_path))
    assert (images == np.arange(48).reshape(6, 8) * 5).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_scaled_pictures_lie_as_their_orientation_says(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    small = noise(3, (6, 5))
    path = save(tmp_path / f"a{suffix}", small.resize((203, 331), Image.Resampling.BICUBIC), exif=exif)
    with open_picture(path) as picture:
        image = to_image(picture, (11, 17), 3)
    with Image.open(path) as picture:
        whole = to_image(ImageOps.exif_transpose(picture), (11, 17), 3)
    assert np.abs(image.astype(int) - whole).mean() < 1


def test_an_orientation_behind_the_pixels_is_an_error_unless_pictures_are_scaled(tmp_path):
    make(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(noise(0), "PNG", exif=exif)
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    (tmp_path / "cats" / "x.png").write_bytes(
        content[:start] + content[end:-12] + content[start:end] + content[-12:]
    )
    assert (
        "cats/x.png can't be read as a picture: ValueError: (6, 8, 3) expected, found (8, 6, 3)"
        in error_of(tmp_path)
    )
    upright = to_image(noise(0).transpose(Image.Transpose.ROTATE_270), (5, 5), 3).astype(int)
    assert min(abs(upright - image).max() for image in joined(load(tmp_path, size=5))[0]) <= 1


@pytest.mark.parametrize("size", [4, (4, 4), [4, 4], (3, 7), (30, 40)])
def test_pictures_of_any_size_are_scaled(tmp_path, size):
    for index, name in enumerate(("a", "b")):
        for number in range(6):
            save(tmp_path / name / f"{number}.png", plain(100 * index + number, (5 + number, 20 - number)))
    arrays = load(tmp_path, size=size)
    assert arrays.train_images.shape[1:] == ((4, 4) if size == 4 else tuple(size))
    images, labels = joined(arrays)
    assert (images.reshape(12, -1) // 100 == labels[:, None]).all()


@pytest.mark.parametrize("sides", [(64, 64), (80, 64), (64, 101), (30, 20)])
def test_scaling_is_that_of_torchvisions_resize_and_center_crop(sides):
    picture = Image.effect_noise(sides[::-1], 80).resize(sides[::-1])
    scale = 32 / min(sides)
    height, width = (int(scale * side) for side in sides)
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32)), int)
    found = to_image(picture, (32, 32), 1)
    if sides[0] == sides[1]:
        assert_array_equal(found, expected)
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.9  # an odd margin moves it by half a pixel


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
    st.sampled_from([1, 3]),
)
def test_a_plain_picture_stays_plain_at_any_size(sides, size, mode, channels):
    picture = Image.new("L", sides, 255).convert("RGB")
    picture = Image.new(mode, sides, 65535) if mode == "I;16" else picture.convert(mode)
    image = to_image(picture, size, channels)
    assert image.shape == (*size, 3)[: 2 if channels == 1 else 3]
    assert (image == 255).all()


def test_a_large_jpeg_is_decoded_smaller_with_hardly_a_difference(tmp_path):
    small = Image.fromarray(np.random.RandomState(0).randint(0, 256, (9, 12, 3)).astype(np.uint8))
    path = save(tmp_path / "a.jpg", small.resize((1200, 900), Image.Resampling.BICUBIC), quality=95)
    with open_picture(path) as picture:
        image = to_image(picture, (32, 24), 3)
        assert picture.size == (150, 113)  # of 112.5 rows
    with Image.open(path) as picture:
        whole = to_image(picture.convert("RGB"), (32, 24), 3)
    assert np.abs(image.astype(int) - whole).mean() < 0.5


def test_pictures_of_several_sizes_need_a_size(tmp_path):
    make(tmp_path)
    save(tmp_path / "dogs" / "large.png", noise(0, (7, 8)))
    found = re.fullmatch(
        r"pictures of one size expected, found (\S+) \(\d high, 8 wide\) and (\S+) \(\d high, 8 wide\); "
        r"data\.size=32 scales them",
        error_of(tmp_path),
    )
    assert found
    assert "dogs/large.png" in found.groups()


# Parts that are held out


def test_each_class_is_held_out_in_its_share(tmp_path):
    for name, count in (("many", 100), ("some", 30), ("few", 3)):
        make(tmp_path, (name,), count)
    arrays = load(tmp_path)
    assert arrays.class_names == ("few", "many", "some")
    assert np.bincount(arrays.test_labels).tolist() == [1, 20, 6]
    assert np.bincount(arrays.by_name["val_labels"]).tolist() == [1, 16, 5]


def make_people(root, people=15, count=4):
    """Pictures whose level is the person's number, who is also in their names."""
    for name in ("yes", "no"):
        for person in range(people):
            for number in range(count):
                save(root / name / f"p{person:02}_{number}.png", plain(person))


@pytest.mark.parametrize("pattern", [r"p\d+", r"(p\d+)_", r"/p(\d+)_(\d)", r"(?<=p)\d\d", r"p(?P<who>\d+)"])
def test_a_group_is_in_one_part_only(tmp_path, pattern):
    make_people(tmp_path)
    arrays = load(tmp_path, group=pattern)
    train, val, test = ({*levels(arrays, part)} for part in ("train", "val", "test"))
    assert train | val | test == {*range(15)}
    assert not train & val
    assert not train & test
    assert not val & test
    assert [len(train), len(val), len(test)] == [10, 2, 3]


def test_a_group_is_searched_in_class_and_name(tmp_path):
    make_people(tmp_path / "train")
    make_people(tmp_path / "test")
    arrays = load(tmp_path, group=r"^(?:yes|no)/(p\d+)")
    assert not {*levels(arrays, "train")} & {*levels(arrays, "val")}
    assert "data.group='^train' does not match no/p00_0.png" in error_of(tmp_path, group="^train")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "x(",
            "data.group='x(' is not a regular expression: missing ), unterminated subpattern at position 1",
        ),
        ("q", "data.group='q' does not match no/p00_0.png"),
        ("p|(q)", "data.group='p|(q)' does not match no/p00_0.png"),
        ("p", "data.group='p': at least 2 groups expected, found 1: a split can't be held out"),
        ("yes|no", "data.group='yes|no': each group has all examples of a class: a split can't be held out"),
        ("p0[01]|p", "data.group='p0[01]|p': at least 2 groups expected, found 1: a split can't be held out"),
    ],
)
def test_a_pattern_that_gives_no_groups_is_an_error(tmp_path, pattern, message):
    make_people(tmp_path, people=3)
    if pattern == "p0[01]|p":
        for path in tmp_path.rglob("p02*"):
            path.rename(path.with_name(path.name.replace("p02", "p00x")))
        (tmp_path / "no" / "q.png").write_bytes((tmp_path / "no" / "p00_0.png").read_bytes())
        pattern, message = "p0[01]", "data.group='p0[01]' does not match no/q.png"
    assert error_of(tmp_path, group=pattern) == message


def test_pictures_and_groups_on_both_sides_are_named_in_a_warning(tmp_path):
    make(tmp_path / "train")
    make(tmp_path / "test", count=2)
    copies, groups = load(tmp_path, group=r"(\d+)\.").warnings
    assert copies == (
        f"{tmp_path}: 4 pictures of test/ are also in train/: train/cats/000.png = test/cats/000.png"
    )
    assert groups == f"{tmp_path}: 2 groups of test/ are also in train/: 000"
    shutil.rmtree(tmp_path / "test")
    save(tmp_path / "test" / "cats" / "a.png", noise(77))
    assert not load(tmp_path).warnings
    assert not load(tmp_path, group=r"(\d+)\.").warnings  # a name in test/ may have no group


# Errors


def make_broken(root, kind):
    """A folder with something wrong; returns the expected message."""
    if kind == "missing":
        return "a folder with a folder per class expected, found nothing"
    if kind == "file":
        root.write_text("")
        return "a folder with a folder per class expected, found a file"
    root.mkdir()
    if kind in ("empty", "no folder"):
        if kind == "no folder":
            save(root / "a.png", plain(0))
        return "at least 2 class folders expected, found none"
    if kind == "one class":
        make(root, ("cats",))
        return "at least 2 class folders expected, found cats"
    if kind == "part of one class":
        make(root / "train", ("cats",))
        return "train/: at least 2 class folders expected, found cats"
    make(root if kind.startswith("class") else root / "train")
    if kind == "class without pictures":
        (root / "birds" / "deeper").mkdir(parents=True)
        (root / "birds" / "a.tif").write_text("")
        (root / "ants").mkdir()
        return "no PNG, JPEG, BMP or WebP file in ants/, birds/"
    if kind == "class in bytes":
        (root / NOT_TEXT).mkdir()
        return r"the name of a class must be a line of UTF-8 text, found caf\xe9/"
    if kind == "class of two lines":
        (root / "a\nb").mkdir()
        return r"the name of a class must be a line of UTF-8 text, found a\nb/"
    if kind == "unknown class":
        make(root / "test", ("cats", "dog"))
        return "unknown class in test/ 'dog'; nearest is 'dogs' (allowed: cats, dogs)"
    if kind == "no train":
        (root / "train").rename(root / "val")
        (root / "test").mkdir()
        return "train/ expected beside test/, val/"
    if kind == "other folder":
        (root / "unlabeled").mkdir()
        return "only train/, val/ and test/ expected beside train/, found unlabeled/"
    if kind == "two names":
        make(root / "val")
        make(root / "valid")
        return "val/ and valid/ are names of one split; keep one of them"
    assert kind == "part without pictures"
    (root / "test" / "cats").mkdir(parents=True)
    return "no PNG, JPEG, BMP or WebP file in test/"


BROKEN = [
    *("missing", "file", "empty", "no folder", "one class", "part of one class", "class without pictures"),
    *("class of two lines", "unknown class", "no train", "other folder", "two names"),
    "part without pictures",
    *(["class in bytes"] if sys.platform != "darwin" else []),  # file names are UTF-8 there
]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_folder_that_is_no_data_set_is_an_error(tmp_path, kind):
    message = make_broken(tmp_path / "root", kind)
    assert error_of(tmp_path / "root") == message
    with pytest.raises(DataError, match=re.escape(message)):
        fingerprint(tmp_path / "root")


def test_a_few_pictures_are_too_few(tmp_path):
    make(tmp_path, count=1)
    assert error_of(tmp_path) == "too few pictures to hold out a test split"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_is_an_error_or_left_out(tmp_path, name):
    content, message = HOSTILE[name]
    make(tmp_path)
    plain = load(tmp_path)
    path = tmp_path / "cats" / f"zzz{Path(name).suffix}"
    path.write_bytes(content)
    shown = f"cats/{path.name}"
    text = error_of(tmp_path, size=7)
    assert text.startswith(f"{shown} ")
    assert re.search(message, text)
    assert text.endswith("; data.skip_bad=true leaves such files out")
    arrays = load(tmp_path, skip_bad=True, size=(6, 8))  # all but this one have it
    (left_out,) = arrays.left_out
    assert left_out.startswith(f"{shown}: ")
    assert re.search(message, left_out)
    images = joined(arrays)[0]
    assert {image.tobytes() for image in images} == {image.tobytes() for image in joined(plain)[0]}


def test_damaged_pictures_anywhere_leave_the_others_in_their_places(tmp_path):
    make(tmp_path, count=40)
    whole = load(tmp_path)
    bad = [f"{name}/{number:03}.png" for name in ("cats", "dogs") for number in (0, 1, 7, 20, 39)]
    damaged = {noise(1000 * (name[:4] == "dogs") + int(name[5:8])).tobytes() for name in bad}
    for number, name in enumerate(bad):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:60] if number % 2 else b"")  # cut behind the header, or empty
    arrays = load(tmp_path, skip_bad=True)
    assert [line.partition(": ")[0] for line in arrays.left_out] == bad
    for part in ("train", "val", "test"):
        images, labels = (getattr(whole, f"{part}_{kind}") for kind in ("images", "labels"))
        kept = [image.tobytes() not in damaged for image in images]
        assert_array_equal(getattr(arrays, f"{part}_images"), images[kept])
        assert_array_equal(getattr(arrays, f"{part}_labels"), labels[kept])
    assert error_of(tmp_path).startswith("cats/000.png is not a picture")  # the first, with any threads


@pytest.mark.parametrize("content", [b"", encode(noise(0), "PNG")[:60]])
def test_a_class_or_part_without_a_whole_picture_is_an_error(tmp_path, content):
    make(tmp_path / "train")
    make(tmp_path / "test", count=2)
    for path in tmp_path.glob("test/*/*"):
        path.write_bytes(content)
    text = error_of(tmp_path, skip_bad=True)
    assert text.startswith("all test pictures are damaged; test/cats/000.png ")
    shutil.rmtree(tmp_path / "test")
    for path in tmp_path.glob("train/dogs/*"):
        path.write_bytes(content)
    text = error_of(tmp_path, skip_bad=True)
    assert re.match(r"all training pictures of the class dogs are damaged; train/dogs/\d+\.png ", text)


def test_files_that_cannot_be_read_are_errors(tmp_path):
    make(tmp_path)
    path = tmp_path / "cats" / "zzz.png"
    os.mkfifo(path)
    assert error_of(tmp_path).startswith("cats/zzz.png is not a regular file;")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert error_of(tmp_path).startswith("cats/zzz.png is not a regular file;")
    path.unlink()
    path.symlink_to("nothing")
    assert error_of(tmp_path).startswith(
        "cats/zzz.png can't be read as a picture: No such file or directory;"
    )
    assert load(tmp_path, skip_bad=True).left_out == (
        "cats/zzz.png: can't be read as a picture: No such file or directory",
    )
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert error_of(tmp_path).startswith("cats/zzz.png has 67,108,865 bytes; the limit is 67,108,864;")


@contextlib.contextmanager
def without_rights(*paths):
    """A context in which this user may not read these files and folders."""
    for path in paths:
        path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o755)


@pytest.fixture
def open_folder():
    """A folder that other users may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_what_the_user_may_not_read_is_an_error(open_folder):
    make(open_folder)
    load(open_folder)  # all imports are done
    with without_rights(open_folder / "cats" / "003.png"):
        text = error_of(open_folder)
    assert text.startswith("cats/003.png can't be read as a picture: Permission denied;")
    with without_rights(open_folder / "cats"):
        text = error_of(open_folder)
    assert text == f"{open_folder / 'cats'}: Permission denied"


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="only Linux tells its free memory")
def test_images_that_do_not_fit_in_memory_are_refused_before_they_are_read(tmp_path):
    make(tmp_path)
    text = error_of(tmp_path, size=500_000)
    found = re.fullmatch(
        r"20 images of 500000 x 500000 x 3 need 15,000,000,000,000 bytes of memory, ([\d,]+) are free; "
        r"choose a smaller data\.size",
        text,
    )
    assert found


def test_a_terminal_shows_a_bar_only_for_long_work(tmp_path, capsys, monkeypatch):
    make(tmp_path)
    load(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    load(tmp_path)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(readers, "PATIENCE", 0)
    load(tmp_path)
    out, err = capsys.readouterr()
    assert not out
    assert "/20" in err


# The fingerprint


def test_a_fingerprint_tells_when_a_picture_changes(tmp_path):
    make(tmp_path)
    seen = [fingerprint(tmp_path)]
    (tmp_path / "LICENSE").write_text("text")
    (tmp_path / "cats" / ".hidden.png").write_text("text")
    assert fingerprint(tmp_path) == seen[0]
    path = tmp_path / "cats" / "000.png"

    def add_byte():
        status = path.stat()
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    changes = [
        add_byte,
        lambda: os.utime(path, ns=(1, 1)),
        lambda: path.rename(path.with_name("zzz.png")),
        lambda: shutil.copy(tmp_path / "dogs" / "000.png", path),
        lambda: (tmp_path / "cats" / "link.png").symlink_to("nothing"),
        lambda: (tmp_path / "cats").rename(tmp_path / "lions"),
    ]
    for change in changes:
        change()
        seen.append(fingerprint(tmp_path))
    assert len({*seen}) == len(changes) + 1
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in seen)


def test_a_fingerprint_depends_on_neither_the_place_nor_the_order(tmp_path):
    make(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # with times
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")


# Real photographs


@pytest.mark.skipif(not SIGNS.is_dir(), reason="needs the photographs of sign digits")
def test_real_photographs_become_a_data_set():
    whole, small = load(SIGNS), load(SIGNS, size=32)
    assert whole.class_names == tuple("0123456789")
    assert whole.train_images.shape == (320, 100, 100, 3)
    assert small.train_images.shape == (320, 32, 32, 3)
    for part in ("train", "val", "test"):
        assert {*np.bincount(whole.by_name[f"{part}_labels"]).tolist()} == {
            len(whole.by_name[f"{part}_labels"]) // 10
        }
        assert_array_equal(whole.by_name[f"{part}_labels"], small.by_name[f"{part}_labels"])
    with Image.open(SIGNS / "0" / "IMG_1118.JPG") as picture:
        first = np.asarray(picture)
    assert any((image == first).all() for image in joined(whole)[0])
