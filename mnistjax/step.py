# pyright: strict, reportMissingTypeStubs=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# (Optax has no stubs, and JAX's functions of trees are not typed.)
"""One training step: a pure function of (spec, hyper, key, state, batch).

B images of a batch, P micro-batches of M images each, K classes. A step can read its
batch in parts if its gradient is transformed: by `accumulate` for micro-batches, by `sum_shards` for devices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array, lax
from jaxtyping import Float32

from mnistjax.augment import augment, strengths
from mnistjax.config import Hyper, Spec
from mnistjax.metrics import Sums, batch_sums, per_example_loss, zero_sums
from mnistjax.models import create_model, to_float
from mnistjax.optim import make_optimizer
from mnistjax.parts import keep_statistics

INIT, DROPOUT, AUGMENT = 0, 1, 2  # named streams of a run's key


class State(NamedTuple):
    """All that training changes: what a checkpoint saves."""

    params: Any
    collections: Any  # other variables of the model, batch statistics for example
    opt_state: Any
    step: Array  # () int32, optimizer steps since the start of the run
    sums: Sums  # of the current epoch


class Batch(NamedTuple):
    """Images with their labels; also several batches, with more leading axes."""

    images: Array  # (B, H*W*C) uint8
    labels: Array  # (B,) int32
    weights: Array  # (B,) float32, 1 for an image and 0 for padding


class Totals(NamedTuple):
    """Sums over the micro-batches read so far, and the model's other variables after them."""

    collections: Any
    sums: Sums
    weight: Array  # () float32, number of images without padding


Index = Array | int
Gradient = Callable[..., tuple[Any, Totals]]
"""(params, totals, batch, index) -> gradients of the summed loss, and the totals with this batch added."""


def build_model(spec: Spec) -> nn.Module:
    return create_model(spec.model, num_classes=spec.num_classes, **dict(spec.model_options))


def initial_state(spec: Spec, hyper: Hyper, key: Array, start: Any = None) -> State:
    """The State before the first step. Variables in `start`, nested as by `model.init`, replace its own."""
    images = jnp.zeros((1, *spec.image_shape), jnp.uint8)
    variables = flatten_dict(build_model(spec).init(jax.random.fold_in(key, INIT), images))
    collections = unflatten_dict({**variables, **flatten_dict(start or {})})
    params = collections.pop("params")
    opt_state = make_optimizer(spec, as_float32(hyper)).init(params)
    return State(params, collections, opt_state, jnp.zeros((), jnp.int32), zero_sums(spec.classes))


# Not optimized, because it runs once: for the CNN it compiles in 0.6 s instead of 2.5 s.
init = jax.jit(initial_state, static_argnames="spec", compiler_options={"xla_backend_optimization_level": 0})


def as_float32(hyper: Hyper) -> Hyper:
    """The Hyper in float32, even if JAX's default is float64."""
    return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), hyper)


def variables_of(state: State) -> dict[str, Any]:
    """The argument of `model.apply`."""
    return {"params": state.params, **state.collections}


def train_step(
    spec: Spec,
    hyper: Hyper,
    key: Array,
    state: State,
    batch: Any,
    transform: Callable[[Gradient], Gradient] = lambda gradient: gradient,
) -> State:
    """Returns the State after one optimizer step on a batch.

    `transform` lets the gradient read the batch in parts: `accumulate`, or `sum_shards` around it.
    """
    hyper = as_float32(hyper)
    gradient = jax.grad(functools.partial(batch_loss, spec, hyper, key, state.step), has_aux=True)
    start = Totals(state.collections, zero_sums(spec.classes), jnp.zeros((), jnp.float32))
    gradients, totals = transform(gradient)(state.params, start, batch, 0)
    gradients = jax.tree.map(lambda leaf: leaf / totals.weight, gradients)
    # Made while tracing, from traced numbers, so that another learning rate needs no other program.
    updates, opt_state = make_optimizer(spec, hyper).update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    sums = jax.tree.map(jnp.add, state.sums, totals.sums)
    next_state = State(params, totals.collections, opt_state, state.step + 1, sums)
    return jax.tree.map(lambda leaf, before: leaf.astype(before.dtype), next_state, state)


def batch_loss(
    spec: Spec, hyper: Hyper, key: Array, step: Array, params: Any, totals: Totals, batch: Batch, index: Index
) -> tuple[Float32[Array, ""], Totals]:
    """The loss summed over a batch () in nats, and the totals with this batch added.

    `index` is that of the micro-batch in its batch: each has its own random numbers. Class weights count in
    the loss, whose gradient is taken, but not in the totals.
    """
    dropout_key, augment_key = (
        jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, stream), step), index)
        for stream in (DROPOUT, AUGMENT)
    )
    images = batch.images.reshape(-1, *spec.image_shape)
    if "augment" in hyper:
        numbers = strengths(hyper["augment"], step // spec.steps_per_epoch)
        images = augment(numbers, augment_key, to_float(images))
    with keep_statistics(spec):
        logits, collections = build_model(spec).apply(
            {"params": params, **totals.collections},
            images,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=list(totals.collections),
        )
    sums = batch_sums(spec.task, spec.classes, logits, batch.labels, batch.weights)
    loss, weight = sums.loss, totals.weight + jnp.sum(batch.weights)
    if "loss" in hyper:
        weights = batch.weights * jnp.stack(hyper["loss"]["class_weights"])[batch.labels]
        loss = jnp.sum(per_example_loss(spec.task, logits, batch.labels) * weights)
    return loss, Totals(dict(collections), jax.tree.map(jnp.add, totals.sums, sums), weight)


def accumulate(gradient: Gradient, read: Callable[[Any], Batch] = lambda batch: batch) -> Gradient:
    """The gradient of a batch in micro-batches (P, ...): a sum; `read` makes the Batch of each in its turn.

    So a full batch is never copied as a whole, and a convolution's intermediates stay in a CPU's cache.
    """

    def total(params: Any, totals: Totals, micro_batches: Any, index: Index) -> tuple[Any, Totals]:
        def add(carry: Any, micro_batch: Any) -> tuple[Any, None]:
            gradients, totals, index = carry
            more, totals = gradient(params, totals, read(micro_batch), index)
            return (jax.tree.map(jnp.add, gradients, more), totals, index + 1), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        carry = (zeros, totals, jnp.asarray(index, jnp.int32))
        return lax.scan(add, carry, micro_batches)[0][:2]

    return total


def start_segment(spec: Spec, state: State) -> State:
    """The State with its sums at zero if an epoch begins."""
    starts_epoch = state.step % spec.steps_per_epoch == 0
    return state._replace(sums=jax.tree.map(lambda total: jnp.where(starts_epoch, 0, total), state.sums))
