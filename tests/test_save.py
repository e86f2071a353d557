"""A trained model in one file: it comes back as it was, and a foreign or damaged file costs one line."""

import dataclasses
import functools
import json
import os
import tempfile
import types
import unittest.mock
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import yaml

import mnistjax
from mnistjax import checkpoints, models, optim, zoo
from mnistjax.cli import main, predict
from mnistjax.config import ConfigError, to_plain
from mnistjax.zoo.hub import has_other
from mnistjax.zoo.pretrained import is_own_readme

PACKAGED = mnistjax.list_models(pretrained=True)
FEW = ["neuron.mnist_zero", "mlp.mnist"]  # the others are slow


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW)) for name in PACKAGED]
)
def test_a_packaged_model_comes_back_with_its_bits(tmp_path, name):
    model, variables, card = mnistjax.load(name)
    path = mnistjax.save(tmp_path / "new" / "mine.mnist.safetensors", model, variables, card)
    again, restored, found = mnistjax.load(path)
    assert again == model
    same(variables, restored)
    images = np.random.default_rng(0).integers(0, 256, (5, *card.image_shape), dtype=np.uint8)
    same(model.apply(variables, images), again.apply(restored, images))
    assert found.name == "mine.mnist"
    assert dataclasses.replace(found, name=card.name, sha256="") == dataclasses.replace(card, sha256="")
    with safetensors.safe_open(path, "numpy") as file:  # what others read it with
        assert json.loads(file.metadata()["mnistjax"])["meta"]["model"] == card.model
    arrays = safetensors.numpy.load_file(path)
    same(arrays, checkpoints.flatten(variables))
    first = path.read_bytes()
    mnistjax.save(str(path), again, restored, found)
    assert path.read_bytes() == first


@pytest.fixture
def run(work):
    words = ["data=digits", "train.epochs=1", "model=mlp", "model.hidden=8", "hydra.run.dir=here"]
    assert main(words) == 0
    return mnistjax.load("here")


def test_a_run_becomes_a_file_without_its_folder(run, work, capsys):
    model, variables, card = run
    mnistjax.save("my.safetensors", model, variables, card)
    assert b"here" not in (work / "my.safetensors").read_bytes()
    _, restored, found = mnistjax.load("my.safetensors")
    same(variables, restored)
    assert (found.name, found.data, len(found.sha256)) == ("my", "digits", 64)
    from PIL import Image

    from pictures import draw

    Image.fromarray(draw("27")).save("picture.png")
    capsys.readouterr()
    assert predict.main(["my.safetensors", "picture.png"]) == 0
    assert capsys.readouterr().out.startswith("picture.png: ")


def test_what_does_not_belong_together_is_not_saved(run, work):
    model, variables, card = run
    other = mnistjax.create_model("mlp", hidden=[9])
    for one, values, about, message in [
        (model, variables, mnistjax.load("mlp.mnist")[2], "that of another model: mlp"),
        (other, variables, card, "that of another model"),
        (model, {"params": {}}, card, "is missing, expected float32"),
        (model, jax.tree.map(lambda x: x[:1], variables), card, r"expected float32\["),
        (model, jax.tree.map(lambda x: x.astype("float16"), variables), card, "found float16"),
    ]:
        with pytest.raises(ConfigError, match=message):
            mnistjax.save("new/my.safetensors", one, values, about)
    with pytest.raises(ConfigError, match=r"my.npz must end in .safetensors"):
        mnistjax.save("my.npz", *run)
    assert {path.name for path in work.iterdir()} == {"here"}


def test_only_a_saved_model_is_replaced(run, work):
    safetensors.numpy.save_file({"a": np.zeros(3)}, "foreign.safetensors")
    (work / "text.safetensors").write_text("mine")
    os.symlink("target.safetensors", "link.safetensors")
    checkpoint = work / "here" / checkpoints.CHECKPOINT
    before = {path: path.read_bytes() for path in (work / "foreign.safetensors", work / "text.safetensors")}
    before[checkpoint] = checkpoint.read_bytes()
    for path in (*before, work / "link.safetensors"):
        with pytest.raises(ConfigError, match="is no model that was saved here, so it is not replaced"):
            mnistjax.save(path, *run)
    assert {path: path.read_bytes() for path in before} == before
    assert not os.path.lexists("target.safetensors")


def test_a_file_that_is_damaged_or_of_others_costs_a_line(run, work):
    path = mnistjax.save("my.safetensors", *run)
    content = path.read_bytes()
    safetensors.numpy.save_file({"a": np.zeros(3)}, "foreign.safetensors")
    for place in range(0, len(content), max(1, len(content) // 40)):
        for damaged in (content[:place], content[:place] + b"\xff" + content[place + 1 :]):
            if damaged == content:
                continue
            path.write_bytes(damaged)
            with pytest.raises(ConfigError) as error:
                mnistjax.load(path)
            assert "\n" not in str(error.value)
    for name, message in {
        "nowhere.safetensors": "No such file",
        "foreign.safetensors": "not a checkpoint of ours",
        f"here/{checkpoints.CHECKPOINT}": "is the checkpoint of a run; give the folder of the run, here",
    }.items():
        with pytest.raises(ConfigError, match=message):
            mnistjax.load(name)


ODD = [
    None,
    -1,
    0,
    10**30,
    1.5,
    "",
    "x" * 1000,
    [],
    {},
    [[]],
    ["../../etc"],
    True,
    float("nan"),
    "cnn",
    [10**12],
]


def test_no_card_of_a_stranger_does_anything_but_cost_a_line(run, work):
    """Its SHA-256 is right, because a stranger can compute it, too."""
    _, variables, card = run
    fields, arrays = to_plain(card), checkpoints.flatten(variables)
    tried = [{key: odd} for key in fields for odd in ODD]
    tried += [{"options": [["hidden", odd]]} for odd in ODD] + [{"options": [[odd, 1]]} for odd in ODD]
    tried += [{"options": [[name, 10]]} for name in ("num_classes", "name", "parent", "cpu_micro_batch")]
    tried += [{"image_shape": [2**16, 2**16, channels]} for channels in (1, 2**16)]
    for change in tried:
        (work / "x.safetensors").write_bytes(checkpoints.encode_checkpoint(arrays, {**fields, **change}))
        lines = ["fine"]
        try:
            _, _, found = mnistjax.load("x.safetensors")
            assert zoo.encode_weights(found, arrays)
        except ConfigError as error:
            lines = str(error).splitlines()
        assert len(lines) == 1
    assert {path.name for path in work.iterdir()} == {"here", "x.safetensors"}


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ["a", "b"], "test_confusion_matrix": [[1, 0], [0, 1]]},
        {"class_names": ["a", "b"], "test_confusion_matrix": [[1, 0], [0, 1]], "task": "binary"},
        {"class_names": ["a", "b"]},
    ],
)
def test_a_card_of_other_classes_than_its_logits_is_refused(run, work, change):
    _, variables, card = run
    fields = {**to_plain(card), **change}
    content = checkpoints.encode_checkpoint(checkpoints.flatten(variables), fields)
    (work / "x.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is damaged: (num_classes|class_names) must be .*; found (10|2)$"):
        mnistjax.load("x.safetensors")


def test_no_name_of_a_stranger_is_markdown_of_the_readme(run, tmp_path):
    model, variables, card = run
    evil = "a\n# pwned\n```\n<img src=x>\n\x1b[2J"
    card = dataclasses.replace(
        card, data=evil, command=evil, class_names=("```", evil, *card.class_names[2:]), name=evil
    )
    folder = mnistjax.save_pretrained(tmp_path / "mine", model, variables, card)
    text = (folder / "README.md").read_text().partition("library_name")[2].partition("\n---\n")[2]
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# mine"]
    assert [line for line in text.splitlines() if line.startswith("```")] == ["```python", "```"]
    assert all(line.startswith("    ") for line in text.splitlines() if "<img" in line.replace(r"\<", ""))
    assert "\x1b" not in text


def test_a_folder_for_the_hub_comes_back_and_says_what_it_is(tmp_path, capsys):
    model, variables, card = mnistjax.load("neuron.mnist_zero")
    folder = mnistjax.save_pretrained(tmp_path / "zeros", model, variables, card, license="apache-2.0")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    again, restored, found = mnistjax.load(folder)
    assert (again, found.name) == (model, "zeros")
    same(variables, restored)
    same(restored, mnistjax.load(str(folder / "model.safetensors"))[1])
    config = json.loads((folder / "config.json").read_bytes())
    assert (config["model_type"], config["num_classes"], config["image_shape"]) == ("neuron", 1, [28, 28, 1])
    assert config["id2label"] == {str(number): name for number, name in enumerate(card.class_names)}
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    meta = yaml.safe_load(head)
    assert (meta["license"], meta["library_name"]) == ("apache-2.0", "mnistjax")
    (result,) = meta["model-index"][0]["results"]
    assert result["dataset"]["name"] == "mnist"
    assert {one["type"]: one["value"] for one in result["metrics"]} == {
        "accuracy": card.test_accuracy,
        "f1": card.test_f1,
    }
    assert 'mnistjax.load("FOLDER")' in text
    assert f"{card.parameters:,} parameters" in text
    assert "neuron.mnist_zero" not in text  # its name is that of the folder
    assert card.sha256[:8] not in text


def test_a_readme_of_ones_own_and_other_models_stay(run, tmp_path):
    folder = mnistjax.save_pretrained(tmp_path / "mine", *run)
    first = (folder / "README.md").read_text()
    mnistjax.save_pretrained(folder, *run, license="mit")
    assert "license: mit" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("my own words")
    mnistjax.save_pretrained(folder, *run)
    assert (folder / "README.md").read_text() == "my own words"
    assert "license" not in first
    for name in ("config.json", "model.safetensors"):
        other = tmp_path / name.replace(".", "_")
        other.mkdir()
        (other / name).write_text("{}")
        with pytest.raises(ConfigError, match="so it is not replaced"):
            mnistjax.save_pretrained(other, *run)
        assert [path.name for path in other.iterdir()] == [name]
    beside = tmp_path / "beside"
    mnistjax.save(beside / "model.safetensors", *run)
    (beside / "config.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=r"config\.json is of another model, so it is not replaced"):
        mnistjax.save_pretrained(beside, *run)
    assert (beside / "config.json").read_text() == '{"mine": 1}'
    with pytest.raises(ConfigError, match="another model"):
        mnistjax.save_pretrained(tmp_path / "new", mnistjax.create_model("mlp", hidden=[9]), *run[1:])
    assert not (tmp_path / "new").exists()


def test_nothing_goes_to_a_repository_whose_readme_is_unknown():
    """A hub that does not answer is no hub without a README, although the client's errors are related."""
    hub: Any = types.SimpleNamespace(errors=huggingface_hub.errors)
    silent = hub.errors.LocalEntryNotFoundError("no answer, and nothing in the cache")
    hub.hf_hub_download = unittest.mock.Mock(side_effect=silent)
    with pytest.raises(hub.errors.LocalEntryNotFoundError):
        has_other(hub, "user/name", "README.md", is_own_readme)


@pytest.mark.parametrize("revision", ["../../../../escaped", "a/../b", "/etc/escaped", "..", "-"])
def test_no_revision_is_a_path_out_of_the_hubs_cache(revision):
    """The hub's library writes a file of the revision's name, if a server has it."""
    with (
        unittest.mock.patch.object(huggingface_hub, "hf_hub_download") as asked,
        pytest.raises(ConfigError, match="a model at the hub is hf-hub:USER/NAME or"),
    ):
        mnistjax.load(f"hf-hub:a/b@{revision}")
    asked.assert_not_called()


def test_a_repository_is_not_named_after_a_folder_above(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("user/..", "user/.", "user/.git"):
        with pytest.raises(ConfigError, match="the name of a repository at the hub is USER/NAME"):
            mnistjax.push_to_hub(name, *run)
    assert not [path for path in tmp_path.iterdir() if path.name != "work"]


def install(folder, points):
    """Packages in a folder, as installed: {name: (group, target)} of their entry points."""
    for name, (group, target) in points.items():
        (folder / f"{name}.dist-info").mkdir()
        (folder / f"{name}.dist-info/METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        text = f"[mnistjax.{group}]\n{name} = {target}\n"
        (folder / f"{name}.dist-info/entry_points.txt").write_text(text)


@pytest.mark.parametrize(
    ("group", "module", "target", "why"),
    [
        ("models", models, "no_such_package:Model", "ModuleNotFoundError"),
        ("models", models, "math:pi", "ConfigError: model broken: a class of flax.linen.Module expected"),
        ("optimizers", optim, "no_such_package:Model", "ModuleNotFoundError"),
        ("optimizers", optim, "math:pi", "TypeError: math:pi is no mnistjax.optim.Optimizer"),
    ],
)
def test_a_package_that_can_not_be_used_is_left_out(group, module, target, why, tmp_path, monkeypatch):
    install(tmp_path, {"broken": (group, target)})
    monkeypatch.syspath_prepend(tmp_path)
    load = module._load_entry_points.__wrapped__
    monkeypatch.setattr(module, "_load_entry_points", functools.cache(load))
    with pytest.warns(UserWarning, match=f"broken is left out: {why}"):
        names = getattr(module, f"list_{group}")()
    assert "broken" not in names
    assert {"mlp", "adam"} & {*names}


def test_an_optimizer_of_a_package_is_a_row_of_the_table(tmp_path, monkeypatch):
    install(tmp_path, {"mine": ("optimizers", "my_rows:MINE"), "bare": ("optimizers", "optax:sgd")})
    row = "from mnistjax.optim import Optimizer\nMINE = Optimizer(optax.nadamw, {'learning_rate': 1e-3})\n"
    (tmp_path / "my_rows.py").write_text(f"import optax\n{row}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(optim, "OPTIMIZERS", dict(optim.OPTIMIZERS))
    monkeypatch.setattr(optim, "_load_entry_points", functools.cache(optim._load_entry_points.__wrapped__))
    why = r"bare is left out: TypeError: optax:sgd is no mnistjax.optim.Optimizer\(make, defaults\)"
    with pytest.warns(UserWarning, match=why):
        assert "mine" in optim.list_optimizers()


def test_the_models_of_an_installed_package_are_in_the_zoo(tmp_path, monkeypatch):
    """And a package that can't be imported, or takes our name, does no harm."""
    install(tmp_path, {"lab": ("pretrained", "lab.weights"), "broken": ("pretrained", "no_such_package")})
    weights = tmp_path / "lab" / "weights"
    model, variables, card = mnistjax.load("mlp.mnist_zero")
    for name in ("mlp.ours", "mlp.mnist"):
        mnistjax.save(weights / f"{name}.safetensors", model, variables, card)
    for folder in (tmp_path / "lab", weights):
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(zoo, "find_others", functools.cache(zoo.find_others.__wrapped__))
    with pytest.warns(
        UserWarning, match="the trained models of no_such_package are left out: ModuleNotFound"
    ):
        assert mnistjax.list_models("mlp.*", pretrained=True) == [
            "mlp.fashion_mnist",
            "mlp.mnist",
            "mlp.mnist_zero",
            "mlp.ours",
        ]
    again, restored, found = mnistjax.load("mlp.ours")
    assert (again, found.name) == (model, "mlp.ours")
    same(variables, restored)
    assert mnistjax.load("mlp.mnist")[2].task == "multiclass"  # ours
