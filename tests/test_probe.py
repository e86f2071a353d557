"""A probe returns a status or a reason, within its time limit."""

import http.server
import socket
import threading
import time

from mnistjax.probe import probe


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, format, *args):
        pass


def test_a_servers_status_is_returned(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert probe(url, timeout=5, method="GET") == 404
        assert probe(url, timeout=5) == 501  # no HEAD there
        server.shutdown()


def test_the_reason_of_no_answer_is_returned_in_time(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    started = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert probe(url, timeout=0.3) in ("no answer", "ReadTimeout")
    assert probe(url, timeout=5) == "ConnectionError"
    assert probe("nonsense", timeout=5) == "MissingSchema"
    assert time.perf_counter() - started < 4  # seconds
