"""`mnistjax-predict`: answers in order, for people and programs; wrong arguments are one line."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from mnistjax.cli import main as train
from mnistjax.cli import predict
from mnistjax.cli.predict import DOUBTFUL, _describe_answer, describe, main, read
from mnistjax.zoo import load
from pictures import BACKGROUNDS, BROKEN, PLAIN, WAYS, draw, read_all
from small import made_up_data
from test_folder import make


def write(path, picture):
    Image.fromarray(picture).save(path)


@pytest.fixture
def run(work):
    """The folder of a small run."""
    words = ["data=digits", "model=mlp", "model.hidden=16", "train.epochs=2", "train.batch_size=256"]
    assert train([*words, "hydra.run.dir=run"]) == 0
    return "run"


def test_pictures_are_answered_in_argument_order(run, work, capsys):
    write(work / "two.png", draw("12"))
    write(work / "none.bmp", np.full((50, 50), 255, np.uint8))
    write(work / "one.jpg", draw("7"))
    capsys.readouterr()
    assert main([run, "two.png", "none.bmp", "one.jpg", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    pictures = json.loads(out)
    assert [(one["file"], len(one["digits"])) for one in pictures] == [
        ("two.png", 2),
        ("none.bmp", 0),
        ("one.jpg", 1),
    ]
    for digit in pictures[0]["digits"]:
        assert set(digit) == {"class", "probability", "runner_up", "runner_up_probability", "doubtful"}
        assert digit["doubtful"] == (digit["probability"] < DOUBTFUL)
        assert digit["class"] in range(10)
        assert digit["class"] != digit["runner_up"]
        assert 0 < digit["runner_up_probability"] <= digit["probability"] <= 1

    assert main([run, "two.png", "none.bmp"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = pictures[0]["digits"]
    assert lines[0] == f"two.png: {first['class']} {second['class']}"
    assert lines[1].startswith(f"  {first['class']}  ")
    assert lines[3] == "none.bmp: no digit found"


def test_a_packaged_model_reads_pictures_drawn_in_many_ways(tmp_path):
    read = read_all("lenet5.mnist", tmp_path)
    wrong = {path.name: found for path, digit, found in read if found != [digit]}
    assert len(read) == 10 * len(WAYS)
    assert len(wrong) <= 2, wrong  # none here; another machine may round differently


@pytest.mark.parametrize("ways", [BROKEN, BACKGROUNDS], ids=["broken", "backgrounds"])
def test_a_packaged_model_reads_broken_digits_and_those_on_lines_and_in_shadows(tmp_path, ways):
    read = read_all("lenet5.mnist", tmp_path, 3, ways)
    wrong = {path.name: found for path, digit, found in read if found != [digit]}
    assert len(wrong) <= 0.05 * len(read), wrong


def test_a_line_has_class_probability_and_runner_up():
    digit = {
        "class": 7,
        "probability": 0.9912,
        "runner_up": 1,
        "runner_up_probability": 0.0061,
        "doubtful": False,
    }
    assert describe("a.png", [digit]) == "a.png: 7\n  7  99.1%, else 1 (0.6%)"
    digit["doubtful"] = True
    assert describe("a.png", [digit]) == "a.png: 7\n  7  99.1%, else 1 (0.6%), doubtful"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("7", 7), ("0", 0), ("42", 42), ("07", "07"), ("00", "00"), ("٣", "٣"), ("1" * 5000, "1" * 5000)],
    ids=["digit", "zero", "number", "leading zero", "zeros", "other digit", "long"],
)
def test_a_class_is_a_number_only_if_its_name_is_the_numbers(name, shown):
    card = dataclasses.replace(load("mlp.mnist")[2], class_names=(name, *"bcdefghij"))
    answer = _describe_answer(card, np.array([0.9, 0.1, *[0.0] * 8]))
    assert answer["class"] == shown
    assert answer["runner_up"] == "b"


def test_a_name_of_a_stranger_is_a_line_without_control_characters():
    digit = {
        "class": "\x1b[31mred\n",
        "probability": 0.9912,
        "runner_up": "\x1b]0;title\x07",
        "runner_up_probability": 0.0061,
        "doubtful": False,
    }
    lines = describe("\x1b[2Ja.png", [digit]).split("\n")
    assert len(lines) == 2
    assert all(map(str.isprintable, lines))
    assert describe("\x1b[2Ja.png", []).isprintable()


def test_a_wrong_file_hides_no_other(work, capsys):
    write(work / "a.png", draw("1"))
    (work / "b.png").write_text("seven")
    write(work / "c.png", draw("2"))
    words = ["lenet5.mnist", "a.png", "b.png", "none.png", "c.png"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["a.png: 1", "c.png: 2"]
    assert err.splitlines() == [
        "error: b.png is not a picture in PNG, JPEG, BMP or WebP format",
        "error: none.png can't be read as a picture: No such file or directory",
    ]
    assert main([*words, "--json", "--explain", "seen"]) == 2
    pictures = json.loads(capsys.readouterr().out)
    assert [picture["file"] for picture in pictures] == words[1:]
    assert [len(picture["digits"]) for picture in pictures] == [1, 0, 0, 1]
    assert ["error" in picture for picture in pictures] == [False, True, True, False]
    assert {path.name for path in (work / "seen").glob("*.png")} == {"0-a.png", "3-c.png"}
    assert main([*words[:1], "b.png", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)[0]["digits"] == []


def test_a_damaged_picture_has_the_keys_of_the_others(work, capsys):
    make(work / "pets")
    words = ["data=folder", "data.raw_dir=pets", "model=neuron", "train.epochs=1", "train.batch_size=all"]
    assert train([*words, "hydra.run.dir=run"]) == 0
    (work / "b.png").write_text("cat")
    capsys.readouterr()
    assert main(["run", "pets/cats/000.png", "b.png", "--json"]) == 2
    whole, damaged = json.loads(capsys.readouterr().out)
    assert (len(whole["predictions"]), damaged["predictions"]) == (1, [])
    assert {*damaged} == {*whole, "error"}


def test_digits_are_shown_as_they_come(work):
    write(work / "a.png", draw("1"))
    taken = []
    paths = (taken.append(path) or path for path in ["a.png"] * 3)
    batches = read(load("lenet5.mnist"), paths)
    assert [picture.answers[0]["class"] for picture in next(batches)] == [1]
    assert len(taken) == 1


def test_the_model_is_called_once_for_a_hundred_digits(work, monkeypatch):
    monkeypatch.setattr(predict, "BATCH_SECONDS", 1e6)
    write(work / "a.png", draw("1", dataclasses.replace(PLAIN, height=20)))
    batches = read(load("lenet5.mnist"), ["a.png"] * 250)
    assert [len(batch) for batch in batches] == [1, 100, 100, 49]  # the first does not wait


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_terminal_shows_a_bar_and_the_same_digits(work, capsys, monkeypatch, flags):
    write(work / "a.png", draw("1"))
    words = ["lenet5.mnist", "a.png", "a.png", *flags]
    assert main(words) == 0
    plain = capsys.readouterr()
    assert plain.err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == plain.out
    assert "0/2" in err


def test_explain_writes_the_images_that_the_model_saw(run, work, capsys):
    write(work / "a.png", draw("12"))
    write(work / "b.c.png", np.full((1, 3000), 255, np.uint8))
    assert main([run, "a.png", "b.c.png", "--explain", "seen"]) == 0
    assert {path.name for path in (work / "seen").glob("*.png")} == {"0-a.png", "1-b.c.png"}
    assert "explained -> seen/0-a.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["0-a.png", "0-a.svg"])
def test_explaining_replaces_only_what_was_drawn(work, capsys, name):
    (work / "seen").mkdir()
    (work / "seen" / name).write_text("mine")
    before = sorted(work.rglob("*"))
    assert main(["lenet5.mnist", "a.png", "--explain", "seen"]) == 2  # before a.png is looked at
    (line,) = capsys.readouterr().err.splitlines()
    assert f"seen/{name} was not drawn by mnistjax, so it is not replaced" in line
    assert sorted(work.rglob("*")) == before
    assert (work / "seen" / name).read_text() == "mine"


def test_explaining_follows_no_link(work, capsys):
    (work / "elsewhere").mkdir()
    (work / "seen").symlink_to("elsewhere")
    assert main(["lenet5.mnist", "a.png", "--explain", "seen"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seen is a link" in line


def test_a_second_explanation_replaces_the_first(work, capsys):
    write(work / "a.png", draw("1"))
    words = ["lenet5.mnist", "a.png", "--explain", "seen"]
    assert main(words) == 0
    first = {path: path.read_bytes() for path in (work / "seen").iterdir()}
    assert {path.name for path in first} == {"0-a.png", "0-a.svg"}
    assert main(words) == 0
    assert {path: path.read_bytes() for path in (work / "seen").iterdir()} == first


def test_an_explanation_that_can_not_be_written_hides_no_answer(run, work, capsys):
    name = f"{'a' * 250}.png"  # that of its explanation is too long
    for place in ("b.png", name):
        write(work / place, draw("1"))
    capsys.readouterr()
    assert main([run, "b.png", name, "b.png", "--json", "--explain", "seen"]) == 2
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 3
    assert "File name too long" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["nothing.mnist", "a.png"],
            "unknown pretrained model, saved file or folder of a run 'nothing.mnist'",
        ),
        (["run"], "the following arguments are required: IMAGE"),
        (["run", "a.png", "--jsn"], "unrecognized arguments: --jsn"),
        (["run", "a.png", "--explain", "a.png"], "a.png can't be written"),
    ],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(run, work, capsys, words, message):
    write(work / "a.png", draw("1"))
    before = sorted(work.rglob("*"))
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, len(err.splitlines())) == ("", 1)
    assert sorted(work.rglob("*")) == before


def test_a_model_of_two_channels_reads_no_picture(work, capsys):
    """It is refused once, before the pictures."""
    data = made_up_data(shape=(9, 8, 2))
    np.savez(work / "own.npz", x_train=data.train.images, y_train=data.train.labels)
    words = ["data=npz", "data.raw_dir=own.npz", "model=mlp", "model.hidden=4", "train.epochs=1"]
    assert train([*words, "hydra.run.dir=run"]) == 0
    write(work / "a.png", draw("1"))
    capsys.readouterr()
    assert main(["run", "a.png", "a.png"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: run takes images of 2 channels; a picture has 1 or 3\n"
