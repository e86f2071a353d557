"""Dense networks: the report's neuron and hidden layers."""

from __future__ import annotations

from typing import ClassVar

from flax import linen as nn
from jax import Array

from mnistjax.models.layers import ACTIVATIONS, check_choice, check_rate, check_sizes, to_float


class Neuron(nn.Module):
    """One linear layer, 784 -> K: the report's single neuron (equation 9), softmax regression for K > 1."""

    cpu_micro_batch: ClassVar[int] = 128  # images; a 48,000 batch takes 13 ms so, 85 ms in one piece

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = to_float(images).reshape(len(images), -1)  # (B, H*W*C)
        return nn.Dense(self.num_classes)(x)


class MLP(nn.Module):
    """Dense layers of the given widths, each with an activation and dropout, then a linear layer."""

    num_classes: int = 10
    hidden: tuple[int, ...] = (512,)
    activation: str = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)
        check_sizes(hidden=self.hidden)
        check_rate("dropout", self.dropout)

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        x = to_float(images).reshape(len(images), -1)  # (B, H*W*C)
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](nn.Dense(width)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)
