"""The plain loop of Flax's MNIST example: Linen, Optax, a jitted step called from Python, batch by batch."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training import train_state

import contender

OPTIMIZERS = {"sgd": optax.sgd, "rmsprop": optax.rmsprop, "adam": optax.adam}


class Model(nn.Module):
    channels: tuple
    convolutions: int
    hidden: tuple
    dropout: float
    outputs: int

    @nn.compact
    def __call__(self, x, train):
        for channels in self.channels:
            for _ in range(self.convolutions):
                x = nn.relu(nn.Conv(channels, (3, 3), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(nn.Dense(width)(x)))
        return nn.Dense(self.outputs)(x)


def build(task: dict, train: contender.Images, test: contender.Images) -> contender.Contender:
    batch, binary = task["batch_size"], task["binary"]
    images, labels = train.images[..., None], train.labels
    layers = tuple(task["channels"]), task["convolutions"], tuple(task["hidden"]), task["dropout"]
    model, key = Model(*layers, 1 if binary else 10), jax.random.key(task["seed"])
    params = model.init(key, images[:1], False)["params"]
    optimizer = OPTIMIZERS[task["optimizer"]](task["learning_rate"])
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)

    def loss(params, images, labels, key=None):
        rngs = None if key is None else {"dropout": key}
        logits = jnp.asarray(model.apply({"params": params}, images, key is not None, rngs=rngs))
        if binary:
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels).mean(), logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    @jax.jit
    def step(state, images, labels):
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, _), grads = gradient(state.params, images, labels, jax.random.fold_in(key, state.step))
        return state.apply_gradients(grads=grads), value

    @jax.jit
    def measure(state, images, labels):
        value, logits = loss(state.params, images, labels)
        predicted = logits[:, 0] > 0 if binary else jnp.argmax(logits, -1)
        return value, jnp.sum(predicted == labels)

    def fit(epochs: int, count: int) -> None:
        nonlocal state
        for _ in range(epochs):
            order = np.random.permutation(count)
            for start in range(0, count, batch):
                rows = order[start : start + batch]
                state, _ = step(state, jnp.asarray(images[rows]), jnp.asarray(labels[rows]))
        jax.block_until_ready(state)

    def evaluate() -> None:
        parts = [slice(start, start + 500) for start in range(0, len(test.images), 500)]
        sums = [measure(state, test.images[part][..., None], test.labels[part]) for part in parts]
        jax.device_get(sums)

    return contender.Contender(fit, evaluate, lambda: sum(x.size for x in jax.tree.leaves(params)))


contender.serve(build, flax=flax.__version__, jax=jax.__version__, optax=optax.__version__)
