"""Trained models: loading, cards, predictions, features, ensembles, and the packaged ones."""

import functools
import json
import os
import shlex
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import linen as nn
from numpy.testing import assert_array_equal

import mnistjax
import publish_zoo
from mnistjax import checkpoints, zoo
from mnistjax.cli import main
from mnistjax.compose import plan_run, read_settings
from mnistjax.config import ConfigError, Spec, freeze
from mnistjax.evaluation import predict
from mnistjax.finished import reopen
from mnistjax.metrics import per_example_loss, probabilities, summarize
from mnistjax.zoo import classify
from mnistjax.zoo.ensemble import ensemble
from sections import replace_section
from small import write_run

SHARED = Path(__file__).parents[2] / "shared/data/mnist"
MNIST = Path(os.environ.get("MNISTJAX_RAW_DIR") or SHARED).resolve()
STANDARD = ((0.156291,), (0.277483,))  # of the digits' training images
WORDS = ["data=digits", "train.epochs=3", "train.batch_size=256", "optimizer.learning_rate=0.05"]


@pytest.fixture
def run(work):
    """A function that trains with these overrides and returns the run's folder."""

    def train(*words):
        assert main([*WORDS, *words, "hydra.run.dir=here"]) == 0
        return Path("here")

    return train


def read(folder, name):
    return json.loads((folder / name).read_bytes())


@pytest.mark.parametrize(
    "words",
    [
        ["model=mlp", "model.hidden=[8,4]"],
        ["model=cnn_bn", "model.channels=[2]", "model.hidden=[4]"],  # with batch statistics
        ["model=mlp", "model.hidden=8", "train.keep=best", "train.monitor=val/accuracy"],
        ["model=neuron", "task=binary"],
        ["model=mlp", "model.standardize=true", "model.hidden=8", "optimizer.learning_rate=0.01"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_run_is_loaded_as_it_was_tested(run, words):
    folder = run(*words)
    model, variables, card = mnistjax.load(folder)
    written = read(folder, "summary.json")
    test = mnistjax.load_data("digits").test
    if card.task == "binary":
        test = mnistjax.to_binary(mnistjax.load_data("digits"), positive=0).test
    spec = Spec(**{key: freeze(value) for key, value in written["spec"].items()})
    sums = mnistjax.evaluate(spec, variables, test.images, test.labels)
    np.testing.assert_array_equal(np.asarray(sums.confusion), written["test/confusion_matrix"])
    assert np.asarray(card.test_confusion_matrix).tolist() == written["test/confusion_matrix"]
    logits = jax.jit(model.apply)(variables, test.images[..., None])
    assert logits.shape == (len(test.images), card.num_classes)
    assert card.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert card.val_accuracy == rows[card.epochs - 1]["val/accuracy"]
    assert mnistjax.load(str(folder))[2] == card
    plan, dataset = reopen(folder)
    assert plan.spec == spec
    shares = probabilities(card.task, logits)
    np.testing.assert_allclose(predict(spec, variables, dataset.test.images), shares, atol=1e-6)
    assert dict(card.options).get("standardize") == (STANDARD if "model.standardize=true" in words else None)


def test_a_run_that_kept_its_first_epoch_is_loaded_as_of_that(tmp_path):
    write_run(tmp_path / "run", epochs=2, summary={"kept_epoch": 1})
    last = checkpoints.read_checkpoint(tmp_path / "run" / checkpoints.CHECKPOINT)
    best = {"best/params/w": np.ones(3, np.float32)}
    checkpoints.save_checkpoint(tmp_path / "run", {**last.arrays, **best}, meta=last.meta)
    assert zoo.read_variables(tmp_path / "run")["params/w"].tolist() == [1, 1, 1]
    assert zoo.describe_run(tmp_path / "run").val_accuracy == 1.0  # 0.5 in the second epoch


@pytest.mark.parametrize("words", [["model=mlp", "model.hidden=8"], ["model=neuron", "task=binary"]])
def test_images_are_classified_in_one_call(run, words):
    trained = mnistjax.load(run(*words))
    model, variables, card = trained
    images = mnistjax.load_data("digits").test.images
    found = mnistjax.classify(*trained, images)
    assert (found.shape, found.dtype) == ((len(images), len(card.class_names)), np.float32)
    expected = probabilities(card.task, jax.jit(model.apply)(variables, images[..., None]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for same in (images[..., None], images / 255, images.astype(np.int64)):
        np.testing.assert_allclose(mnistjax.classify(*trained, same), found, atol=1e-6)
    programs: Any = classify._apply
    before = programs._cache_size()
    for count in (0, 1, 99, 101):
        some = mnistjax.classify(*trained, images[:count])
        assert_array_equal(some, found[:count])
    assert programs._cache_size() == before  # one program for any number of images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((28, 28)), r"shape \(N, 28, 28\) or \(N, 28, 28, 1\); got \(28, 28\)"),
        (np.full((2, 28, 28), 255.0), "floats must be from 0 to 1; got 255 to 255"),
        (np.full((2, 28, 28), np.nan), "floats must be from 0 to 1; got nan to nan"),
        (np.zeros((2, 28, 28), np.int64) - 1, "integers must be from 0 to 255; got -1 to -1"),
        (np.zeros((2, 28, 28), bool), "images must be integers or floats; got bool"),
        (np.zeros((2, 32, 32), np.uint8), r"shape \(N, 28, 28\) or \(N, 28, 28, 1\); got \(2, 32, 32\)"),
    ],
    ids=["shape", "levels", "nan", "negative", "flags", "size"],
)
def test_arrays_that_are_not_images_are_refused(images, message):
    with pytest.raises(ConfigError, match=message):
        mnistjax.classify(*mnistjax.load("mlp.mnist"), images)


def test_a_card_is_read_as_text(run):
    text = str(mnistjax.load("mlp.mnist_zero")[2])
    card = zoo.read_card("mlp.mnist_zero")
    assert text == str(card)
    for fact in ("mlp.mnist_zero\n", f"{card.test_accuracy:.2%} of 10,000 images", card.spread, card.command):
        assert str(fact) in text
    assert [line.split() for line in text.splitlines()[-2:]] == [
        [name, *map(str, row)] for name, row in zip(card.class_names, card.test_confusion_matrix, strict=True)
    ]
    own = mnistjax.load(run("model=mlp", "model.hidden=8"))[2]
    assert own.spread == ""
    assert not [word for word in ("of all seeds", "sha256", "None") if word in str(own)]
    assert f"seed 0, epoch {own.epochs} kept" in str(own)


def test_packaged_weights_are_what_was_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    folder = run("model=mlp", "model.hidden=8")
    card = zoo.describe_run(folder, name="mlp.digits", command="mnistjax model=mlp")
    (tmp_path / "mlp.digits.safetensors").write_bytes(zoo.encode_weights(card, zoo.read_variables(folder)))
    assert mnistjax.list_models("mlp*", pretrained=True) == ["mlp.digits"]
    assert mnistjax.list_models("cnn*", pretrained=True) == []
    _, variables, found = mnistjax.load("mlp.digits")
    assert len(found.sha256) == 64
    assert {**vars(found), "sha256": ""} == vars(card)
    jax.tree.map(np.testing.assert_array_equal, variables, mnistjax.load(folder)[1])
    with pytest.raises(ConfigError, match=r"'mlp.digit'; nearest is 'mlp.digits'"):
        mnistjax.load("mlp.digit")
    content = bytearray((tmp_path / "mlp.digits.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "mlp.digits.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        mnistjax.load("mlp.digits")


def test_a_folder_without_a_finished_run_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="has no run"):
        mnistjax.load(tmp_path)
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        mnistjax.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"outputs/nowhere is not a folder"):
        mnistjax.load("outputs/nowhere")
    with pytest.raises(ConfigError, match="unknown pretrained model, saved file or folder of a run ''"):
        mnistjax.load("")
    folder = run("model=mlp", "model.hidden=8")
    status = read(folder, "status.json")
    (folder / "status.json").write_text(json.dumps({**status, "status": "diverged"}))
    with pytest.raises(ConfigError, match="diverged"):
        mnistjax.load(folder)
    (folder / "status.json").write_text(json.dumps(status))
    for name in ("status.json", "summary.json", "metrics.jsonl"):
        content = (folder / name).read_text()
        for damaged in ("{}\n", "[]\n", ""):
            (folder / name).write_text(damaged)
            with pytest.raises(ConfigError, match="here"):
                mnistjax.load(folder)
        (folder / name).write_text(content)
    mnistjax.load(folder)


def test_a_sweep_is_refused_with_the_folder_of_a_run(work):
    assert main([*WORDS, "model=mlp", "model.hidden=8", "-m", "seed=0", "hydra.sweep.dir=all"]) == 0
    with pytest.raises(ConfigError, match=r"all is a sweep; give the folder of one of its runs, all/0, "):
        mnistjax.load("all")


def test_a_model_whose_last_layer_does_not_return_its_logits_has_no_features():
    class Sum(nn.Module):
        num_classes: int = 1

        def __call__(self, images, train=False):
            return images.reshape(len(images), -1).sum(axis=1, keepdims=True)

    class Halved(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(2)(images.reshape(len(images), -1)) / 2

    images = jnp.ones((2, 28, 28, 1))
    for model in (Sum(), Halved()):
        made = jax.jit(model.init)(jax.random.key(0), images)
        with pytest.raises(ConfigError, match=f"the logits of a {type(model).__name__} are not the output"):
            mnistjax.features(model, made, images)


@pytest.mark.parametrize("name", mnistjax.list_models())
def test_features_are_the_input_of_the_last_layer(name):
    model = mnistjax.create_model(name, num_classes=3)
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    found = jax.jit(lambda x: mnistjax.features(model, variables, x))(images)
    head = max((key for key in variables["params"] if key.startswith("Dense_")), key=lambda key: int(key[6:]))
    kernel, bias = variables["params"][head]["kernel"], variables["params"][head]["bias"]
    expected = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(np.asarray(found) @ kernel + bias[None], expected, atol=1e-4)


def test_a_summary_names_layers_shapes_parameters_and_operations():
    text = mnistjax.summary(mnistjax.create_model("mlp", hidden=[64]))
    for word in ("Dense_0", "[1,64]", "50,240", "flops"):
        assert word in text.replace("float32", ""), word


@pytest.mark.parametrize("words", [["model=cnn_bn", "model.channels=[2]"], ["model=neuron", "task=binary"]])
def test_an_ensemble_is_the_mean_of_its_members_at_a_temperature(work, words):
    assert main([*WORDS, *words, "-m", "seed=0,1,2", "hydra.sweep.dir=all"]) == 0
    loaded: list[Any] = [mnistjax.load(f"all/{seed}") for seed in range(3)]
    models, members, cards = zip(*loaded, strict=True)
    task, data = cards[0].task, mnistjax.load_data("digits")
    if task == "binary":
        data = mnistjax.to_binary(data, positive=0)
    images, labels = jnp.asarray(data.val.images[..., None]), jnp.asarray(data.val.labels)
    made: Any = ensemble(models[0], members, task, np.asarray(images), data.val.labels)
    model, variables = made
    mean = np.mean([probabilities(task, models[0].apply(one, images)) for one in members], axis=0)
    temperature = float(variables["params"]["temperature"])
    powers = mean ** (1 / temperature)
    logits = model.apply(variables, images)
    assert logits.shape == (len(images), cards[0].num_classes)
    found = np.asarray(probabilities(task, logits))
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)

    def loss(temperature):
        variables["params"]["temperature"] = np.float32(temperature)
        return per_example_loss(task, model.apply(variables, images), labels).mean()

    assert loss(temperature) <= min(loss(0.9 * temperature), loss(1.1 * temperature), loss(1.0))
    with pytest.raises(ConfigError, match="an ensemble has no last layer"):
        mnistjax.features(model, variables, images)


# What is packaged

PACKAGED = mnistjax.list_models(pretrained=True)


@pytest.fixture(scope="module")
def load_official(tmp_path_factory):
    """Loads a data set from its official files; skips the test if they are missing."""
    home = tmp_path_factory.mktemp("official")

    def load(name):
        raw_dir = MNIST if name == "mnist" else MNIST.parent / name
        if not raw_dir.is_dir():
            pytest.skip(f"the official files of {name} are missing")
        return mnistjax.load_data(name, data_dir=home, raw_dir=raw_dir)

    return load


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (not name.startswith(("mlp.", "neuron"))))
        for name in PACKAGED
    ],
)
def test_the_results_of_a_card_are_those_of_its_weights_on_all_test_images(name, load_official):
    model, variables, card = mnistjax.load(name)
    data = load_official(card.data)
    assert data.sha256 == card.data_sha256
    if card.task == "binary":
        data = mnistjax.to_binary(data, positive=0)
    if card.members > 1:
        found = publish_zoo.measure(card, model, variables, data.test)
    else:
        options = {"model_options": dict(card.options), "positive": 0 if card.task == "binary" else None}
        spec = mnistjax.make_plan(data, model=card.model, **options).spec
        found = summarize(card.task, mnistjax.evaluate(spec, variables, data.test.images, data.test.labels))
    assert found["count"] == 10_000
    confusion = np.asarray(found["confusion_matrix"])
    assert np.abs(confusion - card.test_confusion_matrix).sum() <= 4  # another machine may round differently
    assert found["accuracy"] == pytest.approx(card.test_accuracy, abs=2e-4)
    assert found["f1"] == pytest.approx(card.test_f1, abs=2e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="micro-batches are larger elsewhere")
@pytest.mark.parametrize("name", PACKAGED)
def test_the_command_of_a_card_has_the_identity_of_its_run(name, load_official, work, capsys):
    """The identity covers every setting, down to the numbers of the optimizer and the augmentation."""
    card = zoo.read_card(name)
    config = composed(card, capsys)
    data = load_official(card.data)
    data = mnistjax.to_binary(data, positive=0) if card.task == "binary" else data
    assert plan_run(read_settings(config), data).identity == card.identity


@pytest.mark.parametrize("name", PACKAGED)
def test_a_card_is_complete(name):
    _, variables, card = mnistjax.load(name)
    assert card.name == name
    assert name.startswith(f"{card.model}.{card.data}")
    assert card.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    confusion = np.asarray(card.test_confusion_matrix)
    assert confusion.sum() == 10_000
    assert np.trace(confusion) / 10_000 == card.test_accuracy
    best = max(validation for _, validation, _ in card.tried)
    if card.members > 1:
        assert len(card.tried) == card.members
        assert card.val_accuracy > best
    else:
        tried = {seed: (validation, test) for seed, validation, test in card.tried}
        validation, test = tried[card.seed]
        assert validation == best  # chosen by validation, not by test
        assert card.val_accuracy == pytest.approx(best, abs=1e-3)
        assert card.test_accuracy == pytest.approx(test, abs=1e-3)
    assert card.command is not None
    assert f"seed={card.seed}" in card.command


def test_the_packaged_weights_are_small():
    assert sum(path.stat().st_size for path in zoo.WEIGHTS.iterdir()) < 8_000_000


def test_the_readme_lists_the_packaged_models():
    text = publish_zoo.README.read_text()
    assert replace_section(text, publish_zoo.SECTION, publish_zoo.readme_text()) == text
    assert set(PACKAGED) - set(publish_zoo.ENSEMBLES) == set(publish_zoo.MODELS)


def composed(card, capsys):
    """The config that a card's command composes; for an ensemble, that of its first seed."""
    _, *words = shlex.split(card.command)
    if card.members > 1:
        assert words[0] == "-m"
        words = [*words[1:-1], f"seed={card.seed}"]
    capsys.readouterr()
    assert main([*words, "--cfg", "job", "--resolve"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_command_of_a_card_has_the_settings_of_the_card(name, work, capsys):
    card = zoo.read_card(name)
    config = composed(card, capsys)
    assert config["model"]["name"] == card.model
    assert read_settings(config).choice.model_options == card.options
    assert (config["data"]["name"], config["seed"]) == (card.data, card.seed)
    assert config["task"]["name"] == card.task
    assert card.epochs <= config["train"]["epochs"]
    assert (config["train"]["keep"], config["train"]["monitor"]) == ("best", "val/accuracy")


@pytest.mark.slow
def test_publishing_packages_the_seed_that_is_best_on_validation_and_a_better_ensemble(
    work, monkeypatch, tmp_path
):
    words = "model=mlp model.hidden=8 train.epochs=2 train.keep=best train.monitor=val/accuracy"
    monkeypatch.setattr(publish_zoo, "MODELS", {"mlp.digits": (words, "digits", 3)})
    monkeypatch.setattr(publish_zoo, "ENSEMBLES", {"mlp.digits_ensemble": (words, "digits", 3)})
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "weights")
    card = publish_zoo.publish("mlp.digits", work / "runs")
    assert len(card.tried) == 3
    assert card.seed == max(card.tried, key=lambda run: run[1])[0]
    assert card.command == f"mnistjax {words} data=digits seed={card.seed}"
    assert publish_zoo.publish("mlp.digits_ensemble", work / "runs").members == 3
    model, variables, together = zoo.load("mlp.digits_ensemble")
    assert together.tried == card.tried
    assert together.val_accuracy > card.val_accuracy
    assert together.command == f"mnistjax -m {words} data=digits seed=0,1,2"
    found = publish_zoo.measure(together, model, variables, mnistjax.load_data("digits").test)
    assert found["accuracy"] == together.test_accuracy
    for index in range(3):  # within the precision of float16
        expected = zoo.load(work / f"runs/mlp.digits/{index}")[1]["params"]
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
            variables["params"][f"member_{index}"],
            expected,
        )
    before = sorted((work / "runs").rglob("*"))
    assert not (work / "runs/mlp.digits_ensemble").exists()  # the same runs are not trained twice
    assert publish_zoo.publish("mlp.digits", work / "runs") == card  # nothing is trained again
    assert sorted((work / "runs").rglob("*")) == before
    other = words.replace("hidden=8", "hidden=9")
    monkeypatch.setattr(publish_zoo, "MODELS", {"mlp.digits": (other, "digits", 3)})
    with pytest.raises(ConfigError, match=r"0 is not of this command: model.hidden \(8 there, 9 here\)$"):
        publish_zoo.publish("mlp.digits", work / "runs")
    monkeypatch.setattr(publish_zoo, "MODELS", {"mlp.digits": (words, "digits", 4)})
    with pytest.raises(ConfigError, match=r"have the seeds \[0, 1, 2\], not \[0, 1, 2, 3\]"):
        publish_zoo.publish("mlp.digits", work / "runs")
    assert zoo.load("mlp.digits")[2] == card


@pytest.mark.slow
def test_a_published_model_can_be_rounded_and_is_measured_so(work, monkeypatch, tmp_path):
    words = "model=mlp model.hidden=8 data.validation_fraction=0.1 train.epochs=2"
    monkeypatch.setattr(publish_zoo, "MODELS", {"mlp.digits": (words, "digits", 2)})
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "weights")
    card = publish_zoo.publish("mlp.digits", work / "runs")
    model, variables, _ = zoo.load("mlp.digits")
    _, trained, _ = zoo.load(work / f"runs/mlp.digits/{card.seed}")
    for rounded, leaf in zip(*map(jax.tree.leaves, (variables, trained)), strict=True):
        np.testing.assert_array_equal(rounded, np.asarray(leaf, np.float16))
    data = mnistjax.load_data("digits", validation_fraction=0.1)
    assert publish_zoo.measure_card(card, model, variables, data) == card
    assert (tmp_path / "weights/mlp.digits.safetensors").stat().st_size < 20_000  # half of 25,800


@pytest.mark.slow
def test_a_small_network_is_published_from_the_sweep_of_all(work, monkeypatch, tmp_path):
    words = "model=separable train.epochs=1 train.keep=best train.monitor=val/accuracy"
    sweep = f"-m {words} model.channels=[4],[5] data=digits seed=0,1"
    monkeypatch.setattr(publish_zoo.front, "WORDS", sweep)
    monkeypatch.setattr(publish_zoo.front, "PACKAGED", {"[5]": "separable.digits"})
    command = f"{words} model.channels=[5]"
    monkeypatch.setattr(publish_zoo, "MODELS", {"separable.digits": (command, "digits", 2)})
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "weights")
    card = publish_zoo.publish("separable.digits", work / "runs")
    assert card.command == f"mnistjax {words} 'model.channels=[5]' data=digits seed={card.seed}"
    assert len(card.tried) == 2
    assert len([*(work / "runs").iterdir()]) == 1
    assert zoo.load("separable.digits")[0].channels == (5,)
