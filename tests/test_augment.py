"""Random changes of training images: by key, in training only, and with one program for all strengths."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from mnistjax.augment import (
    CHECKS,
    LIMITS,
    augment,
    check_augmentation,
    erase,
    sample,
    smooth_noise,
    source_places,
)
from mnistjax.config import ConfigError
from mnistjax.data import load_data
from mnistjax.evaluation import evaluate
from mnistjax.layout import epoch_rows
from mnistjax.loop import fit
from mnistjax.step import init
from small import count_traces, make_batches, small_plan, train_segment


def new_key():
    return jax.random.key(0)


DIGITS = jnp.asarray(load_data("digits").train.images[:200, ..., None] / 255, jnp.float32)
WARPS = {"rotation": 20.0, "scaling": 0.2, "shear": 20.0, "shift": 3.0, "elastic": 1.0}
ALL = {**WARPS, "erasing": 0.5, "flip": 0.5, "crop": 4.0}


@pytest.mark.parametrize("option", LIMITS)
def test_a_strength_of_zero_changes_nothing_and_more_changes_more(option):
    def change(strength):
        return float(jnp.abs(augment({option: strength}, new_key(), DIGITS) - DIGITS).mean())

    assert change(0.0) < 1e-6
    assert 1e-4 < change(ALL[option] / 4) < change(ALL[option])


PINNED = [  # strengths, and the means of four ramps from before there were flips and crops
    ({"shift": 3.0}, [0.44907, 0.40566, 0.48902, 0.42533]),
    ({"erasing": 1.0}, [0.48469, 0.48441, 0.49327, 0.45578]),
    ({"elastic": 2.0}, [0.45839, 0.43366, 0.43703, 0.42079]),
    ({**WARPS, "erasing": 0.5}, [0.39696, 0.38814, 0.39146, 0.39819]),
]


@pytest.mark.parametrize(("numbers", "means"), PINNED)
def test_flips_and_crops_leave_the_random_numbers_of_the_others_alone(numbers, means):
    ramp = jnp.asarray(np.indices((28, 28)).sum(axis=0) / 54, jnp.float32)
    images = jnp.broadcast_to(ramp[None, :, :, None], (4, 28, 28, 1))
    changed = augment(numbers, new_key(), images)
    assert_allclose(changed.mean(axis=(1, 2, 3)), means, atol=1e-4)
    assert_array_equal(changed, augment({**numbers, "flip": 0.0, "crop": 0.0}, new_key(), images))


def test_each_image_changes_differently_and_only_by_the_key():
    same = jnp.broadcast_to(DIGITS[:1], (20, *DIGITS.shape[1:]))
    changed = augment(ALL, new_key(), same)
    assert len(np.unique(np.asarray(changed).reshape(20, -1), axis=0)) == 20
    assert_array_equal(changed, augment(ALL, new_key(), same))
    assert not np.array_equal(changed, augment(ALL, jax.random.key(1), same))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert_allclose(changed, jax.jit(augment)(ALL, new_key(), same), atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (17, 24, 3)])
def test_pixels_are_sampled_as_scipy_samples_them(shape):
    images = jax.random.uniform(new_key(), (5, *shape))
    keys = jax.random.split(new_key(), 5)
    places = jax.vmap(lambda key: source_places(ALL, key, shape[:2]))(keys)
    changed = jax.vmap(sample)(images, places)
    for image, place, result in zip(*map(np.asarray, (images, places, changed)), strict=True):
        for channel in range(shape[-1]):
            expected = ndimage.map_coordinates(image[..., channel], place, order=1, mode="grid-constant")
            assert_allclose(result[..., channel], expected, atol=1e-5)


def test_pixels_move_as_far_as_their_strengths_allow():
    grid = np.indices((28, 28))

    def moved(**numbers):
        places = jax.vmap(lambda key: source_places(numbers, key, (28, 28)))(
            jax.random.split(new_key(), 4000)
        )
        return np.asarray(places) - grid

    shifts = moved(shift=2.0)
    assert_allclose(shifts, shifts[:, :, :1, :1] + np.zeros((28, 28)), atol=1e-5)  # all pixels move alike
    assert 1.99 < np.abs(shifts).max() <= 2 + 1e-5
    assert abs(shifts.mean()) < 0.05

    corner = moved(rotation=10.0)[:, :, 0, 0] - 13.5  # from the centre, which does not move
    angles = np.rad2deg(np.arctan2(corner[:, 1], corner[:, 0])) + 135
    assert_allclose(np.hypot(*corner.T), 13.5 * np.sqrt(2), rtol=1e-5)
    assert 9.9 < np.abs(angles).max() <= 10.01

    factors: Any = (moved(scaling=0.2)[:, :, 0, 0] - 13.5) / -13.5
    assert_allclose([1 / factors.max(), 1 / factors.min()], [0.8, 1.2], atol=0.01)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.1  # height and width scale independently

    leaning = moved(shear=20.0)
    assert_allclose(leaning[:, 0], 0, atol=1e-5)  # rows stay rows
    assert_allclose(leaning[:, 1], leaning[:, 1, :, :1] + np.zeros(28), atol=1e-5)
    assert_allclose(leaning[:, 1].mean(axis=1), 0, atol=1e-5)  # around the centre
    degrees = np.rad2deg(np.arctan(leaning[:, 1, 1, 0] - leaning[:, 1, 0, 0]))
    assert_allclose([degrees.min(), degrees.max()], [-20, 20], atol=0.1)

    assert_allclose(np.square(moved(elastic=1.5)).mean() ** 0.5, 1.5, rtol=0.02)


def test_noise_is_smooth_and_equally_strong_everywhere():
    fields = np.asarray(smooth_noise(new_key(), (4000, 28, 28)))
    assert_allclose(fields.std(axis=0), 1, atol=0.06)
    near, far = (np.mean(fields[:, 14, 6] * fields[:, 14, 6 + step]) for step in (1, 16))
    assert near > 0.9
    assert abs(far) < 0.05


def test_the_given_share_of_images_loses_one_rectangle():
    keys = jax.random.split(new_key(), 4000)
    erased = np.asarray(jax.vmap(lambda key: erase(0.3, key, jnp.ones((28, 28, 1))))(keys))[..., 0] == 0
    assert 0.27 < erased.any(axis=(1, 2)).mean() < 0.32  # a few lie outside
    for lost in erased[erased.any(axis=(1, 2))][:50]:
        rows, columns = lost.any(axis=1), lost.any(axis=0)
        assert_array_equal(lost, np.outer(rows, columns))
        assert rows.sum() <= 12
        assert columns.sum() <= 12
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert (np.diff(np.flatnonzero(columns)) == 1).all()


SHAPES = [(28, 28, 1), (17, 23, 3), (5, 4, 2)]


def noise(shape, count=1):
    """Images without two equal pixels, and without a black one."""
    values = np.random.default_rng(0).permutation(count * np.prod(shape)) + 1
    return jnp.asarray(values.reshape(count, *shape) / values.size, jnp.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_are_exact_and_as_frequent_as_asked(shape):
    images = jnp.broadcast_to(noise(shape), (2000, *shape))
    mirrored = images[:, :, ::-1]
    for share in (0.0, 0.3, 1.0):
        changed = np.asarray(augment({"flip": share}, new_key(), images))
        flipped = (changed == mirrored).all(axis=(1, 2, 3))
        assert (flipped | (changed == images).all(axis=(1, 2, 3))).all()
        assert flipped.mean() == pytest.approx(share, abs=0.04 * (0 < share < 1))
    twice = augment({"flip": 1.0}, jax.random.key(1), augment({"flip": 1.0}, new_key(), images))
    assert_array_equal(twice, images)


def moved(image, down, right):
    """The image moved by whole pixels, black outside, by slices."""
    (height, width, _), result = image.shape, np.zeros_like(image)
    inside = image[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    result[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = inside
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [1, 3])
def test_crops_move_by_whole_pixels_all_equally_likely(shape, most):
    image = np.asarray(noise(shape)[0])
    changed = np.asarray(augment({"crop": float(most)}, new_key(), jnp.stack([image] * 3000)))
    steps = range(-most, most + 1)
    moves = {(down, right): moved(image, down, right) for down in steps for right in steps}
    counts = [np.sum((changed == one).all(axis=(1, 2, 3))) for one in moves.values()]
    assert sum(counts) == 3000  # each is moved by whole pixels, and to the same bits
    expected = 3000 / len(moves)
    assert np.square(np.subtract(counts, expected)).sum() / expected < 2 * len(moves)  # chi squared


def test_a_crop_may_be_larger_than_the_image():
    changed = np.asarray(augment({"crop": 28.0}, new_key(), noise((5, 4, 2), count=500)))
    black = (changed == 0).all(axis=(1, 2, 3))
    assert 0.9 < black.mean() < 1


@pytest.mark.parametrize("numbers", [{"flip": 0.5, "crop": 3.0}, ALL])
def test_lanes_change_images_as_single_runs_do(numbers):
    keys, images = jax.random.split(new_key(), 3), noise((17, 23, 3), count=20)
    strengths = {option: jnp.array([0.0, value / 2, value]) for option, value in numbers.items()}
    lanes = jax.vmap(augment, in_axes=(0, 0, None))(strengths, keys, images)
    for index in range(3):
        one = {option: values[index] for option, values in strengths.items()}
        single = augment(one, jax.random.split(new_key(), 3)[index], images)
        if numbers is ALL:
            assert_allclose(lanes[index], single, atol=1e-5)
        else:
            assert_array_equal(lanes[index], single)


def test_a_flip_and_a_crop_draw_each_their_own_numbers():
    image = np.asarray(noise((9, 9, 1))[0])
    changed = np.asarray(augment({"flip": 0.5, "crop": 1.0}, new_key(), jnp.stack([image] * 4000)))
    counts = [
        np.sum((changed == moved(one, down, right)).all(axis=(1, 2, 3)))
        for one in (image, image[:, ::-1])
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    ]
    assert sum(counts) == 4000
    assert_allclose(counts, 4000 / 18, rtol=0.25)


def test_numpy_numbers_are_numbers():
    assert check_augmentation({"shift": np.float32(2), "shear": np.int64(3)}) == {"shift": 2.0, "shear": 3.0}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "2", [1], np.float32(29)])
def test_a_wrong_strength_is_refused(value):
    with pytest.raises(ConfigError, match=r"^augment.shift must be a number from 0 to 28 or null; got "):
        check_augmentation({"shift": value})


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 10**400, "x" * 5000, [1] * 5000, {}], ids=type)
def test_an_odd_value_is_refused_in_one_short_line(value):
    for option in CHECKS:
        with pytest.raises(ConfigError, match=rf"^augment.{option} must be .* or null; got ") as caught:
            check_augmentation({"shift": 2, option: value})
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [-1, 2.5, float("nan"), np.float32(0.5), 29, True, "2"])
def test_a_crop_is_a_whole_number(value):
    assert check_augmentation({"crop": np.float64(2)}) == check_augmentation({"crop": 2}) == {"crop": 2.0}
    with pytest.raises(ConfigError, match=r"^augment.crop must be a whole number from 0 to 28 or null; got "):
        check_augmentation({"crop": value})


@pytest.mark.parametrize("value", [-1, 2.0, 0.5, True, "2"])
def test_a_wrong_number_of_epochs_is_refused(value):
    with pytest.raises(
        ConfigError, match=r"^augment.epochs must be a whole number from 0 to 2147483647 or null; got "
    ):
        check_augmentation({"shift": 2, "epochs": value})


def test_epochs_without_a_change_are_refused():
    with pytest.raises(
        ConfigError, match=r"^augment.epochs needs one of augment.rotation, augment.scaling, "
    ):
        check_augmentation({"shift": None, "epochs": 2})


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'rotate'; nearest is 'rotation'"):
        check_augmentation({"rotate": 3})


def test_without_augmentation_the_plan_is_unchanged():
    plain, _ = small_plan()
    absent, _ = small_plan(augment_options=dict.fromkeys(CHECKS))
    given, _ = small_plan(augment_options={"shift": 2})
    assert plain == absent
    assert "augment" not in plain.hyper
    assert given.identity != plain.identity
    assert set(given.spec.hyper_names) - set(plain.spec.hyper_names) == {"augment.shift"}


@pytest.mark.parametrize("option", ["shift", "flip", "crop"])
def test_another_strength_needs_no_new_program(option, monkeypatch):
    plans = [small_plan(augment_options={option: strength})[0] for strength in (0, 1)]
    data = small_plan()[1]
    assert plans[0].spec == plans[1].spec
    rows, traced = epoch_rows(plans[0].spec, seed=0, epoch=0), count_traces(monkeypatch)
    states = []
    for plan in plans:
        key = jax.random.key(0)
        hyper = jax.tree.map(jnp.float32, plan.hyper)
        state = init(plan.spec, hyper, key)
        states.append(train_segment(plan.spec, hyper, key, state, make_batches(plan.spec, data, rows)))
    assert len(traced) == 1
    assert not np.array_equal(*(jax.tree.leaves(state.params)[1] for state in states))


def test_only_training_sees_the_changed_images():
    plan, data = small_plan(augment_options={"erasing": 1.0, "shift": 8.0})
    plain = small_plan()[0]
    results = [fit(one.spec, one.hyper, seed=0, data=data) for one in (plan, plain)]
    assert results[0].rows[0]["train/loss"] != results[1].rows[0]["train/loss"]
    images, labels = data.test.images, data.test.labels
    one, other = (evaluate(each.spec, results[0].variables, images, labels) for each in (plan, plain))
    assert_array_equal(one.loss, other.loss)


def test_only_the_first_epochs_change_images(monkeypatch):
    """Another number of epochs needs no new program; with 0 the run equals one without augmentation."""
    losses, traced = [], count_traces(monkeypatch)
    for epochs in (0, 1, 2, 3):
        options = dict.fromkeys(LIMITS, 0.5) | {"crop": 1, "epochs": epochs}
        plan, data = small_plan(augment_options=options, epochs=3)
        result = fit(plan.spec, plan.hyper, seed=0, data=data, stopping=plan.stopping)
        losses.append([row["train/loss"] for row in result.rows])
    assert len(traced) == 1
    plain = small_plan(epochs=3)[0]
    rows = fit(plain.spec, plain.hyper, seed=0, data=data, stopping=plain.stopping).rows
    assert_allclose(losses[0], [row["train/loss"] for row in rows], rtol=1e-5)
    for epochs, (fewer, more) in enumerate(itertools.pairwise(losses)):
        assert fewer[:epochs] == more[:epochs]
        assert fewer[epochs] < more[epochs]  # changed images are harder
