"""HTML pages that are one file each: they open without a network, and run only the scripts in them."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """<meta charset="utf-8">
<meta name="generator" content="mnistjax">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>"""


def fill(
    page: str, title: str, scripts: Sequence[str], parts: Mapping[str, str], **rules: Sequence[str]
) -> str:
    """A page with each %NAME% replaced by the part of this name; its head allows only these scripts.

    `rules` are more rules of the Content Security Policy, with _ for -: `connect_src=["'self'"]`.
    """
    allowed: dict[str, Sequence[str]] = {
        "default-src": ["'none'"],
        "script-src": [f"'sha256-{_sha256(code)}'" for code in scripts],
        "style-src": ["'unsafe-inline'"],  # scripts set styles while they draw
        "img-src": ["data:", "blob:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        **{name.replace("_", "-"): sources for name, sources in rules.items()},
    }
    policy = "; ".join(" ".join([name, *sources]) for name, sources in allowed.items())
    title = html.escape(title)
    parts = {**parts, "title": title, "head": HEAD.format(policy=policy, title=title)}
    return re.sub(r"%(\w+)%", lambda mark: parts[mark[1]], page)


def escape_script(code: str) -> str:
    """JavaScript without anything that HTML would read as the end of a script."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3c", code, flags=re.IGNORECASE)


def escape_data(data: Mapping[str, Any]) -> str:
    """JSON for a script element of the page."""
    return write_data(data).replace("<", "\\u003c")


def write_data(data: Mapping[str, Any]) -> str:
    """The data of a page as JSON."""
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def _sha256(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
