"""The description of a Sweep for W&B: what varies, and the command of one job."""

import subprocess
import sys
from typing import Any

import pytest
import yaml

from mnistjax import records
from mnistjax.cli import main
from mnistjax.sweeps.ledger import Ledger
from mnistjax.sweeps.mirror import find_best, sort_by_end
from mnistjax.tracking import describe_sweep, find_tags, keep_safe
from mnistjax.words import read_words

JOBS = ["data=digits", "model=mlp", "train.epochs=1", "wandb.mode=disabled"]


def plan(capsys, *words):
    """The file that `sweep.plan=wandb` prints."""
    assert main(["-m", *JOBS, *words, "sweep.plan=wandb"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def agent_words(config, number):
    """The words with which W&B's agent starts the job of a grid with this number, by W&B's own code."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    chosen = {}
    for name, parameter in config["parameters"].items():
        number, index = divmod(number, len(parameter["values"]))
        chosen[name] = {"value": parameter["values"][index]}
    words = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    command = config["command"]
    at = command.index("${args_no_hyphens}")
    return [*command[:at], *words, *command[at + 1 :]]


@pytest.mark.usefixtures("work")
def test_the_printed_file_has_the_keys_that_vary_under_their_names_in_the_config(capsys):
    config = plan(
        capsys, "optimizer=sgd,adam", "seed=range(3)", "model.hidden=[8],[4,4]", "wandb.tags=['a b',c]"
    )
    assert config["parameters"] == {
        "optimizer.name": {"values": ["sgd", "adam"]},
        "seed": {"values": [0, 1, 2]},
        "model.hidden": {"values": ["[8]", "[4,4]"]},
    }
    assert config["method"] == "grid"
    assert config["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert config["program"] == config["command"][0] == "mnistjax"
    assert "wandb.tags=['a b',c]" in config["command"]
    assert not any(word.startswith("sweep.") for word in config["command"])


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("goal", ["val/accuracy", "val/loss"])
def test_the_goal_is_that_of_the_monitor(goal, capsys):
    config = plan(capsys, "seed=0,1", f"train.monitor={goal}")
    assert config["metric"] == {"name": goal, "goal": "minimize" if goal == "val/loss" else "maximize"}


@pytest.mark.usefixtures("work")
def test_the_jobs_of_an_agent_are_those_of_the_sweep(capsys):
    """Values with spaces, commas, quotes and brackets get through the agent to the config."""
    texts = ["[a b,c]", "['x, y']", "[d]"]
    config = plan(
        capsys, f"wandb.tags={','.join(texts)}", "augment.shift=null,2", "optimizer.learning_rate=1e-3,0.1"
    )
    seen = set()
    for number in range(12):
        _, *words = agent_words(config, number)
        assert main([*words, "--cfg", "job", "--resolve"]) == 0
        job = yaml.safe_load(capsys.readouterr().out)
        seen.add((tuple(job["wandb"]["tags"]), job["augment"]["shift"], job["optimizer"]["learning_rate"]))
        assert job["resume"] is True
    tags = [("a b", "c"), ("x, y",), ("d",)]
    assert seen == {(tag, shift, rate) for tag in tags for shift in (None, 2) for rate in (1e-3, 0.1)}


@pytest.mark.usefixtures("work")
def test_a_sweep_that_is_no_grid_is_refused_in_one_line(capsys):
    words = ["hydra/sweeper=tpe", "optimizer.learning_rate=interval(0.1,1)", "sweep.plan=wandb"]
    assert main(["-m", *JOBS, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sweep.plan=wandb needs the jobs beforehand; TpeSweeper chooses them while it runs" in line


def test_a_group_can_be_chosen_by_the_name_in_its_config():
    words = ["model.name=mlp", "optimizer.name=adam,sgd", "model.names=x", "x.model.name=y"]
    assert read_words(words, multirun=True) == ["model=mlp", "optimizer=adam,sgd", *words[2:]]


@pytest.mark.parametrize(
    "word",
    [
        "hydra/launcher=basic",
        "+hydra.callbacks.evil._target_=os.system",
        "hydra.run.dir=/",
        "data.raw_dir=/etc",
        "+data.raw_dir=/etc",
        "+model=../x",
        "experiment=../../x",
        "model=../x",
        "train.epochs=${oc.env:HOME}",
        "model@hydra.callbacks=mlp",
        "wandb.project=theirs",
        "~seed",
    ],
)
def test_an_agent_gets_no_word_of_a_stranger(word):
    assert keep_safe([word, "seed=1", "model=mlp", "+model.extra=2"]) == [
        "seed=1",
        "model=mlp",
        "+model.extra=2",
    ]
    assert word not in describe_sweep([keep_safe([word, "seed=1"])], "val/loss")["command"]


def test_the_tags_of_a_run_are_unique_and_fit():
    values = {"model.name": "x" * 100, "data.name": "mnist", "task.name": "multiclass"}
    assert find_tags(values, ["mnist", "a"]) == ["mnist", "a", "x" * 64, "multiclass"]


def test_points_come_in_the_order_in_which_jobs_ended(tmp_path):
    """W&B says how many it has, so it must lack the last ones."""
    ended: dict[int, Any] = {
        0: ("done", "2026-01-03"),
        1: ("failed", "2026-01-01"),
        3: ("stopped", "2026-01-02"),
    }
    for number, (status, time) in ended.items():
        (tmp_path / str(number)).mkdir()
        known: Any = {"identity": "0", "epoch": 1, "started": "2026-01-01", "ended": time}
        records.write_status(tmp_path / str(number), status, **known)
    rows = [{"number": n, "status": ended[n][0] if n in ended else "waiting"} for n in range(4)]
    found = sort_by_end(Ledger(tmp_path, "0", "2026-01-01", []), rows)
    assert [row["number"] for row in found] == [1, 3, 0]


@pytest.mark.parametrize(("monitor", "best"), [("val/loss", [3, 1, 0]), ("val/accuracy", [4, 0, 1])])
def test_the_best_jobs_are_done_and_have_the_best_values(monitor, best):
    values = {0: 0.5, 1: 0.4, 2: "", 3: 0.1, 4: 0.9}
    rows = [{"number": n, "status": "failed" if n == 2 else "done", monitor: values[n]} for n in values]
    assert find_best(rows, monitor) == best


def test_wandb_is_not_imported_for_the_printed_file(tmp_path):
    words = ["-m", *JOBS, "seed=0,1", "sweep.plan=wandb"]
    code = "import sys, mnistjax.cli as cli; sys.exit(cli.main(sys.argv[1:]) or 'wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, *words], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
