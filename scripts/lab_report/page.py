"""The page of a reproduction: the lab report's tables, conclusions and figures, made from our runs."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lab_report.figures import architecture_figure, class_counts_figure, sample_grid, seed_curves
from lab_report.layers import list_layers
from lab_report.record import HOW_CONCLUSIONS, HOW_TABLES, Record, conclusion_cells, describe, table_texts
from lab_report.study import SGD, VARIED, Study, pick_value
from mnistjax import files, records
from mnistjax.config import badness
from mnistjax.finished import load_examples, reopen
from mnistjax.report.figures import confusion_matrix_figure, misclassified_grid, save
from mnistjax.report.runs import RunRecord, done
from mnistjax.step import build_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = "figures"
PAGE = "report.html"
RECORD = "report.json"  # as `record.make_record` returns it
SAMPLES = 40  # images in the first grids

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


class Numbered(NamedTuple):
    """A figure of the lab report, made from our runs."""

    number: str  # the lab report's
    caption: str
    figure: Figure


def write_page(folder: Path, study: Study, record: Record) -> Path:
    """Writes `report.html`, which needs no other file, the record as JSON, and the figures as PNG and SVG;
    returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    records.write_json(folder / RECORD, record)
    parts = [f"<h1>Neural networks from scratch, again</h1><p>{html.escape(describe(record))}</p>"]
    parts.append(f"<h2>Tables</h2><p>{html.escape(HOW_TABLES)}</p>")
    parts += [f"<h3>{html.escape(title)}</h3>{_table(cells)}" for title, cells in table_texts(record).items()]
    parts.append(f"<h2>Its conclusions</h2><p>{html.escape(HOW_CONCLUSIONS)}</p>")
    parts += [_table(conclusion_cells(record)), "<h2>Figures</h2>"]
    for number, caption, figure in draw_figures(study):
        png, _ = save(figure, folder / FIGURES / f"figure_{number}")
        caption = html.escape(f"Figure {number.lstrip('0')}. {caption}")
        image = base64.b64encode(png.read_bytes()).decode()
        parts.append(
            f'<figure id="figure-{number}"><figcaption>{caption}</figcaption>'
            f'<img alt="{caption}" src="data:image/png;base64,{image}"></figure>'
        )
    body = "\n".join(parts)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        "<title>mnistjax: the lab report reproduced</title>"
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


def draw_figures(study: Study) -> Iterator[Numbered]:
    """The lab report's figures 3 to 15, as far as the study has runs for them."""
    neuron, mlp = study.get("batch_size", ()), study.get("activation", ())
    cnn = pick_value(study, "optimizer", SGD)
    wide = pick_value(study, "width", 1024)
    yield from _draw_data("03", "04", study.get("multiclass", ()), "ten digits")
    yield from _draw_data("05", "06", neuron, "zero or not")
    yield from _draw_curves("08", "batch_size", neuron, "One neuron, zero or not, by batch size")
    full = pick_value(study, "batch_size", "all")
    yield from _draw_errors("09", full, "One neuron, zero or not, full batch", matrix="01")
    yield from _draw_curves("10", "activation", mlp, "64 hidden neurons, zero or not, by activation")
    yield from _draw_architecture("11", cnn)
    relu = pick_value(study, "activation", "relu")
    yield from _draw_errors("12", relu, "64 hidden neurons with ReLU, zero or not")
    yield from _draw_curves("13", "width", wide, "1,024 hidden neurons, zero or not")
    every = study.get("optimizer", ())
    yield from _draw_curves("14", "optimizer", every, "The convolutional network, by optimizer")
    yield from _draw_errors("15a", cnn, "The convolutional network with SGD", matrix="15b")


def _draw_data(samples: str, counts: str, runs: Sequence[RunRecord], task: str) -> Iterator[Numbered]:
    for run in done(runs)[:1]:
        data = reopen(run.folder)[1]
        grid = sample_grid(data.train.images[:SAMPLES], data.train.labels[:SAMPLES], data.class_names)
        yield Numbered(samples, f"The first training images of {data.name}, {task}.", grid)
        figure = class_counts_figure(data.class_counts, data.class_names)
        yield Numbered(counts, f"Images per class of {data.name}, {task}.", figure)


def _draw_curves(number: str, experiment: str, runs: Sequence[RunRecord], title: str) -> Iterator[Numbered]:
    groups: dict[str, list[Any]] = {}
    for run in done(runs):
        groups.setdefault(_name(run.config.get(VARIED[experiment][0])), []).append(run.rows)
    if groups:
        n = min(map(len, groups.values()))
        caption = f"{title}: mean of {n} seeds in the band between the lowest and the highest."
        yield Numbered(number, caption, seed_curves(groups, title=title))


def _name(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _draw_errors(
    number: str, runs: Sequence[RunRecord], title: str, *, matrix: str | None = None
) -> Iterator[Numbered]:
    """The worst errors on the test images of the run that is best on the validation images."""
    for run in sorted(done(runs), key=_badness)[:1]:
        examples = load_examples(*reopen(run.folder), run.folder)
        which = f"{title}, seed {run.seed}, the best of {len(done(runs))} on the validation images"
        yield Numbered(number, f"Misclassified test images. {which}.", misclassified_grid(examples))
        if matrix:
            counts = run.summary["test/confusion_matrix"]
            figure = confusion_matrix_figure(counts, examples.class_names)
            yield Numbered(matrix, f"Confusion matrix of the test images. {which}.", figure)


def _badness(run: RunRecord, monitor: str = "val/accuracy") -> float:
    return badness(monitor, float(run.rows[-1][monitor]))


def _draw_architecture(number: str, runs: Sequence[RunRecord]) -> Iterator[Numbered]:
    for run in done(runs)[:1]:
        spec = reopen(run.folder)[0].spec
        layers = list_layers(build_model(spec), spec.image_shape)
        total = sum(layer.parameters for layer in layers)
        figure = architecture_figure(layers, spec.image_shape)
        yield Numbered(number, f"The convolutional network: {total:,} parameters.", figure)
