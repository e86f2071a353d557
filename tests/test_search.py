"""Searches: what the words of a space mean, and sweeps whose trials are drawn."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mnistjax import records
from mnistjax.cli import main
from mnistjax.cli.launcher import FusedLauncher
from mnistjax.cli.overrides import composing, parse_overrides
from mnistjax.cli.search import Dimension, TpeSweeper, draw, read_space
from mnistjax.seeds import group_seeds
from test_sweep import bits, results, without_times

SMALL = ["data=digits", "model=mlp", "train.epochs=2", "train.batch_size=230", "sweep.executor=inline"]
SPACE = [
    "optimizer.learning_rate=tag(log, interval(1e-4, 1))",
    "model.hidden=tag(log, int, interval(4, 64))",
    "optimizer=adam,sgd",
    "train.batch_size=range(100, 401, 100)",
    "seed=0,1",
    "train.epochs=9",
]


def space(*words):
    with composing():
        return read_space(parse_overrides(list(words)))


def columns(jobs):
    return {
        key: [word.partition("=")[2] for job in jobs for word in job if word.startswith(f"{key}=")]
        for key in ("optimizer.learning_rate", "model.hidden", "optimizer", "train.batch_size", "seed")
    }


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_a_drawn_search_fills_its_space_and_repeats_each_trial_over_its_seeds(method):
    jobs = draw(space(*SPACE), method, 128, 0)
    assert len(jobs) == 256
    assert [one[:4] for one in jobs[::2]] == [one[:4] for one in jobs[1::2]]
    assert all(job[4:] == [f"seed={number % 2}", "train.epochs=9"] for number, job in enumerate(jobs))
    found = columns(jobs[::2])
    rates = np.log10([float(rate) for rate in found["optimizer.learning_rate"]])
    slack = 2 if method == "sobol" else 16  # of 128 / 4
    assert np.abs(np.histogram(rates, bins=4, range=(-4, 0))[0] - 32).max() <= slack
    widths = [int(width) for width in found["model.hidden"]]
    assert min(widths) >= 4
    assert max(widths) <= 64
    assert abs(sum(width < 17 for width in widths) - 64) <= 12  # half of a logarithmic interval
    for key, count in (("optimizer", 2), ("train.batch_size", 4)):
        numbers = [found[key].count(value) for value in dict.fromkeys(found[key])]
        assert len(numbers) == count
        assert np.abs(np.array(numbers) - 128 / count).max() <= slack
    assert draw(space(*SPACE), method, 128, 0) == jobs
    assert draw(space(*SPACE), method, 64, 0) == jobs[:128]  # a longer search begins like a shorter one
    assert draw(space(*SPACE), method, 128, 1) != jobs


@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.booleans())
def test_every_place_is_inside_the_interval(place, log, whole):
    low, high = (3, 7) if whole else (0.0314159, 2.71828)
    value = Dimension("key", low=low, high=high, log=log, whole=whole).word(place).removeprefix("key=")
    assert low <= float(value) <= high
    assert ("." not in value) == whole
    if not whole and low < float(value) < high:
        assert float(value) == float(f"{float(value):.4g}")


@pytest.mark.parametrize("word", ["int(interval(4, 64))", "tag(int, interval(4, 64))"])
def test_an_interval_of_whole_numbers(word):
    widths = [
        int(word.removeprefix("model.hidden="))
        for (word,) in draw(space(f"model.hidden={word}"), "sobol", 61, 0)
    ]
    assert (min(widths), max(widths), len(set(widths))) == (4, 64, 61)


def test_a_space_of_few_configurations_has_each_of_them_once():
    jobs = draw(space("optimizer=adam,sgd", "train.epochs=range(1,4)"), "sobol", 100, 0)
    assert sorted(jobs) == sorted(
        [f"optimizer={name}", f"train.epochs={epochs}"] for name in ("adam", "sgd") for epochs in (1, 2, 3)
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["seed=0,1"], "a search needs a key to search, such as 'optimizer.learning_rate="),
        (["seed=interval(0,9)"], "seeds repeat each trial, so they are listed: seed=0,1,2"),
        (["optimizer.learning_rate=interval(1,0.1)"], "an interval goes from a number to a larger one"),
        (["optimizer.learning_rate=tag(log,interval(0,1))"], "a logarithmic interval is above 0"),
        (["optimizer.learning_rate=tag(lgo,interval(1,2))"], "unknown tag 'lgo' (allowed: int, log)"),
        (["train.epochs=tag(int,interval(1.5,2))"], "an interval of whole numbers has whole ends"),
        (["optimizer=tag(log,choice(adam,sgd))"], "log is for interval(...) only"),
        (
            ["optimizer=adam,sgd", "hydra.sweeper.trials=0"],
            "hydra.sweeper.trials must be a whole number >= 1",
        ),
        (["optimizer=adam,sgd", "hydra.sweeper.seed=-1"], "hydra.sweeper.seed must be a whole number >= 0"),
        (["optimizer=adam,sgd", "hydra.sweeper.trials=10**6"], "hydra.sweeper.trials must be a whole number"),
        (["train.epochs=range(1,10000000)"], "9,999,999 jobs are more than sweep.max_jobs=100000"),
        (["optimizer=adam,sgd", "seed=range(9)", "hydra.sweeper.trials=90000"], "810,000 jobs are more than"),
        (["optimizer.learning_rate=interval(-1,0.1)"], "optimizer.learning_rate must be"),
    ],
)
@pytest.mark.parametrize("method", ["sobol", "tpe"])
def test_a_wrong_search_is_one_line_and_writes_nothing(work, capsys, words, error, method):
    if method == "tpe" and "must be" in error and "hydra" not in error:
        pytest.skip("the jobs of this search are not known before it runs")
    assert main(["-m", *SMALL, *words, f"hydra/sweeper={method}"]) == 2
    told = capsys.readouterr().err
    assert error in told
    assert told.count("\n") == 1
    assert [*work.iterdir()] == []


def test_a_grid_with_an_interval_is_told_how_to_search(work, capsys):
    assert main(["-m", *SMALL, "optimizer.learning_rate=interval(0.1,1)"]) == 2
    assert "a grid has no interval; use range(...), or add hydra/sweeper=sobol" in capsys.readouterr().err


def test_a_search_is_planned_like_a_grid(work, capsys):
    words = ["optimizer.learning_rate=interval(0.1,1)", "seed=0,1", "hydra/sweeper=sobol", "sweep.plan=true"]
    assert main(["-m", *SMALL, *words, "hydra.sweeper.trials=9"]) == 0
    assert "18 jobs in 1 group," in capsys.readouterr().out


def test_a_search_gives_the_bits_of_its_words_and_resumes_by_its_folder(work, capsys):
    rate = "optimizer.learning_rate=tag(log, interval(0.001, 0.1))"
    words = [*SMALL, "model.hidden=8", "seed=0,1", "hydra/sweeper=sobol"]
    assert main(["-m", *words, rate, "hydra.sweeper.trials=3", "hydra.sweep.dir=search"]) == 0
    found = results("search")
    rates = [row["optimizer.learning_rate"] for row in found]
    assert rates[::2] == rates[1::2]
    assert len(set(rates)) == 3
    assert all(len(rate.lstrip("0.")) <= 4 for rate in rates)
    grid = f"optimizer.learning_rate={','.join(rates[::2])}"
    assert main(["-m", *SMALL, "model.hidden=8", grid, "seed=0,1", "hydra.sweep.dir=grid"]) == 0
    assert [bits(f"search/{n}") for n in range(6)] == [bits(f"grid/{n}") for n in range(6)]
    before = without_times("search")
    (Path("search/4/summary.json")).unlink()
    capsys.readouterr()
    assert main(["-m", "sweep.resume=search", "sweep.executor=inline"]) == 0
    assert "not taken from" not in capsys.readouterr().err
    assert without_times("search") == before


def test_a_space_can_be_kept_in_a_file(work):
    params = "{optimizer.learning_rate: 'interval(0.01, 0.1)', optimizer: 'adam,sgd'}"
    words = [*SMALL, "hydra/sweeper=random", f"hydra.sweeper.params={params}", "hydra.sweeper.trials=3"]
    assert main(["-m", *words, "model.hidden=8", "hydra.sweep.dir=search"]) == 0
    rows = results("search")
    assert all(0.01 <= float(row["optimizer.learning_rate"]) <= 0.1 for row in rows)


def test_halving_composes_with_a_search(work):
    rate = "optimizer.learning_rate=tag(log, interval(1e-4, 1))"
    words = [*SMALL, "model.hidden=8", rate, "hydra/sweeper=sobol", "hydra.sweeper.trials=4"]
    assert main(["-m", *words, "train.epochs=4", "sweep.halving=2", "hydra.sweep.dir=search"]) == 0
    assert sorted(int(row["epoch"]) for row in results("search")) == [1, 1, 2, 4]


TPE = ["hydra/sweeper=tpe", "hydra.sweeper.trials=20", "hydra.sweeper.batch=4", "model.hidden=8"]
RATE = "optimizer.learning_rate=tag(log, interval(1e-5, 0.1))"


def test_tpe_learns_from_the_means_over_seeds_and_repeats_its_trials(work, monkeypatch):
    assert main(["-m", *SMALL, *TPE, RATE, "seed=0,1", "hydra.sweep.dir=search"]) == 0
    rows = results("search")
    assert len(rows) == 40
    rates = [math.log10(float(row["optimizer.learning_rate"])) for row in rows[::2]]
    best = math.log10(float(group_seeds(rows, "val/loss")[0].config["optimizer.learning_rate"]))
    distances = np.abs(np.array(rates) - best)
    assert np.median(distances[12:]) < np.median(distances[:8]) / 2  # later trials are nearer
    before = without_times("search")
    for number in (5, 11, 30):
        Path(f"search/{number}/summary.json").unlink()
    with open("search/sweep.json") as file:
        ledger = json.load(file)
    ledger["jobs"][7]["status"] = "running"  # of a killed process, after the job was done
    Path("search/sweep.json").write_text(json.dumps(ledger))
    told, tell = [], optuna.study.Study.tell
    monkeypatch.setattr(optuna.study.Study, "tell", lambda *given: (told.append(given[2]), tell(*given))[1])
    assert main(["-m", "sweep.resume=search", "sweep.executor=inline"]) == 0
    assert without_times("search") == before
    assert np.isfinite(told).all()


def search(word, monitor, find_value):
    """The numbers that 40 made-up jobs get, whose results are a function of them."""
    numbers = []

    def launch(jobs, first):
        assert first == len(numbers)
        numbers.extend(float(word.partition("=")[2]) for (word,) in jobs)
        return [SimpleNamespace(return_value=find_value(number)) for number in numbers[first:]]

    sweeper = TpeSweeper(trials=40, seed=1, batch=4)
    sweeper.config = SimpleNamespace(train=SimpleNamespace(monitor=monitor))
    sweeper.launcher = SimpleNamespace(launch=launch)
    sweeper.search(space(word))
    assert len(numbers) == 40
    return numbers


@pytest.mark.parametrize(("monitor", "sign"), [("val/loss", 1), ("val/accuracy", -1)])
def test_tpe_seeks_a_low_loss_or_a_high_accuracy(monitor, sign):
    rates = search(RATE, monitor, lambda rate: sign * abs(math.log10(rate) + 3))
    distances = np.abs(np.log10(rates) + 3)
    assert np.mean(distances[20:]) < np.mean(distances[:10])


@pytest.mark.parametrize("values", ["1,2,3", "range(1,4)", "int(interval(1,3))"])
def test_tpe_draws_each_of_a_few_values(values):
    assert {*search(f"train.epochs={values}", "val/loss", lambda number: 0.0)} == {1, 2, 3}


def test_a_sweeper_and_the_table_get_the_values_of_the_epochs_that_are_kept(work, monkeypatch):
    values, run = {}, FusedLauncher._run_hydra

    def note(self, end):
        values[end.number] = end.value
        return run(self, end)

    monkeypatch.setattr(FusedLauncher, "_run_hydra", note)
    more = ["model.hidden=8", "train.epochs=4", "train.keep=best", "optimizer.learning_rate=0.1,1"]
    assert main(["-m", *SMALL, *more, "hydra.sweep.dir=sweep"]) == 0
    losses = [[row["val/loss"] for row in records.read_rows(f"sweep/{number}")] for number in range(2)]
    assert values == {number: min(own) for number, own in enumerate(losses)}
    assert [float(row["val/loss"]) for row in results("sweep")] == [min(own) for own in losses]
    assert any(min(own) < own[-1] for own in losses)


def test_tpe_serves_the_launcher_of_hydra(work):
    words = ["hydra/launcher=basic", "hydra/sweeper=tpe", "hydra.sweeper.trials=2", "hydra.sweeper.batch=1"]
    assert main(["-m", *SMALL, *words, RATE, "train.epochs=1", "hydra.sweep.dir=search"]) == 0
    assert {records.read_record(Path(f"search/{n}")).status["status"] for n in (0, 1)} == {"done"}


def test_tpe_with_halving_counts_stopped_trials_as_pruned(work, monkeypatch):
    studies, create = [], optuna.create_study
    monkeypatch.setattr(
        optuna, "create_study", lambda **given: studies.append(create(**given)) or studies[-1]
    )
    words = [*SMALL, *TPE, RATE, "train.epochs=4", "sweep.halving=2", "hydra.sweeper.trials=8"]
    assert main(["-m", *words, "hydra.sweep.dir=search"]) == 0
    rows = results("search")
    assert len(rows) == 8
    assert {row["status"] for row in rows} == {"done", "stopped"}
    before = without_times("search")
    assert main(["-m", "sweep.resume=search", "sweep.executor=inline"]) == 0
    assert without_times("search") == before
    expected = [{"done": "COMPLETE", "stopped": "PRUNED"}[row["status"]] for row in rows]
    states = [[trial.state.name for trial in study.trials] for study in studies]
    assert [*filter(None, states)] == [expected] * 2


def test_tpe_without_optuna_says_what_to_install(work, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["-m", *SMALL, *TPE, RATE]) == 2
    line = 'error: hydra/sweeper=tpe needs optuna: pip install "mnistjax[tpe]"\n'
    assert capsys.readouterr().err == line
    assert [*work.iterdir()] == []


def test_the_plan_of_a_search_that_chooses_while_it_runs_says_so(work, capsys):
    assert main(["-m", *SMALL, *TPE, RATE, "seed=0,1", "sweep.plan=true"]) == 0
    assert capsys.readouterr().out == "the jobs are not known yet: TpeSweeper chooses them while it runs\n"


def test_the_multirun_file_is_kept(work):
    words = [*SMALL, "model.hidden=8", RATE, "hydra/sweeper=random", "hydra.sweeper.trials=1"]
    assert main(["-m", *words, "hydra.sweep.dir=search"]) == 0
    kept = yaml.safe_load(Path("search/multirun.yaml").read_text())
    assert kept["hydra"]["sweeper"]["trials"] == 1
