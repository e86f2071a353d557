"""What a script generates stands in the README between two marks."""

import re
from pathlib import Path


def replace_marked(path: Path, begin: str, end: str, content: str) -> None:
    """The content now stands between the two marks; SystemExit where they are missing."""
    text = path.read_text()
    pattern = re.escape(begin) + ".*" + re.escape(end)
    if not re.search(pattern, text, re.DOTALL):
        raise SystemExit(f"{path} has no place for the table: {begin.strip()} and {end.strip()}")
    path.write_text(re.sub(pattern, lambda _: f"{begin}{content}{end}", text, flags=re.DOTALL))
