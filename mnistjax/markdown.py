"""Tables and texts in Markdown."""

import re
from collections.abc import Collection, Sequence

from mnistjax.words import printable


def format_table(rows: Sequence[Sequence[str]], left: Collection[str] = ()) -> str:
    """The table of these rows, the first of which is its head; line breaks in cells become spaces.

    The first column and the columns named in `left` are aligned to the left, all others to the right.

    >>> print(format_table([["name", "n"], ["a|b", "3"]]), end="")
    | name | n |
    | --- | ---: |
    | a\\|b | 3 |
    """
    rule = ["---", *("---" if name in left else "---:" for name in rows[0][1:])]
    head, *lines = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is; an underscore within a word needs no escape."""
    text = re.sub(r"([\\`*\[\]$~]|<(?=[A-Za-z/!?]))", r"\\\1", printable(" ".join(text.split())))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
