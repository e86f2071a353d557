"""A stand-in for W&B's server: real HTTP, for W&B's real client; nothing of the client is replaced.

A test takes the fixture `wandb_server` (in conftest.py), lets the client work, and reads what arrived:

    runs["id"]                  a Run: config, summary, fields, history lines, files, sweep, state, exit
    sweeps["id"]                a Sweep: config (YAML), prior_runs, project, entity, state, queue, handed_out
    agents["id"]                an Agent: its sweep, and the ids of the runs of each heartbeat
    artifacts["model", "name"]  the committed Versions of a collection, in order; `files(version)`: its bytes
    used["run id"]              the Versions that a run uses
    links                       each Link of a Version into a registry or another collection
    asked                       the names of all queries
    problems                    what it could not answer; the fixture fails if there is any

and says what the server is to do: `stop(run)`, `expire(run)`, `hold_after`, `fail`, `sweeps["id"].queue`.

What is stood in for: the GraphQL queries of ANSWERS, the file stream of a run, and uploads by PUT; artifacts
are in wandb_artifacts.py. The rest of W&B (pages, charts, access rights, downloads, random and Bayesian
search) is not. What is assumed of W&B's server, and what shows it (core/ is the client's Go part, in the
repository wandb/wandb):

- It stores history lines by their offset, and tells a resuming client their number and the last one. A run
  that exists but was never started has no `t` in `wandbConfig` (core/internal/runbranch/resume.go).
- An agent asks for commands by heartbeats: `run`, `resume` (the same for the client), `stop`, `exit`
  (wandb_agent.py); here one run at a time. An unknown agent or sweep is a 404 (apis/public/sweeps.py). A run
  exists, as pending and with its config, from the moment an agent gets it.
- A run that says `preempting` in its file stream (core/internal/filestream/filestreamrequest.go) and exits
  with a code other than 0 goes to the head of its sweep's queue, under its id. One that is silent for five
  minutes (here: `expire`) does so too; if it did not say `preempting`, it has crashed (W&B's documentation).
- `prior_runs` is a filter over runs (apis/public/sweeps.py): a run that the server lacks is not added. A grid
  leaves out what its runs have tried; a parameter `a.b` is read as `b` in the run's `a` (grid_search.py of
  the repository wandb/sweeps).
- Equal digests in a collection are one version, which gets the new aliases and keeps its metadata. A file
  that the server has is not uploaded again (core/pkg/artifacts/saver.go). An alias belongs to one version.
- The user has one organization, ORGANIZATION; each registry exists, and takes each version.
- The client tries again after 429 (with Retry-After), 5xx and broken connections.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import http.server
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import pytest
import yaml

import wandb_artifacts
from wandb_artifacts import DATE, ENTITY, Artifacts, Refused, Values, numbers, project_fields

ORGANIZATION = "someone-org"
HISTORY = "wandb-history.jsonl"
LINE_COUNTS = ("logLineCount", "historyLineCount", "eventsLineCount")
FEATURES = ("ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE", "FILESTREAM_GZIP")
PATIENCE = 60  # seconds that a hanging answer takes


@dataclass
class Run:
    name: str
    lines: dict[int, str] = field(default_factory=dict)  # history, by offset
    config: Values = field(default_factory=dict)
    summary: Values = field(default_factory=dict)
    fields: Values = field(
        default_factory=dict
    )  # of UpsertBucket: tags, jobType, groupName, displayName, ...
    files: dict[str, bytes] = field(default_factory=dict)
    exit: int | None = None
    sweep: str | None = None
    state: str = "pending"
    started: bool = False  # whether a client has opened it
    preempting: bool = False
    stopped: bool = False  # whether the file stream tells the client to stop


@dataclass
class Sweep:
    """Runs wait in the queue as {"run_id": ..., "args": {"seed": 0, ...}}; the id may be left out."""

    name: str
    project: str
    entity: str
    config: str = ""
    state: str = "RUNNING"
    prior_runs: list[str] = field(default_factory=list)
    queue: list[Values] = field(default_factory=list)
    handed_out: list[Values] = field(default_factory=list)


@dataclass
class Agent:
    sweep: Sweep
    heartbeats: list[list[str]] = field(default_factory=list)


class StandIn(Artifacts):
    """The memory of W&B's server, and its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, Agent] = {}
        self.views: list[Values] = []
        self.stopping: set[str] = set()
        self.asked: list[str] = []
        self.problems: list[str] = []
        self.hold_after: int | None = None  # history lines of a run after which it takes no more
        # Gets the name of a query, or the path of another request. Its answer: None, an HTTP status, "hang",
        # "garbage" (an HTML page), "lie" (success, but nothing is stored).
        self.fail: Callable[[str], int | str | None] = lambda asked: None

    # What a test asks and says.

    def run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run(name))

    def history(self, name: str) -> list[Values]:
        lines = self.run(name).lines
        assert sorted(lines) == list(range(len(lines)))  # no gap
        return [json.loads(lines[number]) for number in sorted(lines)]

    def stop(self, name: str) -> None:
        """Makes the run's agent stop it, as the button on W&B's page does."""
        self.stopping.add(name)

    def expire(self, name: str) -> None:
        """Does what the server does five minutes after the last sign of a run."""
        if self.run(name).exit is None:
            self._end(self.run(name), "crashed")

    # Runs.

    def upsert_bucket(self, values: Values) -> Values:
        if values.get("id"):  # the public API changes a run; its state stays
            run = self.run(values["id"].removeprefix("run-"))
            run.fields |= {key: values[key] for key in ("tags", "groupName", "jobType") if key in values}
            return {"upsertBucket": {"bucket": _public_fields(run)}}
        run = self.run(values["name"])
        inserted = not run.started
        if run.state != "running":
            run.started, run.state, run.preempting, run.exit = True, "running", False, None
        run.config |= json.loads(values.get("config") or "{}")
        run.fields |= {key: value for key, value in values.items() if value}
        run.sweep = values.get("sweep") or run.sweep
        project = project_fields(run.fields.get("entity"), run.fields.get("project"))
        bucket = {"id": f"run-{run.name}", "name": run.name, "project": project, "sweepName": run.sweep}
        bucket |= {"displayName": run.fields.get("displayName"), "historyLineCount": len(run.lines)}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def read_run(self, values: Values) -> Values:
        run = self.runs.get(values["name"])
        return {"project": {"run": _public_fields(run) if run else None}}

    def read_runs(self, values: Values) -> Values:
        """Answers with the runs of a group with a tag, which is all that mnistjax asks for."""
        wanted = json.loads(values.get("filters") or "{}")
        runs = [
            run
            for run in self.runs.values()
            if run.fields.get("groupName") == wanted["group"] and wanted["tags"] in run.fields.get("tags", [])
        ]
        edges = [{"node": _public_fields(run), "cursor": run.name} for run in runs]
        page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "2", "runCount": len(runs), "readOnly": False, "runs": page}}

    def resume_status(self, values: Values) -> Values:
        model = project_fields(values.get("entity"), values.get("project")) | {"bucket": None}
        if run := self.runs.get(values["name"]):
            tail = [run.lines[number] for number in sorted(run.lines)[-1:]]
            bucket = {"id": f"run-{run.name}", "name": run.name, "config": json.dumps(run.config)}
            bucket |= {"tags": run.fields.get("tags", []), "displayName": run.fields.get("displayName")}
            bucket |= dict.fromkeys(LINE_COUNTS, 0) | {"historyLineCount": len(run.lines)}
            bucket |= {"historyTail": json.dumps(tail), "eventsTail": "[]"}
            bucket |= {"summaryMetrics": json.dumps(run.summary)}
            model["bucket"] = bucket | {"wandbConfig": '{"t": 1}' if run.started else "{}"}
        return {"model": model}

    def create_run_files(self, values: Values) -> Values:
        url = f"{self.url}/run-files/{values['run']}"
        files = [{"name": name, "uploadUrl": f"{url}/{quote(name, safe='')}"} for name in values["files"]]
        return {"createRunFiles": {"runID": f"run-{values['run']}", "uploadHeaders": [], "files": files}}

    def stream(self, name: str, content: Values) -> Values | None:
        """Takes a request of a run's file stream; None if no answer is to come."""
        run = self.run(name)
        files = content.get("files", {})
        if HISTORY in files:
            for number, line in enumerate(files[HISTORY]["content"], start=files[HISTORY]["offset"]):
                if self.hold_after is not None and len(run.lines) >= self.hold_after:
                    return None
                run.lines[number] = line
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        run.preempting |= content.get("preempting", False)
        if content.get("complete"):
            run.exit = content["exitcode"]
            self._end(run, "failed" if run.exit else "finished")
        return {"exitcode": None, "limits": {}, "stopped": run.stopped}

    def _end(self, run: Run, state: str) -> None:
        run.state = state
        self.stopping.discard(run.name)
        if run.preempting and state != "finished":
            run.state = "preempted"
            if sweep := self.sweeps.get(run.sweep or ""):
                past = [job for job in sweep.handed_out if job["run_id"] == run.name]
                job = past[-1] if past else {"run_id": run.name, "args": {}}
                sweep.queue.insert(0, {**job, "type": "resume"})

    # Sweeps and their agents.

    def upsert_sweep(self, values: Values) -> Values:
        name = (values.get("id") or "").removeprefix("sweep:")
        if not name:
            name = f"sweep{next(numbers):03d}"
            place = values.get("projectName") or "uncategorized", values.get("entityName") or ENTITY
            self.sweeps[name] = Sweep(name, *place)
        sweep = self.sweeps[name]
        sweep.state = values.get("state") or sweep.state
        wanted = [part["name"] for part in json.loads(values.get("priorRunsFilters") or "{}").get("$or", [])]
        sweep.prior_runs += [run for run in wanted if run in self.runs and run not in sweep.prior_runs]
        if values.get("config"):
            sweep.config = values["config"]
            named = [job for job in sweep.queue if "run_id" in job]  # from the test, or queued again
            tried = [run.config for run in self._runs_of(sweep)]
            sweep.queue = named + _grid(yaml.safe_load(sweep.config), tried)
        answer = {"id": f"sweep:{name}", "name": name, "project": project_fields(sweep.entity, sweep.project)}
        return {"upsertSweep": {"sweep": answer, "configValidationWarnings": []}}

    def read_sweep(self, values: Values) -> Values:
        sweep = self.sweeps.get(values.get("sweep") or values.get("name") or "")
        if sweep is None:
            return {"project": {"sweep": None}}
        runs = [_run_fields(run) for run in self._runs_of(sweep)]
        method = yaml.safe_load(sweep.config)["method"]
        answer = {"__typename": "Sweep", "id": f"sweep:{sweep.name}", "name": sweep.name, "method": method}
        answer |= {"state": sweep.state, "config": sweep.config, "runCount": len(runs), "displayName": None}
        answer |= {"createdAt": DATE, "updatedAt": DATE, "runCountExpected": None, "description": None}
        return {"project": {"sweep": answer | {"bestLoss": None, "runs": {"edges": runs}}}}

    def create_agent(self, values: Values) -> Values:
        name = f"agent:{next(numbers)}"
        self.agents[name] = Agent(self._find_sweep(values["sweep"]))
        return {"createAgent": {"agent": {"id": name}}}

    def heartbeat(self, values: Values) -> Values:
        if values["id"] not in self.agents:
            raise Refused(404)
        agent = self.agents[values["id"]]
        alive = list(json.loads(values["runState"]))
        agent.heartbeats.append(alive)
        commands = json.dumps(self._command(self._find_sweep(agent.sweep.name), alive))
        return {"agentHeartbeat": {"agent": {"id": values["id"]}, "commands": commands}}

    def _command(self, sweep: Sweep, alive: list[str]) -> list[Values]:
        if stops := [{"type": "stop", "run_id": name} for name in alive if name in self.stopping]:
            return stops
        if sweep.state == "CANCELED":
            return [{"type": "exit"}]
        if alive or sweep.state == "PAUSED":
            return []
        if sweep.state == "FINISHED" or not sweep.queue:
            return [{"type": "exit"}]
        job = {"type": "run", "run_id": f"run{next(numbers):05d}", **sweep.queue.pop(0)}
        sweep.handed_out.append(job)
        run, args = self.run(job["run_id"]), {key: {"value": value} for key, value in job["args"].items()}
        run.sweep, run.state, run.preempting, run.exit = sweep.name, "pending", False, None
        run.config |= args
        return [{**job, "args": args, "program": yaml.safe_load(sweep.config).get("program"), "logs": []}]

    def _find_sweep(self, name: str) -> Sweep:
        if name not in self.sweeps:
            raise Refused(404)
        return self.sweeps[name]

    def _runs_of(self, sweep: Sweep) -> list[Run]:
        runs = self.runs.values()
        return [run for run in runs if run.sweep == sweep.name or run.name in sweep.prior_runs]

    # The rest.

    def viewer(self, values: Values) -> Values:
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "teams": {"edges": []}, "flags": "{}"}
        return {"viewer": viewer}

    def server_features(self, values: Values) -> Values:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}}

    def organization(self, values: Values) -> Values:
        organization = {"name": ORGANIZATION, "orgEntity": {"name": ORGANIZATION}}
        return {"entity": {"organization": None, "user": {"organizations": [organization]}}}

    def upsert_view(self, values: Values) -> Values:
        self.views.append(values)
        view = {key: values[key] for key in ("name", "displayName", "spec") if key in values}
        return {"upsertView": {"view": {"id": "4", **view}, "inserted": True}}

    def project_id(self, values: Values) -> Values:
        return {"project": {"id": "2", "internalId": "2"}}

    def read_projects(self, values: Values) -> Values:
        own = {"id": "2", "entityName": ENTITY, "createdAt": DATE[:10], "isBenchmark": False, "user": None}
        edges = [{"node": own | {"name": name}} for name in ("mine", "mnistjax")]
        return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}}

    def answer(self, name: str, values: Values) -> Values:
        if name not in ANSWERS:
            self.problems.append(f"no answer to {name}")
            return {"errors": [{"message": f"the stand-in has no answer to {name}"}]}
        return {"data": ANSWERS[name](self, values.get("input") or values)}

    def store(self, path: str, content: bytes) -> Values:
        """Takes an upload."""
        if not path.startswith("/run-files/"):
            return super().store(path, content)
        _, _, run, name = path.split("/", 3)
        self.run(run).files[unquote(name)] = content
        return {}


ANSWERS: dict[str, Callable[[StandIn, Values], Values]] = {
    **wandb_artifacts.ANSWERS,
    "CreateAgent": StandIn.create_agent,
    "CreateRunFiles": StandIn.create_run_files,
    "FetchOrgInfoFromEntity": StandIn.organization,
    "GetDefaultEntity": StandIn.viewer,
    "GetProjects": StandIn.read_projects,
    "GetSweep": StandIn.read_sweep,
    "GetViewer": StandIn.viewer,
    "Heartbeat": StandIn.heartbeat,
    "OrganizationCoreWeaveOrganizationID": StandIn.organization,
    "ProjectInternalId": StandIn.project_id,
    "Run": StandIn.read_run,
    "RunResumeStatus": StandIn.resume_status,
    "Runs": StandIn.read_runs,
    "ServerFeaturesQuery": StandIn.server_features,
    "SweepWithRuns": StandIn.read_sweep,
    "UpsertBucket": StandIn.upsert_bucket,
    "UpsertSweep": StandIn.upsert_sweep,
    "UpsertView2": StandIn.upsert_view,
    "Viewer": StandIn.viewer,
    "upsertView": StandIn.upsert_view,
}


def _grid(config: Values, taken: list[Values]) -> list[Values]:
    """The jobs of a sweep config, without those of the runs with these configs."""
    parameters = config.get("parameters", {})
    if config["method"] != "grid":
        return []
    choices = [parameters[key].get("values", [parameters[key].get("value")]) for key in parameters]
    jobs = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*choices)]
    done = [{key: _value_of(config, key) for key in parameters} for config in taken]
    return [{"args": job} for job in jobs if job not in done]


def _value_of(config: Values, key: str) -> Any:
    first, *rest = key.split(".")
    value = config.get(first, {}).get("value")
    for part in rest:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _public_fields(run: Run) -> Values:
    """What the public API reads of a run."""
    names = ("sweepName", "commit", "description", "notes", "systemMetrics", "historyKeys")
    fields = dict.fromkeys(names) | {"id": f"run-{run.name}", "name": run.name, "projectId": "2"}
    fields |= {"tags": run.fields.get("tags", []), "displayName": run.fields.get("displayName")}
    fields |= {"group": run.fields.get("groupName"), "jobType": run.fields.get("jobType")}
    fields |= {"state": run.state, "config": json.dumps(run.config), "readOnly": False}
    fields |= {"createdAt": DATE, "heartbeatAt": DATE, "historyLineCount": len(run.lines)}
    user = {"name": ENTITY, "username": ENTITY}
    return fields | {"summaryMetrics": json.dumps(run.summary), "user": user}


def _run_fields(run: Run) -> Values:
    fields = {"name": run.name, "state": run.state, "config": json.dumps(run.config), "exitcode": run.exit}
    fields |= {"heartbeatAt": DATE, "shouldStop": run.stopped, "failed": run.state == "failed"}
    fields |= {"stopped": False, "running": run.state == "running", "sampledHistory": []}
    return {"node": fields | {"summaryMetrics": json.dumps(run.summary)}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: StandIn
    lock: threading.Lock
    closed: threading.Event

    def do_GET(self) -> None:
        self.work(self.path, lambda state: {})

    def do_PUT(self) -> None:
        content = self.read()
        self.work(self.path, lambda state: state.store(self.path, content))

    def do_POST(self) -> None:
        content = self.read()
        if self.path == "/graphql":
            asked = json.loads(content)
            found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            name, values = found[1] if found else asked["query"], asked.get("variables") or {}
            self.state.asked.append(name)
            self.work(name, lambda state: state.answer(name, values))
        elif self.path.endswith("/file_stream"):
            run = self.path.split("/")[-2]
            self.work(self.path, lambda state: state.stream(run, json.loads(content)))
        else:
            self.work(self.path, lambda state: {})

    def read(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def work(self, asked: str, answer: Callable[[StandIn], Values | None]) -> None:
        fault = self.state.fail(asked)
        if isinstance(fault, int):
            self.reply(fault)
        elif fault == "garbage":
            self.reply(200, b"<html>Sign in</html>")
        elif fault == "hang" or (found := self.find(asked, answer, fault == "lie")) is None:
            self.closed.wait(PATIENCE)
            self.close_connection = True
        else:
            self.reply(found.pop("status", 200), json.dumps(found).encode())

    def find(self, asked: str, answer: Callable[[StandIn], Values | None], lie: bool) -> Values | None:
        with self.lock:
            try:
                return answer(copy.deepcopy(self.state) if lie else self.state)
            except Refused as refusal:
                return {"status": refusal.args[0]}
            except Exception as error:
                self.state.problems.append(f"{asked}: {error!r}")
                return {"status": 400}

    def reply(self, status: int, body: bytes = b"{}") -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may close its connection at any time."""


@contextlib.contextmanager
def serve() -> Iterator[StandIn]:
    """A context in which a stand-in answers at its `url`."""
    state, closed = StandIn(), threading.Event()
    own = {"state": state, "lock": threading.Lock(), "closed": closed}
    instance = Server(("127.0.0.1", 0), type("OwnHandler", (Handler,), own))
    threading.Thread(target=instance.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{instance.server_port}"
    try:
        yield state
    finally:
        closed.set()
        instance.shutdown()
        instance.server_close()


@pytest.fixture
def wandb_server(tmp_path, monkeypatch):
    """The stand-in, and an environment in which W&B's client talks to it."""
    import wandb

    wandb.teardown()  # a session of another test; first, or its dead WANDB_SERVICE comes back
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with serve() as state:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_BASE_URL", state.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
        monkeypatch.setenv("no_proxy", "*")
        yield state
        wandb.teardown()  # it keeps the address of the first server that it saw
    assert not state.problems, state.problems
