"""The dashboard: what it is given, and that a real browser shows, sorts and filters it."""

import base64
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnistjax.cli import main, report
from mnistjax.report.dashboard import CURVES, fill_page, importance, make_data
from mnistjax.report.runs import RunRecord, read_runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made(number=0, status: Any = "done", epochs=3, accuracy=0.9, **config):
    """A run as it is read."""
    rows = [{"epoch": e + 1, **dict.fromkeys(CURVES, 1 / (e + 1 + number))} for e in range(epochs)]
    matrix = [[9, 1], [2, 8]]
    summary = {
        "test/accuracy": accuracy,
        "test/confusion_matrix": matrix,
        "data": {"class_names": ["a", "b"]},
    }
    config = {"seed": number, "train.monitor": "val/loss", **config}
    started = None if status == "waiting" else "2026"
    summary = summary if status == "done" else {}
    return RunRecord(Path(f"/runs/{number}"), status, None, config, rows, summary, started)


def curve_of(data, name, run):
    values = np.frombuffer(base64.b64decode(data["curves"][name]), "<f4")
    return values[data["starts"][run] :][: data["runs"][run]["epochs"]]


def test_each_run_finds_its_own_curves():
    runs = [made(0, epochs=3), made(1, epochs=0, status="failed"), made(2, epochs=5), made(3, epochs=1)]
    data = make_data(runs)
    for number, run in enumerate(runs):
        expected = [row["val/accuracy"] for row in run.rows]
        np.testing.assert_allclose(curve_of(data, "val/accuracy", number), expected, rtol=1e-6)


def test_runs_that_are_not_done_are_listed_but_neither_ranked_nor_tested():
    runs = [made(0), made(1, status="diverged"), made(2, status="waiting", epochs=0), made(5)]
    data = make_data(runs)
    assert [run["status"] for run in data["runs"]] == ["done", "diverged", "waiting", "done"]
    assert data["ranking"] == [3, 0]  # by the last val/loss
    assert [run["confusion"] is None for run in data["runs"]] == [False, True, True, False]


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_left_out(word):
    run = made(status="diverged")
    rows: Any = run.rows
    rows[-1]["val/loss"] = word
    data = make_data([run, made(1)])
    assert "val/loss" not in data["runs"][0]["metrics"]
    assert not np.isfinite(curve_of(data, "val/loss", 0)[-1])
    json.dumps(data, allow_nan=False)


def test_no_text_of_a_run_ends_the_script():
    names: list[dict[str, Any]] = [{"model.name": "</script><b>&amp;"}, {"model.name": "mlp"}]
    runs = [made(number, **name) for number, name in enumerate(names)]
    data = {**make_data(runs), "examples": [], "no_examples": ""}
    text = fill_page(data, "<b>title")
    assert "</script><b>" not in text
    assert "<title>&lt;b>title" in text
    start = text.index('id="data">') + len('id="data">')
    read = json.loads(text[start : text.index("</script>", start)])
    assert read["runs"][0]["values"]["model.name"] == "</script><b>&amp;"


def test_the_key_that_decides_has_the_most_importance():
    random = np.random.default_rng(0)
    runs = []
    for number in range(40):
        rate, name = float(random.choice([0.1, 0.2, 0.3])), str(random.choice(["sgd", "adam"]))
        accuracy = 0.5 + rate + 0.01 * random.normal()
        keys: dict[str, Any] = {"optimizer.learning_rate": rate, "optimizer.name": name}
        runs.append(made(number, accuracy=accuracy, **keys))
    rows = importance(runs, ["optimizer.name", "optimizer.learning_rate"], "test/accuracy")
    assert rows[0]["key"] == "optimizer.learning_rate"
    assert rows[0]["importance"] > 0.9
    assert rows[0]["correlation"] > 0.9
    assert sum(row["importance"] for row in rows) == pytest.approx(1, abs=0.01)
    assert {row["key"]: row["correlation"] for row in rows}["optimizer.name"] is None
    assert importance(runs[:5], ["optimizer.name"], "test/accuracy") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: FOLDER"),
        (["nowhere"], "nowhere is no folder"),
        (["."], "holds no run"),
        ([".", "--outt", "x"], "unrecognized arguments: --outt"),
    ],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(work, capsys, words, message):
    assert report.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not [*work.iterdir()]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A real sweep of 13 runs of which one diverges, and its report."""
    folder = tmp_path_factory.mktemp("sweep") / "all"
    words = ["data=digits", "model=mlp", "model.hidden=8", "train.epochs=3", "schedule=constant"]
    options = ["wandb.mode=disabled", f"hydra.sweep.dir={folder}", f"data.dir={folder.parent}"]
    grid = ["optimizer=sgd,adam", "optimizer.learning_rate=0.01,0.1", "seed=0,1,2"]
    with contextlib.chdir(folder.parent):
        assert main(["-m", *words, *options, *grid]) == 0
        worse = ["optimizer=sgd", "optimizer.learning_rate=1e30", f"hydra.run.dir={folder.parent}/worse"]
        assert main([*words, options[0], options[2], *worse]) == 1
        assert report.main([str(folder), str(folder.parent / "worse")]) == 0
    return folder


@pytest.mark.slow
def test_a_report_has_tables_and_figures(sweep):
    found = {str(path.relative_to(sweep / "report")) for path in sweep.glob("report/**/*.*")}
    pictures = ("curves", "confusion_matrix", "misclassified")
    drawn = {f"figures/{name}.{kind}" for name in pictures for kind in ("png", "svg")}
    assert found == {"index.html", "runs.csv", "seeds.csv", *drawn}
    assert len((sweep / "report/runs.csv").read_text().splitlines()) == 1 + 13
    assert len((sweep / "report/seeds.csv").read_text().splitlines()) == 1 + 5
    assert len(read_runs([sweep])) == 12  # the report itself is no run


@pytest.fixture(params=["light", "dark"])
def browser_page(request, sweep):
    """The report of the sweep in a real browser."""
    with opened(sweep / "report/index.html", request.param) as page:
        yield page


@contextlib.contextmanager
def opened(path, scheme: Any = "light"):
    """A page in a real browser without a network; it must leave no error in the console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(offline=True, color_scheme=scheme)
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"file://{path}")
        page.wait_for_selector("html[data-ready=true]", state="attached")
        yield page
        assert errors == []
        browser.close()


@pytest.mark.slow
def test_a_browser_draws_sorts_filters_and_compares(browser_page):
    page = browser_page
    assert page.inner_text("#counts") == "12 done · 1 diverged"
    assert page.locator("#table tbody tr").count() == 10

    def column(title):
        heads = page.locator("#table thead th").all_inner_texts()
        place = [head.strip() for head in heads].index(title) + 1
        return page.locator(f"#table tbody td:nth-child({place})").all_inner_texts()

    losses = [float(text) for text in column("val/loss")]
    assert losses == sorted(losses)  # the best runs first
    for order in ("ascending", "descending"):
        page.locator("#table thead th", has_text="test/accuracy").click()
        page.wait_for_selector(f"#table thead th[aria-sort={order}]:has-text('test/accuracy')")
    accuracies = [float(text) for text in column("test/accuracy")]
    assert accuracies == sorted(accuracies, reverse=True)

    def legend():
        page.locator("#curves").scroll_into_view_if_needed()
        page.wait_for_selector("#curve-plot .legendtext")
        return page.locator("#curve-plot .legendtext").all_text_contents()

    assert len(legend()) == 4  # groups over seeds; the run that diverged has no epoch
    page.select_option("#curve-group", "optimizer.name")
    page.wait_for_function("document.querySelectorAll('#curve-plot .legendtext').length === 2")
    page.fill("input[type=search]", "adam")
    page.wait_for_function("document.querySelectorAll('#curve-plot .legendtext').length === 1")
    assert legend() == ["adam (6)"]
    assert set(column("optimizer.name")) == {"adam"}

    page.locator("#table tbody tr").nth(0).locator("td").first.click()
    page.locator("#table tbody tr").nth(1).locator("td").first.click()
    assert page.locator("#differences-table thead th").count() == 3
    assert "test/accuracy" in page.inner_text("#differences-table")
    assert "diverged" in page.inner_text("#failures-table")
    assert page.locator("#errors-tiles figure").count() > 3

    for section, drawn in (
        ("parallel", ".parcoords"),
        ("importance", ".bars"),
        ("confusion", ".heatmaplayer"),
    ):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{section}-plot {drawn}", state="attached")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (paper == "rgb(255, 255, 255)") != dark


@pytest.mark.slow
def test_a_browser_shows_text_of_runs_as_text_and_needs_none_that_is_done(tmp_path):
    evil = "<img src=x onerror=document.title='evil'>"
    named: dict[str, Any] = {"model.name": evil}
    runs = [made(0, status="failed", **named), made(1, status="waiting", epochs=0)]
    sizes: list[dict[str, Any]] = [{"train.batch_size": size} for size in ("all", 1024, 32)]
    runs += [made(2 + i, status="interrupted", **size) for i, size in enumerate(sizes)]
    data = {**make_data(runs), "examples": [], "no_examples": "none"}
    (tmp_path / "index.html").write_text(fill_page(data, evil))
    with opened(tmp_path / "index.html") as page:
        assert page.title() == evil
        assert evil in page.inner_text("#table")
        assert page.locator("img").count() == 0
        page.locator("#table thead th", has_text="train.batch_size").click()
        shown = page.locator("#table tbody tr").all_inner_texts()
        order = [size for text in shown for size in ("\t32\t", "\t1,024\t", "\tall\t") if size in text]
        assert order == ["\t32\t", "\t1,024\t", "\tall\t"]
        assert "5 runs" in page.inner_text("#failures-note")
        for section in ("curves", "parallel", "importance", "confusion"):
            page.locator(f"#{section}").scroll_into_view_if_needed()
            page.wait_for_timeout(200)
