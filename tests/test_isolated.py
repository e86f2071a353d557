"""JAX's settings in a user's process: they change no bit of what the library computes, and they stay."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export as jax_export

import mnistjax
from mnistjax.backend import PLAIN, isolated
from mnistjax.loop import fit_runs
from mnistjax.models import list_models
from mnistjax.optim import list_optimizers
from mnistjax.programs import make_program
from small import assert_same, fit_plan, made_up_data, small_plan

SETTINGS: dict[str, Any] = {
    "64 bits": lambda: jax.enable_x64(True),
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "no transfers": lambda: jax.transfer_guard("disallow"),
    "another generator": lambda: jax.default_prng_impl("rbg"),
    "another stream": lambda: jax.threefry_partitionable(False),
    "NaN is an error": lambda: jax.debug_nans(True),
    "leaks are errors": lambda: jax.checking_leaks(),
}
IMAGES = made_up_data().test.images


def types(tree):
    return {np.dtype(leaf.dtype).name for leaf in jax.tree.leaves(tree)}


def check(compute, *settings):
    """Asserts that a computation gives the same bits with each setting, and no type of 64 bits."""
    plain = compute()
    for setting in settings:
        with SETTINGS[setting]():
            found = compute()
        assert_same(found, plain)
        states = found.state if isinstance(found, mnistjax.Result) else found
        assert not types(states) & {"float64", "int64", "uint64"}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_has_the_same_bits(setting):
    options: dict[str, Any] = {"model_options": {"hidden": 8, "dropout": 0.3}, "schedule": "one_cycle"}
    augment: dict[str, Any] = {"augment_options": {"shift": 2, "elastic": 1, "erasing": 0.5}}
    check(lambda: fit_plan(*small_plan(epochs=1, seed=2**31 + 1, **options, **augment)), setting)


@pytest.mark.parametrize("setting", ["64 bits", "strict promotion", "no transfers"])
def test_many_lanes_a_resumed_run_and_shards_have_the_same_bits(setting, monkeypatch):
    monkeypatch.setattr("mnistjax.devices.LARGE_STEP_FLOPS", 0)

    def lanes():
        plan, data = small_plan(epochs=1)
        runs = [mnistjax.Run(plan.hyper, seed, plan.stopping) for seed in range(2)]
        return [result.state for _, result in fit_runs(make_program(plan.spec, data, width=2), [runs])]

    def resumed():
        plan, data = small_plan(epochs=2, micro_batch=8)
        seen: list[Any] = []
        fit_plan(
            plan, data, callbacks=[lambda one: seen.append((one.snapshot(), one.row))], stop=lambda: True
        )
        return fit_plan(plan, data, snapshot=seen[0][0], rows=[row for _, row in seen if row])

    check(lanes, setting)
    check(resumed, setting)


@pytest.mark.parametrize("setting", ["64 bits", "strict promotion", "no transfers"])
def test_packaged_models_have_the_same_bits(setting):
    names = ["mlp.mnist", "neuron.mnist_zero", "cnn_bn.mnist_ensemble"]
    check(lambda: [mnistjax.load(name)[1] for name in names], setting)
    check(lambda: mnistjax.classify(*mnistjax.load("mlp.mnist"), IMAGES), setting)
    check(lambda: mnistjax.classify(*mnistjax.load("mlp.mnist"), jax.device_put(IMAGES)), setting)


def test_predictions_and_conversions_have_the_same_bits():
    plan, data = small_plan(epochs=1)
    variables = fit_plan(plan, data).variables
    model = mnistjax.create_model("mlp", hidden=8)
    images = IMAGES[..., None]
    for setting in ("64 bits", "strict promotion", "no transfers"):
        check(lambda: mnistjax.predict(plan.spec, variables, IMAGES), setting)
        check(lambda: mnistjax.evaluate(plan.spec, variables, IMAGES, data.test.labels), setting)
        check(
            lambda: jax.device_get(nnx.to_pure_dict(nnx.state(mnistjax.to_nnx(model, variables), nnx.Param))),
            setting,
        )
        with SETTINGS[setting]():
            content = mnistjax.export(model, variables)
            assert "Dense" in mnistjax.summary(model)
            mnistjax.make_plan(made_up_data(10), model="lenet5", batch_size=3)
        logits = jax_export.deserialize(bytearray(content)).call(images)
        np.testing.assert_array_equal(logits, jax.jit(model.apply)(variables, images))
    check(lambda: mnistjax.features(model, variables, jax.device_put(images)), "64 bits")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "mlp" else pytest.mark.slow) for name in list_models()]
)
def test_models_compute_in_32_bits(name):
    model = mnistjax.create_model(name)
    apply = jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})

    def compute():
        variables = model.init(jax.random.key(0), IMAGES[:2, ..., None])
        return variables, apply(variables, IMAGES[:2, ..., None])

    check(compute, "64 bits")


def test_the_users_settings_stay():
    seen = []
    with jax.enable_x64(True):
        plan, data = small_plan(epochs=1)
        fit_plan(plan, data, callbacks=[lambda progress: seen.append(jnp.zeros(()).dtype)])
        assert jnp.zeros(()).dtype == jnp.float64
    assert {*seen} == {np.dtype(np.float64)}
    with contextlib.suppress(ZeroDivisionError), jax.enable_x64(True), isolated():
        assert jnp.zeros(()).dtype == jnp.float32
        raise ZeroDivisionError
    for name in PLAIN:
        assert hasattr(jax, name.removeprefix("jax_"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", list_optimizers())
def test_every_optimizer_has_the_same_bits(optimizer):
    check(functools.partial(train_small, optimizer=optimizer, schedule="cosine"), *SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("model", list_models())
def test_every_model_has_the_same_bits(model):
    check(functools.partial(train_small, model=model), *SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", mnistjax.list_models(pretrained=True))
def test_every_packaged_model_classifies_with_the_same_bits(name):
    check(functools.partial(classify, name), *SETTINGS)


def train_small(**options):
    return fit_plan(*small_plan(epochs=1, **options))


def classify(name):
    return mnistjax.classify(*mnistjax.load(name), IMAGES)
