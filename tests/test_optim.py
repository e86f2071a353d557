"""Optimizers and schedules: they agree with Optax, learn, keep 32 bits, and refuse wrong numbers."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnistjax.augment import LIMITS
from mnistjax.config import ConfigError
from mnistjax.evaluation import evaluate, predict
from mnistjax.layout import epoch_rows
from mnistjax.loop import fit, fit_runs
from mnistjax.models import list_models
from mnistjax.optim import (
    OPTIMIZERS,
    SCHEDULES,
    check_numbers,
    learning_rate,
    list_optimizers,
    make_hyper,
    make_optimizer,
    optimizer_options,
    register_optimizer,
    schedule_options,
)
from mnistjax.programs import make_program
from mnistjax.run import Run
from mnistjax.step import initial_state, train_step
from mnistjax.zoo import load
from mnistjax.zoo.classify import classify
from small import ODD, make_batches, small_plan


def hyper_of(optimizer="sgd", schedule="constant", *, steps_per_epoch=10, epochs=10, sched=None, **values):
    numbers = check_numbers(optimizer, values, schedule, sched or {})
    return make_hyper(numbers, schedule, steps_per_epoch=steps_per_epoch, epochs=epochs)


def curve(schedule, steps=100, **options):
    """The factor of the learning rate at each step of a run of 10 epochs of 10 steps."""
    numbers = hyper_of(schedule=schedule, sched=options)["schedule"]
    rate = learning_rate(schedule, 1.0, numbers)
    return np.array([rate(jnp.array(t)) if numbers else rate for t in range(steps)])


def their_curve(schedule):
    return np.array([schedule(t) for t in range(100)])


def test_constant_is_constant_and_costs_nothing():
    assert hyper_of()["schedule"] == {}
    assert (curve("constant") == 1).all()


def test_cosine_equals_optax():
    theirs = optax.cosine_decay_schedule(1.0, 100, alpha=0.1)
    np.testing.assert_allclose(curve("cosine", final=0.1), their_curve(theirs), atol=1e-6)


def test_one_cycle_equals_optax():
    theirs = optax.cosine_onecycle_schedule(100, 1.0, pct_start=0.3, div_factor=25, final_div_factor=400)
    np.testing.assert_allclose(curve("one_cycle"), their_curve(theirs), atol=1e-6)


def test_step_equals_optax():
    theirs = optax.exponential_decay(1.0, 20, 0.5, staircase=True)
    np.testing.assert_allclose(curve("step", every="2 epochs", factor=0.5), their_curve(theirs), atol=1e-6)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_warm_up_rises_from_near_zero(schedule):
    warm, plain = curve(schedule, warmup="1 epoch"), curve(schedule)
    np.testing.assert_allclose(warm[:10], plain[:10] * np.arange(1, 11) / 10, rtol=1e-5)
    np.testing.assert_allclose(warm[10:], plain[10:], rtol=1e-6)


@pytest.mark.parametrize("optimizer", list_optimizers())
def test_every_optimizer_learns(optimizer):
    plan, data = small_plan(optimizer=optimizer, model_options={"hidden": 16}, epochs=3)
    rows = fit(plan.spec, plan.hyper, data=data, stopping=plan.stopping).rows
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def types(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def check_types(**options):
    """Asserts that a step gives a State of the same types if JAX's default is 64 bits."""
    plan, data = small_plan(batch_size=8, **options)
    key = jax.random.key(0)
    expected = types(jax.eval_shape(functools.partial(initial_state, plan.spec), plan.hyper, key))
    rows = epoch_rows(plan.spec, seed=0, epoch=0)
    batch = jax.tree.map(lambda leaf: leaf[0, 0, 0], make_batches(plan.spec, data, rows))
    with jax.enable_x64(True):
        assert jnp.zeros(()).dtype == jnp.float64
        state = jax.eval_shape(functools.partial(initial_state, plan.spec), plan.hyper, key)
        assert types(state) == expected
        step = functools.partial(train_step, plan.spec)
        assert types(jax.eval_shape(step, plan.hyper, key, state, batch)) == expected


@pytest.mark.parametrize("optimizer", list_optimizers())
def test_types_of_optimizers_stay_32_bits_wide(optimizer):
    check_types(optimizer=optimizer, optimizer_options={"clip_norm": 1.0})


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_types_of_schedules_stay_32_bits_wide(schedule):
    check_types(schedule=schedule, schedule_options={"warmup": "10%"})


@pytest.mark.parametrize("model", list_models())
def test_types_of_models_stay_32_bits_wide(model):
    check_types(model=model)


def test_types_of_augmented_images_stay_32_bits_wide():
    check_types(augment_options={**dict.fromkeys(LIMITS, 0.5), "crop": 1, "epochs": 1})


def test_types_of_weighted_classes_stay_32_bits_wide():
    check_types(class_weights="balanced")


def test_runs_have_the_same_bits_if_the_default_is_64():
    """A single run and lanes; an evaluation, probabilities, and a packaged model."""
    plan, data = small_plan(
        optimizer="radam", schedule="one_cycle", augment_options={"shift": 2, "erasing": 0.5}
    )
    images = data.test.images

    def results():
        run = fit(plan.spec, plan.hyper, data=data, stopping=plan.stopping)
        lanes = [Run(plan.hyper, seed, plan.stopping) for seed in (0, 1)]
        program = make_program(plan.spec, data, width=2)
        lanes = [result.state for _, result in fit_runs(program, [[run] for run in lanes])]
        sums = evaluate(plan.spec, run.variables, images, data.test.labels)
        trained = load("lenet5.mnist")
        shares = (
            predict(plan.spec, run.variables, images),
            classify(*trained, images),
            classify(*trained, images / 255),
        )
        return jax.tree.map(np.asarray, (run.state, lanes, sums, shares, run.rows[-1]["val/loss"]))

    plain = results()
    with jax.enable_x64(True):
        wide = results()
    assert types(plain) == types(wide)
    jax.tree.map(np.testing.assert_array_equal, plain, wide)


def test_weight_decay_and_clipping():
    def update(**values):
        plan, _ = small_plan(optimizer="sgd", optimizer_options={"learning_rate": 1.0, **values})
        optimizer = make_optimizer(plan.spec, plan.hyper)
        params, gradients = jnp.array([3.0, 4.0]), jnp.array([30.0, 40.0])
        return np.asarray(optimizer.update(gradients, optimizer.init(params), params)[0])

    np.testing.assert_allclose(update(), [-30, -40])
    np.testing.assert_allclose(update(clip_norm=5.0), [-3, -4], rtol=1e-6)
    np.testing.assert_allclose(update(weight_decay=0.1), [-30.3, -40.4], rtol=1e-6)
    both = update(clip_norm=5.0, weight_decay=0.1)  # the decay is not clipped
    np.testing.assert_allclose(both, [-3.3, -4.4], rtol=1e-6)


def test_an_absent_number_gives_another_spec():
    plain, _ = small_plan(optimizer="sgd")
    zero, _ = small_plan(optimizer="sgd", optimizer_options={"weight_decay": 0})
    some, _ = small_plan(optimizer="sgd", optimizer_options={"weight_decay": 1e-4})
    assert plain.spec != zero.spec
    assert zero.spec == some.spec


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"optimizer": "adamm"}, ["adamm", "adam"]),
        ({"schedule": "cosin"}, ["cosin", "cosine"]),
        ({"learning_rate": float("nan")}, ["optimizer.learning_rate", "> 0", "nan"]),
        ({"learning_rate": float("inf")}, ["optimizer.learning_rate", "finite", "inf"]),
        ({"learning_rate": 0}, ["optimizer.learning_rate", "> 0", "0"]),
        ({"learning_rate": -1}, ["optimizer.learning_rate", "> 0", "-1"]),
        ({"learning_rate": None}, ["optimizer.learning_rate", "None"]),
        ({"learning_rate": "fast"}, ["optimizer.learning_rate", "fast"]),
        ({"learning_rate": True}, ["optimizer.learning_rate", "True"]),
        ({"optimizer": "momentum", "momentum": 1}, ["optimizer.momentum", "< 1"]),
        ({"optimizer": "adamw", "weight_decay": None}, ["optimizer.weight_decay", "None"]),
        ({"momentun": 0.9}, ["momentun"]),
        ({"clip_norm": 0}, ["optimizer.clip_norm", "> 0"]),
        ({"schedule": "cosine", "sched": {"warmup": "abc"}}, ["schedule.warmup", "abc", "epochs"]),
        ({"schedule": "cosine", "sched": {"final": 2}}, ["schedule.final", "<= 1"]),
        ({"schedule": "cosine", "sched": {"warmup": "1e999 epochs"}}, ["schedule.warmup", "1e999 epochs"]),
        ({"schedule": "cosine", "sched": {"warmup": "1e400 steps"}}, ["schedule.warmup", "1e400 steps"]),
        ({"schedule": "cosine", "sched": {"warmup": "3e9 steps"}}, ["schedule.warmup", "3e9 steps"]),
        ({"schedule": "cosine", "sched": {"warmup": "nan epochs"}}, ["schedule.warmup", "nan epochs"]),
        ({"schedule": "cosine", "sched": {"warmup": False}}, ["schedule.warmup", "False"]),
        ({"learning_rate": 1e39}, ["optimizer.learning_rate", "> 0", "1e+39", "inf as float32"]),
        ({"learning_rate": 1e-60}, ["optimizer.learning_rate", "> 0", "1e-60", "0.0 as float32"]),
        ({"optimizer": "adam", "b2": 0.999999999}, ["optimizer.b2", "< 1", "1.0 as float32"]),
        ({"epochs": 10**400}, ["train.epochs", "at most 214748364,", "80 digits"]),
    ],
)
def test_wrong_values_are_refused(arguments, words):
    with pytest.raises(ConfigError) as caught:
        hyper_of(**arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


WRONG = {
    **ODD,
    "beyond float": 10**400,
}


@pytest.mark.parametrize("given", WRONG)
def test_odd_values_are_refused_in_one_short_line(given):
    def refused(key, **arguments):
        with pytest.raises(ConfigError, match=rf"^{key}\b") as caught:
            hyper_of(**arguments)
        assert len(str(caught.value)) < 250
        assert str(caught.value).isprintable()

    for optimizer in list_optimizers():
        for option in optimizer_options(optimizer):
            refused(f"optimizer.{option}", optimizer=optimizer, **{option: WRONG[given]})
    for schedule in SCHEDULES:
        for option in schedule_options(schedule):
            refused(f"schedule.{option}", schedule=schedule, sched={option: WRONG[given]})


def test_a_long_duration_is_refused_quickly():
    started = time.perf_counter()
    with pytest.raises(ConfigError, match="is no duration"):
        hyper_of(schedule="cosine", sched={"warmup": "9" * 100_000})
    assert time.perf_counter() - started < 1  # second


def test_a_stranger_adds_an_optimizer():
    register_optimizer("halved", lambda learning_rate, share: optax.sgd(learning_rate * share), share=0.5)
    try:
        assert hyper_of("halved", share=0.25)["optimizer"] == {"learning_rate": 1e-3, "share": 0.25}
        test_every_optimizer_learns("halved")
        with pytest.raises(ValueError, match="registered already"):
            register_optimizer("adam", optax.sgd)
    finally:
        del OPTIMIZERS["halved"]


def test_an_optimizer_that_is_defined_again_replaces_its_older_version():
    def define(sign):
        return lambda learning_rate: optax.sgd(sign * learning_rate)

    losses = []
    try:
        for sign in (1, -1):
            register_optimizer("signed", define(sign))
            plan, data = small_plan(optimizer="signed", epochs=2)
            losses.append(fit(plan.spec, plan.hyper, seed=0, data=data, stopping=plan.stopping).rows)
    finally:
        del OPTIMIZERS["signed"]
    assert losses[0][-1]["train/loss"] < losses[0][0]["train/loss"]
    assert losses[1][-1]["train/loss"] > losses[1][0]["train/loss"]


@pytest.mark.parametrize("name", list_optimizers())
def test_every_number_of_an_optimizer_has_an_effect(name):
    """A number that the factory ignores would be a config key without effect."""
    numbers = {key: value for key, value in OPTIMIZERS[name].defaults.items() if value is not None}
    noise = jax.random.normal(jax.random.key(0), (50, 20)) * jnp.linspace(1, 0.01, 50).reshape(-1, 1)

    @jax.jit
    def trajectory(numbers):
        optimizer = OPTIMIZERS[name].make(**numbers)
        params = jnp.linspace(-1, 1, 20)

        def step(carry, gradient):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), noise)[0][0]

    for key, value in numbers.items():
        changed = {**numbers, key: value * 0.5 + 0.01}
        assert not np.array_equal(trajectory(numbers), trajectory(changed)), key
