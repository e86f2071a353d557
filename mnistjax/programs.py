"""The compiled programs of training, one for each Spec: one run at a time, or many lanes at once.

A program holds the States of the runs in its lanes. The host advances them all by a segment, and reads their
metrics in between. S shards, P micro-batches, M images of a micro-batch, W lanes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8

from mnistjax.backend import isolated
from mnistjax.batches import HostBatches, can_slice, gather_rows, pad_split, pick, place_split, slice_rows
from mnistjax.config import Hyper, Spec
from mnistjax.data import Dataset
from mnistjax.devices import (
    SAME,
    SHARDS,
    SPLIT,
    count_shards,
    lane_mesh,
    over_lanes,
    over_shards,
    place,
    place_count,
    shard_mesh,
    sum_shards,
)
from mnistjax.evaluation import WIDE, evaluate_lanes, evaluate_on, measure_on
from mnistjax.layout import layout
from mnistjax.metrics import Sums
from mnistjax.plan import check_fits
from mnistjax.step import Batch, Gradient, State, accumulate, start_segment, train_step, variables_of


def train_segment(
    spec: Spec,
    hyper: Hyper,
    key: Array,
    state: State,
    batches: Batch,
    count: Int32[Array, ""] | None = None,
    axis: str | None = None,
) -> State:
    """Returns the State after a step on each of the first `count` batches (S, steps, P, M, ...), or on all.

    With a mesh `axis`, each of its devices has one shard, so S is 1 here.
    """
    shards, steps, micro_batches = batches.labels.shape[:3]
    whole = axis is None and shards == micro_batches == 1

    def step(index: Array, state: State) -> State:
        batch = pick(batches, index, axis=1)
        if whole:
            batch = jax.tree.map(lambda leaf: leaf[0, 0], batch)
            return train_step(spec, hyper, key, state, batch)
        return train_step(spec, hyper, key, state, batch, lambda grad: sum_shards(accumulate(grad), axis))

    return lax.fori_loop(0, steps if count is None else count, step, start_segment(spec, state))


@functools.cache
def segment_program(spec: Spec, mesh: Mesh) -> Callable[..., State]:
    """The compiled `train_segment` of a Spec, whose shards are spread over the devices of a mesh."""
    train = functools.partial(train_segment, spec, axis=SHARDS if mesh.size > 1 else None)
    program = over_shards(train, mesh, (SAME, SAME, SAME, SPLIT, SAME))
    return isolated()(jax.jit(program, donate_argnums=2, compiler_options=WIDE))


def train_lane(
    spec: Spec,
    hyper: Hyper,
    key: Array,
    state: State,
    images: UInt8[Array, "N H W *C"],
    labels: Int32[Array, " N"],
    rows: Int32[Array, "steps P M"],
    count: Int32[Array, ""] | None = None,
) -> State:
    """Returns a lane's State after the first `count` steps of a segment, or after all.

    The device gathers the images; `rows` are those of `segment_rows`.
    """
    gather = functools.partial(gather_rows, images, labels)
    take = functools.partial(slice_rows, images, labels, size=spec.micro_batch)
    size = layout(spec).gather_steps
    blocks = rows.reshape(-1, size, *rows.shape[1:])

    def block(index: Array, state: State) -> State:
        batches = pick(blocks, index)
        transform: Callable[[Gradient], Gradient] = functools.partial(accumulate, read=gather)
        if spec.micro_batch == spec.batch_size:  # the images of several steps at once, which is faster
            batches, transform = gather(batches[:, 0]), lambda gradient: gradient
        elif can_slice(spec):
            batches, transform = batches[..., 0], functools.partial(accumulate, read=take)

        def step(index: Array, state: State) -> State:
            return train_step(spec, hyper, key, state, pick(batches, index), transform)

        steps = size if count is None else jnp.minimum(size, count - index * size)
        return lax.fori_loop(0, steps, step, state)

    stop = len(blocks) if count is None else (count + size - 1) // size
    return lax.fori_loop(0, stop, block, start_segment(spec, state))


@functools.cache
def lanes_program(spec: Spec, lanes: int) -> Callable[..., State]:
    """The compiled `train_lane` of W runs at once, whose Hypers, keys (W,) and States are stacked.

    rows (W, steps, P, M), or without the W if `spec.shuffle` is "shared": a batch is then read once for all
    lanes, and the first layer of an MLP is one product W times as wide.
    """
    axes = (0, 0, 0, None, None, None if spec.shuffle == "shared" else 0, None)
    train = over_lanes(functools.partial(train_lane, spec), axes, lanes)
    return isolated()(jax.jit(train, donate_argnums=2, compiler_options=WIDE))


@runtime_checkable
class Program(Protocol):
    """The States of the runs in the lanes of a program. The methods that return a mapping do so by lane."""

    spec: Spec
    width: int  # lanes of the compiled program; 1 for runs that it trains in turn

    # Whether runs may join when so many lanes are taken.
    def has_room(self, lanes: int) -> bool: ...
    def put(self, lane: int, hyper: Hyper, seed: int, state: State) -> None: ...

    def remove(self, lane: int) -> None:
        """Forgets a run; a lane without one may repeat what it last did."""

    # Advances the runs in these lanes by the first `count` steps of their rows, or by all.
    def advance(self, rows: Mapping[int, np.ndarray], count: int | None) -> None: ...

    def prepare(self, rows: np.ndarray) -> None:
        """Gathers the next batches while the device is busy, if the host gathers."""

    # The State of a lane, in arrays that the next segment may overwrite.
    def state(self, lane: int) -> State: ...

    # The sums of the current epoch, on the host; waits for the device.
    def sums(self) -> Mapping[int, Sums]: ...

    # The sums over the validation images, on the host; the metrics of one run's variables on the test images.
    def evaluate(self, lanes: Sequence[int]) -> Mapping[int, Sums]: ...
    def test(self, variables: Any) -> dict[str, Any]: ...


def make_program(spec: Spec, data: Dataset, *, width: int = 1, spread: bool = True) -> Program:
    """The program of one run, or of `width` lanes.

    Width 1 gives the bits of single runs. Another width gives its own bits, which no neighbour changes.
    Large steps of single runs are `spread` over the devices, or left to the default one, to the same bits.
    ConfigError if the data is not what the Spec was made for.
    """
    check_fits(spec, data)
    return LanesProgram(spec, data, width) if width > 1 else SingleProgram(spec, data, spread=spread)


class SingleProgram(Program):
    """The program of a single run, for one run or for several that take turns on the same batches.

    Interleaved runs share the cost of gathering, half of that of a neuron. They read the images in one order
    and are at one step. The host gathers the next batches while the device is busy with those before.
    """

    width = 1

    def __init__(self, spec: Spec, data: Dataset, *, spread: bool = True) -> None:
        self.spec, self._data, self._mesh = spec, data, shard_mesh(spec, spread=spread)
        self._train = segment_program(spec, self._mesh)
        self._batches = HostBatches(data.train, count_shards(spec), self._mesh)
        self._val = place_split(data.val, self._mesh)
        self._lanes: dict[int, tuple[Hyper, Array]] = {}
        self._states: dict[int, State] = {}

    def has_room(self, lanes: int) -> bool:
        return lanes == 0

    @isolated()
    def put(self, lane: int, hyper: Hyper, seed: int, state: State) -> None:
        hyper = jax.tree.map(np.float32, hyper)
        self._lanes[lane] = place((hyper, jax.random.key(seed)), self._mesh, shared=True)
        self._states[lane] = place(state, self._mesh, shared=True)

    def remove(self, lane: int) -> None:
        del self._lanes[lane], self._states[lane]

    def advance(self, rows: Mapping[int, np.ndarray], count: int | None) -> None:
        batches, steps = self._batches.prepare(next(iter(rows.values()))), place_count(count, self._mesh)
        for lane in rows:
            self._states[lane] = self._train(*self._lanes[lane], self._states[lane], batches, steps)

    def prepare(self, rows: np.ndarray) -> None:
        self._batches.prepare(rows)

    def state(self, lane: int) -> State:
        return self._states[lane]

    def sums(self) -> Mapping[int, Sums]:
        jax.block_until_ready(self._states)
        return jax.device_get({lane: state.sums for lane, state in self._states.items()})

    def evaluate(self, lanes: Sequence[int]) -> Mapping[int, Sums]:
        run = functools.partial(evaluate_on, self._mesh, self.spec)
        return jax.device_get({lane: run(variables_of(self._states[lane]), *self._val) for lane in lanes})

    def test(self, variables: Any) -> dict[str, Any]:
        return measure_on(self._mesh, self.spec, variables, *self._test)

    @functools.cached_property
    def _test(self) -> tuple[Array, Array]:
        """The test images when a run has ended; padded to as many as `val`'s, to share its program."""
        return place_split(pad_split(self._data.test, len(self._data.val.images)), self._mesh)


class LanesProgram(Program):
    """The stacked States of `width` lanes, and the one program that advances them all.

    A lane without a run repeats what it last did.
    """

    def __init__(self, spec: Spec, data: Dataset, width: int) -> None:
        self.spec, self.width = spec, width
        self._data, self._mesh, self._test_mesh = data, lane_mesh(width), shard_mesh(spec)
        self._train = lanes_program(spec, width)
        self._images = place_split(data.train, self._mesh)
        self._val = place_split(data.val, self._mesh)
        self._hypers: list[Hyper] = []
        self._seeds: list[int] = []
        self._rows: list[np.ndarray] = []
        self._states: Any = None
        self._on_host: Any = None  # the same States, copied when one is asked for
        self._hypers_and_keys: Any = None  # stacked, when the lanes advance

    def has_room(self, lanes: int) -> bool:
        return lanes < self.width

    @isolated()
    def put(self, lane: int, hyper: Hyper, seed: int, state: State) -> None:
        if not self._hypers:
            self._hypers, self._seeds = [hyper] * self.width, [seed] * self.width
            self._states = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.width), state)
        self._hypers[lane], self._seeds[lane] = hyper, seed
        self._states = place(_put(self._states, lane, state), self._mesh)
        self._on_host = self._hypers_and_keys = None

    @isolated()
    def advance(self, rows: Mapping[int, np.ndarray], count: int | None) -> None:
        some = next(iter(rows.values()))
        self._rows = self._rows or [some] * self.width
        for lane, own in rows.items():
            self._rows[lane] = own
        if self._hypers_and_keys is None:
            hypers = jax.tree.map(lambda *numbers: np.asarray(numbers, np.float32), *self._hypers)
            keys = jax.vmap(jax.random.key)(np.array(self._seeds, np.uint32))
            self._hypers_and_keys = place((hypers, keys), self._mesh)
        shared = self.spec.shuffle == "shared"
        read = place(some if shared else np.stack(self._rows), self._mesh, shared=shared)
        batches = *self._images, read, place_count(count, self._mesh)
        self._on_host, self._states = None, self._train(*self._hypers_and_keys, self._states, *batches)

    def state(self, lane: int) -> State:
        if self._on_host is None:
            self._on_host = jax.device_get(self._states)
        return unstack(self._on_host, lane)

    def sums(self) -> Mapping[int, Sums]:
        jax.block_until_ready(self._states)
        return self._by_lane(self._states.sums)

    def evaluate(self, lanes: Sequence[int]) -> Mapping[int, Sums]:
        if not lanes:
            return {}
        return self._by_lane(evaluate_lanes(self.spec, variables_of(self._states), *self._val))

    def test(self, variables: Any) -> dict[str, Any]:
        variables = place(variables, self._test_mesh, shared=True)
        return measure_on(self._test_mesh, self.spec, variables, *self._test)

    def _by_lane(self, stack: Sums) -> Mapping[int, Sums]:
        stack = jax.device_get(stack)
        return {lane: unstack(stack, lane) for lane in range(self.width)}

    @functools.cached_property
    def _test(self) -> tuple[Array, Array]:
        return place_split(self._data.test, self._test_mesh)


def unstack(stack: Any, lane: int) -> Any:
    """One lane of stacked arrays on the host."""
    return jax.tree.map(lambda leaf: np.array(leaf[lane]), stack)


@functools.partial(jax.jit, donate_argnums=0)
def _put(states: State, lane: int | Array, state: State) -> State:
    return jax.tree.map(lambda stack, leaf: stack.at[lane].set(leaf), states, state)
