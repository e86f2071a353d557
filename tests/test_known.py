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
from mnistjax.data import DataError, folder


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
    """The options of all preparations of a folder."""
    made, real = [], folder.load_folder

    def load(root, **options):
        made.append(options)
        return real(root, **options)

    monkeypatch.setattr(folder, "load_folder", load)
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
    assert {name: len(part.labels) for name, part in first.parts.items()} == {
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
        ({"size": 0}, r"data.size must be a side in pixels, \[height,width\] or null; got 0"),
        ({"size": [8]}, r"data.size must be .*; got \[8\]"),
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
