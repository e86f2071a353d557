"""The limits of the machine: the rates of matrix products at a workload's shapes and of reading memory."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

CONV_IMAGES = 16  # images in one product of a convolution, so that their patches stay in the cache


def best_time(function: Callable[[], object], budget: float = 0.3) -> float:
    """The shortest time of a call, in seconds, among the calls that fit in a budget of seconds."""
    function()
    times, ends = [], time.perf_counter() + budget
    while time.perf_counter() < ends or len(times) < 3:
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def machine() -> dict[str, float]:
    """GFLOP/s of a large matrix product and GB/s of reading memory."""
    side = 2048
    a = np.random.default_rng(0).random((side, side), np.float32)
    out, large = np.empty_like(a), np.ones(2**27, np.float32)
    return {
        "gemm_gflops": 2 * side**3 / best_time(lambda: np.matmul(a, a, out=out), 2) / 1e9,
        "read_gbytes": large.nbytes / best_time(lambda: large.max(), 2) / 1e9,
    }


def products(task: Mapping[str, Any], rows: int) -> list[tuple[int, int, int, bool]]:
    """The products (m, k) x (k, n) of a forward step, and whether their input needs a gradient, too.

    A convolution is the product of all patches with its kernel; padding is valid, pooling 2 x 2.
    """
    found, side, channels = [], 28, 1
    for outputs in task["channels"]:
        for _ in range(task["convolutions"]):
            side -= 2
            found.append((rows * side * side, 9 * channels, outputs, bool(found)))
            channels = outputs
        side //= 2
    features = side * side * channels
    for width in [*task["hidden"], 1 if task["binary"] else 10]:
        found.append((rows, features, width, bool(found)))
        features = width
    return found


def floor(task: Mapping[str, Any], read_gbytes: float) -> dict[str, float]:
    """The least seconds of an epoch, or of an evaluation, for any program that computes the same products.

    `products` is the time of the forward and gradient products, each at its shape; `bytes` is the time of
    reading each image once.
    """
    images, batch = task["images"], min(task["batch_size"], task["images"])
    rows = min(batch, CONV_IMAGES) if task["channels"] else batch
    seconds = operations = 0.0
    rng = np.random.default_rng(0)
    for m, k, n, inner in products(task, rows):
        x, w, y = (rng.random(shape, np.float32) for shape in ((m, k), (k, n), (m, n)))
        forms = [lambda x=x, w=w: x @ w]
        if not task["evaluates"]:
            forms += [lambda x=x, y=y: x.T @ y]
            forms += [lambda w=w, y=y: y @ w.T] if inner else []
        seconds += sum(best_time(form) for form in forms) * images / rows
        operations += 2 * m * k * n * len(forms) * images / rows
    return {
        "products": seconds,
        "bytes": images * 784 / (read_gbytes * 1e9),
        "gflop": operations / 1e9,
        "gflops": operations / seconds / 1e9,
    }
