"""Images of any height, width and number of channels have the properties that MNIST's have."""

import gzip
import json
from typing import Any

import jax
import numpy as np
import pytest
from jax import export as jax_export

import mnistjax
from mnistjax.cli import main
from mnistjax.cli.report import main as report
from mnistjax.config import ConfigError, Stopping
from mnistjax.data.idx import make_header
from mnistjax.loop import fit_runs
from mnistjax.programs import make_program
from mnistjax.report.figures import draw_errors, new_figure
from mnistjax.run import Run
from mnistjax.tracking.media import Examples
from small import assert_same, count_traces, fit_plan, made_up_data, small_plan

SHAPES = [(28, 28), (32, 32, 3), (17, 23, 2)]
MODELS = [("mlp", shape) for shape in SHAPES] + [("cnn_bn", (17, 23, 2))]  # test_loop has more with MNIST's


def show(value):
    return value if isinstance(value, str) else "x".join(map(str, value))


each_shape = pytest.mark.parametrize("shape", SHAPES, ids=show)
each_model = pytest.mark.parametrize(("model", "shape"), MODELS, ids=show)


def plan_for(shape, model="mlp", **options):
    return small_plan(model=model, data=made_up_data(shape=shape), **options)


@each_model
def test_a_spec_is_traced_once(shape, model, monkeypatch):
    traced = count_traces(monkeypatch)
    for rate in (0.1, 0.2):
        plan, data = plan_for(
            shape, model, epochs=1, optimizer="sgd", optimizer_options={"learning_rate": rate}
        )
        assert plan.spec.image_shape == (*shape, 1)[:3]
        result = fit_plan(plan, data)
        assert result.test is not None
        assert result.test["count"] == 53
    assert len(traced) == 1


@each_model
def test_a_stopped_run_resumes_to_the_same_bits(shape, model):
    (plan, data), seen = plan_for(shape, model), []
    straight = fit_plan(plan, data, callbacks=[lambda p: seen.append((p.snapshot(), p.epoch))])
    snapshot, epoch = seen[0]
    assert_same(fit_plan(plan, data, snapshot=snapshot, rows=straight.rows[:epoch]), straight)


@each_shape
def test_lanes_learn_what_single_runs_learn(shape):
    plan, data = plan_for(shape)
    program = make_program(plan.spec, data, width=2)
    runs = [[Run(plan.hyper, seed, plan.stopping)] for seed in (0, 1)]
    for run, result in fit_runs(program, runs):
        single = mnistjax.fit(plan.spec, plan.hyper, seed=run.seed, data=data, stopping=plan.stopping)
        for one, other in zip(*map(jax.tree.leaves, (result.variables, single.variables)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@each_shape
def test_augmentation_takes_them(shape):
    changes = {"rotation": 10, "scaling": 0.1, "shear": 5, "shift": 2, "elastic": 1, "erasing": 0.5}
    plan, data = plan_for(shape, augment_options=changes, stopping=Stopping(8))
    result = fit_plan(plan, data)
    assert result.status == "done"
    assert result.rows[-1]["train/loss"] < result.rows[0]["train/loss"]


@each_model
def test_trained_models_leave_with_their_shape(shape, model):
    plan, data = plan_for(shape, model, epochs=1)
    variables, images = fit_plan(plan, data).variables, data.test.images.reshape(-1, *plan.spec.image_shape)
    module = mnistjax.create_model(model, **({"hidden": 8} if model == "mlp" else {}))
    logits: Any = module.apply(variables, images)
    exported = jax_export.deserialize(
        bytearray(mnistjax.export(module, variables, image_shape=data.image_shape))
    )
    np.testing.assert_allclose(exported.call(images), logits, atol=1e-4)
    nnx = mnistjax.to_nnx(module, variables, image_shape=data.image_shape)
    np.testing.assert_allclose(nnx(images), logits, atol=1e-4)
    found = mnistjax.predict(plan.spec, variables, data.test.images)
    np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=1e-4)


@each_shape
def test_another_shape_does_not_fit_the_spec(shape):
    plan, _ = plan_for(shape)
    with pytest.raises(ConfigError, match=r"the Spec is for images of .*; made_up has 9 x 9 x 1"):
        make_program(plan.spec, made_up_data(shape=(9, 9)))


@each_shape
def test_the_command_trains_and_reports_them(shape, work):
    data = made_up_data(shape=shape)
    raw = work / "raw"
    raw.mkdir()
    images = {"train": data.train, "t10k": data.test}
    for name, part in images.items():
        axes = part.images.ndim
        for kind, array in (
            (f"images-idx{axes}", part.images),
            ("labels-idx1", part.labels.astype(np.uint8)),
        ):
            content = make_header(array) + array.tobytes()
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    words = ["data=idx", f"data.raw_dir={raw}", "model=mlp", "model.hidden=8", "train.epochs=1"]
    assert main([*words, "hydra.run.dir=run", "augment.shift=1"]) == 0
    summary = json.loads((work / "run/summary.json").read_text())
    assert summary["spec"]["image_shape"] == [*(*shape, 1)[:3]]
    model, variables, card = mnistjax.load(work / "run")
    assert card.image_shape == (*shape, 1)[:3]
    found = mnistjax.classify(model, variables, card, data.test.images)
    assert found.shape == (53, 10)
    with pytest.raises(ConfigError, match=r"images must have the shape .*; got \(1, 9, 9\)"):
        mnistjax.classify(model, variables, card, np.zeros((1, 9, 9), np.uint8))
    assert report([str(work / "run")]) == 0


@each_shape
@pytest.mark.parametrize("light_on_dark", [True, False])
def test_people_see_them_in_grey_or_in_colour(shape, light_on_dark):
    part = made_up_data(shape=shape).test
    examples = Examples(part.images, part.labels, np.eye(10)[part.labels], "0123456789", light_on_dark)
    shown = examples.show([3, 5])
    assert shown.dtype == np.uint8
    assert shown.shape == (2, 32, 32, 3) if shape[2:] == (3,) else (2, *shape[:2])
    expected = part.images[[3, 5]]
    if shape[2:] == (2,):  # no colours
        assert (abs(shown - expected.mean(axis=3)) <= 0.5).all()
    else:
        np.testing.assert_array_equal(shown, expected)
    on_paper = examples.show([3, 5], on_paper=True)
    np.testing.assert_array_equal(on_paper, 255 - shown if light_on_dark else shown)
    figure = new_figure(3, 3)
    draw_errors(
        figure,
        Examples(part.images, part.labels, np.eye(10)[9 - part.labels], "0123456789"),
        count=4,
        columns=2,
    )
    drawn: list[Any] = [axes.images[0].get_array() for axes in figure.axes]
    assert [image.shape for image in drawn] == [shown.shape[1:]] * 4
