"""Generated sections of Markdown files, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

import re
from pathlib import Path


def replace_section(text: str, name: str, content: str) -> str:
    """The text with new content in the section of this name; ValueError if there is no such section."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.escape(begin) + ".*" + re.escape(end)
    found, count = re.subn(pattern, lambda _: f"{begin}\n\n{content.rstrip()}\n{end}", text, flags=re.DOTALL)
    if not count:
        raise ValueError(f"no section {begin} ... {end}")
    return found


def write_section(path: Path, name: str, content: str) -> None:
    """Replaces the content of a section in a file; SystemExit if the file has no section of this name."""
    try:
        path.write_text(replace_section(path.read_text("utf-8"), name, content), "utf-8")
    except ValueError as error:
        raise SystemExit(f"{path} has {error}") from None
