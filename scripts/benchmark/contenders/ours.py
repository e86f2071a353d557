"""mnistjax: all of `fit` from Python, with making the run, its metrics and its test."""

import dataclasses

import jax

import contender
import mnistjax
from mnistjax.backend import keep_one_device
from mnistjax.data import Split
from mnistjax.devices import has_large_steps


def build(task: dict, train: contender.Images, test: contender.Images) -> contender.Contender:
    data = mnistjax.load_data(task["dataset"])
    if task["binary"]:
        data = mnistjax.to_binary(data, 0)
    one = Split(data.val.images[:1], data.val.labels[:1])  # the peers don't evaluate while they train
    data, images, labels = dataclasses.replace(data, val=one, test=one), data.test.images, data.test.labels
    dense = ("hidden", "dropout")
    names = {"neuron": (), "mlp": dense, "cnn": ("channels", "convolutions", *dense)}
    plan = mnistjax.make_plan(
        data,
        model=task["model"],
        model_options={name: task[name] for name in names[task["model"]]},
        optimizer=task["optimizer"],
        optimizer_options={"learning_rate": task["learning_rate"]},
        schedule="constant",
        batch_size=min(task["batch_size"], len(data.train.images)),
        positive=0 if task["binary"] else None,
    )
    if not has_large_steps(plan.spec):  # as the command does for a single run
        keep_one_device()
    variables = None

    def fit(epochs: int, count: int) -> None:
        nonlocal variables
        stopping = mnistjax.Stopping(epochs)
        result = mnistjax.fit(plan.spec, plan.hyper, seed=task["seed"], data=data, stopping=stopping)
        variables = result.variables

    def evaluate() -> None:
        jax.device_get(mnistjax.evaluate(plan.spec, variables, images, labels))

    def parameters() -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(variables))

    return contender.Contender(fit, evaluate, parameters)


mnistjax.prepare_backend()
contender.serve(build, jax=jax.__version__)
