import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax import layout as layouts
from mnistjax.layout import count_argument, epoch_rows, layout, segment_rows, steps_left
from small import small_plan


@settings(max_examples=60)
@given(
    count=st.integers(1, 300),
    batch=st.integers(1, 300),
    micro=st.integers(1, 300),
    epoch=st.integers(0, 3),
    shuffle=st.sampled_from(["own", "shared"]),
)
def test_an_epoch_visits_every_image_once(count, batch, micro, epoch, shuffle):
    plan, _ = small_plan()
    batch = min(batch, count)
    spec = dataclasses.replace(
        plan.spec, train_count=count, batch_size=batch, micro_batch=min(micro, batch), shuffle=shuffle
    )
    rows = epoch_rows(spec, seed=1, epoch=epoch)
    assert len(rows) == spec.steps_per_epoch
    assert sorted(rows[rows >= 0].tolist()) == list(range(count))
    assert (~rows[rows < 0] < count).all()
    sizes = (rows >= 0).sum(axis=(1, 2))
    assert (sizes[:-1] == batch).all()
    assert sizes[-1] == count - batch * (spec.steps_per_epoch - 1)


def test_the_order_differs_by_epoch_and_seed_unless_shared():
    plan, _ = small_plan()
    own, shared = plan.spec, dataclasses.replace(plan.spec, shuffle="shared")
    first = epoch_rows(own, seed=0, epoch=0)
    assert not np.array_equal(first, epoch_rows(own, seed=0, epoch=1))
    assert not np.array_equal(first, epoch_rows(own, seed=1, epoch=0))
    np.testing.assert_array_equal(first, epoch_rows(own, seed=0, epoch=0))
    np.testing.assert_array_equal(epoch_rows(shared, seed=0, epoch=0), epoch_rows(shared, seed=1, epoch=0))


@pytest.fixture
def cut(monkeypatch):
    """Returns the Spec of so many steps an epoch, whose segments should have `wanted` steps."""
    layout.cache_clear()
    yield make_spec(monkeypatch)
    layout.cache_clear()


def make_spec(monkeypatch):
    def make(steps, wanted, batch=4):
        spec = dataclasses.replace(small_plan()[0].spec, train_count=steps * batch, batch_size=batch)
        spec = dataclasses.replace(spec, micro_batch=batch)
        monkeypatch.setattr(layouts, "SEGMENT_FLOPS", layouts.epoch_flops(spec) / steps * wanted)
        return spec

    return make


@pytest.mark.parametrize(
    ("steps", "wanted", "segments"),
    [(750, 1000, 1), (750, 300, 3), (188, 100, 2), (751, 1000, 1), (751, 100, 8), (13, 5, 3), (7, 0.5, 7)],
)
def test_a_segment_has_about_the_wanted_steps_whatever_divides_an_epoch(cut, steps, wanted, segments):
    spec = cut(steps, wanted)
    assert -(-steps // layout(spec).segment_steps) == segments
    assert spec.steps_per_epoch % layout(spec).gather_steps == 0
    assert layout(spec).segment_steps % layout(spec).gather_steps == 0


@settings(max_examples=60)
@given(steps=st.integers(1, 300), wanted=st.floats(0.1, 400))
def test_segments_read_an_epoch_in_order(steps, wanted):
    with pytest.MonkeyPatch.context() as monkeypatch:
        layout.cache_clear()
        spec, step, read = make_spec(monkeypatch)(steps, wanted), 2 * steps, []
        while not read or step % steps:
            count = steps_left(spec, step)
            rows = segment_rows(spec, seed=3, step=step, count=count)
            assert len(rows) == layout(spec).segment_steps
            assert (count_argument(spec, count) or len(rows)) == count
            assert count_argument(spec, count) or steps % count == 0
            read.append(rows[:count])
            step += count
        np.testing.assert_array_equal(np.concatenate(read), epoch_rows(spec, seed=3, epoch=2))
    layout.cache_clear()
