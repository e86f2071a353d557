"""What Hydra 1.3 needs to run on Python 3.14 and without assertions, and what differs in Hydra 1.4."""

import argparse
import contextlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

BASE = "1.3"  # the version whose defaults we ask for


def version_base() -> dict[str, str]:
    """The argument `version_base` for Hydra 1.3; 1.4 deprecates it."""
    import hydra

    return {"version_base": BASE} if hydra.__version__.startswith(f"{BASE}.") else {}


@contextlib.contextmanager
def lazy_help() -> Iterator[None]:
    """Lets argparse take help texts that are not strings yet, inside.

    Hydra 1.3 gives such a text to its parser, and from Python 3.14 on argparse refuses it (hydra#3121).
    """
    if sys.version_info < (3, 14):
        yield
        return
    add_argument = argparse.ArgumentParser.add_argument

    def add(self: argparse.ArgumentParser, *names: str, **options: Any) -> argparse.Action:
        if options.get("help") is not None:
            options["help"] = str(options["help"])
        return add_argument(self, *names, **options)

    argparse.ArgumentParser.add_argument = add
    try:
        yield
    finally:
        argparse.ArgumentParser.add_argument = add_argument


def keep_assertions() -> None:
    """Compiles the module of Hydra's parser again, with its assertions, although Python runs with -O.

    Some of them advance an iterator, so without them range(), {...} and glob() are not read (hydra#2570).
    """
    from hydra.core.override_parser import overrides_parser, overrides_visitor

    module = types.ModuleType(overrides_visitor.__name__)
    code = compile(inspect.getsource(overrides_visitor), overrides_visitor.__file__, "exec", optimize=0)
    exec(code, module.__dict__)
    overrides_parser.HydraOverrideVisitor = (  # pyright: ignore[reportPrivateImportUsage] (replaced here)
        module.HydraOverrideVisitor
    )


if not __debug__:
    keep_assertions()
