from typing import Any

import jax
import numpy as np
import pytest

from mnistjax.config import Stopping
from mnistjax.devices import count_shards, place, shard_mesh
from mnistjax.evaluation import evaluate, evaluate_on, forward, predict
from mnistjax.layout import epoch_rows
from mnistjax.loop import fit
from mnistjax.metrics import probabilities
from mnistjax.step import init
from small import make_batches, small_plan, train_segment

several = pytest.mark.skipif(jax.device_count() == 1, reason="needs several devices")


def large(monkeypatch, **options):
    """A Plan whose steps all devices share, and its data."""
    monkeypatch.setattr("mnistjax.devices.LARGE_STEP_FLOPS", 0)
    plan, data = small_plan(**options)
    assert count_shards(plan.spec) > 1
    return plan, data


def test_micro_batches_that_change_batch_statistics_stay_on_one_device(carrying, monkeypatch):
    """Each starts from those of the one before; devices side by side would end with different ones."""
    monkeypatch.setattr("mnistjax.devices.LARGE_STEP_FLOPS", 0)
    options: Any = {"batch_size": 32, "micro_batch": 8}
    assert count_shards(small_plan(model=carrying, **options)[0].spec) == 1
    assert count_shards(small_plan(**options)[0].spec) == min(4, jax.device_count())


@several
@pytest.mark.parametrize(("batch", "micro"), [(32, 8), (32, 11), (230, 64)])
def test_devices_take_the_step_that_one_takes(monkeypatch, batch, micro):
    """With dropout, whose masks do not depend on the device, and with a micro-batch of padding or without."""
    options = {"model_options": {"hidden": 8, "dropout": 0.5}, "optimizer": "sgd", "batch_size": batch}
    plan, data = large(monkeypatch, micro_batch=micro, **options)
    spec, key = plan.spec, jax.random.key(0)
    rows = epoch_rows(spec, seed=0, epoch=0)
    alone = train_segment(spec, plan.hyper, key, init(spec, plan.hyper, key), make_batches(spec, data, rows))
    mesh = shard_mesh(spec)
    state = place(init(spec, plan.hyper, key), mesh, shared=True)
    batches = make_batches(spec, data, rows, mesh.size, mesh)
    shared = train_segment(spec, plan.hyper, key, state, batches, mesh)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    np.testing.assert_array_equal(alone.sums.confusion, shared.sums.confusion)
    batches = make_batches(spec, data, rows, mesh.size)
    one_by_one = train_segment(spec, plan.hyper, key, init(spec, plan.hyper, key), batches)
    for one, other in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(shared), strict=True):
        np.testing.assert_array_equal(one, other)


@several
def test_devices_share_an_evaluation_and_count_each_image_once(monkeypatch):
    monkeypatch.setattr("mnistjax.evaluation.BLOCK_ROWS", 10)
    plan, data = large(monkeypatch, batch_size=46, micro_batch=23)
    mesh = shard_mesh(plan.spec)
    params = {"params": init(plan.spec, plan.hyper, jax.random.key(0)).params}
    for part in (data.train, data.val, data.test):  # 23, 4 and 6 blocks
        images, labels = place((part.images, part.labels), mesh, shared=True)
        alone = shard_mesh(plan.spec, spread=False)
        one = evaluate_on(alone, plan.spec, params, part.images, part.labels)
        other = evaluate_on(mesh, plan.spec, place(params, mesh, shared=True), images, labels)
        np.testing.assert_array_equal(one.confusion, other.confusion)
        np.testing.assert_array_equal(one.loss, other.loss)
        np.testing.assert_array_equal(other.loss, evaluate(plan.spec, params, part.images, part.labels).loss)
        shares = probabilities("multiclass", forward(plan.spec, params, jax.numpy.asarray(part.images)))
        np.testing.assert_allclose(predict(plan.spec, params, part.images), shares, atol=1e-6)


@several
def test_a_run_on_several_devices_has_the_same_bits_when_it_is_resumed(monkeypatch):
    plan, data = large(monkeypatch, batch_size=46, micro_batch=23, stopping=Stopping(3, keep="best"))
    seen = []
    run = {"data": data, "stopping": plan.stopping}
    straight = fit(plan.spec, plan.hyper, **run, callbacks=[lambda p: seen.append((p.row, p.snapshot()))])
    row, snapshot = seen[0]
    resumed = fit(plan.spec, plan.hyper, **run, snapshot=snapshot, rows=[row])
    for one, other in zip(jax.tree.leaves(straight.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert straight.test == resumed.test
