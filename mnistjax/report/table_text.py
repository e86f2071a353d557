"""The text of a table in Markdown and LaTeX; names may hold any characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnistjax.markdown import escape_markdown, format_table
from mnistjax.seeds import Spread, find_format
from mnistjax.words import printable

if TYPE_CHECKING:
    from mnistjax.report.table import Table

LATEX = {
    **{c: f"\\{c}" for c in "_%&#${}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "`": "{\\char96}",
    "[": "{[}",  # after a line's end it would open an option
    "*": "{*}",
    "-": "-{}",  # two of them would be a dash
    "'": "'{}",
    "!": "!{}",
    "?": "?{}",
}
"""Characters that LaTeX does not print as they are."""
LETTERS = "äöüÄÖÜßéèêëáàâåñçîïíóòôúùûøæÉÅØÆ"  # that LaTeX prints with any font


def format_markdown(table: Table) -> str:
    first = " ↓ ".join(table.names) + " →" * (len(table.names) == 2)
    rows = [[escape_markdown(text) for text in (first, *table.columns)]]
    for row in table.rows:
        cells = [table.cells[row, column] for column in table.columns]
        texts = [count(cell.spread, find_format(table.metric)) for cell in cells]
        marked = [f"**{text}**" if cell.marked else text for cell, text in zip(cells, texts, strict=True)]
        rows.append([escape_markdown(row), *marked])
    notes = "".join(f"\n{escape_markdown(note)}.\n" for note in table.notes)
    return f"{format_table(rows)}{notes}"


def count(spread: Spread, spec: str) -> str:
    """The mean, the deviation and the number of seeds: "98.76% ± 0.12% (3)"; "-" without values."""
    return f"{spread:{spec}} ({spread.n})" if spread.n else "-"


def format_latex(table: Table) -> str:
    """The environment `tabular`; a percent sign stands in the head only."""
    spec, columns = find_format(table.metric), table.columns
    unit = r" (\%)" if spec.endswith("%") else ""
    first, metric = escape_latex(table.names[0]), f"{escape_latex(table.metric)}{unit}"
    lines = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    if len(table.keys) == 2:
        title = rf"{metric} by {escape_latex(table.names[1])}"
        lines.append(rf" & \multicolumn{{{len(columns)}}}{{c}}{{{title}}} \\")
        lines.append(rf"\cmidrule(l){{2-{len(columns) + 1}}}")
        heads = [escape_latex(column) for column in columns]
    else:
        heads = [metric]
    lines += [" & ".join([first, *heads]) + r" \\", r"\midrule"]
    for row in table.rows:
        texts = [escape_latex(row)]
        for column in columns:
            cell = table.cells[row, column]
            text = describe_latex(cell.spread, spec)
            texts.append(rf"\textbf{{{text}}}" if cell.marked else text)
        lines.append(" & ".join(texts) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = ["needs \\usepackage{booktabs}", *table.notes]
    comments = [f"% {printable(' '.join(note.split()))}" for note in notes]
    return "\n".join([*comments, *lines, ""])


def describe_latex(spread: Spread, spec: str) -> str:
    r"""The mean, the deviation and the number of seeds: "98.76 $\pm$ 0.12\,(3)"; "-" without values."""
    if not spread.n:
        return "-"
    text = f"{spread:{spec}}".replace("%", "").replace("-", "$-$").replace("±", r"$\pm$")
    return rf"{text}\,({spread.n})"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; characters that its fonts may lack as their number."""
    text = printable(" ".join(text.split()))
    return "".join(LATEX.get(c, c) if c.isascii() or c in LETTERS else rf"{{[}}U+{ord(c):04X}]" for c in text)
