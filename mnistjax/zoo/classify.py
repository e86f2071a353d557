"""What a trained model says of images.

N images, H W their sides, C channels, K logits.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from mnistjax.config import ConfigError
from mnistjax.metrics import probabilities
from mnistjax.zoo.card import Card

ROWS = 100  # images at a time, filled up where they are fewer: one program for any number of images


def classify(model: nn.Module, variables: Any, card: Card, images: np.ndarray | Array) -> np.ndarray:
    """The probabilities (N, classes) float32 of the classes that `card.class_names` names, for images
    (N, H, W) or (N, H, W, C), uint8 or float in [0, 1].

    ConfigError for other images. The first three arguments are what `load` returns.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ConfigError(f"images must have the shape (N, 28, 28) or (N, 28, 28, 1); got {images.shape}")
    if np.issubdtype(images.dtype, np.floating) and not ((images >= 0) & (images <= 1)).all():
        low, high = images.min(), images.max()
        raise ConfigError(f"floats must be from 0 to 1; got {low:g} to {high:g}; 0 to 255 is uint8's range")
    return np.asarray(probabilities(card.task, find_logits(model, variables, images)))


def find_logits(model: nn.Module, variables: Any, images: np.ndarray) -> Array:
    """The logits (N, K) of images (N, H, W, C), uint8 or float in [0, 1]."""
    blocks = []
    for start in range(0, max(len(images), 1), ROWS):
        block = images[start : start + ROWS]
        missing = [(0, ROWS - len(block)), *[(0, 0)] * (images.ndim - 1)]
        blocks.append(_apply(model, variables, np.pad(block, missing))[: len(block)])
    return jax.numpy.concatenate(blocks)


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: nn.Module, variables: Any, images: Array) -> Any:
    return model.apply(variables, images)
