"""One step against the loop one would write by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnistjax import programs, to_binary
from mnistjax.layout import epoch_rows
from mnistjax.step import DROPOUT, build_model, forward, init, initial_state, variables_of
from small import fit_plan, made_up_data, make_batches, small_plan, train_segment


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
