"""The report of any runs: the data of its page, its tables and figures."""

import base64
import io
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mnistjax import files
from mnistjax.config import ConfigError, badness, one_line
from mnistjax.finished import load_examples, reopen
from mnistjax.records.fields import CURVES
from mnistjax.report import figures
from mnistjax.report.comparison import Comparison
from mnistjax.report.comparison_text import describe_comparison, to_markdown
from mnistjax.report.folded import describe_best, list_configurations
from mnistjax.report.output import COMPARISON, DRAWN, FIGURES, PAGE, RUNS, SEEDS, find_pictures
from mnistjax.report.runs import PLACES, RunRecord, done, name_runs
from mnistjax.report.sanitize import TESTED, check_run, class_names, clean, find_monitor
from mnistjax.report.template import fill_page
from mnistjax.seeds import TESTED as TABLED
from mnistjax.seeds import seeds_table
from mnistjax.sweeps.results import SILENT, TIMES, shown, write_csv
from mnistjax.tracking import Examples

EXAMPLES = 3  # runs with misclassified images
TILES = 48  # images of each of these runs
MIN_RUNS = 8  # for importances
PRIVATE = (*PLACES, *SILENT)  # config keys that change no result


def write_report(
    runs: Sequence[RunRecord],
    data: dict[str, Any],
    folder: Path,
    *,
    title: str,
    comparison: Comparison | None = None,
) -> tuple[Path, str | None]:
    """Writes the report; returns its page, and the reason why images are missing, or None.

    `data` is `make_data(runs)`. `runs.csv` has a row for each run, `seeds.csv` a row for each configuration.
    With a `comparison` there is `comparison.md`, too.
    The misclassified images need the data set and the checkpoints of the runs. The page is written first,
    because its mark makes the folder ours (see `check_output`).
    """
    examples, missing = find_examples(runs, data["ranking"])
    errors = [describe_errors(*one) for one in examples]
    links = [link(run.folder, folder) for run in runs]
    data = {**data, "examples": errors, "no_examples": missing or "No run is done.", "links": links}
    data["comparison"] = describe_comparison(comparison) if comparison else None
    files.make_folder(folder)
    files.replace(folder / PAGE, fill_page(data, title).encode())
    write_csv(folder / RUNS, list_rows(data))
    write_csv(folder / SEEDS, seeds_table(distinct_rows(data), data["monitor"]))
    if comparison:
        files.replace(folder / COMPARISON, to_markdown(comparison).encode())
    else:
        (folder / COMPARISON).unlink(missing_ok=True)
    draw_best(runs, data["ranking"], examples, folder)
    return folder / PAGE, missing


def link(run: Path, page: Path) -> str:
    """The address of a run's folder, as a relative link from the folder of a page."""
    return "./" + quote(os.fsencode(os.path.relpath(run, page)))


def list_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each run: number, keys that differ, seed, status and metrics."""
    rows = []
    names = dict.fromkeys([*data["metrics"], data["monitor"], *TABLED])
    for number, run in enumerate(data["runs"]):
        values = {key: shown(run["values"].get(key, "")) for key in data["keys"]}
        metrics = {name: run["metrics"].get(name, "") for name in names}
        own = {name: run[name] for name in ("seed", "status", "reason", "epochs", "folder")}
        rows.append({"number": number, **values, **own, **metrics})
    return rows


def distinct_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows with each identity once, because a repeated run is not another seed; done runs come first."""
    rows, runs = list_rows(data), data["runs"]
    last_counts = sorted(range(len(runs)), key=lambda number: (runs[number]["status"] == "done", -number))
    once = {runs[number].get("identity") or number: number for number in last_counts}
    return [rows[number] | {"epoch": rows[number]["epochs"]} for number in sorted(once.values())]


def draw_best(
    runs: Sequence[RunRecord],
    ranking: Sequence[int],
    examples: Sequence[tuple[int, Examples]],
    folder: Path,
) -> None:
    """Draws the best run's curves, confusion matrix and misclassified images as PNG and SVG.

    Removes the figures of an earlier report that this report lacks.
    """
    drawn: dict[str, Any] = {}
    if ranking:
        best = runs[ranking[0]]
        matrix = best.summary["test/confusion_matrix"]
        drawn["curves"] = figures.curves(best.rows)
        drawn["confusion_matrix"] = figures.confusion_matrix_figure(matrix, class_names(best))
    if examples and examples[0][0] == ranking[0]:
        drawn["misclassified"] = figures.misclassified_grid(examples[0][1])
    for name in DRAWN:
        if name in drawn:
            figures.save(drawn[name], folder / FIGURES / name)
            continue
        for path in find_pictures(folder, name):
            path.unlink(missing_ok=True)


def make_data(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The data for the page's script, as plain values. Runs whose records make no sense count as failed."""
    runs = [check_run(run) for run in runs]
    named = name_runs(runs)
    keys = list(dict.fromkeys(key for _, values in named for key in values))
    flat = [{k: v for k, v in run.config.items() if not k.startswith(PRIVATE)} for run in runs if run.begun]
    config_keys = [
        key
        for key in dict.fromkeys(key for config in flat for key in config)
        if len({json.dumps(config.get(key)) for config in flat}) > 1
    ]
    classes: dict[tuple[str, ...], int] = {}  # the index of each list of class names
    listed = []
    for run, (name, values) in zip(runs, named, strict=True):
        config = {key: run.config.get(key) for key in ("seed", *config_keys)}
        listed.append({"name": name, "values": values, "config": config, **_describe_run(run, classes)})
    metrics = [name for name in (*TESTED, *CURVES, *TIMES) if any(name in run["metrics"] for run in listed)]
    monitor = find_monitor(runs)
    ranked = [i for i, run in enumerate(listed) if run["status"] == "done" and monitor in run["metrics"]]
    target = "test/accuracy" if "test/accuracy" in metrics else monitor
    compared = [name for name in dict.fromkeys((monitor, target)) if name in metrics]
    configurations = list_configurations(listed, metrics, compared)
    verdict = describe_best(listed, configurations, monitor)
    for run in listed:  # after the verdicts: rounding makes equal differences of seeds unequal
        run["metrics"] = {name: float(f"{value:.7g}") for name, value in run["metrics"].items()}
    return {
        "runs": listed,
        "keys": keys,
        "config_keys": config_keys,
        "metrics": metrics,
        "monitor": monitor,
        "target": target,
        "compared": compared,
        "configurations": configurations,
        "verdict": verdict,
        "classes": [[*names] for names in classes],
        "ranking": sorted(ranked, key=lambda i: badness(monitor, listed[i]["metrics"][monitor])),
        "starts": [0, *itertools.accumulate(len(run.rows) for run in runs)][:-1],
        "curves": {name: _pack(runs, name) for name in CURVES},
        "importance": {name: importance(runs, keys, name) for name in dict.fromkeys((target, monitor))},
    }


def _describe_run(run: RunRecord, classes: dict[tuple[str, ...], int]) -> dict[str, Any]:
    """What a page knows of a run. New lists of class names are added to `classes`."""
    matrix = run.summary.get("test/confusion_matrix")
    return {
        "folder": clean(run.folder),
        "identity": run.identity,
        "status": run.status,
        "reason": run.reason,
        "seed": run.seed,
        "epochs": len(run.rows),
        "metrics": _metrics(run),
        "confusion": matrix,
        "classes": classes.setdefault((*class_names(run),), len(classes)) if matrix else None,
    }


def _metrics(run: RunRecord) -> dict[str, float]:
    """The finite metrics of a run's kept epoch and of its test."""
    found = {name: float(run.kept_row[name]) for name in CURVES if name in run.kept_row}
    found |= {name: float(run.summary[name]) for name in (*TESTED, *TIMES) if name in run.summary}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _pack(runs: Sequence[RunRecord], name: str) -> str:
    """A column of all runs' rows, run after run, as float32 in base64."""
    values = [float(row.get(name, "nan")) for run in runs for row in run.rows]
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def importance(runs: Sequence[RunRecord], keys: Sequence[str], metric: str) -> list[dict[str, Any]]:
    """How much of a metric each key and the seed explain in the finished runs, most important first.

    `importance` is the key's share of the variance that a random forest explains; the shares add up to 1.
    `correlation` is Spearman's; None unless all values are numbers.
    """
    from scipy.stats import spearmanr
    from sklearn.ensemble import RandomForestRegressor

    rows = [(run.config, value) for run in done(runs) if (value := _metrics(run).get(metric)) is not None]
    if len(rows) < MIN_RUNS or not keys:
        return []
    columns, owners = [], []
    numbers: dict[str, np.ndarray] = {}
    for key in (*keys, "seed"):
        values = [config.get(key) for config, _ in rows]
        if all(type(value) in (int, float) for value in values):
            numbers[key] = np.array(values, float)
            columns.append(numbers[key])
            owners.append(key)
            continue
        words = [json.dumps(value) for value in values]
        for word in sorted(set(words)):
            columns.append(np.array([other == word for other in words], float))
            owners.append(key)
    target = np.array([value for _, value in rows])
    forest = RandomForestRegressor(n_estimators=100, random_state=0, min_samples_leaf=2)
    forest.fit(np.stack(columns, axis=1), target)
    shares = dict.fromkeys(owners, 0.0)
    for owner, share in zip(owners, forest.feature_importances_, strict=True):
        shares[owner] += float(share)
    result = []
    for key, share in sorted(shares.items(), key=lambda item: -item[1]):
        varies = key in numbers and len(set(numbers[key])) > 1 and len(set(target)) > 1
        found: Any = spearmanr(numbers[key], target) if varies else None
        correlation = float(found.statistic) if varies else None
        result.append({"key": key, "importance": round(share, 4), "correlation": correlation})
    return result


def find_examples(
    runs: Sequence[RunRecord], ranking: Sequence[int]
) -> tuple[list[tuple[int, Examples]], str | None]:
    """The best few runs' predictions for the test images, and the reason why some are missing, or None."""
    found: list[tuple[int, Examples]] = []
    missing = None
    for index in ranking[:EXAMPLES]:
        folder = runs[index].folder
        try:
            found.append((index, load_examples(*reopen(folder), folder)))
        except Exception as error:  # a foreign checkpoint may be wrong in any way; the page has the rest
            missing = clean(error if isinstance(error, ConfigError) else one_line(error))
    return found, missing


def describe_errors(index: int, examples: Examples) -> dict[str, Any]:
    """A run's misclassified test images, the most confident errors first."""
    errors, tiles = examples.errors(), []
    for error in errors[:TILES]:
        true, predicted, confidence = examples.describe(error)
        tiles.append({"true": true, "predicted": predicted, "confidence": round(confidence, 4)})
    sprite = _sprite(examples.show(errors[:TILES], on_paper=True)) if tiles else ""
    height, width = examples.images.shape[1:3]
    facts = {"run": index, "wrong": len(errors), "count": len(examples.labels), "aspect": width / height}
    return {**facts, "tiles": tiles, "sprite": sprite}


def _sprite(images: np.ndarray) -> str:
    """Images (N, H, W) or (N, H, W, 3) uint8 side by side: a PNG as a data URL."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(images), axis=1)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
