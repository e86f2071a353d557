"""The command: what it refuses, what it writes, how a run stops and continues."""

import importlib.metadata
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import flax.linen as nn
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig

import mnistjax
from mnistjax import __main__, checkpoints, models, plan, progress, records
from mnistjax.cli import main, single
from small import Watched

PACKAGE = Path(models.__file__).parents[1]
OTHER_PYTHON = os.environ.get("MNISTJAX_OTHER_PYTHON")  # it has another version of JAX
SMALL = ["data=digits", "model=mlp", "model.hidden=16"]
SHORT = [*SMALL, "train.epochs=2"]
MODELS = "cnn, cnn_bn, lenet5, mlp, mlp_mixer, neuron, resnet, separable, vit"
BAD = {  # words -> texts that the error must have
    "model=cnm": [
        "'cnm'",
        "nearest is 'cnn'",
        MODELS,
    ],
    "model=3": ["'3'", MODELS],
    "model=null": ["'null'", MODELS],
    "~model": ["model=NAME"],
    "+model=cnn": ["model=cnn without the +"],
    "modell=cnn": ["nearest is 'model'"],
    "data=mnits": ["nearest is 'mnist'", "fashion_mnist"],
    "data=mnist data.raw_dir=/nonexistent": ["data.raw_dir=/nonexistent"],
    "optimizer=adamm": ["nearest is 'adam'", "sgd"],
    "experiment=singel_neuron": ["nearest is 'single_neuron'"],
    "train.epoch=3": ["nearest is 'train.epochs'"],
    "trian.epochs=3": ["nearest is 'train.epochs'"],
    "epochs=3": ["'epochs'; nearest: train.epochs, augment.epochs"],
    "leaning_rate=3": ["'leaning_rate'; nearest: optimizer.learning_rate"],
    "+train.foo=1": ["'train.foo'", "train.epochs"],
    "++foo.bar=1": ["'foo.bar'", "train"],
    "~train.epochs": ["train.epochs is missing"],
    "~sweep": ["sweep.mode is missing"],
    "-m ~sweep.max_jobs": ["sweep.max_jobs is missing"],
    "+train.epochs=3": ["already exists"],
    "train=3": ["'train'"],
    "train.epochs=-1": ["train.epochs", "whole number >= 1", "-1"],
    "train.epochs=ten": ["whole number >= 1", "'ten'"],
    "train.epochs=true": ["whole number >= 1", "True"],
    "train.batch_size=0": ["whole number >= 1 or 'all'", "got 0"],
    "data=digits train.batch_size=99999999": ["from 1 to 1150", "99999999"],
    "data=digits train.batch_size=128 train.micro_batch=999": ["train.micro_batch", "128", "999"],
    "train.keep=bset": ["nearest is 'best'"],
    "train.early_stopping=0": ["whole number >= 1 or null"],
    "optimizer.learning_rate=nan": ["finite number > 0", "nan"],
    "optimizer.learning_rate=-1": ["finite number > 0", "-1"],
    "optimizer.learning_rate=fast": ["finite number > 0", "'fast'"],
    "optimizer.momentum=0.5": ["'optimizer.momentum'", "optimizer=nesterov"],
    "model.hidden=-5": ["error: model.hidden must be", "from 1 to", "-5"],
    "model.hiden=3": ["nearest is 'model.hidden'"],
    "model.activation=rleu": ["unknown model.activation 'rleu'", "nearest is 'relu'", "tanh"],
    "data=digits model=cnn model.channels=[8,8,8,8,8]": ["error: model.channels: 5 blocks are too many"],
    "data=digits model=separable model.channels=[]": ["model.channels", "one number or more", "[]"],
    "data=digits model=cnn model.kernel=40 train.micro_batch=32": [
        "error: model.channels: 2 blocks are too many"
    ],
    "model.hidden=[1,2": ["can't be read"],
    "schedule.warmup=abc": ["schedule.warmup", "'abc'", "'500 steps'"],
    "task.positive=12": ["task.positive", "task=binary"],
    "data=digits task=binary task.positive=12": ["0 to 9", "12"],
    "seed=-1": ["seed", "4294967295", "-1"],
    "seed=1.5": ["seed", "1.5"],
    "seed=": ["seed", "''"],
    "seed=${foo}": ["seed", "'foo' not found"],
    "seed=???": ["seed", "Missing"],
    "seed=1,2": ["seed=1,2 has several values; add -m for a run of each"],
    "model.hidden=1,2": ["add -m for a run of each, or write model.hidden=[...] for one run"],
    "data=digits data.validation_fraction=0.6": ["data.validation_fraction", "> 0 and <= 0.5", "0.6"],
    "wandb.mode=onlin": ["nearest is 'online'", "disabled"],
    f"wandb.tags=[a,{'x' * 65}]": ["wandb.tags", "1 to 64 characters", "['a', 'xxx"],
    "-m seed=0,1 wandb.tags=['']": ["wandb.tags", "1 to 64 characters", "['']"],
    f"wandb.project={'x' * 129}": ["wandb.project", "at most 128 characters", "'xxx"],
    "wandb.project=a/b": ["wandb.project", "without /", "'a/b'"],
    "wandb.entity=a?b": ["wandb.entity", "without /", "'a?b'"],
    "resume=maybe": ["true or false", "'maybe'"],
    "hydra.foo=1": ["hydra.foo"],
    "hydra/launcher=foo": ["basic"],
    "epochs": ["'epochs'", "KEY=VALUE"],
    "=3": ["'=3'", "KEY=VALUE"],
    "--hepl": ["nearest is '--help'"],
    "--cfg jbo": ["'job'"],
    "--resolve": ["--cfg"],
    "-m model=mlp,cnm": ["job 1", "'cnm'", "nearest is 'cnn'"],
    "-m data=digits train.epochs=1,0": ["job 1", "whole number >= 1"],
    "-m --cfg job seed=0,1": ["Only one of --run, --multirun, --cfg"],
    "--cfg job model=cnm": ["nearest is 'cnn'"],
    "--help model=cnm": ["nearest is 'cnn'"],
}


def check_refused(code, error, folder, named):
    lines = error.splitlines()
    assert code == 2
    assert lines[0].startswith("error: ")
    assert len(lines) == 1
    assert [word for word in named if word not in lines[0]] == []
    assert os.listdir(folder) == []


@pytest.mark.parametrize("words", BAD)
def test_wrong_words_are_refused_in_one_line_and_nothing_is_written(words, work, capsys):
    check_refused(main(words.split()), capsys.readouterr().err, work, BAD[words])


def start(*words, save_seconds=None, python=sys.executable, **options):
    """A process that runs the command, with a checkpoint every `save_seconds` if given."""
    save = "" if save_seconds is None else f"recorder.SAVE_SECONDS = {save_seconds};"
    code = f"import sys; from mnistjax import cli, recorder; {save} sys.exit(cli.main())"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.Popen([python, "-c", code, *words], env=environment, text=True, **options)


def test_a_real_process_refuses_wrong_words(work):
    process = start("model=cnm", stderr=subprocess.PIPE)
    _, error = process.communicate()
    check_refused(process.returncode, error, work, BAD["model=cnm"])


@pytest.mark.parametrize("words", ["--help", "--cfg job", "--info searchpath", "--version"])
def test_questions_are_answered_and_nothing_is_written(words, work, capsys):
    assert main(words.split()) == 0
    assert len(capsys.readouterr().out) > 5
    assert os.listdir(work) == []


PAGES = [PACKAGE.parent / "README.md", *sorted(PACKAGE.glob("*/README.md"))]
SHOWN = [  # commands of one line that are complete
    line
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text().replace("\\\n", " "), re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("mnistjax ", "mnistjax\n")) and not re.search(r"\.\.\.|/DATE/|--help", line)
]


@pytest.mark.parametrize("line", SHOWN)
def test_the_commands_that_the_readmes_show_compose(line, work, capsys):
    _, *words = shlex.split(line, comments=True)
    flags = ["sweep.plan=true", "data=digits"] if "-m" in words else ["--cfg", "job"]
    assert main([*words, *flags]) == 0
    assert os.listdir(work) == []


def test_help_names_every_choice(work, capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for name in ("single_neuron", "fashion_mnist", "cnn", "adamw", "one_cycle", "binary", "outputs/", "-m"):
        assert name in text


def test_tab_completion_offers_choices(work, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "mnistjax model=")
    assert main(["-sc", "query=bash"]) == 0
    assert {"model=cnn", "model=mlp", "model=neuron"} <= set(capsys.readouterr().out.split())


def test_a_run_leaves_its_records(work, capsys):
    assert main([*SHORT, "hydra.run.dir=run", "wandb.tags=[a,b]"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    for line in ("epoch 2/2", "Test results on digits", "Confusion matrix", "run folder run"):
        assert line in output.out
    assert max(map(len, output.out.splitlines())) <= 80
    names = {
        "config.yaml",
        "metrics.jsonl",
        "status.json",
        "summary.json",
        "checkpoint.safetensors",
        ".hydra",
    }
    assert names <= set(os.listdir("run"))
    assert yaml.safe_load(Path("run/config.yaml").read_text())["wandb"]["tags"] == ["a", "b"]
    rows = records.read_rows("run")
    assert [row["epoch"] for row in rows] == [1, 2]
    parts = {f"{part}/{name}" for part in ("train", "val") for name in ("loss", "accuracy", "f1")}
    assert set(rows[0]) == {"epoch", "examples_seen", "seconds", *parts}
    status, summary = records.read_status("run"), records.read_summary("run")
    assert status is not None
    assert summary is not None
    assert (status["status"], status["epoch"], status["identity"]) == ("done", 2, summary["identity"])
    assert summary["test/count"] == sum(map(sum, summary["test/confusion_matrix"])) == 359
    assert summary["parameters"] == 784 * 16 + 16 + 16 * 10 + 10
    assert len(summary["data"]["class_counts"]["train"]) == 10
    wanted = {"seconds_per_epoch", "compile_seconds", "spec", "hyper", "seed", "versions", "device"}
    tested = ("loss", "accuracy", "precision", "recall", "f1", "balanced_accuracy")
    assert wanted | {f"test/{name}" for name in tested} <= set(summary)


def test_the_default_folder_is_a_date_and_time(work, capsys):
    assert main(SHORT) == 0
    assert len([*work.glob("outputs/????-??-??/??-??-??*/summary.json")]) == 1


def test_without_mnist_auto_says_so_first(work, monkeypatch, capsys):
    from mnistjax.data import builders
    from mnistjax.data.arrays import Unreachable

    def no_network(url):
        raise Unreachable(f"{url} is out of reach")

    monkeypatch.setattr(builders, "check_reachable", no_network)
    assert main(["train.epochs=1", "model=neuron", "hydra.run.dir=run"]) == 0
    assert "NOT MNIST" in "".join(capsys.readouterr().err.splitlines()[:5])
    assert json.loads(Path("run/summary.json").read_text())["data"]["name"] == "digits"
    assert records.read_config("run")["data"]["name"] == "digits"  # "auto" may mean another one later


def test_a_registered_model_needs_no_config_file(work, monkeypatch, capsys):
    class Theirs(nn.Module):
        num_classes: int = 10
        width: int = 4

        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(self.num_classes)(nn.Dense(self.width)(images.reshape(len(images), -1) / 255))

    monkeypatch.setitem(models.MODELS, "theirs", Theirs)
    assert main(["data=digits", "train.epochs=1", "model=theirs", "model.width=3", "hydra.run.dir=run"]) == 0
    summary = records.read_summary("run")
    assert summary is not None
    assert summary["parameters"] == 784 * 3 + 3 + 3 * 10 + 10


def count(monkeypatch, owner, name):
    """Counts the calls of a function: returns a list that grows at each call."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_the_road_from_the_command_to_the_loss_is_short(work, monkeypatch, watched, capsys):
    """And the config is composed once, the optimizer and the model are checked once."""
    composed = count(monkeypatch, ConfigLoaderImpl, "load_configuration")
    checked = count(monkeypatch, plan, "check_numbers")
    created = count(monkeypatch, plan, "create_model")
    words = ["data=digits", f"model={watched}", "train.epochs=1", "hydra.run.dir=run"]
    monkeypatch.setattr(sys, "argv", ["mnistjax", *words])
    with pytest.raises(SystemExit, match="0"):
        __main__.mnistjax()
    host = ["run", "main", "run_single", "<lambda>", "train_job"]
    loop = ["fit_runs", "advance", "train_segment"]
    assert Watched.roads == [[*host, *loop, "step", "train_step", "batch_loss"]]
    assert [*composed, *checked, *created] == ["load_configuration", "check_numbers", "create_model"]


def test_a_run_has_the_callbacks_the_log_and_the_folder_of_hydra(work, monkeypatch, capsys):
    called, train = [], single.train_job

    class Callback:
        def __getattr__(self, name):
            return lambda **_: called.append(name)

    def train_job(*arguments):
        called.append(HydraConfig.get().runtime.output_dir)
        logging.getLogger("mine").info("logged")
        return train(*arguments)

    monkeypatch.setattr(sys.modules[__name__], "Callback", Callback, raising=False)
    monkeypatch.setattr(single, "train_job", train_job)
    words = [
        f"+hydra.callbacks.mine._target_={__name__}.Callback",
        "hydra.output_subdir=.own",
        "hydra.verbose=true",
    ]
    assert main([*SHORT, "hydra.run.dir=run", *words]) == 0
    assert called == ["on_run_start", "on_job_start", str(work / "run"), "on_job_end", "on_run_end"]
    assert "[mine][INFO] - logged" in Path("run/mnistjax.log").read_text()
    assert yaml.safe_load(Path("run/.own/overrides.yaml").read_text()) == SHORT
    node = yaml.safe_load(Path("run/.own/hydra.yaml").read_text())["hydra"]
    assert (node["mode"], node["run"]["dir"]) == ("RUN", str(work / "run"))
    assert node["overrides"]["hydra"][-2:] == [f"hydra.run.dir='{work / 'run'}'", "hydra.mode=RUN"]


def stop_at(monkeypatch, step):
    """Makes runs get a SIGTERM at that step."""

    def observe(self, moment):
        if moment.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(progress.PlainLines, "__call__", observe)


def outcome(folder):
    """The parts of a run that equal runs have in common."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in records.read_rows(folder)]
    return rows, (Path(folder) / checkpoints.CHECKPOINT).read_bytes()


def test_a_stopped_run_continues_to_the_same_bits(work, monkeypatch, capsys):
    words = [*SMALL, "train.epochs=4", "train.batch_size=115", "train.keep=best"]
    with monkeypatch.context() as patch:
        stop_at(patch, 2 * 10)
        assert main(words) == 143
    assert "resume=true" in capsys.readouterr().err
    (folder,) = work.glob("outputs/*/*")
    status = records.read_status(folder)
    assert status is not None
    assert status["status"] == "interrupted"
    assert status["epoch"] < 4
    assert main([*words, "resume=true"]) == 0  # finds the newest unfinished run by itself
    assert [*work.glob("outputs/*/*")] == [folder]
    assert main([*words, "hydra.run.dir=straight"]) == 0
    assert outcome(folder) == outcome("straight")


@pytest.mark.slow
@pytest.mark.skipif(OTHER_PYTHON is None, reason="MNISTJAX_OTHER_PYTHON names no Python with another JAX")
def test_a_run_that_another_jax_began_is_continued_and_says_so(work, capsys):
    words = [*SMALL, "train.epochs=600", "train.batch_size=115", "hydra.run.dir=run"]
    assert OTHER_PYTHON is not None
    process = start(*words, python=OTHER_PYTHON, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (Path("run/metrics.jsonl").exists() and records.read_rows("run")):
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 143
    before, theirs = records.read_status("run"), importlib.metadata.version("jax")
    assert before is not None
    assert before["status"] == "interrupted"
    assert main([*words, "resume=true"]) == 0
    said = capsys.readouterr().err
    assert "run continues under other conditions, so its bits may differ: " in said
    assert re.search(rf"\bjax \S+ before, {re.escape(theirs)} now", said)
    summary, status = records.read_summary("run"), records.read_status("run")
    assert summary is not None
    assert status is not None
    assert summary["continued"][0]["now"]["jax"] == theirs
    assert status["identity"] == before["identity"]
    assert [row["epoch"] for row in records.read_rows("run")] == list(range(1, 601))
    model, variables, card = mnistjax.load("run")
    probabilities = mnistjax.classify(model, variables, card, mnistjax.load_data("digits").test.images)
    assert probabilities.shape == (359, 10)


def test_resume_finds_a_done_run_and_changes_nothing(work, capsys):
    assert main([*SHORT, "resume=true"]) == 0
    (folder,) = work.glob("outputs/*/*")
    capsys.readouterr()
    assert main([*SHORT, "resume=true"]) == 0
    assert capsys.readouterr().out == f"{folder.relative_to(work)} is done already; nothing changed\n"
    assert [*work.glob("outputs/*/*")] == [folder]


def test_resume_starts_a_missing_run_and_leaves_a_done_one(work, capsys):
    words = [*SHORT, "optimizer.learning_rate=0.25", "hydra.run.dir=run", "resume=true"]
    assert main(words) == 0
    before = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    assert main(words) == 0
    assert "done already" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()} == before
    assert main([*words, "optimizer.learning_rate=0.5", "seed=1"]) == 2
    error = capsys.readouterr().err
    assert "optimizer.learning_rate (0.25 there, 0.5 here), seed (0 there, 1 here)" in error
    assert main([*SHORT, "hydra.run.dir=run"]) == 2
    assert "holds a run already (done)" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()} == before


def test_a_damaged_checkpoint_is_refused_in_one_line(work, monkeypatch, capsys):
    stop_at(monkeypatch, 10)
    words = [*SMALL, "train.epochs=4", "train.batch_size=115", "hydra.run.dir=run"]
    assert main(words) == 143
    for file in Path("run").glob("checkpoint*"):
        file.write_bytes(b"damaged")
    capsys.readouterr()
    assert main([*words, "resume=true"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no usable checkpoint: ")
    assert error.count("\n") == 1


def test_a_diverged_run_is_reported_and_not_continued(work, capsys):
    words = [*SHORT, "optimizer=sgd", "optimizer.learning_rate=1e30", "hydra.run.dir=run"]
    assert main(words) == 1
    assert "not finite in epoch" in capsys.readouterr().err
    status = records.read_status("run")
    assert status is not None
    assert status["status"] == "diverged"
    assert not Path("run/summary.json").exists()
    assert main([*words, "resume=true"]) == 1


def test_an_exception_is_a_failed_run(work, monkeypatch, capsys):
    def fail(self, moment):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(progress.PlainLines, "__call__", fail)
    assert main([*SHORT, "hydra.run.dir=run"]) == 1
    assert capsys.readouterr().err == "failed: RuntimeError: two lines (see run/mnistjax.log)\n"
    assert "Traceback" in Path("run/mnistjax.log").read_text()
    status = records.read_status("run")
    assert status is not None
    assert status["status"] == "failed"


def test_a_full_disk_is_reported_once_and_training_continues(work, monkeypatch, capsys):
    whole, refusals = records.append_row, iter([True, True, False, False, False])

    def append(folder, row):
        if next(refusals):
            raise OSError(28, "No space left on device")
        whole(folder, row)

    monkeypatch.setattr(records, "append_row", append)
    assert main([*SMALL, "train.epochs=3", "hydra.run.dir=run"]) == 0
    assert capsys.readouterr().err.count("No space left") == 1
    assert [row["epoch"] for row in records.read_rows("run")] == [1, 2, 3]


def test_a_sweep_runs_every_job_and_names_the_failed_ones(work, capsys):
    words = [
        "-m",
        "optimizer=sgd,momentum",
        "optimizer.learning_rate=0.1,1e30",
        "hydra.sweep.dir=sweep",
        *SHORT,
    ]
    assert main(words) == 1
    statuses = [records.read_status(f"sweep/{number}") for number in range(4)]
    assert [status and status["status"] for status in statuses] == ["done", "diverged"] * 2
    error = capsys.readouterr().err
    assert "2 of 4 jobs done" in error
    assert error.count("not finite in epoch") == 2


def test_a_key_that_only_the_swept_choices_have_is_accepted(work):
    words = ["-m", "optimizer=momentum,nesterov", "optimizer.momentum=0.8", "hydra.sweep.dir=sweep", *SHORT]
    assert main(words) == 0


@pytest.mark.parametrize("key", ["augment.shift", "train.early_stopping"])
def test_a_sweep_takes_null_for_all_jobs(key, work):
    """Hydra allows `null,2`, but no choice of null alone."""
    assert main(["-m", f"{key}=null", "seed=0,1", "hydra.sweep.dir=sweep", *SHORT]) == 0
    assert [read_leaf(number, key) for number in (0, 1)] == [None, None]


def read_leaf(number, key):
    """The value of a key in the config of a job."""
    value = records.read_config(f"sweep/{number}")
    for name in key.split("."):
        value = value[name]
    return value


def wait_for_rows(folder, count):
    deadline = time.monotonic() + 60
    while len(records.read_rows(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(work, number, code):
    process = start(*SMALL, "train.epochs=100000", "hydra.run.dir=run", stderr=subprocess.PIPE)
    wait_for_rows("run", 3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "hydra.run.dir=run resume=true" in error
    status, checkpoint = records.read_status("run"), checkpoints.load_checkpoint("run")
    assert status is not None
    assert checkpoint is not None
    assert status["status"] == "interrupted"
    assert checkpoint.meta["epoch"] == status["epoch"] == len(records.read_rows("run"))


@pytest.mark.slow
def test_a_folder_in_use_is_refused(work):
    words = [*SMALL, "train.epochs=100000", "hydra.run.dir=run"]
    first = start(*words)
    try:
        wait_for_rows("run", 1)
        second = start(*words, "resume=true", stderr=subprocess.PIPE)
        _, error = second.communicate(timeout=60)
        assert second.returncode == 2
        assert str(first.pid) in error
    finally:
        first.kill()
        first.wait()


@pytest.mark.slow
def test_killed_runs_continue_to_the_same_bits(work):
    words = ["data=digits", "model=mlp", "train.epochs=80", "model.dropout=0.1", "train.keep=best"]
    assert start(*words, "hydra.run.dir=straight").wait() == 0
    for rows in (5, 20, 60):
        process = start(*words, f"hydra.run.dir=killed{rows}", save_seconds=0.2)
        wait_for_rows(f"killed{rows}", rows)
        process.kill()
        process.wait()
        assert start(*words, f"hydra.run.dir=killed{rows}", "resume=true").wait() == 0
        assert outcome(f"killed{rows}") == outcome("straight")


def in_thread(*words):
    """The exit code of a command that another thread runs."""
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(list(words))))
    thread.start()
    thread.join()
    return codes[0]


def test_a_thread_trains_a_run_and_a_sweep(work):
    assert in_thread(*SHORT, "hydra.run.dir=run") == 0
    assert in_thread("-m", *SHORT, "seed=0,1", "sweep.executor=inline", "hydra.sweep.dir=sweep") == 0
    assert outcome("sweep/0") == outcome("run")


def test_two_threads_do_not_run_commands_at_a_time(work, monkeypatch, capsys):
    codes = []

    def observe(self, moment):
        codes.append(in_thread(*SHORT, "hydra.run.dir=other"))

    monkeypatch.setattr(progress.PlainLines, "__call__", observe)
    assert main([*SHORT, "train.epochs=1", "hydra.run.dir=run"]) == 0
    assert codes == [2]
    assert "this process runs mnistjax already" in capsys.readouterr().err
    assert os.listdir() == ["run"]
