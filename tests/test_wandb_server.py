"""The stand-in for W&B's server: what W&B's real client does with it, and what it remembers."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

QUIET: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,
}
QUIET |= {"x_disable_stats": True, "x_save_requirements": False}
GRID: dict[str, Any] = {
    "method": "grid",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "program": "train.py",
}
GRID |= {"parameters": {"seed": {"values": [0, 1]}, "model.name": {"value": "mlp"}}}
CONTENT = b"0" * 100_000

# In `wandb.sweep` of wandb 0.31, about a function of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Read the `app_url` setting:DeprecationWarning")


@pytest.fixture
def work(wandb_server, tmp_path, monkeypatch):
    """An empty working folder, in which `python` is this Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def start(identity, **options):
    plain: dict[str, Any] = {"mode": "online", "project": "mine", "dir": ".", "reinit": "create_new"}
    return wandb.init(id=identity, settings=wandb.Settings(**QUIET), **(plain | options))


def make(content=CONTENT, name="model", **options):
    Path("model.bin").write_bytes(content)
    artifact = wandb.Artifact(name, "model", **options)
    artifact.add_file("model.bin", policy="immutable", skip_cache=True)
    return artifact


def command(*words, **options):
    return subprocess.run([sys.executable, "-m", "wandb", *words], check=True, timeout=120, **options)


@pytest.mark.slow
def test_a_run_arrives_with_its_fields_and_files(wandb_server, work):
    (work / "notes.txt").write_text("abc")
    with start("a", tags=["x"], job_type="train", group="g", name="n", config={"seed": 1}) as run:
        run.log({"loss": 1.0})
        run.log({"loss": 0.5, "table": wandb.Table(columns=["a"], data=[[1]])})
        run.save("notes.txt", policy="now")
    found = wandb_server.runs["a"]
    wanted = {"tags": ["x"], "jobType": "train", "groupName": "g", "displayName": "n", "project": "mine"}
    assert wanted.items() <= found.fields.items()
    assert found.config["seed"]["value"] == 1
    assert found.summary["loss"] == 0.5
    assert (found.state, found.exit) == ("finished", 0)
    assert found.files["notes.txt"] == b"abc"
    media = [name for name in found.files if name.startswith("media/table/")]
    assert [json.loads(found.files[name])["data"] for name in media] == [[[1]]]
    assert [line["loss"] for line in wandb_server.history("a")] == [1.0, 0.5]


@pytest.mark.slow
def test_a_sweep_is_made_once_and_updated(wandb_server, work):
    start("a", config={"seed": 1, "model": {"name": "mlp"}}).finish()
    name = wandb.sweep(GRID, project="mine", prior_runs=["a", "lost"])
    sweep = wandb_server.sweeps[name]
    assert yaml.safe_load(sweep.config)["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert wandb.Api().sweep(f"someone/mine/{name}").config == yaml.safe_load(sweep.config)
    assert (sweep.project, sweep.entity, sweep.state) == ("mine", "someone", "RUNNING")
    assert sweep.prior_runs == ["a"]
    assert sweep.queue == [{"args": {"seed": 0, "model.name": "mlp"}}]  # seed=1 has run
    (work / "sweep.yaml").write_text(yaml.safe_dump(GRID | {"name": "other"}))
    command("sweep", "--update", f"someone/mine/{name}", "sweep.yaml")
    assert yaml.safe_load(sweep.config)["name"] == "other"
    assert sweep.prior_runs == ["a"]
    assert list(wandb_server.sweeps) == [name]
    command("sweep", "--stop", f"someone/mine/{name}")
    assert sweep.state == "FINISHED"
    command("sweep", "--project", "mine", "sweep.yaml")
    assert len(wandb_server.sweeps) == 2


@pytest.mark.slow
def test_an_agent_runs_what_the_sweep_has(wandb_server, work):
    (work / "train.py").write_text(
        "import json, os, sys, wandb\n"
        "words = {key: os.environ[key] for key in ('WANDB_SWEEP_ID', 'WANDB_RUN_ID')}\n"
        "with open('calls', 'a') as file: print(json.dumps([sys.argv[1:], words]), file=file)\n"
        "with wandb.init() as run: run.log({'seed': run.config.seed})\n"
    )
    name = wandb.sweep(GRID, project="mine")
    sweep = wandb_server.sweeps[name]
    command("agent", "--count", "2", f"someone/mine/{name}")
    calls = [json.loads(line) for line in (work / "calls").read_text().splitlines()]
    assert [words for words, _ in calls] == [["--model.name=mlp", f"--seed={seed}"] for seed in (0, 1)]
    assert [names["WANDB_SWEEP_ID"] for _, names in calls] == [name] * 2
    runs = [names["WANDB_RUN_ID"] for _, names in calls]
    assert runs == [job["run_id"] for job in sweep.handed_out]
    found = [wandb_server.runs[run] for run in runs]
    assert [(run.sweep, run.state, run.config["seed"]["value"]) for run in found] == [
        (name, "finished", 0),
        (name, "finished", 1),
    ]
    (agent,) = wandb_server.agents.values()
    assert (agent.sweep, agent.heartbeats[0]) == (sweep, [])


@pytest.mark.slow
def test_a_preempted_run_is_queued_again(wandb_server, work):
    (work / "train.py").write_text(
        "import signal, sys, time, wandb\n"
        "run = wandb.init(resume='allow')\n"
        "def stop(*_):\n"
        "    run.mark_preempting()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "if run.resumed: sys.exit()\n"
        "run.log({'loss': 1})\n"
        "open('ready', 'w').close()\n"
        "time.sleep(100)\n"
    )
    name = wandb.sweep(GRID, project="mine")
    sweep = wandb_server.sweeps[name]
    sweep.queue = [{"run_id": "only", "args": {"seed": 0}}]
    process = subprocess.Popen([sys.executable, "-m", "wandb", "agent", f"someone/mine/{name}"])
    end = time.monotonic() + 60
    while not (work / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    wandb_server.stop("only")
    assert process.wait(60) == 0
    assert [(job["type"], job["run_id"]) for job in sweep.handed_out] == [("run", "only"), ("resume", "only")]
    assert sweep.handed_out[1]["args"] == {"seed": 0}
    (agent,) = wandb_server.agents.values()
    assert ["only"] in agent.heartbeats
    run = wandb_server.runs["only"]
    assert (run.state, run.exit, len(run.lines)) == ("finished", 0, 1)


def test_what_it_cannot_answer_is_noted(wandb_server):
    assert wandb_server.answer("DeleteProject", {})["errors"]
    assert wandb_server.problems == ["no answer to DeleteProject"]
    wandb_server.problems.clear()


def test_a_silent_run_has_crashed_unless_it_is_preempting(wandb_server):
    made = wandb_server.answer("UpsertSweep", {"config": yaml.safe_dump(GRID)})
    name = made["data"]["upsertSweep"]["sweep"]["name"]
    for run in ("a", "b"):
        wandb_server.answer("UpsertBucket", {"name": run, "sweep": name})
    wandb_server.stream("b", {"preempting": True})
    wandb_server.expire("a")
    wandb_server.expire("b")
    assert [wandb_server.runs[run].state for run in ("a", "b")] == ["crashed", "preempted"]
    assert [job.get("run_id") for job in wandb_server.sweeps[name].queue] == ["b", None, None]


@pytest.mark.slow
def test_artifacts_have_versions_and_aliases(wandb_server, work):
    with start("a") as run:
        first = make(metadata={"accuracy": 0.9})
        first.add_reference("https://example.org/data.gz", name="data", checksum=False)
        run.log_artifact(first, aliases=["best", "job-0"]).wait()
        for content in (CONTENT, CONTENT, b"new"):  # without the reference
            run.log_artifact(make(content), aliases=["best"]).wait()
    assert list(wandb_server.artifacts) == [("model", "model")]
    versions = wandb_server.artifacts["model", "model"]
    assert [sorted(version.aliases) for version in versions] == [["job-0"], [], ["best", "latest"]]
    assert [version.path for version in versions] == ["model:v0", "model:v1", "model:v2"]
    assert [version.run for version in versions] == ["a"] * 3
    assert versions[0].metadata == {"accuracy": 0.9}
    assert versions[0].manifest["contents"]["data"]["ref"] == "https://example.org/data.gz"
    contents = [wandb_server.files(version) for version in versions]
    assert contents == [{"model.bin": content} for content in (CONTENT, CONTENT, b"new")]


@pytest.mark.slow
def test_an_alias_and_metadata_can_be_changed_later(wandb_server, work):
    with start("a") as run:
        run.log_artifact(make(b"0"), aliases=["best"]).wait()
        second = run.log_artifact(make(b"1"), aliases=["best"]).wait()
        first = run.use_artifact("model:v0")
        first.aliases.append("best")
        first.metadata["rank"] = 1
        first.save()
        second.aliases.remove("latest")
        second.save()
    versions = wandb_server.artifacts["model", "model"]
    assert [version.aliases for version in versions] == [["best"], []]
    assert versions[0].metadata == {"rank": 1}


@pytest.mark.slow
def test_a_data_set_is_used_by_reference(wandb_server, work):
    digest = hashlib.sha256(b"images").hexdigest()
    for name in ("a", "b"):
        with start(name) as run:
            data = wandb.Artifact("mnist", "dataset", metadata={"sha256": digest})
            data.add_reference(f"https://example.org/{digest}", name="images.gz", checksum=False)
            run.use_artifact(data)
            run.log_artifact(make(name.encode())).wait()
            run.use_artifact("model:latest")
    (version,) = wandb_server.artifacts["dataset", "mnist"]
    models = wandb_server.artifacts["model", "model"]
    assert wandb_server.used == {"a": [version, models[0]], "b": [version, models[1]]}
    assert version.manifest["contents"]["images.gz"]["ref"] == f"https://example.org/{digest}"
    assert (version.metadata, version.run) == ({"sha256": digest}, None)


@pytest.mark.slow
def test_a_run_can_use_what_it_has_just_logged(wandb_server, work):
    with start("a") as run:
        artifact = make()
        run.log_artifact(artifact, aliases=["best"])
        run.use_artifact(artifact)
    (version,) = wandb_server.artifacts["model", "model"]
    assert (version.run, sorted(version.aliases)) == ("a", ["best", "latest"])
    assert wandb_server.used == {"a": [version]}


@pytest.mark.slow
def test_a_version_is_linked_to_a_registry(wandb_server, work):
    with start("a") as run:
        for content in (b"1", b"2", b"2"):
            artifact = run.log_artifact(make(content))
            linked = run.link_artifact(artifact, "wandb-registry-zoo/mnist", aliases=["prod"])
    assert linked.qualified_name == "someone-org/wandb-registry-zoo/mnist:v1"
    versions = wandb_server.artifacts["model", "model"]
    assert [link.version for link in wandb_server.links] == versions
    assert [link.aliases for link in wandb_server.links] == [[], ["latest", "prod"]]
    assert {link.collection for link in wandb_server.links} == {"someone-org/wandb-registry-zoo/mnist"}


@pytest.mark.slow
def test_an_offline_run_is_synced_with_its_artifact(wandb_server, work):
    with start("a", mode="offline") as run:
        run.log({"loss": 1.0})
        run.log_artifact(make(), aliases=["best"])
    assert not wandb_server.runs
    folder = Path(run.dir).parent
    command("sync", str(folder))
    assert (wandb_server.runs["a"].state, len(wandb_server.history("a"))) == ("finished", 1)
    (version,) = wandb_server.artifacts["model", "model"]
    assert sorted(version.aliases) == ["best", "latest"]
    assert wandb_server.files(version) == {"model.bin": CONTENT}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [429, 500, "lie"])
@pytest.mark.parametrize("place", ["UpsertBucket", "file_stream", "CommitArtifact", "/blobs/"])
def test_a_fault_passes(wandb_server, work, fault, place):
    """The client tries again after an error; after a lie it does not."""
    left = [fault] * 2

    def fail(asked):
        return left.pop() if place in asked and left else None

    wandb_server.fail = fail
    with start("a") as run:
        run.log({"loss": 1.0})
        run.log_artifact(make())
    assert not left or fault == "lie"
    versions = wandb_server.artifacts.get(("model", "model"), [])
    lost = fault == "lie"
    assert len(versions) == (0 if lost and place == "CommitArtifact" else 1)
    assert bool(wandb_server.blobs) != (lost and place == "/blobs/")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "garbage", 404])
def test_a_lasting_fault_ends_the_client(wandb_server, work, fault):
    wandb_server.fail = lambda asked: fault if asked == "UpsertBucket" else None
    settings = wandb.Settings(**QUIET, init_timeout=5)
    with pytest.raises(wandb.Error):
        wandb.init(id="a", project="mine", settings=settings)
    assert not wandb_server.runs
