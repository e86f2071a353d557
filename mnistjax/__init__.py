"""Small neural networks for MNIST in JAX: pure functions, fused sweeps, an importable model zoo.

Names are loaded when they are first used (PEP 562), so that `import mnistjax` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistjax.backend import prepare_backend
    from mnistjax.config import ConfigError, Plan, Spec, Stopping
    from mnistjax.data import Dataset, list_datasets, load_data, register_dataset, to_binary
    from mnistjax.evaluation import evaluate, predict
    from mnistjax.loop import fit, fit_runs
    from mnistjax.models import create_model, register_model, to_float
    from mnistjax.notebook import sweep
    from mnistjax.optim import list_optimizers, register_optimizer
    from mnistjax.pictures import read_digits
    from mnistjax.plan import make_plan
    from mnistjax.programs import make_program
    from mnistjax.report.runs import RunRecord, Runs, read_runs
    from mnistjax.run import Progress, Result, Run
    from mnistjax.step import State
    from mnistjax.zoo import Card, list_models, load, save
    from mnistjax.zoo.classify import classify
    from mnistjax.zoo.convert import export, to_nnx
    from mnistjax.zoo.features import features, summary
    from mnistjax.zoo.hub import push_to_hub
    from mnistjax.zoo.pretrained import save_pretrained
    from mnistjax.zoo.start import start_from

_MODULES = {
    "backend": ("prepare_backend",),
    "config": ("ConfigError", "Plan", "Spec", "Stopping"),
    "data": ("Dataset", "list_datasets", "load_data", "register_dataset", "to_binary"),
    "evaluation": ("evaluate", "predict"),
    "loop": ("fit", "fit_runs"),
    "models": ("create_model", "register_model", "to_float"),
    "notebook": ("sweep",),
    "optim": ("list_optimizers", "register_optimizer"),
    "pictures": ("read_digits",),
    "plan": ("make_plan",),
    "programs": ("make_program",),
    "report.runs": ("RunRecord", "Runs", "read_runs"),
    "run": ("Progress", "Result", "Run"),
    "step": ("State",),
    "zoo": ("Card", "list_models", "load", "save"),
    "zoo.classify": ("classify",),
    "zoo.convert": ("export", "to_nnx"),
    "zoo.features": ("features", "summary"),
    "zoo.hub": ("push_to_hub",),
    "zoo.pretrained": ("save_pretrained",),
    "zoo.start": ("start_from",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Card", "ConfigError", "Dataset", "Plan", "Progress", "Result", "Run", "RunRecord", "Runs", "Spec",
    "State", "Stopping", "classify", "create_model", "evaluate", "export", "features", "fit",
    "fit_runs", "list_datasets", "list_models", "list_optimizers", "load", "load_data", "make_plan",
    "make_program", "predict", "prepare_backend", "push_to_hub", "read_digits", "read_runs",
    "register_dataset", "register_model", "register_optimizer", "save", "save_pretrained", "start_from",
    "summary", "sweep", "to_binary", "to_float", "to_nnx",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mnistjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mnistjax.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
