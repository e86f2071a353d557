"""Times how soon the page of mnistjax-report shows many runs, in headless Chromium.

    python scripts/time_page.py 1000 5000

One run is trained, on digits. The page gets so many copies of it with other configs and other numbers: four
keys and five seeds, 20 epochs each.
"""

import itertools
import random
import shutil
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import mnistjax
from mnistjax.backend import processor
from mnistjax.markdown import format_table
from mnistjax.report.dashboard import make_data
from mnistjax.report.runs import RunRecord
from mnistjax.report.template import fill_page

SEEDS = 5
KEYS = {
    "optimizer.name": ("sgd", "momentum", "adam", "adamw"),
    "model.hidden": (8, 16, 32, 64),
    "train.batch_size": (32, 64, 128),
}
HEAD = ["runs", "page", "made in", "table after", "plots after"]


def copy_run(run: RunRecord, count: int) -> list[RunRecord]:
    """Copies of a run that differ in their configs, seeds and numbers."""
    draw, grid = random.Random(0), [*itertools.product(*KEYS.values())]
    runs = []
    for number in range(count):
        which, seed = divmod(number, SEEDS)
        rate = round(0.001 * (1 + which // len(grid)), 4)
        config = {**run.config, **dict(zip(KEYS, grid[which % len(grid)], strict=True))}
        config |= {"optimizer.learning_rate": rate, "seed": seed}
        scale = draw.uniform(0.9, 1.0)
        rows = [{k: scale * v if "/" in k else v for k, v in row.items()} for row in run.rows]
        summary = {**run.summary, "test/accuracy": scale * run.summary["test/accuracy"], "seed": seed}
        runs.append(replace(run, config=config, rows=rows, summary=summary, identity=str(number)))
    return runs


def time_page(runs: list[RunRecord], folder: Path, browser: Browser) -> list[str]:
    """The size of the page and the seconds to make it, to its table and to its plots."""
    start = time.perf_counter()
    page = fill_page({**make_data(runs), "examples": [], "no_examples": ""}, "times")
    times = [time.perf_counter() - start]
    (folder / "index.html").write_text(page, "utf-8")
    window = browser.new_page()
    start = time.perf_counter()
    window.goto((folder / "index.html").as_uri(), wait_until="commit")
    for state in ("html[data-ready]", "html[data-ready=true]"):
        window.wait_for_selector(state, state="attached")
        times.append(time.perf_counter() - start)
    window.close()
    return [f"{len(runs):,}", f"{len(page) / 1e6:.1f} MB", *(f"{seconds:.1f} s" for seconds in times)]


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="+", metavar="RUNS")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise SystemExit("no Chromium is installed")
    (run,) = mnistjax.sweep({"model": "mlp"}, data="digits", epochs=20, progress=False)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        time_page(copy_run(run, 100), Path(folder), browser)  # reads what is on the disk
        rows = [time_page(copy_run(run, count), Path(folder), browser) for count in args.counts]
        browser.close()
    print(processor())
    print(format_table([HEAD, *rows]), end="")


if __name__ == "__main__":
    main()
