"""Contenders as processes: each peer at the best of its settings, then all in rounds."""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mnistjax

LOOK_IMAGES = 12_800  # for a look at a setting
SLOW = 2.0, 10.0  # a peer runs no rounds if it takes more times the best peer's seconds, and more seconds
LONG = 40.0  # seconds; if a round takes longer, three rounds are enough

Settings = Mapping[str, Any]
Result = dict[str, Any]


class Peer(NamedTuple):
    program: str
    packages: tuple[str, ...]  # in its own environment; none: it uses the environment of this process
    settings: Mapping[str, Sequence[Any]]  # each with its choices, the default first


OURS = "mnistjax"
THREADS = [2, 1]
KERAS = "keras3", ("keras", "tensorflow", "jax")
TORCH = "pytorch", ("torch",)
PEERS = {
    OURS: Peer("ours", (), {}),
    "Keras, TensorFlow": Peer(
        *KERAS, {"backend": ["tensorflow"], "steps_per_execution": [1], "threads": THREADS}
    ),
    "Keras, TensorFlow, many steps": Peer(
        *KERAS, {"backend": ["tensorflow"], "steps_per_execution": [100, 10], "threads": THREADS}
    ),
    "Keras, JAX": Peer(*KERAS, {"backend": ["jax"], "steps_per_execution": [1], "threads": THREADS}),
    "Keras, JAX, many steps": Peer(
        *KERAS, {"backend": ["jax"], "steps_per_execution": [100, 10], "threads": THREADS}
    ),
    "PyTorch": Peer(*TORCH, {"dtype": ["float32"], "threads": THREADS, "compiled": [False, True]}),
    "PyTorch, bfloat16": Peer(*TORCH, {"dtype": ["bfloat16"], "threads": THREADS, "compiled": [False, True]}),
    "Flax example": Peer("flax_loop", (), {"threads": THREADS}),
    "scikit-learn": Peer("sklearn_fit", (), {"threads": THREADS}),
}


def takes_part(name: str, task: Settings) -> bool:
    """Whether a peer can train a workload, and differs from the other peers in it."""
    if name == "scikit-learn":
        return not task["channels"]
    return "many steps" not in name or task["batch_size"] < task["images"]


class Process:
    """A running contender. RuntimeError if it ends."""

    def __init__(self, name: str, task: Settings, settings: Settings, python: Path) -> None:
        self.settings = dict(settings)
        environment = dict(os.environ)
        if threads := settings.get("threads"):
            names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC"
            environment |= dict.fromkeys(names, str(threads))
        program = Path(__file__).parent / "contenders" / f"{PEERS[name].program}.py"
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - open as long as the process
        command = [python, program, json.dumps({**task, **settings})]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(command, **pipes, env=environment, encoding="utf-8")
        self.last = self.ready = self._answer()

    def ask(self, **words: Any) -> float:
        """Sends words to the contender and returns the seconds that it answers."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        self.last = self._answer()
        return self.last["seconds"]

    def end(self) -> None:
        """Ends the process and waits for that."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _answer(self) -> Result:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["no message"])[-1]
        self.end()
        raise RuntimeError(f"ended with {self._process.returncode}: {last}")


def save_arrays(data: mnistjax.Dataset, folder: Path) -> Path:
    """Writes the training and test images to a file for the contenders; returns its path."""
    file = folder / "data.npz"
    splits = {"train": data.train, "test": data.test}
    arrays: Any = {f"{name}_images": split.images for name, split in splits.items()}
    arrays |= {f"{name}_labels": split.labels for name, split in splits.items()}
    np.savez(file, **arrays)
    return file


def python_of(peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment, which is made if it is missing."""
    if not peer.packages:
        return Path(sys.executable)
    home = folder / peer.program
    python, done = home / "bin" / "python", home / "complete"
    if not done.exists():
        print(f"making {home} with {', '.join(peer.packages)}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *peer.packages], check=True)
        done.touch()
    return python


def choose(name: str, task: Settings, folder: Path, looks: list[Result]) -> tuple[float, Process] | None:
    """Starts a contender at the best of its settings; returns its seconds per epoch and its process.

    Settings are tried one after the other, each beside the best of those before. `looks` gets every look.
    """
    choices = PEERS[name].settings
    settings = {setting: values[0] for setting, values in choices.items()}
    best = _look(name, task, settings, folder, looks)
    for setting, values in choices.items():
        for value in values[1:]:
            if setting in task:  # the workload fixes it
                continue
            changed = {**settings, setting: value}
            other = _look(name, task, changed, folder, looks)
            if other and (not best or other[0] < best[0]):
                settings, best, other = changed, other, best
            if other:
                other[1].end()
    return best


def _look(
    name: str, task: Settings, settings: Settings, folder: Path, looks: list[Result]
) -> tuple[float, Process] | None:
    """Starts a contender at one setting; returns its seconds per epoch and its process, or None if it fails.

    The seconds are estimated from a part of an epoch.
    """
    images = min(task["images"], max(LOOK_IMAGES, task["batch_size"]))
    if name == OURS:  # a part of an epoch would be another program
        images = task["images"]
    try:
        process = Process(name, {**task, "warm_images": images}, settings, python_of(PEERS[name], folder))
        seconds = ask(process, task, 1, images)
    except RuntimeError as error:
        looks.append({"settings": dict(settings), "error": str(error)})
        print(f"    {name} {dict(settings)}: {error}", flush=True)
        return None
    seconds *= 1 if task["evaluates"] else task["images"] / images
    looks.append({"settings": dict(settings), "seconds": seconds})
    print(f"    {name} {dict(settings)}: {seconds:.4g} s", flush=True)
    return seconds, process


def ask(process: Process, task: Settings, repeats: int, images: int) -> float:
    """Seconds of an epoch on this many images, or of an evaluation: the mean of `repeats`."""
    if task["evaluates"]:
        return process.ask(evaluate=repeats)
    return process.ask(epochs=repeats, images=images)


def race(names: Sequence[str], task: Settings, folder: Path, rounds: int) -> dict[str, Result]:
    """Runs the contenders; returns settings, looks, seconds of each round, memory and versions of each."""
    results: dict[str, Result] = {name: {"looks": []} for name in names if takes_part(name, task)}
    running = {name: choose(name, task, folder, results[name]["looks"]) for name in results}
    ready = {name: best for name, best in running.items() if best}
    sizes = {name: process.ready["parameters"] for name, (_, process) in ready.items()}
    if len(set(sizes.values())) > 1:
        raise SystemExit(f"the contenders' networks differ: {sizes}")
    fastest = min((seconds for name, (seconds, _) in ready.items() if name != OURS), default=0.0)
    limit = max(SLOW[0] * fastest, SLOW[1])
    racing = {name: best for name, best in ready.items() if best[0] <= limit or name == OURS}
    if sum(seconds for seconds, _ in racing.values()) > LONG:
        rounds = min(rounds, 3)
    for name in racing:
        results[name]["seconds"] = []
    for _ in range(rounds):
        for name, (seconds, process) in racing.items():
            repeats = max(1, min(100, round(1 / seconds)))
            results[name]["seconds"].append(ask(process, task, repeats, task["images"]))
    for name, (_, process) in ready.items():
        results[name] |= {
            "settings": process.settings,
            "parameters": sizes[name],
            "memory_mb": process.last["memory_mb"],
            "versions": process.ready["versions"],
        }
        process.end()
    return results
