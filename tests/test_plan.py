"""What a Plan takes from the data: the numbers that standardize images."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mnistjax import ConfigError, Stopping, fit, load_data, to_binary
from mnistjax.data import Split
from mnistjax.plan import measure_channels
from small import made_up_data, small_plan


def with_images(images):
    return replace(made_up_data(), train=Split(images, np.resize(made_up_data().train.labels, len(images))))


@pytest.mark.parametrize("shape", [(2300, 5, 4), (7, 3, 9, 2), (1001, 2, 2, 3)])
def test_channels_are_measured_over_all_training_images(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images[..., -1] //= 3
    measured = measure_channels(with_images(images))
    pixels = images.reshape(-1, *shape[3:] or (1,)) / 255
    np.testing.assert_allclose(measured, [pixels.mean(axis=0), pixels.std(axis=0)], atol=6e-7)
    assert all(number == round(number, 6) for part in measured for number in part)
    assert measure_channels(with_images(images[::-1])) == measured


def test_a_channel_that_does_not_vary_is_only_shifted():
    images = np.full((9, 4, 4, 2), 51, np.uint8)
    images[0, 0, 0, 1] = 255
    (first, _), (deviation, other) = measure_channels(with_images(images))
    assert (first, deviation) == (0.2, 1.0)
    assert 0 < other < 1


def test_a_plan_has_the_numbers_that_standardize_its_images():
    plan, data = small_plan(model="neuron", model_options={"standardize": True})
    assert plan.spec.model_options == (("standardize", measure_channels(data)),)
    assert (
        small_plan(model="neuron", model_options={"standardize": False})[0] == small_plan(model="neuron")[0]
    )
    binary = small_plan(
        data=to_binary(data, 3), positive=3, model="neuron", model_options={"standardize": True}
    )
    assert binary[0].spec.model_options == plan.spec.model_options
    given = small_plan(model="neuron", model_options={"standardize": measure_channels(data)})[0]
    assert given == plan


WRONG = {  # by argument, what its error says
    "batch_size": (64.0, "train.batch_size must be 'all' or a whole number from 1 to 230, .*; got 64.0"),
    "micro_batch": ("8", "train.micro_batch must be 'auto' or from 1 to train.batch_size, 32; got 8"),
    "seed": (-1, "seed must be a whole number from 0 to 4294967295; got -1"),
    "shuffle": ("Shared", "unknown train.shuffle 'Shared'; nearest is 'shared'"),
    "epochs": (0, "train.epochs must be a whole number >= 1; got 0"),
    "patience": (0, "train.early_stopping must be a whole number >= 1 or null; got 0"),
    "keep": ("bset", "unknown train.keep 'bset'; nearest is 'best'"),
    "monitor": ("train/loss", "unknown train.monitor 'train/loss'; nearest is 'val/loss'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_before_anything_is_trained(name):
    value, error = WRONG[name]
    plan, data = small_plan()
    given: dict[str, Any] = {name: value}
    if name in vars(plan.stopping):
        given = {"stopping": replace(plan.stopping, **given)}
    with pytest.raises(ConfigError, match=f"^{error}"):
        small_plan(**given)
    if name in ("batch_size", "micro_batch", "shuffle"):  # parts of the Spec
        return
    with pytest.raises(ConfigError, match=f"^{error}"):
        fit(plan.spec, plan.hyper, data=data, **given)


def test_a_number_may_be_numpys():
    number: Any = np.int64
    ours, data = small_plan(micro_batch=8, seed=3, stopping=Stopping(2, patience=1))
    stopping = Stopping(number(2), patience=number(1))
    same, _ = small_plan(batch_size=number(32), micro_batch=number(8), seed=number(3), stopping=stopping)
    assert (same, same.identity) == (ours, ours.identity)
    assert to_binary(data, number(3)).class_names == to_binary(data, 3).class_names
    halves = [load_data("digits", validation_fraction=half) for half in (0.5, np.float64(0.5))]
    assert halves[0] is halves[1]
