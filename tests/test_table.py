"""Tables of runs for papers: what is in their cells, what is marked, and their text."""

import csv
import io
import math
import shutil
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax.config import ConfigError
from mnistjax.report.comparison import compare_runs
from mnistjax.report.configurations import group_runs, sort_values
from mnistjax.report.dashboard import distinct_rows, make_data
from mnistjax.report.runs import RunRecord, Runs
from mnistjax.report.sanitize import find_monitor
from mnistjax.report.table import find_marks
from mnistjax.report.table_text import escape_latex
from mnistjax.sweeps.results import varying
from mnistjax.verdicts import compare
from small import made_run

HOSTILE = [
    "a_b & 50% #1",
    "$x^2$ {~} \\",
    "[8, 16]",
    "*",
    "<b>|`'\"",
    "x\ny\x1b[0m",
    "字 é",
    "--- ?` !`",
    "=1+1",
    "",
]


def run(
    seed=0, *, accuracy: Any = 0.9, val: Any = 0.9, status="done", identity: Any = None, **config
) -> RunRecord:
    """A run with these accuracies; keys of the config have two underscores for a dot."""
    config = {key.replace("__", "."): value for key, value in config.items()}
    made = made_run(0, status, accuracy=accuracy, seed=seed, **{"train.monitor": "val/accuracy", **config})
    rows = [{**row, "val/accuracy": val, "val/loss": 1 - val} for row in made.rows]
    return replace(made, rows=rows, identity=identity, folder=Path(f"/runs/{seed}"))


def grid(accuracies, **more) -> Runs:
    """A run for each optimizer, learning rate and accuracy; the seed is the place of the accuracy."""
    return Runs(
        run(seed, accuracy=accuracy, optimizer__name=name, optimizer__learning_rate=rate, **more)
        for (name, rate), values in accuracies.items()
        for seed, accuracy in enumerate(values)
    )


FOUR = {
    ("sgd", 0.1): [0.80, 0.81, 0.82],
    ("sgd", 0.01): [0.70, 0.72, 0.71],
    ("adam", 0.1): [0.90, 0.93, 0.91],
    ("adam", 0.01): [0.91, 0.90, 0.92],
}


def marked(table) -> set:
    return {place for place, cell in table.cells.items() if cell.marked}


def means(table) -> dict:
    return {place: cell.spread.mean for place, cell in table.cells.items()}


def test_cells_are_means_over_seeds():
    table = grid(FOUR).table("optimizer", "learning_rate")
    assert table.keys == ("optimizer.name", "optimizer.learning_rate")
    assert (table.rows, table.columns) == (("sgd", "adam"), ("0.01", "0.1"))
    for (name, rate), values in FOUR.items():
        spread = table.cells[name, str(rate)].spread
        assert (spread.mean, spread.std, spread.n) == (
            pytest.approx(statistics.fmean(values)),
            pytest.approx(statistics.stdev(values)),
            3,
        )


def test_numbers_are_sorted_by_value_and_words_stay_in_order():
    runs = [run(batch=size) for size in (128, "all", 32, 1e3, [8, 4], None)] + [run()]
    configurations = group_runs([replace(one, folder=Path(str(i))) for i, one in enumerate(runs)])
    assert sort_values("batch", configurations) == ["32", "128", "1000.0", "all", "[8, 4]", "None", "-"]


def test_a_number_and_a_list_of_it_are_one_row():
    runs = Runs(
        run(seed, val=0.5, accuracy=0.5, model__hidden=[width] if seed < 2 else width, optimizer__name=name)
        for name in ("sgd", "adam")
        for width in (8, 16)
        for seed in range(4)
    )
    table = runs.table("hidden", "optimizer")
    assert table.rows == ("8", "16")
    assert {cell.spread.n for cell in table.cells.values()} == {4}
    configs = {number: {"model": {"hidden": hidden}} for number, hidden in enumerate((8, [8], [8, 4]))}
    assert [*varying(configs).values()] == [{"model.hidden": hidden} for hidden in (8, 8, [8, 4])]


def test_within_a_cell_validation_chooses_and_never_the_test_metric():
    values = {8: (0.6, 0.99), 16: (0.8, 0.5), 32: (0.7, 0.7)}  # val and test accuracy by width
    runs = Runs(
        run(seed, val=val, accuracy=test, optimizer__name=name, model__hidden=width)
        for name in ("sgd", "adam")
        for width, (val, test) in values.items()
        for seed in range(2)
    )
    table = runs.table("optimizer")
    assert {cell.others["model.hidden"] for cell in table.cells.values()} == {"16"}
    assert means(table)["sgd", "test/accuracy"] == 0.5
    assert (table.chosen, table.monitor) == (("model.hidden",), "val/accuracy")
    assert any("model.hidden" in note and "val/accuracy" in note for note in table.notes)
    permuted = Runs(
        replace(one, summary={**one.summary, "test/accuracy": other.summary["test/accuracy"]})
        for one, other in zip(runs, reversed(runs), strict=True)
    )
    chosen = {place: cell.others for place, cell in permuted.table("optimizer").cells.items()}
    assert chosen == {place: cell.others for place, cell in table.cells.items()}


def test_the_metric_that_most_runs_monitor_chooses():
    monitors = ["val/loss", "val/accuracy", "val/accuracy", "val/loss", "val/loss"]
    for count, expected in ((3, "val/accuracy"), (5, "val/loss")):
        runs = [run(seed, train__monitor=monitor) for seed, monitor in enumerate(monitors[:count])]
        assert find_monitor(runs) == expected


def test_a_test_metric_in_the_records_can_not_choose():
    runs = Runs(
        run(
            seed,
            val=val,
            accuracy=1 - val,
            model__hidden=width,
            optimizer__name=name,
            train__monitor="test/accuracy",
        )
        for name in ("sgd", "adam")
        for width, val in ((8, 0.2), (16, 0.8))
        for seed in range(2)
    )
    table = runs.table("optimizer")
    assert table.monitor == "val/loss"
    assert {cell.others["model.hidden"] for cell in table.cells.values()} == {"16"}


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=4), min_size=2, max_size=6))
def test_marked_are_the_best_cell_and_all_that_no_verdict_calls_worse(samples):
    runs = Runs(
        run(seed, accuracy=x, model__hidden=i)
        for i, some in enumerate(samples)
        for seed, x in enumerate(some)
    )
    table = runs.table("hidden")
    values = {str(i): dict(enumerate(some)) for i, some in enumerate(samples)}
    best = max(values, key=lambda name: np.mean([*values[name].values()]))
    with_best = [one for one in compare(values, "test/accuracy") if best in (one.better, one.worse)]
    assert {row for row, _ in marked(table)} == values.keys() - {
        one.worse for one in with_best if one.decided
    }
    assert max(means(table).values()) == pytest.approx(means(table)[best, "test/accuracy"])


def test_a_loss_is_better_if_it_is_lower():
    runs = Runs(
        replace(one, summary={**one.summary, "test/loss": loss * (1 + seed / 1000)})
        for name, loss in (("sgd", 0.5), ("adam", 0.1))
        for seed in range(3)
        for one in [run(seed, optimizer__name=name)]
    )
    assert marked(runs.table("optimizer", metric="test/loss")) == {("adam", "test/loss")}


def test_one_seed_has_no_verdict_and_a_note_says_so():
    table = grid({key: values[:1] for key, values in FOUR.items()}).table("optimizer", "learning_rate")
    assert not marked(table)
    assert any("Nothing is marked, because a verdict needs" in note for note in table.notes)
    table = grid({**FOUR, ("lion", 0.1): [0.99]}).table("optimizer", "learning_rate")
    assert ("lion", "0.1") not in marked(table)
    assert any("one seed have no verdict" in note for note in table.notes)
    assert "nothing about quality" in " ".join(grid(FOUR).table("optimizer", metric="parameters").notes)


def test_the_best_mean_is_marked_even_if_it_loses_on_the_seeds_that_both_have():
    samples = {("a",): {0: 0.50, 1: 0.50, 2: 0.99, 3: 0.99}, ("b",): {0: 0.60, 1: 0.61}}
    (verdict,) = compare({name: samples[name,] for (name,) in samples}, "test/accuracy")
    assert (verdict.better, verdict.decided) == ("b", True)
    places: Any = samples
    marks, _ = find_marks(places, "test/accuracy")
    assert marks == {*samples}


def test_runs_on_different_data_of_ones_own_are_no_repetitions():
    """Nor if they changed in their place; but equal data in two places are."""
    runs = []
    for number, (place, sha256) in enumerate([("a.npz", 1), ("b.npz", 1), ("b.npz", 2), ("b.npz", 2)]):
        config: dict[str, Any] = {"data.name": "npz", "optimizer.name": "sgd", "data.raw_dir": place}
        made = made_run(number, **config)
        data = {**made.summary["data"], "name": "npz", "sha256": f"{sha256}" * 64}
        runs.append(replace(made, summary={**made.summary, "data": data}))
    assert [len(one.runs) for one in group_runs(runs)] == [2, 2]
    assert [len(one.runs) for one in group_runs(runs[:2])] == [2]
    assert len(Runs(runs).table("sha256").rows) == 2
    assert len(compare_runs(runs[:2], runs[2:]).config) == 1  # what differs


def test_only_runs_that_are_done_count_and_a_repeated_one_counts_once():
    runs = [
        run(0, identity="a", accuracy=0.5, optimizer__name="sgd"),
        run(0, identity="a", accuracy=0.5, optimizer__name="sgd"),
        run(1, identity="b", status="failed", optimizer__name="sgd"),
        run(1, identity="b", accuracy=0.7, optimizer__name="sgd"),  # the same run, which is done now
        run(2, identity="c", status="diverged", optimizer__name="sgd"),
        run(3, status="waiting", optimizer__name="adam"),
    ]
    table = Runs(runs).table("optimizer")
    assert table.cells["sgd", "test/accuracy"].spread.values == (0.5, 0.7)
    assert [cell.not_done for cell in table.cells.values()] == [1, 1]
    assert any("1 diverged, 1 waiting (sgd" in note for note in table.notes)
    assert table.cells["adam", "test/accuracy"].spread.n == 0
    assert "| adam | - |" in table.to_markdown()
    rows = distinct_rows(make_data(runs))  # of seeds.csv
    assert [(row["seed"], row["status"]) for row in rows[:3]] == [(0, "done"), (1, "done"), (2, "diverged")]
    with pytest.raises(ConfigError, match="none of the 2 runs is done"):
        Runs(runs[4:]).table("optimizer")


def test_runs_without_a_config_have_no_key_for_a_table():
    runs = Runs([replace(run(0, accuracy=0.5), config={})])
    with pytest.raises(ConfigError, match=r"unknown key 'optimizer\.name'"):
        runs.table("optimizer.name")


def test_a_number_of_a_summary_that_no_float_holds_is_no_metric():
    runs = [replace(one, summary={**one.summary, "own": 10**400}) for one in grid(FOUR)]
    assert Runs(runs).table("optimizer").to_csv() == grid(FOUR).table("optimizer").to_csv()


def test_jobs_that_have_not_started_are_in_the_row_that_their_sweep_says():
    waiting = RunRecord(Path("/runs/9"), "waiting", None, {"optimizer.learning_rate": 0.1, "seed": 5}, [], {})
    runs = Runs([*grid({("sgd", 0.1): [0.5, 0.6], ("sgd", 0.01): [0.5]}), waiting])
    assert runs.table("learning_rate", "optimizer").cells["0.1", "sgd"].not_done == 1
    runs = Runs([*grid(FOUR), waiting])
    assert runs.table("optimizer").rows == ("sgd", "adam")
    assert any("1 waiting" in note for note in runs.table("optimizer").notes)


def test_values_that_are_not_finite_are_left_out():
    runs = [*grid({("sgd", 0.1): [0.5, 0.6], ("adam", 0.1): [0.7, 0.8]})]
    for index, word in ((0, "nan"), (2, "inf"), (3, "nan")):
        runs[index] = replace(runs[index], summary={**runs[index].summary, "test/accuracy": word})
    table = Runs(runs).table("optimizer")
    assert table.cells["sgd", "test/accuracy"].spread.values == (0.6,)
    assert table.cells["adam", "test/accuracy"].spread.n == 0
    assert any("left out: 3 runs" in note for note in table.notes)
    assert "nan" not in table.to_markdown() + table.to_latex() + table.to_csv()


def test_a_configuration_whose_validation_is_nan_is_not_chosen():
    bad = [run(seed, val=0.9, accuracy=0.9, model__hidden=8) for seed in range(2)]
    bad = [replace(one, rows=[{**row, "val/accuracy": "nan"} for row in one.rows]) for one in bad]
    good = [run(seed, val=0.1, accuracy=0.1, model__hidden=16) for seed in range(2)]
    runs = [replace(one, config={**one.config, "data.name": "digits"}) for one in [*bad, *good]]
    assert Runs(runs).table("data").cells["digits", "test/accuracy"].spread.mean == 0.1


@pytest.mark.parametrize(
    ("rows", "columns", "metric", "message"),
    [
        (
            "optimzer",
            None,
            "test/accuracy",
            r"unknown key 'optimzer'; nearest is 'optimizer' \(allowed: optimizer, ",
        ),
        ("seed", None, "test/accuracy", "seed is no key .* means over seeds"),
        ("optimizer", "optimizer.name", "test/accuracy", "two different keys; got optimizer.name twice"),
        ("optimizer", None, "test/acuracy", "unknown metric 'test/acuracy'; nearest is 'test/accuracy'"),
        ("optimizer", None, "seed", "unknown metric 'seed'"),
        ("data.dir", None, "test/accuracy", "unknown key 'data.dir'"),
    ],
)
def test_wrong_names_are_one_line(rows, columns, metric, message):
    runs = grid(FOUR, data__dir="/x", data__name="digits")
    with pytest.raises(ConfigError, match=message) as caught:
        runs.table(rows, columns, metric=metric)
    assert "\n" not in str(caught.value)


def test_a_key_has_short_forms_unless_they_are_ambiguous():
    runs = grid(FOUR, schedule__learning_rate=1, data__name="digits")
    assert runs.table("learning_rate").keys == ("optimizer.learning_rate",)  # it differs between the runs
    assert runs.table("data").keys == ("data.name",)
    assert runs.table("data").rows == ("digits",)
    two = Runs([*grid(FOUR, model__name="cnn"), *grid(FOUR, model__name="mlp")])
    with pytest.raises(ConfigError, match="unknown key 'name'"):
        two.table("name")


def test_markdown_has_the_words_of_the_other_tables_and_bold_marks():
    runs = grid({("sgd", 0.1): [0.80, 0.81, 0.82], ("adam", 0.1): [0.90, 0.92, 0.91]})
    text = runs.table("optimizer").to_markdown()
    assert text.splitlines()[:4] == [
        "| optimizer | test/accuracy |",
        "| --- | ---: |",
        "| sgd | 81.00% ± 1.00% (3) |",
        "| adam | **91.00% ± 1.00% (3)** |",
    ]
    assert runs.table("optimizer")._repr_markdown_() == text
    crossed = grid(FOUR).table("optimizer", "learning_rate").to_markdown()
    assert crossed.startswith("| optimizer ↓ learning_rate → | 0.01 | 0.1 |\n")


def test_latex_has_the_percent_sign_in_its_head_only():
    text = grid(FOUR).table("optimizer", "learning_rate").to_latex()
    assert r" & \multicolumn{2}{c}{test/accuracy (\%) by learning\_rate} \\" in text
    assert r"sgd & 71.00 $\pm$ 1.00\,(3) & 81.00 $\pm$ 1.00\,(3) \\" in text
    assert r"\textbf{91.33 $\pm$ 1.53\,(3)}" in text
    assert text.count(r"\%") == 1
    for line in (r"\begin{tabular}{lrr}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert line in text.splitlines()
    assert text.startswith("% needs \\usepackage{booktabs}\n")


def test_csv_has_the_numbers_in_full():
    table = grid({("sgd", 0.1): [0.1 + 0.2, 1 / 3], ("=1+1", 0.01): [0.5]}).table(
        "optimizer", "learning_rate"
    )
    rows = [*csv.DictReader(io.StringIO(table.to_csv()))]
    assert len(rows) == len(table.cells) == 4
    for row in rows:
        cell = table.cells[row["optimizer.name"].removeprefix("'"), row["optimizer.learning_rate"]]
        numbers = [cell.spread.mean, cell.spread.std, cell.spread.mean_half_width]
        told = [row[f"test/accuracy {name}"] for name in ("mean", "std", "95 % +-")]
        assert told == ["" if math.isnan(number) else repr(number) for number in numbers]
        assert (int(row["n"]), row["marked"]) == (cell.spread.n, str(cell.marked))
    assert "'=1+1" in {row["optimizer.name"] for row in rows}


def hostile_table():
    runs = [
        run(seed, accuracy=0.5 + i / 100, **{"optimizer.name": name, "model.$_^{": other})
        for i, name in enumerate(HOSTILE)
        for other in HOSTILE
        for seed in range(2)
    ]
    return Runs(runs).table("optimizer", "model.$_^{")


def test_hostile_names_stay_in_their_cells():
    table = hostile_table()
    lines = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.columns) + 2}
    for text in (table.to_markdown(), table.to_latex()):
        assert all(line.isprintable() for line in text.splitlines())
    assert len([*csv.reader(io.StringIO(table.to_csv()))]) == 1 + len(table.cells)
    notes = table.to_latex().partition("\\begin{tabular}")[0].splitlines()
    assert {note[:2] for note in notes} == {"% "}


@given(st.text())
def test_latex_text_has_no_character_that_latex_would_read(text):
    escaped = escape_latex(text)
    for command in (
        "textbackslash{}",
        "textasciitilde{}",
        "textasciicircum{}",
        "textless{}",
        "textgreater{}",
    ):
        escaped = escaped.replace(f"\\{command}", "")
    for command in ("textbar{}", "char96", "_", "%", "&", "#", "$", "{", "}"):
        escaped = escaped.replace(f"\\{command}", "")
    assert not set("\\_%&#$~^<>|`\n") & set(escaped)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX: texlive-latex-recommended")
def test_latex_compiles(tmp_path):
    for name, table in (
        ("hostile", hostile_table()),
        ("own", grid(FOUR).table("optimizer", "learning_rate")),
    ):
        head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        body = f"{head}\n{table.to_latex()}\\end{{document}}"
        (tmp_path / f"{name}.tex").write_text(body)
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
