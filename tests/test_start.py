"""Fine-tuning: trained variables as a start, frozen parts, a learning rate of its own for the head."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

import mnistjax
from mnistjax import active, checkpoints, step
from mnistjax.cli import main
from mnistjax.config import ConfigError, Plan
from mnistjax.data import Dataset
from mnistjax.loop import fit, fit_runs
from mnistjax.metrics import zero_sums
from mnistjax.models import MODELS
from mnistjax.optim import list_optimizers
from mnistjax.programs import make_program
from mnistjax.run import Run
from mnistjax.step import Batch, Totals, batch_loss, variables_of
from mnistjax.zoo.start import start_from
from small import made_up_data, small_plan

OPTIONS = {
    "mlp": {"hidden": [6, 5]},
    "cnn": {"channels": [2, 3], "hidden": [5], "convolutions": 1},
    "cnn_bn": {"channels": [2, 3]},
    "resnet": {"channels": [2, 3]},
    "separable": {"channels": [2, 3]},
    "carrying": {},
}
HEADS = {"mlp": "Dense_2", "cnn": "Dense_1", "cnn_bn": "Dense_0", "resnet": "Dense_0", "separable": "Dense_0"}
RUN = ["data=digits", "model=mlp", "model.hidden=8", "train.epochs=1"]


def plan_of(model="mlp", **options):
    return small_plan(model=model, model_options=OPTIONS[model], **options)


def init(plan: Plan, start=None, seed=0):
    state = step.init(plan.spec, plan.hyper, jax.random.key(seed), start)
    return jax.device_get(variables_of(state))


def train(plan: Plan, data: Dataset, **options):
    return fit(plan.spec, plan.hyper, data=data, stopping=plan.stopping, **options).variables


def layers_of(variables):
    return {path.split("/")[1] for path in checkpoints.flatten(variables)}


def moved(before, after):
    """The paths of the arrays that differ."""
    before, after = checkpoints.flatten(before), checkpoints.flatten(after)
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.mark.parametrize("model", OPTIONS)
def test_frozen_layers_keep_their_bits_and_all_others_learn(model, carrying):
    plan, data = plan_of(model, epochs=1)
    layers = sorted(layers_of(init(plan)))
    for frozen in (layers[::2], layers[1::2]):
        plan, _ = plan_of(model, epochs=1, freeze=frozen)
        after = train(plan, data)
        others = {path for path in checkpoints.flatten(after) if path.split("/")[1] not in frozen}
        assert moved(init(plan), after) == others  # also the batch statistics
        assert others


def test_a_frozen_batch_normalisation_works_as_in_evaluation():
    """Else its layer would give other features in training than later."""
    plan, data = plan_of("cnn_bn", freeze=["Conv*", "BatchNorm*"], schedule="constant", optimizer="sgd")
    start = init(plan)
    model = mnistjax.create_model("cnn_bn", **OPTIONS["cnn_bn"])
    features = mnistjax.features(model, start, jax.numpy.asarray(data.train.images[..., None]))
    seen = []

    def watch(call, args, kwargs, context):
        if context.module.name == "Dense_0":
            seen.append(args[0])
        return call(*args, **kwargs)

    arrays = data.train.images, data.train.labels, np.ones(len(data.train.labels), np.float32)
    batch = Batch(*map(jax.numpy.asarray, arrays))
    collections = {"batch_stats": start["batch_stats"]}
    totals = Totals(collections, zero_sums(10), jax.numpy.float32(0))
    with nn.intercept_methods(watch):
        batch_loss(
            plan.spec, plan.hyper, jax.random.key(0), jax.numpy.int32(0), start["params"], totals, batch, 0
        )
    np.testing.assert_allclose(seen[0], features, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", list_optimizers())
def test_every_optimizer_can_leave_parts_out(optimizer):
    numbers = {"clip_norm": 0.1, "weight_decay": 0.1, "head_factor": 3.0}
    plan, data = plan_of(optimizer=optimizer, optimizer_options=numbers, freeze="Dense_0", epochs=1)
    assert {path.split("/")[1] for path in moved(init(plan), train(plan, data))} == {"Dense_1", "Dense_2"}


def test_frozen_parts_do_not_count_in_the_norm_of_the_gradient():
    """A step whose gradient is cut to a norm has that length, whatever is frozen."""
    numbers = {"clip_norm": 1e-3, "learning_rate": 1.0}
    data = made_up_data()
    for freeze in ([], ["Dense_0"], ["Dense_0", "Dense_1", "*/bias"]):
        options = {"optimizer": "sgd", "optimizer_options": numbers, "batch_size": "all", "epochs": 1}
        plan, _ = plan_of(freeze=freeze, **options)
        before, after = init(plan), train(plan, data)
        steps = jax.tree.leaves(jax.tree.map(np.subtract, after, before))
        assert np.sqrt(sum(np.sum(np.square(one)) for one in steps)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("model", HEADS)
def test_the_head_has_a_learning_rate_of_its_own(model):
    """One step of SGD: the head's is four times as long, the others have the same bits."""
    data, steps = made_up_data(), []
    for numbers in ({"learning_rate": 0.25}, {"learning_rate": 0.25, "head_factor": 4.0}):
        options = {"optimizer": "sgd", "optimizer_options": numbers, "batch_size": "all", "epochs": 1}
        plan, _ = plan_of(model, **options)
        start = jax.tree.map(np.zeros_like, init(plan))
        before, after = init(plan, start), train(plan, data, start=start)
        steps.append(jax.tree.map(np.subtract, after["params"], before["params"]))
    one, other = (checkpoints.flatten(one) for one in steps)
    assert any(path.startswith(HEADS[model]) for path in one)
    for path in one:
        factor = 4 if path.startswith(HEADS[model]) else 1
        np.testing.assert_array_equal(factor * one[path], other[path])


def test_lanes_and_single_runs_agree():
    plan, data = plan_of(freeze=["Dense_1"], optimizer_options={"head_factor": 2.0})
    start = init(plan, seed=9)
    runs = [Run(plan.hyper, seed, plan.stopping, start=start) for seed in range(3)]
    for run, result in fit_runs(make_program(plan.spec, data, width=3), [runs]):
        alone = train(plan, data, start=start, seed=run.seed)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, result.variables
        )
        np.testing.assert_array_equal(
            result.variables["params"]["Dense_1"]["kernel"], start["params"]["Dense_1"]["kernel"]
        )


def test_a_run_starts_from_what_it_is_given():
    plan, _ = plan_of("cnn_bn")
    trained = init(plan, seed=5)
    assert moved(trained, init(plan, trained)) == set()
    part = {**trained, "params": {k: v for k, v in trained["params"].items() if k != "Dense_0"}}
    start = init(plan, part)
    assert moved(trained, start) == {"params/Dense_0/kernel"}
    np.testing.assert_array_equal(
        start["params"]["Dense_0"]["kernel"], init(plan)["params"]["Dense_0"]["kernel"]
    )


def test_identities_tell_starts_and_frozen_parts_apart():
    data = made_up_data()
    plain, _ = plan_of()
    digits = dataclasses.replace(data, class_names=tuple(map(str, range(10))))
    start = start_from("mlp.mnist", digits)
    options = {"model": "mlp", "model_options": {"hidden": [64]}, "batch_size": 32}
    fresh, trained = mnistjax.make_plan(data, **options), mnistjax.make_plan(data, **options, start=start)
    frozen = mnistjax.make_plan(data, **options, freeze=["Dense_0"])
    assert len({plain.identity, fresh.identity, trained.identity, frozen.identity}) == 4
    assert fresh.spec == trained.spec  # one program
    assert fresh.spec != frozen.spec
    again = mnistjax.make_plan(data, **options, freeze=("Dense_0", "Dense_0"))
    assert again == frozen


def test_the_head_is_kept_only_for_the_same_classes():
    digits = made_up_data()
    names = [str(number) for number in range(10)]
    assert list(digits.class_names) == names
    kept = start_from("cnn.mnist", digits)
    _, variables, _ = mnistjax.load("cnn.mnist")
    assert not kept.new_head
    assert moved(variables, kept.variables) == set()
    for other in (
        dataclasses.replace(digits, class_names=tuple("abcdefghij")),
        dataclasses.replace(digits, class_names=tuple(names[:5])),
    ):
        start = start_from("cnn.mnist", other)
        assert start.new_head
        assert layers_of(variables) - layers_of(start.variables) == {"Dense_1"}
        assert start.sha256 != kept.sha256
    zero = mnistjax.to_binary(digits, 0)
    assert not start_from("neuron.mnist_zero", zero, task="binary").new_head
    assert start_from("neuron.mnist_zero", mnistjax.to_binary(digits, 1), task="binary").new_head
    assert start_from("neuron.mnist_zero", digits).new_head
    assert start_from("cnn.mnist", zero, task="binary").new_head


class Summed(nn.Module):
    """A model whose logits are not the output of a layer."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1) / 255) + 1


def test_wrong_parts_and_starts_cost_a_line(monkeypatch):
    monkeypatch.setitem(MODELS, "summed", Summed)
    data = made_up_data()
    small = {"model": "mlp", "model_options": {"hidden": 8}}
    for options, message in (
        (
            {**small, "freeze": ["Dense_7"]},
            "unknown part of mlp in train.freeze 'Dense_7'; nearest is 'Dense_1' ",
        ),
        ({**small, "freeze": ["*"]}, "leaves nothing of mlp to train"),
        ({**small, "freeze": ["Dense_1", "Dense_0/*"]}, "leaves nothing of mlp to train"),
        ({**small, "freeze": [3]}, "train.freeze must be a pattern of parts of the model"),
        (
            {**small, "optimizer_options": {"head_factor": 0}},
            "optimizer.head_factor must be a finite number > 0",
        ),
        (
            {"model": "summed", "optimizer_options": {"head_factor": 2}},
            "optimizer.head_factor: the logits of summed",
        ),
        (
            {**small, "start": start_from("mlp.mnist", data)},
            r"init_from=mlp.mnist does not fit: its params/Dense_0/\w+ is .* here; its model is model=mlp",
        ),
        (
            {**small, "start": start_from("lenet5.mnist", data)},
            r"init_from=lenet5.mnist does not fit: its .* not in this mlp; its model is model=lenet5",
        ),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            mnistjax.make_plan(data, batch_size=32, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="mnist_ensemble is an ensemble"):
        start_from("cnn_bn.mnist_ensemble", data)


def test_a_start_fits_only_a_model_that_computes_the_same(tmp_path):
    data = made_up_data()
    small = {"model": "mlp", "model_options": {"hidden": 64}}
    start = start_from("mlp.mnist", data)
    assert mnistjax.make_plan(data, **small, start=start).start == start.sha256
    for change, message in (
        ({"activation": "tanh"}, "its activation is relu, tanh here; its model is model=mlp"),
        ({"standardize": True}, "its standardize is False, True here"),
    ):
        with pytest.raises(ConfigError, match=message):
            mnistjax.make_plan(data, model="mlp", model_options={"hidden": 64, **change}, start=start)
    more = {"hidden": 64, "dropout": 0.5}
    assert mnistjax.make_plan(data, model="mlp", model_options=more, start=start).start == start.sha256
    _, variables, card = mnistjax.load("mlp.mnist")
    numbers = ((0.5,), (0.25,))
    card = dataclasses.replace(card, options=(*card.options, ("standardize", numbers)))
    model = mnistjax.create_model("mlp", hidden=64, standardize=numbers)
    start = start_from(mnistjax.save(tmp_path / "a.safetensors", model, variables, card), data)
    with pytest.raises(ConfigError, match="does not fit: its standardize is True, False here"):
        mnistjax.make_plan(data, **small, start=start)
    same = {"hidden": 64, "standardize": True}  # the numbers are those of the new data
    assert mnistjax.make_plan(data, model="mlp", model_options=same, start=start).start == start.sha256


def accuracy(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["train/accuracy"]


def test_the_command_starts_from_a_run_and_from_a_file(work, capsys):
    assert main([*RUN, "train.epochs=5", "hydra.run.dir=first"]) == 0
    mnistjax.save("mine.safetensors", *mnistjax.load("first"))
    assert main([*RUN, "hydra.run.dir=fresh"]) == 0
    capsys.readouterr()
    for name in ("first", "mine.safetensors"):
        folder = f"from_{name}"
        assert main([*RUN, f"init_from={name}", f"hydra.run.dir={folder}"]) == 0
        assert f"adam, from {name} -> {folder}" in capsys.readouterr().out
        assert accuracy(work / folder) > accuracy(work / "fresh") + 0.1
    one, other = (
        json.loads((work / f"from_{n}/summary.json").read_text()) for n in ("first", "mine.safetensors")
    )
    assert (
        one["identity"]
        == other["identity"]
        != json.loads((work / "fresh/summary.json").read_text())["identity"]
    )
    assert one["test/confusion_matrix"] == other["test/confusion_matrix"]
    assert main([*RUN, "task=binary", "init_from=first", "hydra.run.dir=binary"]) == 0
    assert "from first with a new last layer -> binary" in capsys.readouterr().out


def test_a_changed_start_is_another_run(work, capsys):
    assert main([*RUN, "hydra.run.dir=first"]) == 0
    mnistjax.save("mine.safetensors", *mnistjax.load("first"))
    words = [*RUN, "train.epochs=2", "init_from=mine.safetensors", "hydra.run.dir=tuned"]
    assert main(words) == 0
    assert main([*RUN, "seed=1", "hydra.run.dir=second"]) == 0
    mnistjax.save("mine.safetensors", *mnistjax.load("second"))
    capsys.readouterr()
    assert main([*words, "resume=true"]) == 2
    assert "the data's SHA-256, or the model that it starts from" in capsys.readouterr().err
    (work / "mine.safetensors").unlink()
    assert main([*words, "resume=true"]) == 2
    assert "mine.safetensors" in capsys.readouterr().err


def test_a_start_that_changes_after_the_plan_is_refused(monkeypatch):
    monkeypatch.setattr(active, "find_start", lambda *_: SimpleNamespace(sha256="new"))
    job: Any = SimpleNamespace(settings={"init_from": "x"}, data=None, plan=SimpleNamespace(start="old"))
    with pytest.raises(ConfigError, match="init_from=x has changed since the run was planned"):
        active.read_start(job)


def test_a_sweep_over_starts_compares_them_in_one_program(work, capsys):
    assert main([*RUN, "hydra.run.dir=first"]) == 0
    words = ["-m", *RUN, "init_from=null,first", "seed=0,1", "hydra.sweep.dir=sweep", "sweep.executor=inline"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "init_from=first is better than init_from=None" in printed
    header, *rows = (work / "sweep" / "results.csv").read_text().splitlines()
    assert header.startswith("number,init_from,seed,")
    assert [row.split(",")[:3] for row in rows] == [
        ["0", "None", "0"],
        ["1", "None", "1"],
        ["2", "first", "0"],
        ["3", "first", "1"],
    ]
    assert len(json.loads((work / "sweep" / "sweep.json").read_text())["groups"]) == 1
    runs = mnistjax.read_runs("sweep")
    assert len({run.identity for run in runs}) == 4
    assert "first" in str(runs.table("init_from"))


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(work):
    program = [sys.executable, "-m", "mnistjax"]
    run = ["data=digits", "model=cnn_bn", "model.channels=[4]", "hydra.run.dir=first", "train.epochs=2"]
    assert main(run) == 0
    words = ["data=digits", "model=cnn_bn", "model.channels=[4]", "init_from=first", "train.epochs=60"]
    words += ["train.freeze=[Conv_0]", "optimizer.head_factor=3"]
    process = subprocess.Popen([*program, *words, "hydra.run.dir=cut"])
    while not (work / "cut" / checkpoints.CHECKPOINT).exists():
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((work / "cut" / "status.json").read_text())["status"] == "running"
    assert subprocess.run([*program, *words, "hydra.run.dir=cut", "resume=true"]).returncode == 0
    assert subprocess.run([*program, *words, "hydra.run.dir=whole"]).returncode == 0
    cut, whole = (
        checkpoints.read_checkpoint(work / name / checkpoints.CHECKPOINT) for name in ("cut", "whole")
    )
    assert moved(cut.arrays, whole.arrays) == set()
