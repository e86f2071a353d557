"""An ensemble: several trained models of one architecture that act as one, with calibrated probabilities."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from scipy.optimize import minimize_scalar

from mnistjax.backend import isolated
from mnistjax.metrics import per_example_loss
from mnistjax.zoo.classify import find_logits

TEMPERATURES = 0.1, 10.0  # lowest and highest temperature that is tried


class Ensemble(nn.Module):
    """The mean of its members' class probabilities, as logits (B, K), or (B, 1) for a binary task.

    This is a deep ensemble (Lakshminarayanan et al., 2017), whose logits are divided by a temperature (Guo et
    al., 2017).
    """

    member: nn.Module
    members: int

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        members = [self.member.clone(parent=self, name=f"member_{index}") for index in range(self.members)]
        temperature = self.param("temperature", nn.initializers.ones, (), jnp.float32)
        return mix(jnp.stack([member(images, train) for member in members])) / temperature


def mix(logits: Array) -> Array:
    """The logits (B, K) of the members' mean probability, from logits (W, B, K); K is 1 for a binary task."""
    if logits.shape[-1] == 1:
        # Not `log_sigmoid`, which jax2onnx 0.17 writes as log(sigmoid(x)): infinite from a logit of 20 on.
        yes, no = (jax.nn.logsumexp(-jax.nn.softplus(sign * logits), axis=0) for sign in (-1, 1))
        return yes - no
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(jnp.float32(len(logits)))


@isolated()
def ensemble(
    model: nn.Module, members: Sequence[Any], task: str, images: np.ndarray, labels: np.ndarray
) -> tuple[Ensemble, dict[str, Any]]:
    """The ensemble of a model's variables from several runs, and its variables.

    The temperature minimises the loss on these (validation) images (N, H, W, C) with labels (N,). It changes
    the probabilities, but not the predicted classes.
    """
    together = Ensemble(model, len(members))
    variables: dict[str, Any] = {
        name: {f"member_{index}": member[name] for index, member in enumerate(members)} for name in members[0]
    }
    variables["params"]["temperature"] = jnp.ones(())
    logits = find_logits(together, variables, images)

    @jax.jit
    def loss(temperature: Any) -> Array:
        return per_example_loss(task, logits / temperature, jnp.asarray(labels)).mean()

    found: Any = minimize_scalar(lambda log: float(loss(jnp.exp(log))), bounds=np.log(TEMPERATURES))
    variables["params"]["temperature"] = jnp.exp(jnp.asarray(found.x, jnp.float32))
    return together, variables
