"""The HTML page of a report: one file that opens without a network.

It contains the scripts of Plotly for figures, of DataTables (from itables) for tables, and ours from web/.
"""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnistjax.config import ConfigError
from mnistjax.report.sanitize import clean

WEB = Path(__file__).parent / "web"
SCRIPTS = ("basics.js", "parallel.js", "plots.js", "tables.js", "dashboard.js")  # in the order of their use


def fill_page(data: Mapping[str, Any], title: str, *, watch: str = "") -> str:
    """The page as text. Its security policy allows only the scripts in it, and loads nothing.

    With `watch`, the ETag of the data, it asks its server every two seconds whether `data.json` has another.
    """
    page = (WEB / "dashboard.html").read_text("utf-8")
    table_style, table_script, plotly = read_libraries()
    script = "".join((WEB / name).read_text("utf-8") for name in SCRIPTS)
    table_script, script = escape_script(table_script), escape_script(script)
    hashes = [f"'sha256-{_sha256(code)}'" for code in (table_script, script, plotly)]
    rules = {
        "default-src": ["'none'"],
        "script-src": hashes,
        "style-src": ["'unsafe-inline'"],  # both libraries set styles while they draw
        "img-src": ["data:", "blob:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    if watch:
        rules["connect-src"] = ["'self'"]
    parts = {
        "watch": f' data-watch="{watch}"' if watch else "",
        "policy": "; ".join(" ".join([name, *sources]) for name, sources in rules.items()),
        "title": html.escape(clean(title)),
        "style": (WEB / "dashboard.css").read_text("utf-8"),
        "script": script,
        "table_style": table_style,
        "table_script": table_script,
        "plotly": base64.b64encode(gzip.compress(plotly.encode(), mtime=0)).decode(),
        "data": write_data(data).replace("<", "\\u003c"),
    }
    return re.sub(r"%(\w+)%", lambda mark: parts[mark[1]], page)


def write_data(data: Mapping[str, Any]) -> str:
    """The data of a page as JSON."""
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def escape_script(code: str) -> str:
    """JavaScript without anything that HTML would read as the end of a script."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3c", code, flags=re.IGNORECASE)


def _sha256(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def read_libraries() -> tuple[str, str, str]:
    """DataTables' style, DataTables' script, which sets `DataTable`, and Plotly's script."""
    import itables
    from plotly.offline import get_plotlyjs

    folder = Path(itables.__file__).parent / "html"
    module = (folder / "dt_bundle.js").read_text("utf-8")
    script, exports = re.subn(r"\bexport\{[^}]*?(\w+) as default[^}]*\}", r"globalThis.DataTable=\1", module)
    if exports != 1:
        raise ConfigError("the report does not support the installed version of itables")
    return (folder / "dt_bundle.css").read_text("utf-8"), script, get_plotlyjs()
