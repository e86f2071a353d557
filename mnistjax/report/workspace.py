"""The dashboard as a W&B Workspace: the same keys and metrics in W&B's own panels (extra `workspaces`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mnistjax.config import ConfigError
from mnistjax.report.dashboard import CURVES

MEDIA = ["test/misclassified", "test/samples"]
MATRIX = "test/confusion_matrix_table"  # as wandb.plot_table names the table of its chart


def make_workspace(
    data: Mapping[str, Any], *, entity: str, project: str, name: str, sweeps: Sequence[str] = ()
) -> Any:
    """The Workspace of what `dashboard.make_data` says of the runs; of these sweeps only, if any are given.

    Curves are means over runs that differ in their seed only, in the band of their range. It is not saved;
    `save()` does that. ConfigError where wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise ConfigError("W&B workspaces need the extra: pip install 'mnistjax[workspaces]'") from None
    wr, ws = cast(Any, reports), cast(Any, workspaces)  # whose types are narrower than what they take
    monitor = data["monitor"]
    keys = [ws.Config(key) for key in data["keys"]]
    metrics = [name for name in CURVES if name in data["metrics"]]
    curves = [
        wr.LinePlot(
            title=metric,
            x="epoch",
            y=[metric],
            log_y=metric.endswith("loss"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            smoothing_type="none",
        )
        for metric in metrics
    ]
    results = [name for name in (monitor, data["target"]) if name in data["metrics"]]
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in data["keys"]]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name)) for name in dict.fromkeys(results)]
    compared = [
        wr.ParallelCoordinatesPlot(title="Keys and results", columns=columns),
        *(wr.ParameterImportancePlot(with_respect_to=name) for name in dict.fromkeys(results)),
        wr.RunComparer(diff_only="split"),
    ]
    fields = {column: column for column in ("Actual", "Predicted", "nPredictions")}
    matrix = wr.CustomChart(
        query={"summaryTable": {"tableKey": MATRIX}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields=fields,
        chart_strings={"title": "Confusion matrix, test"},
    )
    images = wr.MediaBrowser(title="Test images", media_keys=MEDIA, num_columns=4)
    wide = ws.SectionLayoutSettings(columns=1, rows=2)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section("Curves", panels=curves, is_open=True),
            ws.Section("Comparison", panels=compared, is_open=True, layout_settings=wide),
            ws.Section("Test images", panels=[matrix, images], is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group").isin(list(sweeps))] if sweeps else [],
            groupby=keys,
            order=[ws.Ordering(ws.Summary(monitor), ascending=monitor.endswith("loss"))],
        ),
    )
