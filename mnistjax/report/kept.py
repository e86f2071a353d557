"""The numbers of a reproduction: a record of them, merged with an earlier one, and its tables as text.

A record is plain, as JSON has it:

    about        data; quick; cores; seconds of each step
    tables       by title and row: `ours`, each seed's value of each metric; `failed`, how many runs are not
                 done; `seconds` per epoch of a single run
    conclusions  by statement: `opinion`, `confidence`, `evidence`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnistjax.config import ConfigError
from mnistjax.report.conclusions import CONCLUSIONS
from mnistjax.report.paper import TABLES, Compared, Ours, Study, compare, markdown, table_cells

Record = Mapping[str, Any]

HOW_TABLES = (
    "The report trained each network once; ours are the mean ± standard deviation of n seeds, all of them. "
    "A row is reproduced where the report's number lies in the 95 % prediction interval for one more run of "
    "ours (Student's t); where it lies outside, ours are better or it is not reproduced. An interval as "
    "wide as all that an accuracy can be leaves the row undecided."
)
HOW_CONCLUSIONS = (
    "The confidence is the share of Student's t distribution for our mean over seeds, or for a difference "
    "of two means (Welch's), that lies where the conclusion says; of several parts it is 1 less the sum of "
    "their doubts. From 95 % on our runs support the conclusion; where as much lies beyond a bound of it "
    "they contradict it."
)


def make_record(study: Study, times: Mapping[str, float], about: Mapping[str, Any]) -> Record:
    """What the runs of a study say; `times` are seconds per epoch by the names of rows."""
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


def merge_records(kept: Record, new: Record) -> Record:
    """The kept record with all that the new one has runs for; ConfigError if their data differs."""
    about = {**kept["about"], **new["about"]}
    for key in ("data", "quick"):
        if kept["about"][key] != about[key]:
            raise ConfigError(f"the record has {key} {kept['about'][key]}; these runs have {about[key]}")
    about["seconds"] = {**kept["about"]["seconds"], **about["seconds"]}
    tables = {}
    for title, rows in new["tables"].items():
        earlier = kept["tables"].get(title, {})
        tables[title] = {label: _merge_rows(earlier.get(label), row) for label, row in rows.items()}
    conclusions = {
        statement: kept["conclusions"].get(statement, found) if found["opinion"] == "too few runs" else found
        for statement, found in new["conclusions"].items()
    }
    return {"about": about, "tables": tables, "conclusions": conclusions}


def _merge_rows(kept: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Mapping[str, Any]:
    if kept is None:
        return new
    row = new if new["failed"] or any(new["ours"].values()) else kept
    return {**row, "seconds": kept["seconds"] if new["seconds"] is None else new["seconds"]}


def describe(record: Record) -> str:
    """What was trained, how long it took and where."""
    about = record["about"]
    steps = ", ".join(f"{name} {value / 60:.1f}" for name, value in about["seconds"].items())
    length = "two epochs of two seeds, for a look only" if about["quick"] else "the report's 100 epochs"
    total = sum(about["seconds"].values()) / 60
    return f"Data set {about['data']}, {length}; {total:.1f} minutes on {about['cores']} cores ({steps})."


def table_texts(record: Record) -> dict[str, list[list[str]]]:
    """The cells of each table, with its head, by title."""
    texts = {}
    for table in TABLES:
        rows = record["tables"][table.title]
        compared = []
        for row in table.rows:
            found = rows[row.label]
            ours = {metric: Ours(tuple(values)) for metric, values in found["ours"].items()}
            compared.append(Compared(row, ours, found["failed"], found["seconds"]))
        texts[table.title] = table_cells(table, compared)
    return texts


def conclusion_text(record: Record) -> list[list[str]]:
    """The cells of the conclusions, with their head."""
    lines = [["", "the report concludes", "confidence", "our runs", "measured, mean ± standard error"]]
    for one in CONCLUSIONS:
        found = record["conclusions"][one.statement]
        share = "" if found["confidence"] is None else _percent(found["confidence"])
        lines.append([one.number, one.statement, share, found["opinion"], found["evidence"]])
    return lines


def _percent(share: float) -> str:
    """Never a certainty, which no number of runs gives."""
    if share > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def readme_text(record: Record) -> str:
    """The tables and conclusions of a record, in Markdown."""
    parts = [f"*{describe(record)}*\n", f"{HOW_TABLES}\n"]
    parts += [f"**{title}**\n\n{markdown(cells)}" for title, cells in table_texts(record).items()]
    parts += [f"**Its conclusions**\n\n{HOW_CONCLUSIONS}\n\n{markdown(conclusion_text(record))}"]
    return "\n".join(parts)
