"""The folder of a run: what is saved and restored, and what is refused because files don't fit together."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from mnistjax import checkpoints, files, progress, recorder, records, zoo
from mnistjax.cli import main
from mnistjax.config import ConfigError
from mnistjax.run import Progress
from mnistjax.run_summary import find_versions
from small import without_seconds

SMALL = ["data=digits", "model=mlp", "model.hidden=8", "train.batch_size=230"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of three epochs that is done."""
    home = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(home):
        assert main([*SMALL, "train.epochs=3", "wandb.mode=disabled", "hydra.run.dir=run"]) == 0
    (home / "run" / checkpoints.PREVIOUS).unlink(missing_ok=True)  # of a slow machine
    return home / "run"


@pytest.fixture
def killed(finished, work):
    """A copy of that run as if it had been killed after epoch 3."""
    folder = work / "run"
    shutil.copytree(finished, folder)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"status": "running", "ended": None}))
    (folder / "summary.json").unlink()
    return folder


def contents(folder):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def resume(*more):
    return main([*SMALL, "train.epochs=3", "hydra.run.dir=run", "resume=true", *more])


def edit_rows(folder, change):
    rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(change(rows)))


# A full disk


@pytest.mark.parametrize("kilobytes", [40, 60, 100])
def test_a_run_whose_end_cannot_be_saved_has_failed_and_can_continue(kilobytes, disk, work, capsys):
    """Its checkpoint takes 80 kB."""
    place = disk(f"size={kilobytes}k")
    words = [*SMALL, "train.epochs=2", f"hydra.run.dir={place}/run"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert f"{place}/run/checkpoint.safetensors: No space left on device" in said
    assert not (place / "run/summary.json").exists()
    with pytest.raises(ConfigError, match="not done"):
        zoo.load(place / "run")
    subprocess.run(["mount", "-o", "remount,size=2m", str(place)], check=True)
    assert main([*words, "resume=true"]) == 0
    status = records.read_status(place / "run")
    assert status is not None
    assert status["status"] == "done"
    assert main([*SMALL, "train.epochs=2", "hydra.run.dir=straight"]) == 0
    assert (place / "run" / checkpoints.CHECKPOINT).read_bytes() == Path(
        "straight", checkpoints.CHECKPOINT
    ).read_bytes()


@pytest.mark.parametrize("kilobytes", [4, 8, 12, 16, 20])
def test_a_disk_too_small_to_start_gives_one_line(kilobytes, disk, work, capsys):
    place = disk(f"size={kilobytes}k")
    assert main([*SMALL, "train.epochs=1", f"hydra.run.dir={place}/run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {place}/run")
    assert said.endswith(": No space left on device\n")
    assert said.count("\n") == 1
    assert not list(place.iterdir())


def test_an_older_checkpoint_is_refused_for_a_finished_run(finished, work):
    shutil.copytree(finished, "run")
    older = checkpoints.read_checkpoint(Path("run", checkpoints.CHECKPOINT))
    meta = {**older.meta, "epoch": 1, "step": older.meta["step"] // 3}
    checkpoints.save_checkpoint("run", older.arrays, meta=meta)
    for load in (zoo.load, records.read_record):
        with pytest.raises(ConfigError, match="is of epoch 1; the run has 3"):
            load(Path("run"))
    assert resume() == 2
    # The last one is lost, and the one before it is whole.
    checkpoints.save_checkpoint("run", older.arrays, meta=older.meta)
    Path("run", checkpoints.CHECKPOINT).write_bytes(b"junk")
    with pytest.raises(ConfigError):
        zoo.load(Path("run"))


# Records that don't fit together


ROWS = {
    "deleted": lambda folder: (folder / "metrics.jsonl").unlink(),
    "emptied": lambda folder: edit_rows(folder, lambda rows: []),
    "one dropped": lambda folder: edit_rows(folder, lambda rows: [rows[0], rows[2]]),
    "one doubled": lambda folder: edit_rows(folder, lambda rows: [rows[0], rows[0], *rows[1:]]),
    "the last dropped": lambda folder: edit_rows(folder, lambda rows: rows[:2]),
    "renumbered": lambda folder: edit_rows(folder, lambda rows: [rows[2], rows[1], rows[0]]),
    "twice": lambda folder: edit_rows(folder, lambda rows: rows * 2),
    "null": lambda folder: edit_rows(folder, lambda rows: ["null\n", *rows[1:]]),
    "without a metric": lambda folder: edit_rows(
        folder, lambda rows: [row.replace("val/loss", "val/less") for row in rows]
    ),
    "status deleted": lambda folder: (folder / "status.json").unlink(),
    "status null": lambda folder: (folder / "status.json").write_text("null"),
    "status emptied": lambda folder: (folder / "status.json").write_text(""),
    "status without an epoch": lambda folder: (folder / "status.json").write_text('{"status": "running"}'),
    "both checkpoints junk": lambda folder: (folder / "checkpoint.safetensors").write_bytes(b"junk"),
}


@pytest.mark.parametrize("damage", ROWS)
def test_records_that_do_not_fit_together_are_refused(damage, killed, capsys):
    ROWS[damage](killed)
    before = contents(killed)
    assert resume() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert contents(killed) == before


def test_longer_rows_are_cut_and_a_torn_one_too(killed, finished):
    row = records.read_rows(killed)[-1]
    records.append_row(killed, {**row, "epoch": 4})
    with open(killed / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 5, "va')
    assert resume() == 0
    assert records.read_rows(killed) == records.read_rows(finished)
    statuses = [records.read_status(folder) or {} for folder in (killed, finished)]
    assert statuses[0]["started"] == statuses[1]["started"]  # so its W&B run is the same


def test_a_run_without_a_checkpoint_starts_again(killed, finished, capsys):
    (killed / checkpoints.CHECKPOINT).unlink()
    assert resume() == 0
    assert "run has no checkpoint; it starts again" in capsys.readouterr().err
    assert (killed / checkpoints.CHECKPOINT).read_bytes() == (finished / checkpoints.CHECKPOINT).read_bytes()
    one, other = (without_seconds(records.read_rows(folder)) for folder in (killed, finished))
    assert one == other


def test_a_checkpoint_of_another_run_is_refused(killed, capsys):
    assert main([*SMALL, "train.epochs=3", "seed=1", "hydra.run.dir=other"]) == 0
    shutil.copy(Path("other", checkpoints.CHECKPOINT), killed)
    capsys.readouterr()
    assert resume() == 2
    assert "is a checkpoint of another run" in capsys.readouterr().err


def test_a_checkpoint_of_another_shape_is_refused(killed, capsys):
    other = checkpoints.read_checkpoint(killed / checkpoints.CHECKPOINT)
    arrays = {name: array for name, array in other.arrays.items() if not name.endswith("bias")}
    checkpoints.save_checkpoint(killed, arrays, meta=other.meta)
    (killed / checkpoints.PREVIOUS).unlink()
    assert resume() == 2
    assert "is missing, expected float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"epoch": -1, "step": 0},
        {"epoch": 3},
        {"epoch": "3", "step": 15},
        {"epoch": 3, "step": 10**9},
        {"epoch": 2, "step": 15},
        {"epoch": 3, "step": 15, "conditions": 3},
        {"epoch": 3, "step": 15, "continued": {"a": 1}},
        {"epoch": 3, "step": 15, "continued": [{"epoch": 1}]},
        {"epoch": 3, "step": 15, "continued": [{"epoch": 1, "before": {"jax": "1"}, "now": {}}]},
    ],
)
def test_the_meta_of_a_checkpoint_is_checked(meta, killed, capsys):
    arrays = checkpoints.read_checkpoint(killed / checkpoints.CHECKPOINT).arrays
    checkpoints.save_checkpoint(killed, arrays, meta=meta)
    (killed / checkpoints.PREVIOUS).unlink()
    assert resume() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_only_a_complete_run_is_reported_as_done(finished, work, capsys):
    shutil.copytree(finished, "run")
    assert resume() == 0
    assert "done already" in capsys.readouterr().out
    Path("run", checkpoints.CHECKPOINT).unlink()
    assert resume() == 2
    assert "is done, but checkpoint.safetensors is missing" in capsys.readouterr().err


# Folders with other files


@pytest.mark.parametrize(
    "name", ["config.yaml", "summary.json", "metrics.jsonl", "lock", "checkpoint.safetensors", "mnistjax.log"]
)
def test_a_folder_with_other_files_is_refused(name, work, capsys):
    Path("mine").mkdir()
    Path("mine", name).write_text("mine: 1\n")
    for folder in ("mine", "."):
        Path(name).write_text("mine: 1\n")
        for more in ([], ["resume=true"]):
            assert main([*SMALL, "train.epochs=1", f"hydra.run.dir={folder}", *more]) == 2
            assert f"{name} is" in capsys.readouterr().err
            assert contents(folder)[str(Path(folder, name))] == b"mine: 1\n"
            assert not Path(folder, "status.json").exists()
        Path(name).unlink()


@pytest.mark.parametrize(
    "name",
    [
        "lock",
        "mnistjax.log",
        ".hydra",
        "metrics.jsonl",
        "status.json",
        "config.yaml",
        "checkpoint.safetensors",
        "checkpoint.previous.safetensors",
        "wandb",
    ],
)
def test_a_link_out_of_a_strangers_folder_is_refused(name, killed, capsys):
    outside = killed.parent / "outside"
    outside.mkdir()
    if (killed / name).is_dir():
        shutil.rmtree(killed / name)
    elif (killed / name).exists():
        (killed / name).rename(outside / "file")
    target = outside if name in (".hydra", "wandb") else outside / "file"
    if target != outside and not target.exists():
        target.write_text("precious")
    (killed / name).symlink_to(target)
    before = contents(outside)
    assert resume() == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["metrics.jsonl.tmp", "checkpoint.safetensors.tmp", "status.json.tmp"])
def test_a_link_with_the_name_of_a_temporary_file_is_refused(name, killed, capsys):
    precious = killed.parent / "precious"
    precious.write_text("precious")
    (killed / name).symlink_to(precious)
    assert resume() == 2
    assert "is a link out of" in capsys.readouterr().err
    assert precious.read_text() == "precious"


# Other conditions


def test_changed_conditions_are_told_and_recorded(killed, capsys, monkeypatch):
    before = checkpoints.read_checkpoint(killed / checkpoints.CHECKPOINT)
    assert before.meta["conditions"]["devices"] == 1
    assert before.meta["conditions"]["jax"] == jax.__version__
    meta = {**before.meta, "conditions": {**before.meta["conditions"], "devices": 4, "jax": "0.1"}}
    checkpoints.save_checkpoint(killed, before.arrays, meta=meta)
    assert resume() == 0
    said = capsys.readouterr().err
    assert "continues under other conditions, so its bits may differ" in said
    assert f"devices 4 before, 1 now, jax 0.1 before, {jax.__version__} now" in said
    summary = records.read_summary(killed)
    assert summary is not None
    (change,) = summary["continued"]
    assert change["epoch"] == 3
    assert change["before"] == {"devices": 4, "jax": "0.1"}


def pretend(monkeypatch, **versions):
    """Makes this process one with other versions of packages."""
    found = {**find_versions(), **versions}
    monkeypatch.setattr(recorder, "find_versions", lambda: found)
    recorder._find_surroundings.cache_clear()


def stop_after(monkeypatch, epoch):
    """Makes a run get a SIGTERM at the end of that epoch, so that it stops after the next one."""

    def stop(self, moment):
        if moment.epoch == epoch:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(progress.PlainLines, "__call__", stop)


def test_a_run_continued_under_another_jax_says_so_everywhere(work, capsys, monkeypatch):
    """Of four processes the first runs under an older JAX; the last two change nothing."""
    now = find_versions()
    before = {"jax": "0.1.2", "jaxlib": "0.1.3", "numpy": "1.0", "optax": "0.0.1"}
    words = [*SMALL, "train.epochs=8", "wandb.mode=disabled"]
    again = [*words, "hydra.run.dir=run", "resume=true"]
    for epoch, versions in {1: before, 3: {}, 5: {"python": "3.99"}}.items():
        with monkeypatch.context() as patch:
            pretend(patch, **versions)
            stop_after(patch, epoch)
            assert main(again) == 143
        told = capsys.readouterr().err
        assert told.count("continues under other conditions") == (epoch == 3)
        for name in before if epoch == 3 else ():
            assert f"{name} {before[name]} before, {now[name]} now" in told
    recorder._find_surroundings.cache_clear()
    assert main(again) == 0
    changes = [{"epoch": 2, "before": before, "now": {name: now[name] for name in before}}]
    status, summary = records.read_status("run"), records.read_summary("run")
    assert status is not None
    assert summary is not None
    assert status["continued"] == summary["continued"] == changes
    assert checkpoints.read_checkpoint(Path("run", checkpoints.CHECKPOINT)).meta["continued"] == changes
    log = Path("run/mnistjax.log").read_text()
    assert "after epoch 2 the run continues under other conditions, so its bits may differ: jax 0.1.2" in log
    assert main([*words, "hydra.run.dir=straight"]) == 0
    straight = records.read_status("straight")
    assert straight is not None
    assert "continued" not in straight


CORES = """
import os, sys
os.environ["JAX_NUM_CPU_DEVICES"] = sys.argv[1]
from mnistjax import cli, recorder
recorder.SAVE_SECONDS = 0
if sys.argv[1] == "2":
    from mnistjax import progress
    import signal
    def stop(self, moment):
        if moment.epoch == 1: signal.raise_signal(signal.SIGTERM)
    progress.PlainLines.__call__ = stop
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_resuming_on_another_number_of_cores_is_told(work):
    words = ["data=digits", "model=cnn", "train.epochs=4", "hydra.run.dir=run"]
    run = [sys.executable, "-c", CORES]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    stopped = subprocess.run([*run, "2", *words], env=environment, capture_output=True, text=True)
    assert stopped.returncode == 143
    words = [*run, "1", *words, "resume=true"]
    found = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert found.returncode == 0
    assert "devices 2 before, 1 now" in found.stderr
    summary = records.read_summary("run")
    assert summary is not None
    assert summary["continued"][0]["now"] == {"devices": 1}


# Too large


def test_a_run_too_large_for_memory_fails_with_the_reason(work, capsys):
    assert main(["data=digits", "model=mlp", "model.hidden=1000000000", "hydra.run.dir=run"]) == 1
    assert "RESOURCE_EXHAUSTED: Out of memory allocating 3136000000000 bytes" in capsys.readouterr().err
    status = records.read_status("run")
    assert status is not None
    assert status["status"] == "failed"


# The callback


def test_a_refused_write_is_tried_again(work, monkeypatch, capsys):
    """The disk refuses one row; at the end all rows are saved."""
    refused = []
    real = records.append_row
    monkeypatch.setattr(recorder, "SAVE_SECONDS", 0.0)

    def append_row(folder, row):
        if row["epoch"] == 2 and not refused:
            refused.append(row)
            raise OSError(28, "No space left on device", str(folder))
        real(folder, row)

    monkeypatch.setattr(records, "append_row", append_row)
    assert main([*SMALL, "train.epochs=4", "hydra.run.dir=run"]) == 0
    assert len(refused) == 1
    assert [row["epoch"] for row in records.read_rows("run")] == [1, 2, 3, 4]
    assert capsys.readouterr().err.count("saving is tried again") == 1


class Killed(BaseException):
    """As a signal that no one can handle."""


@pytest.mark.parametrize("writes", range(1, 6))
def test_a_run_killed_after_any_write_can_continue(writes, finished, work, monkeypatch):
    """It writes its status, its config, a checkpoint, its summary, and its status again."""
    replace, written = files.replace, []

    def replace_and_die(path, *content, **options):
        replace(path, *content, **options)
        written.append(path)
        if len(written) == writes:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", replace_and_die)
        with pytest.raises(Killed):
            main([*SMALL, "train.epochs=3", "hydra.run.dir=run"])
    assert resume() == 0
    assert (
        Path("run", checkpoints.CHECKPOINT).read_bytes() == (finished / checkpoints.CHECKPOINT).read_bytes()
    )


def test_the_rows_are_on_the_disk_before_their_checkpoint(tmp_path, monkeypatch):
    """Else a machine that loses its power could keep a checkpoint without its rows, which is refused."""
    synced, save = [], checkpoints.save_checkpoint
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path.name))
    monkeypatch.setattr(
        checkpoints, "save_checkpoint", lambda *a, **b: (synced.append("saving"), save(*a, **b))
    )
    job: Any = SimpleNamespace(folder=tmp_path, plan=SimpleNamespace(identity="0"))
    callback = recorder.Recorder(job, recorder.RunStart(records.now(), None, [], {}, []))
    snapshot: Any = {"w": np.ones(3)}
    callback(Progress(1, 1, 5, 5, 100, {}, {"epoch": 1}, lambda: snapshot, final=True))
    assert synced[synced.index("saving") - 1] == records.ROWS
    assert len(records.read_rows(tmp_path)) == 1


def test_damaged_files_are_set_aside_in_new_folders(tmp_path):
    for number in (1, 2):
        (tmp_path / records.STATUS).write_text("junk")
        checkpoints.save_checkpoint(tmp_path, {"w": np.ones(3)}, meta={})
        place = recorder.set_aside(tmp_path)
        assert place == tmp_path / f"damaged-{number}"
        assert {path.name for path in place.iterdir()} == {records.STATUS, checkpoints.CHECKPOINT}
    assert {path.name for path in tmp_path.iterdir()} == {"damaged-1", "damaged-2"}
