"""Successive halving: what the rungs decide, in sweeps through the command as well."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faulty
from mnistjax import records
from mnistjax.cli import main
from mnistjax.models import MODELS
from mnistjax.sweeps.halving import Entrant, Halving, count_rungs, find_pauses
from mnistjax.sweeps.ledger import load_ledger
from small import without_seconds
from test_sweep import CLUSTER, FAULTY, bits, marks, results, without_times

SEEDS = 2
SMALL = ["data=digits", "model=mlp", "model.hidden=8", "train.epochs=9", "train.batch_size=230"]
RATES = "optimizer.learning_rate=0.0001,0.001,0.01,0.02,0.03,0.1,0.2,0.3,3"


def make(trials, epochs=9, factor=3, **options):
    entrants = {
        trial * SEEDS + seed: Entrant("data", trial, epochs)
        for trial in range(trials)
        for seed in range(SEEDS)
    }
    return Halving(entrants, factor, monitor="val/loss", **options)


def rows(losses):
    return [{"val/loss": loss} for loss in losses]


def play(losses, order, *, early, halving=None, epochs=9, done=10**9, factor=3):
    """Trains made-up jobs with these losses, one rung at a time in this order, as a sweep does.

    Returns the reasons of those that stop, and how far each job came; ends after `done` steps.
    """
    halving = halving or make(len(losses) // SEEDS, epochs, factor)
    ready = [number for number in order if not halving.waits(number)]
    reached, stopped = {}, {}
    while ready and done:
        number, done = ready.pop(0), done - 1
        end = halving.pause(number) or epochs
        reached[number] = end
        halving.record(number, "done" if end == epochs else "waiting", rows(losses[number][:end]))
        onward, why = halving.decide(early=early)
        stopped |= why
        ready += onward
    return stopped, reached


def test_the_rung_is_that_of_a_competition_with_rungs():
    """Beside nine configurations, which are halved, is a single one of another data set."""
    alone = {100: Entrant("other", 0, 9)}
    nine = {trial: Entrant("data", trial, 9) for trial in range(9)}
    assert Halving({**alone, **nine}, 3, monitor="val/loss").describe_rung() == "rung 1 of 3"
    assert Halving(alone, 3, monitor="val/loss").describe_rung() == ""


CURVES = st.lists(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, float("nan")]), min_size=9, max_size=9),
    min_size=1,
    max_size=12,
).map(lambda curves: [curve for curve in curves for _ in range(SEEDS)])


@given(CURVES, st.randoms())
def test_early_and_late_decisions_are_the_same_in_any_order(losses, chance):
    numbers = list(range(len(losses)))
    expected = play(losses, numbers, early=False)
    shuffled = random.Random(chance.random()).sample(numbers, len(numbers))
    assert play(losses, shuffled, early=True) == expected


@given(CURVES, st.integers(0, 40))
def test_a_sweep_that_was_killed_decides_the_same(losses, done):
    numbers = list(range(len(losses)))
    expected, reached = play(losses, numbers, early=True)
    before, so_far = play(losses, numbers, early=True, done=done)
    again = make(len(losses) // SEEDS)
    for number, epochs in so_far.items():
        word = "stopped" if number in before else "done" if epochs == 9 else "waiting"
        again.record(number, word, rows(losses[number][:epochs]))
    late = again.decide().stopped
    after, rest = play(losses, numbers, early=True, halving=again)
    assert before | late | after == expected
    assert so_far | rest == reached


@pytest.mark.parametrize(
    ("trials", "epochs", "factor", "pauses", "counts"),
    [
        (81, 27, 3, (1, 3, 9), [81, 27, 9, 3]),
        (9, 27, 3, (3, 9), [9, 3, 1]),
        (10, 10, 2, (1, 2, 5), [10, 5, 2, 1]),
        (2, 27, 3, (), [2]),
        (100, 1, 3, (), [100]),
    ],
)
def test_rungs_are_fractions_of_the_epochs(trials, epochs, factor, pauses, counts):
    assert find_pauses(epochs, factor, count_rungs(trials, epochs, factor)) == pauses
    losses = [[1 + number // SEEDS] * epochs for number in range(trials * SEEDS)]
    _, reached = play(losses, range(trials * SEEDS), early=True, epochs=epochs, factor=factor)
    ends = [*pauses, epochs]
    assert [sum(epoch >= end for epoch in reached.values()) / SEEDS for end in ends] == counts
    (line,) = make(trials, epochs, factor).describe()
    total = sum(reached.values())
    assert (f"{total:,} of {trials * SEEDS * epochs:,} epochs" in line) == bool(pauses)


def test_a_configuration_is_the_mean_of_its_seeds_last_or_best():
    losses = {0: [0.5, 0.9], 1: [0.5, 0.1], 2: [0.45, 0.6], 3: [0.45, 0.6], 4: [9, 9], 5: [9, 9]}

    def best(rank):
        halving = Halving(
            {number: Entrant("data", number // 2, 6) for number in losses}, 3, monitor="val/loss", rank=rank
        )
        for number, curve in losses.items():
            halving.record(number, "waiting", rows(curve))
        return halving.decide()

    assert best("last").onward == [0, 1]  # (0.9 + 0.1) / 2 is less than 0.6
    assert best("best").onward == [0, 1]  # (0.5 + 0.1) / 2 is less than 0.45
    losses[0], losses[2] = [0.9, 0.6], [0.1, 0.9]
    assert best("last").onward == [0, 1]
    assert best("best").onward == [2, 3]
    assert best("best").stopped[0] == "rung 1 of 2: 2nd of 3"


def test_failed_jobs_rank_last_and_do_not_go_on():
    halving = make(3)
    halving.record(0, "diverged", rows([0.0, float("nan")]))
    halving.record(1, "waiting", rows([0.0, 0.0, 0.0]))
    halving.record(2, "failed", rows([]))
    for number, loss in ((3, 0.0), (4, 5.0), (5, 5.0)):
        halving.record(number, "waiting", rows([loss] * 3))
    onward, stopped = halving.decide()
    assert onward == [4, 5]
    assert set(stopped) == {1, 3}


def test_jobs_on_other_data_do_not_compete():
    halving = Halving({n: Entrant(n % 2, n, 9) for n in range(6)}, 3, monitor="val/accuracy")
    for number in range(6):
        halving.record(number, "waiting", [{"val/accuracy": number / 10}] * 3)
    onward, stopped = halving.decide()
    assert onward == [4, 5]
    assert stopped[2] == stopped[3] == "rung 1 of 2: 2nd of 3"


SLOW_WORDS = [
    pytest.param(words, marks=pytest.mark.slow) for words in ([], ["sweep.mode=chunk", "sweep.lanes=4"])
]


@pytest.mark.parametrize("words", [["sweep.executor=inline"], *SLOW_WORDS])
def test_survivors_have_the_bits_of_full_runs(work, capsys, words):
    words = [*SMALL, RATES, "seed=0,1", *words]
    assert main(["-m", *words, "sweep.halving=3", "hydra.sweep.dir=halved"]) == 0
    assert "2 of 18 jobs done, 16 stopped at a rung" in capsys.readouterr().err
    assert main(["-m", *words, "hydra.sweep.dir=full"]) == 0
    epochs = {row["number"]: int(row["epoch"]) for row in results("halved")}
    assert sorted(epochs.values()) == [1] * 12 + [3] * 4 + [9] * 2
    for number, last in epochs.items():
        one, other = Path("halved", number), Path("full", number)
        full = bits(other)
        assert bits(one)[1] == full[1][:last]
        if last == 9:
            assert bits(one) == full
        else:
            end = records.read_status(one) or {}
            assert (end["status"], end["reason"][:5]) == ("stopped", "rung ")
            assert not (one / records.SUMMARY).exists()  # its test images were never used
    entry = load_ledger(Path("halved")).entries[0]
    assert entry.status == "stopped"
    assert str(entry.reason).startswith("rung 1 of 3: ")


@pytest.mark.slow
def test_a_finished_halving_continues_as_a_full_sweep(work, capsys):
    words = [*SMALL, RATES]
    assert main(["-m", *words, "sweep.halving=3", "hydra.sweep.dir=halved"]) == 0
    once = without_times("halved")
    assert main(["-m", "sweep.resume=halved"]) == 0
    assert without_times("halved") == once
    assert main(["-m", "sweep.resume=halved", "sweep.halving=null"]) == 0
    assert main(["-m", *words, "hydra.sweep.dir=full"]) == 0
    assert without_times("halved") == without_times("full")
    assert [bits(f"halved/{n}") for n in range(9)] == [bits(f"full/{n}") for n in range(9)]


@pytest.mark.slow
def test_failed_jobs_stay_so_and_a_resumed_sweep_trains_those_of_the_survivor(work, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "faulty", faulty.Faulty)
    Path("faults.json").write_text(json.dumps({marks([1])[0]: "kill"}))
    monkeypatch.setenv(faulty.FAULTS, str(Path("faults.json").absolute()))
    words = [*FAULTY, "train.epochs=3", "optimizer.learning_rate=0.001,0.002,0.003", "seed=0,1"]
    assert main(["-m", *words, "sweep.halving=3", "hydra.sweep.dir=halved"]) == 1
    expected = ["done", "failed", "stopped", "failed", "stopped", "failed"]
    assert [row["status"] for row in results("halved")] == expected
    monkeypatch.delenv(faulty.FAULTS)
    assert main(["-m", "sweep.resume=halved"]) == 1
    assert [row["status"] for row in results("halved")] == ["done", "done", *expected[2:]]


@pytest.mark.slow
def test_a_cluster_decides_the_same(work):
    rates = "optimizer.learning_rate=0.001,0.01,0.1"
    words = ["-m", *SMALL, "model.hidden=8,16", rates, "sweep.halving=3", "train.epochs=3"]
    assert main([*words, "hydra.sweep.dir=here"]) == 0
    assert main([*words, CLUSTER, "sweep.submitit={timeout_min:9}", "hydra.sweep.dir=there"]) == 0
    assert without_times("there") == without_times("here")
    tasks = len(list(Path("there/submitit/0").glob("*.jsonl")))
    assert 2 < tasks <= 4  # one for each group that goes on


@pytest.mark.parametrize("more", [[], ["task=binary", "task.positive=3,4"]])
def test_the_plan_says_what_halving_saves(work, capsys, more):
    """For each task, because two positive classes do not compete."""
    assert main(["-m", *SMALL, RATES, "seed=0,1", *more, "sweep.halving=3", "sweep.plan=true"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("halving")]
    line = "halving: 9 configurations to epoch 1, 3 go on to 3, 1 go on to 9; 42 of 162 epochs (26%)"
    assert lines == [line] * (2 if more else 1)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("sweep.halving=1", "sweep.halving must be a whole number >= 2 or null; got 1"),
        ("sweep.rank=mean", "unknown sweep.rank 'mean' (allowed: best, last)"),
        ("train.monitor=val/loss,val/f1", "ranks all jobs by one train.monitor; got val/f1, val/loss"),
    ],
)
def test_wrong_options_are_refused(work, capsys, word, error):
    assert main(["-m", *SMALL, RATES, "sweep.halving=3", word]) == 2
    assert error in capsys.readouterr().err
    assert not list(Path().iterdir())


def start(*words):
    return subprocess.Popen([sys.executable, "-m", "mnistjax", "-m", *words], start_new_session=True)


@pytest.mark.slow
def test_a_halving_killed_at_ten_moments_decides_the_same(work):
    words = [*SMALL, RATES, "seed=0,1", "sweep.halving=3"]
    assert start(*words, "hydra.sweep.dir=whole").wait() == 0
    for moment in range(10):
        resumed = ["sweep.resume=killed"] if moment else [*words, "hydra.sweep.dir=killed"]
        process = start(*resumed)
        while count_rows("killed") < 4 * moment + 1:  # of 42, so that each rung is killed
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert start("sweep.resume=killed").wait() == 0
    assert without_times("killed") == without_times("whole")
    for row in results("whole"):
        one, other = (Path(folder, row["number"]) for folder in ("killed", "whole"))
        assert without_seconds(records.read_rows(one)) == without_seconds(records.read_rows(other))
        if row["status"] == "done":  # a job that was killed at its rung may have no checkpoint
            assert bits(one) == bits(other)


def count_rows(folder):
    return sum(path.read_bytes().count(b"\n") for path in Path(folder).glob("*/metrics.jsonl"))
