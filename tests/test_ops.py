import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mnistjax.ops import conv2d, max_pool


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def conv_by_xla(images, kernel, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), padding.upper(), dimension_numbers=numbers)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("side", "channels", "kernel"), [(7, 1, 3), (6, 3, 3), (9, 2, 5), (5, 2, 2), (4, 3, 1)]
)
def test_conv2d_and_its_gradients_equal_xlas(side, channels, kernel, padding):
    images, weights = normal(0, 4, side, side, channels), normal(1, kernel, kernel, channels, 5)
    ours, pull_ours = jax.vjp(lambda x, w: conv2d(x, w, padding), images, weights)
    theirs, pull_theirs = jax.vjp(lambda x, w: conv_by_xla(x, w, padding), images, weights)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    cotangent = normal(2, *theirs.shape)
    for one, other in zip(pull_ours(cotangent), pull_theirs(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_conv2d_batches_over_kernels():
    images, kernels = normal(0, 2, 6, 6, 2), normal(1, 3, 3, 3, 2, 4)
    batched = jax.vmap(lambda kernel: conv2d(images, kernel))(kernels)
    for result, kernel in zip(batched, kernels, strict=True):
        np.testing.assert_allclose(result, conv2d(images, kernel), atol=1e-5)


def test_conv2d_compiles_to_no_convolution_on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("elsewhere it is lax.conv")
    gradient = jax.jit(jax.grad(lambda w, x: jnp.sum(conv2d(x, w)), argnums=(0, 1)))
    program = gradient.lower(normal(0, 3, 3, 2, 4), normal(1, 2, 6, 6, 2)).compile().as_text()
    assert program is not None
    assert "convolution(" not in program
    assert "conditional(" not in program


@pytest.mark.parametrize(("side", "window"), [(8, 2), (7, 2), (9, 3), (5, 1)])
def test_max_pool_equals_reduce_window(side, window):
    images = normal(0, 3, side, side, 4)
    shape = (1, window, window, 1)
    expected = lax.reduce_window(images, -jnp.inf, lax.max, shape, shape, "VALID")
    np.testing.assert_array_equal(max_pool(images, window), expected)
