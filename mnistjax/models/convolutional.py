"""Convolutional networks, from LeNet-5 to a residual network."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from mnistjax.config import ConfigError, shorten
from mnistjax.models.layers import ACTIVATIONS, Model, check_layers, flatten, hidden_layers
from mnistjax.ops import Padding, average_pool, conv2d, conv2d_max_pool, depthwise, max_pool


class ConvBlock(nn.Module):
    """Convolutions, each with a bias and an activation, and 2 x 2 max-pooling before the last bias.

    Pooling first gives the same output for every monotonic activation with a quarter of the work.
    """

    channels: int
    kernel: int
    convolutions: int
    padding: Padding
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for index in range(self.convolutions):
            shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
            kernel = self.param(f"kernel_{index}", nn.initializers.he_normal(), shape, jnp.float32)
            convolve = conv2d_max_pool if index == self.convolutions - 1 else conv2d
            x = convolve(x, kernel, self.padding)  # (B, H/2, W/2, channels) after the last one
            bias = self.param(f"bias_{index}", nn.initializers.zeros, (self.channels,), jnp.float32)
            x = ACTIVATIONS[self.activation](x + bias.reshape(1, 1, 1, -1))
        return x


class CNN(Model):
    """A block of convolutions and pooling for each of `channels`, then an MLP: the report's system D."""

    cpu_micro_batch: ClassVar[int] = 16  # images; activations of more do not fit in a core's cache

    channels: tuple[int, ...] = (8, 32)
    kernel: int = 3
    convolutions: int = 2
    padding: Padding = "valid"
    hidden: tuple[int, ...] = (128,)
    activation: str = "relu"
    dropout: float = 0.4

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = self.read(images)  # (B, H, W, C)
        lost = self.convolutions * (self.kernel - 1) if self.padding == "valid" else 0  # pixels per block
        how = f" (kernel {self.kernel}, padding {self.padding})"
        for channels in self.channels:
            _check_poolable(x, lost, images, self.channels, how)
            x = ConvBlock(channels, self.kernel, self.convolutions, self.padding, self.activation)(x)
        x = hidden_layers(flatten(x), self.hidden, self.activation, self.dropout, train)
        return nn.Dense(self.num_classes)(x)


def _check_poolable(x: Array, lost: int, images: Array, channels: tuple[int, ...], how: str = "") -> None:
    """Raises ConfigError if too few pixels are left for 2 x 2 pooling after convolutions that lose `lost`."""
    if min(x.shape[1:3]) - lost < 2:
        height, width = images.shape[1:3]
        raise ConfigError(
            f"channels: {len(channels)} blocks are too many for images of {height} x {width}{how}"
        )


class LeNet5(Model):
    """Two 5 x 5 convolutions and three dense layers (LeCun et al., 1998, figure 2).

    As in most later versions, C3 is connected to all maps, and a linear layer replaces the radial basis
    functions. Sides of less than 32 pixels are padded to 32 with zeros, half of them on each side.
    """

    cpu_micro_batch: ClassVar[int] = 16

    activation: str = "tanh"

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        activation = ACTIVATIONS[self.activation]
        x = self.read(images)
        missing = [max(0, 32 - side) for side in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), *((pixels // 2, pixels - pixels // 2) for pixels in missing), (0, 0)))
        for channels in (6, 16):
            x = average_pool(activation(Conv(channels, kernel=5)(x)))
        x = flatten(x)
        for width in (120, 84):
            x = activation(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)


class CNNBN(Model):
    """A small VGG (Simonyan and Zisserman, 2015) with batch normalisation (Ioffe and Szegedy, 2015).

    The last convolution of a block is pooled before it is normalised, which is a quarter of the work.
    """

    cpu_micro_batch: ClassVar[int] = 16  # images, in an evaluation; a training step takes its whole batch

    channels: tuple[int, ...] = (16, 32, 64)
    convolutions: tuple[int, ...] = (2,)  # per block, or one number for all blocks
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = self.read(images)
        activation = ACTIVATIONS[self.activation]
        for channels, convolutions in zip(self.channels, self._counts(), strict=True):
            _check_poolable(x, 0, images, self.channels)
            for index in range(convolutions):
                pool = index == convolutions - 1
                x = Conv(channels, padding="same", pool=pool, bias=False)(x)
                x = activation(normalize(x, train))
        x = nn.Dropout(self.dropout, deterministic=not train)(flatten(x))
        for width in self.hidden:
            x = activation(normalize(nn.Dense(width, use_bias=False)(x), train))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)

    def _counts(self) -> tuple[int, ...]:
        blocks, given = len(self.channels), self.convolutions
        if len(given) not in (1, blocks):
            shown = shorten(list(given))
            raise ConfigError(f"convolutions must be 1 number or {blocks}, as channels; got {shown}")
        return given * blocks if len(given) == 1 else given


class ResNet(Model):
    """Residual stages, each with half the side of the previous one (He et al., 2016, section 4.2).

    Shortcuts have no parameters (option A there). One block per stage is ResNet-8.
    """

    cpu_micro_batch: ClassVar[int] = 16  # images, in an evaluation; a training step takes its whole batch

    channels: tuple[int, ...] = (16, 32, 64)  # per stage
    blocks: int = 1  # per stage, of two convolutions each

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or list(self.channels) != sorted(self.channels):
            given = shorten(list(self.channels))
            raise ConfigError(f"channels must be one number or more, none less than before; got {given}")
        check_layers("blocks", len(self.channels) * self.blocks)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = Conv(self.channels[0], padding="same", bias=False)(self.read(images))
        x = nn.relu(normalize(x, train))
        for stage, channels in enumerate(self.channels):
            for block in range(self.blocks):
                x = ResidualBlock(channels, 2 if stage and not block else 1)(x, train)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, plus a shortcut that skips pixels and pads channels with zeros."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = Conv(self.channels, padding="same", stride=self.stride, bias=False)(x)
        y = nn.relu(normalize(y, train))
        y = Conv(self.channels, padding="same", bias=False)(y)
        x = x[:, :: self.stride, :: self.stride]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])))
        return nn.relu(x + normalize(y, train))


class Separable(Model):
    """Depthwise separable convolutions (Howard et al., 2017) and global average pooling: few parameters.

    A plain convolution, then `blocks` separable ones per stage, each with batch normalisation. A block that
    keeps the number of channels has a shortcut, and is used `repeats` times, with the same weights and each
    time with a normalisation of its own. There is 2 x 2 max-pooling before every stage; the first one makes
    training three times faster (channels 10, 16, 24 on MNIST, one core of an AMD EPYC).
    """

    cpu_micro_batch: ClassVar[int] = 16  # images, in an evaluation; a training step takes its whole batch

    channels: tuple[int, ...] = (8, 16, 24)  # per stage
    blocks: int = 1  # per stage
    repeats: int = 1  # of a block that keeps the number of channels
    activation: str = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels:
            raise ConfigError("channels must be one number or more; got []")
        check_layers("blocks x repeats", len(self.channels) * self.blocks * self.repeats)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        activation = ACTIVATIONS[self.activation]
        x = self.read(images)
        _check_poolable(x, 0, images, self.channels)
        x = Conv(self.channels[0], padding="same", pool=True, bias=False)(x)
        x = activation(normalize(x, train))
        for stage, channels in enumerate(self.channels):
            if stage:
                _check_poolable(x, 0, images, self.channels)
                x = max_pool(x)
            for _ in range(self.blocks):
                block, keeps = SeparableConv(channels), x.shape[-1] == channels
                for _ in range(self.repeats if keeps else 1):
                    y = activation(normalize(block(x), train))
                    x = x + y if keeps else y
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(self.num_classes)(x)


class SeparableConv(nn.Module):
    """A 3 x 3 convolution of each channel, then a product of all channels at each pixel, without a bias."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = x.shape[-1]
        space = self.param("space", nn.initializers.normal(1 / 3), (3, 3, inputs), jnp.float32)
        mix = self.param("mix", nn.initializers.he_normal(), (1, 1, inputs, self.channels), jnp.float32)
        return conv2d(depthwise(x, space), mix)


class Conv(nn.Module):
    """A convolution, optionally with 2 x 2 max-pooling and a bias after it."""

    channels: int
    kernel: int = 3
    padding: Padding = "valid"
    stride: int = 1
    pool: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        if self.pool:
            x = conv2d_max_pool(x, kernel, self.padding)
        else:
            x = conv2d(x, kernel, self.padding, self.stride)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
            x = x + bias.reshape(1, 1, 1, -1)
        return x


def normalize(x: Array, train: bool) -> Array:
    """`x` normalised over all axes but the last.

    Training uses the batch's statistics and adds them to the running ones with a weight of 0.1.
    """
    return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
