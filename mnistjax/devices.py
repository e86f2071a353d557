"""Devices and what they share: the shards of a batch, or the lanes of a program.

S shards of a batch, P micro-batches of a shard, W lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mnistjax.config import Spec
from mnistjax.layout import flops
from mnistjax.models import look_inside
from mnistjax.step import Gradient, Totals, build_model

LANES, SHARDS = "lanes", "shards"  # names of mesh axes
SAME, SPLIT = PartitionSpec(), PartitionSpec(SHARDS)
LARGE_LEAF = 1 << 15  # numbers; larger leaves are summed one by one: joined in a vector they took up to 20 ms
LARGE_STEP_FLOPS = 1e8  # some milliseconds of a core


def shard_mesh(spec: Spec, *, spread: bool = True) -> Mesh:
    """The devices of a run, from JAX's default one on: one for each shard, or only the default one."""
    (default,) = jax.device_put(0).devices()
    devices = jax.devices(default.platform)
    first = devices.index(default)
    return Mesh(np.array(devices[first : first + (count_shards(spec) if spread else 1)]), (SHARDS,))


def count_shards(spec: Spec) -> int:
    """Shards of a run's batches: as many as micro-batches or devices, whichever is less.

    One if a step costs less than adding the devices' gradients, or if the model carries batch statistics,
    which each micro-batch takes from the one before.
    """
    if not has_large_steps(spec):
        return 1
    if look_inside(build_model(spec), spec.image_shape).collections != {"params"}:
        return 1
    return min(-(-spec.batch_size // spec.micro_batch), jax.device_count())


def has_large_steps(spec: Spec) -> bool:
    """Whether a step is worth dividing among cores."""
    return 3 * flops(spec.model_only) * spec.batch_size >= LARGE_STEP_FLOPS


@functools.cache
def lane_mesh(lanes: int) -> Mesh:
    """The devices of W lanes: all if W is a multiple of their number, else one."""
    devices = jax.devices()
    return Mesh(np.array(devices if lanes % len(devices) == 0 else devices[:1]), (LANES,))


def place(tree: Any, mesh: Mesh, *, shared: bool = False) -> Any:
    """The arrays on the devices of a mesh: split along the first axis, or copied if `shared`."""
    if mesh.size == 1:
        return jax.device_put(tree)
    spec = PartitionSpec() if shared else PartitionSpec(*mesh.axis_names)
    return jax.device_put(tree, NamedSharding(mesh, spec))


def place_count(count: int | None, mesh: Mesh) -> Array | None:
    """A number of steps, if it varies, on the devices of a mesh."""
    return None if count is None else place(np.asarray(count, np.int32), mesh, shared=True)


def over_shards(
    function: Callable[..., Any],
    mesh: Mesh,
    arguments: tuple[PartitionSpec, ...],
    result: PartitionSpec = SAME,
) -> Callable[..., Any]:
    """The function on every device of a mesh. SAME arguments and results are equal on all devices; SPLIT ones
    have a shard on each."""
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=arguments, out_specs=result, check_vma=False)


def over_lanes(function: Callable[..., Any], axes: tuple[int | None, ...], lanes: int) -> Callable[..., Any]:
    """The function of W lanes, spread evenly over the devices of `lane_mesh`; `axes` as in `vmap`."""
    every, mesh = jax.vmap(function, in_axes=axes), lane_mesh(lanes)
    if mesh.size == 1:
        return every
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(LANES) for axis in axes)
    # The lanes don't communicate, so there is nothing to check about values that vary between devices.
    return jax.shard_map(every, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(LANES), check_vma=False)


def sum_shards(gradient: Gradient, axis: str | None) -> Gradient:
    """The gradient of a batch in shards (S, P, ...): the sum of the shards' gradients."""

    def summed(params: Any, totals: Totals, shards: Any, index: Array | int) -> tuple[Any, Totals]:
        def one(shard_index: Array, shard: Any) -> tuple[Any, Totals]:
            return gradient(params, totals, shard, index + shard_index * len(jax.tree.leaves(shard)[0]))

        return add_shards(one, shards, axis)

    return summed


def add_shards(function: Callable[[Array, Any], Any], shards: Any, axis: str | None) -> Any:
    """The sum of function(index, shard) over shards (S, ...).

    Without an `axis`, one shard is computed after the other. With a mesh axis, each of its devices computes
    its own shard. Both give the same bits.
    """
    first, count = jax.tree.map(lambda leaf: leaf[0], shards), len(jax.tree.leaves(shards)[0])
    if axis:
        # Small leaves as one float32 vector, which is exact for counts: each would cost 80 to 130 us.
        leaves, structure = jax.tree.flatten(function(lax.axis_index(axis), first))
        large = [leaf for leaf in leaves if leaf.size > LARGE_LEAF]
        vector, unravel = ravel_pytree([leaf for leaf in leaves if leaf.size <= LARGE_LEAF])
        small, *rest = lax.psum((vector, *large), axis)
        parts = {True: iter(rest), False: iter(unravel(small))}
        return jax.tree.unflatten(structure, [next(parts[leaf.size > LARGE_LEAF]) for leaf in leaves])
    if count == 1:
        return function(jnp.zeros((), jnp.int32), first)
    parts = lax.map(lambda pair: function(*pair), (jnp.arange(count, dtype=jnp.int32), shards))
    return jax.tree.map(lambda leaf: functools.reduce(jnp.add, leaf), parts)
