import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax import register_model, to_binary
from mnistjax.config import ConfigError, Stopping
from mnistjax.loop import fit, pad
from mnistjax.metrics import summarize
from mnistjax.models import MODELS
from mnistjax.train import (
    DROPOUT,
    build_model,
    count_shares,
    epoch_rows,
    evaluate,
    evaluate_on,
    forward,
    init,
    initial_state,
    layout,
    predict,
    train_segment,
    variables_of,
)
from small import made_up_data, make_batches, small_plan


def run(plan, data, **more):
    return fit(plan.spec, plan.hyper, seed=plan.seed, data=data, stopping=plan.stopping, **more)


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


class Carrying(nn.Module):
    """A model with batch statistics and dropout."""

    num_classes: int = 10
    rate: float = 0.3

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1) / 255
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(12)(x))
        return nn.Dense(self.num_classes)(nn.Dropout(self.rate, deterministic=not train)(nn.relu(x)))


@pytest.fixture
def carrying():
    register_model("carrying", Carrying)
    yield "carrying"
    del MODELS["carrying"]


# What an epoch visits


@settings(max_examples=60)
@given(
    count=st.integers(1, 300),
    batch=st.integers(1, 300),
    micro=st.integers(1, 300),
    epoch=st.integers(0, 3),
    shuffle=st.sampled_from(["own", "shared"]),
)
def test_an_epoch_visits_every_image_once(count, batch, micro, epoch, shuffle):
    plan, _ = small_plan()
    batch = min(batch, count)
    spec = dataclasses.replace(
        plan.spec, train_count=count, batch_size=batch, micro_batch=min(micro, batch), shuffle=shuffle
    )
    rows = epoch_rows(spec, seed=1, epoch=epoch)
    assert rows.shape[:3] == layout(spec)
    assert np.prod(layout(spec)) == spec.steps_per_epoch
    assert sorted(rows[rows >= 0].tolist()) == list(range(count))
    assert (~rows[rows < 0] < count).all()
    sizes = (rows.reshape(spec.steps_per_epoch, -1) >= 0).sum(axis=1)
    assert (sizes[:-1] == batch).all()
    assert sizes[-1] == count - batch * (spec.steps_per_epoch - 1)


def test_the_order_differs_by_epoch_and_seed_unless_shared():
    plan, _ = small_plan()
    own, shared = plan.spec, dataclasses.replace(plan.spec, shuffle="shared")
    first = epoch_rows(own, seed=0, epoch=0)
    assert not np.array_equal(first, epoch_rows(own, seed=0, epoch=1))
    assert not np.array_equal(first, epoch_rows(own, seed=1, epoch=0))
    np.testing.assert_array_equal(first, epoch_rows(own, seed=0, epoch=0))
    np.testing.assert_array_equal(epoch_rows(shared, seed=0, epoch=0), epoch_rows(shared, seed=1, epoch=0))


# An epoch is the loop one would write by hand


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
    batches = make_batches(plan.spec, data, rows[0])
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


def test_pieces_that_change_batch_statistics_stay_on_one_device(carrying, monkeypatch):
    """Each finds those of the one before it; devices side by side would end with different ones."""
    monkeypatch.setattr("mnistjax.train.LARGE_STEP_FLOPS", 0)
    options: dict[str, Any] = {"batch_size": 32, "micro_batch": 8}
    assert count_shares(small_plan(model=carrying, **options)[0].spec) == 1
    assert count_shares(small_plan(**options)[0].spec) == min(4, jax.device_count())


def test_batch_statistics_and_dropout_live_in_the_state(carrying):
    """Against a loop by hand, with the last batch filled up by real images of weight 0."""
    data = made_up_data(train=64)
    plan, _ = small_plan(data=data, model=carrying, optimizer="sgd", batch_size=32, epochs=1)
    assert plan.spec.micro_batch == 32
    state = init(plan.spec, plan.hyper, key := jax.random.key(0))
    variables = jax.tree.map(jnp.array, variables_of(state))
    rows = epoch_rows(plan.spec, seed=0, epoch=0)
    ours = train_segment(plan.spec, plan.hyper, key, state, make_batches(plan.spec, data, rows[0]))
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
    """A full batch in pieces is the full batch: the same step, whatever the pieces."""
    results = [
        run(*small_plan(batch_size="all", micro_batch=micro, epochs=3)).variables for micro in (230, 50, 1)
    ]
    for other in results[1:]:
        for one, two in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)


# Evaluation


@pytest.mark.parametrize("count", [1, 53, 500, 501, 1300])
def test_evaluation_counts_every_image_once(count):
    data = made_up_data(test=count)
    plan, _ = small_plan(data=data)
    variables = variables_of(init(plan.spec, plan.hyper, jax.random.key(0)))
    summary = summarize("multiclass", evaluate(plan.spec, variables, data.test.images, data.test.labels))
    shares = predict(plan.spec, variables, data.test.images)
    assert summary["count"] == count == len(shares)
    assert summary["accuracy"] == pytest.approx(np.mean(shares.argmax(axis=1) == data.test.labels))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    picked = np.log(shares[np.arange(count), data.test.labels])
    assert summary["loss"] == pytest.approx(-picked.mean(), rel=1e-4)
    padded = pad(data.test, 777)
    sums = evaluate(plan.spec, variables, padded.images, padded.labels)
    assert len(padded.images) == max(count, 777)
    assert summarize("multiclass", sums)["confusion_matrix"] == summary["confusion_matrix"]
    assert summarize("multiclass", sums)["loss"] == pytest.approx(summary["loss"], rel=1e-6)


def test_the_test_set_is_touched_only_at_the_end(monkeypatch):
    plan, data = small_plan(epochs=2)
    seen = []

    def spy(mesh, spec, variables, images, labels):
        seen.append(len(images))
        return evaluate_on(mesh, spec, variables, images, labels)

    monkeypatch.setattr("mnistjax.loop.evaluate_on", spy)
    run(plan, data)
    assert seen == [37, 37, 53]
    seen.clear()
    assert run(plan, data, stop=lambda: True).test is None
    assert 53 not in seen


# Runs


def test_the_same_run_twice_has_the_same_bits():
    one, other = run(*small_plan()), run(*small_plan())
    assert_same(one.state, other.state)
    assert without_seconds(one.rows) == without_seconds(other.rows)
    assert one.test == other.test


def count_programs(*jitted: Any) -> list[int]:
    return [function._cache_size() for function in jitted]


def test_another_learning_rate_or_seed_or_length_is_no_new_program():
    make = functools.partial(small_plan, schedule="cosine", optimizer="adam")
    plan, data = make()
    run(plan, data)
    before = count_programs(train_segment, evaluate_on, init)
    faster = make(optimizer_options={"learning_rate": 0.02, "b1": 0.5})
    for other, _ in (faster, make(seed=5), make(stopping=Stopping(3))):
        assert other.spec == plan.spec
        assert other.identity != plan.identity
        run(other, data)
    assert count_programs(train_segment, evaluate_on, init) == before


@pytest.mark.parametrize("model", ["mlp", "carrying"])
@pytest.mark.parametrize("segments", [1, 4])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(model, segments, carrying, monkeypatch):
    monkeypatch.setattr("mnistjax.train.SEGMENT_FLOPS", 1e12 if segments == 1 else 1e3)
    monkeypatch.setattr("mnistjax.train.GATHER_ROWS", 32)
    layout.cache_clear()
    options = {"model": model, "optimizer": "adam", "schedule": "cosine", "batch_size": 30}
    plan, data = small_plan(stopping=Stopping(3, keep="best", monitor="val/accuracy"), **options)
    assert layout(plan.spec).segments == (1 if segments == 1 else 8)
    moments = []
    straight = run(plan, data, observers=[lambda moment: moments.append((moment.snapshot(), moment.epoch))])
    assert len(moments) == 3 * layout(plan.spec).segments
    for snapshot, epoch in moments[:: 1 if segments == 1 else 5]:
        resumed = run(plan, data, snapshot=snapshot, rows=straight.rows[:epoch])
        assert_same(resumed.state, straight.state)
        assert_same(resumed.variables, straight.variables)
        assert without_seconds(resumed.rows) == without_seconds(straight.rows)
        assert (resumed.test, resumed.kept_epoch) == (straight.test, straight.kept_epoch)
    layout.cache_clear()


def test_observers_see_every_epoch_and_snapshots_are_their_own():
    plan, data = small_plan(epochs=3)
    moments = []
    result = run(plan, data, observers=[lambda m: moments.append((m, m.snapshot()))])
    assert [m.row for m, _ in moments] == result.rows
    assert [m.final for m, _ in moments] == [False, False, True]
    assert [m.examples_seen for m, _ in moments] == [230, 460, 690]
    assert [int(s["state"].step) for _, s in moments] == [8, 16, 24]
    keys = ["epoch", "examples_seen", "seconds"]
    keys += [f"{part}/{name}" for part in ("train", "val") for name in ("loss", "accuracy", "f1")]
    assert list(result.rows[0]) == keys
    assert result.rows[-1]["train/accuracy"] > result.rows[0]["train/accuracy"]


def test_a_run_learns():
    result = run(*small_plan(epochs=30, optimizer="adam", optimizer_options={"learning_rate": 0.01}))
    assert result.status == "done"
    assert result.test is not None
    assert result.test["accuracy"] > 0.95


def test_divergence_ends_the_run():
    plan, data = small_plan(optimizer="sgd", optimizer_options={"learning_rate": 1e30}, epochs=5)
    result = run(plan, data)
    assert result.status == "diverged"
    assert result.epoch == len(result.rows) < 5
    assert result.reason is not None
    assert f"epoch {result.epoch}" in result.reason
    assert result.test is None


def test_early_stopping_and_the_best_epoch():
    stopping = Stopping(60, patience=3, keep="best", monitor="val/loss")
    plan, data = small_plan(stopping=stopping, optimizer="adam", optimizer_options={"learning_rate": 0.05})
    result = run(plan, data)
    losses = [row["val/loss"] for row in result.rows]
    best = int(np.argmin(losses)) + 1
    assert result.status == "done"
    assert result.epoch == best + 3 < 60
    assert result.kept_epoch == best
    kept = summarize("multiclass", evaluate(plan.spec, result.variables, data.val.images, data.val.labels))
    assert kept["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_stopped_run_is_interrupted():
    plan, data = small_plan(epochs=5)
    answers = iter([False, True])
    result = run(plan, data, stop=lambda: next(answers))
    assert (result.status, result.epoch, result.test) == ("interrupted", 2, None)


def test_data_that_does_not_fit_is_refused():
    plan, _ = small_plan()
    with pytest.raises(ConfigError, match="230 training images; made_up has 100"):
        fit(plan.spec, plan.hyper, data=made_up_data(train=100))
    with pytest.raises(ConfigError, match="10 classes; made_up has 2"):
        fit(plan.spec, plan.hyper, data=to_binary(made_up_data(), 1))


def test_a_dead_neuron_in_one_lane_leaves_the_others_alone():
    """The training step is vmap-safe: a lane that goes NaN changes no bit of its neighbours."""
    plan, data = small_plan(optimizer="sgd")
    keys = jax.random.split(jax.random.key(0), 3)
    batches = make_batches(plan.spec, data, epoch_rows(plan.spec, seed=0, epoch=0)[0])

    def epoch(learning_rate, key):
        hyper = {"optimizer": {"learning_rate": learning_rate}, "schedule": {}}
        state = initial_state(plan.spec, hyper, key)
        return inspect.unwrap(train_segment)(plan.spec, hyper, key, state, batches).params

    good = jax.jit(jax.vmap(epoch))(jnp.array([0.1, 0.2, 0.3]), keys)
    bad = jax.jit(jax.vmap(epoch))(jnp.array([0.1, jnp.nan, 0.3]), jax.random.clone(keys))
    for one, other in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
        np.testing.assert_array_equal(one[::2], other[::2])
        assert jnp.all(jnp.isnan(other[1]))
