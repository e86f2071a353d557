"""The page of a reproduction: the report's tables, conclusions and figures, made from our runs."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax import files, records
from mnistjax.config import badness
from mnistjax.data import Dataset
from mnistjax.finished import load_examples, reopen
from mnistjax.models import list_layers
from mnistjax.report import figures
from mnistjax.report.conclusions import SGD
from mnistjax.report.kept import (
    HOW_CONCLUSIONS,
    HOW_TABLES,
    Record,
    conclusion_text,
    describe,
    table_texts,
)
from mnistjax.report.paper import FULL_BATCH, Study, pick
from mnistjax.report.runs import RunRecord, done
from mnistjax.train import build_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"
PAGE = "report.html"
RECORD = "report.json"  # what `kept.make_record` says
SAMPLES = 40  # images of a grid

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --soft: #f5f5f5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --paper: #161616; --line: #3a3a3a; --soft: #222; }
}
body { margin: 2rem auto; max-width: 66rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.5rem; font-size: 1.25rem; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0; } figcaption { margin-bottom: .4rem; }
figure img { max-width: 100%; background: #fff; padding: .5rem; border: 1px solid var(--line); }
.good { color: #00805d; } .bad { color: #b54400; }
@media (prefers-color-scheme: dark) { .good { color: #35c89b; } .bad { color: #ff9a5c; } }
"""


@dataclass(frozen=True)
class Drawn:
    """A figure of the report, made from our runs."""

    number: str  # the report's
    caption: str
    figure: Figure


def write_page(folder: Path, study: Study, record: Record) -> Path:
    """`report.html` in `folder`, one file that needs no other; the figures beside it as PNG and SVG, and the
    record as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    records.write_json(folder / RECORD, record)
    tables, conclusions = table_texts(record), conclusion_text(record)
    parts = [f"<h1>Neural networks from scratch, again</h1><p>{html.escape(describe(record))}</p>"]
    parts.append(f"<h2>Tables</h2><p>{html.escape(HOW_TABLES)}</p>")
    parts += [f"<h3>{html.escape(title)}</h3>{_table(cells)}" for title, cells in tables.items()]
    parts.append(f"<h2>Its conclusions</h2><p>{html.escape(HOW_CONCLUSIONS)}</p>{_table(conclusions)}")
    parts.append("<h2>Figures</h2>")
    for drawn in draw(study):
        png, _ = figures.save(drawn.figure, folder / FIGURES / f"figure_{drawn.number}")
        caption = html.escape(f"Figure {drawn.number.lstrip('0')}. {drawn.caption}")
        image = base64.b64encode(png.read_bytes()).decode()
        parts.append(
            f'<figure id="figure-{drawn.number}"><figcaption>{caption}</figcaption>'
            f'<img alt="{caption}" src="data:image/png;base64,{image}"></figure>'
        )
    body = "\n".join(parts)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>mnistjax: the report reproduced</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
    files.replace(folder / PAGE, page.encode())
    return folder / PAGE


def _table(cells: Sequence[Sequence[str]]) -> str:
    head, *rows = cells
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td{_tone(cell)}>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _tone(cell: str) -> str:
    if cell in ("reproduced", "better", "supported"):
        return ' class="good"'
    return ' class="bad"' if cell == "contradicted" or cell.startswith("not reproduced") else ""


# Figures


def draw(study: Study) -> Iterator[Drawn]:
    """The report's figures 3 to 15, as far as the study has runs for them."""
    neuron, mlp = study.get("batch_size", ()), study.get("activation", ())
    multi, cnn = study.get("multiclass", ()), pick(study, "optimizer", {"optimizer.name": SGD})
    yield from _draw_data("03", "04", multi, "ten digits")
    yield from _draw_data("05", "06", neuron, "zero or not")
    yield from _draw_curves("08", neuron, "train.batch_size", "One neuron, zero or not, by batch size")
    full = pick(study, "batch_size", FULL_BATCH)
    yield from _draw_errors("09", full, "One neuron, zero or not, full batch", matrix="01")
    yield from _draw_curves("10", mlp, "model.activation", "64 hidden neurons, zero or not, by activation")
    yield from _draw_architecture("11", cnn)
    wide = pick(study, "width", {"model.hidden": 1024})
    relu = pick(study, "activation", {"model.activation": "relu"})
    yield from _draw_errors("12", relu, "64 hidden neurons with ReLU, zero or not")
    yield from _draw_curves("13", wide, "model.hidden", "1,024 hidden neurons, zero or not")
    optimizers = study.get("optimizer", ())
    yield from _draw_curves("14", optimizers, "optimizer.name", "The convolutional network, by optimizer")
    yield from _draw_errors("15a", cnn, "The convolutional network with SGD", matrix="15b")


def best_of(runs: Sequence[RunRecord], monitor: str = "val/accuracy") -> RunRecord | None:
    """The run that is done whose last validation metric is best; the first of equals."""
    return min(done(runs), key=lambda run: badness(monitor, float(run.rows[-1][monitor])), default=None)


def _draw_data(samples: str, counts: str, runs: Sequence[RunRecord], task: str) -> Iterator[Drawn]:
    data = _dataset(runs)
    if data is None:
        return
    picked = slice(0, SAMPLES)
    grid = figures.sample_grid(data.train.images[picked], data.train.labels[picked], data.class_names)
    yield Drawn(samples, f"The first training images of {data.name}, {task}.", grid)
    splits = {"train": data.train, "val": data.val, "test": data.test}
    sizes = {
        name: np.bincount(part.labels, minlength=data.num_classes).tolist() for name, part in splits.items()
    }
    figure = figures.class_counts_figure(sizes, data.class_names)
    yield Drawn(counts, f"Images per class of {data.name}, {task}.", figure)


def _dataset(runs: Sequence[RunRecord]) -> Dataset | None:
    """The data of the first run that is done, as it was trained on."""
    return next((reopen(run.folder)[1] for run in done(runs)), None)


def _draw_curves(number: str, runs: Sequence[RunRecord], key: str, title: str) -> Iterator[Drawn]:
    groups: dict[str, list[Any]] = {}
    for run in done(runs):
        groups.setdefault(_name(run.config.get(key)), []).append(run.rows)
    if groups:
        n = min(map(len, groups.values()))
        caption = f"{title}: mean of {n} seeds in the band between the lowest and the highest."
        yield Drawn(number, caption, figures.seed_curves(groups, title=title))


def _name(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _draw_errors(
    number: str, runs: Sequence[RunRecord], title: str, *, matrix: str | None = None
) -> Iterator[Drawn]:
    """The worst errors on the test images of the run that is best on the validation images."""
    run = best_of(runs)
    if run is None:
        return
    examples = load_examples(*reopen(run.folder), run.folder)
    of = f"{title}, seed {run.seed}, the best of {len(done(runs))} on the validation images"
    grid = figures.misclassified_grid(
        examples.images, examples.labels, examples.probabilities, examples.class_names
    )
    yield Drawn(number, f"Misclassified test images. {of}.", grid)
    if matrix:
        counts = run.summary["test/confusion_matrix"]
        figure = figures.confusion_matrix_figure(counts, examples.class_names)
        yield Drawn(matrix, f"Confusion matrix of the test images. {of}.", figure)


def _draw_architecture(number: str, runs: Sequence[RunRecord]) -> Iterator[Drawn]:
    run = next(iter(done(runs)), None)
    if run is None:
        return
    spec = reopen(run.folder)[0].spec
    layers = list_layers(build_model(spec), spec.image_shape)
    total = sum(layer.parameters for layer in layers)
    figure = figures.architecture_figure(layers, spec.image_shape)
    yield Drawn(number, f"The convolutional network: {total:,} parameters.", figure)
