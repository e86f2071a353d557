"""A page that watches a sweep: served to this machine only, read only, and up to date."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mnistjax.cli import report
from mnistjax.report import watch
from small import write_run
from test_template import CHROMIUM

SWEEP = ["-m", "data=digits", "model=mlp", "model.hidden=8", "wandb.mode=disabled", "seed=0,1"]


@contextlib.contextmanager
def serving(folder):
    """A server of the page of a folder, that may read it again at any time."""
    watched = watch.Watched([Path(folder)], "title")
    with watch.Server(watched, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), content


def files_below(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*")}


def test_only_the_page_and_its_data_are_served_to_this_machine(tmp_path):
    write_run(tmp_path / "run")
    before = files_below(tmp_path)
    with serving(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"
        status, headers, page = ask(server)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert b"connect-src 'self'" in page
        status, headers, content = ask(server, "/data.json")
        assert status == 200
        assert [run["status"] for run in json.loads(content)["runs"]] == ["done"]
        assert "Access-Control-Allow-Origin" not in headers
        tag = headers["ETag"]
        assert f"data-watch={tag}" in page.decode()
        assert ask(server, "/data.json", If_None_Match=tag)[::2] == (304, b"")
        for path in ("/run/config.yaml", "/../run/config.yaml", "//etc/passwd", "/index.html", "/?x=1"):
            assert ask(server, path)[0] == 404
        for host in ("example.com", "example.com:80", f"127.0.0.1.example.com:{server.server_port}", ""):
            assert ask(server, "/data.json", Host=host)[0] == 403
        assert ask(server, "/data.json", Host=f"localhost:{server.server_port}")[0] == 200
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(server, "/data.json", method)[0] == 501
    assert files_below(tmp_path) == before


def test_new_records_are_served_but_not_read_all_the_time(tmp_path, monkeypatch):
    write_run(tmp_path / "one")
    calls = []
    read = watch.read_runs
    monkeypatch.setattr(
        watch, "read_runs", lambda *folders: (calls.append(1), time.sleep(0.1), read(*folders))[2]
    )
    monkeypatch.setattr(watch, "LEAST", 0.0)
    with serving(tmp_path) as server:
        tag = ask(server, "/data.json")[1]["ETag"]
        write_run(tmp_path / "two", seed=1)
        start = time.monotonic()
        while ask(server, "/data.json", If_None_Match=tag)[0] == 304:
            assert time.monotonic() - start < 20
        assert len(json.loads(ask(server, "/data.json")[2])["runs"]) == 2
        taken = time.monotonic() - start
    assert len(calls) <= 2 + taken / 0.5  # a reading of 0.1 s at most every 0.5 s


def test_a_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    write_run(tmp_path / "sweep/run")
    monkeypatch.setattr(watch, "LEAST", 0.0)
    monkeypatch.setattr(watch, "SHARE", 1e9)
    with serving(tmp_path / "sweep") as server:
        os.rename(tmp_path / "sweep", tmp_path / "away")
        status, _, content = ask(server, "/data.json")
    assert status == 503
    assert str(tmp_path / "sweep") in content.decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--watch", "--out", "x"], "--watch writes and sends nothing"),
        (["--watch", "--wandb"], "--watch writes and sends nothing"),
        (["--port", "80"], "--port is for --watch"),
        (["--watch", "--port", "65536"], "--port must be a number from 0 to 65,535; got 65536"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, words, message):
    write_run(tmp_path / "run")
    before = files_below(tmp_path)
    assert report.main([str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert files_below(tmp_path) == before


def test_a_port_in_use_is_one_line(tmp_path, capsys):
    write_run(tmp_path / "run")
    with serving(tmp_path) as server:
        assert report.main([str(tmp_path), "--watch", "--port", str(server.server_port)]) == 2
    assert "Address already in use" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_of_a_running_sweep_follows_it(work):
    """In a real browser, while it trains; what the user has typed stays, and Ctrl-C ends the server."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}

    def begin(module, *words, told):
        program = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, *words]
        return subprocess.Popen(command, stderr=told, stdout=subprocess.DEVNULL, text=True, env=environment)

    words = [*SWEEP, "optimizer=sgd,adam", "train.epochs=300", "hydra.sweep.dir=sweep", "sweep.mode=map"]
    sweep = begin("mnistjax.cli", *words, told=subprocess.DEVNULL)
    start = time.monotonic()
    while not list(Path("sweep").glob("*/metrics.jsonl")):
        assert time.monotonic() - start < 100
        time.sleep(0.1)
    server = begin("mnistjax.cli.report", "sweep", "--watch", told=subprocess.PIPE)
    assert server.stderr
    url = server.stderr.readline().split()[2]
    with sync_playwright() as tools:
        page = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
        page.goto(url)
        page.wait_for_selector("html[data-ready=true]", state="attached")
        assert page.inner_text("#counts") != "4 done"
        page.locator("#table tbody tr button").first.click()
        page.fill("input[type=search]", "adam")
        page.wait_for_selector("#counts:text-is('4 done')", timeout=120_000)
        assert page.input_value("input[type=search]") == "adam"
        assert page.inner_text("#watching") == "watching"
        page.wait_for_selector("#table td.status:text-is('2 done')")
        page.wait_for_selector("#confusion-run option:nth-child(4)", state="attached")
        assert errors == []
        assert sweep.wait(60) == 0
        Path("sweep").rename("away")
        page.wait_for_selector("#watching:has-text('the folder holds no run')")
        Path("away").rename("sweep")
        page.wait_for_selector("#watching:text-is('watching')")
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=20)
        assert server.returncode == 130
        page.wait_for_selector("#watching:has-text('no longer watching')")
        assert all("Failed to load resource" in error for error in errors)
    assert not Path("sweep/report").exists()
