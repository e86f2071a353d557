"""The HTML page of a report: one file that opens without a network.

It contains the scripts of Plotly for figures, of DataTables (from itables) for tables, and ours from web/.
"""

import base64
import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnistjax.config import ConfigError
from mnistjax.pages import escape_data, escape_script, fill
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
    scripts = [escape_script(table_script), escape_script(script), plotly]
    rules = {"connect_src": ["'self'"]} if watch else {}
    parts = {
        "watch": f' data-watch="{watch}"' if watch else "",
        "style": (WEB / "dashboard.css").read_text("utf-8"),
        "script": scripts[1],
        "table_style": table_style,
        "table_script": scripts[0],
        "plotly": base64.b64encode(gzip.compress(plotly.encode(), mtime=0)).decode(),
        "data": escape_data(data),
    }
    return fill(page, clean(title), scripts, parts, **rules)


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
