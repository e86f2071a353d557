"""Dense networks: the lab report's single neuron and hidden layers."""

from typing import ClassVar

from flax import linen as nn
from jax import Array

from mnistjax.models.layers import Model, flatten, hidden_layers


class Neuron(Model):
    """One linear layer, H*W*C -> K: the report's single neuron (equation 9); softmax regression for K > 1."""

    cpu_micro_batch: ClassVar[int] = 128  # images; a batch of 48,000 takes 13 ms this way, 85 ms as a whole

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = flatten(self.read(images))  # (B, H*W*C)
        return nn.Dense(self.num_classes)(x)


class MLP(Model):
    """Dense layers of the given widths, each with an activation and dropout, then a linear layer."""

    hidden: tuple[int, ...] = (512,)
    activation: str = "relu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = flatten(self.read(images))  # (B, H*W*C)
        x = hidden_layers(x, self.hidden, self.activation, self.dropout, train)
        return nn.Dense(self.num_classes)(x)
