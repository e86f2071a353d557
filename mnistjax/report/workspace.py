"""The dashboard at W&B: a Workspace of the same keys and metrics, and a Report with tables and text.

They need the extra `workspaces` (ConfigError without it).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mnistjax.config import ConfigError
from mnistjax.markdown import format_table
from mnistjax.records.fields import CURVES
from mnistjax.report.dashboard import distinct_rows
from mnistjax.seeds import by_seed, find_format, name_config, seeds_table
from mnistjax.verdicts import MOST_COMPARED, compare, letters

MEDIA = ["test/misclassified", "test/samples"]
MATRIX = "test/confusion_matrix_table"  # wandb.plot_table gives this name to the table of its chart
MAX_ROWS = 30  # in a table of text


@dataclass(frozen=True)
class Place:
    """A place at W&B, the title there, and the runs that it shows."""

    entity: str
    project: str
    title: str
    sweeps: Sequence[str] = ()  # ids; empty for all runs of the project


@dataclass(frozen=True, eq=False)
class Views:
    """A Workspace and a Report of wandb-workspaces; their method `save` uploads them."""

    workspace: Any
    report: Any
    place: Place

    def replace(self, saved: Mapping[str, str]) -> None:
        """Makes `save` replace the views of an earlier `describe`, if it is not empty."""
        if saved:
            self.workspace._internal_id = saved["workspace"]  # as `Workspace.from_url` sets them
            self.workspace._internal_name = saved["workspace_name"]
            self.report.id = saved["report"]

    def describe(self) -> dict[str, str]:
        """The ids and URLs of the saved views."""
        return {
            "entity": self.place.entity,
            "project": self.place.project,
            "workspace": self.workspace._internal_id,
            "workspace_name": self.workspace._internal_name,
            "workspace_url": self.workspace.url,
            "report": self.report.id,
            "report_url": self.report.url,
        }


def make_views(data: Mapping[str, Any], place: Place) -> Views:
    """The Workspace and the Report for the data of `dashboard.make_data`.

    Curves are means over runs that differ only in their seed, in the band of their range. The Report begins
    with the table over seeds and the unfinished runs as text.
    """
    wr, ws = _libraries()
    monitor, ascending = data["monitor"], data["monitor"].endswith("loss")
    where = {"entity": place.entity, "project": place.project}
    filters = [ws.Metric("Group").isin([*place.sweeps])] if place.sweeps else []
    wide = ws.SectionLayoutSettings(columns=1, rows=2)
    workspace = ws.Workspace(
        **where,
        name=place.title,
        sections=[
            ws.Section("Curves", panels=_curves(wr, data), is_open=True),
            ws.Section("Comparison", panels=_comparison(wr, data), is_open=True, layout_settings=wide),
            ws.Section("Test images", panels=_images(wr), is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=filters,
            groupby=[ws.Config(key) for key in data["keys"]],
            order=[ws.Ordering(ws.Summary(monitor), ascending=ascending)],
        ),
    )
    runs = wr.Runset(
        **where,
        name="Runs",
        filters=filters,
        groupby=[f"config.{key}" for key in data["keys"]],
        order=[wr.OrderBy(wr.SummaryMetric(monitor), ascending=ascending)],
    )
    panels = [*_curves(wr, data), *_comparison(wr, data), *_images(wr)]  # a view changes its panels
    blocks = [wr.MarkdownBlock(describe(data)), wr.PanelGrid(runsets=[runs], panels=panels)]
    report = wr.Report(**where, title=place.title, width="fluid", blocks=blocks)
    return Views(workspace, report, place)


def describe(data: Mapping[str, Any]) -> str:
    """The runs in Markdown: their number, the table over seeds, best first, and the unfinished ones.

    In the table configurations share a letter if they are not told apart; the best two have a verdict.
    """
    rows, monitor = distinct_rows(data), data["monitor"]
    table, verdict = add_verdicts(seeds_table(rows, monitor), by_seed(rows, monitor), monitor)
    cells = [[_text(value) for value in row.values()] for row in table[:MAX_ROWS]]
    statuses = Counter(" ".join(run["status"].split()) for run in data["runs"])
    counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    which = f"the best {MAX_ROWS} of {len(table):,} configurations" if len(table) > MAX_ROWS else "best first"
    text = (
        f"{counts}. Means over seeds, {which} by {monitor}.\n\n{format_table([[*table[0]], *cells])}{verdict}"
    )
    others = [run for run in data["runs"] if run["status"] != "done"]
    if others:
        lines = [[_text(run[key]) for key in ("name", "status", "reason")] for run in others[:MAX_ROWS]]
        text += f"\nNot finished, {len(lines):,} of {len(others):,}:\n\n"
        text += format_table([["run", "status", "reason"], *lines], left=["status", "reason"])
    return text


def add_verdicts(
    table: list[dict[str, Any]], values: Mapping[str, Mapping[int, float]], metric: str
) -> tuple[list[dict[str, Any]], str]:
    """The table over seeds with a column of letters, and the verdict on the best two configurations as text.

    Without two configurations of several seeds, and with too many, the table is unchanged and the text empty.
    """
    best = compare(values, metric, most=1) if len(values) <= MOST_COMPARED else []
    if not best:
        return table, ""
    found = letters(values, metric)
    words = " ".join(f"{best[0]:{find_format(metric)}}".split())
    text = f"\nConfigurations that share a letter are not told apart. The best two: {words}.\n"
    return [{**row, "letters": found.get(name_config(row), "")} for row in table], text


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1e-3 else f"{value:.4f}"
    return "" if value is None else str(value)


def _libraries() -> tuple[Any, Any]:
    """The modules of Reports and Workspaces, untyped because their types are narrower than their checks."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise ConfigError("W&B workspaces need the extra: pip install 'mnistjax[workspaces]'") from None
    return cast(Any, reports), cast(Any, workspaces)


def _curves(wr: Any, data: Mapping[str, Any]) -> list[Any]:
    return [
        wr.LinePlot(
            title=metric,
            x="epoch",
            y=[metric],
            log_y=metric.endswith("loss"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            smoothing_type="none",
        )
        for metric in CURVES
        if metric in data["metrics"]
    ]


def _comparison(wr: Any, data: Mapping[str, Any]) -> list[Any]:
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in data["keys"]]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name)) for name in data["compared"]]
    return [
        wr.ParallelCoordinatesPlot(title="Keys and results", columns=columns),
        *(wr.ParameterImportancePlot(with_respect_to=name) for name in data["compared"]),
        wr.RunComparer(diff_only="split"),
    ]


def _images(wr: Any) -> list[Any]:
    fields = {column: column for column in ("Actual", "Predicted", "nPredictions")}
    matrix = wr.CustomChart(
        query={"summaryTable": {"tableKey": MATRIX}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields=fields,
        chart_strings={"title": "Confusion matrix, test"},
    )
    return [matrix, wr.MediaBrowser(title="Test images", media_keys=MEDIA, num_columns=4)]
