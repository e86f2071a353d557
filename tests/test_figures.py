"""Figures are files that equal runs have equal, and that any run can be drawn as."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnistjax import create_model
from mnistjax.cli import predict
from mnistjax.config import ConfigError
from mnistjax.models import list_layers
from mnistjax.report import figures

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
CLOTHES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def rows(count):
    keys = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")
    return [{"epoch": epoch, **dict.fromkeys(keys, 1 / epoch)} for epoch in range(1, count + 1)]


def drawn(count=30, classes=10):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (count, 28, 28), dtype=np.uint8)
    return images, random.integers(0, classes, count), random.dirichlet(np.ones(classes), count)


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_equal_runs_have_equal_files(tmp_path):
    contents = []
    for name in "ab":
        figure = figures.result_figure(rows(3), np.eye(10, dtype=int).tolist(), *drawn(), DIGITS, title="t")
        paths = figures.save(figure, tmp_path / name / "result")
        assert [path.suffix for path in paths] == [".png", ".svg"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")


@pytest.mark.parametrize("epochs", [0, 1, 100])
def test_curves_of_any_length(tmp_path, epochs):
    figures.save(figures.curves(rows(epochs)), tmp_path / "curves")


def test_curves_take_the_words_for_non_finite_numbers(tmp_path):
    diverged = [*rows(2), {**rows(1)[0], "epoch": 3, "val/loss": "nan", "train/loss": "inf"}]
    figures.save(figures.curves(diverged), tmp_path / "curves")


@pytest.mark.parametrize("names", [["other", "0"], DIGITS, CLOTHES, [chr(65 + i) for i in range(47)]])
def test_a_confusion_matrix_of_any_size_tells_its_counts(tmp_path, names):
    matrix = np.full((len(names), len(names)), 3) + np.diag([1234] * len(names))
    figure = figures.confusion_matrix_figure(matrix.tolist(), names)
    assert texts(figure).count("3") >= matrix.size - len(names)
    assert texts(figure).count("1,237") == len(names)
    if len(names) < 20:
        figures.save(figure, tmp_path / "matrix")


def test_errors_are_told_with_true_and_predicted_class():
    images, labels, _ = drawn(3)
    probabilities = np.zeros((3, 10))
    probabilities[range(3), (labels + np.array([0, 1, 1])) % 10] = [1.0, 0.93, 0.999]
    told = texts(figures.misclassified_grid(images, labels, probabilities, DIGITS))
    assert "2 of 3 wrong  (true → predicted, confidence)" in told
    verdicts = [f"{labels[i]} → {(labels[i] + 1) % 10}\n{p}" for i, p in ((2, "99.9%"), (1, "93.0%"))]
    assert [text for text in told if "\n" in text] == verdicts


def test_no_errors_at_all(tmp_path):
    images, labels, _ = drawn()
    right = np.eye(10)[labels]
    figures.save(figures.misclassified_grid(images, labels, right, DIGITS), tmp_path / "errors")
    result = figures.result_figure(
        rows(2), np.eye(10, dtype=int).tolist(), images, labels, right, DIGITS, title="t"
    )
    assert "No errors" in texts(result)


def test_bands_span_the_seeds_and_name_their_groups(tmp_path):
    runs = [[{**row, "train/f1": 0.5, "val/f1": 0.1 * seed} for row in rows(4)] for seed in (1, 2, 6)]
    shorter = [rows(1)[0] | {"train/f1": 0.5, "val/f1": 0.5}]
    figure = figures.seed_curves({"sgd": runs, "adam": [shorter, *runs]}, title="by optimizer")
    assert {"by optimizer", "sgd", "adam", "training", "validation"} <= set(texts(figure))
    panel: Any = figure.axes[2]
    lines = {line.get_label(): line.get_ydata() for line in panel.lines}
    np.testing.assert_allclose(lines["sgd"], [0.3] * 4)
    np.testing.assert_allclose(lines["adam"], [0.35, 0.3, 0.3, 0.3])
    low, high = panel.collections[1].get_datalim(panel.transData).intervaly
    assert (low, high) == pytest.approx((0.1, 0.6))
    figures.save(figure, tmp_path / "bands")


def test_an_architecture_tells_shapes_and_parameters(tmp_path):
    figure = figures.architecture_figure(list_layers(create_model("cnn")), (28, 28, 1))
    told = "\n".join(texts(figure))
    for text in (
        "image\n28 x 28 x 1",
        "ConvBlock\n12 x 12 x 8",
        "11,584 parameters",
        "rate 0.4",
        "Dense\n10",
    ):
        assert text in told
    figures.save(figure, tmp_path / "architecture")


def test_samples_and_counts_name_the_classes(tmp_path):
    images, labels, _ = drawn(13)
    samples = figures.sample_grid(images, labels, CLOTHES)
    assert [text for text in texts(samples) if text in CLOTHES] == [CLOTHES[label] for label in labels]
    figures.save(samples, tmp_path / "samples")
    counts = {"train": [4800] * 10, "val": [1200] * 10, "test": [1000] * 10}
    figure = figures.class_counts_figure(counts, CLOTHES)
    assert {"train (48,000)", "val (12,000)", "test (10,000)"} <= set(texts(figure))
    figures.save(figure, tmp_path / "counts")


def test_report_uses_no_pyplot_and_loads_matplotlib_late():
    code = (
        "import sys, mnistjax.report.figures as r;"
        "assert not {'jax', 'wandb', 'matplotlib'} & sys.modules.keys();"
        "r.curves([]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_figure_replaces_only_what_was_drawn(tmp_path):
    first = [path.read_bytes() for path in figures.save(figures.curves(rows(2)), tmp_path / "curves")]
    assert [path.read_bytes() for path in figures.save(figures.curves(rows(2)), tmp_path / "curves")] == first
    (tmp_path / "curves.svg").write_text("<svg>mine</svg>")
    with pytest.raises(ConfigError, match=r"curves\.svg is not drawn by mnistjax"):
        figures.save(figures.curves(rows(3)), tmp_path / "curves")
    assert (tmp_path / "curves.png").read_bytes() == first[0]
    assert (tmp_path / "curves.svg").read_text() == "<svg>mine</svg>"


def test_a_figure_follows_no_link_and_is_written_whole(tmp_path, monkeypatch):
    drawn = figures.save(figures.curves(rows(2)), tmp_path / "own")[0].read_bytes()
    (tmp_path / "link.png").symlink_to(tmp_path / "own.png")
    with pytest.raises(ConfigError, match="is a link"):
        figures.save(figures.curves(rows(3)), tmp_path / "link")

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        figures.save(figures.curves(rows(3)), tmp_path / "own")
    assert (tmp_path / "own.png").read_bytes() == drawn
    assert {path.name for path in tmp_path.iterdir()} == {"own.png", "own.svg", "link.png"}


def test_a_name_with_dollar_signs_is_a_name(tmp_path):
    figure = figures.confusion_matrix_figure([[1, 2], [3, 4]], ["$\\frac{$", "字"])
    assert figures.save(figure, tmp_path / "matrix")


@pytest.mark.parametrize("name", ["0-a.png", "0-a.svg"])
def test_explaining_replaces_only_what_was_drawn(work, capsys, name):
    (work / "seen").mkdir()
    (work / "seen" / name).write_text("mine")
    before = sorted(work.rglob("*"))
    assert predict.main(["lenet5.mnist", "a.png", "--explain", "seen"]) == 2  # before a.png is looked at
    (line,) = capsys.readouterr().err.splitlines()
    assert f"seen/{name} is not drawn by mnistjax, so it is not replaced" in line
    assert sorted(work.rglob("*")) == before
    assert (work / "seen" / name).read_text() == "mine"


def test_explaining_follows_no_link(work, capsys):
    (work / "elsewhere").mkdir()
    (work / "seen").symlink_to("elsewhere")
    assert predict.main(["lenet5.mnist", "a.png", "--explain", "seen"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seen is a link" in line


def test_what_is_explained_twice_is_replaced(work, capsys):
    drawing = np.full((60, 60), 255, np.uint8)
    drawing[10:50, 28:34] = 0
    Image.fromarray(drawing).save(work / "a.png")
    words = ["lenet5.mnist", "a.png", "--explain", "seen"]
    assert predict.main(words) == 0
    first = {path: path.read_bytes() for path in (work / "seen").iterdir()}
    assert {path.name for path in first} == {"0-a.png", "0-a.svg"}
    assert predict.main(words) == 0
    assert {path: path.read_bytes() for path in (work / "seen").iterdir()} == first
