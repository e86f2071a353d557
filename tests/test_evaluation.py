from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import sklearn.metrics

from mnistjax import evaluation, to_binary
from mnistjax.batches import pad_split
from mnistjax.data import Split
from mnistjax.evaluation import evaluate, evaluate_on, forward, predict
from mnistjax.metrics import summarize
from mnistjax.programs import make_program
from mnistjax.step import init, variables_of
from small import fit_plan, made_up_data, small_plan


@pytest.mark.parametrize("count", [1, 53, 500, 501, 1300])
def test_evaluation_counts_every_image_once(count):
    data = made_up_data(test=count)
    plan, _ = small_plan(data=data)
    variables = variables_of(init(plan.spec, plan.hyper, jax.random.key(0)))
    summary = summarize("multiclass", evaluate(plan.spec, variables, data.test.images, data.test.labels))
    shares = predict(plan.spec, variables, data.test.images)
    assert summary["count"] == count == len(shares)
    assert summary["accuracy"] == pytest.approx(np.mean(shares.argmax(axis=1) == data.test.labels))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    picked = np.log(shares[np.arange(count), data.test.labels])
    assert summary["loss"] == pytest.approx(-picked.mean(), rel=1e-4)
    padded = pad_split(data.test, 777)
    sums = evaluate(plan.spec, variables, padded.images, padded.labels)
    assert len(padded.images) == max(count, 777)
    assert summarize("multiclass", sums)["confusion_matrix"] == summary["confusion_matrix"]
    assert summarize("multiclass", sums)["loss"] == pytest.approx(summary["loss"], rel=1e-6)


def test_images_of_another_shape_are_not_cut_into_pieces():
    """Five images in colour are not fifteen grey ones."""
    data = made_up_data()
    plan, _ = small_plan(data=data)
    variables = variables_of(init(plan.spec, plan.hyper, jax.random.key(0)))
    grey = data.test.images[:5]
    assert predict(plan.spec, variables, grey).shape == (5, data.num_classes)
    with pytest.raises(TypeError, match="cannot reshape"):
        predict(plan.spec, variables, np.stack([grey] * 3, axis=-1))


def test_the_test_set_is_touched_only_at_the_end(monkeypatch):
    plan, data = small_plan(epochs=2)
    seen = []

    def spy(mesh, spec, variables, images, labels):
        seen.append(len(images))
        return evaluate_on(mesh, spec, variables, images, labels)

    for module in ("programs", "evaluation"):
        monkeypatch.setattr(f"mnistjax.{module}.evaluate_on", spy)
    fit_plan(plan, data)
    assert seen == [37, 37, 53]
    seen.clear()
    assert fit_plan(plan, data, stop=lambda: True).test is None
    assert 53 not in seen


def two_classes(task, test=53):
    """A Plan of two classes, its data, and the logits of class 1 against class 0 of the test images."""
    data, positive = made_up_data(test=test, classes=10 if task == "binary" else 2), None
    if task == "binary":
        positive = int(data.test.labels[0])  # a class that occurs
        data = to_binary(data, positive)
    plan, _ = small_plan(data=data, positive=positive, micro_batch=8)
    variables = variables_of(init(plan.spec, plan.hyper, jax.random.key(0)))
    logits = np.asarray(forward(plan.spec, variables, data.test.images))
    return plan, data, variables, logits[:, -1] - (0 if task == "binary" else logits[:, 0])


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("spread", [True, False])
def test_two_classes_have_an_area_under_the_curve(task, width, spread, monkeypatch):
    """Also if the test images are padded to the number of the validation images, or shared by devices."""
    monkeypatch.setattr("mnistjax.devices.LARGE_STEP_FLOPS", 0)
    for count in (20, 53):
        plan, data, variables, scores = two_classes(task, count)
        tested = make_program(plan.spec, data, width=width, spread=spread).test(variables)
        assert tested["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(data.test.labels, scores))
        assert tested["count"] == count


def test_the_area_under_the_curve_needs_one_program_per_model():
    scores = vars(evaluation._score_on)["__wrapped__"]
    _, data, variables, _ = two_classes("binary", test=54)
    before = scores._cache_size()
    others: list[dict[str, Any]] = [{"optimizer": "sgd"}, {"batch_size": 64}, {"shuffle": "shared"}]
    for options in ({}, *others):
        own = small_plan(data=data, positive=3, **options)[0]
        assert "auc" in make_program(own.spec, data).test(variables)
    assert scores._cache_size() == before + 1


def test_one_class_or_many_have_no_area_under_the_curve():
    plan, data, variables, _ = two_classes("binary")
    ones = replace(data, test=Split(data.test.images, np.ones_like(data.test.labels)))
    assert "auc" not in make_program(plan.spec, ones).test(variables)
    plan, data = small_plan()
    assert "auc" not in (fit_plan(plan, data).test or {"auc": None})
