"""The page of a report: a real browser shows, sorts and filters it, and obeys no text of a run."""

import contextlib
import gc
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import numpy as np
import pytest

from hostile import MARKUP, NAMES, list_hostile, poison
from mnistjax.cli import main, report
from mnistjax.report.dashboard import make_data
from mnistjax.report.runs import read_runs
from mnistjax.report.template import fill_page
from small import made_run, write_run

MADE = "img, a:not(.modebar-btn, .folder), b, i, script, svg[onload]"  # elements that only markup would make
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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
    assert found == {"index.html", "runs.csv", "seeds.csv", "comparison.md", *drawn}
    assert len((sweep / "report/runs.csv").read_text().splitlines()) == 1 + 13
    assert len((sweep / "report/seeds.csv").read_text().splitlines()) == 1 + 5
    assert len(read_runs(sweep)) == 12  # the report itself is no run


@pytest.fixture(params=["light", "dark"])
def browser_page(request, sweep):
    """The report of the sweep in a real browser."""
    with opened(sweep / "report/index.html", request.param) as page:
        yield page


def write_page(folder, runs):
    """Writes the page of these runs without examples, and returns its path."""
    data = {**make_data(runs), "examples": [], "no_examples": ""}
    (folder / "index.html").write_text(fill_page(data, "title"))
    return folder / "index.html"


@contextlib.contextmanager
def opened(path, scheme: Any = "light", refused: list[str] | None = None):
    """A page in a real browser without a network.

    It must load nothing and run no text of the runs (which would set `pwned`). Errors in the console fail the
    test, or are added to `refused` if it is given.
    """
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
        url = path if isinstance(path, str) else Path(path).as_uri()
        page.goto(url)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        yield page
        assert errors is refused or errors == []
        assert page.evaluate("window.pwned") is None
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [url.partition("#")[0]]
        browser.close()


@pytest.mark.slow
def test_a_browser_draws_sorts_filters_and_compares(browser_page):
    page = browser_page
    assert page.inner_text("#counts") == "12 done · 1 diverged"
    assert page.locator("#table tbody tr").count() == 5  # configurations
    page.select_option("#view", "runs")
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
def test_a_configuration_opens_to_its_runs_with_links_to_their_folders(sweep):
    with opened(sweep / "report/index.html") as page:
        assert page.input_value("#view") == "configurations"
        first = page.locator("#table tbody tr").first
        cells = first.locator("td").all_inner_texts()
        assert cells[-1] or cells[0] == ""
        letters = page.locator("#table thead th", has_text="letters of test/accuracy")
        assert letters.count() == 1
        verdict = page.inner_text("#verdict")
        assert verdict.startswith("By val/loss, ")
        assert "3 seeds, paired" in verdict
        button = first.locator("button")
        assert button.get_attribute("aria-expanded") == "false"
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-expanded") == "true"
        below = page.locator("#table table.plain")
        assert below.locator("tbody tr").count() == 3
        for link in page.locator("a.folder").all():
            href = link.evaluate("link => link.href")
            folder = Path(unquote(urlsplit(href).path))
            assert (folder / "config.yaml").is_file()
        accuracy = [float(text) for text in below.locator("tbody tr td:nth-child(5)").all_inner_texts()]
        titles = page.locator("#table > thead th").all_inner_texts()
        shown = float(cells[[title.strip() for title in titles].index("test/accuracy")])
        assert shown == pytest.approx(sum(accuracy) / 3, abs=1e-4)
        page.keyboard.press("Enter")
        assert below.count() == 0


@pytest.mark.slow
def test_a_view_can_be_shared_by_its_address(sweep):
    def seen(page):
        page.locator("#curves").scroll_into_view_if_needed()
        page.wait_for_selector("#curve-plot .legendtext")
        choices = page.eval_on_selector_all(
            ".controls select", "all => all.map((one) => [one.id, one.value])"
        )
        texts = [page.inner_text(part) for part in ("#table", "#differences-table", "#curve-note")]
        return choices, texts, page.locator(".dtsb-criteria").count(), page.input_value("input[type=search]")

    with opened(sweep / "report/index.html") as page:
        plain = seen(page)
        page.wait_for_timeout(300)
        assert "#" not in page.url
        page.locator("#table tbody tr button").nth(1).click()
        page.wait_for_timeout(300)
        configurations = page.url, seen(page)
        page.select_option("#view", "runs")
        page.locator("#table thead th", has_text="test/accuracy").click()
        page.locator("#table tbody tr").nth(0).locator("td").first.click()
        page.locator("#table tbody tr").nth(2).locator("td").first.click()
        page.locator(".dtsb-add").click()
        page.select_option(".dtsb-data", label="seed")
        page.select_option(".dtsb-condition", index=1)
        page.select_option("select.dtsb-value", label="1")
        page.fill("input[type=search]", "sgd")
        page.select_option("#curve-metric", "train/accuracy")
        page.select_option("#curve-band", "none")
        page.locator("nav a", has_text="differences").click()
        page.wait_for_timeout(300)
        runs = page.url, seen(page)
    for url, expected in (configurations, runs):
        assert expected != plain
        with opened(url) as page:
            assert seen(page) == expected
    assert "at=differences" in runs[0]


@pytest.mark.slow
def test_an_address_from_a_stranger_is_not_obeyed(sweep):
    rule = {"condition": "=", "data": MARKUP[0], "origData": MARKUP[0], "type": MARKUP[0], "value": MARKUP}
    known = [rule | {"data": "status", "condition": kind} for kind in ("=", MARKUP[0], "constructor")]
    rules = json.dumps({"criteria": [rule, *known], "logic": MARKUP[0]})
    for view, words in (("runs", rules), ("configurations", rules), (MARKUP[1], "["), ("runs", "[null, 1]")):
        evil = dict.fromkeys(("order", "search", "page", "open", "selected", "at", "heat-rows"), MARKUP[0])
        asked = evil | {"filter": words, "view": view, "__proto__": MARKUP[1], "length": "-1"}
        with opened(f"{(sweep / 'report/index.html').as_uri()}#{urlencode(asked)}") as page:
            page.locator("#curves").scroll_into_view_if_needed()
            page.wait_for_timeout(200)
            assert page.locator(f"main :is({MADE})").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_epochs_are_whole_and_nothing_leaves_the_window(sweep, width):
    with opened(sweep / "report/index.html") as page:
        page.set_viewport_size({"width": width, "height": 900})
        for section in ("curves", "heat", "parallel", "importance", "confusion"):
            page.locator(f"#{section}").scroll_into_view_if_needed()
            page.wait_for_selector(f"#{section} .plot svg", state="attached")
            assert page.locator(f"#{section} .plot").get_attribute("aria-label")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ticks = "#curve-plot .xtick text"
        assert page.locator(ticks).all_text_contents() == ["1", "2", "3"]
        page.evaluate("Plotly.relayout('curve-plot', {'xaxis.range': [1.2, 2.9]})")
        page.wait_for_timeout(200)
        assert page.locator(ticks).all_text_contents() == ["2"]


@pytest.mark.slow
def test_the_page_is_used_with_a_keyboard(sweep):
    with opened(sweep / "report/index.html") as page:
        named = "(one) => one.labels?.length || one.ariaLabel || one.innerText?.trim()"
        unnamed = f"all => all.filter((one) => !({named})(one)).map((one) => one.outerHTML)"
        assert page.eval_on_selector_all("main :is(select[id], button, input)", unnamed) == []
        page.locator("#table thead th", has_text="test/accuracy").first.locator("[tabindex]").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#table thead th[aria-sort]:has-text('test/accuracy')")
        for place in (0, 1):
            page.locator("#table .pick input").nth(place).focus()
            page.keyboard.press("Space")
        assert page.locator("#differences-table thead th").count() == 3
        page.locator("#parallel").scroll_into_view_if_needed()
        page.wait_for_selector("#parallel-plot [role=slider]")
        faint = page.locator("#parallel-plot polyline[stroke-opacity='0.06']")
        axis = page.locator("#parallel-plot [role=slider]").last
        axis.focus()
        for _ in range(5):
            page.keyboard.press("ArrowUp")
        assert 0 < faint.count() < 12
        assert " to " in str(axis.get_attribute("aria-valuetext"))
        page.keyboard.press("Escape")
        assert faint.count() == 0


@pytest.mark.slow
def test_a_cell_of_the_heat_map_is_chosen_by_validation(tmp_path):
    """Of two learning rates in a cell the one with the lower loss on validation images counts."""
    runs = []
    for number, (hidden, name, rate, accuracy) in enumerate(
        [(8, "sgd", 0.1, 0.5), (8, "sgd", 0.2, 0.9), (8, "adam", 0.1, 0.6), (16, "sgd", 0.1, 0.7)]
    ):  # the loss of made_run falls with the number
        keys: dict[str, Any] = {
            "model.hidden": hidden,
            "optimizer.name": name,
            "optimizer.learning_rate": rate,
        }
        runs.append(made_run(3 - number, accuracy=accuracy, **keys, train=number))
    with opened(write_page(tmp_path, runs)) as page:
        page.locator("#heat").scroll_into_view_if_needed()
        page.wait_for_selector("#heat-plot .heatmap-label")
        page.select_option("#heat-rows", "model.hidden")
        page.select_option("#heat-columns", "optimizer.name")
        page.wait_for_timeout(200)
        drawn = page.evaluate("document.getElementById('heat-plot').data[0].z")
        assert drawn == [[0.5, 0.6], [0.7, None]]
        assert "by val/loss" in page.inner_text("#heat-note")


@pytest.mark.slow
def test_the_heat_map_shows_the_runs_of_the_table(tmp_path):
    keys: dict[str, Any] = {"model.hidden": (8, 16), "optimizer.name": ("adam", "sgd")}
    runs = [
        made_run(seed, accuracy=seed / 10 + place / 100, **dict(zip(keys, values, strict=True)))
        for place, values in enumerate(itertools.product(*keys.values()))
        for seed in range(3)
    ]
    with opened(write_page(tmp_path, runs)) as page:

        def drawn():
            page.locator("#heat").scroll_into_view_if_needed()
            page.wait_for_selector("#heat-plot .heatmap-label")
            page.wait_for_timeout(200)
            return page.evaluate("document.getElementById('heat-plot').data[0].z")

        page.select_option("#view", "runs")
        assert np.allclose(drawn(), [[0.1, 0.11], [0.12, 0.13]])  # the mean over seeds
        page.locator(".dtsb-add").click()
        page.select_option(".dtsb-data", label="seed")
        page.select_option(".dtsb-condition", index=1)
        page.select_option("select.dtsb-value", label="2")
        page.wait_for_function("window.dashboard.state.shown.length === 4")
        assert np.allclose(drawn(), [[0.2, 0.21], [0.22, 0.23]])


@pytest.mark.slow
def test_numbers_large_and_small_are_filtered_and_sorted(tmp_path):
    """Also 1,024, which is shown with a comma; a run without the metric passes no condition on it."""
    keys: dict[str, Any] = {"optimizer.eps": (1e-16, 1e-12, 1e-10, 1e-3), "train.batch_size": (32, 1024)}
    runs = [
        made_run(number, **dict(zip(keys, values, strict=True)))
        for number, values in enumerate(itertools.product(*keys.values()))
    ]
    runs.append(made_run(8, "diverged", epochs=0, **{"optimizer.eps": 1.0, "train.batch_size": 32}))
    address = write_page(tmp_path, runs).as_uri()
    with opened(f"{address}#view=runs&order=asc:optimizer.eps") as page:
        heads = page.locator("#table thead th").all_inner_texts()
        place = [head.strip() for head in heads].index("optimizer.eps") + 1
        shown = page.locator(f"#table tbody td:nth-child({place})").all_inner_texts()
        assert [float(text) for text in shown] == sorted(map(float, shown))
        assert len({*shown}) == 5
        page.locator("#parallel-plot").scroll_into_view_if_needed()
        page.locator("#parallel-plot [role=slider]").nth(1).focus()
        page.set_viewport_size({"width": 1000, "height": 640})  # draws the plot again
        page.wait_for_timeout(500)
        assert page.evaluate("document.activeElement.ariaLabel") == "range of batch_size"
    for key, condition, value, count in [
        ("train.batch_size", ">", "100", 4),
        ("train.batch_size", "=", "1024", 4),
        ("val/loss", "<", "2", 8),
        ("val/loss", "null", "", 1),
    ]:
        one = {"condition": condition, "data": key, "type": "num", "value": [value] * bool(value)}
        asked = urlencode({"view": "runs", "filter": json.dumps({"logic": "AND", "criteria": [one]})})
        with opened(f"{address}#{asked}") as page:
            assert page.locator(".dtsb-criteria").count() == 1
            assert page.evaluate("window.dashboard.state.shown.length") == count, key


@pytest.mark.slow
def test_a_repeated_run_is_no_other_seed_in_the_curves_and_a_zoom_stays(tmp_path):
    runs = [replace(made_run(seed), identity=f"{seed}") for seed in (0, 1, 0, 1)]
    runs.append(replace(made_run(0, "interrupted", epochs=1), identity="0"))
    with opened(write_page(tmp_path, runs)) as page:
        page.locator("#curves").scroll_into_view_if_needed()
        page.wait_for_selector("#curve-plot .legendtext")
        page.select_option("#curve-band", "std")
        page.wait_for_function("document.getElementById('curve-plot').data.length === 3")
        assert (page.locator("#curve-plot .legendtext").text_content() or "").endswith("(2)")
        low, high, mean = page.evaluate(
            "document.getElementById('curve-plot').data.map((trace) => trace.y[0])"
        )
        losses = [run.rows[0]["val/loss"] for run in runs[:2]]
        assert (mean, high - mean) == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))
        assert low > 0  # the axis is logarithmic
        zoom = "Plotly.relayout('curve-plot', { 'xaxis.range[0]': 1.5, 'xaxis.range[1]': 2.5 })"
        page.evaluate(f"{zoom}.then(() => null)")
        page.set_viewport_size({"width": 1000, "height": 640})
        page.wait_for_timeout(500)
        assert page.evaluate("document.getElementById('curve-plot').layout.xaxis.range") == [1.5, 2.5]


@pytest.mark.slow
def test_two_finished_folders_are_compared_on_the_page(tmp_path, capsys):
    for side, name in enumerate(("before", "after")):
        for seed, rate in itertools.product(range(3), (0.1, 0.2)):
            result = {"test/accuracy": 0.9 + seed / 1000 + side / 100 + seed * side / 9000}
            versions = {"versions": {"python": "3.13", "source": name}}
            config: dict[str, Any] = {"optimizer": {"learning_rate": rate}}
            folder = tmp_path / name / f"{seed}-{rate}"
            write_run(folder, seed=seed, identity=f"{seed} {rate}", summary=result | versions, **config)
    assert report.main([str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    with opened(tmp_path / "before/report/index.html") as page:
        lines = page.inner_text("#comparison-lines")
        assert "source: before -> after" in lines
        table = page.locator("#comparison-tables table", has_text="learning_rate=0.1").first
        assert "after is better" in table.inner_text()
        assert page.locator("#comparison-link").is_visible()


@pytest.mark.slow
def test_a_page_of_5000_runs_is_sorted_searched_and_opened(tmp_path):
    runs = [
        made_run(i % 5, epochs=20, accuracy=0.9 + i % 97 / 1000, **{"optimizer.learning_rate": 1 + i // 5})
        for i in range(5_000)
    ]
    with opened(write_page(tmp_path, runs)) as page:
        assert page.inner_text("#counts") == "5,000 done"
        page.locator("#table thead th", has_text="test/accuracy").first.click()
        page.wait_for_selector("#table thead th[aria-sort]:has-text('test/accuracy')")
        page.fill("input[type=search]", "777")
        page.wait_for_function("window.dashboard.state.shown.length === 5")
        page.locator("#table tbody tr button").first.click()
        assert page.locator("#table table.plain tbody tr").count() == 5


@pytest.mark.slow
def test_no_button_of_a_plot_sends_anything(browser_page):
    """Each is clicked; `opened` asserts that nothing is asked for. Only pictures come, and no other page."""
    page, downloads, pages = browser_page, [], []
    page.on("download", lambda download: downloads.append(download.url))
    page.context.on("page", lambda other: pages.append(other.url))
    for section in ("curves", "importance", "confusion"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{section} .modebar-btn", state="attached")
        titles = page.eval_on_selector_all(
            f"#{section} .modebar-btn",
            "found => found.map((one) => { one.click(); return one.dataset.title })",
        )
        assert len(titles) == 7
        assert not [title for title in titles if re.search("share|cloud|send|upload|edit", title, re.I)]
    page.wait_for_timeout(1000)
    assert len(downloads) == 3
    assert all(url.startswith(("blob:", "data:")) for url in downloads)
    assert pages == []
    assert page.locator("[class*=plotly-cloud]").count() == 0


@pytest.mark.slow
def test_a_browser_shows_unfinished_runs_and_their_texts_as_text(tmp_path):
    evil = "<img src=x onerror=document.title='evil'>"
    named: dict[str, Any] = {"model.name": evil}
    runs = [made_run(0, status="failed", **named), made_run(1, status="waiting", epochs=0)]
    sizes: list[dict[str, Any]] = [{"train.batch_size": size} for size in ("all", 1024, 32)]
    runs += [made_run(2 + i, status="interrupted", **size) for i, size in enumerate(sizes)]
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


def test_no_text_of_a_run_ends_the_script():
    names: list[dict[str, Any]] = [{"model.name": "</script><b>&amp;"}, {"model.name": "mlp"}]
    runs = [made_run(number, **name) for number, name in enumerate(names)]
    data = {**make_data(runs), "examples": [], "no_examples": ""}
    text = fill_page(data, "<b>title")
    assert "</script><b>" not in text
    assert "<title>&lt;b&gt;title" in text
    start = text.index('id="data">') + len('id="data">')
    read = json.loads(text[start : text.index("</script>", start)])
    assert read["runs"][0]["values"]["model.name"] == "</script><b>&amp;"


def use_all(page, words=()):
    """Clicks, chooses, types, hovers and drags everything; the table must contain each of the words."""
    page.select_option("#view", "configurations")
    for button in page.locator("#table td button").all():
        button.click()
    page.select_option("#view", "runs")
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
    for head in page.locator("#table thead th").all()[1:]:
        head.click()
    for word in words:
        page.fill("input[type=search]", word)
        page.wait_for_timeout(50)
        assert page.locator("#table td.dt-empty").count() == 0
    page.fill("input[type=search]", "")
    page.select_option(".dt-length select", "100")
    for row in page.locator("#table tbody tr").all()[:12]:
        row.locator("td").first.click()
    for section in ("curves", "heat", "parallel", "importance", "confusion"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{section} .plot svg", state="attached")
        for choice in page.locator(f"#{section} select").all():
            for place in range(choice.locator("option").count()):
                choice.select_option(index=place)
                page.wait_for_timeout(50)
        if section == "heat":
            page.select_option("#heat-rows", index=0)  # else it has the same key twice, and no plot
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
def test_a_browser_runs_no_text_of_a_run(tmp_path):
    data = make_data(list_hostile())
    tile = {"true": MARKUP[0], "predicted": MARKUP[1], "confidence": 0.5}
    sprite = "data:image/png;base64,"
    facts = {"run": 0, "wrong": 1, "count": 2, "aspect": 2.0}
    data["examples"] = [{**facts, "tiles": [tile], "sprite": sprite}]
    data["no_examples"] = MARKUP[0]
    (tmp_path / "index.html").write_text(fill_page(data, MARKUP[1]))
    with opened(tmp_path / "index.html") as page:
        use_all(page, ["pwned", "<img", "&lt;", '"onmouse', "__proto__"])
        assert page.title() == page.inner_text("h1") == MARKUP[1]
        assert page.locator(f"main :is({MADE})").count() == 0
        sides = page.locator(".digit").bounding_box()
        assert sides
        assert abs(sides["width"] / sides["height"] - 2) < 0.1  # wide images look wide
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
def test_the_policy_stops_markup_that_gets_into_the_page(tmp_path):
    refused: list[str] = []
    with opened(write_page(tmp_path, [made_run(0)]), refused=refused) as page:
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
    data = {**make_data([made_run(0)]), "examples": [], "no_examples": ""}
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
def test_a_browser_runs_no_text_in_the_files_of_runs(sweep, tmp_path, capsys):
    """Four jobs of a sweep each have a file full of markup; the page lists what it can not show."""
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
def test_a_browser_runs_no_text_in_the_ledger(sweep, tmp_path, capsys):
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder, ignore=shutil.ignore_patterns("report"))
    ledger = json.loads((folder / "sweep.json").read_bytes())
    shutil.rmtree(folder / "0")
    ledger["jobs"][0] |= {"status": "failed", "reason": MARKUP[0], "config": dict.fromkeys(NAMES, MARKUP[1])}
    ledger |= {"arguments": MARKUP, "wandb": MARKUP[0]}
    (folder / "sweep.json").write_text(json.dumps(ledger))
    gc.collect()  # browsers of other tests may leave futures that print when they are collected
    capsys.readouterr()
    code = report.main([str(folder)])
    told = capsys.readouterr().err.splitlines()
    assert (code, len(told)) in ((0, 1), (2, 1)), told
    if code == 0:
        with opened(folder / "report/index.html") as page:
            assert MARKUP[0] in page.inner_text("#failures-table")
            use_all(page)
