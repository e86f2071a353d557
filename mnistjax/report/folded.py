"""The configurations of a report's runs: runs that differ only in their seed, with statistics over seeds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mnistjax.seeds import Spread, find_format, name_config
from mnistjax.sweeps.results import shown
from mnistjax.verdicts import MOST_COMPARED, compare, letters


def list_configurations(
    runs: Sequence[Mapping[str, Any]], metrics: Sequence[str], compared: Sequence[str]
) -> list[dict[str, Any]]:
    """The configurations of the runs in a page's data, for its data.

    `runs` has the indices of the runs, the first of repeated ones first, and `metrics` the mean, half the
    95 % confidence interval (None for one seed) and the number of seeds by metric, over the runs that are
    done, or, if none is, over those that a search stopped. `letters` has letters for each of the `compared`
    metrics, of configurations that are done: those with a common letter are not told apart.
    """
    members: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        members.setdefault(json.dumps(run["values"]), []).append(index)
    counted = [find_counted(runs, indices) for indices in members.values()]
    found = {
        metric: letters({str(i): by_seed(runs, own, metric) for i, own in enumerate(counted)}, metric)
        for metric in compared
    }
    return [
        {
            "runs": indices,
            "metrics": {name: value for name in metrics if (value := describe(runs, counted[i], name))},
            "letters": {metric: found[metric].get(str(i), "") for metric in compared},
        }
        for i, indices in enumerate(members.values())
    ]


def describe_best(
    runs: Sequence[Mapping[str, Any]], configurations: Sequence[Mapping[str, Any]], metric: str
) -> str:
    """The verdict on the best two configurations in words; empty without two of several seeds."""
    values = {}
    for members in (one["runs"] for one in configurations):
        own = {key: shown(value) for key, value in runs[members[0]]["values"].items()}
        values[name_config(own)] = by_seed(runs, find_counted(runs, members), metric)
    found = compare(values, metric, most=1) if len(values) <= MOST_COMPARED else []
    return "".join(f"By {metric}, {best:{find_format(metric)}}." for best in found)


def find_counted(runs: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[int]:
    """The runs of a configuration that count, each identity once, because a repeated run is no other seed."""
    for status in ("done", "stopped"):
        once = {runs[i]["identity"] or i: i for i in reversed(indices) if runs[i]["status"] == status}
        if once:
            return sorted(once.values())
    return []


def by_seed(runs: Sequence[Mapping[str, Any]], indices: Sequence[int], metric: str) -> dict[int, float]:
    """The values of the runs that are done, because stopped ones have trained for fewer epochs."""
    known = [i for i in indices if runs[i]["status"] == "done" and metric in runs[i]["metrics"]]
    return {runs[i]["seed"]: runs[i]["metrics"][metric] for i in known}


def describe(
    runs: Sequence[Mapping[str, Any]], indices: Sequence[int], metric: str
) -> list[float | None] | None:
    """The mean, half the interval and the number of values of a metric in seven digits; None without any."""
    spread = Spread(tuple(runs[i]["metrics"][metric] for i in indices if metric in runs[i]["metrics"]))
    if not spread.n:
        return None
    half = float(f"{spread.mean_half_width:.3g}") if spread.n > 1 else None
    return [float(f"{spread.mean:.7g}"), half, spread.n]
