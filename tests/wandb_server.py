"""A stand-in for W&B's server: real HTTP, for W&B's real client; nothing of the client is replaced.

A test takes the fixture `wandb_server` (in conftest.py), lets the client work, and reads what arrived:

    runs["id"]                  Run: config, summary, fields (the last value of each field), history lines, files,
                                sweep, state (pending, running, finished, failed, preempted, crashed), exit
    sweeps["id"]                Sweep: config (YAML), prior_runs, project, entity, state, queue, handed_out
    agents["id"]                Agent: its sweep, and the ids of the runs of each heartbeat
    artifacts["model", "name"]  the committed Versions of a collection, in order
    files(version)              the bytes that were uploaded for a version, by name
    used["run id"], links       the Versions that a run uses; each Link into a registry or another collection
    asked, unknown              the names of all queries; those that it cannot answer, which fail the test

and says what the server is to do: `stop(run)`, `expire(run)`, `sweeps[...].queue = [...]`, `hold_after`, `fail`.

What is stood in for: the GraphQL queries of ANSWERS, the file stream of a run, and uploads by PUT. The rest of
W&B (its web pages, charts, access rights, downloads, Bayesian search) is not here. What is assumed of W&B's server, and
the client's file that shows it (core/ is the Go part, in the repository wandb/wandb):

- It stores history lines by their offset, and tells a resuming client their number and the last one; a run
  that exists but never started has no `t` in `wandbConfig` (core/internal/runbranch/resume.go).
- An agent asks for commands by heartbeats: `run`, `resume` (the same for the client), `stop`, `exit`
  (wandb_agent.py), one run at a time; an agent or sweep that was deleted is a 404 (apis/public/sweeps.py). A run exists,
  as pending, from the moment an agent gets it.
- A run that said `preempting` in its file stream (core/internal/filestream/filestreamrequest.go) and exits with a code
  other than 0 goes to the head of the sweep's queue, under its id; one that falls silent, after 5 minutes
  (here: `expire`), is preempted in the same way if it said so, and crashed if not (W&B's documentation).
- `prior_runs` is a filter over runs (apis/public/sweeps.py), so that a run that the server lacks is not added. A grid
  leaves out the combinations of its runs, whose config is read along the dots of a key (wandb/sweeps, grid_search.py).
- Equal digests in a collection are one version, which gets the new aliases and keeps its metadata; a file that
  the server has by its MD5 is not uploaded again (core/pkg/artifacts/saver.go). An alias belongs to one version.
- A user has one organization, ORGANIZATION; each registry exists, and each version may be linked to it.
- 429, 5xx and broken connections are tried again by the client, other errors are not.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import gzip
import hashlib
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

ENTITY, ORGANIZATION = "someone", "someone-org"
HISTORY = "wandb-history.jsonl"
LINE_COUNTS = ("logLineCount", "historyLineCount", "eventsLineCount")
FEATURES = ("ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE", "FILESTREAM_GZIP")
PATIENCE = 60  # seconds that a hanging answer takes
DATE = "2026-01-01T00:00:00Z"

_numbers = itertools.count(1)  # of all servers of a process, because the client caches artifacts by their id

Values = dict[str, Any]


class Refused(Exception):
    """An answer that is an HTTP status."""


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


@dataclass
class Version:
    id: str
    type: str
    name: str
    project: str
    digest: str
    run: str | None  # that logged it
    metadata: Values
    asked: list[str]  # aliases that it gets when it is committed
    index: int | None = None
    aliases: list[str] = field(default_factory=list)
    manifest: Values = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.name}:v{self.index}"


@dataclass
class Link:
    collection: str  # entity/project/name
    version: Version
    index: int
    aliases: list[str] = field(default_factory=list)


class StandIn:
    """The memory of W&B's server, and its answers."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, Agent] = {}
        self.artifacts: dict[tuple[str, str], list[Version]] = {}
        self.drafts: dict[str, Version] = {}  # created, not committed
        self.blobs: dict[str, bytes] = {}  # by MD5 in base64
        self.used: dict[str, list[Version]] = {}
        self.links: list[Link] = []
        self.views: list[Values] = []
        self.stopping: set[str] = set()
        self.asked: list[str] = []
        self.unknown: list[str] = []
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

    def files(self, version: Version) -> dict[str, bytes]:
        entries = version.manifest["contents"].items()
        return {name: self.blobs[entry["digest"]] for name, entry in entries if "ref" not in entry}

    def stop(self, name: str) -> None:
        """Makes the run's agent stop it, as the button on W&B's page does."""
        self.stopping.add(name)

    def expire(self, name: str) -> None:
        """Does what the server does five minutes after the last sign of a run."""
        if self.run(name).exit is None:
            self._end(self.run(name), "crashed")

    # Runs.

    def upsert_bucket(self, values: Values) -> Values:
        run = self.run(values["name"])
        inserted = not run.started
        if run.state != "running":
            run.started, run.state, run.preempting, run.exit = True, "running", False, None
        run.config |= json.loads(values.get("config") or "{}")
        run.fields |= {key: value for key, value in values.items() if value}
        run.sweep = values.get("sweep") or run.sweep
        project = _project(run.fields.get("entity"), run.fields.get("project"))
        bucket = {"id": f"run-{run.name}", "name": run.name, "project": project, "sweepName": run.sweep}
        bucket |= {"displayName": run.fields.get("displayName"), "historyLineCount": len(run.lines)}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def resume_status(self, values: Values) -> Values:
        model = _project(values.get("entity"), values.get("project")) | {"bucket": None}
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
            name = f"sweep{next(_numbers):03d}"
            place = values.get("projectName") or "uncategorized", values.get("entityName") or ENTITY
            self.sweeps[name] = Sweep(name, *place)
        sweep = self.sweeps[name]
        sweep.state = values.get("state") or sweep.state
        wanted = [part["name"] for part in json.loads(values.get("priorRunsFilters") or "{}").get("$or", [])]
        sweep.prior_runs += [run for run in wanted if run in self.runs and run not in sweep.prior_runs]
        if values.get("config"):
            sweep.config = values["config"]
            sweep.queue = _grid(yaml.safe_load(sweep.config), [run.config for run in self._runs_of(sweep)])
        answer = {"id": f"sweep:{name}", "name": name, "project": _project(sweep.entity, sweep.project)}
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
        name = f"agent:{next(_numbers)}"
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
        job = {"type": "run", "run_id": f"run{next(_numbers):05d}", **sweep.queue.pop(0)}
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

    # Artifacts.

    def create_artifact(self, values: Values) -> Values:
        kind, name = values["artifactTypeName"], values["artifactCollectionName"]
        aliases = [alias["alias"] for alias in values.get("aliases") or []]
        versions = self.artifacts.get((kind, name), [])
        latest = {"id": versions[-1].id} if versions else None
        same = [version for version in versions if version.digest == values["digest"]]
        if same:
            version = same[0]
            self._move(aliases, version)
        else:
            place = f"artifact:{next(_numbers)}", kind, name, values["projectName"], values["digest"]
            metadata = json.loads(values.get("metadata") or "{}")
            version = Version(*place, values.get("runName"), metadata, aliases)
            self.drafts[version.id] = version
        answer = {"id": version.id, "state": "COMMITTED" if same else "PENDING"}
        return {"createArtifact": {"artifact": answer | {"artifactSequence": {"latestArtifact": latest}}}}

    def create_manifest(self, values: Values) -> Values:
        return {"createArtifactManifest": self._manifest(values["artifactID"])}

    def update_manifest(self, values: Values) -> Values:
        return {"updateArtifactManifest": self._manifest(values["artifactManifestID"])}

    def _manifest(self, identity: str) -> Values:
        file = {
            "id": f"file-{identity}",
            "uploadUrl": f"{self.url}/manifests/{identity}",
            "uploadHeaders": [],
        }
        return {"artifactManifest": {"id": identity, "file": file}}

    def create_artifact_files(self, values: Values) -> Values:
        nodes = []
        for file in values["artifactFiles"]:
            url = f"{self.url}/blobs/{quote(file['md5'], safe='')}"
            node = {"uploadUrl": None if file["md5"] in self.blobs else url, "uploadHeaders": []}
            node |= {"artifact": {"id": file["artifactID"]}, "storagePath": file["md5"]}
            nodes.append({"node": node | {"uploadMultipartUrls": None}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def commit_artifact(self, values: Values) -> Values:
        version = self._find(values["artifactID"])
        if self.drafts.pop(version.id, None):
            versions = self.artifacts.setdefault((version.type, version.name), [])
            version.index = len(versions)
            versions.append(version)
            self._move(version.asked, version)
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def update_artifact(self, values: Values) -> Values:
        version = self._find(values["artifactID"])
        if values.get("metadata"):
            version.metadata = json.loads(values["metadata"])
        return _result("updateArtifact", {"artifact": _artifact_fields(version)})

    def add_aliases(self, values: Values) -> Values:
        self._move([alias["alias"] for alias in values["aliases"]], self._find(values["artifactID"]))
        return _result("addAliases", {"success": True})

    def delete_aliases(self, values: Values) -> Values:
        version, gone = self._find(values["artifactID"]), [alias["alias"] for alias in values["aliases"]]
        version.aliases = [alias for alias in version.aliases if alias not in gone]
        return _result("deleteAliases", {"success": True})

    def use_artifact(self, values: Values) -> Values:
        version, used = self._find(values["artifactID"]), self.used.setdefault(values["runName"], [])
        if version not in used:
            used.append(version)
        return {"useArtifact": {"artifact": _artifact_fields(version)}}

    def link_artifact(self, values: Values) -> Values:
        version = self._find(values["artifactID"])
        place = values["entityName"], values["projectName"], values["artifactPortfolioName"]
        there = [link for link in self.links if link.collection == "/".join(place)]
        found = [link for link in there if link.version is version]
        link = found[0] if found else Link("/".join(place), version, len(there))
        aliases = {alias["alias"] for alias in values.get("aliases") or []} | {"latest"}
        for other in there:
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
        link.aliases = sorted(aliases.union(link.aliases))
        if not found:
            self.links.append(link)
        portfolio = {"__typename": "ArtifactPortfolio", "name": place[2], "project": _project(*place[:2])}
        membership = _membership(version, link.index, link.aliases, portfolio)
        return _result("linkArtifact", {"versionIndex": link.index, "artifactMembership": membership})

    def read_artifact(self, values: Values) -> Values:
        return {"artifact": _artifact_fields(self._find(values["id"]))}

    def read_membership(self, values: Values) -> Values:
        version = self._named(values["name"])
        found = version and _membership(version, version.index, version.aliases, _collection(version))
        return {"project": {"artifactCollectionMembership": found}}

    def read_artifact_type(self, values: Values) -> Values:
        version = self._named(values["name"])
        return {"project": {"artifact": version and {"artifactType": {"name": version.type}}}}

    def _versions(self) -> list[Version]:
        return [version for versions in self.artifacts.values() for version in versions]

    def _find(self, identity: str) -> Version:
        return next(
            version for version in (*self.drafts.values(), *self._versions()) if version.id == identity
        )

    def _named(self, name: str) -> Version | None:
        """The version of a name like `model:best` or `model:v0`."""
        collection, _, alias = name.partition(":")
        for version in self._versions():
            if version.name == collection and alias in (*version.aliases, f"v{version.index}"):
                return version
        return None

    def _move(self, aliases: list[str], version: Version) -> None:
        for other in self.artifacts[version.type, version.name]:
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
        version.aliases += aliases

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
        own = {"id": "2", "name": "mine", "entityName": ENTITY, "createdAt": DATE[:10]}
        edges = [{"node": own | {"isBenchmark": False, "user": None}}]
        return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}}

    def answer(self, name: str, values: Values) -> Values:
        self.asked.append(name)
        if name not in ANSWERS:
            self.unknown.append(name)
            return {"errors": [{"message": f"the stand-in does not know {name}"}]}
        return {"data": ANSWERS[name](self, values.get("input") or values)}

    def store(self, path: str, content: bytes) -> None:
        """Takes an upload."""
        kind, _, name = path.strip("/").partition("/")
        if kind == "run-files":
            run, _, name = name.partition("/")
            self.run(run).files[unquote(name)] = content
        elif kind == "manifests":
            self._find(name).manifest = json.loads(content)
        else:
            digest = base64.b64encode(hashlib.md5(content).digest()).decode()
            if unquote(name) != digest:
                raise Refused(400)
            self.blobs[digest] = content


ANSWERS: dict[str, Callable[[StandIn, Values], Values]] = {
    "AddAliases": StandIn.add_aliases,
    "ArtifactByID": StandIn.read_artifact,
    "ArtifactMembershipByName": StandIn.read_membership,
    "ArtifactType": StandIn.read_artifact_type,
    "CommitArtifact": StandIn.commit_artifact,
    "CreateAgent": StandIn.create_agent,
    "CreateArtifact": StandIn.create_artifact,
    "CreateArtifactFiles": StandIn.create_artifact_files,
    "CreateArtifactManifest": StandIn.create_manifest,
    "CreateRunFiles": StandIn.create_run_files,
    "DeleteAliases": StandIn.delete_aliases,
    "FetchOrgInfoFromEntity": StandIn.organization,
    "GetDefaultEntity": StandIn.viewer,
    "GetProjects": StandIn.read_projects,
    "GetSweep": StandIn.read_sweep,
    "GetSweepState": StandIn.read_sweep,
    "GetViewer": StandIn.viewer,
    "Heartbeat": StandIn.heartbeat,
    "LinkArtifact": StandIn.link_artifact,
    "ProjectInternalId": StandIn.project_id,
    "RunResumeStatus": StandIn.resume_status,
    "ServerFeaturesQuery": StandIn.server_features,
    "SweepWithRuns": StandIn.read_sweep,
    "UpdateArtifact": StandIn.update_artifact,
    "UpdateArtifactManifest": StandIn.update_manifest,
    "UpsertBucket": StandIn.upsert_bucket,
    "UpsertSweep": StandIn.upsert_sweep,
    "UpsertView2": StandIn.upsert_view,
    "UseArtifact": StandIn.use_artifact,
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


def _project(entity: str | None, name: str | None) -> Values:
    owner = {"id": "1", "name": entity or ENTITY}
    return {"id": "2", "internalId": "2", "name": name or "uncategorized", "entity": owner}


def _run_fields(run: Run) -> Values:
    fields = {"name": run.name, "state": run.state, "config": json.dumps(run.config), "exitcode": run.exit}
    fields |= {"heartbeatAt": DATE, "shouldStop": run.stopped, "failed": run.state == "failed"}
    fields |= {"stopped": False, "running": run.state == "running", "sampledHistory": []}
    return {"node": fields | {"summaryMetrics": json.dumps(run.summary)}}


def _collection(version: Version) -> Values:
    project = _project(None, version.project)
    return {"__typename": "ArtifactSequence", "name": version.name, "project": project}


def _aliases(aliases: list[str], collection: Values) -> list[Values]:
    kind = {"__typename": "ArtifactAlias", "artifactCollection": collection}
    return [{**kind, "id": f"alias:{alias}", "alias": alias} for alias in aliases]


def _artifact_fields(version: Version) -> Values:
    collection, size = _collection(version), len(version.manifest.get("contents", {}))
    fields = {
        "__typename": "Artifact",
        "id": version.id,
        "artifactSequence": collection,
        "digest": version.digest,
    }
    fields |= {"versionIndex": version.index, "artifactType": {"name": version.type}, "description": None}
    fields |= {"metadata": json.dumps(version.metadata), "ttlDurationSeconds": -2, "ttlIsInherited": True}
    fields |= {"tags": [], "historyStep": None, "size": 0, "fileCount": size, "commitHash": version.digest}
    fields |= {"state": "PENDING" if version.index is None else "COMMITTED"}
    return fields | {"createdAt": DATE, "updatedAt": None, "aliases": _aliases(version.aliases, collection)}


def _membership(version: Version, index: int | None, aliases: list[str], collection: Values) -> Values:
    fields = {"__typename": "ArtifactCollectionMembership", "id": f"member:{version.id}", "createdAt": DATE}
    fields |= {"versionIndex": index, "artifact": _artifact_fields(version), "artifactCollection": collection}
    return fields | {"aliases": _aliases(aliases, collection)}


def _result(name: str, answer: Values) -> Values:
    """An answer under the name that the Go part of the client reads, and under that of the Python part."""
    return {name: answer, "result": answer}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: StandIn
    lock: threading.Lock
    closed: threading.Event

    def do_GET(self) -> None:
        self.work(lambda state, content: {})

    def do_PUT(self) -> None:
        self.work(lambda state, content: state.store(self.path, content) or {})

    def do_POST(self) -> None:
        if self.path == "/graphql":
            self.work(lambda state, content: state.answer(*_query(content)))
        elif self.path.endswith("/file_stream"):
            self.work(lambda state, content: state.stream(self.path.split("/")[-2], json.loads(content)))
        else:
            self.work(lambda state, content: {})

    def work(self, answer: Callable[[StandIn, bytes], Values | None]) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        fault = self.state.fail(_query(content)[0] if self.path == "/graphql" else self.path)
        if isinstance(fault, int):
            return self.reply(fault, b"{}")
        if fault == "garbage":
            return self.reply(200, b"<html>Sign in</html>")
        found = None
        if fault != "hang":
            with self.lock:
                state = copy.deepcopy(self.state) if fault == "lie" else self.state
                try:
                    found = answer(state, content)
                except Refused as refusal:
                    return self.reply(refusal.args[0], b"{}")
        if found is None:
            self.closed.wait(PATIENCE)
            self.close_connection = True
            return None
        return self.reply(200, json.dumps(found).encode())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _query(content: bytes) -> tuple[str, Values]:
    """The name and the values of a query."""
    asked = json.loads(content)
    found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
    return found[1] if found else "a query without a name", asked.get("variables") or {}


@contextlib.contextmanager
def serve() -> Iterator[StandIn]:
    """A context in which a stand-in answers at its `url`."""
    state, closed = StandIn(), threading.Event()
    own = {"state": state, "lock": threading.Lock(), "closed": closed}
    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), own))
    instance.daemon_threads = True
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

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with serve() as state:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_BASE_URL", state.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
        monkeypatch.setenv("no_proxy", "*")
        yield state
        wandb.teardown()  # it keeps the address of the first server that it saw
    assert not state.unknown
