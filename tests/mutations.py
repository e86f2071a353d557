"""Mutates every file of a run, a sweep, prepared data and packaged weights, and calls all of their readers.

A reader must accept the file or raise a ConfigError in one line, in bounded time. A short round is one of the
tests. The full one is `python tests/mutations.py --count 100000`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mnistjax import checkpoints, records, zoo
from mnistjax.cli.overrides import composing
from mnistjax.cli.stored import take_arguments, take_jobs
from mnistjax.compose import flatten, label, load, plan_run, read_settings
from mnistjax.config import ConfigError, Plan
from mnistjax.data import load_data, prepared
from mnistjax.recorder import restore
from mnistjax.report.dashboard import make_data
from mnistjax.report.runs import read_runs
from mnistjax.sweeps.ledger import load_ledger
from mnistjax.sweeps.results import read_result

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 10**18, 10**400, -(10**30), 1e308, "", "x", "nan", "inf", "\0"),
    *(
        "<script>",
        "../../../etc/passwd",
        "9" * 5000,
        "é\u2028",
        "a" * 10**6,
        [],
        {},
        [[]],
        [None],
        {"": None},
    ),
    *([1, "a"], {"a": {"b": {}}}, [0] * 1000, "2026-01-01", "${oc.env:HOME}", "done", "running", "0" * 64),
]
TOKENS: list[bytes] = [
    *(b"", b"\0", b"\n", b"{", b"}", b"[" * 2000, b"]", b'"', b":", b"null", b"NaN", b"Infinity", b"1e999"),
    *(b"&a [*a, *a]", b"*a", b"!!python/object/apply:os.system [id]", b"!!binary aGk=", b"2026-01-01", b"? "),
    *(
        b"\xff\xfe",
        b"\xf0\x9f\x98",
        b"\\ud800",
        b"--- ",
        b"%YAML 9.9\n",
        b"<<: ",
        b"0" * 5000,
        b"\xef\xbb\xbf",
    ),
]


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three random changes, whatever its format."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        i, j = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        j = min(j, i + rng.choice((1, 4, 64, 10**9)))
        match rng.randrange(7):
            case 0 if content:
                k = rng.randrange(len(content))
                content = content[:k] + bytes([content[k] ^ 1 << rng.randrange(8)]) + content[k + 1 :]
            case 1:
                content = content[:i]
            case 2:
                content = content[:i] + content[j:]
            case 3:
                content = content[:j] + content[i:j] + content[j:]
            case 4:
                content = content[:i] + rng.choice(TOKENS) + content[i:]
            case 5:
                content = content[:i] + rng.choice(TOKENS) + content[j:]
            case 6:
                content = content[:i] + rng.randbytes(rng.choice((1, 8, 100))) + content[j:]
    return content


def mutate_value(value: Any, rng: random.Random) -> Any:
    """A copy of a plain value with one node replaced, removed, renamed, doubled or added."""
    value = copy.deepcopy(value)
    nodes = list(_nodes(value))
    if not nodes or rng.random() < 0.02:
        return rng.choice(ODD)
    parent, key = rng.choice(nodes)
    match rng.randrange(6):
        case 0 | 1 | 2:
            parent[key] = copy.deepcopy(rng.choice(ODD))
        case 3:
            del parent[key]
        case 4 if isinstance(parent, dict):
            parent[rng.choice(("__proto__", "", "x", f"{key} ", str(key).upper()))] = parent.pop(key)
        case 4:
            parent.insert(key, copy.deepcopy(parent[key]))
        case 5:
            other, name = rng.choice(nodes)
            with contextlib.suppress(KeyError, IndexError):
                parent[key] = copy.deepcopy(other[name])
    return value


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each (container, key) of a plain value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _nodes(value[key])


def mutate_file(path: Path, content: bytes, rng: random.Random) -> bytes:
    """The content of a file, changed at random or within its format."""
    if rng.random() < 0.35:
        return mutate_bytes(content, rng)
    if path.suffix == ".json":
        return _dump(mutate_value(json.loads(content), rng))
    if path.suffix == ".jsonl":
        rows = mutate_value([json.loads(line) for line in content.splitlines()], rng)
        return b"".join(_dump(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
    if path.suffix == ".yaml":
        return yaml.safe_dump(mutate_value(yaml.safe_load(content), rng), allow_unicode=True).encode()
    if path.suffix == ".safetensors":
        return mutate_checkpoint(path, content, rng)
    return mutate_bytes(content, rng)


def _dump(value: Any) -> bytes:
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value).encode()
    finally:
        sys.set_int_max_str_digits(4300)


def mutate_checkpoint(path: Path, content: bytes, rng: random.Random) -> bytes:
    """A checkpoint with a changed header, or with other meta or arrays and the right SHA-256 for them."""
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.3:
        header = mutate_bytes(content[8 : 8 + size], rng)
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    with tempfile.NamedTemporaryFile(suffix=path.name) as file:
        file.write(content)
        file.flush()
        found = checkpoints.read_checkpoint(file.name)
    arrays, meta = dict(found.arrays), found.meta
    match rng.randrange(4):
        case 0:
            arrays.pop(rng.choice(list(arrays)))
        case 1:
            name = rng.choice(list(arrays))
            arrays[name] = arrays[name].ravel()[:-1].astype(rng.choice(("float32", "int32", "bool")))
        case _:
            meta = mutate_value(meta, rng)
    try:
        return checkpoints.encode_checkpoint(arrays, meta if isinstance(meta, dict) else {"x": meta})
    except (checkpoints.CheckpointError, ValueError, UnicodeError, TypeError):
        return mutate_bytes(content, rng)


class Target:
    """Files in a folder, and their readers."""

    def __init__(self, folder: Path, names: list[str], readers: list[Callable[[Path], Any]]) -> None:
        self.folder, self.names, self.readers = folder, names, readers
        self.contents = {name: (folder / name).read_bytes() for name in names}


def try_once(target: Target, rng: random.Random, failures: list[str]) -> str:
    """Mutates one file of a target and calls all of its readers; "accepted" or "refused"."""
    name = rng.choice(target.names)
    path = target.folder / name
    content = mutate_file(path, target.contents[name], rng)
    path.write_bytes(content)
    refused = 0
    for reader in target.readers:
        if reader.__name__ == "resume_sweep" and name != "sweep.json":
            continue
        began = time.monotonic()
        try:
            with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader(target.folder)
        except ConfigError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > 2000:
                failures.append(
                    f"{name}, {reader.__name__}: a message of {len(str(error))}: {str(error)[:300]!r}"
                )
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(
                f"{name}, {reader.__name__}: {type(error).__name__}: {str(error)[:200]!r} "
                f"at {Path(where.filename).name}:{where.lineno} of {content[:300]!r}"
            )
        if time.monotonic() - began > 20:
            failures.append(
                f"{name}, {reader.__name__}: {time.monotonic() - began:.0f} s of {content[:300]!r}"
            )
    restore_files(target)
    return "refused" if refused else "accepted"


def restore_files(target: Target) -> None:
    """Restores a target's files and removes those that readers have added."""
    for path in target.folder.rglob("*"):
        if path.is_file() and path.name not in ("lock",):
            relative = str(path.relative_to(target.folder))
            if relative not in target.contents and path.suffix in (".tmp", ".lock"):
                path.unlink()
    for name, content in target.contents.items():
        path = target.folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def plan_of(folder: Path) -> Plan:
    settings = read_settings(records.read_config(folder))
    return plan_run(settings, label(load(settings), settings))


def make_targets(work: Path) -> dict[str, Target]:
    """A run that is done, one that was killed, a sweep, prepared data and packaged weights."""
    from mnistjax.cli import main

    small = ["data=digits", "model=mlp", "model.hidden=4", "train.batch_size=230", "wandb.mode=disabled"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main([*small, "train.epochs=3", f"hydra.run.dir={work}/done"]) == 0
        words = ["seed=0,1", "sweep.executor=inline", f"hydra.sweep.dir={work}/sweep"]
        assert main(["-m", *small, "train.epochs=2", *words]) == 0
    killed, plan = work / "killed", plan_of(work / "done")
    shutil.copytree(work / "done", killed)
    status = json.loads((killed / records.STATUS).read_text())
    (killed / records.STATUS).write_text(json.dumps(status | {"status": "running"}))
    (killed / records.SUMMARY).unlink()

    def report(folder: Path) -> None:
        json.dumps(make_data(read_runs(folder)), allow_nan=False)

    def load_model(folder: Path) -> None:
        str(zoo.load(folder)[2])

    def resume(folder: Path) -> None:
        restore(plan, folder)

    def read_config(folder: Path) -> None:
        settings = read_settings(records.read_config(folder))
        plan_run(settings, load_data("digits"))
        dict(flatten(records.read_config(folder)))

    def resume_sweep(folder: Path) -> None:
        ledger = load_ledger(folder)
        take_arguments(ledger, [])
        take_jobs(ledger)

    def read_results(folder: Path) -> None:
        ledger = load_ledger(folder)
        for entry in ledger.entries.values():
            read_result(entry, ledger.job_folder(entry.number))

    digits = load_data("digits")
    arrays = prepared.Arrays(
        digits.train.images, digits.train.labels, digits.test.images, digits.test.labels, digits.class_names
    )
    data = work / "kmnist"
    data.mkdir()
    prepared.write_arrays(data, arrays)
    names = [f"{part}.npy" for part in prepared.ARRAYS] + ["manifest.json"]

    def read_data(folder: Path) -> None:
        assert prepared.digest(prepared.read_arrays("kmnist", folder)) == prepared.digest(arrays)

    weights = work / "weights"
    weights.mkdir()
    shutil.copy(zoo.WEIGHTS / f"mlp.mnist{zoo.SUFFIX}", weights / f"mlp.mnist{zoo.SUFFIX}")

    def load_packaged(folder: Path) -> None:
        before, zoo.WEIGHTS = zoo.WEIGHTS, folder
        try:
            str(zoo.load("mlp.mnist")[2])
        except OSError as error:
            raise AssertionError from error
        finally:
            zoo.WEIGHTS = before

    own = [records.CONFIG, records.ROWS, records.STATUS, checkpoints.CHECKPOINT]
    job = [f"0/{name}" for name in (records.CONFIG, records.ROWS, records.STATUS, records.SUMMARY)]
    return {
        "run": Target(work / "done", [*own, records.SUMMARY], [load_model, report, read_config]),
        "killed run": Target(killed, own, [resume, report]),
        "sweep": Target(work / "sweep", ["sweep.json", *job], [resume_sweep, report, read_results]),
        "data": Target(data, names, [read_data]),
        "weights": Target(weights, [f"mlp.mnist{zoo.SUFFIX}"], [load_packaged]),
    }


def fuzz(count: int, seed: int, work: Path) -> tuple[Counter[str], list[str]]:
    """The outcomes of `count` mutations with their numbers, and a line for each failure."""
    targets, rng = make_targets(work), random.Random(seed)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    with composing():
        for number in range(count):
            name = rng.choice(list(targets))
            counts[f"{name} {try_once(targets[name], rng, failures)}"] += 1
            if count > 5000 and number % 5000 == 4999:
                print(f"{number + 1:,} mutations, {len(failures)} failures", flush=True)
    return counts, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = fuzz(args.count, args.seed, Path(folder))
    for failure in failures[:200]:
        print(failure)
    for name, number in sorted(counts.items()):
        print(f"{number:8,} {name}")
    print(f"{args.count:,} mutations, {len(failures)} failures")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
