"""The programs of a run: State, the training step, an epoch as one scan, evaluation. Pure functions.

N training images, B batch, M micro-batch, S shares of a batch, P pieces of a share (B = S * P * M),
K classes, W lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mnistjax.augment import augment, strengths
from mnistjax.config import Hyper, Spec
from mnistjax.data import order
from mnistjax.metrics import Sums, batch_sums, probabilities, zero_sums
from mnistjax.models import create_model, list_collections, to_float
from mnistjax.optim import make_optimizer

LANES, SHARES = "lanes", "shares"  # axes of devices: each has as many of the lanes, or a share of the work
INIT, DROPOUT, AUGMENT = 0, 1, 2  # the named streams of a run's key
GATHER_ROWS = 4096  # images gathered at a time: large enough for two threads, small enough for the cache
EVALUATE_ROWS = 500  # images per block of an evaluation, at most
PREDICT_ROWS = 2000  # images per call, at most; their number is part of the program
PADDING = -1  # the label of an image that counts nothing
SEGMENT_FLOPS = 1e11  # about a second of a small CPU; a run can be saved and stopped between two segments

LARGE_STEP_FLOPS = 1e8  # some milliseconds of a core

# XLA's own loops are 7 to 20 % faster so on a CPU with AVX-512 (an MLP of 64, a neuron); others ignore it.
WIDE = {"xla_cpu_prefer_vector_width": 512}  # bits


class State(NamedTuple):
    """All that training changes. A checkpoint is a State; a sweep is a stack of them."""

    params: Any
    collections: Any  # what else a model carries: batch statistics, say
    opt_state: Any
    step: Array  # () int32, optimizer steps done in the whole run
    sums: Sums  # of the current epoch


class Batch(NamedTuple):
    images: Array  # (B, H*W*C) uint8
    labels: Array  # (B,) int32
    weights: Array  # (B,) float32, 1 for an image and 0 for padding


def build_model(spec: Spec) -> nn.Module:
    return create_model(spec.model, num_classes=spec.num_classes, **dict(spec.model_options))


def initial_state(spec: Spec, hyper: Hyper, key: Array) -> State:
    """The State before the first step."""
    images = jnp.zeros((1, *spec.image_shape), jnp.uint8)
    collections = dict(build_model(spec).init(jax.random.fold_in(key, INIT), images))
    params = collections.pop("params")
    opt_state = make_optimizer(spec, as_float32(hyper)).init(params)
    return State(params, collections, opt_state, jnp.zeros((), jnp.int32), zero_sums(spec.classes))


def as_float32(hyper: Hyper) -> Hyper:
    """The Hyper's numbers as float32, which Python's are not where JAX's own default is float64."""
    return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), hyper)


# Not optimized, because it runs once: the CNN's compiles in 0.6 s instead of 2.5 s.
init = jax.jit(initial_state, static_argnames="spec", compiler_options={"xla_backend_optimization_level": 0})


def variables_of(state: State) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {"params": state.params, **state.collections}


def forward(spec: Spec, variables: Any, images: Array) -> Array:
    """The logits (B, K) of images (B, ...) in evaluation mode."""
    return cast(Array, build_model(spec).apply(variables, images.reshape(-1, *spec.image_shape)))


def train_step(
    spec: Spec,
    hyper: Hyper,
    key: Array,
    state: State,
    shares: Any,
    fetch: Callable[[Any], Batch] = lambda batch: batch,
    axis: str | None = None,
) -> State:
    """The State after one optimizer step on a batch of S shares of P pieces, each `fetch`ed in its turn.

    The pieces' gradients are added before the step: so a full batch is read once, and a convolution's
    intermediates stay in the cache. Under an `axis` of devices each has a share, and all take the same step.
    """
    model, hyper = build_model(spec), as_float32(hyper)
    dropout_key, augment_key = (
        jax.random.fold_in(jax.random.fold_in(key, stream), state.step) for stream in (DROPOUT, AUGMENT)
    )

    def loss(params: Any, collections: Any, batch: Batch, index: Array) -> tuple[Array, tuple[Any, Sums]]:
        images = batch.images.reshape(-1, *spec.image_shape)
        if "augment" in hyper:
            numbers = strengths(hyper["augment"], state.step // spec.steps_per_epoch)
            images = augment(numbers, jax.random.fold_in(augment_key, index), to_float(images))
        logits, next_collections = model.apply(
            {"params": params, **collections},
            images,
            train=True,
            rngs={"dropout": jax.random.fold_in(dropout_key, index)},
            mutable=list(collections),
        )
        sums = batch_sums(spec.task, spec.classes, logits, batch.labels, batch.weights)
        return sums.loss, (dict(next_collections), sums)

    def add_piece(carry: Any, piece: Any) -> tuple[Any, None]:
        gradients, collections, sums, count, index = carry
        batch = fetch(piece)
        piece_gradients, (collections, piece_sums) = jax.grad(loss, has_aux=True)(
            state.params, collections, batch, index
        )
        gradients, sums = jax.tree.map(jnp.add, (gradients, sums), (piece_gradients, piece_sums))
        return (gradients, collections, sums, count + jnp.sum(batch.weights), index + 1), None

    def add_pieces(index: Array, pieces: Any) -> Any:
        first = index * len(jax.tree.leaves(pieces)[0])
        none = jax.tree.map(jnp.zeros_like, (state.params, state.sums))
        carry = (none[0], state.collections, none[1], jnp.zeros((), jnp.float32), first)
        return lax.scan(add_piece, carry, pieces)[0][:4]

    gradients, collections, sums, count = add_shares(add_pieces, shares, axis)
    sums = jax.tree.map(jnp.add, state.sums, sums)
    gradients = jax.tree.map(lambda gradient: gradient / count, gradients)
    updates, opt_state = make_optimizer(spec, hyper).update(gradients, state.opt_state, state.params)
    next_state = State(
        optax.apply_updates(state.params, updates), collections, opt_state, state.step + 1, sums
    )
    return jax.tree.map(lambda leaf, before: leaf.astype(before.dtype), next_state, state)


def add_shares(function: Callable[[Array, Any], Any], shares: Any, axis: str | None) -> Any:
    """The sum over shares (S, ...) of what the function makes of a share's index and the share.

    One after the other, or under an `axis` of devices on each its one share, to the same bits.
    """
    first, count = jax.tree.map(lambda leaf: leaf[0], shares), len(jax.tree.leaves(shares)[0])
    if axis:
        # As one float32 vector, exact for counts: each leaf would be a meeting of the devices, 80 to 130 us.
        vector, unravel = ravel_pytree(function(lax.axis_index(axis), first))
        return unravel(lax.psum(vector, axis))
    if count == 1:
        return function(jnp.zeros((), jnp.int32), first)
    parts = lax.map(lambda pair: function(*pair), (jnp.arange(count, dtype=jnp.int32), shares))
    return jax.tree.map(lambda leaf: functools.reduce(jnp.add, leaf), parts)


def train_steps(
    spec: Spec, hyper: Hyper, key: Array, state: State, batches: Batch, axis: str | None = None
) -> State:
    """The State after a step on each of the batches (steps, S, P, M, ...), a segment of an epoch."""

    def step(state: State, shares: Batch) -> tuple[State, None]:
        return train_step(spec, hyper, key, state, shares, axis=axis), None

    return lax.scan(step, start_segment(spec, state), batches)[0]


def start_segment(spec: Spec, state: State) -> State:
    """The State with its sums at zero where an epoch begins."""
    starts_epoch = state.step % spec.steps_per_epoch == 0
    return state._replace(sums=jax.tree.map(lambda total: jnp.where(starts_epoch, 0, total), state.sums))


@functools.partial(jax.jit, static_argnames=("spec", "mesh"), donate_argnames="state", compiler_options=WIDE)
def train_segment(
    spec: Spec, hyper: Hyper, key: Array, state: State, batches: Batch, mesh: Mesh | None = None
) -> State:
    """`train_steps` on batches (S, steps, P, M, ...), of which each device of the mesh has one, or all."""

    def local(hyper: Hyper, key: Array, state: State, batches: Batch) -> State:
        axis = SHARES if mesh and mesh.size > 1 else None
        batches = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), batches)
        return train_steps(spec, hyper, key, state, batches, axis)

    return over_shares(local, mesh, shared=3)(hyper, key, state, batches)


def over_shares(
    function: Callable[..., Any], mesh: Mesh | None, shared: int, *, joined: bool = False
) -> Callable[..., Any]:
    """The function on every device of a mesh, with all of its first `shared` arguments and a share of the
    last; its result is the same everywhere, or the devices' shares of it are `joined`."""
    if mesh is None or mesh.size == 1:
        return function
    specs = (*[PartitionSpec()] * shared, PartitionSpec(SHARES))
    result = PartitionSpec(SHARES) if joined else PartitionSpec()
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=result, check_vma=False)


def share_mesh(spec: Spec, *, spread: bool = True) -> Mesh:
    """The devices of a run, from the default one on: one for each share of its work, or that one alone."""
    (default,) = jnp.zeros(()).devices()
    devices = jax.devices(default.platform)
    first = devices.index(default)
    return Mesh(np.array(devices[first : first + (count_shares(spec) if spread else 1)]), (SHARES,))


def count_shares(spec: Spec) -> int:
    """The shares of a run's batches: one for each piece or each device, whatever is less; but a single one
    where a step costs less than to add the devices' gradients, or where each piece changes the statistics
    that the next one finds."""
    if not has_large_steps(spec) or list_collections(build_model(spec)) != {"params"}:
        return 1
    return min(-(-spec.batch_size // spec.micro_batch), jax.device_count())


def has_large_steps(spec: Spec) -> bool:
    """Whether a step is worth dividing among cores."""
    return 3 * flops(spec) * spec.batch_size >= LARGE_STEP_FLOPS


def lane_segment(
    spec: Spec, hyper: Hyper, key: Array, state: State, images: Array, labels: Array, rows: Array
) -> State:
    """The State of a lane after a segment of an epoch, whose batches are gathered on the device.

    images (N, H, W) uint8, labels (N,) int32, rows (blocks, steps, P, M) int32 as `epoch_rows` makes them.
    """
    gather = functools.partial(gather_rows, images, labels)

    def block(state: State, rows: Array) -> tuple[State, None]:
        if spec.micro_batch == spec.batch_size:  # gather several steps at once, it is faster
            pieces, fetch = gather(rows), lambda batch: batch
        elif spec.full_batch:  # not shuffled, so each piece is a slice
            pieces, fetch = rows[..., 0], lambda start: slice_rows(images, labels, start, spec.micro_batch)
        else:
            pieces, fetch = rows, gather

        def step(state: State, pieces: Any) -> tuple[State, None]:
            share = jax.tree.map(lambda leaf: leaf[None], pieces)
            return train_step(spec, hyper, key, state, share, fetch), None

        return lax.scan(step, state, pieces)

    return lax.scan(block, start_segment(spec, state), rows)[0]


@functools.partial(jax.jit, static_argnames="spec", donate_argnames="states", compiler_options=WIDE)
def train_lanes(
    spec: Spec, hypers: Hyper, keys: Array, states: State, images: Array, labels: Array, rows: Array
) -> State:
    """`lane_segment` of W runs at once, whose Hypers, keys (W,) and States are stacked.

    rows (W, blocks, steps, P, M), or without the W where `spec.shuffle` is "shared": a batch is then read
    once for all lanes, and the first layer of an MLP is one product W times as wide.
    """
    lane = functools.partial(lane_segment, spec)
    axes = (0, 0, 0, None, None, None if spec.shuffle == "shared" else 0)
    return over_lanes(lane, axes, len(keys))(hypers, keys, states, images, labels, rows)


def over_lanes(function: Callable[..., Any], axes: tuple[int | None, ...], lanes: int) -> Callable[..., Any]:
    """The function of W lanes, each device with its share of them; `axes` as in `vmap`."""
    every, mesh = jax.vmap(function, in_axes=axes), lane_mesh(lanes)
    if mesh.size == 1:
        return every
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(LANES) for axis in axes)
    # No communication; so there is nothing to check about values that differ from device to device.
    return jax.shard_map(every, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(LANES), check_vma=False)


def place(tree: Any, mesh: Mesh, *, shared: bool = False) -> Any:
    """The arrays on the devices of a mesh: each with its share, or of `shared` ones a copy."""
    if mesh.size == 1:
        return jax.device_put(tree)
    spec = PartitionSpec() if shared else PartitionSpec(*mesh.axis_names)
    return jax.device_put(tree, NamedSharding(mesh, spec))


@functools.cache
def lane_mesh(lanes: int) -> Mesh:
    """The devices that W lanes are spread over: all, where they share them evenly, or one."""
    devices = jax.devices()
    return Mesh(np.array(devices if lanes % len(devices) == 0 else devices[:1]), (LANES,))


def gather_rows(images: Array, labels: Array, rows: Array) -> Batch:
    """The images and labels of rows (...); a row ~r stands for r as padding, of weight 0.

    Flat images behind a barrier: XLA would else gather in the model's image shape, pixel by pixel, and
    an epoch of the neuron takes twice as long on CPU.
    """
    index = jnp.where(rows < 0, ~rows, rows).ravel()
    pixels = images.reshape(len(images), -1)
    taken = lax.optimization_barrier(pixels.at[index].get(mode="promise_in_bounds"))
    weights = (rows >= 0).astype(jnp.float32)
    return Batch(taken.reshape(*rows.shape, -1), labels[index].reshape(rows.shape), weights)


def slice_rows(images: Array, labels: Array, start: Array, size: int) -> Batch:
    """Rows start to start + size; where that runs past the end, earlier rows of weight 0 stand in. A row that
    is labelled PADDING has no weight either."""
    first = jnp.minimum(start, len(images) - size)
    taken = lax.dynamic_slice_in_dim(images, first, size).reshape(size, -1)
    labels = lax.dynamic_slice_in_dim(labels, first, size)
    weights = ((first + jnp.arange(size, dtype=jnp.int32) >= start) & (labels != PADDING)).astype(jnp.float32)
    return Batch(taken, labels, weights)


def total(
    spec: Spec, variables: Any, images: Array, labels: Array, starts: Array, axis: str | None = None
) -> Sums:
    """The sums over the blocks of images (N, H, W) uint8 that begin at `starts` (S, blocks), each once."""
    size = block_rows(spec, len(images))

    def add_block(sums: Sums, start: Array) -> tuple[Sums, None]:
        batch = slice_rows(images, labels, start, size)
        logits = forward(spec, variables, batch.images)
        more = batch_sums(spec.task, spec.classes, logits, batch.labels, batch.weights)
        return jax.tree.map(jnp.add, sums, more), None

    return add_shares(lambda _, starts: lax.scan(add_block, zero_sums(spec.classes), starts)[0], starts, axis)


def block_rows(spec: Spec, count: int) -> int:
    """Images per block of an evaluation; on CPU no more than stay in the cache: half the time for a CNN."""
    cached = getattr(build_model(spec), "cpu_micro_batch", count) if jax.default_backend() == "cpu" else count
    return min(EVALUATE_ROWS, cached, count)


def block_starts(spec: Spec, count: int, shares: int = 1) -> Array:
    """Where the blocks of an evaluation begin (S, blocks); those past the end count nothing."""
    size = block_rows(spec, count)
    blocks = -(-count // (size * shares))
    return size * jnp.arange(blocks * shares, dtype=jnp.int32).reshape(shares, blocks)


def evaluate(spec: Spec, variables: Any, images: np.ndarray | Array, labels: np.ndarray | Array) -> Sums:
    """The sums over all images (N, H, W) uint8, each counted once, but those labelled PADDING not at all."""
    mesh = share_mesh(spec)
    return evaluate_on(mesh, spec, *place((variables, images, labels), mesh, shared=True))


@functools.partial(jax.jit, static_argnames=("spec", "mesh"), compiler_options=WIDE)
def evaluate_on(mesh: Mesh, spec: Spec, variables: Any, images: Array, labels: Array) -> Sums:
    """`evaluate` of what is `place`d on the devices of a mesh, which share the work."""
    function = functools.partial(total, spec, axis=SHARES if mesh.size > 1 else None)
    starts = block_starts(spec, len(images), count_shares(spec))
    return over_shares(function, mesh, shared=3)(variables, images, labels, starts)


@functools.partial(jax.jit, static_argnames="spec", compiler_options=WIDE)
def evaluate_lanes(spec: Spec, variables: Any, images: Array, labels: Array) -> Sums:
    """`evaluate` of W runs at once, whose variables are stacked."""
    lanes = len(jax.tree.leaves(variables)[0])
    function, starts = functools.partial(total, spec), block_starts(spec, len(images))
    return over_lanes(function, (0, None, None, None), lanes)(variables, images, labels, starts)


def predict(spec: Spec, variables: Any, images: np.ndarray) -> np.ndarray:
    """Class probabilities (N, K) float32 of images (N, H, W), K = 2 for a binary task; on the host."""
    mesh = share_mesh(spec)
    variables = place(variables, mesh, shared=True)
    parts = [images[i : i + PREDICT_ROWS] for i in range(0, len(images), PREDICT_ROWS)]
    return np.concatenate([np.asarray(_predict_on(mesh, spec, variables, part)) for part in parts])


@functools.partial(jax.jit, static_argnames=("spec", "mesh"), compiler_options=WIDE)
def _predict_on(mesh: Mesh, spec: Spec, variables: Any, images: Array) -> Array:
    """In blocks as an evaluation's, of which each device has as many."""
    count, size = len(images), block_rows(spec, len(images))
    images = jnp.pad(images, ((0, -count % (size * mesh.size)), *[(0, 0)] * (images.ndim - 1)))

    def local(variables: Any, blocks: Array) -> Array:
        return lax.map(lambda block: probabilities(spec.task, forward(spec, variables, block)), blocks)

    blocks = images.reshape(-1, size, *images.shape[1:])
    shares = over_shares(local, mesh, shared=1, joined=True)(variables, blocks)
    return shares.reshape(len(images), -1)[:count]


class Layout(NamedTuple):
    """How an epoch's steps are cut: segments x blocks x steps = steps_per_epoch."""

    segments: int
    blocks: int
    steps: int


@functools.cache
def layout(spec: Spec) -> Layout:
    """The cut of an epoch, a function of the Spec alone: a block gathers about GATHER_ROWS images, a
    segment costs about SEGMENT_FLOPS."""
    total = spec.steps_per_epoch
    steps = max(d for d in _divisors(total) if d == 1 or d * spec.batch_size <= GATHER_ROWS)
    wanted = epoch_flops(spec) / SEGMENT_FLOPS
    blocks = total // steps
    segments = min(d for d in _divisors(blocks) if d >= min(wanted, blocks))
    return Layout(segments, blocks // segments, steps)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@functools.cache
def flops(spec: Spec) -> float:
    """Floating-point operations of one image's forward pass, as XLA counts them."""
    image = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.uint8)
    model = build_model(spec)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    cost = jax.jit(model.apply).lower(variables, image).cost_analysis()
    return float(cost["flops"]) if cost else 0.0


def epoch_flops(spec: Spec) -> float:
    """About the operations of an epoch of training: a gradient costs twice what its forward pass does."""
    return 3 * flops(spec) * spec.train_count


def order_seed(spec: Spec, seed: int) -> int:
    """The seed that orders the images of a run: its own, or 0 where all runs read them in one order."""
    return 0 if spec.shuffle == "shared" or spec.full_batch else seed


def epoch_rows(spec: Spec, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch (segments, blocks, steps, P, M) int32: rows of the training images, read-only.

    The last batch is filled up with the epoch's first rows r, written ~r: they count nothing, but a
    model that looks at batch statistics sees real images. A full batch is not shuffled.
    """
    rows = _batch_rows(spec, order_seed(spec, seed), 0 if spec.full_batch else epoch)
    return rows.reshape(*layout(spec), -1, spec.micro_batch)


@functools.lru_cache(maxsize=8)  # runs of one seed that train together ask for the same ones
def _batch_rows(spec: Spec, seed: int, epoch: int) -> np.ndarray:
    count, batch, micro = spec.train_count, spec.batch_size, spec.micro_batch
    rows = np.arange(count, dtype=np.int32) if spec.full_batch else order(count, seed=seed, epoch=epoch)
    rows = np.resize(rows, spec.steps_per_epoch * batch)
    rows[count:] = ~rows[count:]
    rows = fill_up(rows.reshape(-1, batch), micro)
    rows.flags.writeable = False
    return rows


def fill_up(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Rows (steps, X, ...) with X a multiple: filled up by the first ones, as padding."""
    fill = rows[:, np.arange(-rows.shape[1] % multiple) % rows.shape[1]]
    return np.concatenate([rows, np.where(fill < 0, fill, ~fill)], axis=1)
