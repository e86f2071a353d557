"""The results of a reproduction: a record, merged with an earlier one, and its tables as text.

A record is plain, as JSON has it:

    about        data; quick; cores; seconds of each step
    tables       by title and row: `ours`, each seed's value of each metric; `failed`, how many runs are not
                 done; `seconds` per epoch of a single run
    conclusions  by statement: `opinion`, `confidence`, `evidence`
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lab_report.conclusions import CONCLUSIONS
from lab_report.study import Study
from lab_report.tables import TABLES, Compared, Table, compare, table_cells
from mnistjax.config import ConfigError
from mnistjax.markdown import format_table
from mnistjax.seeds import Spread

Record = Mapping[str, Any]

HOW_TABLES = (
    "The lab report trained each network once; ours are the mean ± standard deviation of n seeds, all of "
    "them. A row is reproduced if the lab report's number lies in the 95 % prediction interval for one more "
    "run of ours (Student's t); if it lies outside, ours are better or it is not reproduced. A row is "
    "undecided if the interval holds every value that an accuracy can have."
)
HOW_CONCLUSIONS = (
    "The confidence is the share of Student's t distribution for our mean over seeds, or for a difference "
    "of two means (Welch's), that lies where the conclusion says; for several parts it is 1 less the sum of "
    "their doubts. From 95 % on our runs support the conclusion; if as much lies beyond one of its bounds "
    "they contradict it."
)


def make_record(study: Study, times: Mapping[str, float], about: Mapping[str, Any]) -> Record:
    """The results of a study's runs; `times` are seconds per epoch by the names of rows."""
    tables = {
        table.title: {
            one.row.label: {
                "ours": {metric: list(ours.values) for metric, ours in one.ours.items()},
                "failed": one.failed,
                "seconds": one.seconds,
            }
            for one in compare(table, study, times)
        }
        for table in TABLES
    }
    conclusions = {}
    for one in CONCLUSIONS:
        opinion, finding = one.judge(study)
        confidence, evidence = (finding.confidence, finding.evidence) if finding else (None, "")
        conclusions[one.statement] = {"opinion": opinion, "confidence": confidence, "evidence": evidence}
    return {"about": dict(about), "tables": tables, "conclusions": conclusions}


def merge_records(earlier: Record, new: Record) -> Record:
    """The earlier record with everything that the new one has runs for; ConfigError if their data differs."""
    about = {**earlier["about"], **new["about"]}
    for key in ("data", "quick"):
        if earlier["about"][key] != about[key]:
            raise ConfigError(f"the record has {key} {earlier['about'][key]}; these runs have {about[key]}")
    about["seconds"] = {**earlier["about"]["seconds"], **about["seconds"]}
    tables = {}
    for title, rows in new["tables"].items():
        known = earlier["tables"].get(title, {})
        tables[title] = {label: _merge_rows(known.get(label), row) for label, row in rows.items()}
    conclusions = {
        statement: earlier["conclusions"].get(statement, found)
        if found["opinion"] == "too few runs"
        else found
        for statement, found in new["conclusions"].items()
    }
    return {"about": about, "tables": tables, "conclusions": conclusions}


def _merge_rows(earlier: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Mapping[str, Any]:
    if earlier is None:
        return new
    row = new if new["failed"] or any(new["ours"].values()) else earlier
    return {**row, "seconds": earlier["seconds"] if new["seconds"] is None else new["seconds"]}


def describe(record: Record) -> str:
    """The data set, the length of the training, and the minutes of each step, as a sentence."""
    about = record["about"]
    steps = ", ".join(f"{name} {value / 60:.1f}" for name, value in about["seconds"].items())
    length = "two epochs of two seeds, only for a look" if about["quick"] else "the lab report's 100 epochs"
    total = sum(about["seconds"].values()) / 60
    return f"Data set {about['data']}, {length}; {total:.1f} minutes on {about['cores']} cores ({steps})."


def read_rows(record: Record, table: Table) -> list[Compared]:
    """The rows of a table with the results in a record."""
    rows = []
    for row in table.rows:
        found = record["tables"][table.title][row.label]
        ours = {metric: Spread(tuple(values)) for metric, values in found["ours"].items()}
        rows.append(Compared(row, ours, found["failed"], found["seconds"]))
    return rows


def table_texts(record: Record) -> dict[str, list[list[str]]]:
    """The cells of each table, its head first, by title."""
    return {table.title: table_cells(table, read_rows(record, table)) for table in TABLES}


def conclusion_cells(record: Record) -> list[list[str]]:
    """The conclusions as a table, its head first."""
    lines = [["", "the lab report concludes", "confidence", "our runs", "measured, mean ± standard error"]]
    for one in CONCLUSIONS:
        found = record["conclusions"][one.statement]
        share = "" if found["confidence"] is None else _percent(found["confidence"])
        lines.append([one.number, one.statement, share, found["opinion"], found["evidence"]])
    return lines


def _percent(share: float) -> str:
    """The share in percent; never 0 or 100 %, because no number of runs gives certainty."""
    if share > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def summarize(record: Record) -> str:
    """A list of the verdicts and of the opinions, counted."""
    verdicts = Counter(one.verdict for table in TABLES for one in read_rows(record, table))
    opinions = Counter(found["opinion"] for found in record["conclusions"].values())
    lines = []
    for name, counts in (("results", verdicts), ("conclusions", opinions)):
        words = ", ".join(f"{count} {word}" for word, count in counts.most_common())
        lines.append(f"- {counts.total()} {name}: {words}")
    return "\n".join(lines)


def to_markdown(record: Record) -> str:
    """The tables and conclusions of a record."""
    parts = [f"*{describe(record)}*\n", f"{HOW_TABLES}\n"]
    for title, cells in table_texts(record).items():
        parts.append(f"**{title}**\n\n{format_table(cells, left=['verdict'])}")
    head, *_ = cells = conclusion_cells(record)
    left = [name for name in head if name != "confidence"]
    parts.append(f"**Its conclusions**\n\n{HOW_CONCLUSIONS}\n\n{format_table(cells, left)}")
    return "\n".join(parts)
