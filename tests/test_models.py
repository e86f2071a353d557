"""Models: sizes, shapes, gradients, options that are refused, and the open table."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lab_report.layers import list_layers
from mnistjax import create_model, fit, list_models, register_model, to_float
from mnistjax.config import ConfigError
from mnistjax.layout import flops
from mnistjax.models import ACTIVATIONS, MODELS, model_options
from mnistjax.ops import portable
from mnistjax.step import init
from small import ODD, small_plan

MIXER = (16 * 64 + 64) + 4 * (2 * 128 + 2 * 49 * 64 + 64 + 49 + 2 * 64 * 128 + 128 + 64) + 128 + 650
ATTENTION = 4 * (64 * 64 + 64)  # query, key, value, output
PARAMETERS = {  # by hand, at 28 x 28 and 10 classes
    "cnn": 79202,
    "cnn_bn": 9 * (16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * 2 * (16 + 32 + 64) + 5770,
    "lenet5": 61706,  # layers of LeCun et al., with 2,416 parameters in C3
    "mlp": 407050,
    "mlp_mixer": MIXER,
    "neuron": 7850,
    "resnet": 9 * (16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * (3 * 16 + 2 * 96) + 650,
    "separable": 9 * 8 + 2 * 8 + sum(9 * c + c * d + 2 * d for c, d in ((8, 8), (8, 16), (16, 24))) + 250,
    "vit": (16 * 64 + 64) + 51 * 64 + 4 * (ATTENTION + 256 + 2 * 64 * 128 + 192) + 128 + 650,
}


SHALLOW = {
    "cnn": {"convolutions": 1},
    "cnn_bn": {"channels": [4], "hidden": [8]},
    "mlp_mixer": {"depth": 1},
    "resnet": {"channels": [4, 8]},
    "separable": {"channels": [4, 8]},
    "vit": {"depth": 1},
}


def make_model(name, **options) -> Any:
    """A model by name, typed Any, because Linen types the output of `apply` as logits or a pair."""
    return create_model(name, **options)


def quick(function):
    """The jitted function, compiled without optimization in a third of the time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def image_batch(size=2):
    return np.random.default_rng(0).integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)


def test_every_model_has_a_parameter_count():
    assert sorted(PARAMETERS) == list_models()


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters(name):
    variables = jax.eval_shape(make_model(name).init, jax.random.key(0), image_batch())
    assert count(variables) == PARAMETERS[name]


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_uint8_and_float_images_give_the_same_logits(name, classes):
    model = make_model(name, num_classes=classes, **SHALLOW.get(name, {}))
    variables = quick(model.init)(jax.random.key(0), image_batch())
    floats = image_batch().astype(np.float32) / 255
    logits = quick(model.apply)(variables, image_batch())
    assert (logits.shape, logits.dtype) == ((2, classes), jnp.float32)
    np.testing.assert_allclose(logits, quick(model.apply)(variables, floats), atol=1e-5)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_other_images_are_accepted(name):
    """No images, and integers of any type."""
    model = make_model(name, **SHALLOW.get(name, {}))
    variables = jax.eval_shape(model.init, jax.random.key(0), image_batch())
    assert jax.eval_shape(model.apply, variables, image_batch()[:0]).shape == (0, 10)
    variables = quick(model.init)(jax.random.key(0), image_batch())
    logits = quick(model.apply)(variables, image_batch())
    np.testing.assert_array_equal(logits, quick(model.apply)(variables, image_batch().astype(np.int32)))


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_model_batches_and_differentiates(name):
    model = make_model(name, **SHALLOW.get(name, {}))
    keys = jax.random.split(jax.random.key(0), 3)
    stacked = quick(jax.vmap(lambda key: model.init(key, image_batch())))(keys)
    logits = quick(jax.vmap(model.apply, in_axes=(0, None)))(stacked, image_batch())
    assert logits.shape == (3, 2, 10)
    one = jax.tree.map(lambda leaf: leaf[1], stacked)
    np.testing.assert_allclose(logits[1], quick(model.apply)(one, image_batch()), atol=1e-4)
    gradients = quick(jax.grad(lambda v: jnp.sum(model.apply(v, image_batch()) ** 2)))(one)
    assert all(jnp.all(jnp.isfinite(g)) and jnp.any(g != 0) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["cnn_bn", "separable"])
def test_the_compiled_gradient_is_that_of_its_single_operations(name):
    """A gradient that compares recomputed numbers with stored ones would be another one, or NaN."""
    model, images = make_model(name, **SHALLOW.get(name, {})), noisy((8, 8, 1), 60)
    params = (variables := quick(model.init)(jax.random.key(0), images)).pop("params")

    def loss(params):
        given = {"params": params, **variables}
        logits, _ = model.apply(given, images, train=True, mutable=["batch_stats"], rngs=jax.random.key(1))
        return jnp.mean(logits**2)

    found = quick(jax.grad(loss))(params)
    with jax.disable_jit():
        expected = jax.grad(loss)(params)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * abs(theirs).max() + 1e-7)


def noisy(shape, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


SIZES = [(32, 32, 3), (17, 23, 2), (100, 100, 3)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_images_of_other_sizes_are_accepted(name, shape):
    model = make_model(name, num_classes=3, **SHALLOW.get(name, {}))

    def train(key):
        variables = model.init(key, noisy(shape))
        logits = model.apply(variables, noisy(shape))
        gradients = jax.grad(lambda p: jnp.sum(model.apply({**variables, **p}, noisy(shape)) ** 2))
        return logits, gradients({"params": variables["params"]})

    logits, gradients = quick(train)(jax.random.key(0))
    assert logits.shape == (2, 3)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((logits, gradients)))


@pytest.mark.parametrize("name", ["cnn", "cnn_bn", "lenet5", "resnet"])
def test_convolutions_of_other_sizes_equal_xlas(name):
    model = make_model(name, **SHALLOW.get(name, {}))
    variables = quick(model.init)(jax.random.key(0), noisy((17, 23, 2)))
    with portable():
        expected = quick(lambda v: model.apply(v, noisy((17, 23, 2))))(variables)
    logits = quick(lambda v: model.apply(v, noisy((17, 23, 2))))(variables)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_small_images_are_padded_with_zeros():
    """In the middle for LeNet-5, which reads 32 x 32; on the right and at the bottom for patches."""
    small, options = noisy((26, 30, 1)), {"activation": "relu"}
    model = make_model("lenet5", **options)
    variables = quick(model.init)(jax.random.key(0), small)
    padded = np.pad(small, ((0, 0), (3, 3), (1, 1), (0, 0)))
    np.testing.assert_array_equal(model.apply(variables, small), model.apply(variables, padded))
    for name in ("mlp_mixer", "vit"):
        model = make_model(name, depth=1, patch=7)
        variables = quick(model.init)(jax.random.key(0), small)
        padded = np.pad(small, ((0, 0), (0, 2), (0, 5), (0, 0)))
        np.testing.assert_array_equal(model.apply(variables, small), model.apply(variables, padded))


@pytest.mark.parametrize(
    ("name", "options", "shape", "error"),
    [
        (
            "cnn",
            {},
            (8, 9, 1),
            "channels: 2 blocks are too many for images of 8 x 9 (kernel 3, padding valid)",
        ),
        ("cnn_bn", {}, (40, 7, 1), "channels: 3 blocks are too many for images of 40 x 7"),
        ("vit", {"patch": 29}, (28, 40, 1), "patch must be at most 28, a side of images of 28 x 40; got 29"),
        ("mlp_mixer", {}, (4, 3, 2), "patch must be at most 3, a side of images of 4 x 3; got 4"),
    ],
)
def test_images_that_are_too_small_are_refused_in_one_line(name, options, shape, error):
    with pytest.raises(ConfigError) as caught:
        jax.eval_shape(make_model(name, **options).init, jax.random.key(0), noisy(shape))
    assert str(caught.value) == error


def colours(shape, count=4):
    """Noise whose channels differ in mean and deviation."""
    random = np.random.default_rng(0)
    means, deviations = np.linspace(90, 160, shape[-1]), np.linspace(30, 5, shape[-1])
    return np.clip(random.normal(means, deviations, (count, *shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_standardized_images_give_the_logits_of_a_model_that_is_given_them(name):
    images, options = colours((17, 23, 2)), SHALLOW.get(name, {})
    standard: Any = (images / 255).mean(axis=(0, 1, 2)), (images / 255).std(axis=(0, 1, 2))
    plain = make_model(name, **options)
    model = make_model(name, standardize=[part.tolist() for part in standard], **options)
    variables = quick(model.init)(jax.random.key(0), images)
    logits = quick(model.apply)(variables, images)
    for given in (images.astype(np.int32), (images / 255).astype(np.float32)):
        np.testing.assert_allclose(logits, quick(model.apply)(variables, given), atol=1e-4)
    given = ((images / 255 - standard[0]) / standard[1]).astype(np.float32)
    np.testing.assert_allclose(logits, quick(plain.apply)(variables, given), atol=1e-4)
    assert not np.allclose(logits, quick(plain.apply)(variables, images), atol=1e-2)
    assert count(variables) == count(jax.eval_shape(plain.init, jax.random.key(0), images))


@pytest.mark.parametrize(
    ("standard", "error"),
    [
        (True, "standardize=true has no numbers: make_plan takes them from the training images; else give "),
        (((0.1,), (0.3,)), "standardize must have as many means as the images have channels, 2; got 1"),
        (
            ([0.1, 0.2, 0.3], [0.3, 0.3, 0.3]),
            "standardize must have as many means as the images have channels, 2; got 3",
        ),
    ],
)
def test_images_without_numbers_to_standardize_them_are_refused(standard, error):
    model = make_model("neuron", standardize=standard)
    with pytest.raises(ConfigError) as caught:
        model.init(jax.random.key(0), noisy((17, 23, 2)))
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        [0.1, 0.3],
        [[0.1], [0]],
        [[0.1], [-0.3]],
        [[0.1], [0.3, 0.3]],
        [[], []],
        [[0.1]],
        [[True], [0.3]],
        [["a"], [0.3]],
        [[float("nan")], [0.3]],
        [[0.1], [float("nan")]],
        [[0.1], [float("inf")]],
        [[10**400], [0.3]],
        [[[0.1]], [[0.3]]],
        {"mean": 0.1},
    ],
    ids=str,
)
def test_wrong_numbers_to_standardize_images_are_refused(value):
    with pytest.raises(ConfigError, match=r"^standardize must be true, false, or the channels' means and "):
        create_model("cnn", standardize=value)


def test_the_numbers_to_standardize_images_may_be_of_any_type():
    expected = create_model("cnn", standardize=((0.0, 0.5), (1.0, 2.0)))
    for value in ([[0, 0.5], [1, 2]], ((np.int64(0), np.float64(0.5)), [1, np.float32(2)])):
        assert create_model("cnn", standardize=value) == expected
    assert create_model("cnn", standardize=np.bool_(False)) == create_model("cnn")


def test_report_sizes():
    def size(name, **options):
        init = create_model(name, **options).init
        return count(jax.eval_shape(init, jax.random.key(0), image_batch()))

    assert size("neuron", num_classes=1) == 785
    assert size("mlp", hidden=64, num_classes=1) == 784 * 64 + 64 + 65
    assert size("mlp", hidden=[32, 16]) == 784 * 32 + 32 + 32 * 16 + 16 + 170
    assert size("cnn", channels=[32, 64], kernel=3, convolutions=1, hidden=[]) == 34826


@pytest.mark.parametrize("name", list_models())
def test_layers_hold_all_parameters_and_end_in_the_logits(name):
    model = make_model(name, num_classes=7)
    layers = list_layers(model)
    held = count(jax.eval_shape(model.init, jax.random.key(0), image_batch()))
    assert sum(layer.parameters for layer in layers) == held
    assert layers[-1].shape == (7,)
    assert layers[-1].options["features"] == 7


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations(activation):
    model = make_model("mlp", hidden=8, activation=activation)
    variables = model.init(jax.random.key(0), image_batch())
    assert jnp.all(jnp.isfinite(model.apply(variables, image_batch())))


def test_pooling_before_the_bias_changes_nothing_for_relu():
    """The textbook's order is convolution, bias, activation, pooling."""
    model = make_model("cnn", channels=[4], convolutions=1, hidden=[])
    variables = model.init(jax.random.key(1), image_batch())
    block, dense = variables["params"]["ConvBlock_0"], variables["params"]["Dense_0"]
    bias = jnp.array([0.3, -0.2, 0.1, 0.0])
    block["bias_0"] = bias
    x = jnp.array(image_batch(), jnp.float32) / 255
    conv = jax.lax.conv_general_dilated(
        x, block["kernel_0"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    pooled = nn.max_pool(nn.relu(conv + bias.reshape(1, 1, 1, -1)), (2, 2), (2, 2))
    expected = pooled.reshape(2, -1) @ dense["kernel"] + dense["bias"].reshape(1, -1)
    np.testing.assert_allclose(model.apply(variables, image_batch()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cnm", {}, ["cnm", "cnn"]),
        ("mlp", {"hiden": 3}, ["hiden", "hidden"]),
        ("mlp", {"hidden": -5}, ["hidden", "a whole number from 1", "-5"]),
        ("mlp", {"hidden": [3, 0]}, ["hidden", "a whole number from 1"]),
        ("mlp", {"hidden": "wide"}, ["hidden", "wide"]),
        ("mlp", {"hidden": True}, ["hidden", "True"]),
        ("mlp", {"activation": "rleu"}, ["rleu", "relu"]),
        ("mlp", {"dropout": 1.0}, ["dropout", "1.0"]),
        ("mlp", {"dropout": float("nan")}, ["dropout", "nan"]),
        ("cnn", {"padding": "sane"}, ["sane", "same"]),
        ("cnn", {"kernel": 0}, ["kernel", "a whole number from 1"]),
        ("resnet", {"channels": [8, 4]}, ["channels", "none less", "[8, 4]"]),
        ("resnet", {"channels": []}, ["channels", "one number or more", "[]"]),
        ("vit", {"heads": 3}, ["heads", "divide", "width, 64", "3"]),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    with pytest.raises(ConfigError) as caught:
        create_model(name, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": [8] * 5},
        {"kernel": 28},
        {"kernel": 40},
        {"convolutions": 9},
        {"channels": [8] * 5, "padding": "same"},
    ],
)
def test_blocks_that_leave_no_pixels_are_refused(options):
    with pytest.raises(ConfigError, match=r"channels: \d blocks are too many for images of 28 x 28"):
        jax.eval_shape(create_model("cnn", **options).init, jax.random.key(0), image_batch())


def deep_list(depth=500):
    value = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = {
    **ODD,
    "beyond int64": 10**30,
    "a list beyond int64": [10**30],
    "a deep list": deep_list(),
    "a nested list": [[1]],
    "flags": [True],
    "nothing": None,
}


@pytest.mark.parametrize("given", WRONG)
@pytest.mark.parametrize("name", list_models())
def test_impossible_values_are_refused_in_one_short_line(name, given):
    for option in model_options(name):
        if option == "standardize" and given == "a flag":
            continue  # it is one
        with pytest.raises(ConfigError, match=rf"^(unknown )?{option}\b") as caught:
            create_model(name, **{option: WRONG[given]})
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()
        with pytest.raises(ConfigError):
            small_plan(model=name, model_options={option: WRONG[given]})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mlp", {"hidden": [1] * 5000}, ["hidden", "at most 100 layers", "5000"]),
        ("cnn", {"channels": [1] * 101}, ["channels", "at most 100 layers", "101"]),
        ("cnn", {"convolutions": 10**9}, ["convolutions", "to 100"]),
        ("cnn", {"kernel": 10**9, "padding": "same"}, ["kernel", "to 64"]),
        ("cnn_bn", {"convolutions": [101]}, ["convolutions", "to 100", "101"]),
        ("resnet", {"channels": [1] * 60, "blocks": 60}, ["blocks", "at most 100 layers", "3600"]),
        ("separable", {"repeats": 101}, ["repeats", "to 100", "101"]),
        ("separable", {"blocks": 9, "repeats": 4}, ["blocks x repeats", "at most 100 layers", "108"]),
        ("vit", {"depth": 101}, ["depth", "to 100", "101"]),
        ("mlp_mixer", {"depth": 10**9}, ["depth", "to 100"]),
        ("mlp", {"hidden": 2**31}, ["hidden", "to 2147483647", "2147483648"]),
    ],
)
def test_more_layers_than_can_be_compiled_are_refused(name, options, words):
    with pytest.raises(ConfigError) as caught:
        create_model(name, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


WIDE = [("mlp", "hidden"), ("cnn", "hidden"), ("cnn_bn", "hidden"), ("mlp_mixer", "width"), ("vit", "hidden")]


@pytest.mark.parametrize(("name", "option"), WIDE)
def test_models_too_large_for_memory_can_be_planned(name, option):
    """They fail only when they are allocated."""
    plan, _ = small_plan(model=name, model_options={option: 10**9})
    assert flops(plan.spec) > 1e11
    state = init.eval_shape(plan.spec, plan.hyper, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) > 1e9


@pytest.mark.parametrize("name", ["cnn", "cnn_bn", "resnet"])
def test_sizes_that_xla_cannot_multiply_are_refused(name):
    with pytest.raises(ConfigError, match=r"a model of \d.*e\+\d\d parameters is too large; at most"):
        small_plan(model=name, model_options={"channels": [10**9]})


def test_a_model_can_be_registered():
    class Twice(nn.Module):
        num_classes: int = 10
        factor: float = 2.0
        dtype: Any = jnp.float32  # neither an option of a config nor part of the Spec

        @nn.compact
        def __call__(self, images, train=False):
            return self.factor * nn.Dense(self.num_classes)(images.reshape(len(images), -1) / 255)

    register_model("twice", Twice)
    try:
        assert "twice" in list_models("tw*")
        assert create_model("twice", factor=3, dtype=jnp.bfloat16).factor == 3.0
        assert small_plan(model="twice")[0].spec.model_options == (("factor", 2.0),)
        with pytest.raises(ValueError, match="registered already"):
            register_model("mlp", Twice)
    finally:
        del MODELS["twice"]


def test_a_model_that_is_defined_again_replaces_its_older_version():
    def define(width):
        class Wide(nn.Module):
            num_classes: int = 10

            @nn.compact
            def __call__(self, images, train=False):
                x = to_float(images).reshape(len(images), -1)
                return nn.Dense(self.num_classes)(nn.relu(nn.Dense(width)(x)))

        return Wide

    try:
        for width in (5, 7, 5):
            register_model("wide", define(width))
            plan, data = small_plan(model="wide", epochs=1)
            result = fit(plan.spec, plan.hyper, seed=0, data=data, stopping=plan.stopping)
            assert sum(leaf.size for leaf in jax.tree.leaves(result.state.params)) == 795 * width + 10
    finally:
        del MODELS["wide"]


class Outputs(nn.Module):
    """A model with so many logits, whatever the data; with 0 it returns no array."""

    num_classes: int = 10
    outputs: int = 7

    @nn.compact
    def __call__(self, images, train=False):
        logits = nn.Dense(self.outputs or 1)(images.reshape(len(images), -1) / 255)
        return logits if self.outputs else (logits, {})


def test_a_model_with_other_outputs_than_the_task_needs_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "outputs", Outputs)
    for outputs, found in ((7, r"\(1, 7\)"), (1, r"\(1, 1\)"), (0, "no array")):
        with pytest.raises(ConfigError, match=f"10 logits for each image, .* it returns {found}"):
            small_plan(model="outputs", model_options={"outputs": outputs})
    assert small_plan(model="outputs", model_options={"outputs": 10})[0].spec.num_classes == 10


def test_what_is_no_model_is_not_registered():
    class Bare(nn.Module):
        pass

    before = list_models()
    wrong: list[tuple[Any, Any, str]] = [
        (5, Outputs, "the name of a model must be a name; got 5"),
        ("", Outputs, "the name of a model must be a name; got ''"),
        ("bare", Bare, "model bare: its class needs a field num_classes"),
        ("bare", Outputs(), "model bare: a class of flax.linen.Module expected, got "),
        ("bare", lambda: None, "model bare: a class of flax.linen.Module expected, got "),
    ]
    for name, module, error in wrong:
        with pytest.raises(ConfigError, match=error):
            register_model(name, module)
    assert list_models() == before


def test_blocks_may_have_different_numbers_of_convolutions():
    model = make_model("cnn_bn", channels=[4, 8], convolutions=[1, 2])
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    counted = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert counted == 9 * (4 + 4 * 8 + 8 * 8) + 2 * (4 + 8 + 8) + 7 * 7 * 8 * 10 + 10
    model = make_model("cnn_bn", channels=[4, 8], convolutions=[1, 2, 3])
    with pytest.raises(ConfigError, match=r"must be 1 number or 2, as channels; got \[1, 2, 3\]"):
        model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


def test_a_repeated_block_has_the_same_weights_each_time_and_its_own_normalisation():
    images = image_batch()
    repeated = make_model("separable", channels=[4, 4, 6], repeats=2)
    variables = repeated.init(jax.random.key(0), images)
    params, blocks = variables["params"], [f"SeparableConv_{index}" for index in range(6)]
    assert not {*blocks[3:]} & {*params}
    # One normalisation after the first convolution and each use; the block from 4 to 6 channels is used once.
    norms = 5 * 8 + 12
    assert count(variables) == 36 + 2 * (36 + 16) + (36 + 24) + norms + 70

    plain = make_model("separable", channels=[4, 4], blocks=2)  # no third stage
    shared = make_model("separable", channels=[4, 4], repeats=2)
    variables = shared.init(jax.random.key(1), images)
    params = variables["params"]
    copied = {blocks[index]: params[blocks[index // 2]] for index in range(4)}
    copies = {**variables, "params": {**params, **copied}}
    assert jax.tree.map(jnp.shape, plain.init(jax.random.key(1), images)) == jax.tree.map(jnp.shape, copies)
    for train in ({}, {"train": True, "mutable": ["batch_stats"]}):
        expected, found = (
            quick(functools.partial(model.apply, **train))(given, images)
            for model, given in ((plain, copies), (shared, variables))
        )
        assert jax.tree.all(jax.tree.map(jnp.array_equal, expected, found))


def test_numpy_numbers_are_numbers():
    model = make_model("mlp", num_classes=np.int64(3), hidden=[np.int64(8), 4], dropout=np.float32(0.5))
    assert (model.hidden, model.dropout) == ((8, 4), 0.5)
    assert hash(model) == hash(make_model("mlp", num_classes=3, hidden=[8, 4], dropout=0.5))


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_images_of_another_shape_are_refused_in_one_line(name):
    model = make_model(name)
    for shape in [(28, 28), (28, 28, 1), (2, 28, 28)]:
        with pytest.raises(ConfigError, match=r"must have the shape \(B, H, W, C\), .* got \("):
            jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.uint8))
