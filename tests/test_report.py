"""The command `mnistjax-report`: its arguments, and the data that its runs were trained on."""

import argparse
import contextlib
import errno
import json
import os
import shutil

import numpy as np
import pytest
import yaml

from mnistjax import files
from mnistjax.cli import main, report
from mnistjax.data import DATASETS, DataError, find_data, load_data, prepared, register_dataset
from mnistjax.data.arrays import Arrays
from mnistjax.finished import reopen
from mnistjax.report.dashboard import make_data
from small import made_run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: FOLDER"),
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no run"),
        ([".", "--outt", "x"], "unrecognized arguments: --outt"),
        ([".", "--project", "x" * 129], "--project must be a name of at most 128 characters"),
        ([".", "--entity", "a/b"], "without / \\ # ? % : or null; got 'a/b'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(work, capsys, words, message):
    assert report.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not [*work.iterdir()]


def test_a_name_that_is_too_long_is_no_folder(work, capsys):
    assert report.main(["x" * 300]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no folder" in line


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb-workspaces
def test_the_title_of_many_folders_fits_at_wandb(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "check_login", lambda: None)
    runs = [made_run(0), made_run(1)]
    args = argparse.Namespace(project="mine", entity="someone")
    views = report.make_views(runs, make_data(runs), args, ", ".join(["multirun"] * 50), tmp_path)
    titles = [views.workspace.name, views.report.title]
    assert titles[0] == titles[1]
    assert len(titles[0].encode()) <= 128


def test_a_full_disk_is_one_line(one, work, capsys, monkeypatch):
    def refuse(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "replace", refuse)
    assert report.main([str(one), "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: out can't be written: out/index.html: No space left on device"


# The data of a report


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A small run that is done."""
    folder = tmp_path_factory.mktemp("one")
    words = ["data=digits", "model=mlp", "model.hidden=4", "train.epochs=1", "wandb.mode=disabled"]
    with contextlib.chdir(folder):
        assert main([*words, f"hydra.run.dir={folder}/run"]) == 0
    return folder / "run"


def change(folder, **data):
    """Changes the name, hash or folder of the data in a run's records."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] |= {key: str(value) for key, value in data.items() if key != "sha256"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"] |= {key: value for key, value in data.items() if key in ("name", "sha256")}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_report_prepares_no_data_and_opens_no_folder_named_in_records(one, work, capsys):
    shutil.copytree(one, work / "run")
    change(work / "run", name="mnist", dir=work / "trap", raw_dir=work / "raw")
    (work / "raw").mkdir()
    before = sorted(work.parent.rglob("*"))
    with pytest.raises(DataError, match=f"^mnist is not prepared in {work.parent / 'data'}$"):
        reopen(work / "run")
    assert report.main(["run", "--out", "out"]) == 0
    assert "without misclassified images: mnist is not prepared in" in capsys.readouterr().err
    assert {path for path in work.parent.rglob("*") if work / "out" not in (path, *path.parents)} == {*before}


def test_a_report_of_a_run_that_fell_back_to_the_digits_has_images(one, work, capsys):
    shutil.copytree(one, work / "run")
    config = (work / "run/config.yaml").read_text()
    (work / "run/config.yaml").write_text(config.replace("name: digits", "name: auto"))
    assert report.main(["run"]) == 0
    assert "without" not in capsys.readouterr().err
    assert (work / "run/report/figures/misclassified.svg").exists()


def test_a_run_with_fewer_validation_images_has_images_in_its_report(work, capsys):
    words = ["data=digits", "data.validation_fraction=0.1", "model=neuron", "train.epochs=1"]
    assert main([*words, "wandb.mode=disabled", "hydra.run.dir=run"]) == 0
    assert len(reopen(work / "run")[1].val.images) == 144
    assert report.main(["run"]) == 0
    assert "without" not in capsys.readouterr().err
    assert (work / "run/report/figures/misclassified.svg").exists()


def test_a_run_on_other_data_is_not_reopened(one, work):
    shutil.copytree(one, work / "run")
    change(work / "run", name="digits", sha256="0" * 64)
    with pytest.raises(DataError, match=f"digits has the SHA-256 .* here; recorded: {'0' * 64}"):
        reopen(work / "run")


def some_arrays(count=20):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (2, count, 28, 28), np.uint8), np.arange(count, dtype=np.int32) % 2
    return Arrays(images[0], labels, images[1], labels, ("a", "b"))


def test_prepared_data_are_found_and_left_as_they_are(work):
    home = work.parent / "data"
    folder = home / "mnistjax/kmnist"
    folder.mkdir(parents=True)
    prepared.write_arrays(folder, some_arrays())
    loaded = load_data("kmnist", data_dir=home)
    (home / "mnistjax/kmnist.lock").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert find_data("kmnist", loaded.sha256).class_names == ("a", "b")
    with pytest.raises(DataError, match="kmnist has the SHA-256"):
        find_data("kmnist", "0" * 64)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_damaged_data_are_an_error_and_not_prepared_again(work):
    folder = work.parent / "data/mnistjax/fashion_mnist"
    folder.mkdir(parents=True)
    prepared.write_arrays(folder, some_arrays())
    (folder / "test_labels.npy").write_bytes(b"")
    before = sorted(work.parent.rglob("*"))
    with pytest.raises(DataError, match="damaged"):
        find_data("fashion_mnist", "0" * 64)
    assert sorted(work.parent.rglob("*")) == before


def test_own_files_and_registered_data_are_found_by_their_hash(work, monkeypatch):
    arrays = some_arrays()
    with pytest.raises(DataError, match="idx needs MNISTJAX_RAW_DIR"):
        find_data("idx", "0" * 64)
    parts = {"train": arrays[:2], "t10k": arrays[2:4]}
    for part, (images, labels) in parts.items():
        head = (0x803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (work / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = (0x801).to_bytes(4, "big") + len(labels).to_bytes(4, "big")
        (work / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())
    loaded = load_data("idx", raw_dir=work)
    monkeypatch.setenv("MNISTJAX_RAW_DIR", str(work))
    assert find_data("idx", loaded.sha256).sha256 == loaded.sha256
    monkeypatch.setattr("mnistjax.data.DATASETS", {**DATASETS})
    register_dataset("own", lambda: (arrays[:2], arrays[2:4], arrays.class_names))
    assert find_data("own", load_data("own").sha256).name == "own"
    with pytest.raises(DataError, match="there is no data set 'other' here"):
        find_data("other", "0" * 64)
