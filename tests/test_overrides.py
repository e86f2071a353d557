"""Words of the command line: any words are read as meant or refused in one line."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import mnistjax
from mnistjax import progress, records
from mnistjax.active import find_places
from mnistjax.cli import main
from mnistjax.cli.overrides import compose, composing, expand
from mnistjax.config import ConfigError
from mnistjax.sweeps.ledger import load_ledger
from mnistjax.words import DATA_KEYS, folder_word, quote, read_words

TINY = ["data=digits", "model=mlp", "model.hidden=4", "train.epochs=1"]
NAMES = [  # of folders
    *("lr=0.1", "a,b", "a b", "é", "(x)", "[a]", "{a}", "'q'", '"q"', "it's", "~", "~x", "-x", "#h", "a&b"),
    *("null", "true", "1e3", "007", "50%", "$HOME", "\\", "a\\b", "tail\\", "a\\'b", "*", "a;b", "a\tb"),
    *("a:b", "x\ny", "inf", "+x", "=", "a@b", "!x", "None"),
]
BYTES = os.fsdecode(b"\xff")  # a name that is not text
PLAN = ["-m", "data=digits", "sweep.plan=true"]
WORDS = {  # wrong words -> texts that the error must have, after a flag
    "seed=range(0)": ["-m", "seed=range(0) has no values"],
    "seed=range(5,1)": ["-m", "seed=range(5,1) has no values"],
    "model=glob(x*)": ["-m", "model=glob(x*) has no values"],
    "seed=range(0,1000000)": ["-m", "1,000,000 jobs", "sweep.max_jobs=100000"],
    "seed=range(0,1e12)": ["-m", "over 1,000,000,000,000 jobs", "sweep.max_jobs=100000"],
    "seed=range(0,1e400)": ["-m", "jobs", "sweep.max_jobs=100000"],
    "seed=shuffle(range(0,1e12))": ["-m", "jobs", "sweep.max_jobs=100000"],
    "seed=range(0,1,1e-300)": ["-m", "jobs", "sweep.max_jobs=100000"],
    "seed=range(0,1000) train.epochs=range(1,1000)": ["-m", "999,000 jobs"],
    "seed=0,1,2 sweep.max_jobs=2": ["-m", "3 jobs", "sweep.max_jobs=2"],
    "sweep.max_jobs=many": ["-m", "sweep.max_jobs must be a whole number >= 1; got 'many'"],
    "sweep.max_jobs=0": ["-m", "sweep.max_jobs must be a whole number >= 1; got 0"],
    "sweep.mode=fast": ["-m", "unknown sweep.mode 'fast'"],
    "sweep.timeout=[1]": ["-m", "sweep.timeout must be a whole number >= 1; got [1]"],
    "sweep.plan={a:1}": ["-m", "sweep.plan"],
    "sweep=5": ["-m", "'sweep' is a section", "sweep.plan"],
    "sweep.resume=": ["-m", "sweep.resume must be a name"],
    "sweep.resume=${foo}": ["-m", "'foo' not found"],
    "sweep.plan=${foo}": ["'foo' not found"],
    "sweep.resume=nothing": ["sweep.resume needs -m"],
    "sweep.plan=true": ["sweep.plan needs -m"],
    "seed=interval(0,1)": ["-m", "seed=interval(0,1)", "no interval"],
    "train=5": ["'train' is a section", "train.batch_size", "train.epochs"],
    "++train=5": ["'train' is a section", "train.epochs"],
    f"seed={'9' * 5_000}": ["can't be read"],
    f"seed={'9' * 400}": ["seed must be", "more than 80 digits"],
    f"model.hidden={'9' * 400}": ["model.hidden must be at most 4,294,967,295"],
    f"seed={'[' * 500}{']' * 500}": ["500 nested brackets; at most 30"],
    f"+x={'{a:' * 100}1{'}' * 100}": ["100 nested brackets"],
    f"seed={'x' * 200_000}": ["200,005 characters; at most 50,000"],
    "seed=\0": ["has a NUL"],
    "seed=\udcff": ["not UTF-8 text"],
    "data.dir=~nobody-of-that-name/x": ["data.dir=~nobody-of-that-name/x", "HOME"],
    "data.raw_dir=": ["data.raw_dir must be a folder, a file or null; got ''"],
    f"data.raw_dir={'x' * 300}": ["data.raw_dir", "File name too long"],
    "hydra/launcher=nonsense": ["unknown hydra/launcher 'nonsense'", "fused"],
    "hydra.launcher._target_=os.system": ["hydra/launcher can't be created", "os.system"],
    "++hydra.launcher._target_=os.system": ["hydra/launcher can't be created", "os.system"],
    "+hydra.launcher._target_=os.system": ["hydra.launcher._target_"],
    "hydra.launcher=5": ["hydra.launcher must be chosen by a name, hydra/launcher=NAME; got 5"],
    "hydra.sweeper._target_=x": ["hydra/sweeper can't be created", "'x'"],
    "hydra.sweeper.max_batch_size=0": ["hydra.sweeper.max_batch_size", "whole number >= 1"],
    "hydra.job_logging={version:9}": ["hydra/job_logging can't be created", "version is 9"],
    "hydra.job_logging.handlers.file.class=no.such": ["hydra/job_logging can't be created", "no.such"],
    "hydra.job_logging.root.level=LOUD": ["hydra/job_logging can't be created", "LOUD"],
    "hydra.job_logging.root.handlers=[x]": ["hydra/job_logging can't be created", "no handler x"],
    "hydra.job_logging=5": ["hydra.job_logging"],
    "hydra.verbose=5": ["hydra.verbose"],
    "+hydra.callbacks.x._target_=no.such": ["no.such"],
}
FOLDERS = {  # wrong folders -> a text that the error must have
    "hydra.run.dir=/dev/null": "/dev/null is not a folder",
    "hydra.run.dir=/dev/null/x/y": "/dev/null is not a folder",
    "hydra.run.dir=file/x": "file is not a folder",
    "hydra.run.dir=link/x": "link is a broken link",
    "hydra.run.dir=loop/x": "Too many levels of symbolic links",
    f"hydra.run.dir={'x' * 300}": "the longest name 300",
    f"hydra.run.dir=a/b/{'é' * 130}": "the longest name 260",
    f"hydra.run.dir={'x/' * 2_500}": "is too long: 5,",
    "hydra.run.dir=": "hydra.run.dir must be a folder; got ''",
    "hydra.run.dir=a\0b": "has a NUL",
    "hydra.run.dir=\\${x}": "${",
    "hydra.run.dir=${nothing}": "nothing",
    "hydra.run.dir=/proc/x": "/proc/x",
    "hydra.output_subdir=/dev/null/x": "hydra.output_subdir",
    "hydra.output_subdir=${nothing}": "hydra.output_subdir: Interpolation key 'nothing' not found",
}


def check_refused(code, error, named):
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 1_200
    assert [text for text in named if text not in error] == []
    assert os.listdir() == []


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[:40])
def test_a_wrong_word_is_refused_quickly_in_one_line(words, work, capsys):
    flags, named = (["-m"], WORDS[words][1:]) if WORDS[words][0] == "-m" else ([], WORDS[words])
    began = time.monotonic()
    code = main([*flags, *TINY, *words.split(" ")])
    assert time.monotonic() - began < 5
    check_refused(code, capsys.readouterr().err, named)


@pytest.mark.parametrize("word", FOLDERS, ids=lambda word: word[:40])
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_folder_that_can_not_be_created_is_refused(word, kind, work, capsys):
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    flags = ["-m"] if kind == "sweep" else []
    code = main([*flags, *TINY, word.replace("hydra.run.dir", f"hydra.{kind}.dir")])
    for name in ("file", "link", "loop"):
        Path(name).unlink()
    check_refused(
        code, capsys.readouterr().err, [FOLDERS[word].replace("hydra.run.dir", f"hydra.{kind}.dir")]
    )


@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
@pytest.mark.parametrize("refused", ["mkdir", "lock"])
def test_nothing_is_left_of_a_folder_that_the_disk_refuses(words, refused, work, monkeypatch, capsys):
    @contextlib.contextmanager
    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")
        yield

    with monkeypatch.context() as patch:
        if refused == "lock":
            patch.setattr(records, "lock", refuse)
        else:
            patch.setattr(Path, "mkdir", lambda *_, **__: refuse().__enter__())
        code = main([*words, *TINY])
    check_refused(code, capsys.readouterr().err, ["No space left on device"])


def test_without_a_home_the_default_data_folder_is_refused(work, monkeypatch, capsys):
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setattr(Path, "expanduser", lambda self: exec("raise RuntimeError('no home')"))
    check_refused(main([*TINY]), capsys.readouterr().err, ["data.dir=~/tensorflow_datasets", "HOME"])


def start(*words, **environment):
    """The result of a process that runs the command."""
    environment = {**os.environ, "PYTHONPATH": str(Path(mnistjax.__file__).parents[1]), **environment}
    return subprocess.run([sys.executable, "-m", "mnistjax", *words], env=environment, capture_output=True)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["experiment=mine", "trian.epochs=3"], "unknown key 'trian.epochs'; nearest is 'train.epochs'"),
        (["+experiment=mine"], "experiment is already chosen; write experiment=mine without the +"),
        (["experiment=yours"], "Could not find 'experiment/yours'"),
    ],
)
def test_an_error_beside_an_experiment_of_ones_own_is_about_the_wrong_word(words, error, work, capsys):
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text("# @package _global_\ntrain:\n  epochs: 1\n")
    own = f"hydra.searchpath=[file://{work}/own]"
    assert main([*PLAN, "model=mlp", own, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert error in line
    assert main([*PLAN[:-1], "sweep.plan=wandb", "model=mlp", own, "experiment=mine"]) == 0
    assert f"- mnistjax\n- {own}\n" in capsys.readouterr().out


def test_a_sweep_is_read_without_pythons_assertions(work):
    words = ["seed=range(3)", "model=glob(ml?)", "model.hidden=int(4)", "sweep.submitit={timeout_min:9}"]
    done = start(*PLAN, *words, PYTHONOPTIMIZE="1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"3 jobs in 1 group, 1 compiled training program, about ")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["fused", "joblib"])
def test_a_sweep_runs_without_pythons_assertions(launcher, work):
    words = ["-m", *TINY, "seed=range(2)", "model.hidden=int(4)", f"hydra/launcher={launcher}"]
    assert start(*words, "hydra.sweep.dir=sweep", PYTHONOPTIMIZE="2").returncode == 0
    for number in range(2):
        check_done(f"sweep/{number}", ["sweep"])


def test_a_variable_that_is_empty_is_unset(work, monkeypatch, capsys):
    for name in ("TFDS_DATA_DIR", "MNISTJAX_RAW_DIR", "WANDB_MODE", "WANDB_SWEEP_ID", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")
    assert main(["--cfg", "job", "--resolve"]) == 0
    assert "dir: ~/tensorflow_datasets\n" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("HOME", str(work))  # without a key for W&B
    assert main([*PLAN, *TINY]) == 0
    assert "no API key" in capsys.readouterr().err


def test_variables_of_jax_that_are_empty_are_unset(work):
    names = "JAX_NUM_CPU_DEVICES JAX_ENABLE_X64 JAX_TRANSFER_GUARD JAX_PLATFORMS XLA_FLAGS PJRT_NPROC HOME"
    done = start(*PLAN, *TINY, **dict.fromkeys(names.split(), ""))
    assert (done.returncode, done.stderr) == (0, b"")


def test_as_many_jobs_as_max_jobs_are_planned(work, capsys):
    assert main([*PLAN, "model=mlp", "seed=range(3)", "sweep.max_jobs=3"]) == 0
    assert "3 jobs" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*NAMES, BYTES])
def test_a_folder_is_read_as_it_is_written(name, work):
    keys = ("hydra.run.dir", "hydra.sweep.dir", "sweep.resume", "data.dir", "data.raw_dir")
    folders = {key: "ÿ" if name == BYTES and key in DATA_KEYS else name for key in keys}
    words = []
    for key, folder in folders.items():
        has_quotes = "'" in (folder[0], folder[-1]) or '"' in folder
        is_null = folder == "null" and not key.startswith("hydra.")
        words.append(folder_word(key, folder) if has_quotes or is_null else f"{key}={folder}")
    with composing():
        config = compose(read_words(words, multirun=False))
    for key, folder in folders.items():
        assert OmegaConf.select(config, key) == folder


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize(
    "pattern", [r"(person\d+)", r"p(\d+)_[12]", r"^([^_]+)_", "a|b", "12", "true", "{a}"]
)
def test_a_regular_expression_needs_no_quotes(pattern, multirun, work):
    with composing():
        cfg = compose(["data=folder", *read_words([f"data.group={pattern}"], multirun=multirun)])
        assert cfg.data.group == pattern
        assert compose(["data=folder", *read_words(["data.group=null"])]).data.group is None


@given(st.text(st.characters(), min_size=1))
def test_a_quoted_text_is_read_unchanged(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"x={quote(text)}"])
    assert OmegaConf.create({"x": override.value(), "a": 1}).x == text


@pytest.mark.parametrize(
    ("words", "multirun"),
    [
        (["hydra.run.dir='a b'"], False),
        (["hydra.run.dir=outputs/x-1_2.d/"], False),
        (["data.raw_dir=null", "sweep.resume=null"], False),
        (["data.raw_dir=a,b", "data.dir=choice(a,b)"], True),
        (["seed=1,2", "wandb.tags=[a b]", "~seed", "x"], True),
    ],
)
def test_words_that_hydra_reads_correctly_are_unchanged(words, multirun):
    assert read_words(words, multirun=multirun) == words


def test_the_date_in_a_folder_is_todays(work):
    with composing():
        cfg = compose(read_words(["hydra.run.dir=a=b/${now:%Y}"]))
        assert cfg.hydra.run.dir == f"a=b/{time.strftime('%Y')}"


TEXTS = [  # that Hydra's grammar does not read without quotes
    *(
        "müller",
        "x (1)",
        "a=b",
        "(x)",
        "x)",
        "x#1",
        "a&b",
        "it's",
        "a'b'c",
        'a"b',
        "a;b!",
        "<x>",
        "~x",
        "日本",
    ),
    *(
        "x(1)",
        "rnage(3)",
        "int (é)",
        "{a}",
        "{a:é}",
        "[1",
        "a[0]",
        "'x",
        'x"',
        "${x",
        "run=${seed",
        "a\nb\\",
        "é\t",
    ),
]


def read_project(word):
    """The W&B project of a command with this word."""
    with composing():
        return compose(read_words([word])).wandb.project


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_as_it_is_or_with_the_quotes_that_the_error_shows(text, work):
    try:
        found = read_project(f"wandb.project={text}")
    except ConfigError as error:
        _, meant, typed = str(error).partition("if the value is a text, write ")
        assert meant
        (word,) = read_by_bash(f"mnistjax {typed}")
        found = read_project(word)
    assert found == text.strip()


def test_texts_between_commas_are_the_jobs_of_a_sweep(work):
    words = read_words(["wandb.project=müller,a=b,x (1)", "wandb.tags=[é,a=b, c d]"], multirun=True)
    with composing():
        base = compose([])
        _, jobs = expand(words, base)
        found = [compose(job).wandb for job in jobs]
    assert [wandb.project for wandb in found] == ["müller", "a=b", "x (1)"]
    assert [wandb.tags for wandb in found] == [["é", "a=b", "c d"]] * 3


def test_a_sweep_has_texts_with_any_characters(work):
    words = ["-m", *TINY, "seed=0,1", "sweep.executor=inline", "hydra.sweep.dir=sweep"]
    assert main([*words, "wandb.project=müller", "wandb.entity=a=b", "wandb.tags=[é,x (1),c#d]"]) == 0
    for number in range(2):
        config = records.read_config(Path(f"sweep/{number}"))
        assert [config["wandb"][key] for key in ("project", "entity")] == ["müller", "a=b"]
        assert config["wandb"]["tags"] == ["é", "x (1)", "c#d"]
        written = Path(f"sweep/{number}/.hydra/overrides.yaml").read_text("utf-8")
        assert "\n- wandb.project='müller'\n" in written


def read_by_bash(command):
    """The words of a command, without its name, as bash reads them."""
    code = f"mnistjax() {{ printf '%s\\0' \"$@\"; }}; {command}"
    output = subprocess.run(["bash", "-c", os.fsencode(code)], capture_output=True, check=True).stdout
    return [os.fsdecode(word) for word in output.split(b"\0")[:-1]]


def check_done(folder, entries):
    status = records.read_status(folder)
    assert status is not None
    assert status["status"] == "done"
    assert os.listdir() == entries


SOME, OTHERS = ["a=b,c d", "it's (é)"], [pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", [*SOME, *OTHERS])
def test_the_printed_command_continues_a_run(name, work, monkeypatch, capsys):
    def stop(self, moment):
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(progress.PlainLines, "__call__", stop)
        assert main([*TINY, "train.epochs=2", folder_word("hydra.run.dir", name)]) == 143
    error = capsys.readouterr().err
    assert error.count("\n") == 2  # the signal, and the command
    assert main(read_by_bash(error.splitlines()[-1].partition("to continue: ")[2])) == 0
    check_done(name, [name])


@pytest.mark.parametrize("name", [*SOME, *OTHERS])
def test_the_printed_command_continues_a_sweep(name, work, capsys):
    words = ["-m", *TINY, "sweep.executor=inline", "seed=0,1", folder_word("hydra.sweep.dir", name)]
    assert main(words) == 0
    shutil.rmtree(Path(name) / "1")
    ledger = load_ledger(Path(name))
    ledger.entries[1].status = "waiting"
    ledger.save()
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    again = read_by_bash(error.partition("to continue it: ")[2])
    assert main([*again, "sweep.executor=inline"]) == 0  # which a stored sweep does not choose
    check_done(Path(name) / "1", [name])
    assert load_ledger(Path(name)).arguments == words[1:-1]


@pytest.mark.slow
@pytest.mark.parametrize(("locale", "name"), [("C", "é".encode()), ("C.UTF-8", b"\xff")])
def test_a_folder_whose_name_is_not_text_is_written_and_continued(locale, name, work):
    plain, folder = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, os.fsdecode(name)
    for kind, flags in (("run", []), ("sweep", ["-m", "seed=0,1", "sweep.executor=inline"])):
        words = [*flags, *TINY, f"hydra.{kind}.dir={folder}/{kind}"]
        assert start(*words, **plain).returncode == 0
        again = start(*words, **plain)
        assert (again.returncode, again.stderr.count(b"\n")) == (2, 1)
        assert b"holds a " + kind.encode() in again.stderr
    resume = again.stderr.partition(b"to continue it: ")[2].decode()
    assert start(*read_by_bash(resume), **plain).returncode == 0
    check_done(f"{folder}/run", os.listdir())
    check_done(f"{folder}/sweep/1", os.listdir())


@pytest.mark.parametrize("name", [*NAMES, BYTES])
def test_the_printed_command_uploads_a_run(name, work):
    place = find_places(work / name, str(work / name / "wandb/offline-run"))["W&B"]
    command = place.partition("to upload: ")[2]
    assert command.startswith("mnistjax-sync ")
    (word,) = read_by_bash(command.replace("-sync", "", 1))
    assert not word.startswith("-")
    assert Path(word).absolute() == work / name


ODD = st.sampled_from("\0\x01\x1b\n\t '\"\\\\=,:[](){}$~+@#%&!*\u202e\ud800\udcff\u0660é日") | st.characters()
KEYS = (
    "data data.dir data.raw_dir task model model.hidden optimizer optimizer.learning_rate schedule train "
    "train.epochs augment.shift wandb.tags sweep sweep.mode sweep.resume sweep.submitit sweep.max_jobs seed "
    "experiment hydra hydra.run.dir hydra.sweep.dir hydra/launcher hydra.launcher hydra.launcher._target_ "
    "hydra.sweeper hydra.sweeper.params hydra/sweeper hydra.job_logging hydra.mode hydra.verbose "
    "hydra.job.name hydra.searchpath hydra.output_subdir foo foo.bar model@x"
)
VALUES = (
    "0 -1 1.5 1e400 nan null true mlp digits [1,2] {a:1} '' ??? ${seed} ${foo} ${oc.env:NOPE} ${seed "
    "range(0) range(3) range(0,1e12) range(0,1,0) range(nan) shuffle(range(0,1e12)) choice(1,2) choice() "
    "interval(0,1) glob(*) "
    "sort(3,1) tag(a,1) int(1.5) 1,2 a, os.system basic joblib none /dev/null .. ~ ~x -x # !!x"
)
LONG = [text * count for text in ("9", "[", "x/", "{a:") for count in (40, 500, 20_000)]


@pytest.mark.parametrize("node", ["launcher", "sweeper", "job", "run", "sweep", "job_logging", "callbacks"])
@pytest.mark.parametrize("value", ["0", "null", "[]", "{}", "name", "{_target_:3}"])
def test_a_node_of_hydra_that_is_no_node_is_refused_in_one_line(node, value, work, capsys):
    code = main(["-m", "data=digits", "model=mlp", "sweep.plan=true", f"hydra.{node}={value}"])
    error = capsys.readouterr().err
    assert code in (0, 2)
    assert error.count("\n") == (code == 2)
    assert os.listdir() == []


@st.composite
def odd_words(draw):
    """A word for some key, with up to two characters changed."""
    keys, values = st.sampled_from(KEYS.split()), st.sampled_from(VALUES.split()) | st.sampled_from(LONG)
    word = f"{draw(st.sampled_from(['', '', '', '+', '++', '~']))}{draw(keys)}={draw(values)}"
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(word)))
        word = word[:place] + draw(ODD | st.just("")) + word[place + draw(st.integers(0, 1)) :]
    return word


@pytest.mark.parametrize("flags", [["-m", "sweep.plan=true"], ["--cfg", "job"]], ids=str)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(words=st.lists(odd_words(), min_size=1, max_size=3))
@example(words=["hydra.verbose=???"])
@example(words=["hydra.verbose=${foo}"])
@example(words=["hydra.mode=???"])
def test_any_words_are_taken_or_refused_in_one_line(flags, words, work):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["data=digits", "model=mlp", *words, *flags])
    assert code in (0, 2)
    assert err.getvalue().count("\n") == (code == 2)
    assert err.getvalue().strip("\n").isprintable()
    assert len(err.getvalue()) < 1_200
    assert os.listdir() == []
