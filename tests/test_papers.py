"""The options --table and --figure of the command `mnistjax-report`."""

import contextlib
import csv
import io
import os
import statistics
import subprocess
import sys
from typing import Any

import pytest

import mnistjax
from mnistjax.cli import main, report
from small import write_run


@pytest.fixture
def runs(work):
    """The name of a folder with six runs."""
    for name, accuracies in (("sgd", (0.5, 0.6, 0.7)), ("adam", (0.91, 0.92, 0.9))):
        for seed, accuracy in enumerate(accuracies):
            config: Any = {"optimizer": {"name": name, "learning_rate": 0.1 if name == "sgd" else 0.01}}
            summary = {"test/accuracy": accuracy, "test/loss": 1 - accuracy}
            write_run(
                work / "runs" / f"{name}{seed}",
                seed=seed,
                identity=f"{name}{seed}",
                summary=summary,
                **config,
            )
    return "runs"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The folder of a sweep of twelve small runs."""
    folder = tmp_path_factory.mktemp("sweep")
    words = ["data=digits", "model=mlp", "model.hidden=4", "train.epochs=1", "train.batch_size=230"]
    words += ["optimizer=sgd,adam", "optimizer.learning_rate=0.01,0.1", "seed=0,1,2", "wandb.mode=disabled"]
    with contextlib.chdir(folder):
        assert main(["-m", *words, f"hydra.sweep.dir={folder}/sweep"]) == 0
    return folder / "sweep"


def test_a_table_has_the_means_of_results_csv(sweep, work, capsys):
    capsys.readouterr()
    words = [
        "--table",
        "optimizer.name",
        "x",
        "optimizer.learning_rate",
        "--metric",
        "val/loss",
        "--format",
        "csv",
    ]
    assert report.main([str(sweep), *words]) == 0
    out, err = capsys.readouterr()
    told = [*csv.DictReader(io.StringIO(out))]
    results = [*csv.DictReader((sweep / "results.csv").read_text().splitlines())]
    assert len(told) == 4
    for row in told:
        keys = ("optimizer.name", "optimizer.learning_rate")
        own = [float(run["val/loss"]) for run in results if all(run[key] == row[key] for key in keys)]
        assert float(row["val/loss mean"]) == pytest.approx(statistics.fmean(own))
        assert float(row["val/loss std"]) == pytest.approx(statistics.stdev(own))
        assert row["n"] == "3"
    assert "Marked: the best mean" in err
    assert not [*work.iterdir()]
    assert not (sweep / "report").exists()
    pandas = pytest.importorskip("pandas")
    frame: Any = pandas.read_csv(io.StringIO(out))
    assert frame["marked"].dtype == bool
    means: Any = mnistjax.read_runs(sweep).to_frame().groupby("optimizer.name")["val/loss"].mean()
    assert frame.groupby("optimizer.name")["val/loss mean"].mean().to_dict() == pytest.approx(means.to_dict())


@pytest.mark.parametrize("words", [["optimizer", "x", "learning_rate"], ["optimizer x learning_rate"]])
def test_the_command_prints_the_table_of_python(runs, capsys, words):
    table = mnistjax.read_runs(runs).table("optimizer", "learning_rate", metric="test/loss")
    for format, text in (("md", table.to_markdown()), ("tex", table.to_latex()), ("csv", table.to_csv())):
        assert report.main([runs, "--table", *words, "--metric", "test/loss", "--format", format]) == 0
        assert capsys.readouterr().out == text
    assert report.main([runs, "--table", *words, "--metric", "test/loss"]) == 0
    assert capsys.readouterr().out == table.to_markdown()


def test_figures_are_written_next_to_a_table(runs, work, capsys):
    words = ["--figure", "curves", "curves.pdf", "--figure", "optimizer", "x", "learning_rate", "new/map.svg"]
    words += ["--figure", "learning_rate", "rates.png", "--figure", "parameters", "sizes.png"]
    assert report.main([runs, *words, "--table", "optimizer"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("| optimizer | test/accuracy |")
    assert err.splitlines() == [
        f"figure -> {name}" for name in ("curves.pdf", "new/map.svg", "rates.png", "sizes.png")
    ]
    assert (work / "curves.pdf").read_bytes().startswith(b"%PDF")
    names = {path.name for path in work.rglob("*.*") if "runs" not in str(path)}
    assert names == {"curves.pdf", "map.svg", "rates.png", "sizes.png"}
    first = (work / "rates.png").read_bytes()
    assert report.main([runs, "--figure", "learning_rate", "rates.png", "--metric", "test/loss"]) == 0
    assert (work / "rates.png").read_bytes() != first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--table", "nothing"],
            "unknown key 'nothing' (allowed: optimizer, optimizer.learning_rate, train.monitor)",
        ),
        (["--table", "seed"], "seed is no key of a table"),
        (
            ["--table", "optimizer", "learning_rate"],
            "--table takes KEY or KEY x KEY, and FOLDERs come before",
        ),
        (["--table", "a", "x", "b", "x", "c"], "--table takes KEY or KEY x KEY"),
        (["--table", "optimizer", "by", "learning_rate"], "--table takes KEY or KEY x KEY"),
        (["--table", ""], "--table takes KEY or KEY x KEY"),
        (["--table", "optimizer", "--metric", "accuracy"], "unknown metric 'accuracy'; nearest is"),
        (["--table", "optimizer", "--format", "html"], "unknown format 'html' (allowed: csv, md, tex)"),
        (["--table", "optimizer", "--out", "x"], "--out is for the report"),
        (["--figure", "curves", "x.pdf", "--wandb"], "--wandb is for the report"),
        (["--format", "md"], "--format is for --table"),
        (["--metric", "test/loss"], "--metric is for --table, --figure and the comparison of two folders"),
        (["--figure", "curves", "x.pdf", "--format", "md"], "--format is for --table"),
        (
            ["--figure", "curves"],
            "--figure takes WHAT and a file that ends in .png, .svg or .pdf; got 'curves'",
        ),
        (["--figure", "x.pdf"], "--figure takes WHAT and a file"),
        (["--figure", "curves", "x.jpg"], "--figure takes WHAT and a file"),
        (["--figure", "curves", "x.pdf", "--figure", "parameters", "x.pdf"], "x.pdf is given for 2 figures"),
        (["--figure", "curves", "new.pdf", "--figure", "nothing", "y.pdf"], "unknown key 'nothing'"),
        (
            ["--figure", "parameters", "new.pdf", "--figure", "curves", "mine.png"],
            "mine.png was not drawn by",
        ),
        (["--figure", "curves", "new.pdf", "--table", "nothing"], "unknown key 'nothing'"),
        (["--figure", "curves", "mine.png/x.png"], "mine.png"),
        (["--figure", "curves", "folder.png"], "folder.png is not a regular file"),
        (["--figure", "curves", "x" * 300 + ".png"], "File name too long"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(runs, work, capsys, words, message):
    (work / "mine.png").write_text("mine")
    (work / "folder.png").mkdir()
    before = sorted(work.rglob("*"))
    assert report.main([runs, *words]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not out
    assert sorted(work.rglob("*")) == before
    assert (work / "mine.png").read_text() == "mine"


def test_a_table_loads_neither_jax_nor_matplotlib(runs):
    code = (
        "import sys; from mnistjax.cli import report; assert report.main(sys.argv[1:]) == 0;"
        "assert not {'jax', 'matplotlib', 'wandb', 'tensorflow', 'pandas', 'sklearn'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, runs, "--table", "optimizer"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
