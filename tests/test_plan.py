"""What a Plan takes from the data: the numbers that standardize images."""

from dataclasses import replace

import numpy as np
import pytest

from mnistjax import to_binary
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
