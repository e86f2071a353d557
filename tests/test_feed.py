import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax.config import Stopping
from mnistjax.feed import Feed, share_pieces
from mnistjax.loop import fit
from mnistjax.metrics import probabilities
from mnistjax.train import (
    count_shares,
    epoch_rows,
    evaluate,
    evaluate_on,
    forward,
    init,
    place,
    predict,
    share_mesh,
    train_segment,
)
from small import make_batches, small_plan

several = pytest.mark.skipif(jax.device_count() == 1, reason="needs several devices")


@settings(max_examples=60)
@given(
    steps=st.integers(1, 4),
    pieces=st.integers(1, 7),
    micro=st.integers(1, 5),
    devices=st.integers(1, 4),
    padded=st.integers(0, 5),
)
def test_shares_hold_every_row_once(steps, pieces, micro, devices, padded):
    rows = np.arange(steps * pieces * micro, dtype=np.int32)
    rows[len(rows) - min(padded, len(rows) - 1) :] ^= -1  # ~row is padding
    rows = rows.reshape(steps, pieces, micro)
    shares = share_pieces(rows, devices)
    assert shares.shape == (devices, steps, -(-pieces // devices), micro)
    for step in range(steps):
        mine = shares[:, step].ravel()
        assert sorted(mine[mine >= 0]) == sorted(rows[step][rows[step] >= 0])


def test_a_feed_gives_the_images_of_its_rows_made_before_or_not():
    plan, data = small_plan(batch_size=46, micro_batch=23)
    feed = Feed(data.train, 1, share_mesh(plan.spec))
    for epoch in range(4):
        rows = epoch_rows(plan.spec, seed=0, epoch=epoch)[0]
        if epoch % 2:
            feed.make(rows)
        batches = feed.take(rows)
        images = np.asarray(batches.images).reshape(-1, 28, 28)
        np.testing.assert_array_equal(images, data.train.images[rows.ravel()])
        np.testing.assert_array_equal(np.asarray(batches.labels).ravel(), data.train.labels[rows.ravel()])


def large(monkeypatch, **options):
    """A Plan whose steps all devices share, and its data."""
    monkeypatch.setattr("mnistjax.train.LARGE_STEP_FLOPS", 0)
    plan, data = small_plan(**options)
    assert count_shares(plan.spec) > 1
    return plan, data


@several
@pytest.mark.parametrize(("batch", "micro"), [(32, 8), (32, 11), (230, 64)])
def test_devices_take_the_step_that_one_takes(monkeypatch, batch, micro):
    """With dropout, whose masks do not depend on who draws them, and with a piece of padding or without."""
    options = {"model_options": {"hidden": 8, "dropout": 0.5}, "optimizer": "sgd", "batch_size": batch}
    plan, data = large(monkeypatch, micro_batch=micro, **options)
    spec, key = plan.spec, jax.random.key(0)
    rows = epoch_rows(spec, seed=0, epoch=0)[0]
    alone = train_segment(spec, plan.hyper, key, init(spec, plan.hyper, key), make_batches(spec, data, rows))
    mesh = share_mesh(spec)
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
    monkeypatch.setattr("mnistjax.train.EVALUATE_ROWS", 10)
    plan, data = large(monkeypatch, batch_size=46, micro_batch=23)
    mesh = share_mesh(plan.spec)
    params = {"params": init(plan.spec, plan.hyper, jax.random.key(0)).params}
    for part in (data.train, data.val, data.test):  # 23, 4 and 6 blocks
        images, labels = place((part.images, part.labels), mesh, shared=True)
        alone = share_mesh(plan.spec, spread=False)
        one = evaluate_on(alone, plan.spec, params, part.images, part.labels)
        other = evaluate_on(mesh, plan.spec, place(params, mesh, shared=True), images, labels)
        np.testing.assert_array_equal(one.confusion, other.confusion)
        np.testing.assert_array_equal(one.loss, other.loss)
        np.testing.assert_array_equal(other.loss, evaluate(plan.spec, params, part.images, part.labels).loss)
        shares = probabilities("multiclass", forward(plan.spec, params, jnp.asarray(part.images)))
        np.testing.assert_allclose(predict(plan.spec, params, part.images), shares, atol=1e-6)


@several
def test_a_run_on_several_devices_has_the_same_bits_when_it_is_resumed(monkeypatch):
    plan, data = large(monkeypatch, batch_size=46, micro_batch=23, stopping=Stopping(3, keep="best"))
    moments = []
    run = {"data": data, "stopping": plan.stopping}
    straight = fit(plan.spec, plan.hyper, **run, observers=[lambda m: moments.append((m.row, m.snapshot()))])
    row, snapshot = moments[0]
    resumed = fit(plan.spec, plan.hyper, **run, snapshot=snapshot, rows=[row])
    for one, other in zip(jax.tree.leaves(straight.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert straight.test == resumed.test
