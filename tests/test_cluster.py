"""A cluster's tasks: their folder, their jobs, their states in the queue. A script answers as `squeue`."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mnistjax.job import Job
from mnistjax.sweeps import slurm
from mnistjax.sweeps.cluster import Submission, make_new_folder
from mnistjax.sweeps.events import JobEnded, JobStarted
from mnistjax.sweeps.groups import cut, estimate_seconds, make_assignments, make_groups
from small import small_plan


def test_existing_files_are_left_alone(tmp_path):
    (tmp_path / "submitit" / "0").mkdir(parents=True)
    (tmp_path / "submitit" / "0" / "1_0_result.pkl").write_bytes(b"a stranger's")
    (tmp_path / "submitit" / "1").symlink_to(tmp_path)
    found = make_new_folder(tmp_path / "submitit")
    assert found == tmp_path / "submitit" / "2"
    assert not list(found.iterdir())


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A function that sets what `squeue` prints; None: it fails."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.0)

    def answer(text):
        program = tmp_path / "squeue"
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/printed\n")
        program.chmod(0o755)
        (tmp_path / "printed").unlink(missing_ok=True)
        if text is not None:
            (tmp_path / "printed").write_text(text)

    return answer


def make_task(folder, number):
    return SimpleNamespace(job_id=number, paths=SimpleNamespace(result_pickle=folder / f"{number}.pkl"))


def test_a_task_is_over_once_it_has_been_ended_for_a_while(queue, tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now)
    found, task = slurm.Queue(), make_task(tmp_path, "7_0")
    for printed, seconds, over in (
        ("7_0|PENDING|/a/x.sh", 1, False),
        ("7_0|TIMEOUT|/a/x.sh", 1, False),
        ("7_0|PENDING|/a/x.sh", 99, False),  # it was queued again
        ("7_0|SUSPENDED|/a/x.sh", 99, False),
        (None, 99, False),  # Slurm does not answer
        ("7_1|RUNNING|/a/x.sh", 1, False),  # it is no longer in the queue
        ("7_1|RUNNING|/a/x.sh", slurm.GRACE_SECONDS - 2, False),
        ("7_1|RUNNING|/a/x.sh", 2, True),
    ):
        now += seconds
        queue(printed)
        assert found.is_over(task) == over, printed
    assert found.state(task) == "not in the queue"
    other = make_task(tmp_path, "7_1")
    assert found.state(other) == "RUNNING"
    assert not found.is_over(other)
    other.paths.result_pickle.touch()
    assert found.is_over(other)


def test_only_tasks_of_the_folder_that_have_not_ended_are_found(queue, tmp_path):
    rows = {
        "1": ("PENDING", tmp_path / "sweep" / "submitit" / "0" / "x.sh"),
        "2": ("COMPLETED", tmp_path / "sweep" / "submitit" / "0" / "x.sh"),
        "3": ("RUNNING", tmp_path / "sweep|2" / "submitit" / "0" / "x.sh"),
        "4_1": ("RUNNING", tmp_path / "sweep" / "submitit" / "1" / "x.sh"),
        "5": ("RUNNING", "(null)"),
    }
    queue("".join(f"{number}|{state}|{script}\n" for number, (state, script) in rows.items()))
    found = slurm.Queue()
    assert [task.job_id for task in found.find_left(tmp_path / "sweep" / "submitit")] == ["1", "4_1"]
    assert [task.job_id for task in found.find_left(tmp_path / "sweep|2")] == ["3"]
    queue(None)
    assert found.find_left(tmp_path) == []


def test_an_event_is_read_once_and_when_it_is_whole(tmp_path):
    events, found = [JobStarted(3), JobEnded(3, "done", None, None, 0.5)], []
    lines = "".join(f"{json.dumps([type(event).__name__, *event])}\n" for event in events)
    whole: Any = SimpleNamespace(jobs=())
    submission = Submission(None, tmp_path / "0.jsonl", whole)
    for end in range(len(lines) + 1):
        (tmp_path / "0.jsonl").write_text(lines[:end])
        found += submission.read_events()
    assert found == events


@pytest.mark.parametrize(("mode", "lanes", "size"), [("map", "auto", 1), ("chunk", 2, 2)])
def test_the_parts_of_an_assignment_have_all_jobs_in_their_order(mode, lanes, size):
    plan, data = small_plan()
    settings: Any = None
    job = Job([], {}, settings, plan, "disabled", data)
    jobs = {number: replace(job, number=number) for number in range(7)}
    (group,) = make_groups(jobs, mode=mode, lanes=lanes)
    (whole,) = make_assignments([group], jobs)
    seconds = estimate_seconds(group, jobs)
    assert [part.jobs for part in cut(whole, seconds)] == [whole.jobs]
    for share in (0.5, 0.3, 1e-9):
        parts = cut(whole, share * seconds)
        assert [job.number for part in parts for job in part.jobs] == [*range(7)]
        assert all(len(part.jobs) % size == 0 for part in parts[:-1])
        assert len(parts) >= min(1 / share, -(-7 // size))
