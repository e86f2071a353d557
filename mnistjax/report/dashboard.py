"""The report of any runs: one self-contained HTML file for comparing them, tables and figures.

In the page Plotly draws and DataTables (as itables ships it) lists; both scripts are inside, so it opens
without a network. Its own script is web/dashboard.js.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax import files
from mnistjax.config import ConfigError, badness, one_line
from mnistjax.finished import load_examples, reopen
from mnistjax.report import figures
from mnistjax.report.checked import CURVES, TESTED, TIMES, check_run, class_names, clean
from mnistjax.report.output import DRAWN, FIGURES, PAGE, RUNS, SEEDS, find_pictures
from mnistjax.report.runs import PLACES, RunRecord, done, name_runs
from mnistjax.sweep.ledger import TESTED as TABLED
from mnistjax.sweep.ledger import seeds_table
from mnistjax.sweep.results import SILENT, shown, write_csv
from mnistjax.tracking import Examples, worst_errors

WEB = Path(__file__).parent / "web"
EXAMPLES = 3  # runs whose misclassified images are shown
TILES = 48  # images of each
FEWEST = 8  # runs that an importance needs
PRIVATE = (*PLACES, *SILENT)  # keys that make no other result


def write_report(
    runs: Sequence[RunRecord], data: dict[str, Any], folder: Path, *, title: str
) -> tuple[Path, str | None]:
    """Writes index.html, runs.csv, seeds.csv and figures/; returns the page, and why images are missing.

    `data` is what `make_data` says of the runs. The misclassified images need their data set and checkpoints.
    The page comes first: it makes the folder ours, see `check_output`.
    """
    examples, missing = find_examples(runs, data["ranking"])
    errors = [describe_errors(*one) for one in examples]
    data = {**data, "examples": errors, "no_examples": missing or "No run is done."}
    files.make_folder(folder)
    files.replace(folder / PAGE, fill_page(data, title).encode())
    write_tables(data, folder)
    draw_best(runs, data["ranking"], examples, folder)
    return folder / PAGE, missing


def write_tables(data: dict[str, Any], folder: Path) -> None:
    """Writes `runs.csv`, a row for each run, and `seeds.csv`, one for runs that differ in their seed only."""
    write_csv(folder / RUNS, list_rows(data))
    write_csv(folder / SEEDS, seeds_table(distinct_rows(data), data["monitor"]))


def list_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each run: its number, what differs, how it went, its metrics."""
    rows = []
    names = dict.fromkeys([*data["metrics"], data["monitor"], *TABLED])
    for number, run in enumerate(data["runs"]):
        values = {key: shown(run["values"].get(key, "")) for key in data["keys"]}
        metrics = {name: run["metrics"].get(name, "") for name in names}
        own = {name: run[name] for name in ("seed", "status", "reason", "epochs", "folder")}
        rows.append({"number": number, **values, **own, **metrics})
    return rows


def distinct_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows without those of repeated runs: such a one is no other seed."""
    rows = list_rows(data)
    once = {run.get("identity") or number: number for number, run in reversed([*enumerate(data["runs"])])}
    return [rows[number] for number in sorted(once.values())]


def draw_best(
    runs: Sequence[RunRecord],
    ranking: Sequence[int],
    examples: Sequence[tuple[int, Examples]],
    folder: Path,
) -> None:
    """Draws the best run's curves, confusion matrix and misclassified images, as PNG and SVG, and removes
    those of an earlier report that this one has not."""
    drawn: dict[str, Any] = {}
    if ranking:
        best = runs[ranking[0]]
        matrix = best.summary["test/confusion_matrix"]
        drawn["curves"] = figures.curves(best.rows)
        drawn["confusion_matrix"] = figures.confusion_matrix_figure(matrix, class_names(best))
    for x in [x for i, x in examples if i == ranking[0]]:
        parts = x.images, x.labels, x.probabilities, x.class_names
        drawn["misclassified"] = figures.misclassified_grid(*parts)
    for name in DRAWN:
        if name in drawn:
            figures.save(drawn[name], folder / FIGURES / name)
            continue
        for path in find_pictures(folder, name):
            path.unlink(missing_ok=True)


def fill_page(data: dict[str, Any], title: str) -> str:
    """The page with everything inside. Its policy lets nothing run but our scripts, and nothing be loaded."""
    page = (WEB / "dashboard.html").read_text()
    table_style, table_script, plotly = read_libraries()
    script = "".join((WEB / name).read_text() for name in ("parallel.js", "dashboard.js"))
    table_script, script = escape_script(table_script), escape_script(script)
    hashes = [f"'sha256-{_sha256(code)}'" for code in (table_script, script, plotly)]
    rules = {
        "default-src": ["'none'"],
        "script-src": hashes,
        "style-src": ["'unsafe-inline'"],  # both libraries set styles as they draw
        "img-src": ["data:", "blob:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    parts = {
        "policy": "; ".join(" ".join([name, *sources]) for name, sources in rules.items()),
        "title": html.escape(clean(title)),
        "style": (WEB / "dashboard.css").read_text(),
        "script": script,
        "table_style": table_style,
        "table_script": table_script,
        "plotly": base64.b64encode(gzip.compress(plotly.encode(), mtime=0)).decode(),
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"%(\w+)%", lambda mark: parts[mark[1]], page)


def escape_script(code: str) -> str:
    """JavaScript with nothing in its texts and expressions that HTML would take for the end of a script."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3c", code, flags=re.IGNORECASE)


def _sha256(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def read_libraries() -> tuple[str, str, str]:
    """DataTables' style and script, which sets `DataTable`, and Plotly's script."""
    import itables
    from plotly.offline import get_plotlyjs

    folder = Path(itables.__file__).parent / "html"
    module = (folder / "dt_bundle.js").read_text()
    script, exports = re.subn(r"\bexport\{[^}]*?(\w+) as default[^}]*\}", r"globalThis.DataTable=\1", module)
    if exports != 1:
        raise ConfigError("the installed itables is of a version that the report can't use")
    return (folder / "dt_bundle.css").read_text(), script, get_plotlyjs()


def make_data(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """What the page's script reads: see there. Runs whose records make no sense count as failed."""
    runs = [check_run(run) for run in runs]
    named = name_runs(runs)
    keys = list(dict.fromkeys(key for _, values in named for key in values))
    flat = [{k: v for k, v in run.config.items() if not k.startswith(PRIVATE)} for run in runs if run.begun]
    config_keys = [
        key
        for key in dict.fromkeys(key for config in flat for key in config)
        if len({json.dumps(config.get(key)) for config in flat}) > 1
    ]
    classes: list[list[str]] = []
    listed = []
    for run, (name, values) in zip(runs, named, strict=True):
        matrix = run.summary.get("test/confusion_matrix")
        listed.append(
            {
                "name": name,
                "folder": clean(run.folder),
                "identity": run.identity,
                "status": run.status,
                "reason": run.reason,
                "seed": run.seed,
                "epochs": len(run.rows),
                "values": values,
                "config": {key: run.config.get(key) for key in ("seed", *config_keys)},
                "metrics": _metrics(run),
                "confusion": matrix,
                "classes": _place(classes, class_names(run)) if matrix else None,
            }
        )
    metrics = [name for name in (*TESTED, *CURVES, *TIMES) if any(name in run["metrics"] for run in listed)]
    monitor = _monitor(runs)
    ranked = [i for i, run in enumerate(listed) if run["status"] == "done" and monitor in run["metrics"]]
    target = "test/accuracy" if "test/accuracy" in metrics else monitor
    lengths = [len(run.rows) for run in runs]
    return {
        "runs": listed,
        "keys": keys,
        "config_keys": config_keys,
        "metrics": metrics,
        "monitor": monitor,
        "target": target,
        "classes": classes,
        "ranking": sorted(ranked, key=lambda i: badness(monitor, listed[i]["metrics"][monitor])),
        "starts": np.concatenate([[0], np.cumsum(lengths)])[:-1].tolist() if lengths else [],
        "curves": {name: _pack(runs, name) for name in CURVES},
        "importance": {name: importance(runs, keys, name) for name in (target, monitor)},
    }


def _metrics(run: RunRecord) -> dict[str, float]:
    """The finite numbers of a run's kept epoch and of its test."""
    kept = int(run.summary.get("kept_epoch", len(run.rows)))
    row = run.rows[kept - 1] if 0 < kept <= len(run.rows) else {}
    found = {name: float(row[name]) for name in CURVES if name in row}
    found |= {name: float(run.summary[name]) for name in (*TESTED, *TIMES) if name in run.summary}
    return {name: float(f"{value:.7g}") for name, value in found.items() if math.isfinite(value)}


def _place(items: list[list[str]], item: list[str]) -> int:
    if item not in items:
        items.append(item)
    return items.index(item)


def _monitor(runs: Sequence[RunRecord]) -> str:
    """The validation metric that most runs are compared by."""
    found = [str(run.config["train.monitor"]) for run in runs if "train.monitor" in run.config]
    best = max(sorted(set(found)), key=found.count, default="")
    return best if best in CURVES else "val/loss"


def _pack(runs: Sequence[RunRecord], name: str) -> str:
    """A column of all runs' rows, one run after the other, as float32 in base64."""
    values = [float(row.get(name, "nan")) for run in runs for row in run.rows]
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def importance(runs: Sequence[RunRecord], keys: Sequence[str], metric: str) -> list[dict[str, Any]]:
    """How much each key, and the seed, explains of a metric of runs that are done, most important first.

    A random forest's importance (the keys' shares of the variance that it explains, which add up to 1), and
    Spearman's correlation where all values are numbers.
    """
    from scipy.stats import spearmanr
    from sklearn.ensemble import RandomForestRegressor

    rows = [(run.config, value) for run in done(runs) if (value := _metrics(run).get(metric)) is not None]
    if len(rows) < FEWEST or not keys:
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
    """The test images and what the best few runs make of them, and why some are missing if they are."""
    found: list[tuple[int, Examples]] = []
    missing = None
    for index in ranking[:EXAMPLES]:
        folder = runs[index].folder
        try:
            found.append((index, load_examples(*reopen(folder), folder)))
        except Exception as error:  # a stranger's checkpoint may be wrong in any way; the page has the rest
            missing = clean(error if isinstance(error, ConfigError) else one_line(error))
    return found, missing


def describe_errors(index: int, examples: Examples) -> dict[str, Any]:
    """A run's misclassified test images, the most confident errors first."""
    predicted = examples.probabilities.argmax(axis=1)
    worst = worst_errors(examples.labels, examples.probabilities, TILES)
    tiles = [
        {
            "true": examples.class_names[int(examples.labels[i])],
            "predicted": examples.class_names[int(predicted[i])],
            "confidence": round(float(examples.probabilities[i, predicted[i]]), 4),
        }
        for i in worst
    ]
    wrong, count = int((predicted != examples.labels).sum()), len(predicted)
    sprite = _sprite(examples.images[worst]) if len(worst) else ""
    return {"run": index, "wrong": wrong, "count": count, "tiles": tiles, "sprite": sprite}


def _sprite(images: np.ndarray) -> str:
    """Images (N, H, W) uint8 side by side, as ink on paper: a PNG as a data URL."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(255 - np.concatenate(list(images), axis=1)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
