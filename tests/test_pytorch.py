"""The models equal PyTorch versions with the same weights; skipped without PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from mnistjax import create_model
from mnistjax.models.layers import ACTIVATIONS

torch = pytest.importorskip("torch", reason="pip install torch")
F = torch.nn.functional

BATCH = 24
TORCH_ACTIVATIONS = {
    "celu": F.celu,
    "elu": F.elu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "identity": lambda x: x,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanh": torch.tanh,
}


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def convolve(kernel, x, padding):
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), padding=padding)


def flatten(x):
    return x.permute(0, 2, 3, 1).flatten(1)  # in the order of (H, W, C)


def torch_mlp(params, images, activation="relu", hidden=(512,)):
    x = flatten(images)
    for index in range(len(hidden)):
        x = TORCH_ACTIVATIONS[activation](dense(params[f"Dense_{index}"], x))
    return dense(params[f"Dense_{len(hidden)}"], x)


def torch_cnn(params, x, channels=(8, 32), convolutions=2, padding="valid", hidden=(128,), **_):
    for block in range(len(channels)):
        layers = params[f"ConvBlock_{block}"]
        for index in range(convolutions):
            bias = layers[f"bias_{index}"][:, None, None]
            x = F.relu(convolve(layers[f"kernel_{index}"], x, padding) + bias)
        x = F.max_pool2d(x, 2)
    x = flatten(x)
    for index in range(len(hidden)):
        x = F.relu(dense(params[f"Dense_{index}"], x))
    return dense(params[f"Dense_{len(hidden)}"], x)


def compare(model, restatement, options):
    """Asserts equal logits and gradients of the mean cross-entropy, within 1e-5."""
    images = np.random.default_rng(0).random((BATCH, 28, 28, 1), np.float32)
    labels = np.arange(BATCH) % 10
    network: Any = create_model(model, **options)
    leaves, structure = jax.tree.flatten(network.init(jax.random.key(0), images))
    random = np.random.default_rng(1)  # makes all biases nonzero
    leaves = [leaf + 0.02 * random.standard_normal(leaf.shape, np.float32) for leaf in leaves]

    def loss(variables):
        logits = network.apply(variables, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(structure.unflatten(leaves))
    tensors = [torch.from_numpy(np.array(leaf)).requires_grad_() for leaf in leaves]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    torch_logits = restatement(structure.unflatten(tensors)["params"], pixels, **options)
    F.cross_entropy(torch_logits, torch.from_numpy(labels)).backward()

    assert logits.shape == (BATCH, 10)
    assert_allclose(logits, torch_logits.detach(), rtol=0, atol=1e-5)
    for gradient, tensor in zip(jax.tree.leaves(gradients), tensors, strict=True):
        assert np.abs(gradient).max() > 1e-4  # the gradients are not trivial
        assert_allclose(gradient, tensor.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, *({"activation": name, "hidden": (64, 32)} for name in ACTIVATIONS)])
def test_mlp_equals_pytorchs(options):
    compare("mlp", torch_mlp, options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels": (32, 64), "convolutions": 1, "hidden": (128, 64)},
        {"channels": (4, 8, 16), "padding": "same", "kernel": 5, "convolutions": 1, "hidden": ()},
    ],
    ids=["of the report", "one convolution", "same padding"],
)
def test_cnn_equals_pytorchs(options):
    compare("cnn", torch_cnn, options)
