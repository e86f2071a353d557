"""The part that all contenders of the benchmark share: a process that trains on request.

    python CONTENDER.py '{"data": FILE, "model": ..., "batch_size": ..., setting: ...}'

It answers each line on stdin, a JSON object, with one on stdout:

    {"epochs": E, "images": N}    trains E epochs on the first N images: {"seconds": per epoch}
    {"evaluate": R}               evaluates the test images R times: {"seconds": per time}
    {"jobs": [...], "epochs": E}  trains a new model for each job: {"seconds": for all}

with `memory_mb`, the largest memory of the process so far. Its first line is {"ready": seconds,
"versions": ..., "parameters": ...}, after a warm-up: an epoch on `warm_images` images, and an evaluation.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

STARTED = time.perf_counter()


class Images(NamedTuple):
    """Images (N, 28, 28) float32 in [0, 1] and their labels (N,) int64, 1 for a zero in a binary task."""

    images: np.ndarray
    labels: np.ndarray


class Contender(NamedTuple):
    """A model that is ready to train."""

    train: Callable[[int, int], None]  # for this many epochs, on this many of the first images
    evaluate: Callable[[], None]  # computes loss and accuracy of the test images
    parameters: Callable[[], int]  # their number


Build = Callable[[dict[str, Any], Images, Images], Contender]


def workload() -> dict[str, Any]:
    return json.loads(sys.argv[1])


def serve(build: Build, **versions: str) -> None:
    """Answers requests until stdin ends."""
    task = workload()
    with np.load(task["data"]) as data:
        train, test = (
            _split(data[f"{part}_images"], data[f"{part}_labels"], task) for part in ("train", "test")
        )
    contender = build(task, train, test)
    contender.train(1, task["warm_images"])
    contender.evaluate()
    _say(ready=time.perf_counter() - STARTED, versions=versions, parameters=contender.parameters())
    for line in sys.stdin:
        words, repeats, started = json.loads(line), 1, time.perf_counter()
        if "jobs" in words:
            for job in words["jobs"]:
                build({**task, **job}, train, test).train(words["epochs"], words["images"])
        elif "evaluate" in words:
            repeats = words["evaluate"]
            for _ in range(repeats):
                contender.evaluate()
        else:
            repeats = words["epochs"]
            contender.train(repeats, words["images"])
        _say(seconds=(time.perf_counter() - started) / repeats)


def _split(images: np.ndarray, labels: np.ndarray, task: dict[str, Any]) -> Images:
    labels = labels == 0 if task["binary"] else labels
    return Images(images.astype(np.float32) / 255, labels.astype(np.int64))


def _say(**words: Any) -> None:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, else in kB
    words["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps(words), file=sys.__stdout__, flush=True)
