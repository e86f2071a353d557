"""Locales that are not UTF-8: every file names its encoding, and what can't be printed is replaced."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import mnistjax
from pictures import draw

PACKAGE = Path(mnistjax.__file__).parent
FILES = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "scripts").rglob("*.py")]
TEXT = ("open", "fdopen", "read_text", "write_text", "TemporaryFile", "NamedTemporaryFile", "TextIOWrapper")
BYTES = ("os", "Image", "archive", "tarfile")  # their `open` gives bytes, or a picture
PLACES = {"read_text": 0, "write_text": 1, "TextIOWrapper": 1}  # of the encoding among the arguments


def lacks_encoding(call):
    """Whether a call reads or writes text in the encoding of the locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    module = getattr(getattr(call.func, "value", None), "id", "")
    keywords = {keyword.arg for keyword in call.keywords}
    modes = [arg.value for arg in call.args[1:2] if isinstance(arg, ast.Constant)]
    binary = name in ("open", "fdopen") and any("b" in mode for mode in modes if isinstance(mode, str))
    named = "encoding" in keywords or len(call.args) > PLACES.get(name, 9)
    if module == "subprocess":
        return "text" in keywords and not named
    return name in TEXT and module not in BYTES and not (binary or named)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE.parent)))
def test_text_is_read_and_written_in_a_named_encoding(file):
    calls = (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call))
    lines = [call.lineno for call in calls if lacks_encoding(call)]
    source = file.read_text("utf-8").splitlines()
    assert [line for line in lines if "Recorder(job, start).open()" not in source[line - 1]] == []


COMMANDS = """
import sys
from mnistjax.cli import main, predict, report
small = ["data=digits", "model=mlp", "model.hidden=4", "train.epochs=1", "wandb.mode=disabled"]
sweep = ["-m", *small, "seed=0,1", "sweep.executor=inline", "hydra.sweep.dir=sweep"]
codes = [main(["--help"]), main(sweep), main([*small, "hydra.run.dir=run"])]
named = main([*small, "hydra.run.dir=\\u00fcber"])
assert named == (2 if sys.getfilesystemencoding() == "ascii" else 0)
codes += [report.main(["sweep"]), predict.main(["neuron.mnist_zero", sys.argv[1], "--explain", "explained"])]
sys.exit(max(codes))
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


STREAMS = {"PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize("locale", [ASCII, pytest.param(STREAMS, marks=pytest.mark.slow)], ids=["C", "ascii"])
def test_commands_work_without_utf_8(locale, work):
    Image.fromarray(draw("27")).save("zwölf.png")
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, "zwölf.png"],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **locale},
        capture_output=True,
    )
    shown = done.stdout.decode("ascii") + done.stderr.decode("utf-8")
    assert done.returncode == 0, shown
    assert "zw?lf.png: " in shown
    assert "2 runs -> sweep/report/index.html" in shown
    if locale == ASCII:
        assert "error: the locale's encoding, ascii, lacks a character of" in shown
    else:
        assert "run folder ?ber" in shown
    assert "± " in Path("sweep/report/index.html").read_text("utf-8")
