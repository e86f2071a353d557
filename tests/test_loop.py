"""Runs: their bits, their ends, what callbacks see."""

import contextlib
import functools
from typing import Any

import jax
import numpy as np
import pytest

from mnistjax import layout as layouts
from mnistjax import programs, to_binary
from mnistjax.config import ConfigError, Stopping
from mnistjax.evaluation import _evaluate_on, evaluate
from mnistjax.layout import layout
from mnistjax.loop import fit, fit_runs
from mnistjax.metrics import summarize
from mnistjax.programs import make_program
from mnistjax.run import Run, best_epoch
from mnistjax.step import init
from small import (
    Watched,
    assert_same,
    count_traces,
    fit_plan,
    made_up_data,
    small_plan,
    without_seconds,
)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("steps", [100, 3])
def test_the_loop_transfers_nothing_but_what_it_says(width, steps, monkeypatch):
    """After a run's start every array reaches the device by an explicit transfer, in even segments or not."""
    monkeypatch.setattr("mnistjax.layout.GATHER_ROWS", 32)
    flops = layouts.epoch_flops(small_plan(batch_size=30)[0].spec)
    monkeypatch.setattr("mnistjax.layout.SEGMENT_FLOPS", flops / 8 * steps)
    layout.cache_clear()
    (plan, data), began = small_plan(batch_size=30), []

    def guard(progress):
        if not began:
            began.append(stack.enter_context(jax.transfer_guard("disallow")))

    with contextlib.ExitStack() as stack:
        runs = [Run(plan.hyper, seed, plan.stopping, callbacks=[guard]) for seed in range(width)]
        program = make_program(plan.spec, data, width=width)
        for _, result in fit_runs(program, [[run] for run in runs]):
            assert result.status == "done"
    layout.cache_clear()


def test_the_road_from_fit_to_the_loss_is_short(watched):
    plan, data = small_plan(model=watched)
    fit_plan(plan, data)
    (road,) = Watched.roads
    expected = ["fit", "fit_runs", "advance", "train_segment", "step", "train_step", "batch_loss"]
    assert road == expected


def test_micro_batches_and_shards_make_the_road_a_little_longer(watched, monkeypatch):
    monkeypatch.setattr("mnistjax.devices.LARGE_STEP_FLOPS", 0)
    plan, data = small_plan(model=watched, micro_batch=8)
    fit_plan(plan, data)
    assert all(len(road) <= 12 for road in Watched.roads)


def test_the_same_run_twice_has_the_same_bits():
    one, other = fit_plan(*small_plan()), fit_plan(*small_plan())
    assert_same(one.state, other.state)
    assert without_seconds(one.rows) == without_seconds(other.rows)
    assert one.test == other.test


def count_programs(*jitted: Any) -> list[int]:
    return [function._cache_size() for function in jitted]


def test_another_learning_rate_or_seed_or_length_is_no_new_program(monkeypatch):
    make = functools.partial(small_plan, schedule="cosine", optimizer="adam")
    (plan, data), traced = make(), count_traces(monkeypatch)
    fit_plan(plan, data)
    programs = vars(_evaluate_on)["__wrapped__"], init
    before = count_programs(*programs)
    faster = make(optimizer_options={"learning_rate": 0.02, "b1": 0.5})
    for other, _ in (faster, make(seed=5), make(stopping=Stopping(3))):
        assert other.spec == plan.spec
        assert other.identity != plan.identity
        fit_plan(other, data)
    assert (count_programs(*programs), traced) == (before, ["mlp"])


def test_specs_share_the_programs_that_see_no_batch():
    """Evaluation also if the optimizers differ."""
    programs, counts = (vars(_evaluate_on)["__wrapped__"], init), []
    choices = {"batch_size": 16}, {"batch_size": 10}, {"batch_size": 10, "optimizer": "momentum"}
    for options in choices:
        fit_plan(*small_plan(**{"optimizer": "adam", **options}))
        counts.append(count_programs(*programs))
    (evaluations, inits), same, other = counts
    assert same == [evaluations, inits]
    assert other == [evaluations, inits + 1]


@pytest.mark.parametrize("model", ["mlp", "carrying"])
@pytest.mark.parametrize("segments", [1, 3, 8])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(model, segments, carrying, monkeypatch):
    """Also if the last of an epoch's segments is shorter, as of 3 segments of 8 steps."""
    layout.cache_clear()
    monkeypatch.setattr("mnistjax.layout.GATHER_ROWS", 32)
    flops = layouts.epoch_flops(small_plan(model=model, batch_size=30)[0].spec)
    monkeypatch.setattr("mnistjax.layout.SEGMENT_FLOPS", flops / segments * 1.3)
    options = {"model": model, "optimizer": "adam", "schedule": "cosine", "batch_size": 30}
    plan, data = small_plan(stopping=Stopping(3, keep="best", monitor="val/accuracy"), **options)
    assert layout(plan.spec).segment_steps == {1: 8, 3: 3, 8: 1}[segments]
    seen = []
    straight = fit_plan(plan, data, callbacks=[lambda p: seen.append((p.snapshot(), p.epoch))])
    assert len(seen) == 3 * segments
    for snapshot, epoch in seen[:: 5 if segments == 8 else 1]:
        resumed = fit_plan(plan, data, snapshot=snapshot, rows=straight.rows[:epoch])
        assert_same(resumed.state, straight.state)
        assert_same(resumed.variables, straight.variables)
        assert without_seconds(resumed.rows) == without_seconds(straight.rows)
        assert (resumed.test, resumed.kept_epoch) == (straight.test, straight.kept_epoch)
    layout.cache_clear()


@pytest.mark.parametrize("width", [1, 2])
def test_a_run_resumes_to_the_same_bits_under_another_layout(width, monkeypatch):
    """As after an update of JAX that counts other operations: it begins inside what is now a segment."""
    plan, data = small_plan(batch_size=30, epochs=2)
    flops = layouts.epoch_flops(plan.spec)

    def train(steps, gather=4096, **more):
        """The Result of a run in segments of about so many of 8 steps, and its snapshots by step."""
        monkeypatch.setattr("mnistjax.layout.GATHER_ROWS", gather)
        monkeypatch.setattr("mnistjax.layout.SEGMENT_FLOPS", flops / 8 * steps)
        layout.cache_clear()
        programs.segment_program.cache_clear()
        programs.lanes_program.cache_clear()
        seen = []
        watch = [lambda p: seen.append((p.step, p.snapshot()))]
        own, other = (Run(plan.hyper, seed, plan.stopping, callbacks=watch, **more) for seed in (0, 0))
        program = make_program(plan.spec, data, width=width)
        results = dict(fit_runs(program, [[own], [other]] if width > 1 else [[own]]))
        return results[own], dict(seen)

    straight, snapshots = train(3.1, gather=30)
    assert [*snapshots] == [3, 6, 8, 11, 14, 16]
    for steps, gather in ((8, 4096), (8, 120), (4, 4096), (2, 4096)):
        for step in (3, 6):
            resumed, _ = train(steps, gather, snapshot=snapshots[step])
            assert_same(resumed, straight)
    layout.cache_clear()


def test_callbacks_see_every_epoch_and_snapshots_are_their_own():
    plan, data = small_plan(epochs=3)
    seen = []
    result = fit_plan(plan, data, callbacks=[lambda p: seen.append((p, p.snapshot()))])
    assert [p.row for p, _ in seen] == result.rows
    assert [p.final for p, _ in seen] == [False, False, True]
    assert [p.examples_seen for p, _ in seen] == [230, 460, 690]
    assert [int(s["state"].step) for _, s in seen] == [8, 16, 24]
    keys = ["epoch", "examples_seen", "seconds"]
    keys += [f"{part}/{name}" for part in ("train", "val") for name in ("loss", "accuracy", "f1")]
    assert list(result.rows[0]) == keys
    assert result.rows[-1]["train/accuracy"] > result.rows[0]["train/accuracy"]


def test_a_run_learns():
    result = fit_plan(*small_plan(epochs=30, optimizer="adam", optimizer_options={"learning_rate": 0.01}))
    assert result.status == "done"
    assert result.test is not None
    assert result.test["accuracy"] > 0.95


@pytest.mark.parametrize("batch_size", [32, "all"])
def test_divergence_ends_the_run(batch_size):
    """In its first epoch, of which only the validation loss tells it if there is one step."""
    options = {"optimizer": "sgd", "optimizer_options": {"learning_rate": 1e30}}
    plan, data = small_plan(batch_size=batch_size, epochs=5, **options)
    result = fit_plan(plan, data)
    assert result.status == "diverged"
    assert result.epoch == len(result.rows) == 1
    assert result.reason is not None
    assert f"epoch {result.epoch}" in result.reason
    assert result.test is None


def test_early_stopping_and_the_best_epoch():
    stopping = Stopping(60, patience=3, keep="best", monitor="val/loss")
    plan, data = small_plan(stopping=stopping, optimizer="adam", optimizer_options={"learning_rate": 0.05})
    result = fit_plan(plan, data)
    losses = [row["val/loss"] for row in result.rows]
    best = int(np.argmin(losses)) + 1
    assert result.status == "done"
    assert result.epoch == best + 3 < 60
    assert result.kept_epoch == best
    kept = summarize("multiclass", evaluate(plan.spec, result.variables, data.val.images, data.val.labels))
    assert kept["loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize(("epochs", "status"), [(5, "interrupted"), (2, "done")])
def test_a_run_stopped_before_its_last_epoch_is_interrupted(epochs, status):
    plan, data = small_plan(epochs=epochs)
    answers = iter([False, True])
    result = fit_plan(plan, data, stop=lambda: next(answers))
    assert (result.status, result.epoch, result.test is None) == (status, 2, status != "done")


@pytest.mark.parametrize(("monitor", "best"), [("val/loss", 2), ("val/accuracy", 1)])
def test_of_equal_epochs_the_first_is_the_best(monitor, best):
    rows = [{"epoch": epoch, monitor: value} for epoch, value in enumerate((0.9, 0.1, 0.9, 0.1), start=1)]
    assert best_epoch(rows, monitor) == best


def test_data_that_does_not_fit_is_refused():
    plan, _ = small_plan()
    with pytest.raises(ConfigError, match="230 training images; made_up has 100"):
        fit(plan.spec, plan.hyper, data=made_up_data(train=100))
    with pytest.raises(ConfigError, match="10 classes; made_up has 2"):
        fit(plan.spec, plan.hyper, data=to_binary(made_up_data(), 1))


def test_a_start_that_is_not_all_used_is_refused():
    plan, data = small_plan(epochs=1)
    trained = fit_plan(plan, data).variables
    kernel = trained["params"]["Dense_0"]["kernel"]
    wrong = {
        r"its Dense_0/bias is \(8,\), not in this mlp": trained["params"],
        r"its params/Dense_7/kernel is \(784, 8\), not in": {"params": {"Dense_7": {"kernel": kernel}}},
        r"kernel is \(8, 784\), \(784, 8\) here": {"params": {"Dense_0": {"kernel": kernel.T}}},
        r"start must be variables, .* got a list": [trained],
    }
    for error, start in wrong.items():
        with pytest.raises(ConfigError, match=error):
            fit_plan(plan, data, start=start)
    assert fit_plan(plan, data, start={"params": {"Dense_0": {"kernel": kernel}}}).status == "done"


def test_a_snapshot_needs_the_rows_up_to_it():
    plan, data = small_plan(epochs=3)
    seen = []
    whole = fit_plan(plan, data, callbacks=[lambda progress: seen.append(progress.snapshot())])
    for count in (0, 3):
        with pytest.raises(ConfigError, match=f"a snapshot after 2 epochs needs their rows; got {count}"):
            fit_plan(plan, data, snapshot=seen[1], rows=whole.rows[:count])
