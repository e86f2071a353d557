"""Figures of any sweep: what is drawn, and their files."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib import colors

from mnistjax.config import ConfigError
from mnistjax.report import axes, figures
from mnistjax.report.runs import Runs
from mnistjax.report.sweep_figures import curves, heat_map
from test_figures import texts
from test_table import FOUR, HOSTILE, grid, run

KINDS = ("png", "svg", "pdf")


def lines_of(figure) -> list[Any]:
    return [line for line in figure.axes[0].lines if len(line.get_xdata())]


def with_rows(one, metric, values):
    """The run with an epoch for each value of a metric."""
    rows = [{**one.rows[0], "epoch": i + 1, metric: value} for i, value in enumerate(values)]
    return replace(one, rows=rows, summary={**one.summary, "kept_epoch": len(rows)})


@pytest.mark.parametrize("what", [("curves",), ("optimizer", "learning_rate")], ids="-".join)
def test_equal_figures_are_equal_files_of_every_kind(tmp_path, what):
    for folder in ("one", "two"):
        figures.save(grid(FOUR).figure(*what), tmp_path / folder / "figure.x", KINDS)
    for kind, start in zip(KINDS, (b"\x89PNG", b"<?xml", b"%PDF"), strict=True):
        one, two = ((tmp_path / folder / f"figure.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two
        assert one.startswith(start)


CODE = """
import sys
import matplotlib as mpl
from mnistjax.report import figures
from test_table import FOUR, grid
settings = {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}  # that would load pyplot
figure = grid(FOUR).figure("learning_rate")
grid(FOUR).figure("optimizer", "learning_rate")
figures.save(figure, sys.argv[1], ["pdf"])
assert "matplotlib.pyplot" not in sys.modules
assert {key: mpl.rcParams[key] for key in settings} == settings
"""


def test_another_process_and_time_give_the_same_pdf_and_change_no_settings(tmp_path):
    figures.save(grid(FOUR).figure("learning_rate"), tmp_path / "here.pdf", ["pdf"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    time.sleep(1.0)  # so that a time in seconds would differ
    subprocess.run([sys.executable, "-c", CODE, tmp_path / "there.pdf"], check=True, env=environment)
    content = (tmp_path / "here.pdf").read_bytes()
    assert content == (tmp_path / "there.pdf").read_bytes()
    assert b"/Type3" not in content  # publishers refuse it


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_mnistjax_drew_is_replaced(tmp_path, kind):
    path = tmp_path / f"figure.{kind}"
    figures.save(grid(FOUR).figure("curves"), path, [kind])
    first = path.read_bytes()
    figures.save(grid(FOUR).figure("parameters"), path, [kind])
    assert path.read_bytes() != first
    path.write_bytes(b"%PDF-1.4 mine" + bytes(2 * figures.TAIL))
    with pytest.raises(ConfigError, match="was not drawn by mnistjax"):
        figures.save(grid(FOUR).figure("curves"), path, [kind])
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        figures.save(grid(FOUR).figure("curves"), path, [kind])
    assert [*tmp_path.iterdir()] == [path]


def test_a_figure_with_many_objects_keeps_its_mark(tmp_path):
    """The mark of a PDF stands before its table of objects, one for each glyph and more."""
    many = Runs(run(0, accuracy=i / 90, model__name=f"{chr(200 + i)}{chr(400 + i)}") for i in range(60))
    for _ in range(2):
        figures.save(many.figure("model"), tmp_path / "figure", ["pdf"])


def test_a_curve_is_the_mean_over_seeds_until_the_first_one_stops():
    losses = [[2.0, 1.0, 0.5], [4.0, 3.0]]
    runs = [with_rows(run(seed), "val/loss", values) for seed, values in enumerate(losses)]
    (line,) = lines_of(curves(runs, "val/loss"))
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == [3.0, 2.0]
    axes = curves(runs, "val/loss").axes[0]
    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "val/loss (nats per image)")
    band: Any = axes.collections[0]
    assert band.get_datalim(axes.transData).get_points()[:, 1].tolist() == [1.0, 4.0]


def test_curves_are_of_the_best_by_validation_and_say_of_how_many():
    runs = Runs(run(seed, val=i / 30, model__hidden=i) for i in range(30) for seed in range(2))
    figure = runs.figure("curves")
    assert len(lines_of(figure)) == axes.MOST
    words = " ".join(texts(figure))
    assert "the best 7 of 30 configurations by val/accuracy" in words.replace("\n", " ")
    assert {f"hidden={i}" for i in range(23, 30)} <= {*texts(figure)}
    assert figure.axes[0].get_ylabel() == "val/accuracy (%)"


def test_lines_differ_without_colours():
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines_of(grid(FOUR).figure("curves"))}
    assert len(looks) == len(FOUR)
    assert len({*axes.DASHES}) == len({*axes.MARKERS}) == len({*axes.COLORS}) == axes.MOST


def test_a_key_of_numbers_has_an_axis_with_its_values():
    figure = grid(FOUR).figure("learning_rate")
    assert [*figure.axes[0].get_xticks()] == [0.01, 0.1]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.01", "0.1"]
    bars: dict[Any, Any] = {container.get_label(): container for container in figure.axes[0].containers}
    assert bars.keys() == {"sgd", "adam"}
    means = [100 * np.mean(FOUR["sgd", rate]) for rate in (0.01, 0.1)]
    deviations = [100 * np.std(FOUR["sgd", rate], ddof=1) for rate in (0.01, 0.1)]
    line, _, (bar,) = bars["sgd"]
    assert line.get_ydata() == pytest.approx(means)
    halves = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bar.get_segments()]
    assert halves == pytest.approx(deviations)
    assert "mean ± standard deviation, 3 seeds" in texts(figure)


@pytest.mark.parametrize(
    ("numbers", "logs"),
    [
        ([0.001, 0.01, 0.1], True),
        ([0.01, 0.1], False),
        ([0, 0.01, 1, 100], False),
        ([1, 250, 500, 1000], False),
        ([1e-5, 1], True),
        ([5], False),
    ],
)
def test_an_axis_is_logarithmic_if_the_numbers_are_even_in_logs(numbers, logs):
    assert axes.is_even_in_logs(numbers) is logs


def test_many_other_values_leave_the_best_by_validation():
    runs = Runs(
        run(seed, val=width / 100, accuracy=0.9 - width / 100, optimizer__momentum=m, model__hidden=width)
        for m in (0.0, 0.9)
        for width in range(1, 11)
        for seed in range(2)
    )
    figure = runs.figure("momentum")
    bars: Any = figure.axes[0].containers[0]
    assert len(figure.axes[0].containers) == 1
    assert bars[0].get_ydata() == pytest.approx([80.0, 80.0])
    assert "the best hidden by val/accuracy" in " ".join(texts(figure)).replace("\n", " ")


def test_a_heat_map_shows_the_cells_of_the_table():
    table = grid(FOUR).table("optimizer", "learning_rate")
    figure = heat_map(table)
    assert {"71.00\n± 1.00 (3)", "91.33\n± 1.53 (3)", "0.01", "adam", "test/accuracy (%)"} <= {*texts(figure)}
    written: list[Any] = [*figure.axes[0].texts]
    bold = {text.get_text() for text in written if text.get_weight() == "bold"}
    assert len(bold) == len(figure.axes[0].patches) == sum(cell.marked for cell in table.cells.values())
    few = grid({key: FOUR[key] for key in (("sgd", 0.1), ("adam", 0.01))})
    assert texts(few.figure("optimizer", "learning_rate")).count("-") == 2


@pytest.mark.parametrize("level", [i / 50 for i in range(51)])
def test_numbers_on_colours_can_be_read(level):
    import matplotlib as mpl

    for name in ("cividis", "cividis_r"):
        color = mpl.colormaps[name](level)
        parts = [
            [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(x)]
            for x in (color, axes.find_ink(color))
        ]
        low, high = sorted(float(np.dot([0.2126, 0.7152, 0.0722], rgb)) for rgb in parts)
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_parameters_have_a_point_for_each_configuration():
    runs = Runs(
        replace(one, summary={**one.summary, "parameters": size})
        for name, size in (("cnn", 1000), ("mlp", 50_000), ("vit", 200))
        for seed in range(2)
        for one in [run(seed, model__name=name, accuracy=0.5 + seed / 10)]
    )
    figure = runs.figure("parameters")
    assert {"cnn", "mlp", "vit"} <= {*texts(figure)}
    drawn: list[Any] = [*figure.axes[0].containers]
    assert [bars[0].get_xdata().tolist() for bars in drawn] == [[1000], [50_000], [200]]
    assert figure.axes[0].get_xscale() == "log"


def test_a_line_connects_those_that_beat_all_smaller_ones_on_validation():
    """What has the best test accuracy is not on it."""
    values = {300: (0.5, 0.6), 20: (0.6, 0.5), 1: (0.4, 0.3), 2: (0.3, 0.9), 4000: (0.7, 0.6), 21: (0.6, 0.5)}
    runs = Runs(
        replace(one, summary={**one.summary, "parameters": size})
        for size, (val, test) in values.items()
        for one in [run(val=val, accuracy=test, model__hidden=size)]
    )
    figure = runs.figure("parameters")
    line = lines_of(figure)[0]
    assert line.get_xdata().tolist() == [1, 20, 4000]
    assert line.get_ydata().tolist() == [30, 50, 60]
    words = " ".join(texts(figure)).split()
    assert "on the line: better by val/accuracy than all smaller ones" in " ".join(words)


ODD = {
    "one run": [run()],
    "one epoch": [with_rows(run(seed), "val/accuracy", [0.5]) for seed in range(2)],
    "nan": [with_rows(run(seed), "val/accuracy", ["nan", "inf"]) for seed in range(2)],
    "zero loss": [with_rows(run(seed), "val/loss", [0.5, 0.0]) for seed in range(2)],
    "lists": [run(0, model__hidden=hidden) for hidden in ([8], [16, 16], 4, None)],
    "hostile": [run(0, optimizer__name=name, model__hidden=name[::-1]) for name in HOSTILE],
    "long": [run(0, optimizer__name=c * 500, model__hidden=c * 300) for c in "abc"],
    "thirty": [run(seed, model__hidden=i, optimizer__name=f"o{i % 3}") for i in range(30) for seed in (0, 1)],
    "numbers": [run(0, model__hidden=x, optimizer__name="a") for x in (1e-300, 1.5, 1e300, -1.0, 0)],
}


@pytest.mark.filterwarnings("ignore:Glyph|constrained_layout not applied:UserWarning")
@pytest.mark.parametrize("name", ODD)
def test_any_sweep_is_drawn_or_refused_in_one_line(name):
    runs = Runs(replace(one, config={"data.name": "digits", **one.config}) for one in ODD[name])
    whats = [
        ("curves",),
        ("parameters",),
        ("optimizer",),
        ("hidden",),
        ("hidden", "optimizer"),
        ("data", "hidden"),
    ]
    refused = []
    for what in whats:
        try:
            figure = runs.figure(*what, metric="val/loss" if what == ("curves",) else None)
        except ConfigError as error:
            refused.append(str(error))
            continue
        assert all(0 < inches < 30 for inches in figure.get_size_inches())
        with figures.style():
            figure.draw_without_rendering()
    assert all(text.startswith("unknown key") and "\n" not in text for text in refused)


def test_runs_without_results_are_an_error():
    failed = Runs([run(status="failed")])
    nan = Runs(
        [
            replace(
                run(), summary={**run().summary, "test/accuracy": "nan"}, config={"data.name": "x", "seed": 0}
            )
        ]
    )
    for what in (("curves",), ("parameters",), ("data",), ("data", "optimizer")):
        with pytest.raises(ConfigError, match="none of the 1 runs is done"):
            failed.figure(*what)
    for what in (("parameters",), ("data",)):
        with pytest.raises(ConfigError, match="finite test/accuracy"):
            nan.figure(*what)
    with pytest.raises(ConfigError, match="unknown metric of curves 'test/accuracy'"):
        grid(FOUR).figure("curves", metric="test/accuracy")
    with pytest.raises(ConfigError, match=r"unknown key 'curve'.*other figures: curves, parameters"):
        grid(FOUR).figure("curve")
    many = Runs(run(0, model__hidden=i, optimizer__name="a") for i in range(50))
    with pytest.raises(ConfigError, match="a heat map takes 40 values of a key; got 50"):
        many.figure("hidden", "optimizer")
