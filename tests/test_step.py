"""One step against the loop one would write by hand."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnistjax import programs, to_binary
from mnistjax.config import ConfigError
from mnistjax.data import Split
from mnistjax.evaluation import forward
from mnistjax.layout import epoch_rows
from mnistjax.loop import fit_runs
from mnistjax.programs import make_program
from mnistjax.run import Run
from mnistjax.step import DROPOUT, build_model, init, initial_state, variables_of
from small import (
    assert_same,
    count_traces,
    fit_plan,
    made_up_data,
    make_batches,
    small_plan,
    train_segment,
)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
@pytest.mark.parametrize(("batch", "micro"), [(32, 32), (32, 8), (32, 5), (230, 230), (230, 64), (230, 7)])
def test_an_epoch_equals_a_plain_loop(task, batch, micro):
    """230 images: the last batch of 32 is ragged, and 230 is no multiple of 64 or 7."""
    data = made_up_data() if task == "multiclass" else to_binary(made_up_data(), 3)
    positive = None if task == "multiclass" else 3
    sizes = {"batch_size": batch, "micro_batch": micro}
    rate = {"optimizer": "sgd", "optimizer_options": {"learning_rate": 0.3}}
    plan, _ = small_plan(data=data, positive=positive, epochs=1, **sizes, **rate)
    state = init(plan.spec, plan.hyper, jax.random.key(0))
    params = jax.tree.map(jnp.array, state.params)
    rows = epoch_rows(plan.spec, seed=0, epoch=0)
    batches = make_batches(plan.spec, data, rows)
    ours = train_segment(plan.spec, plan.hyper, jax.random.key(0), state, batches)

    def mean_loss(params, images, labels):
        logits = forward(plan.spec, {"params": params}, images)
        if task == "binary":
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    for step in rows.reshape(plan.spec.steps_per_epoch, -1):
        step = step[step >= 0]
        gradients = jax.grad(mean_loss)(params, data.train.images[step], data.train.labels[step])
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradients)
    for one, other in zip(jax.tree.leaves(ours.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert int(jnp.sum(ours.sums.confusion)) == 230


def test_batch_statistics_and_dropout_live_in_the_state(carrying):
    """Against a loop by hand, with the last batch filled up by real images of weight 0."""
    data = made_up_data(train=64)
    plan, _ = small_plan(data=data, model=carrying, optimizer="sgd", batch_size=32, epochs=1)
    assert plan.spec.micro_batch == 32
    state = init(plan.spec, plan.hyper, key := jax.random.key(0))
    variables = jax.tree.map(jnp.array, variables_of(state))
    rows = epoch_rows(plan.spec, seed=0, epoch=0)
    ours = train_segment(plan.spec, plan.hyper, key, state, make_batches(plan.spec, data, rows))
    model, params, statistics = build_model(plan.spec), variables["params"], variables["batch_stats"]

    def loss(params, statistics, images, labels, dropout_key):
        logits, updated = model.apply(
            {"params": params, "batch_stats": statistics},
            images[..., None],
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated["batch_stats"]

    for index, step in enumerate(rows.reshape(2, 32)):
        step_key = jax.random.fold_in(jax.random.fold_in(jax.random.clone(key), DROPOUT), index)
        gradients, statistics = jax.grad(loss, has_aux=True)(
            params,
            statistics,
            data.train.images[step],
            data.train.labels[step],
            jax.random.fold_in(step_key, 0),
        )
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradients)
    expected = {"params": params, "batch_stats": statistics}
    for one, other in zip(jax.tree.leaves(variables_of(ours)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_full_batch_needs_no_memory_of_its_size():
    """A full batch in micro-batches is the full batch: the same step, whatever their size."""
    results = [
        fit_plan(*small_plan(batch_size="all", micro_batch=micro, epochs=3)).variables
        for micro in (230, 50, 1)
    ]
    for other in results[1:]:
        for one, two in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_dead_neuron_in_one_lane_leaves_the_others_alone():
    """The training step is vmap-safe: a lane that goes NaN changes no bit of its neighbours."""
    plan, data = small_plan(optimizer="sgd")
    keys = jax.random.split(jax.random.key(0), 3)
    batches = make_batches(plan.spec, data, epoch_rows(plan.spec, seed=0, epoch=0))

    def epoch(learning_rate, key):
        hyper = {"optimizer": {"learning_rate": learning_rate}, "schedule": {}}
        state = initial_state(plan.spec, hyper, key)
        return programs.train_segment(plan.spec, hyper, key, state, batches).params

    good = jax.jit(jax.vmap(epoch))(jnp.array([0.1, 0.2, 0.3]), keys)
    bad = jax.jit(jax.vmap(epoch))(jnp.array([0.1, jnp.nan, 0.3]), jax.random.clone(keys))
    for one, other in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
        np.testing.assert_array_equal(one[::2], other[::2])
        assert jnp.all(jnp.isnan(other[1]))


def uneven_data(repeated=1):
    """Two classes of 60 and 30 images; those of the second are there `repeated` times."""
    data = made_up_data(train=400, classes=2)
    first, second = (
        np.flatnonzero(data.train.labels == label)[:count] for label, count in ((0, 60), (1, 30))
    )
    rows = np.concatenate([first, *[second] * repeated])
    return replace(data, train=Split(data.train.images[rows], data.train.labels[rows]))


def sgd_plan(data, **options):
    rate = {"optimizer": "sgd", "optimizer_options": {"learning_rate": 0.3}}
    return small_plan(data=data, epochs=3, **rate, **options)[0]


def weigh(data, **options):
    return sgd_plan(data, class_weights="balanced", **options)


@pytest.mark.parametrize("micro_batch", [90, 32, 7])
@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_weights_of_classes_are_as_repeated_images(task, micro_batch):
    """Images of a class with half as many are there twice: the gradients of full batches are equal."""
    once, twice = uneven_data(), uneven_data(repeated=2)
    own: Any = {"batch_size": "all", "positive": 1 if task == "binary" else None}
    weighted = weigh(once, micro_batch=micro_batch, **own)
    assert weighted.hyper["loss"]["class_weights"] == (0.75, 1.5)
    repeated = sgd_plan(twice, **own)
    one, other = fit_plan(weighted, once), fit_plan(repeated, twice)
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    plain = fit_plan(sgd_plan(once, **own), once)
    assert not np.allclose(*(jax.tree.leaves(each.variables)[1] for each in (one, plain)), atol=1e-3)
    assert one.rows[0]["train/loss"] == pytest.approx(plain.rows[0]["train/loss"], rel=1e-6)  # it stays plain
    assert one.rows[0]["train/loss"] != pytest.approx(other.rows[0]["train/loss"], rel=1e-3)


def test_equal_classes_weigh_as_without_weights():
    data = uneven_data(repeated=2)
    weighted, plain = weigh(data), sgd_plan(data)
    assert weighted.hyper["loss"]["class_weights"] == (1.0, 1.0)
    assert set(weighted.spec.hyper_names) - set(plain.spec.hyper_names) == {"loss.class_weights"}
    assert "loss" not in plain.hyper
    one, other = fit_plan(weighted, data), fit_plan(plain, data)
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_other_weights_of_classes_need_no_new_program(monkeypatch):
    data, traced = uneven_data(), count_traces(monkeypatch)
    other = replace(data, train=Split(data.train.images, np.roll(data.train.labels, 5) ^ 1))
    plans = [weigh(data), weigh(other)]
    assert plans[0].spec == plans[1].spec
    assert plans[0].hyper["loss"] != plans[1].hyper["loss"]
    for plan, own in zip(plans, (data, other), strict=True):
        fit_plan(plan, own)
    assert len(traced) == 1


def test_weighted_runs_resume_and_train_in_lanes():
    data, seen = uneven_data(), []
    plan = weigh(data, micro_batch=8)
    straight = fit_plan(plan, data, callbacks=[lambda p: seen.append(p.snapshot())])
    assert_same(fit_plan(plan, data, snapshot=seen[0], rows=straight.rows[:1]), straight)
    runs = [Run(plan.hyper, seed, plan.stopping) for seed in range(2)]
    lanes = dict(fit_runs(make_program(plan.spec, data, width=2), [[run] for run in runs]))
    for a, b in zip(*(jax.tree.leaves(each.variables) for each in (lanes[runs[0]], straight)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_devices_share_a_weighted_step(monkeypatch):
    monkeypatch.setattr("mnistjax.devices.LARGE_STEP_FLOPS", 0)
    data = uneven_data()
    plan = weigh(data, micro_batch=8)
    results = [
        dict(fit_runs(make_program(plan.spec, data, spread=spread), [[run := Run(plan.hyper)]]))[run]
        for spread in (True, False)
    ]
    assert_same(*results)


def test_a_class_without_training_images_has_no_weight():
    data = uneven_data()
    data = replace(data, train=Split(data.train.images, np.zeros_like(data.train.labels)))
    with pytest.raises(ConfigError, match=r"^train.class_weights=balanced: made_up has no .* of class '1'$"):
        weigh(data)
    with pytest.raises(ConfigError, match=r"^train.class_weights must be balanced or null; got 'even'$"):
        small_plan(class_weights="even")
