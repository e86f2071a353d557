"""Metrics equal scikit-learn's; padding adds nothing; sums of parts are the whole."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax.metrics import (
    Sums,
    area_under_curve,
    batch_sums,
    per_example_loss,
    probabilities,
    summarize,
)


def sums_of(task, classes, logits, labels, weights=None):
    logits, labels = jnp.asarray(logits, jnp.float32), jnp.asarray(labels)
    weights = jnp.ones(len(labels)) if weights is None else jnp.asarray(weights, jnp.float32)
    return batch_sums(task, classes, logits, labels, weights)


@settings(max_examples=40)
@given(st.data())
def test_metrics_equal_sklearns(data):
    task = data.draw(st.sampled_from(["multiclass", "binary"]))
    classes = 2 if task == "binary" else data.draw(st.integers(2, 6))
    count = data.draw(st.sampled_from([1, 2, 7, 60]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, 1 if task == "binary" else classes)).round()  # many are equal, or 0
    ours = summarize(task, sums_of(task, classes, logits, labels))
    predicted = logits[:, 0] > 0 if task == "binary" else logits.argmax(axis=1)
    average = "binary" if task == "binary" else "macro"
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels,
        predicted,
        labels=None if task == "binary" else range(classes),
        average=average,
        zero_division=0,  # pyright: ignore[reportArgumentType] (its stub allows only words)
    )
    recalls = sklearn.metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert ours["balanced_accuracy"] == pytest.approx(recalls)  # of the classes that occur
    matrix = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(classes))
    shares = np.asarray(probabilities(task, jnp.asarray(logits)), np.float64)
    shares /= shares.sum(axis=1, keepdims=True)  # float32 sums to 1 within 1e-7, scikit-learn wants 1e-8
    loss = sklearn.metrics.log_loss(labels, shares, labels=range(classes))
    assert ours["confusion_matrix"] == matrix.tolist()
    assert ours["count"] == count
    np.testing.assert_allclose(
        [ours["accuracy"], ours["precision"], ours["recall"], ours["f1"], ours["loss"]],
        [np.mean(predicted == labels), precision, recall, f1, loss],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(("task", "width"), [("multiclass", 3), ("binary", 1)])
def test_padding_adds_nothing(task, width):
    rng = np.random.default_rng(0)
    classes = 2 if task == "binary" else width
    logits, labels = rng.normal(size=(8, width)), rng.integers(0, classes, 8)
    whole = sums_of(task, classes, logits[:5], labels[:5])
    padded = sums_of(task, classes, logits, labels, [1] * 5 + [0] * 3)
    np.testing.assert_array_equal(whole.confusion, padded.confusion)
    np.testing.assert_allclose(whole.loss, padded.loss, rtol=1e-6)


def test_sums_of_parts_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(10, 4)), rng.integers(0, 4, 10)
    whole = summarize("multiclass", sums_of("multiclass", 4, logits, labels))
    parts = [sums_of("multiclass", 4, logits[a:b], labels[a:b]) for a, b in [(0, 7), (7, 10)]]
    total = summarize("multiclass", Sums(*(one + other for one, other in zip(*parts, strict=True))))
    assert total.pop("loss") == pytest.approx(whole.pop("loss"), rel=1e-6)
    assert total == whole


@pytest.mark.parametrize("size", [30.0, 1e4, 3e38])
def test_losses_are_finite_when_saturated(size):
    binary = per_example_loss("binary", jnp.array([[size], [-size]]), jnp.array([1, 1]))
    multiclass = per_example_loss("multiclass", jnp.array([[size, 0.0], [size, 0.0]]), jnp.array([0, 1]))
    for right, wrong in (binary, multiclass):
        assert 0 <= right < 1e-9
        assert wrong == pytest.approx(size, rel=1e-6)


def test_f1_is_zero_and_not_nan_without_positives():
    summary = summarize("binary", Sums(jnp.array(1.0), jnp.array([[5, 0], [0, 0]])))
    assert (summary["precision"], summary["recall"], summary["f1"], summary["accuracy"]) == (0, 0, 0, 1)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=60), st.booleans())
def test_the_area_under_the_curve_equals_sklearns(pairs, tied):
    """With many equal scores, and with scores that differ by a rounding of float32."""
    labels, scores = np.array(pairs).T
    scores = scores.astype(np.float32) if tied else np.float32(9) + scores * np.float32(1e-6)
    area: Any = area_under_curve(labels, scores)
    if len(set(labels)) == 1:
        assert area is None
    else:
        assert area == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
        assert area_under_curve(1 - labels, scores) == pytest.approx(1 - area, abs=1e-12)


def test_a_score_that_is_no_number_has_no_rank():
    assert np.isnan(area_under_curve(np.array([0, 1]), np.array([0.5, np.nan], np.float32)) or 0)
    assert area_under_curve(np.array([0, 1, 1]), np.array([-np.inf, 0, np.inf], np.float32)) == 1
