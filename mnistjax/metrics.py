# pyright: strict, reportMissingTypeStubs=false, reportUnknownMemberType=false
# (Optax has no stubs, and JAX is typed in part.)
"""Losses per example, and metrics as sums that are divided once, at the end.

B batch, K classes (2 for a binary task). A confusion matrix has the true class in rows.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


class Sums(NamedTuple):
    """Sums over images; two of them are added leaf by leaf."""

    loss: Array  # () float32, sum of the per-example losses
    confusion: Array  # (K, K) int32, counts


def zero_sums(classes: int) -> Sums:
    """The sums over no images."""
    return Sums(jnp.zeros((), jnp.float32), jnp.zeros((classes, classes), jnp.int32))


def per_example_loss(task: str, logits: Array, labels: Array) -> Array:
    """Cross-entropy of each image (B,) in nats, from logits (B, K), or (B, 1) for a binary task.

    These are the report's equations 1 and 2 in log space, so they stay finite for large logits.
    """
    if task == "binary":
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels.astype(logits.dtype))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def predicted_class(task: str, logits: Array) -> Array:
    """The predicted class of each image (B,) int32; probability 0.5 in a binary task counts as negative."""
    if task == "binary":
        return (logits[:, 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def probabilities(task: str, logits: Array) -> Array:
    """Class probabilities (B, K); the columns of a binary task are the negative and the positive class."""
    if task == "binary":
        return jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=-1))
    return jax.nn.softmax(logits, axis=-1)


def batch_sums(task: str, classes: int, logits: Array, labels: Array, weights: Array) -> Sums:
    """The sums of one batch; images with weight 0 (padding) add nothing."""
    true = jax.nn.one_hot(labels, classes, dtype=jnp.float32) * weights[:, None]
    predicted = jax.nn.one_hot(predicted_class(task, logits), classes, dtype=jnp.float32)
    losses = per_example_loss(task, logits, labels)
    return Sums(jnp.sum(losses * weights), (true.T @ predicted).astype(jnp.int32))


def summarize(task: str, sums: Sums) -> dict[str, Any]:
    """`loss`, `accuracy`, `precision`, `recall`, `f1`, `balanced_accuracy`, `confusion_matrix`, `count`.

    Precision, recall and F1 (the report's equation 4) are the positive class's values for a binary task, else
    means over the classes (macro). They are 0 for a class that is never predicted or never occurs. Balanced
    accuracy is the mean recall over the classes that occur, also for a binary task.
    """
    confusion = np.asarray(sums.confusion, dtype=np.int64)
    count = int(confusion.sum())
    correct = np.diag(confusion)
    precision = _ratio(correct, confusion.sum(axis=0))
    recall = _ratio(correct, confusion.sum(axis=1))
    f1 = _ratio(2 * correct, confusion.sum(axis=0) + confusion.sum(axis=1))
    return {
        "loss": float(sums.loss) / count,
        "accuracy": float(correct.sum() / count),
        "precision": _of_task(task, precision),
        "recall": _of_task(task, recall),
        "f1": _of_task(task, f1),
        "balanced_accuracy": float(np.mean(recall[confusion.any(axis=1)])),
        "confusion_matrix": confusion.tolist(),
        "count": count,
    }


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The area under the ROC curve of labels (N,), 0 or 1, and scores (N,); None if all labels are equal.

    It is the share of the pairs of a positive and a negative image in which the positive one has the higher
    score, and half of those in which both are equal (Mann and Whitney, 1947); nan if a score is nan.
    """
    positive = labels == 1
    count = np.count_nonzero(positive)
    pairs = count * (len(labels) - count)
    if not pairs:
        return None
    if np.isnan(scores).any():
        return math.nan
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # from 1; equal scores share their mean rank
    return float((np.sum(ranks[positive]) - count * (count + 1) / 2) / pairs)


def _of_task(task: str, values: np.ndarray) -> float:
    """The value of the positive class for a binary task, else the mean over the classes."""
    return float(values[1] if task == "binary" else np.mean(values))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)
