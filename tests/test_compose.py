"""The configuration: every file composes and agrees with the code; every wrong value gives one clear line."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from mnistjax.augment import CHECKS
from mnistjax.cli import overrides as words
from mnistjax.cli.overrides import conf_dir
from mnistjax.cli.prepare import prepare_jobs
from mnistjax.compose import SCHEMA, SUBMITIT, differing_keys, flatten, label, plan_run, read_settings
from mnistjax.config import ConfigError, Plan, to_plain
from mnistjax.data import DATASETS, list_options, load_data
from mnistjax.models import MODELS, model_options
from mnistjax.optim import OPTIMIZERS, SCHEDULES, optimizer_options, schedule_options
from mnistjax.plan import make_plan
from mnistjax.step import init

GROUPS = {file.parent.name: [] for file in conf_dir().glob("*/*.yaml")}
for file in sorted(conf_dir().glob("*/*.yaml")):
    GROUPS[file.parent.name].append(file.stem)
CHOICES = [f"{group}={name}" for group, names in GROUPS.items() for name in names]


def compose(*overrides):
    with words.composing():
        return words.to_plain_config(words.compose(list(overrides)), resolve=True)


def plan(*overrides):
    return plan_run(read_settings(compose("data=digits", *overrides)), load_data("digits"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_config_composes(choice):
    assert read_settings(compose(choice))


def test_every_key_of_the_schema_is_in_the_config():
    keys = {
        key
        for key, _ in flatten(compose())
        if key.partition(".")[0] not in ("model", "optimizer", "schedule")
    }
    assert keys == {*SCHEMA, SUBMITIT, *(f"augment.{option}" for option in CHECKS)}


def data_defaults(name):
    return {option: default for option, (_, default) in list_options(name).items()}


@pytest.mark.parametrize(
    ("group", "table", "options"),
    [
        ("model", MODELS, model_options),
        ("optimizer", OPTIMIZERS, optimizer_options),
        ("schedule", SCHEDULES, schedule_options),
        ("data", {"auto": None, **DATASETS}, data_defaults),
    ],
)
def test_the_files_of_a_group_agree_with_its_table(group, table, options):
    ours = {name for name in table if (conf_dir() / group / f"{name}.yaml").exists()}
    assert ours == set(GROUPS[group])
    for name in GROUPS[group]:
        written = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())
        assert written == {"name": name, **to_plain(options(name))}


def test_make_plan_has_the_same_defaults():
    assert plan() == make_plan(load_data("digits"))


def test_no_stored_config_can_run_code():
    assert not any("_target_" in file.read_text() for file in conf_dir().rglob("*.yaml"))


def test_equal_jobs_have_equal_identities():
    one = plan("model.hidden=64", "optimizer.learning_rate=0.01")
    assert one == plan("model.hidden=[64]", "optimizer.learning_rate=1e-2", "wandb.mode=offline")
    assert one.identity != plan("model.hidden=64", "optimizer.learning_rate=0.02").identity


def test_jobs_have_the_configs_and_labels_that_each_would_have_alone():
    """Though they share what is composed and loaded once."""
    binary = ["task=binary", "optimizer.learning_rate=0.1"]
    jobs = [["seed=1"], [], ["seed=2", *binary], ["task.positive=3", *binary], ["task.positive=3", *binary]]
    jobs = [["data=digits", *job] for job in jobs]
    with words.composing():
        prepared = prepare_jobs(jobs, auto=None)
    for job, own in zip(prepared, jobs, strict=True):
        config = compose(*own)
        data = label(load_data("digits"), read_settings(config))
        assert job.config == config
        assert np.array_equal(job.data.train.labels, data.train.labels)
    assert prepared[-1].data is prepared[-2].data


def test_every_field_of_a_plan_is_part_of_its_identity():
    one = plan()
    others: list[Plan] = [one]
    for name, part in {"": one, "spec": one.spec, "stopping": one.stopping}.items():
        for field in dataclasses.fields(part):
            if field.init and field.name != "spec":
                changed: Any = dataclasses.replace(part, **{field.name: "other"})
                others.append(dataclasses.replace(one, **{name: changed}) if name else changed)
    assert len({other.identity for other in others}) == len(others)


def test_another_learning_rate_or_seed_has_the_same_spec():
    assert plan("optimizer.learning_rate=0.5", "seed=3").spec == plan().spec


@pytest.mark.parametrize("text", ["1e-3", "'1e-3'", "1", "0.5"])
def test_learning_rate_takes_any_finite_positive_number(text):
    assert plan(f"optimizer.learning_rate={text}").hyper["optimizer"]["learning_rate"] == float(
        text.strip("'")
    )


def test_all_is_the_full_training_set():
    spec = plan("train.batch_size=all").spec
    assert spec.batch_size == spec.train_count == 1150
    assert spec.steps_per_epoch == 1


def test_a_large_batch_is_divided_into_micro_batches():
    assert plan("train.batch_size=all", "train.micro_batch=100").spec.micro_batch == 100
    assert plan("train.batch_size=64", "model=mlp").spec.micro_batch == 64


def test_binary_task_has_one_output():
    binary = plan("task=binary", "task.positive=3", "model=neuron")
    assert (binary.spec.num_classes, binary.spec.classes, binary.positive) == (1, 2, 3)


def test_balanced_weights_are_part_of_the_identity_only_if_asked_for():
    assert plan("train.class_weights=null") == plan()
    settings = read_settings(compose("train.class_weights=balanced", "task=binary", "task.positive=3"))
    weights = plan_run(settings, label(load_data("digits"), settings)).hyper["loss"]["class_weights"]
    share = np.mean(load_data("digits").train.labels == 3)
    assert weights == pytest.approx((0.5 / (1 - share), 0.5 / share))
    with pytest.raises(ConfigError, match=r"^train.class_weights must be balanced or null; got 'equal'$"):
        plan("train.class_weights=equal")


NEWER = {
    "data": ["validation_fraction"],
    "train": ["class_weights", "freeze"],
    "wandb": ["registry"],
    "sweep": ["halving", "rank"],
    "augment": ["flip", "crop"],
    "model": ["standardize"],
}


def test_the_config_of_an_older_run_lacks_newer_keys():
    config = compose("data=digits")
    older = {
        section: {key: value for key, value in values.items() if key not in NEWER.get(section, ())}
        if isinstance(values, dict)
        else values
        for section, values in config.items()
        if section != "init_from"
    }
    assert older != config
    assert plan_run(read_settings(older), load_data("digits")) == plan()
    assert differing_keys(config, older) == differing_keys(older, config) == []


def test_standardized_images_are_part_of_the_identity_only_if_asked_for():
    assert "standardize" not in dict(plan().spec.model_options)
    assert plan("model.standardize=false") == plan()
    standard, pixels = plan("model.standardize=true"), load_data("digits").train.images / 255
    ((mean,), (deviation,)) = dict(standard.spec.model_options)["standardize"]
    assert (mean, deviation) == (round(pixels.mean(), 6), round(pixels.std(), 6))
    assert standard.identity != plan().identity
    assert plan(f"model.standardize=[[{mean}],[{deviation}]]") == standard
    assert plan("model.standardize=[[0],[1]]") == plan("model.standardize=[[0.0],[1.0]]") != plan()
    with pytest.raises(ConfigError, match=r"^model.standardize must be true, false, or .*; got 'yes'$"):
        plan("model.standardize='yes'")


def test_differing_keys_have_both_values():
    here = compose("seed=1", "resume=true", "wandb.project=a", "data.dir=a", "train.epochs=20")
    there = compose("train.epochs=3")
    assert differing_keys(here, there) == ["seed (0 there, 1 here)", "train.epochs (3 there, 20 here)"]


def test_a_missing_section_is_named():
    config = compose()
    del config["model"]
    with pytest.raises(ConfigError, match="model must be chosen by a name"):
        read_settings(config)


def test_the_benchmark_network_has_the_parameters_that_its_peers_have():
    job = plan("experiment=cnn_benchmark")
    assert (job.spec.optimizer, job.spec.schedule, job.spec.batch_size) == ("sgd", "constant", 128)
    params = jax.eval_shape(init, job.spec, job.hyper, jax.random.key(0)).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 34_826
