"""The folder of a sweep: full disks, damaged jobs, folders with other files, stored arguments."""

import contextlib
import errno
import importlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

import mnistjax
from mnistjax import checkpoints, files, programs, records, tracking
from mnistjax.cli import RUNNING, main, multirun
from mnistjax.cli.overrides import composing, parse_overrides
from mnistjax.cli.report import main as report
from mnistjax.cli.stored import is_taken
from mnistjax.models import MODELS
from mnistjax.report.configurations import group_runs
from mnistjax.report.runs import read_runs
from mnistjax.run_summary import find_versions
from mnistjax.sweeps.events import JobEnded
from mnistjax.sweeps.executor import end_job
from mnistjax.sweeps.ledger import load_ledger
from mnistjax.sweeps.results import write_results
from test_sweep import results

SMALL = ["data=digits", "model=mlp", "model.hidden=8", "train.batch_size=230", "train.epochs=2"]
INLINE = "sweep.executor=inline"  # no process to start


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep of three jobs that is done."""
    home = tmp_path_factory.mktemp("swept")
    with contextlib.chdir(home):
        words = ["-m", *SMALL, "seed=0,1,2", INLINE, "wandb.mode=disabled", "hydra.sweep.dir=sweep"]
        assert main(words) == 0
    return home / "sweep"


@pytest.fixture
def sweep(swept, work):
    """A copy of that sweep."""
    shutil.copytree(swept, work / "sweep")
    return work / "sweep"


def ledger_of(folder):
    return json.loads((folder / "sweep.json").read_text())


def edit_ledger(folder, change):
    ledger = ledger_of(folder)
    change(ledger)
    (folder / "sweep.json").write_text(json.dumps(ledger))


def checkpoint_bytes(folder):
    return [(folder / f"{number}" / checkpoints.CHECKPOINT).read_bytes() for number in range(3)]


def test_the_end_of_a_job_that_its_worker_can_not_write_keeps_what_was_known(tmp_path):
    known: Any = {"identity": "0", "epoch": 3, "started": "2026-01-01"}
    known |= {"continued": [{"epoch": 1, "before": {"jax": "1"}, "now": {"jax": "2"}}]}
    records.write_status(tmp_path, "running", **known)
    job: Any = SimpleNamespace(number=7, folder=tmp_path, plan=SimpleNamespace(identity="0"))
    assert end_job(job, "failed", "killed") == JobEnded(7, "failed", "killed")
    status = records.read_status(tmp_path)
    assert status is not None
    assert {**status, **known, "status": "failed", "reason": "killed"} == status
    assert status["ended"]


# A full disk


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [8, 24, 60, 100, 160, 200])
def test_a_sweep_on_a_full_disk_ends_without_a_traceback_or_a_process(kilobytes, disk, work):
    place = disk(f"size={kilobytes}k")
    code = "import sys; from mnistjax.cli import main; sys.exit(main())"
    words = ["-m", *SMALL, "seed=0,1,2,3", "wandb.mode=disabled", f"hydra.sweep.dir={place}/sweep"]
    environment = {**os.environ, "PYTHONPATH": str(Path(mnistjax.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    _, said = process.communicate(timeout=100)
    assert process.returncode in (1, 2)
    assert f"{place}/sweep" in said
    assert "No space left on device" in said
    assert "Traceback" not in said
    for number in range(4):
        folder = place / "sweep" / str(number)
        try:
            status = records.read_status(folder)
        except files.DamagedFile:
            continue
        if status and status["status"] == "done":
            records.read_record(folder)
    end = time.monotonic() + 5
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).returncode == 0:
        assert time.monotonic() < end
        time.sleep(0.1)


# Damaged jobs


DAMAGE = {
    "rows are junk": lambda job: (job / "metrics.jsonl").write_text("junk\n"),
    "rows are lost": lambda job: (job / "metrics.jsonl").unlink(),
    "summary is empty": lambda job: (job / "summary.json").write_text(""),
    "summary is lost": lambda job: (job / "summary.json").unlink(),
    "status is empty": lambda job: (job / "status.json").write_text(""),
    "its folder is lost": lambda job: shutil.rmtree(job),
    "status is lost": lambda job: (job / "status.json").unlink(),
    "config is a list": lambda job: (job / "config.yaml").write_text("[1, 2]"),
    "checkpoint is lost": lambda job: (job / "checkpoint.safetensors").unlink(),
    "checkpoint is junk": lambda job: (job / "checkpoint.safetensors").write_text("junk"),
    "all is of another job": lambda job: [
        shutil.copy(file, job) for file in (job.parent / "2").iterdir() if file.is_file()
    ],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_job_is_named_and_trained_again_and_the_others_stay(damage, sweep, swept, capsys):
    DAMAGE[damage](sweep / "0")
    before = {path: path.read_bytes() for path in sweep.glob("[12]/*.json*")}
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0
    said = capsys.readouterr().err
    assert "job 0 is damaged and is trained again: " in said
    assert "Errno" not in said
    assert checkpoint_bytes(sweep) == checkpoint_bytes(swept)
    assert {path: path.read_bytes() for path in before} == before
    assert [job["status"] for job in ledger_of(sweep)["jobs"]] == ["done"] * 3
    assert [job["attempts"] for job in ledger_of(sweep)["jobs"]] == [2, 1, 1]


def test_a_resumed_sweep_says_which_jobs_ran_under_other_versions(sweep, capsys):
    now = find_versions()
    for number, versions in enumerate([{"jax": "0.1.2", "python": "3.9"}, {"python": "3.9"}]):
        path = sweep / str(number) / "summary.json"
        summary = json.loads(path.read_text())
        path.write_text(json.dumps({**summary, "versions": now | versions}))
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0
    assert "other versions" not in capsys.readouterr().err  # nothing was trained
    (sweep / "2/summary.json").unlink()
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0
    said = capsys.readouterr().err
    assert said.count("other versions") == 1
    assert (
        f"1 of the finished jobs ran under other versions, so bits may differ: jax 0.1.2 before, {now['jax']}"
        in said
    )


OWN = """
from flax import linen as nn
from mnistjax import to_float

class Own(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        x = to_float(images).reshape(len(images), -1)
        return nn.Dense(self.num_classes)(nn.relu(nn.Dense(8)(x)))
"""


def test_a_resumed_sweep_says_if_the_code_of_its_model_has_changed(work, monkeypatch, capsys):
    monkeypatch.syspath_prepend(work)
    Path("own.py").write_text(OWN)
    own = importlib.import_module("own")
    monkeypatch.setitem(MODELS, "own", own.Own)
    words = ["data=digits", "model=own", "train.epochs=1", "train.batch_size=230", "wandb.mode=disabled"]
    assert main(["-m", *words, "seed=0,1", INLINE, "hydra.sweep.dir=sweep"]) == 0
    versions = [json.loads(Path(f"sweep/{i}/summary.json").read_text())["versions"] for i in range(2)]
    Path("own.py").write_text("# an older one had no comment" + OWN)
    mnistjax.register_model("own", importlib.reload(own).Own)
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0
    assert "other versions" not in capsys.readouterr().err  # the class is as before
    Path("own.py").write_text(OWN.replace("nn.relu", "nn.tanh"))
    mnistjax.register_model("own", importlib.reload(own).Own)
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0
    expected = (
        f"2 of the finished jobs ran under other versions, so bits may differ: model {versions[0]['model']}"
    )
    assert expected in capsys.readouterr().err
    assert versions[0] == versions[1]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_report_shows_the_undamaged_jobs(damage, sweep):
    DAMAGE[damage](sweep / "0")
    runs = read_runs(sweep)
    assert [run.status for run in runs[-2:]] == ["done", "done"]
    for run in runs[:-2]:
        assert run.damaged or damage in ("its folder is lost", "status is lost", "checkpoint is lost")
        assert not run.damaged or (run.status == "failed" and run.reason)


@pytest.mark.parametrize("mode", ["map", "chunk"])
def test_a_job_too_large_for_memory_fails_alone_and_with_the_reason(mode, work, capsys):
    words = ["-m", *SMALL, "model.hidden=8,1000000000", "seed=0,1", f"sweep.mode={mode}", INLINE]
    assert main([*words, "hydra.sweep.dir=sweep"]) == 1
    said = capsys.readouterr().err
    assert "2 of 4 jobs done" in said
    jobs = ledger_of(work / "sweep")["jobs"]
    assert [job["status"] for job in jobs] == ["done", "done", "failed", "failed"]
    assert all("RESOURCE_EXHAUSTED" in job["reason"] for job in jobs[2:])


# Folders with other files


@pytest.mark.parametrize("name", ["results.csv", "multirun.yaml", "0/config.yaml", "lock", "submitit/x"])
def test_a_folder_with_other_files_is_refused(name, work, capsys):
    (work / "mine" / name).parent.mkdir(parents=True)
    (work / "mine" / name).write_text("mine")
    assert main(["-m", *SMALL, "seed=0,1", "hydra.sweep.dir=mine"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path for path in (work / "mine").rglob("*") if path.is_file()] == [work / "mine" / name]
    assert (work / "mine" / name).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(work, capsys):
    (work / "file").write_text("")
    for folder in ("file/sweep", "x" * 300, "/dev/null/x", "/proc/sweep"):
        assert main(["-m", *SMALL, "seed=0,1", f"hydra.sweep.dir={folder}"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in work.iterdir()] == ["file"]


def test_a_job_folder_that_is_a_link_is_not_written_through(sweep, capsys):
    outside = sweep.parent / "outside"
    (sweep / "0").rename(outside)
    (sweep / "0").symlink_to(outside)
    (outside / "summary.json").unlink()
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 2
    assert "is a link out of" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


# W&B's agent


@pytest.mark.slow
def test_the_ledger_has_addresses_even_if_wandb_starts_later_than_the_jobs_end(work, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    open_run = tracking._open

    def open_late(folder, options, *others):
        if options["job_type"] == "sweep":
            jobs = [folder / "0", folder / "1"]
            while not all(list(job.glob("wandb/offline-run-*")) for job in jobs):
                time.sleep(0.05)
            time.sleep(2)
        return open_run(folder, options, *others)

    monkeypatch.setattr(tracking, "_open", open_late)
    assert main(["-m", *SMALL, "seed=0,1", INLINE, "hydra.sweep.dir=sweep"]) == 0
    ledger = ledger_of(work / "sweep")
    assert all((work / "sweep" / run["wandb"]).is_dir() for run in (ledger, *ledger["jobs"]))


@pytest.mark.slow
def test_under_an_agent_each_job_has_a_run_of_its_own(work, monkeypatch, capsys):
    """With the agent's id, each job would overwrite the one before: wandb#5119, wandb#2331."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    assert main(["-m", *SMALL, "seed=0,1", INLINE, "hydra.sweep.dir=sweep"]) == 0
    assert "WANDB_SWEEP_ID, WANDB_RUN_ID unset" in capsys.readouterr().err
    runs = [path.name.rpartition("-")[2] for path in (work / "sweep").rglob("offline-run-*") if path.is_dir()]
    assert len(set(runs)) == 3
    assert "r1" not in runs
    assert all(job["wandb"] for job in ledger_of(work / "sweep")["jobs"])


def test_a_job_is_trained_again_though_its_wandb_run_links_to_another_jobs_log(work, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["-m", *SMALL, "seed=0,1", INLINE, "hydra.sweep.dir=sweep"]
    assert main(words) == 0
    logs = [path for path in Path("sweep").rglob("debug-core.log") if path.is_symlink()]
    away = [
        path for path in logs if not path.resolve().is_relative_to(Path("sweep", path.parts[1]).resolve())
    ]
    assert away
    for job in ("0", "1"):
        Path("sweep", job, "summary.json").unlink()
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0
    assert [job["status"] for job in ledger_of(work / "sweep")["jobs"]] == ["done"] * 2
    Path("sweep/0/wandb/evil").symlink_to("/tmp")
    Path("sweep/0/summary.json").unlink()
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 2
    assert "is a link out of" in capsys.readouterr().err


# Arguments of a stored sweep


EVIL = [
    "hydra.job_logging.handlers.file.filename=precious",
    "+hydra.callbacks.evil._target_=subprocess.run",
    "hydra/launcher=basic",
    "hydra.sweep.subdir=../../x",
    "model@hydra.callbacks=mlp",
    "experiment=../../../tmp/x",
    "wandb.tags=['${oc.env:HOME}']",
    "data.dir=/",
    "data.dir=/tmp/nowhere",
    "data.dir='~nobody-of-that-name/x'",
    f"data.dir={'x' * 300}",
]
ASKED = [
    "hydra/sweeper=optuna",
    "+hydra.sweeper.params.seed=0",
    "sweep.executor=submitit_local",
    "sweep.submitit={slurm_setup:[touch precious]}",
    "sweep.submitit.setup=x",
    "hydra.searchpath=[file:///tmp]",
    "init_from=hf-hub:someone/else",
]


@pytest.mark.parametrize("word", EVIL)
def test_only_our_own_keys_are_taken_from_a_stored_sweep(word, sweep, capsys):
    (sweep.parent / "precious").write_text("precious")
    edit_ledger(sweep, lambda ledger: ledger["arguments"].append(word))
    (sweep / "0/summary.json").unlink()
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0
    assert "not taken from sweep/sweep.json" in capsys.readouterr().err
    assert (sweep.parent / "precious").read_text() == "precious"
    assert {path.name for path in sweep.parent.iterdir()} == {"sweep", "precious"}


@pytest.mark.parametrize("word", [*(word for word in EVIL if not word.startswith("data.dir")), *ASKED[-2:]])
def test_only_our_own_keys_are_taken_from_stored_jobs(word, sweep, capsys):
    edit_ledger(sweep, lambda ledger: ledger["jobs"][0]["overrides"].append(word))
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "job 0 of sweep has the override" in said


@pytest.mark.parametrize("word", ASKED)
def test_a_stored_sweeper_or_cluster_is_asked_for_again(word, sweep, capsys):
    edit_ledger(sweep, lambda ledger: ledger["arguments"].insert(0, word))
    assert main(["-m", "sweep.resume=sweep"]) == 2
    said = capsys.readouterr().err
    assert "not taken from sweep, but only from the command line: mnistjax -m sweep.resume=sweep" in said
    assert shlex.quote(word) in said
    assert said.count("\n") == 1


def test_overrides_that_define_jobs_are_taken():
    words = [*SMALL, "seed=range(3)", "experiment=quickstart", "optimizer=adam,sgd", "sweep.mode=map"]
    words += [
        "init_from=null,cnn.mnist,../runs/0",
        "wandb.project=mine",
        "~augment",
        "+optimizer.b1=0.5",
        "optimizer.learning_rate=choice(0.1,0.2)",
    ]
    with composing():
        assert all(map(is_taken, parse_overrides(words)))


@pytest.mark.parametrize("word", ["plan=true", "plan=wandb", "halving=2", "resume=sweep"])
def test_another_launcher_refuses_what_only_ours_does(word, sweep, capsys):
    assert main(["-m", *SMALL, "seed=0,1", "hydra/launcher=basic", f"sweep.{word}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"sweep.{word.partition('=')[0]} works only with our launcher" in line
    assert [path.name for path in sweep.parent.iterdir()] == ["sweep"]


def change_job(ledger, **fields):
    return {**ledger, "jobs": [{**ledger["jobs"][0], **fields}, *ledger["jobs"][1:]]}


def change_group(ledger, **fields):
    return {**ledger, "groups": [{**ledger["groups"][0], **fields}]}


LEDGERS = {
    "null": lambda ledger: None,
    "a list": lambda ledger: [],
    "no id": lambda ledger: {k: v for k, v in ledger.items() if k != "id"},
    "jobs are a mapping": lambda ledger: {**ledger, "jobs": {}},
    "a number out of the folder": lambda ledger: change_job(ledger, number="../../../etc"),
    "a negative number": lambda ledger: change_job(ledger, number=-1),
    "a number twice": lambda ledger: {**ledger, "jobs": [ledger["jobs"][0], *ledger["jobs"]]},
    "a status of its own": lambda ledger: change_job(ledger, status="<b>"),
    "a Spec with a foreign key": lambda ledger: change_group(ledger, spec={"evil": 1}),
    "a width of 0": lambda ledger: change_group(ledger, width=0),
    "arguments are no text": lambda ledger: {**ledger, "arguments": [1]},
}


@pytest.mark.parametrize("damage", LEDGERS)
def test_a_damaged_ledger_is_one_line(damage, sweep, capsys):
    (sweep / "sweep.json").write_text(json.dumps(LEDGERS[damage](ledger_of(sweep))))
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    for command, words in ((main, ["-m", "sweep.resume=sweep"]), (report, ["sweep"])):
        assert command(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert "sweep.json" in said
        assert said.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before


def test_the_runs_of_a_sweep_share_one_wait_for_a_hanging_wandb(work, monkeypatch):
    release, waits, join = threading.Event(), [], tracking.Tracker.join

    def note(tracker, waited=0.0):
        waits.append(waited)
        join(tracker, waited)

    monkeypatch.setattr("wandb.init", lambda **options: release.wait(60))
    monkeypatch.setattr(tracking.Tracker, "join", note)
    monkeypatch.setitem(tracking.Tracker.__init__.__kwdefaults__, "patience", 1.0)
    assert main(["-m", *SMALL, "seed=0,1,2", INLINE, "wandb.mode=offline", "hydra.sweep.dir=sweep"]) == 0
    release.set()
    for thread in threading.enumerate():
        if thread.name == "wandb":
            thread.join(20)  # before wandb.init is real again
    first, *others, own = waits
    assert first < 0.5
    assert own == 0.0  # of the sweep's own run
    assert len(others) == 2
    assert all(1.0 <= waited < 2.0 for waited in others)


# Two commands, several launches


def test_a_sweep_that_another_command_has_changed_is_not_overwritten(sweep, capsys, monkeypatch):
    """The other one ends between the reading of the ledger and the lock."""
    words = ["-m", "sweep.resume=sweep", *SMALL, "seed=0", "optimizer.learning_rate=0.3"]
    read = multirun.read_multirun

    def read_slowly(*given):
        found = read(*given)
        monkeypatch.setattr(multirun, "read_multirun", read)
        RUNNING.release()
        try:
            assert main([*words[:-1], "optimizer.learning_rate=0.2"]) == 0
        finally:
            RUNNING.acquire()
        return found

    monkeypatch.setattr(multirun, "read_multirun", read_slowly)
    assert main(words) == 2
    assert "error: another command has just changed sweep; give this one again" in capsys.readouterr().err
    rates = [entry["config"].get("optimizer.learning_rate") for entry in ledger_of(sweep)["jobs"]]
    assert rates[-1] == 0.2
    assert 0.3 not in rates
    assert main(words) == 0
    assert [job["status"] for job in ledger_of(sweep)["jobs"]] == ["done"] * len([*rates, 0.3])


def test_a_sweep_killed_before_its_jobs_had_groups_is_resumed(sweep):
    """They are in the first one until then, which may be of other data."""
    edit_ledger(sweep, lambda ledger: ledger["groups"][0].update(data=["mnist", "0" * 64, "None"]))
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0


def test_a_resumed_sweep_keeps_the_widths_of_its_programs(work):
    """The bits of its jobs depend on them, and three jobs would be four lanes on two devices."""
    words = ["-m", *SMALL, "sweep.mode=vmap", INLINE]
    assert main([*words, "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert main([*words, "seed=0,1,2", "sweep.resume=sweep"]) == 0
    assert [group["width"] for group in ledger_of(work / "sweep")["groups"]] == [2]


def refuse(*args, **kwargs):
    """As a device whose memory has no room for the images."""
    raise RuntimeError("RESOURCE_EXHAUSTED: no memory for the images")


@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_job_that_failed_is_not_trained_again_by_the_next_launch(fail_fast, work, monkeypatch):
    told, tell = [], optuna.study.Study.tell
    monkeypatch.setattr(optuna.study.Study, "tell", lambda *given: (told.append(given[2]), tell(*given)))
    monkeypatch.setattr(programs, "make_program", refuse)
    search = ["hydra/sweeper=tpe", "hydra.sweeper.trials=3", "hydra.sweeper.batch=1"]
    more = ["optimizer.learning_rate=interval(0.01,1)", f"sweep.fail_fast={fail_fast}", INLINE]
    assert main(["-m", *SMALL, *search, *more, "hydra.sweep.dir=sweep"]) == 1
    found = [(job["status"], job["attempts"]) for job in ledger_of(Path("sweep"))["jobs"]]
    assert found == ([("failed", 1), ("waiting", 0), ("waiting", 0)] if fail_fast else [("failed", 1)] * 3)
    assert all(row["optimizer.learning_rate"] for row in results("sweep"))  # though the first had no other
    assert told == [math.inf] * 3  # the worst loss


def test_a_sweep_saves_its_results_while_it_trains(work, monkeypatch):
    done = []

    def note(folder, rows):
        done.append(sum(row["status"] == "done" for row in rows))
        write_results(folder, rows)

    monkeypatch.setattr("mnistjax.sweeps.run.write_results", note)
    monkeypatch.setattr("mnistjax.sweeps.run.MOST_SECONDS", 0.0)
    assert main(["-m", *SMALL, "seed=0,1,2", INLINE, "hydra.sweep.dir=sweep"]) == 0
    assert sorted({*done}) == [0, 1, 2, 3]


def test_a_failed_job_does_not_hold_up_the_rungs_of_a_search(work, monkeypatch):
    make, made = programs.make_program, []

    def fail_once(*args, **kwargs):
        made.append(args)
        return refuse() if len(made) == 1 else make(*args, **kwargs)

    monkeypatch.setattr(programs, "make_program", fail_once)
    search = ["hydra/sweeper=tpe", "hydra.sweeper.trials=6", "hydra.sweeper.batch=2", "sweep.halving=2"]
    more = ["optimizer.learning_rate=interval(0.01,1)", "train.epochs=4", INLINE, "hydra.sweep.dir=sweep"]
    assert main(["-m", *SMALL, *search, *more]) == 1
    statuses = [job["status"] for job in ledger_of(Path("sweep"))["jobs"]]
    assert statuses[0] == "failed"
    assert {*statuses[1:]} == {"done", "stopped"}


@pytest.mark.parametrize("words", [["wandb.mode=disabled", "wandb.tags=[x]"], ["resume=true"]])
def test_words_that_describe_no_job_reach_those_of_a_resumed_sweep(words, sweep, capsys):
    edit_ledger(sweep, lambda ledger: ledger["jobs"][1].update(status="interrupted"))
    assert main(["-m", "sweep.resume=sweep", *words, "sweep.plan=true"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 job in 1 group")
    assert "group 0: 1 job (1)" in out
    found = multirun.read_multirun(words, load_ledger(sweep))
    assert {tuple(job.settings["wandb.tags"]) for job in found.jobs.values()} == {("x",) * (len(words) > 1)}
    found = multirun.read_multirun([*SMALL, "seed=7", *words], load_ledger(sweep))  # with a new job
    assert {tuple(job.settings["wandb.tags"]) for job in found.jobs.values()} == {("x",) * (len(words) > 1)}
    assert main(["-m", "sweep.resume=sweep", *words]) == 0
    assert [job["status"] for job in ledger_of(sweep)["jobs"]] == ["done"] * 3


def test_new_jobs_of_a_resumed_sweep_need_all_its_keys(sweep, capsys):
    before = (sweep / "sweep.json").read_bytes()
    assert main(["-m", "sweep.resume=sweep", "seed=3", INLINE]) == 2  # would be the default model
    (line,) = capsys.readouterr().err.splitlines()
    assert f"mnistjax -m sweep.resume=sweep {' '.join(SMALL)} seed=3" in line
    assert (sweep / "sweep.json").read_bytes() == before
    words = ["data=digits", "model=neuron", "seed=3", "train.epochs=1", "train.batch_size=230"]
    assert main(["-m", "sweep.resume=sweep", *words, "sweep.plan=true"]) == 0  # without model.hidden
    assert "1 job in 1 group" in capsys.readouterr().out


def test_a_number_is_one_configuration_however_it_is_spelt(work):
    words = ["-m", *SMALL, INLINE, "train.epochs=1"]
    assert main([*words, "optimizer.learning_rate=1", "model.dropout=0", "hydra.sweep.dir=sweep"]) == 0
    more = ["optimizer.learning_rate=1.0", "model.dropout=0.0", "seed=1", "sweep.resume=sweep"]
    assert main([*words, *more]) == 0
    assert [job["config"] for job in ledger_of(Path("sweep"))["jobs"]] == [{}, {}]
    (configuration,) = group_runs(read_runs("sweep"))
    assert len(configuration.runs) == 2


def test_the_folder_of_a_sweep_is_named_after_what_its_jobs_share(work, capsys):
    words = [*SMALL, "optimizer=sgd,adam", "wandb.mode=disabled"]
    found = multirun.read_multirun([*words, "hydra.sweep.dir=${model.name}-${train.batch_size}"], None)
    assert found.folder == work / "mlp-230"  # not the defaults
    assert main(["-m", *words, "hydra.sweep.dir=${optimizer.name}"]) == 2
    assert "a sweep has one folder, but optimizer.name is sgd and adam" in capsys.readouterr().err
    assert [*work.iterdir()] == []


def test_the_plan_of_a_halved_sweep_leaves_out_the_stopped_jobs(work, capsys):
    rates = ["optimizer.learning_rate=0.01,0.1,0.2,0.3", "train.epochs=4", "sweep.halving=2", INLINE]
    assert main(["-m", *SMALL, *rates, "hydra.sweep.dir=sweep"]) == 0
    capsys.readouterr()
    assert main(["-m", "sweep.resume=sweep", "sweep.plan=true"]) == 0
    assert capsys.readouterr().out.startswith("0 jobs in 0 groups")


def test_a_worker_that_can_not_be_started_is_one_line(work, monkeypatch, capsys):
    def refuse(_):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(BaseProcess, "start", refuse)
    assert main(["-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep"]) == 1
    why = "failed, its worker process could not be started: Resource temporarily unavailable"
    assert capsys.readouterr().err.count(why) == 2


def test_a_job_whose_end_can_not_be_saved_has_failed_alone(work, monkeypatch):
    write = records.write_summary

    def write_another(folder, summary):
        if folder.name == "0":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        write(folder, summary)

    monkeypatch.setattr(records, "write_summary", write_another)
    assert main(["-m", *SMALL, "seed=0,1", INLINE, "hydra.sweep.dir=sweep"]) == 1
    first, second = ledger_of(work / "sweep")["jobs"]
    assert (first["status"], second["status"]) == ("failed", "done")
    assert "No space left on device" in first["reason"]
    monkeypatch.setattr(records, "write_summary", write)
    assert main(["-m", "sweep.resume=sweep", INLINE]) == 0


def test_a_job_whose_program_can_not_be_made_has_failed(work, monkeypatch):
    monkeypatch.setattr(programs, "make_program", refuse)
    assert main(["-m", *SMALL, "seed=0,1", INLINE, "hydra.sweep.dir=sweep"]) == 1
    for number, job in enumerate(ledger_of(Path("sweep"))["jobs"]):
        assert (job["status"], "RESOURCE_EXHAUSTED" in job["reason"]) == ("failed", True)
        status = records.read_status(Path(f"sweep/{number}"))
        assert status is not None
        assert status["status"] == "failed"


def test_values_of_a_config_are_printed_as_they_are(work, capsys):
    words = ["train.freeze='Dense_[0-9]/bias','Dense_0[/]bias'", "train.epochs=1", INLINE]
    assert main(["-m", *SMALL, *words, "hydra.sweep.dir=:fire:"]) == 0
    out = capsys.readouterr().out
    assert "Dense_0[/]bias" in out
    assert ":fire:/results.csv" in out
