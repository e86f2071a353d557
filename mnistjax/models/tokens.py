"""Networks that read an image as tokens: each is a patch of the image."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from mnistjax.config import ConfigError
from mnistjax.models.layers import Model


def to_patches(images: Array, side: int) -> Array:
    """The side x side patches of images (B, H, W, C), flattened: (B, H/side * W/side, side*side*C).

    H and W are rounded up to multiples of `side`, by zeros at the bottom and on the right. ConfigError if
    `side` is larger than an image's.
    """
    height, width = images.shape[1:3]
    if side > (least := min(height, width)):
        raise ConfigError(
            f"patch must be at most {least}, a side of images of {height} x {width}; got {side}"
        )
    if height % side or width % side:
        images = jnp.pad(images, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // side, side, width // side, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, (height // side) * (width // side), side * side * channels)


class FeedForward(nn.Module):
    """Dense layer, GELU, dense layer: the MLP of both networks."""

    hidden: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        width = x.shape[-1]
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(nn.Dense(self.hidden)(x)))
        return nn.Dropout(self.dropout, deterministic=not train)(nn.Dense(width)(x))


class MLPMixer(Model):
    """Layers that mix tokens, then channels (Tolstikhin et al., 2021, figure 1)."""

    cpu_micro_batch: ClassVar[int] = 2  # images; an epoch takes 1.25 times as long in parts of 32

    patch: int = 4  # pixels a side
    width: int = 64  # channels of a token
    depth: int = 4  # layers
    token_hidden: int = 64
    channel_hidden: int = 128
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = nn.Dense(self.width)(to_patches(self.read(images), self.patch))  # (B, tokens, width)
        for _ in range(self.depth):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + FeedForward(self.token_hidden, self.dropout)(y, train).swapaxes(1, 2)
            x = x + FeedForward(self.channel_hidden, self.dropout)(nn.LayerNorm()(x), train)
        return nn.Dense(self.num_classes)(nn.LayerNorm()(x).mean(axis=1))


class Embedding(nn.Module):
    """Tokens (B, 1 + tokens, width) from patches (B, tokens, pixels): a class token first, with positions."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(self.width)(x)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
        return x + self.param("places", nn.initializers.normal(0.02), (1, *x.shape[1:]), jnp.float32)


class ViT(Model):
    """A transformer encoder on patches and a class token (Dosovitskiy et al., 2021, equations 1 to 4)."""

    cpu_micro_batch: ClassVar[int] = 1  # image; an epoch takes 1.35 times as long in parts of 16

    patch: int = 4  # pixels a side
    width: int = 64  # channels of a token
    depth: int = 4  # layers
    heads: int = 4
    hidden: int = 128  # width of each layer's MLP
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ConfigError(f"heads must divide width, {self.width}; got {self.heads}")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = Embedding(self.width)(to_patches(self.read(images), self.patch))  # (B, 1 + tokens, width)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for _ in range(self.depth):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y)
            x = x + FeedForward(self.hidden, self.dropout)(nn.LayerNorm()(x), train)
        return nn.Dense(self.num_classes)(nn.LayerNorm()(x[:, 0]))
