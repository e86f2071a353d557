import jax
import numpy as np
import pytest

from mnistjax.batches import pad_split
from mnistjax.evaluation import evaluate, evaluate_on, predict
from mnistjax.metrics import summarize
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


def test_the_test_set_is_touched_only_at_the_end(monkeypatch):
    plan, data = small_plan(epochs=2)
    seen = []

    def spy(mesh, spec, variables, images, labels):
        seen.append(len(images))
        return evaluate_on(mesh, spec, variables, images, labels)

    monkeypatch.setattr("mnistjax.programs.evaluate_on", spy)
    fit_plan(plan, data)
    assert seen == [37, 37, 53]
    seen.clear()
    assert fit_plan(plan, data, stop=lambda: True).test is None
    assert 53 not in seen
