"""Checks that three things, which were slow in other versions, are fast here; exit code 1 if not.

    python scripts/cliffs.py

Each check is a ratio of two times, the best of several measured in turn, so a slow machine does not matter.
In other versions of JAX a convolution's gradient in a scan took 100 times as long (jax#12868), and a scan's
stacked outputs were copied whole at each step (jax#40101). In one of ours, devices added a million gradients
in one vector with all others, which took up to 100 times as long as a step on one device.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import mnistjax
from mnistjax.config import Stopping
from mnistjax.ops import conv2d_max_pool

STEPS = 8
LIMIT = 3.0  # ratios of a slow version are far higher; a busy machine's noise is lower


def conv_in_scan() -> tuple[Callable[[], Array], Callable[[], Array]]:
    """The gradient of a convolution with pooling, STEPS times in a scan, and as often without one."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((STEPS, 16, 28, 28, 8), np.float32))
    kernel = jnp.asarray(rng.random((3, 3, 8, 16), np.float32))
    gradient = jax.grad(lambda kernel, images: jnp.sum(conv2d_max_pool(images, kernel) ** 2))

    @jax.jit
    def scanned(kernel: Array) -> Array:
        start = jnp.zeros_like(kernel)
        return lax.scan(lambda total, x: (total + gradient(kernel, x), None), start, images)[0]

    alone = jax.jit(gradient)
    return lambda: scanned(kernel), lambda: sum((alone(kernel, x) for x in images), jnp.zeros_like(kernel))


def stacked_outputs() -> tuple[Callable[[], Array], Callable[[], Array]]:
    """A scan that stacks its outputs, and STEPS scans that are shorter by that factor."""

    @jax.jit
    def stack(rows: Array) -> Array:
        return lax.scan(lambda carry, row: (carry + row[0], row * carry), jnp.zeros(()), rows)[1]

    whole = jnp.ones((8192, 64))
    part = whole[: len(whole) // STEPS]
    return lambda: stack(whole), lambda: jax.block_until_ready([stack(part) for _ in range(STEPS)])[0]


def shared_steps() -> tuple[Callable[[], Array], Callable[[], Array]]:
    """A run whose devices share each batch, so that they add their gradients, and one that does not share."""
    data, stopping = mnistjax.load_data("digits"), Stopping(4)
    options: Any = {"model": "mlp", "model_options": {"hidden": 1024}, "optimizer": "sgd", "batch_size": 64}

    def train(micro_batch: int) -> Callable[[], Array]:
        plan = mnistjax.make_plan(data, micro_batch=micro_batch, stopping=stopping, **options)
        program = mnistjax.make_program(plan.spec, data)

        def fit() -> Array:
            runs = [mnistjax.Run(plan.hyper, plan.seed, stopping)]
            ((_, result),) = mnistjax.fit_runs(program, [runs])
            return jax.tree.leaves(result.variables)[0]

        return fit

    return train(32), train(64)


def ratio(one: Callable[[], Array], other: Callable[[], Array]) -> float:
    """The best time of one function, divided by the best time of another."""
    best = [float("inf")] * 2
    for _ in range(8):  # the first compiles
        for index, function in enumerate((one, other)):
            started = time.perf_counter()
            jax.block_until_ready(function())
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0] / best[1]


def main() -> None:
    mnistjax.prepare_backend()
    ratios = {
        "convolution's gradient, in a scan / without": ratio(*conv_in_scan()),
        "stacked scan outputs, eight times as long / eight times": ratio(*stacked_outputs()),
        "steps of a wide MLP, shared by devices / not shared": ratio(*shared_steps()),
    }
    for name, value in ratios.items():
        print(f"{name:<60}{value:>8.2f}   {'ok' if value < LIMIT else f'more than {LIMIT}'}")
    sys.exit(any(value >= LIMIT for value in ratios.values()))


if __name__ == "__main__":
    main()
