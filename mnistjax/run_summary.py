"""`summary.json` of a finished run: its test results, with the versions and the device that produced them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import os
import platform
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax.backend import processor
from mnistjax.config import Spec
from mnistjax.data import Dataset
from mnistjax.job import Job

if TYPE_CHECKING:
    from mnistjax.run import Result

PROJECT = Path(__file__).parents[1] / "pyproject.toml"  # of a checkout
PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")  # a summary has their versions
USER_CODE = ("model", "optimizer")  # what `find_code` finds


def summarize_run(job: Job, result: Result, continued: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of a finished run; `continued` as in `RunStart`."""
    import jax

    plan, dataset = job.plan, job.data
    assert result.test is not None
    return {
        **{f"test/{name}": value for name, value in result.test.items()},
        "kept_epoch": result.kept_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
        "lanes": result.lanes,
        "compile_seconds": result.compile_seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(result.variables["params"])),
        "data": describe_data(dataset),
        "spec": plan.spec,
        "hyper": plan.hyper,
        "stopping": plan.stopping,
        "seed": plan.seed,
        "identity": plan.identity,
        **({"continued": continued} if continued else {}),
        "versions": {**find_versions(), **find_code(plan.spec)},
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "cores": os.cpu_count(),
            "processor": processor(),
        },
    }


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """The field `data` of a summary: the data set's name, SHA-256, and its classes with their counts."""
    facts = {"name": dataset.name, "sha256": dataset.sha256, "class_counts": dataset.class_counts}
    facts |= {"class_names": list(dataset.class_names)}
    return facts | ({"banner": dataset.banner} if dataset.banner else {})


@functools.cache
def find_versions() -> dict[str, str]:
    """The versions of Python, this package, also of its `source` between two releases, and PACKAGES."""
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    own = {"mnistjax": find_version(), "source": hash_source()}
    return {"python": platform.python_version(), **own, **packages}


def find_code(spec: Spec) -> dict[str, str]:
    """The first digits of SHA-256 sums of the source of a model and of an optimizer that are not ours."""
    from mnistjax.models import MODELS  # late, because it imports JAX
    from mnistjax.optim import OPTIMIZERS

    code = {"model": MODELS[spec.model], "optimizer": OPTIMIZERS[spec.optimizer].make}
    return {kind: digits for kind, one in code.items() if (digits := hash_code(one))}


@functools.lru_cache(64)
def hash_code(code: Any) -> str | None:
    """The first digits of the SHA-256 of the source of a class or function.

    None if it has none, and if it is one of PACKAGES or ours, whose versions are known.
    """
    if (getattr(code, "__module__", None) or "").partition(".")[0] in ("mnistjax", *PACKAGES):
        return None
    try:
        return hashlib.sha256(inspect.getsource(code).encode()).hexdigest()[:12]
    except (OSError, TypeError):  # defined at a prompt, for example
        return None


def hash_source() -> str:
    """The first twelve digits of a SHA-256 of this package's Python files and their names."""
    found, place = hashlib.sha256(), Path(__file__).parent
    for path in sorted(place.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(place).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:12]


def find_version() -> str:
    """The version of this package, from its pyproject.toml if it is not installed."""
    try:
        return importlib.metadata.version("mnistjax")
    except importlib.metadata.PackageNotFoundError:  # a bare checkout
        return tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"]
