"""`mnistjax-sync` from end to end: W&B's real client over real HTTP, against a stand-in for its server.

The stand-in answers the GraphQL queries Viewer, RunResumeStatus, UpsertBucket, CreateRunFiles, UpsertView2,
upsertView, ProjectInternalId and GetProjects, takes the file stream, and drops uploads. Like W&B's
server, it stores history lines by their offset and tells a resuming client their number and the last one.
Nothing of mnistjax is replaced.
"""

import gzip
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mnistjax import records
from mnistjax.cli import sync
from mnistjax.sweep.ledger import Entry, Ledger
from mnistjax.tracking import make_run_id
from small import SUMMARY

GOLDEN = Path(__file__).with_name("views.json")
HISTORY = "wandb-history.jsonl"
LINE_COUNTS = ("logLineCount", "historyLineCount", "eventsLineCount")


class StandIn:
    """The memory of W&B's server."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.views: list[dict[str, Any]] = []
        self.hold_after: int | None = None  # history lines after which it stops reading
        self.url = ""

    def run(self, name: str) -> Any:
        blank = {"lines": {}, "config": {}, "summary": {}, "exit": None, "fields": {}}
        return self.runs.setdefault(name, SimpleNamespace(**blank))

    def history(self, name: str) -> list[dict[str, Any]]:
        lines = self.run(name).lines
        assert sorted(lines) == list(range(len(lines)))  # no gap
        return [json.loads(lines[number]) for number in sorted(lines)]

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "1", "name": "someone"}
        if "viewer" in query:
            return {"viewer": {"id": "1", "entity": "someone", "username": "someone", "teams": {"edges": []}}}
        if "upsertBucket" in query:
            run = self.run(values["name"])
            run.config |= json.loads(values["config"] or "{}")
            run.fields |= {key: value for key, value in values.items() if value}
            project = {"id": "2", "name": values["project"], "entity": entity}
            bucket = {
                "id": "3",
                "name": values["name"],
                "project": project,
                "historyLineCount": len(run.lines),
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": not run.lines}}
        if "bucket(name" in query:
            if values["name"] not in self.runs:
                return {"model": {"id": "2", "name": values["project"], "entity": entity, "bucket": None}}
            run = self.run(values["name"])
            tail = [run.lines[number] for number in sorted(run.lines)[-1:]]
            bucket = {"id": "3", "name": values["name"], "config": json.dumps(run.config), "tags": []}
            bucket |= dict.fromkeys(LINE_COUNTS, 0) | {"historyLineCount": len(run.lines)}
            bucket |= {"historyTail": json.dumps(tail), "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
            bucket |= {"summaryMetrics": json.dumps(run.summary)}
            return {"model": {"id": "2", "name": values["project"], "entity": entity, "bucket": bucket}}
        if "upsertView" in query:
            self.views.append(values)
            view = {key: values[key] for key in ("name", "displayName", "spec") if key in values}
            return {"upsertView": {"view": {"id": "4", **view}, "inserted": True}}
        if "query ProjectInternalId" in query:
            return {"project": {"id": "2", "internalId": "2"}}
        if "query GetProjects" in query:
            own = {"id": "2", "name": "mine", "entityName": "someone", "createdAt": "2026-01-01"}
            edges = [{"node": own | {"isBenchmark": False, "user": None}}]
            return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in values["files"]]
            return {"createRunFiles": {"runID": "3", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, name: str, content: dict[str, Any]) -> None:
        run = self.run(name)
        files = content.get("files", {})
        if HISTORY in files:
            for number, line in enumerate(files[HISTORY]["content"], start=files[HISTORY]["offset"]):
                if self.hold_after is not None and len(run.lines) >= self.hold_after:
                    time.sleep(60)
                run.lines[number] = line
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if content.get("complete"):
            run.exit = content["exitcode"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in, and an environment in which W&B's client talks to it."""
    import wandb

    state = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def read(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def reply(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply({})

        def do_PUT(self) -> None:
            self.read()
            self.reply({})

        def do_POST(self) -> None:
            content = self.read()
            if self.path == "/graphql":
                asked = json.loads(content)
                return self.reply({"data": state.answer(asked["query"], asked.get("variables") or {})})
            if self.path.endswith("/file_stream"):
                state.stream(self.path.split("/")[-2], json.loads(content))
            self.reply({"exitcode": None, "limits": {}})

        def log_message(self, format: str, *args: Any) -> None:
            pass

    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    instance.daemon_threads = True
    threading.Thread(target=instance.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{instance.server_port}"
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", state.url)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
    monkeypatch.setenv("no_proxy", "*")
    yield state
    wandb.teardown()  # it keeps the address of the first server that it saw
    instance.shutdown()
    instance.server_close()


def write_run(folder, identity, *, status: Any = "done", epochs=5, reason=None, **config):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "seed": 0,
        "wandb": {"project": "mine", "entity": None, "tags": ["a"]},
        "model": {"name": "mlp"},
        **config,
    }
    records.write_config(folder, config)
    for epoch in range(len(records.read_rows(folder)) + 1, epochs + 1):
        row = {"train/loss": 1 / epoch, "val/loss": 2 / epoch, "train/accuracy": 0.9, "val/accuracy": 0.8}
        row |= {"train/f1": 0.9, "val/f1": 0.8, "examples_seen": 100 * epoch, "seconds": 0.5}
        records.append_row(folder, {"epoch": epoch, **row})
    if status == "done":
        tested = {"test/accuracy": 0.9, "test/f1": 0.8, "test/confusion_matrix": [[9, 1], [0, 8]]}
        records.write_summary(folder, {**SUMMARY, **tested, "identity": identity, "kept_epoch": epochs})
    started = "2026-01-01T00:00:00+00:00"
    records.write_status(folder, status, identity=identity, epoch=epochs, started=started, reason=reason)
    return make_run_id(identity, started)


def call(*words, command="sync"):
    """The exit code of `mnistjax-sync`, or another command, in its own process."""
    code = f"import sys; from mnistjax.cli.{command} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], timeout=120).returncode


def epochs_of(server, name):
    return [line["epoch"] for line in server.history(name)]


@pytest.mark.slow
def test_each_row_arrives_once_however_often_it_is_synced(server, tmp_path):
    name = write_run(tmp_path / "run", "x", status="interrupted", epochs=2)
    assert call(tmp_path / "run") == 0
    assert epochs_of(server, name) == [1, 2]
    assert server.run(name).exit == 255
    assert write_run(tmp_path / "run", "x", epochs=5) == name  # the run was resumed
    for _ in range(2):
        assert call(tmp_path / "run") == 0
        assert epochs_of(server, name) == [1, 2, 3, 4, 5]
        assert [line["val/loss"] for line in server.history(name)] == [2 / epoch for epoch in range(1, 6)]
    run = server.run(name)
    assert run.exit == 0
    assert run.summary["status"] == "done"
    assert run.summary["test/accuracy"] == 0.9
    assert run.config["model"]["value"] == {"name": "mlp"}
    assert run.fields["project"] == "mine"
    assert run.fields["tags"] == ["a"]
    assert list(server.runs) == [name]


@pytest.mark.slow
def test_a_killed_sync_can_be_continued(server, tmp_path):
    name = write_run(tmp_path / "run", "x", epochs=2000)
    server.hold_after = 700
    code = "import sys; from mnistjax.cli.sync import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], start_new_session=True)
    end = time.monotonic() + 60
    while len(server.run(name).lines) < 700:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    server.hold_after = None
    assert epochs_of(server, name) == list(range(1, 701))
    assert call(tmp_path) == 0
    assert epochs_of(server, name) == list(range(1, 2001))


@pytest.mark.slow
def test_rows_that_the_server_does_not_take_are_not_reported_as_sent(server, tmp_path, capfd):
    name = write_run(tmp_path / "run", "x")
    server.hold_after = 2
    code = "import sys, mnistjax.cli.sync as sync; sync.PATIENCE = 8; sys.exit(sync.main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    assert subprocess.run(words, timeout=60).returncode == 1
    assert len(server.run(name).lines) <= 2
    assert "0 of 1 runs are at W&B" in capfd.readouterr().err
    server.hold_after = None
    assert call(tmp_path / "run") == 0
    assert epochs_of(server, name) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_sweep_arrives_as_a_group_and_its_failures_as_such(server, tmp_path):
    ledger = Ledger(tmp_path / "sweep", "2026-01-01", "2026-01-01", [])
    states: list[Any] = ["done", "diverged", "failed", "waiting"]
    for number, status in enumerate(states):
        config = {"optimizer.name": f"o{number}"}
        ledger.entries[number] = Entry(number, str(number), [], seed=0, status=status, config=config)
    names = [
        write_run(ledger.job_folder(number), str(number), status=status, reason="why")
        for number, status in enumerate(states[:3])
    ]
    ledger.save()
    assert call(tmp_path / "sweep") == 1  # one has not ended
    assert set(server.runs) == set(names)
    found = [server.run(name) for name in names]
    assert [run.exit for run in found] == [0, 1, 1]
    assert [run.summary["status"] for run in found] == states[:3]
    assert {run.fields["groupName"] for run in found} == {"2026-01-01"}
    assert [run.fields["displayName"] for run in found] == [f"o{number} seed=0" for number in range(3)]


def test_without_a_login_nothing_is_done(server, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "run", "x")
    monkeypatch.delenv("WANDB_API_KEY")
    assert sync.main([str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: W&B: no API key (`wandb login` sets one)\n"
    assert not server.runs
    assert not (tmp_path / "run/wandb").exists()


@pytest.mark.slow
def test_runs_without_whole_records_are_left_out_and_the_others_arrive(server, tmp_path, capfd):
    ledger = Ledger(tmp_path / "sweep", "2026-01-01", "2026-01-01", [])
    ledger.entries[0] = Entry(0, "0", [], seed=0, status="failed", reason="lost before it began")
    ledger.folder.mkdir()
    ledger.save()
    name = write_run(tmp_path / "whole", "x")
    write_run(tmp_path / "damaged", "y")
    (tmp_path / "damaged/config.yaml").unlink()
    assert call(tmp_path) == 1
    assert list(server.runs) == [name]
    said = capfd.readouterr().err
    assert "damaged/config.yaml" in said
    assert "1 of 1 runs are at W&B" in said


@pytest.mark.slow
def test_the_dashboard_becomes_a_workspace_and_a_report(server, tmp_path):
    """The server gets the content of tests/views.json; to write it again, delete it and run this test."""
    ledger = Ledger(tmp_path / "sweep", "2026-01-01", "2026-01-01", [])
    for number, name in enumerate(("adam", "sgd")):
        ledger.entries[number] = Entry(number, str(number), [], seed=0, config={"optimizer.name": name})
        write_run(
            ledger.job_folder(number), str(number), optimizer={"name": name, "learning_rate": 0.1 * number}
        )
    ledger.save()
    assert call(tmp_path / "sweep", "--wandb", command="report") == 0
    assert [(view["entityName"], view["projectName"]) for view in server.views] == [("someone", "mine")] * 2
    assert [view["displayName"] for view in server.views] == ["mnistjax sweep"] * 2
    specs = [without_ids(json.loads(view["spec"])) for view in server.views]
    found = dict(zip(("workspace", "report"), specs, strict=True))
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was written; check it")
    assert found == json.loads(GOLDEN.read_text())
    assert (tmp_path / "sweep/report/index.html").exists()


def without_ids(spec: Any) -> Any:
    """The spec without the random ids of wandb-workspaces."""
    if isinstance(spec, dict):
        return {key: without_ids(value) for key, value in spec.items() if key not in ("__id__", "id")}
    return [without_ids(item) for item in spec] if isinstance(spec, list) else spec
