"""Checks that Hydra can create what its node of a config describes, before anything is written."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Sequence
from logging.config import DictConfigurator
from typing import TYPE_CHECKING, Any, cast

from mnistjax.checks import Check, check_value, whole
from mnistjax.cli.search import check_search
from mnistjax.config import ConfigError, one_line, shorten

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERBOSE = Check(lambda x: isinstance(x, (bool, Sequence)), "true, false, or names of loggers")


def check_hydra(cfg: DictConfig) -> None:
    """Raises ConfigError if the launcher, the sweeper or the logging of a config can't be created."""
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    for kind in ("launcher", "sweeper"):
        node = cfg.hydra[kind]
        if not OmegaConf.is_dict(node) or not isinstance(node.get("_target_"), str):
            raise ConfigError(
                f"hydra.{kind} must be chosen by a name, hydra/{kind}=NAME; got {shorten(node)!r}"
            )
    check_search(cfg.hydra.sweeper)
    for kind in ("launcher", "sweeper"):
        with errors_about(f"hydra/{kind}"):
            Plugins.instance()._instantiate(cfg.hydra[kind])
    if "max_batch_size" in cfg.hydra.sweeper:
        check_value("hydra.sweeper.max_batch_size", cfg.hydra.sweeper.max_batch_size, whole(1, None))
    check_value("hydra.verbose", cfg.hydra.verbose, VERBOSE)
    for kind in ("hydra_logging", "job_logging"):
        with errors_about(f"hydra/{kind}"):
            check_logging(cfg, kind)


@contextlib.contextmanager
def errors_about(name: str) -> Iterator[None]:
    """Turns any error inside into a ConfigError about `name`."""
    try:
        yield
    except Exception as error:  # plugins and logging handlers raise any type
        raise ConfigError(f"{name} can't be created: {one_line(error)}") from None


def check_logging(cfg: DictConfig, kind: str) -> None:
    """Creates and closes the handlers of a logging node; raises the errors of `dictConfig`.

    Their files are the null device, because the run folder does not exist yet.
    """
    from omegaconf import OmegaConf

    if cfg.hydra[kind] is None:
        return
    cfg = copy.deepcopy(cfg)
    OmegaConf.update(cfg, "hydra.runtime.output_dir", os.curdir, force_add=True)
    node = cast(dict[str, Any], OmegaConf.to_container(cfg.hydra[kind], resolve=True))
    if node.get("version") != 1:
        raise ValueError(f"its version is {node.get('version')!r}; it must be 1")
    maker = DictConfigurator(node)
    parts = {"formatters": maker.configure_formatter, "filters": maker.configure_filter}
    for part, make in (parts | {"handlers": maker.configure_handler}).items():
        made = maker.config.setdefault(part, {})
        for name in made:
            if "filename" in made[name]:
                made[name]["filename"] = os.devnull
            made[name] = make(made[name])
    for handler in maker.config["handlers"].values():
        handler.close()
    for logger in (node.get("root") or {}, *(node.get("loggers") or {}).values()):
        logging.NullHandler().setLevel(logger.get("level") or 0)
        if unknown := {*(logger.get("handlers") or ())} - {*maker.config["handlers"]}:
            raise ValueError(f"there is no handler {', '.join(sorted(unknown))}")
