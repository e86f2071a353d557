import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax.batches import HostBatches, split_shards
from mnistjax.devices import shard_mesh
from mnistjax.layout import epoch_rows
from small import small_plan


@settings(max_examples=60)
@given(
    steps=st.integers(1, 4),
    pieces=st.integers(1, 7),
    micro=st.integers(1, 5),
    devices=st.integers(1, 4),
    padded=st.integers(0, 5),
)
def test_shards_hold_every_row_once(steps, pieces, micro, devices, padded):
    rows = np.arange(steps * pieces * micro, dtype=np.int32)
    rows[len(rows) - min(padded, len(rows) - 1) :] ^= -1  # ~row is padding
    rows = rows.reshape(steps, pieces, micro)
    shards = split_shards(rows, devices)
    assert shards.shape == (devices, steps, -(-pieces // devices), micro)
    for step in range(steps):
        mine = shards[:, step].ravel()
        assert sorted(mine[mine >= 0]) == sorted(rows[step][rows[step] >= 0])


def test_batches_hold_the_images_of_their_rows_prepared_before_or_not():
    plan, data = small_plan(batch_size=46, micro_batch=23)
    batches_of = HostBatches(data.train, 1, shard_mesh(plan.spec))
    for epoch in range(4):
        rows = epoch_rows(plan.spec, seed=0, epoch=epoch)
        if epoch % 2:
            batches_of.prepare(rows)
        batches = batches_of.prepare(rows)
        images = np.asarray(batches.images).reshape(-1, 28, 28)
        np.testing.assert_array_equal(images, data.train.images[rows.ravel()])
        np.testing.assert_array_equal(np.asarray(batches.labels).ravel(), data.train.labels[rows.ravel()])
