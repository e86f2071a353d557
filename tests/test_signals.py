"""Signals: a run stops after its segment, or within seconds if the segment does not end."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

import faulty
import mnistjax
from mnistjax import records, signals
from mnistjax.data import load_data
from mnistjax.models import MODELS
from mnistjax.plan import make_plan
from mnistjax.signals import Stop, safe_interrupts, stop_signals
from mnistjax.step import initial_state

COMMAND = """
import signal
import faulty
from mnistjax import __main__, register_model

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as it is unless the tests run under nohup
    register_model("faulty", faulty.Faulty)
    __main__.mnistjax()
"""
FAULTY = ["data=digits", "model=faulty", "train.epochs=2", "train.batch_size=230", "schedule=constant"]
HEAVY = ["data=digits", "model=mlp", "model.hidden=[6000,6000,6000]", "train.batch_size=all"]  # 5e11 flops


@pytest.fixture
def hang(work, monkeypatch):
    """A function that starts a command whose runs hang inside their first step, and waits until they do."""
    monkeypatch.setitem(MODELS, "faulty", faulty.Faulty)
    plan = make_plan(load_data("digits"), model="faulty", schedule="constant", batch_size=230)
    states = [initial_state(plan.spec, plan.hyper, jax.random.key(seed)) for seed in range(2)]
    (work / "faults.json").write_text(json.dumps({f"{float(x.params['mark']):.5f}": "hang" for x in states}))
    (work / "command.py").write_text(COMMAND)
    paths = [str(Path(mnistjax.__file__).parents[1]), str(Path(__file__).parent)]
    own = {"PYTHONPATH": os.pathsep.join(paths), faulty.FAULTS: str(work / "faults.json")}
    processes = []

    def start(statuses, *words, faults=FAULTY):
        process = subprocess.Popen(
            [sys.executable, "command.py", *faults, *words],
            env={**os.environ, **own},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        end = time.monotonic() + 60
        while not all(Path(status).exists() for status in statuses):
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(4)  # to compile, and to hang
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_run_that_hangs_inside_a_segment_ends_within_seconds(number, code, hang):
    process = hang(["run/status.json"], "hydra.run.dir=run")
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < signals.GRACE_SECONDS + 5
    assert process.returncode == code
    assert "to continue: mnistjax" in said
    assert "Traceback" not in said
    status = records.read_status("run")
    assert status is not None
    assert status["status"] == "interrupted"


@pytest.mark.slow
def test_a_second_signal_is_not_waited_for(hang):
    process = hang(["run/status.json"], "hydra.run.dir=run", faults=HEAVY)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 4
    assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "inline"])
def test_a_sweep_that_hangs_inside_a_segment_ends_within_seconds(executor, hang):
    words = ["-m", "seed=0,1", "hydra.sweep.dir=sweep", f"sweep.executor={executor}", "sweep.timeout=600"]
    process = hang(["sweep/0/status.json"], *words)  # the other one waits for the same program
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 143
    assert "sweep.resume=sweep" in said
    status = records.read_status("sweep/0")
    assert status is not None
    assert status["status"] == "interrupted"
    end = time.monotonic() + 5
    while list(living(process.pid)):
        assert time.monotonic() < end
        time.sleep(0.1)


def living(group):
    """The processes of a process group, without zombies."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            yield int(path.parent.name), state


def test_a_signal_is_noticed_and_a_second_one_interrupts():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    with stop_signals() as stop, stop.limit(lambda number: pytest.fail("nothing hangs")):
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert stop.received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)


def test_an_unnoticed_signal_abandons_the_run_once(monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.2)
    abandoned = []
    with stop_signals() as stop, stop.limit(abandoned.append):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.6)
    assert abandoned == [signal.SIGTERM]


def test_handlers_are_restored_and_nohup_is_respected():
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in signals.STOPPING} == before


def test_another_thread_sets_no_handlers():
    found = []

    def work():
        with stop_signals() as stop, stop.limit(lambda number: None):
            found.append((isinstance(stop, Stop), stop()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, False)]


def interrupt(call):
    """Calls a function that raises SIGINT, and expects KeyboardInterrupt."""
    with pytest.raises(KeyboardInterrupt), safe_interrupts():
        call()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


class Raising:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_raised_again_if_it_is_lost(capsys):
    def lose():
        thing = Raising()
        del thing  # Python drops what is raised in there
        time.sleep(10)
        raise AssertionError("it is lost")

    interrupt(lose)
    assert capsys.readouterr().err == ""


@pytest.fixture
def module(work, monkeypatch):
    """The name of a module that raises SIGINT when it is imported."""
    (work / "importing.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.05)\n"
    )
    monkeypatch.syspath_prepend(work)
    yield "importing"
    sys.modules.pop("importing", None)


def test_an_import_ends_before_ctrl_c_is_raised(module):
    done = []

    def load():
        done.append(importlib.import_module(module))
        time.sleep(10)

    interrupt(load)
    assert done


def test_an_error_after_ctrl_c_does_not_hide_it():
    def fail():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise ValueError("cleaning up failed")

    interrupt(fail)


def test_ctrl_c_is_raised_after_a_moment_in_which_it_is_ignored(module):
    def ignore():
        importlib.import_module(module)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(3 * signals.REPEAT_SECONDS)
        signal.signal(signal.SIGINT, before)
        time.sleep(10)

    began = time.monotonic()
    interrupt(ignore)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("grace", "whole"), [(5, True), (0.1, False)])
def test_ctrl_c_waits_some_seconds_for_what_cleans_up_after_it(grace, whole, monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", grace)
    done = []

    def clean():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            time.sleep(5 * signals.REPEAT_SECONDS)
            done.append(True)

    interrupt(clean)
    assert bool(done) == whole


def test_a_training_that_begins_after_ctrl_c_stops(module):
    with safe_interrupts():
        importlib.import_module(module)
        with stop_signals() as stop:
            end = time.monotonic() + 10
            while not stop():
                assert time.monotonic() < end
            time.sleep(3 * signals.REPEAT_SECONDS)  # no second one comes
    assert stop.received == [signal.SIGINT]


def test_a_handler_of_the_user_stays():
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        with safe_interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
