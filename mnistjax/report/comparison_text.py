"""The comparison of two sweeps as text, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mnistjax.markdown import format_table
from mnistjax.progress import make_console
from mnistjax.report.comparison import Comparison, Difference, Result
from mnistjax.report.output import TEXT_MARK
from mnistjax.words import printable

MOST_KEYS = 20  # of the config, and of versions
MOST_NAMES = 5  # of configurations that one side has
MOST_VALUES = 6  # of a key on one side
MOST_ROWS = 30  # of the table of a metric, at a terminal
MOST_SHOWN = 500  # of that table on the page
SHORT_HASH = 12  # characters
NOTE = """Means ± standard deviations over seeds. The p-values are those of Student's paired t-test, or of
Welch's without common seeds, corrected by Holm's method for all configurations; an interval is that of one
comparison alone, so it may exclude zero where the verdict is undecided."""


def list_lines(comparison: Comparison) -> list[tuple[str, str]]:
    """What differs, apart from the results: pairs of a heading and a line; the same heading is given once."""
    one, other = comparison.labels
    counts = (
        f"{label}: {count:,} run{'s' * (count != 1)}{describe_unfinished(unfinished)}"
        for label, count, unfinished in zip(
            comparison.labels, comparison.counts, comparison.unfinished, strict=True
        )
    )
    lines = {
        "compared": [*counts],
        "config": describe_differences(comparison.config) or ["no difference"],
        "versions": describe_differences(comparison.versions) or ["no difference"],
        "bits": [describe_bits(comparison)],
        f"only in {one}": describe_names(comparison.only[0]),
        f"only in {other}": describe_names(comparison.only[1]),
        "seeds": describe_seeds(comparison),
        "verdicts": [count_verdicts(comparison, metric) for metric in comparison.metrics],
    }
    pairs = [
        (heading * (number == 0), text)
        for heading, texts in lines.items()
        for number, text in enumerate(texts)
    ]
    return [(printable(heading), printable(text)) for heading, text in pairs]


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """The lines and the tables of a comparison for the page's data."""
    tables = [(metric, list_rows(comparison, metric)) for metric in comparison.metrics]
    tables = [{"metric": printable(metric), "rows": rows[: MOST_SHOWN + 1]} for metric, rows in tables]
    tables = [table for table in tables if table["rows"][1:]]
    return {"lines": list_lines(comparison), "tables": tables, "note": NOTE.replace("\n", " ")}


def describe_unfinished(statuses: dict[str, int]) -> str:
    """The runs that are not done: ", 3 of them unfinished (2 diverged, 1 waiting)"; empty without any."""
    if not statuses:
        return ""
    words = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    return f", {sum(statuses.values()):,} of them unfinished ({words})"


def describe_differences(differences: Sequence[Difference]) -> list[str]:
    """A line for each key: "train.epochs: 3 -> 5"."""
    lines = [f"{one.key}: {_join(one.before)} -> {_join(one.after)}" for one in differences[:MOST_KEYS]]
    more = len(differences) - MOST_KEYS
    return lines + ([f"and {more:,} more"] if more > 0 else [])


def _join(values: Sequence[str]) -> str:
    """The values of a key on one side, cut if they are many or long."""
    texts = [value[:SHORT_HASH] if len(value) == 64 and value.isalnum() else value for value in values]
    more = [f"and {len(texts) - MOST_VALUES:,} more"] if len(texts) > MOST_VALUES else []
    return ", ".join([*texts[:MOST_VALUES], *more])


def describe_bits(comparison: Comparison) -> str:
    """Whether runs that are the same have the same numbers."""
    bits = comparison.bits
    if not bits.compared:
        return "no run is finished in both with the same identity"
    if bits.same == bits.compared:
        verb = "run has" if bits.compared == 1 else "runs have"
        return f"{bits.same:,} of {bits.compared:,} {verb} the same bits"
    differ = bits.compared - bits.same
    start = f"first at epoch {bits.epoch}" if bits.epoch else "only in the test"
    size = f"at most by {bits.largest:.2g} in {bits.metric}"
    if not bits.same:
        return f"{'the only run differs' if differ == 1 else f'all {differ:,} runs differ'}, {start}, {size}"
    return f"{bits.same:,} of {bits.compared:,} runs have the same bits; {differ:,} differ, {start}, {size}"


def describe_names(names: Sequence[str]) -> list[str]:
    """The number of configurations that one side has, and some of their names; none without any."""
    if not names:
        return []
    more = f", and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    count = f"{len(names):,} configuration{'s' * (len(names) > 1)}"
    return [f"{count}: {', '.join(names[:MOST_NAMES])}{more}"]


def describe_seeds(comparison: Comparison) -> list[str]:
    """How many runs have a seed that the other side lacks; none without any."""
    counts = zip(comparison.lone_seeds, comparison.labels, strict=True)
    texts = [f"{count:,} of {label}" for count, label in counts if count]
    return [f"{' and '.join(texts)} without a run of the same configuration and seed"] if texts else []


def count_verdicts(comparison: Comparison, metric: str) -> str:
    """How many configurations are better on each side, by a metric."""
    results = [result for result in comparison.results if result.metric == metric]
    if not results:
        return f"{metric}: no configuration is finished in both"
    judged = [result.verdict for result in results if result.verdict]
    better = [verdict.better for verdict in judged if verdict.decided]
    words = [f"{label} is better in {better.count(label):,}" for label in comparison.labels]
    equal = sum(result.equal for result in results)
    words.append(f"undecided in {len(results) - len(better) - equal:,}")
    words += [f"equal in {equal:,}"] * (equal > 0)
    return f"{metric}: of {len(results):,} configuration{'s' * (len(results) > 1)}, {', '.join(words)}"


def list_rows(comparison: Comparison, metric: str) -> list[list[str]]:
    """The table of a metric, its head first: the means with their deviations, the difference, the verdict."""
    one, other = comparison.labels
    rows = [["configuration", "n", one, other, f"{other} - {one}", "95 %", "verdict"]]
    rows += [_list_cells(result) for result in comparison.results if result.metric == metric]
    return [[printable(cell) for cell in row] for row in rows]


def _list_cells(result: Result) -> list[str]:
    """A row of the table of a metric."""
    percent = result.metric.endswith("accuracy")
    spec, signed = (".2%", "+.2%") if percent else (".4f", "+.4f")
    if 0 < abs(result.difference) < (1e-4 if percent else 1e-3):
        signed = "+.1e"
    sizes = dict.fromkeys((result.before.n, result.after.n))
    half = (result.interval[1] - result.interval[0]) / 2 if result.interval else 0.0
    return [
        result.name,
        "/".join(map(str, sizes)),
        *(f"{side:{spec}}" for side in (result.before, result.after)),
        f"{result.difference:{signed}}" if result.difference else "0",
        f"± {half:{signed[1:]}}" if half else "-",
        describe_verdict(result),
    ]


def describe_verdict(result: Result) -> str:
    """The verdict of a configuration in a word or two."""
    if result.equal:
        return "equal"
    if result.verdict is None:
        return "one seed" if max(result.before.n, result.after.n) == 1 else "too few seeds"
    if not result.verdict.decided:
        return f"undecided, p = {result.verdict.p:.2g}"
    return f"{result.verdict.better} is better, p = {result.verdict.p:.2g}"


def to_markdown(comparison: Comparison) -> str:
    """The comparison as a file in Markdown."""
    parts = [TEXT_MARK, f"# {_escape(' and '.join(comparison.labels))}", ""]
    for name, text in list_lines(comparison):
        if name:
            parts.append(f"- **{_escape(name)}**: {_escape(text)}")
        else:
            parts[-1] += f"; {_escape(text)}"
    for metric in comparison.metrics:
        head, *rows = list_rows(comparison, metric)
        if rows:
            table = format_table([[_escape(cell) for cell in row] for row in (head, *rows)], left=["verdict"])
            parts += ["", f"## {_escape(metric)}", "", table.rstrip("\n")]
    return "\n".join([*parts, "", NOTE, ""])


def _escape(text: str) -> str:
    """Text without a meaning in Markdown or HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\`*[]_#!" else c for c in text)


def show_comparison(comparison: Comparison) -> None:
    """Prints the comparison: lines on what differs, then a table of each metric."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    console, lines = make_console(), list_lines(comparison)
    width = max(len(heading) for heading, _ in lines)
    for heading, text in lines:
        console.print(f"{heading:<{width}}  {text}", soft_wrap=True)
    for metric in comparison.metrics:
        head, *rows = list_rows(comparison, metric)
        if not rows:
            continue
        table = Table(box=SIMPLE, pad_edge=False)
        kept = [place for place, name in enumerate(head) if name not in ("n", "95 %")]  # for 80 columns
        for name in (head[place] for place in kept):
            if name in ("configuration", "verdict"):
                table.add_column(name, overflow="fold", min_width=13)
            else:
                table.add_column(Text(name, overflow="fold"), justify="right", no_wrap=True)
        for row in rows[:MOST_ROWS]:
            table.add_row(*(row[place].partition(", p =")[0] for place in kept))
        console.print(f"\nBy {printable(metric)}, mean and standard deviation over seeds:")
        console.print(table)
        if len(rows) > MOST_ROWS:
            console.print(f"the first {MOST_ROWS} of {len(rows):,}")
    if comparison.results:
        console.print("comparison.md has the intervals, the p-values and all rows")
