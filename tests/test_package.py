"""The package as a whole: import order, what an import loads, and the three ways to have it."""

import ast
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from PIL import Image

import mnistjax
from mnistjax.cli.overrides import conf_dir
from pictures import draw

PACKAGE = Path(mnistjax.__file__).parent
README = (PACKAGE.parent / "README.md").read_text()
MAP = README.partition("The whole map")[2].split("```")[1].strip().splitlines()
ROOMS = [name for line in MAP for name in re.split(r"  +", line.strip())[0].split(", ")]
ROOMS.append("__main__")
ALONE = {
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "wandb": {"tracking"},
    "wandb_workspaces": {"report"},
    "plotly": {"report"},
    "itables": {"report"},
    "tensorflow": set(),
}
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


def room_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file):
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_import_only_from_rooms_above(file):
    room = room_of(file)
    for name in imported(file):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "mnistjax" and other in ROOMS and other != room:
            assert ROOMS.index(other) < ROOMS.index(room), f"{room} imports {name}"
        assert room in ALONE.get(top, {room}), f"{room} imports {name}"


@pytest.mark.skipif(not (PACKAGE.parent / "scripts").exists(), reason="not a checkout")
def test_the_package_imports_no_script():
    scripts = {path.stem for path in (PACKAGE.parent / "scripts").iterdir()}
    assert {"lab_report", "benchmark", "sections"} <= scripts
    for file in FILES:
        assert not scripts & {name.partition(".")[0] for name in imported(file)}, file


@pytest.mark.parametrize("file", [file for file in FILES if ">>> " in file.read_text()], ids=lambda f: f.stem)
def test_examples_in_docstrings_hold(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert not failed


def test_the_map_names_every_room():
    assert sorted(ROOMS) == sorted({room_of(file) for file in FILES})


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting_and_a_function_fits_on_a_screen(file):
    text = file.read_text()
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50, node.name


def test_the_readme_is_short_and_has_few_words_of_our_own():
    assert README.count("\n") <= 200
    glossary = README.partition("| word | meaning |")[2].partition("\n\n")[0].strip().splitlines()[1:]
    assert 1 < len(glossary) <= 12
    core = ["config.py", "step.py", "layout.py", "programs.py", "loop.py"]
    assert f"`{'`, `'.join(core)}`" in README
    assert sum((PACKAGE / name).read_text().count("\n") for name in core) <= 1000


PAGES = [
    path
    for path in sorted(PACKAGE.parent.glob("**/*.md"))
    if not set(path.parts) & {".venv", ".pytest_cache", "node_modules", "multirun", "outputs"}
]


@pytest.mark.skipif(not (PACKAGE.parent / "scripts").exists(), reason="not a checkout")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PACKAGE.parent)))
def test_links_of_a_page_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, heading = link.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), link
        if heading:
            found = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert heading in [line.lower().replace(" ", "-") for line in found], link


def test_no_name_is_also_a_room():
    """A submodule that is imported would take the name's place in `mnistjax`."""
    assert not set(mnistjax.__all__) & {room_of(file) for file in FILES}


def python(*args, cwd, **env):
    """The standard output of a Python process."""
    environment = {**os.environ, "WANDB_MODE": "disabled", **env}
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_import_loads_nothing_heavy(tmp_path):
    """Nor does any of its names, nor do making a model and listing them, start a backend of JAX."""
    code = """
import sys, mnistjax
for name in mnistjax.__all__:
    getattr(mnistjax, name)
mnistjax.create_model("cnn"), mnistjax.list_models("*", pretrained=True)
from jax._src import xla_bridge
print(len(xla_bridge._backends), *sys.modules)"""
    backends, *loaded = python("-c", code, cwd=tmp_path, PYTHONPATH=str(PACKAGE.parent)).split()
    assert backends == "0"
    assert "mnistjax.zoo.convert" in loaded
    assert not {"hydra", "omegaconf", "tensorflow", "tensorflow_datasets", "wandb"} & set(loaded)


@pytest.mark.skipif(not (PACKAGE.parent / "pyproject.toml").exists(), reason="not a checkout")
def test_bare_checkout_composes():
    assert "model:\n  name: cnn" in python("-m", "mnistjax", "--cfg", "job", "model=cnn", cwd=PACKAGE.parent)


@pytest.mark.slow
@pytest.mark.skipif(not (PACKAGE.parent / "pyproject.toml").exists(), reason="not a checkout")
@pytest.mark.parametrize("built", ["--wheel", "--sdist"])
def test_wheel_runs_in_an_empty_folder(tmp_path, built):
    """The wheel from the checkout, and the wheel from the sdist, hold conf/ and train."""
    root, target = PACKAGE.parent, tmp_path / "target"
    python("-m", "build", built, "--outdir", str(tmp_path), str(root), cwd=tmp_path)
    (archive,) = [*tmp_path.glob("*.whl"), *tmp_path.glob("*.tar.gz")]
    python("-m", "pip", "install", "--no-deps", "--target", str(target), str(archive), cwd=tmp_path)
    modules = {file.relative_to(target / "mnistjax") for file in target.glob("mnistjax/**/*.py")}
    assert modules == {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py")}
    shipped = {file.relative_to(target / "mnistjax/conf") for file in target.glob("mnistjax/conf/**/*.yaml")}
    assert shipped == {file.relative_to(conf_dir()) for file in conf_dir().rglob("*.yaml")}
    installed = {path.name for path in target.iterdir() if path.suffix != ".dist-info"}
    assert installed == {"bin", "mnistjax"}  # nothing of scripts/
    web = {file.name for file in (target / "mnistjax/report/web").iterdir()}
    assert web == {file.name for file in (PACKAGE / "report/web").iterdir()}
    weights = [file.name for file in (target / "mnistjax/zoo/weights").iterdir()]
    assert sorted(weights) == [f"{name}.safetensors" for name in mnistjax.list_models(pretrained=True)]
    empty = tmp_path / "empty"
    empty.mkdir()
    where = python("-c", "import mnistjax; print(mnistjax.__file__)", cwd=empty, PYTHONPATH=str(target))
    assert where.startswith(str(target))
    assert "seed: 0" in python("-m", "mnistjax", "--cfg", "job", cwd=empty, PYTHONPATH=str(target))
    run = ["-m", "mnistjax", "data=digits", "train.epochs=1"]
    assert "Test results on digits" in python(*run, cwd=empty, PYTHONPATH=str(target))
    assert [*empty.glob("outputs/*/*/summary.json")]
    command = "import mnistjax.cli.report as r; raise SystemExit(r.main(['outputs']))"
    python("-c", command, cwd=empty, PYTHONPATH=str(target))
    assert "%" not in (empty / "outputs/report/index.html").read_text()[:200]


NO_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise OSError("there is no network here")

socket.socket.connect = socket.getaddrinfo = refuse
"""


@pytest.mark.slow
@pytest.mark.skipif(not (PACKAGE.parent / "pyproject.toml").exists(), reason="not a checkout")
def test_a_stranger_needs_no_more_than_what_pip_installs(tmp_path, monkeypatch):
    """The zoo, a notebook, a paper: in an own environment, an empty home folder, without network and data."""
    root, environment, empty = PACKAGE.parent, tmp_path / "environment", tmp_path / "empty"
    python("-m", "build", "--wheel", "--outdir", str(tmp_path), str(root), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    python("-m", "venv", str(environment), cwd=tmp_path)
    install = [environment / "bin/pip", "install", "-q", "--no-compile", f"{wheel}[notebook]"]
    subprocess.run(install, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "sitecustomize.py").write_text(NO_NETWORK)
    empty.mkdir()
    Image.fromarray(draw("27")).save(empty / "picture.png")

    def call(name, *args):
        command, own = [environment / "bin" / name, *args], {"HOME": str(empty), "PATH": os.environ["PATH"]}
        return subprocess.run(command, cwd=empty, env=own, check=True, capture_output=True, text=True).stdout

    assert "picture.png: 2 7\n" in call("mnistjax-predict", "lenet5.mnist", "picture.png")
    code = """
import mnistjax
import numpy as np
for name in mnistjax.list_models(pretrained=True):
    model, variables, card = mnistjax.load(name)
    images = np.zeros((2, 28, 28, 1), np.uint8)
    assert model.apply(variables, images).shape == (2, card.num_classes)
digits = mnistjax.read_digits("picture.png")
print(mnistjax.classify(*mnistjax.load("lenet5.mnist"), [digit.image for digit in digits]).argmax(axis=1))
"""
    assert call("python", "-c", code) == "[2 7]\n"
    call("python", "-m", "ipykernel", "install", "--prefix", str(environment), "--name", "stranger")
    notebook = nbformat.read(root / "scripts/notebooks/sweep.ipynb", as_version=4)
    monkeypatch.setenv("JUPYTER_PATH", str(environment / "share/jupyter"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    where = {"metadata": {"path": str(empty)}}
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="stranger", resources=where)
    client.execute(env={"HOME": str(empty), "PATH": os.environ["PATH"]})

    grid = ["data=digits", "model=mlp", "model.hidden=8", "optimizer=sgd,adam", "seed=0,1", "train.epochs=2"]
    call("mnistjax", "-m", *grid, "hydra.sweep.dir=sweep")
    table = call("mnistjax-report", "sweep", "--table", "optimizer", "--format", "tex")
    assert "adam & " in table
    call("mnistjax-report", "sweep", "--figure", "curves", "curves.pdf")
    assert (empty / "curves.pdf").read_bytes().startswith(b"%PDF")
    if shutil.which("pdflatex"):
        page = ["\\documentclass{article}", "\\usepackage{booktabs,graphicx}", "\\begin{document}", table]
        page += ["\\includegraphics[width=6cm]{curves.pdf}", "\\end{document}"]
        (empty / "paper.tex").write_text("\n".join(page), encoding="utf-8")
        subprocess.run(["pdflatex", "-interaction=nonstopmode", "paper.tex"], cwd=empty, check=True)
        assert (empty / "paper.pdf").stat().st_size > 10_000
