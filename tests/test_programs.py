"""Many runs of one Spec through one program: bits, order, endings."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnistjax.config import Stopping
from mnistjax.devices import lane_mesh
from mnistjax.evaluation import evaluate_lanes
from mnistjax.loop import fit, fit_runs
from mnistjax.programs import make_program
from mnistjax.run import Run
from mnistjax.step import initial_state, variables_of
from small import assert_same, count_traces, made_up_data, small_plan

"""Many runs of one Spec through one program: bits, order, endings."""

STOPPING = Stopping(3, keep="best", monitor="val/accuracy")


def make_runs(count, **options):
    """Runs of one Spec that differ in learning rate and seed."""
    plans = [
        small_plan(
            optimizer="momentum",
            schedule="cosine",
            optimizer_options={"learning_rate": 0.05 / (1 + index)},
            seed=index,
            stopping=STOPPING,
            **options,
        )[0]
        for index in range(count)
    ]
    assert len({plan.spec for plan in plans}) == 1
    return plans[0].spec, [Run(plan.hyper, plan.seed, plan.stopping) for plan in plans]


def train(spec, runs, width=1):
    results = dict(fit_runs(make_program(spec, made_up_data(), width=width), [[run] for run in runs]))
    return [results[run] for run in runs]


def fit_alone(spec, run):
    return fit(spec, run.hyper, data=made_up_data(), seed=run.seed, stopping=run.stopping)


def assert_close(one, other):
    """Within the stated tolerance of `sweep.mode=vmap`."""
    for a, b in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(other.state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("shuffle", ["own", "shared"])
def test_one_lane_has_the_bits_of_single_runs(shuffle):
    spec, runs = make_runs(3, shuffle=shuffle)
    for run, result in zip(runs, train(spec, runs), strict=True):
        assert_same(result, fit_alone(spec, run))


def make_normalised_runs(count):
    """Runs with batch statistics, dropout and augmentation."""
    options = {"channels": [2], "convolutions": [1], "hidden": [4], "dropout": 0.3}
    return make_runs(count, model="cnn_bn", model_options=options, augment_options={"shift": 2.0})


def test_a_lane_has_its_own_statistics_dropout_and_augmentation():
    spec, runs = make_normalised_runs(3)
    alone = [fit_alone(spec, run) for run in runs]
    for run, one, result in zip(runs, alone, train(spec, runs), strict=True):
        assert_same(result, one)
        assert set(result.variables) == {"params", "batch_stats"}, run
    means = []
    for one, result in zip(alone, train(spec, runs, width=3), strict=True):
        assert_close(result, one)
        found, expected = (each.variables["batch_stats"] for each in (result, one))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
        means.append(found["BatchNorm_0"]["mean"])
    assert not np.allclose(means[0], means[1], atol=1e-3)


ORDERS = {"one seed": {}, "shared order": {"shuffle": "shared"}, "full batch": {"batch_size": "all"}}


def make_interleaved(kind):
    """Four runs that read the images in one order, and the third for fewer epochs."""
    spec, runs = make_runs(4, **ORDERS[kind])
    if kind == "one seed":
        runs = [dataclasses.replace(run, seed=5) for run in runs]
    runs[2] = dataclasses.replace(runs[2], stopping=Stopping(1))
    return spec, runs


def interleave(spec, runs, **more):
    results = dict(fit_runs(make_program(spec, made_up_data()), [runs], **more))
    return [results[run] for run in runs]


@pytest.mark.parametrize("kind", ORDERS)
def test_interleaved_runs_have_the_bits_of_single_runs(kind):
    spec, runs = make_interleaved(kind)
    for run, result in zip(runs, interleave(spec, runs), strict=True):
        assert_same(result, fit_alone(spec, run))


@pytest.mark.parametrize("kind", ORDERS)
def test_interleaved_runs_continue_when_one_diverges_or_fails(kind):
    def fail(progress):
        raise RuntimeError("mine")

    spec, runs = make_interleaved(kind)
    good = interleave(spec, runs)
    optimizer = {**runs[0].hyper["optimizer"], "learning_rate": 1e30}
    diverging = dataclasses.replace(runs[0], hyper={**runs[0].hyper, "optimizer": optimizer})
    failing = dataclasses.replace(runs[3], callbacks=[fail])
    mixed = [diverging, runs[1], runs[2], failing]
    ended = list(fit_runs(make_program(spec, made_up_data()), [mixed]))
    assert [mixed.index(run) for run, _ in ended][-1] == 1  # the others end before it, and are not kept
    results = dict(ended)
    assert [results[run].status for run in mixed] == ["diverged", "done", "done", "failed"]
    for index in (1, 2):
        assert_same(results[runs[index]], good[index])


def test_interleaved_runs_of_two_orders_are_refused():
    spec, runs = make_runs(2)
    with pytest.raises(ValueError, match="one seed"):
        interleave(spec, runs)


def test_a_stop_ends_interleaved_runs_and_begins_no_other():
    spec, runs = make_interleaved("full batch")
    ended = list(fit_runs(make_program(spec, made_up_data()), [runs[:2], runs[2:]], stop=lambda: True))
    assert [result.status for _, result in ended] == ["interrupted"] * 2


@pytest.mark.parametrize("shuffle", ["own", "shared"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_many_lanes_are_close_to_single_runs(shuffle, model):
    small = {"model": model, "model_options": {"channels": [2], "hidden": [4]}} if model == "cnn" else {}
    spec, runs = make_runs(3, shuffle=shuffle, **small)
    results = train(spec, runs, width=3)
    assert [result.lanes for result in results] == [3, 3, 3]
    for run, result in zip(runs, results, strict=True):
        assert_close(result, fit_alone(spec, run))


@pytest.mark.parametrize(
    "options",
    [
        {"model_options": {"hidden": 8, "dropout": 0.3}},
        {"augment_options": {"shift": 2.0}},
        {"model": "cnn_bn", "model_options": {"channels": [2], "convolutions": [1]}},
    ],
    ids=["dropout", "augmentation", "batch statistics"],
)
def test_lanes_of_a_ragged_full_batch_are_close_to_single_runs(options):
    """An image has its random numbers, and its neighbours in a batch, also in the last micro-batch."""
    spec, runs = make_runs(2, batch_size="all", micro_batch=64, **options)
    assert spec.train_count % spec.micro_batch
    for run, result in zip(runs, train(spec, runs, width=2), strict=True):
        assert_close(result, fit_alone(spec, run))


@pytest.mark.parametrize("shuffle", ["own", "shared"])
def test_a_lanes_bits_depend_on_the_width_alone(shuffle):
    """Not on neighbours, on the place, or on how a group was split: short groups have idle lanes."""
    spec, runs = make_runs(6, shuffle=shuffle)
    together = train(spec, runs, width=4)
    for part in (runs[:1], runs[1:3], runs[3:]):
        for run, result in zip(part, train(spec, part, width=4), strict=True):
            assert_same(result, together[runs.index(run)])


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("shuffle", ["own", "shared"])
def test_a_lane_that_diverges_changes_no_bit_of_its_neighbours(width, shuffle):
    spec, runs = make_runs(3, shuffle=shuffle)
    optimizer = {**runs[1].hyper["optimizer"], "learning_rate": 1e30}
    bad = dataclasses.replace(runs[1], hyper={**runs[1].hyper, "optimizer": optimizer})
    good = train(spec, runs, width=width)
    first, diverged, last = train(spec, [runs[0], bad, runs[2]], width=width)
    assert diverged.status == "diverged"
    assert diverged.reason == f"the loss is not finite in epoch {diverged.epoch}"
    assert_same(first, good[0])
    assert_same(last, good[2])


@pytest.mark.parametrize("shuffle", ["own", "shared"])
def test_lanes_resume_to_the_same_bits(shuffle):
    """Each from where it was stopped, even if that is not where its neighbours were."""
    spec, runs = make_runs(3, shuffle=shuffle)
    seen = {}
    watched = [
        dataclasses.replace(
            run,
            callbacks=[
                lambda progress, n=n: seen.setdefault(
                    (n, progress.epoch), (progress.snapshot(), progress.row)
                )
            ],
        )
        for n, run in enumerate(runs)
    ]
    straight = train(spec, watched, width=2)
    stopped = [
        dataclasses.replace(
            run, snapshot=seen[n, epoch][0], rows=[seen[n, e][1] for e in range(1, epoch + 1)]
        )
        for n, (run, epoch) in enumerate(zip(runs, (2, 1, 2), strict=True))
    ]
    for one, other in zip(straight, train(spec, stopped, width=2), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("width", [1, 2])
def test_a_stop_ends_the_lanes_and_begins_no_other(width):
    spec, runs = make_runs(5)
    taken = []

    def take():
        for run in runs:
            taken.append(run)
            yield [run]

    ended = list(fit_runs(make_program(spec, made_up_data(), width=width), take(), stop=lambda: True))
    assert [result.status for _, result in ended] == ["interrupted"] * width
    assert len(taken) == width


@pytest.mark.parametrize("width", [1, 2])
def test_a_callback_that_raises_fails_its_run_alone(width):
    def fail(progress):
        raise RuntimeError("mine")

    spec, runs = make_runs(3)
    bad = dataclasses.replace(runs[0], callbacks=[fail])
    results = train(spec, [bad, *runs[1:]], width=width)
    assert [result.status for result in results] == ["failed", "done", "done"]
    assert results[0].reason == "RuntimeError: mine"
    with pytest.raises(RuntimeError, match="mine"):
        fit(spec, bad.hyper, data=made_up_data(), callbacks=[fail])


def test_lanes_are_one_program_for_all_learning_rates_and_seeds(monkeypatch):
    spec, runs = make_runs(7, batch_size=46)
    traced = count_traces(monkeypatch)
    train(spec, runs)
    train(spec, runs, width=3)
    train(spec, runs[:2], width=3)
    assert len(traced) == 2


def test_lanes_are_spread_over_every_device():
    count = jax.device_count()
    spec, runs = make_runs(1)
    state = initial_state(spec, runs[0].hyper, jax.random.key(0))
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2 * count), variables_of(state))
    val = made_up_data().val
    sums = evaluate_lanes(spec, lanes, val.images, val.labels)
    assert len(sums.loss.sharding.device_set) == count
    assert lane_mesh(2 * count + 1).size == 1 or count == 1


@pytest.mark.slow
def test_this_holds_on_three_devices():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "3"}
    code = "import jax, pytest, sys; assert jax.device_count() == 3; sys.exit(pytest.main(sys.argv[1:]))"
    some = "width_alone or diverges or resume or one_program or every_device"
    subprocess.run([sys.executable, "-c", code, "-q", __file__, "-k", some], env=environment, check=True)
