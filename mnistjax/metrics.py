"""Losses per example, and metrics as sums that add up until one division at the end.

B batch, K classes (2 for a binary task). A confusion matrix has the true class in rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


class Sums(NamedTuple):
    """Sums over the images seen so far; two of them are added leaf by leaf."""

    loss: Array  # () float32, of the per-example losses
    confusion: Array  # (K, K) int32, counts


def zero_sums(classes: int) -> Sums:
    return Sums(jnp.zeros((), jnp.float32), jnp.zeros((classes, classes), jnp.int32))


def per_example_loss(task: str, logits: Array, labels: Array) -> Array:
    """Cross-entropy of each image (B,) in nats, from logits (B, K), or (B, 1) if binary; finite if saturated.

    The report's equations 1 and 2, in log space.
    """
    if task == "binary":
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(logits.dtype))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def predicted_class(task: str, logits: Array) -> Array:
    """The predicted class of each image (B,) int32; a binary tie at probability 0.5 is negative."""
    if task == "binary":
        return (logits[:, 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def probabilities(task: str, logits: Array) -> Array:
    """Class probabilities (B, K); for a binary task the columns are negative, positive."""
    if task == "binary":
        return jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=-1))
    return jax.nn.softmax(logits, axis=-1)


def batch_sums(task: str, classes: int, logits: Array, labels: Array, weights: Array) -> Sums:
    """The sums of one batch; images of weight 0 (padding) count nothing."""
    true = jax.nn.one_hot(labels, classes, dtype=jnp.float32) * weights[:, None]
    predicted = jax.nn.one_hot(predicted_class(task, logits), classes, dtype=jnp.float32)
    losses = per_example_loss(task, logits, labels)
    return Sums(jnp.sum(losses * weights), (true.T @ predicted).astype(jnp.int32))


def summarize(task: str, sums: Sums) -> dict[str, Any]:
    """`loss`, `accuracy`, `precision`, `recall`, `f1`, `confusion_matrix`, `count` from sums on the host.

    Precision, recall and F1 (the report's equation 4) are those of the positive class for a binary
    task and class means (macro) otherwise; 0 where a class was never predicted or never occurs.
    """
    confusion = np.asarray(sums.confusion, dtype=np.int64)
    count = int(confusion.sum())
    correct = np.diag(confusion)
    precision = _ratio(correct, confusion.sum(axis=0))
    recall = _ratio(correct, confusion.sum(axis=1))
    f1 = _ratio(2 * correct, confusion.sum(axis=0) + confusion.sum(axis=1))
    of_task = (lambda values: values[1]) if task == "binary" else np.mean
    return {
        "loss": float(sums.loss) / count,
        "accuracy": float(correct.sum() / count),
        "precision": float(of_task(precision)),
        "recall": float(of_task(recall)),
        "f1": float(of_task(f1)),
        "confusion_matrix": confusion.tolist(),
        "count": count,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)
