"""The picture of the default run, by scripts/result_figure.py."""

import numpy as np

from mnistjax.report.figures import save
from mnistjax.tracking import Examples
from result_figure import result_figure
from test_figures import DIGITS, drawn, rows, texts

MATRIX = np.eye(10, dtype=int).tolist()


def test_equal_runs_have_equal_files(tmp_path):
    contents = []
    for name in "ab":
        figure = result_figure(rows(3), MATRIX, Examples(*drawn(), DIGITS), title="t")
        paths = save(figure, tmp_path / name / "result")
        assert [path.suffix for path in paths] == [".png", ".svg"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")


def test_a_run_without_errors_says_so():
    images, labels, _ = drawn()
    right = Examples(images, labels, np.eye(10)[labels], DIGITS)
    figure = result_figure(rows(2), MATRIX, right, title="t")
    assert "No errors" in texts(figure)
