"""Models at the hub: the real client over HTTP, against a stand-in for the hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import TOKEN, Hub, Repository

pytestmark = pytest.mark.slow
PUSH = 'mnistjax.push_to_hub("someone/zeros", *mnistjax.load("neuron.mnist_zero"), license="mit")'
PROGRAM = """
import sys
import mnistjax
for expression in sys.argv[1:]:
    try:
        print(eval(expression))
    except mnistjax.ConfigError as error:
        print("error:", error)
"""
LOAD = 'mnistjax.load("hf-hub:someone/zeros{}")[2].{}'


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def call(hub, tmp_path):
    """A function that gives what expressions print in a process with this hub: values or ConfigErrors."""

    def call(*expressions, **environment):
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *expressions],
            env={**os.environ, **own, **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return call


def test_a_model_goes_to_the_hub_and_comes_back(hub, call):
    url = call(PUSH)
    repository = hub.repositories["someone/zeros"]
    (_, nothing), (first, files) = repository.commits
    assert url == f"{hub.url}/someone/zeros/commit/{first}"
    assert (nothing, repository.private) == ({}, False)
    assert files.keys() >= {"model.safetensors", "config.json", "README.md"}
    assert b"license: mit" in files["README.md"]
    one, other = call(LOAD.format("", "sha256"), LOAD.format(f"@{first}", "sha256")).splitlines()
    assert len(one) == 64
    assert one == other

    hub.repositories["someone/bert"] = others = Repository()
    others.commit({})
    refused = "error: someone/bert at the hub holds another model, so it is not replaced"
    for theirs in ({"model.safetensors": b"weights"}, {"config.json": b'{"model_type": "bert"}'}):
        others.commit(theirs)
        before = others.commits[-1][1]
        assert call(PUSH.replace("someone/zeros", "someone/bert")) == refused
        assert others.commits[-1][1] == before

    repository.commit({"README.md": b"my own words"})
    call(PUSH.replace("neuron.mnist_zero", "mlp.mnist_zero"))
    newest = repository.commits[-1][1]
    assert newest["README.md"] == b"my own words"
    assert newest["model.safetensors"] != files["model.safetensors"]
    both = LOAD.format("", "model"), LOAD.format(f"@{first}", "model")
    assert call(*both) == "mlp\nneuron"

    before = len(hub.asked)
    assert call(*both, HF_HUB_OFFLINE="1") == "mlp\nneuron"
    assert len(hub.asked) == before
    hub.close()
    assert call(*both) == "mlp\nneuron"  # as the cache has them


def test_what_the_hub_refuses_or_lacks_is_one_line(hub, call):
    expected = {
        LOAD.format("", "name"): "error: hf-hub:someone/zeros: ",
        'mnistjax.load("hf-hub:zeros")': "error: a model at the hub is hf-hub:USER/NAME or",
        'mnistjax.load("hf-hub:a/b@")': "error: a model at the hub is hf-hub:USER/NAME or",
        'mnistjax.load("hf-hub:../../etc")': "error: a model at the hub is hf-hub:USER/NAME or",
        PUSH.replace("someone/zeros", "zeros"): "error: the name of a repository at the hub is USER/NAME",
    }
    for line, message in zip(call(*expected).splitlines(), expected.values(), strict=True):
        assert line.startswith(message)
    assert call(PUSH, HF_TOKEN="hf_wrong").startswith("error: someone/zeros: ")
    assert hub.repositories == {}
    call(PUSH)
    assert call(LOAD.format("@nothing", "name")).startswith("error: hf-hub:someone/zeros@nothing: ")
    repository = hub.repositories["someone/zeros"]
    good = repository.commits[-1][1]["model.safetensors"]
    repository.commit({"model.safetensors": good[:-9]})
    assert "is not a checkpoint of ours, or is damaged" in call(LOAD.format("", "name"))
    hub.close()
    assert call(PUSH).startswith("error: someone/zeros: ")
