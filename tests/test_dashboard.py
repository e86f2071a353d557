"""The dashboard: what it is given, and that a real browser shows, sorts and filters it."""

import base64
import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mnistjax import files
from mnistjax.cli import main, report
from mnistjax.config import ConfigError
from mnistjax.data import DATASETS, DataError, find_data, load_data, prepared, register_dataset
from mnistjax.data.arrays import Arrays
from mnistjax.job import reopen
from mnistjax.report.checked import CURVES
from mnistjax.report.dashboard import fill_page, importance, list_rows, make_data, write_report
from mnistjax.report.output import MARK, check_output
from mnistjax.report.runs import RunRecord, read_runs
from small import SUMMARY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made(number=0, status: Any = "done", epochs=3, accuracy=0.9, **config: Any):
    """A run as it is read."""
    own = {"examples_seen": 1, "seconds": 1.0}
    rows = [{"epoch": e + 1, **own, **dict.fromkeys(CURVES, 1 / (e + 1 + number))} for e in range(epochs)]
    data = {**SUMMARY["data"], "class_names": ["a", "b"]}
    summary = {**SUMMARY, "test/accuracy": accuracy, "data": data, "kept_epoch": max(epochs, 1)}
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
    assert "<title>&lt;b&gt;title" in text
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
def opened(path, scheme: Any = "light", refused: list[str] | None = None):
    """A page in a real browser without a network. It must load nothing, run nothing of the runs' (which would
    set `pwned`), and leave no error in the console, but in `refused` if that is given."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(offline=True, color_scheme=scheme)
        page = context.new_page()
        errors: list[str] = [] if refused is None else refused
        asked: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        context.on("request", lambda request: asked.append(request.url))
        page.goto(Path(path).as_uri())
        page.wait_for_selector("html[data-ready=true]", state="attached")
        yield page
        assert errors is refused or errors == []
        assert page.evaluate("window.pwned") is None
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [Path(path).as_uri()]
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
        ("parallel", ".axis"),
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


# Runs of a stranger

MARKUP = [
    "<img src=x onerror=window.pwned=1>",
    "</script><script>window.pwned=2</script>",
    "&lt;img src=x onerror=window.pwned=3&gt;",
    "\"onmouseover='window.pwned=4'",
    '<a href="javascript:window.pwned=5">go</a><b>bold</b>',
    "javascript:window.pwned=6",
    "<img src=x onerror=window.pwned=7 a=&amp;",  # never closed
    "<svg onload=window.pwned=8>",
    "${window.pwned=9}%{x}{{x}}%data%",
]
NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "<i>key</i>.<b>name</b>", "a&amp;b"]


def hostile(number, **changes):
    """A run with markup in each of its texts, and keys that objects have of their own."""
    evil = MARKUP[number % len(MARKUP)]
    own: dict[str, Any] = dict.fromkeys(NAMES, f"{evil}{number % 3}")
    run = made(number % 2, accuracy=0.5 + number / 100, **own)
    summary: Any = run.summary
    summary["data"] = {**DATA, "class_names": [evil, f"__proto__{evil}"], "name": evil, "sha256": evil}
    facts = {"folder": Path("/runs") / evil.replace("/", "|"), "reason": evil, "identity": f"{evil}{number}"}
    facts |= {"sweep": evil, "name": evil, "started": evil}
    config = {
        **run.config,
        "list": [evil, evil],
        "mapping": {evil: [evil, {evil: evil}]},
        "nan": float("nan"),
    }
    return dataclasses.replace(run, **{**facts, "config": config, **changes})


def list_hostile():
    runs = [hostile(number) for number in range(len(MARKUP) * 2)]
    odd = [{**runs[0].config, "seed": evil} for evil in MARKUP]
    runs += [hostile(0, status=evil, config=config) for evil, config in zip(MARKUP, odd, strict=True)]
    rows = [{"epoch": MARKUP[0], **dict.fromkeys(CURVES, MARKUP[0])}]
    runs += [hostile(1, rows=rows), hostile(2, summary=dict.fromkeys(runs[0].summary, MARKUP[0]))]
    return [*runs, hostile(3, status="waiting", started=None, summary={}, rows=[])]


def use_all(page, words=()):
    """Click, choose, type, hover and drag all there is; each of the words is in the table."""
    page.wait_for_timeout(100)
    page.locator(".dtsb-add").click()
    columns = page.locator(".dtsb-data option").count()
    for column in range(1, columns):
        page.locator(".dtsb-data").select_option(index=column)
        page.locator(".dtsb-condition").select_option(index=1)
        value = page.locator("select.dtsb-value:not([disabled])")
        if value.count():
            for place in range(1, min(4, value.locator("option").count())):
                value.select_option(index=place)
                found = page.locator("#table td.dt-empty").count()
                assert not found, value.locator("option").nth(place).inner_text()
    page.locator(".dtsb-clearAll").click()
    for head in page.locator("#table thead th").all():
        head.click()
    for word in words:
        page.fill("input[type=search]", word)
        page.wait_for_timeout(50)
        assert page.locator("#table td.dt-empty").count() == 0
    page.fill("input[type=search]", "")
    page.select_option(".dt-length select", "100")
    for row in page.locator("#table tbody tr").all()[:12]:
        row.locator("td").first.click()
    for section in ("curves", "parallel", "importance", "confusion"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{section} .plot svg", state="attached")
        for choice in page.locator(f"#{section} select").all():
            for place in range(choice.locator("option").count()):
                choice.select_option(index=place)
                page.wait_for_timeout(50)
        box: Any = page.locator(f"#{section} .plot").bounding_box()
        for step in range(8):
            share = (step + 1) / 9
            page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"])
            page.wait_for_timeout(30)
    page.locator("#parallel").scroll_into_view_if_needed()
    axis: Any = page.locator("#parallel-plot .axis rect[cursor]").first.bounding_box()
    page.mouse.move(axis["x"] + 5, axis["y"] + 50)
    page.mouse.down()
    page.mouse.move(axis["x"] + 5, axis["y"] - 20)
    page.mouse.up()
    faint = page.locator("#parallel-plot polyline[stroke-opacity='0.06']").count()
    assert 0 < faint < page.locator("#parallel-plot polyline").count()


@pytest.mark.slow
def test_no_text_of_a_run_is_obeyed_by_a_browser(tmp_path):
    data = make_data(list_hostile())
    tile = {"true": MARKUP[0], "predicted": MARKUP[1], "confidence": 0.5}
    sprite = "data:image/png;base64,"
    data["examples"] = [{"run": 0, "wrong": 1, "count": 2, "tiles": [tile], "sprite": sprite}]
    data["no_examples"] = MARKUP[0]
    (tmp_path / "index.html").write_text(fill_page(data, MARKUP[1]))
    with opened(tmp_path / "index.html") as page:
        use_all(page, ["pwned", "<img", "&lt;", '"onmouse', "__proto__"])
        assert page.title() == page.inner_text("h1") == MARKUP[1]
        assert page.locator("main img, main a, main b, main i, main script, main svg[onload]").count() == 0
        table, counts = page.inner_text("#table"), page.inner_text("#counts")
        for evil in MARKUP:
            assert evil in table
            assert f"1 {evil}" in counts
        heads = page.inner_text("#table thead")
        for name in NAMES:
            assert name in heads
            assert name in page.inner_text("#differences-table")
        texts = page.locator("#confusion-plot .xtick text").all_text_contents()
        assert any("__proto__<" in text or "__proto__&lt;" in text for text in texts)
        legend = page.locator("#curve-plot .legendtext").all_text_contents()
        assert any("__proto__=<img src=x" in text for text in legend)
        assert any("__proto__=&lt;img src=x" in text for text in legend)
        assert MARKUP[0] in page.inner_text("#errors-tiles")
        assert MARKUP[0] in page.inner_text("#failures-table")


@pytest.mark.slow
def test_the_page_lets_nothing_run_or_load_that_gets_into_it_all_the_same(tmp_path):
    data = {**make_data([made(0)]), "examples": [], "no_examples": ""}
    (tmp_path / "index.html").write_text(fill_page(data, "title"))
    refused: list[str] = []
    with opened(tmp_path / "index.html", refused=refused) as page:
        for markup in (
            "<img src='data:,' onerror='window.pwned=1'>",
            "<iframe srcdoc='<script>top.pwned=1</script>'>",
        ):
            page.evaluate("markup => document.body.insertAdjacentHTML('beforeend', markup)", markup)
        script = "Object.assign(document.createElement('script'), {text: 'window.pwned = 1'})"
        page.evaluate(f"document.body.append({script})")
        tried = "setTimeout(() => { try { done(eval('1')) } catch { done('refused') } })"
        assert page.evaluate(f"new Promise((done) => {tried})") == "refused"
        assert page.evaluate("fetch('data:,x').then(() => 'loaded', () => 'refused')") == "refused"
        page.wait_for_timeout(300)
    assert any("Content Security Policy" in text for text in refused)


def test_the_policy_names_each_script_by_its_hash():
    data = {**make_data([made(0)]), "examples": [], "no_examples": ""}
    text = fill_page(data, "title")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert text.index(policy[0]) < text.index("<style>")
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    assert re.fullmatch(r"('sha256-[A-Za-z0-9+/]{43}=' ?){3}", rules["script-src"])
    assert not {"connect-src", "frame-src", "worker-src", "script-src-elem"} & rules.keys()


@pytest.mark.slow
def test_no_text_in_the_files_of_runs_is_obeyed_by_a_browser(sweep, tmp_path, capsys):
    """Four jobs of a sweep each have a file full of markup: what is not shown is told."""
    folder = tmp_path / MARKUP[0]
    shutil.copytree(sweep, folder, ignore=shutil.ignore_patterns("report", "sweep.json"))
    for number, name in enumerate(("status.json", "summary.json", "metrics.jsonl", "config.yaml")):
        poison(folder / str(number) / name)
    assert report.main([str(folder)]) == 0
    with opened(folder / "report/index.html") as page:
        assert "pwned" in page.inner_text("h1")
        assert "pwned" in page.inner_text("#failures-table")
        assert re.search("(8|9|10|11) done", page.inner_text("#counts"))
        use_all(page)


@pytest.mark.slow
def test_no_text_in_the_files_of_a_sweep_is_obeyed_by_a_browser(sweep, tmp_path, capsys):
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder, ignore=shutil.ignore_patterns("report"))
    ledger = json.loads((folder / "sweep.json").read_bytes())
    shutil.rmtree(folder / "0")
    ledger["jobs"][0] |= {"status": "failed", "reason": MARKUP[0], "config": dict.fromkeys(NAMES, MARKUP[1])}
    ledger |= {"arguments": MARKUP, "wandb": MARKUP[0]}
    (folder / "sweep.json").write_text(json.dumps(ledger))
    code = report.main([str(folder)])
    told = capsys.readouterr().err.splitlines()
    assert (code, len(told)) in ((0, 1), (2, 1))
    if code == 0:
        with opened(folder / "report/index.html") as page:
            assert MARKUP[0] in page.inner_text("#failures-table")
            use_all(page)


def poison(path):
    """Put markup in place of every text, and beside every key, of a file."""

    def change(value):
        if isinstance(value, dict):
            return {key: change(item) for key, item in value.items()} | dict.fromkeys(NAMES, MARKUP[0])
        if isinstance(value, list):
            return [change(item) for item in value]
        return MARKUP[1] if isinstance(value, str) else value

    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        changed = [dict.fromkeys(row, MARKUP[0]) for row in rows]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    else:
        read, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
        path.write_text(write(change(read(path.read_text()))))


# Runs whose records make no sense


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}


GOOD = made(0)
LAST = GOOD.rows[-1]
DATA = SUMMARY["data"]
SQUARE = "test/confusion_matrix must be a square matrix"
BROKEN: list[tuple[dict[str, Any], str]] = [
    (
        {"rows": [{**row, "val/loss": None} for row in GOOD.rows]},
        "line 1 is damaged: val/loss must be",
    ),
    ({"rows": [*GOOD.rows[:-1], without(LAST, "train/f1")]}, "line 3 is damaged: train/f1 is missing"),
    ({"rows": [*GOOD.rows[:-1], {**LAST, "val/f1": 10**400}]}, "found 'a number of more than 80 digits'"),
    ({"rows": [*GOOD.rows[:-1], {**LAST, "epoch": 7}]}, "line 3: the row of epoch 3 is expected"),
    ({"rows": [7]}, "line 1: the row of epoch 1 is expected"),
    ({"rows": []}, "kept_epoch is 3 of 0 epochs"),
    ({"summary": [7]}, "summary.json is damaged: a mapping is expected"),
    ({"summary": {**GOOD.summary, "kept_epoch": 4}}, "kept_epoch is 4 of 3 epochs"),
    ({"summary": {**GOOD.summary, "kept_epoch": 0}}, "kept_epoch must be"),
    ({"summary": {**GOOD.summary, "test/accuracy": None}}, "test/accuracy must be a number"),
    ({"summary": without(GOOD.summary, "test/confusion_matrix")}, "test/confusion_matrix is missing"),
    (
        {"summary": {**GOOD.summary, "test/confusion_matrix": [[1, 2], [3]]}},
        SQUARE,
    ),
    (
        {"summary": {**GOOD.summary, "test/confusion_matrix": [[1, 2], [3, "4"]]}},
        SQUARE,
    ),
    (
        {"summary": {**GOOD.summary, "test/confusion_matrix": [[1, 2], [3, -4]]}},
        SQUARE,
    ),
    ({"summary": {**GOOD.summary, "data": {**DATA, "class_names": ["a"]}}}, "class_names must be 2 names"),
    ({"summary": {**GOOD.summary, "data": {**DATA, "class_names": [1, 2]}}}, "class_names must be 2 names"),
]


@pytest.mark.parametrize(
    ("changes", "reason"), BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_wrong_in_one_run_is_told_and_stops_no_other(tmp_path, changes, reason):
    runs = [made(1), dataclasses.replace(made(0), **changes), made(2)]
    data = make_data(runs)
    assert [run["status"] for run in data["runs"]] == ["done", "failed", "done"]
    assert reason in data["runs"][1]["reason"]
    page, missing = write_report(runs, data, tmp_path / "out", title="runs")
    assert missing
    assert reason.partition(":")[0] in (tmp_path / "out/runs.csv").read_text()
    assert len([*page.parent.glob("figures/*")]) == 4


def test_odd_values_are_listed_as_text(tmp_path):
    values: dict[str, Any] = {
        "nan": float("nan"),
        "huge": 10**5000,
        "half": "\ud800",
        "mapping": {"a": [1]},
        "deep": [[1, 2]],
        "list": [1, "\udcff", None],
        "empty": {},
    }
    half: dict[str, Any] = {"\ud800": "\ud800"}
    runs = [made(0, **values), made(1), made(2, status="\ud800", **half)]
    runs[0] = dataclasses.replace(runs[0], folder=Path(os.fsdecode(b"/runs/\xff")))
    data = make_data(runs)
    found = data["runs"][0]["values"]
    assert found["nan"] == "nan"
    assert found["half"] == "\\ud800"
    assert found["huge"].startswith("0x")
    assert found["list"] == [1, "\\udcff", None]
    assert data["runs"][0]["folder"] == "/runs/\\udcff"
    write_report(runs, data, tmp_path / "out", title="\udcff%data%")
    assert "\\udcff%data%</title>" in (tmp_path / "out/index.html").read_text()
    assert len(list_rows(data)) == 3


def test_class_names_are_drawn_as_they_are(tmp_path):
    run = made(0)
    summary: Any = run.summary
    summary["data"] = {**DATA, "class_names": ["$\\frac{$", "\x1b[2J\ud800" + "字" * 500]}
    write_report([run], make_data([run]), tmp_path / "out", title="runs")
    assert {path.stem for path in tmp_path.glob("out/figures/*.svg")} == {"curves", "confusion_matrix"}


# Where a report is written


def write_one(folder):
    """The files of a small report in the folder, by their names there."""
    write_report([made(0)], make_data([made(0)]), folder, title="one")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_replaces_its_own_files_and_no_others(work):
    paper = work / "paper"
    (paper / "figures").mkdir(parents=True)
    own = ["notes.txt", "figures/curves.tex", "figures/curves.pdf", "figures/curves.svg.old"]
    for name in own:
        (paper / name).write_text("mine")
    check_output(paper)
    first = write_one(paper)
    assert MARK in first["index.html"][:1000].decode()
    check_output(paper)
    write_report([made(0, status="failed")], make_data([made(0, status="failed")]), paper, title="none")
    names = {str(path.relative_to(paper)) for path in paper.rglob("*") if path.is_file()}
    assert names == {"index.html", "runs.csv", "seeds.csv", *own}
    assert {(paper / name).read_text() for name in own} == {"mine"}
    assert write_one(paper) == first


@pytest.mark.parametrize("name", ["index.html", "runs.csv", "seeds.csv", "figures/curves.svg"])
@pytest.mark.parametrize("out", [True, False])
def test_a_report_leaves_the_files_of_others(work, capsys, name, out):
    folder = work / ("paper" if out else "report")
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert report.main([".", *(["--out", "paper"] if out else [])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path.relative_to(work)) in line
    assert "--out DIR" in line
    assert [(found, found.read_text()) for found in work.rglob("*") if found.is_file()] == [(path, "mine")]


def test_a_figure_of_others_is_not_replaced_in_a_folder_of_ours(work):
    write_one(work / "report")
    (work / "report/figures/curves.png").write_bytes(b"\x89PNG mine")
    with pytest.raises(ConfigError, match=r"curves\.png is not drawn by mnistjax"):
        check_output(work / "report")


@pytest.mark.parametrize("name", [".", "figures", "index.html", "runs.csv", "figures/curves.png"])
def test_a_report_follows_no_link(work, capsys, name):
    elsewhere = work.parent / "elsewhere"
    write_one(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    link = work / "report" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / name)
    assert report.main(["."]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a link" in line
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "file"], "file is no folder"),
        (["--out", "file/below"], "file/below: Not a directory"),
        (["--out", "x" * 300], "xxx: File name too long"),
        (["--out", "folder"], "folder/index.html is no regular file"),
        (["--out", "folder/index.html"], "figures is no folder"),
    ],
)
def test_a_folder_that_cant_be_written_is_one_line_before_any_run_is_read(work, capsys, words, message):
    (work / "file").touch()
    (work / "folder/index.html").mkdir(parents=True)
    (work / "folder/index.html/figures").touch()
    before = sorted(work.rglob("*"))
    assert report.main([".", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(work.rglob("*")) == before


def test_a_folder_that_cant_be_made_is_told_in_one_line():
    with pytest.raises(ConfigError, match="this folder can't be made: /proc/new: No such file or directory"):
        write_one(Path("/proc/new"))


@pytest.mark.slow
def test_a_full_disk_is_one_line(sweep, work, capsys, monkeypatch):
    def refuse(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "replace", refuse)
    assert report.main([str(sweep), "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: out can't be written: out/index.html: No space left on device"


def test_a_folder_of_a_name_too_long_is_none(work, capsys):
    assert report.main(["x" * 300]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no folder" in line


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
    """Write to the records of a run which data it had, and where."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] |= {key: str(value) for key, value in data.items() if key != "sha256"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"] |= {key: value for key, value in data.items() if key in ("name", "sha256")}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_report_prepares_nothing_and_goes_nowhere_that_the_records_say(one, work, capsys):
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


def test_damaged_data_are_told_of_and_not_prepared_again(work):
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
