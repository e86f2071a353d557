"""A converted model, as StableHLO, ONNX or a Flax NNX module, gives the same logits."""

from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
import optax
import pytest
from flax import nnx
from jax import export as jax_export
from numpy.testing import assert_allclose

import mnistjax
from mnistjax.config import ConfigError
from mnistjax.zoo.ensemble import ensemble

MODELS = mnistjax.list_models()
CONVOLUTIONAL = {"cnn", "cnn_bn", "lenet5", "resnet", "separable"}
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)


def made(name, **options) -> Any:
    """A model, its variables, and its logits of the images."""
    model = mnistjax.create_model(name, num_classes=7, **options)
    variables = jax.jit(model.init)(jax.random.key(1), IMAGES)
    return model, variables, jax.jit(model.apply)(variables, IMAGES)


@pytest.mark.parametrize("name", MODELS)
def test_stablehlo_gives_the_same_logits_for_any_batch(name):
    model, variables, logits = made(name)
    content = mnistjax.export(model, variables)
    exported = jax_export.deserialize(bytearray(content))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert ("stablehlo.convolution" in exported.mlir_module()) == (name in CONVOLUTIONAL)
    assert_allclose(exported.call(IMAGES), logits, atol=1e-5)
    assert_allclose(exported.call(IMAGES[:2]), logits[:2], atol=1e-5)


def test_a_converted_model_standardizes_its_images():
    model, variables, logits = made("lenet5", standardize=[[0.1], [0.3]])
    exported = jax_export.deserialize(bytearray(mnistjax.export(model, variables)))
    assert_allclose(exported.call(IMAGES), logits, atol=1e-5)
    assert_allclose(mnistjax.to_nnx(model, variables)(IMAGES), logits, atol=1e-5)
    assert not np.allclose(logits, made("lenet5")[2], atol=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inputs_kv arg:DeprecationWarning")  # jax2onnx's own attention
@pytest.mark.parametrize("options", [{}, {"standardize": [[0.1], [0.3]]}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_the_same_logits_for_any_batch(name, options):
    model, variables, logits = made(name, **options)
    content = mnistjax.export(model, variables, "onnx")
    kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert ("Conv" in kinds) == (name in CONVOLUTIONAL)
    session: Any = onnxruntime.InferenceSession(content)
    (given,) = session.get_inputs()
    images = (IMAGES / 255).astype(np.float32)
    for count in (5, 2):
        (found,) = session.run(None, {given.name: images[:count]})
        assert_allclose(found, logits[:count], atol=1e-5)


def test_the_logits_of_a_sure_binary_ensemble_stay_finite():
    member = mnistjax.create_model("neuron", num_classes=1)
    variables = member.init(jax.random.key(0), IMAGES)
    surer = jax.tree.map(lambda leaf: 100 * leaf, variables)
    model, together = ensemble(member, [surer, surer], "binary", IMAGES, np.array([0, 1, 0, 1, 0]))
    together["params"]["temperature"] = np.float32(1)
    logits = np.asarray(model.apply(together, IMAGES))
    assert np.abs(logits).max() > 30
    session: Any = onnxruntime.InferenceSession(mnistjax.export(model, together, "onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: (IMAGES / 255).astype(np.float32)})
    assert_allclose(found, logits, rtol=1e-5, atol=1e-4)


def test_an_unknown_format_is_refused_with_the_nearest():
    model, variables, _ = made("neuron")
    with pytest.raises(ConfigError, match="'onx'; nearest is 'onnx'"):
        mnistjax.export(model, variables, "onx")  # pyright: ignore[reportArgumentType] # the error is the test


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_another_shape_than_the_models_is_refused(format):
    model, variables, _ = made("mlp")
    with pytest.raises(ConfigError, match=r"image_shape=\(9, 9, 1\) does not fit the model"):
        mnistjax.export(model, variables, format, image_shape=(9, 9, 1))


@pytest.mark.parametrize("name", MODELS)
def test_an_nnx_module_gives_the_same_logits(name):
    model, variables, logits = made(name)
    module = mnistjax.to_nnx(model, variables)
    assert_allclose(nnx.jit(lambda module, images: module(images))(module, IMAGES), logits, atol=1e-5)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert count == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_an_nnx_module_has_the_linen_models_gradients_and_statistics():
    model, variables, _ = made("cnn_bn")
    labels = np.arange(5)

    def loss(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def linen_loss(params):
        logits, updates = model.apply(
            {**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"]
        )
        return loss(logits), updates

    gradients, updates = jax.grad(linen_loss, has_aux=True)(variables["params"])
    module: Any = mnistjax.to_nnx(model, variables)

    def nnx_loss(module):
        return loss(module(IMAGES, train=True, mutable=["batch_stats"]))

    found: Any = nnx.grad(nnx_loss)(module)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        node = found
        for key in path:
            node = node[key.key]
        assert_allclose(node[...], gradient, atol=1e-5)
    mean = updates["batch_stats"]["BatchNorm_0"]["mean"]
    assert_allclose(module.BatchNorm_0["mean"][...], mean, atol=1e-6)
