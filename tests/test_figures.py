"""Figures are files that equal runs have equal, and that any run can be drawn as."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnistjax.config import ConfigError
from mnistjax.report import figures
from mnistjax.tracking import Examples

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


@pytest.mark.parametrize("epochs", [0, 1, 100])
def test_curves_of_any_length(tmp_path, epochs):
    figures.save(figures.curves(rows(epochs)), tmp_path / "curves")


def test_curves_accept_words_for_non_finite_numbers(tmp_path):
    diverged = [*rows(2), {**rows(1)[0], "epoch": 3, "val/loss": "nan", "train/loss": "inf"}]
    figures.save(figures.curves(diverged), tmp_path / "curves")


@pytest.mark.parametrize("names", [["other", "0"], DIGITS, CLOTHES, [chr(65 + i) for i in range(47)]])
def test_a_confusion_matrix_of_any_size_shows_its_counts(tmp_path, names):
    matrix = np.full((len(names), len(names)), 3) + np.diag([1234] * len(names))
    figure = figures.confusion_matrix_figure(matrix.tolist(), names)
    assert texts(figure).count("3") >= matrix.size - len(names)
    assert texts(figure).count("1,237") == len(names)
    if len(names) < 20:
        figures.save(figure, tmp_path / "matrix")


def test_a_confusion_matrix_of_many_classes_is_of_bounded_size(tmp_path):
    names = [f"class {k}" for k in range(300)]
    figure = figures.confusion_matrix_figure((np.eye(300, dtype=int) * 7).tolist(), names)
    assert max(figure.get_size_inches()) < 25
    shown = texts(figure)
    assert "7" not in shown
    assert [name for name in names if name in shown] == names[::4]
    figures.save(figure, tmp_path / "matrix", ["png"])


def test_no_errors_at_all(tmp_path):
    images, labels, _ = drawn()
    right = Examples(images, labels, np.eye(10)[labels], DIGITS)
    figures.save(figures.misclassified_grid(right), tmp_path / "errors")


def test_errors_show_true_and_predicted_class():
    images, labels, _ = drawn(3)
    probabilities = np.zeros((3, 10))
    probabilities[range(3), (labels + np.array([0, 1, 1])) % 10] = [1.0, 0.93, 0.999]
    told = texts(figures.misclassified_grid(Examples(images, labels, probabilities, DIGITS)))
    assert "2 of 3 wrong  (true → predicted, confidence)" in told
    verdicts = [f"{labels[i]} → {(labels[i] + 1) % 10}\n{p}" for i, p in ((2, "99.9%"), (1, "93.0%"))]
    assert [text for text in told if "\n" in text] == verdicts


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
    with pytest.raises(ConfigError, match=r"curves\.svg was not drawn by mnistjax"):
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


def test_a_name_with_dollar_signs_is_drawn(tmp_path):
    figure = figures.confusion_matrix_figure([[1, 2], [3, 4]], ["$\\frac{$", "字"])
    assert figures.save(figure, tmp_path / "matrix")
