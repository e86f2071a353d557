"""The predictions of a trained model.

N images, H W their sides, C channels, K logits.
"""

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from mnistjax.backend import isolated
from mnistjax.config import ConfigError
from mnistjax.metrics import probabilities
from mnistjax.zoo.card import Card

ROWS = 100  # images per block; the last block is padded, so one program serves any number of images


@isolated()
def classify(model: nn.Module, variables: Any, card: Card, images: np.ndarray | Array) -> np.ndarray:
    """The probabilities (N, classes) float32 of the classes in `card.class_names`.

    The first three arguments are what `load` returns. Images are (N, *card.image_shape), grey ones also
    (N, H, W): integers from 0 to 255, or floats from 0 to 1. ConfigError for other images.
    """
    images = _check_images(np.asarray(jax.device_get(images)), card.image_shape)
    logits = find_logits(model, variables, images)
    return jax.device_get(probabilities(card.task, logits))


def _check_images(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """The images as (N, H, W, C); ConfigError for a wrong shape, type or range."""
    allowed = [image_shape, image_shape[:2]] if image_shape[2] == 1 else [image_shape]
    if images.shape[1:] not in allowed:
        shapes = " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in reversed(allowed))
        raise ConfigError(f"images must have the shape {shapes}; got {images.shape}")
    images = images.reshape(len(images), *image_shape)
    if np.issubdtype(images.dtype, np.floating):
        kind, most = "floats", 1
    elif np.issubdtype(images.dtype, np.integer):
        kind, most = "integers", 255
    else:
        raise ConfigError(f"images must be integers or floats; got {images.dtype}")
    if not ((images >= 0) & (images <= most)).all():
        raise ConfigError(
            f"images of {kind} must be from 0 to {most}; got {images.min():g} to {images.max():g}"
        )
    return images


@isolated()
def find_logits(model: nn.Module, variables: Any, images: np.ndarray) -> Array:
    """The logits (N, K) of images (N, H, W, C), uint8 or float in [0, 1]."""
    blocks = []
    for start in range(0, max(len(images), 1), ROWS):
        block = images[start : start + ROWS]
        padding = [(0, ROWS - len(block)), *[(0, 0)] * (images.ndim - 1)]
        blocks.append(_apply(model, variables, np.pad(block, padding))[: len(block)])
    return jax.numpy.concatenate(blocks)


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: nn.Module, variables: Any, images: Array) -> Any:
    return model.apply(variables, images)
