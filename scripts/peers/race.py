"""Contenders as processes: each peer at the best of its settings, then all in rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

LOOK_IMAGES = 12_800  # of a look at a setting
SLOW = 2.0, 10.0  # times the best peer, and seconds: beyond both a peer has no rounds, only its looks
LONG = 40.0  # seconds of a round from which on three are enough

Settings = Mapping[str, Any]
Result = dict[str, Any]


class Peer(NamedTuple):
    program: str
    packages: tuple[str, ...]  # of its own environment; none: of the one that runs this
    settings: Mapping[str, Sequence[Any]]  # each with its choices, the first one where nothing else is said


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
    """Whether a peer can do a workload, and differs there from the other peers."""
    if name == "scikit-learn":
        return not task["channels"]
    return "many steps" not in name or task["batch_size"] < task["images"]


class Process:
    """A contender that is running. RuntimeError where it ends."""

    def __init__(self, name: str, task: Settings, settings: Settings, folder: Path) -> None:
        self.settings = dict(settings)
        environment = dict(os.environ)
        if threads := settings.get("threads"):
            names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC"
            environment |= dict.fromkeys(names, str(threads))
        program = Path(__file__).parent / f"{PEERS[name].program}.py"
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [python_of(PEERS[name], folder), program, json.dumps({**task, **settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        self.last = self.ready = self._answer()

    def ask(self, **words: Any) -> float:
        """The seconds that the contender answers."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        self.last = self._answer()
        return self.last["seconds"]

    def end(self) -> None:
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
        raise RuntimeError(f"ended with {self._process.wait()}: {last}")


def python_of(peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment, which is made where it is missing."""
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
    """A contender at the best of its settings, running, with its seconds an epoch; every look is noted.

    One setting is tried after the other, each beside the best of those before.
    """
    choices = PEERS[name].settings
    settings = {setting: values[0] for setting, values in choices.items()}
    best = _look(name, task, settings, folder, looks)
    for setting, values in choices.items():
        for value in values[1:]:
            if setting in task:  # fixed
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
    """A contender at a setting with its seconds an epoch, by a part of one; None where it does not run."""
    images = min(task["images"], max(LOOK_IMAGES, task["batch_size"]))
    if name == OURS:  # of which a part of an epoch would be another program
        images = task["images"]
    try:
        process = Process(name, {**task, "warm_images": images}, settings, folder)
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
    """Seconds of an epoch on so many images, or of an evaluation, over so many repeats."""
    if task["evaluates"]:
        return process.ask(evaluate=repeats)
    return process.ask(epochs=repeats, images=images)


def race(names: Sequence[str], task: Settings, folder: Path, rounds: int) -> dict[str, Result]:
    """What was measured of each contender: settings, looks, seconds in each round, memory, versions."""
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
