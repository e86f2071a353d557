"""Convolutions and pooling equal XLA's, with their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mnistjax.ops import conv2d, conv2d_max_pool, depthwise, max_pool, portable


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def conv_by_xla(images, kernel, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (1, 1), padding.upper(), dimension_numbers=numbers)


def assert_same_with_gradients(one, other, images, weights, padding):
    cotangent = normal(2, *other(images, weights, padding).shape)

    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(conv):
        result, pull = jax.vjp(lambda x, w: conv(x, w, padding), images, weights)
        return result, *pull(cotangent)

    for ours, theirs in zip(with_gradients(one), with_gradients(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 + 3e-6 * float(jnp.max(jnp.abs(theirs))))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("side", "channels", "outputs", "kernel"),
    [
        *[(7, 1, 5, 3), (6, 3, 5, 3), (9, 2, 5, 5), (5, 2, 5, 2), (4, 3, 5, 1)],
        *[(20, 1, 5, 5), (21, 2, 5, 3), (23, 1, 5, 4), (24, 3, 5, 2)],
        *[(8, 16, 16, 3), (9, 8, 33, 3)],
    ],
)
def test_conv2d_and_its_gradients_equal_xlas(side, channels, outputs, kernel, padding):
    images, weights = normal(0, 4, side, side, channels), normal(1, kernel, kernel, channels, outputs)
    assert_same_with_gradients(conv2d, conv_by_xla, images, weights, padding)


@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (9, 3), (8, 1), (9, 5)])
def test_a_strided_convolution_and_its_gradients_skip_pixels(side, kernel):
    images, weights = normal(0, 4, side, side, 3), normal(1, kernel, kernel, 3, 5)

    def every_second(x, w, padding):
        return conv_by_xla(x, w, padding)[:, ::2, ::2]

    for padding in ("valid", "same"):
        strided = functools.partial(conv2d, stride=2)
        assert_same_with_gradients(strided, every_second, images, weights, padding)


@pytest.mark.parametrize(("side", "channels", "kernel"), [(7, 1, 3), (6, 5, 3), (9, 2, 5), (8, 3, 2)])
def test_a_depthwise_convolution_and_its_gradients_equal_xlas(side, channels, kernel):
    """Also of numbers of images that are not cut into equal chunks."""

    def by_xla(x, w, padding):
        with portable():
            return depthwise(x, w)

    for count in (1, 4, 10):
        images, weights = normal(0, count, side, side + 1, channels), normal(1, kernel, kernel, channels)
        assert_same_with_gradients(lambda x, w, padding: depthwise(x, w), by_xla, images, weights, "same")
    gradients = jax.grad(lambda x, w: depthwise(x, w).sum(), (0, 1))(images[:0], weights)
    assert not any(jnp.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("side", "channels", "outputs", "kernel"),
    [(7, 1, 5, 3), (12, 16, 16, 3), (13, 8, 32, 3), (5, 16, 17, 3), (9, 2, 5, 5), (8, 3, 4, 2), (6, 2, 3, 1)],
)
def test_conv2d_max_pool_equals_xlas_convolution_and_pooling(side, channels, outputs, kernel, padding):
    images, weights = normal(0, 4, side, side, channels), normal(1, kernel, kernel, channels, outputs)

    def expected(x, w, padding):
        return max_pool(conv_by_xla(x, w, padding))

    assert_same_with_gradients(conv2d_max_pool, expected, images, weights, padding)


def test_equal_maxima_share_the_gradient():
    """As in `max_pool`; the background of an image has many equal pixels."""
    images, kernel = jnp.ones((1, 4, 4, 1)).at[0, 0, 0].set(2.0), jnp.ones((1, 1, 1, 1))
    gradient = jax.grad(lambda x: jnp.sum(conv2d_max_pool(x, kernel)))(images)
    np.testing.assert_allclose(gradient[0, :2, :2, 0], [[1, 0], [0, 0]])
    np.testing.assert_allclose(gradient[0, 2:, 2:, 0], 0.25)


def test_conv2d_batches_over_kernels():
    images, kernels = normal(0, 2, 6, 6, 2), normal(1, 3, 3, 3, 2, 4)
    batched = jax.vmap(lambda kernel: conv2d(images, kernel))(kernels)
    for result, kernel in zip(batched, kernels, strict=True):
        np.testing.assert_allclose(result, conv2d(images, kernel), atol=1e-5)


@pytest.mark.parametrize("convolve", [conv2d, conv2d_max_pool])
def test_conv2d_compiles_to_no_convolution_on_cpu(convolve):
    if jax.default_backend() != "cpu":
        pytest.skip("convolutions are lax.conv on other backends")
    gradient = jax.jit(jax.grad(lambda w, x: jnp.sum(convolve(x, w)), argnums=(0, 1)))
    program = gradient.lower(normal(0, 3, 3, 16, 16), normal(1, 2, 6, 6, 16)).compile().as_text()
    assert program is not None
    assert "convolution(" not in program
    assert "conditional(" not in program


@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (9, 4), (2, 3)])
def test_max_pool_equals_reduce_window(sides):
    images = normal(0, 3, *sides, 4)
    expected = lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    np.testing.assert_array_equal(max_pool(images), expected)


def test_max_pool_shares_the_gradient_among_equal_maxima():
    images = jnp.array([[1.0, 1.0], [0.0, 1.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(images)
    np.testing.assert_allclose(gradient.ravel(), [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
