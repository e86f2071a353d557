"""Serves the page of a sweep while it runs: to this machine only, and without writing anything."""

import hashlib
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mnistjax.config import ConfigError, one_line
from mnistjax.pages import write_data
from mnistjax.report.dashboard import make_data
from mnistjax.report.runs import read_runs
from mnistjax.report.template import fill_page

HOST = "127.0.0.1"
LEAST = 1.0  # seconds between two readings of the records
SHARE = 0.2  # of the time may go into reading
NO_IMAGES = "The report, which mnistjax-report writes without --watch, has them."


class Watched:
    """The page of runs in folders, and its data, read again when someone asks and the last is old."""

    def __init__(self, folders: Sequence[Path], title: str) -> None:
        self._folders, self.title = folders, title
        self._lock = threading.Lock()
        self._due = 0.0
        self._data: dict[str, object] = {}
        self._text = ""

    def read(self) -> tuple[dict[str, object], str]:
        """The data of the page, also as text; ConfigError if the folders hold no run."""
        with self._lock:
            start = time.monotonic()
            if start >= self._due:
                data = make_data(read_runs(*self._folders))
                self._data = {**data, "examples": [], "no_examples": NO_IMAGES}
                self._text = write_data(self._data)
                end = time.monotonic()
                self._due = end + max(LEAST, (end - start) / SHARE)
            return self._data, self._text


def tag(text: str) -> str:
    """The ETag of a text: a text with the same one is the same."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Server(ThreadingHTTPServer):
    """A server for this machine, at a free port if `port` is 0."""

    daemon_threads = True

    def __init__(self, watched: Watched, port: int) -> None:
        self.watched = watched
        super().__init__((HOST, port), Handler)
        self.names = [f"{name}:{self.server_port}" for name in (HOST, "localhost")]


class Handler(BaseHTTPRequestHandler):
    """Answers GET with the page or its data, to a browser that asked for this server by its own name.

    Another name in the request means that a foreign page has its own name resolve to this machine.
    """

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "mnistjax", ""

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.names:
            return self.send_error(HTTPStatus.FORBIDDEN)
        if self.path not in ("/", "/data.json"):
            return self.send_error(HTTPStatus.NOT_FOUND)
        watched, kind = self.server.watched, "application/json"
        try:
            data, text = watched.read()
            if self.path == "/":
                kind, text = "text/html", fill_page(data, watched.title, watch=tag(text))
        except ConfigError as error:
            return self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "no runs", one_line(error))
        content = text.encode()
        etag = f'"{tag(text)}"'
        known = self.headers.get("If-None-Match") == etag
        self.send_response(HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
        headers = {
            "ETag": etag,
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(0 if known else len(content)),
            "Cache-Control": "no-cache",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not known:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""
