"""Own files as data sets: prepared once, again if they change, found again by their SHA-256."""

import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

import mnistjax
from mnistjax import data
from mnistjax.cli import main
from mnistjax.config import ConfigError
from mnistjax.data import DataError, folder, medmnist


@pytest.fixture
def pictures(tmp_path):
    """A folder of 12 dark and 12 light pictures of 20 x 16 pixels."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 180)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            image = level + rng.integers(0, 70, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    return tmp_path / "home" / "mnistjax"


@pytest.fixture
def calls(monkeypatch):
    """The folders of all preparations, each of which makes a Reader."""
    made, real = [], folder.Reader

    def make(root, *options):
        made.append(root)
        return real(root, *options)

    monkeypatch.setattr(folder, "Reader", make)
    return made


def load_again(path, **options):
    """The data set as another process would load it."""
    data._load.cache_clear()
    data._find.cache_clear()
    return mnistjax.load_data("folder", raw_dir=path, **options)


def test_a_folder_is_prepared_once_for_each_choice_of_options(pictures, home, calls):
    first = load_again(pictures)
    assert first.image_shape == (20, 16, 3)
    assert first.class_names == ("dark", "light")
    assert {name: len(part.labels) for name, part in first.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 4,
    }
    again = load_again(pictures)
    assert again.sha256 == first.sha256
    assert len(calls) == 1
    assert load_again(pictures, size=8).image_shape == (8, 8, 3)
    assert load_again(pictures, size=[8, 9], channels=1).image_shape == (8, 9, 1)
    assert len(calls) == 3
    assert sum(path.is_dir() for path in home.iterdir()) == 3


def test_a_changed_folder_is_prepared_again(pictures, home, calls):
    first = load_again(pictures)
    Image.new("RGB", (16, 20), "red").save(pictures / "dark" / "new.png")
    second = load_again(pictures)
    assert second.sha256 != first.sha256
    assert len(calls) == 2
    os.utime(pictures / "dark" / "new.png", (1, 1))
    assert load_again(pictures).sha256 == second.sha256
    assert len(calls) == 3
    assert sum(path.is_dir() for path in home.iterdir()) == 1


def test_damaged_arrays_are_prepared_again(pictures, home, calls, caplog):
    first = load_again(pictures)
    (prepared,) = (path for path in home.iterdir() if path.is_dir())
    content = bytearray((prepared / "val_images.npy").read_bytes())
    content[-1] ^= 1
    (prepared / "val_images.npy").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert load_again(pictures).sha256 == first.sha256
    assert len(calls) == 2
    assert "damaged: arrays of SHA-256" in caplog.text


def test_a_record_finds_its_folder_wherever_that_is_now(pictures, home, calls):
    first = load_again(pictures, size=8)
    load_again(pictures)
    pictures.rename(pictures.with_name("moved"))
    data._find.cache_clear()
    found = data.find_data("folder", first.sha256)
    assert found.sha256 == first.sha256
    np.testing.assert_array_equal(found.test.images, first.test.images)
    assert len(calls) == 2
    with pytest.raises(DataError, match=f"no folder with the SHA-256 {'0' * 64} is prepared in"):
        data.find_data("folder", "0" * 64)


def test_pictures_that_are_left_out_are_a_banner_of_every_record(pictures, home, work, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home.parent))
    for number in range(7):
        (pictures / "dark" / f"text{number}.png").write_text("a picture")
    words = ["data=folder", f"data.raw_dir={pictures}", "model=mlp", "model.hidden=8", "train.epochs=1"]
    words += ["hydra.run.dir=run", "train.batch_size=8"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "dark/text0.png" in line
    assert main([*words, "data.skip_bad=true"]) == 0
    assert "7 files could not be used and are left out:" in capsys.readouterr().err
    banner = json.loads((work / "run/summary.json").read_text())["data"]["banner"].splitlines()
    assert banner[0] == "7 files could not be used and are left out:"
    assert banner[1].startswith("dark/text0.png: is not a picture in PNG")
    assert banner[-1] == "... and 2 more"
    assert len(banner) == 7
    assert load_again(pictures, skip_bad=True).banner == "\n".join(banner)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"siz": 8}, "unknown option of data set folder 'siz'; nearest is 'size'"),
        ({"size": 0}, r"data.size must be a side of at least 1 pixel, \[height,width\] or null; got 0"),
        ({"size": [8]}, r"data.size must be .*; got \[8\]"),
        ({"size": (3, 4, 5)}, r"data.size must be .*; got \(3, 4, 5\)"),
        ({"size": (3, -4)}, r"data.size must be .*; got \(3, -4\)"),
        ({"size": "32"}, "data.size must be .*; got '32'"),
        ({"size": True}, "data.size must be .*; got True"),
        ({"group": ""}, "data.group must be a regular expression or null; got ''"),
        ({"channels": 2}, "data.channels must be 1, 3 or null; got 2"),
        ({"skip_bad": 1}, "data.skip_bad must be true or false; got 1"),
    ],
)
def test_wrong_options_are_one_line(pictures, home, options, expected):
    with pytest.raises(ConfigError, match=expected):
        load_again(pictures, **options)
    assert not home.exists()


def test_a_folder_must_be_given(home):
    with pytest.raises(DataError, match=r"data set 'folder' needs data.raw_dir=FOLDER"):
        mnistjax.load_data("folder")


def test_the_command_resumes_and_reports_a_folder(pictures, home, work, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home.parent))
    words = ["data=folder", f"data.raw_dir={pictures}", "data.size=[8,9]", "model=mlp", "model.hidden=8"]
    words += ["train.batch_size=8", "-m", "seed=0,1", "train.epochs=1", "hydra.sweep.dir=sweep"]
    assert main(words) == 0
    config = json.loads((work / "sweep/0/summary.json").read_text())["spec"]
    assert config["image_shape"] == [8, 9, 3]
    from mnistjax.cli.report import main as report

    assert report(["sweep"]) == 0
    page = (work / "sweep/report/index.html").read_text()
    assert "trained on other data" not in page


@pytest.fixture
def arrays(tmp_path):
    """An npz file as Keras names its arrays, of 30 images of 6 x 5 x 2."""
    rng = np.random.default_rng(0)
    file = tmp_path / "own.npz"
    images, labels = rng.integers(0, 256, (30, 6, 5, 2), dtype=np.uint8), np.arange(30) % 3
    np.savez(file, x_train=images, y_train=labels, patient=np.arange(30) // 5)
    return file


def test_an_npz_file_is_prepared_once_and_found_again(arrays, home):
    first = mnistjax.load_data("npz", raw_dir=arrays, group="patient")
    assert first.name == "npz"
    assert first.image_shape == (6, 5, 2)
    assert first.class_names == ("0", "1", "2")
    assert data.find_data("npz", first.sha256).sha256 == first.sha256
    data._load.cache_clear()
    assert mnistjax.load_data("npz", raw_dir=arrays.parent, group="patient").sha256 == first.sha256
    content = dict(np.load(arrays))
    np.savez(arrays, **{**content, "x_train": content["x_train"] // 2})
    data._load.cache_clear()
    assert mnistjax.load_data("npz", raw_dir=arrays, group="patient").sha256 != first.sha256


def test_an_npz_file_is_what_the_command_names(arrays, home, work, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home.parent))
    words = ["data=npz", f"data.raw_dir={arrays}", "model=mlp", "model.hidden=4", "train.epochs=1"]
    assert main([*words, "train.batch_size=8", "hydra.run.dir=run"]) == 0
    assert main(["data=npz", "hydra.run.dir=other"]) == 2
    assert "data set 'npz' needs data.raw_dir=FILE" in capsys.readouterr().err
    assert main(["data=npz", "data.raw_dir=none.npz", "hydra.run.dir=other"]) == 2
    error = "data.raw_dir=none.npz: an npz file, or a folder with one, expected, found none"
    assert error in capsys.readouterr().err
    assert not (work / "other").exists()


@pytest.mark.parametrize("subset", ["breastmnist", "retinamnist"])
def test_a_set_of_medmnist_has_its_own_name(subset, home, tmp_path, monkeypatch):
    """So a record says which one it was, and finds it again."""
    shape = (28, 28, 3) if subset == "retinamnist" else (28, 28)
    row = medmnist.SUBSETS[subset]
    counts = dict(zip(("train", "val", "test"), row.counts, strict=True))
    rng = np.random.default_rng(0)
    content = {}
    for half, count in counts.items():
        content[f"{half}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        content[f"{half}_labels"] = rng.integers(0, len(row.class_names), (count, 1), dtype=np.uint8)
    np.savez(tmp_path / f"{subset}.npz", **content)
    monkeypatch.setattr(medmnist, "verify", lambda path, file: None)
    found = mnistjax.load_data("medmnist", subset=subset, raw_dir=tmp_path)
    assert found.name == subset
    assert {name: len(part.labels) for name, part in found.splits.items()} == counts
    assert mnistjax.load_data(subset, raw_dir=tmp_path) is found
    assert data.find_data(subset, found.sha256).sha256 == found.sha256


def test_a_set_of_medmnist_must_be_named(home):
    with pytest.raises(DataError, match=r"data set 'medmnist' needs data.subset=NAME: pathmnist, "):
        mnistjax.load_data("medmnist")
    with pytest.raises(ConfigError, match=r"unknown data.subset 'retina'; nearest is 'retinamnist'"):
        mnistjax.load_data("medmnist", subset="retina")
    with pytest.raises(DataError, match=r"needs data.subset=NAME"):  # no run writes such a record
        data.find_data("medmnist", "0" * 64)


def test_an_error_names_the_users_files(home, tmp_path):
    labels = np.arange(4) % 2
    np.savez(tmp_path / "few.npz", x_train=np.zeros((4, 5, 5), np.uint8), y_train=labels)
    with pytest.raises(DataError, match=r"few.npz', training split: at least 5 images expected, found 2"):
        mnistjax.load_data("npz", raw_dir=tmp_path / "few.npz")
