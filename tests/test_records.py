"""The records of a run survive kills, full disks, second owners and damage."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax import checkpoints, files, records
from mnistjax.config import ConfigError
from small import SUMMARY

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)


def start(code, *arguments):
    """A real process that runs `code` and has printed its first line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


SAVE_FOREVER = """
import sys, numpy as np
from mnistjax import checkpoints, records
for epoch in range(1, 10**6):
    records.append_row(sys.argv[1], {"epoch": epoch, "val/loss": 1 / epoch})
    checkpoints.save_checkpoint(sys.argv[1], {"w": np.full(50_000, epoch, np.float32)}, meta={"epoch": epoch})
    if epoch == 1: print("saving", flush=True)
"""


@pytest.mark.filterwarnings("ignore:.*using")
def test_kill_9_at_any_time_leaves_a_checkpoint_and_its_rows(tmp_path):
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start(SAVE_FOREVER, folder)
        time.sleep(random.Random(number).uniform(0, 0.05))
        kill(process)
        loaded = checkpoints.load_checkpoint(folder)
        assert loaded is not None
        epoch = loaded.meta["epoch"]
        assert isinstance(epoch, int)
        assert np.all(loaded.arrays["w"] == epoch)
        records.truncate_rows(folder, epoch)
        assert [row["epoch"] for row in records.read_rows(folder)] == list(range(1, epoch + 1))


FULL_DISK = """
import resource, sys, numpy as np
from mnistjax import checkpoints, records
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
def fails(write, *arguments, **options):
    try: write(*arguments, **options)
    except OSError: return True
folder = sys.argv[1]
assert fails(checkpoints.save_checkpoint, folder, {"w": np.ones(1000)}, meta={"epoch": 2})
assert fails(records.append_row, folder, {"epoch": 2, "note": "x" * 600})
assert fails(records.write_summary, folder, {"note": "x" * 600})
records.append_row(folder, {"epoch": 2})
print("done")
"""


def test_a_full_disk_raises_and_changes_nothing(tmp_path):
    checkpoints.save_checkpoint(tmp_path, {"w": np.zeros(1000)}, meta={"epoch": 0})
    checkpoints.save_checkpoint(tmp_path, {"w": np.zeros(1000)}, meta={"epoch": 1})
    records.append_row(tmp_path, {"epoch": 1})
    records.write_summary(tmp_path, SUMMARY)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert start(FULL_DISK, tmp_path).communicate()[0] == ""
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.pop(records.ROWS) == before.pop(records.ROWS) + b'{"epoch": 2}\n'
    assert after == before


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(names, floats | st.integers() | names | st.none(), max_size=3), max_size=5))
def test_rows_round_trip_exactly(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("run")
    rows = [{**row, "epoch": epoch} for epoch, row in enumerate(rows, start=1)]
    for row in rows:
        records.append_row(folder, row)
    assert repr(records.read_rows(folder)) == repr(rows)


def test_non_finite_floats_are_written_as_words(tmp_path):
    records.append_row(tmp_path, {"epoch": 1, "val/loss": np.float32("nan"), "all": [float("inf"), -np.inf]})
    assert records.read_rows(tmp_path) == [{"epoch": 1, "val/loss": "nan", "all": ["inf", "-inf"]}]
    assert "NaN" not in (tmp_path / records.ROWS).read_text()


@pytest.mark.parametrize("torn", ['{"epoch": 3, "val/lo', '{"epoch": 3}', "\0\0\0", "x" * 9000])
def test_an_incomplete_row_is_ignored_and_overwritten(tmp_path, torn):
    for epoch in (1, 2):
        records.append_row(tmp_path, {"epoch": epoch})
    with open(tmp_path / records.ROWS, "a") as file:
        file.write(torn)
    assert [row["epoch"] for row in records.read_rows(tmp_path)] == [1, 2]
    records.append_row(tmp_path, {"epoch": 3, "val/loss": 0.5})
    assert records.read_rows(tmp_path)[2:] == [{"epoch": 3, "val/loss": 0.5}]


def test_a_damaged_row_is_named(tmp_path):
    (tmp_path / records.ROWS).write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2"):
        records.read_rows(tmp_path)


def test_truncate_rows_keeps_the_bytes_of_the_rest(tmp_path):
    assert records.read_rows(tmp_path) == []
    for epoch in range(1, 6):
        records.append_row(tmp_path, {"epoch": epoch, "val/loss": 1 / epoch, "note": "é"})
    content = (tmp_path / records.ROWS).read_bytes()
    records.truncate_rows(tmp_path, 3)
    assert (tmp_path / records.ROWS).read_bytes() == b"".join(content.splitlines(keepends=True)[:3])


def test_status_summary_and_config_round_trip(tmp_path):
    assert records.read_status(tmp_path) is None
    assert records.read_summary(tmp_path) is None
    records.write_status(tmp_path, "failed", reason="no", epoch=2, started="2030-01-01", identity="a")
    status = records.read_status(tmp_path)
    assert status is not None
    assert status.pop("host")
    assert status == {
        "status": "failed",
        "reason": "no",
        "epoch": 2,
        "started": "2030-01-01",
        "ended": None,
        "identity": "a",
        "pid": os.getpid(),
    }
    records.write_summary(tmp_path, SUMMARY)
    assert records.read_summary(tmp_path) == SUMMARY
    newer = {**SUMMARY, "test/balanced_accuracy": 0.5, "test/auc": "nan"}
    records.write_summary(tmp_path, newer)
    assert records.read_summary(tmp_path) == newer
    for name in ("test/balanced_accuracy", "test/auc"):
        records.write_summary(tmp_path, {**newer, name: "high"})
        with pytest.raises(ConfigError, match=f"{name} must be a number"):
            records.read_summary(tmp_path)
    config = {"train": {"epochs": 3}, "model": {"hidden": [64, 32]}, "seed": 0}
    records.write_config(tmp_path, config)
    assert (tmp_path / "config.yaml").read_text().startswith("train:\n  epochs: 3\nmodel:\n  hidden:\n  - 64")
    assert records.read_config(tmp_path) == config
    (tmp_path / records.STATUS).write_text("{")
    with pytest.raises(ConfigError, match=r"status\.json"):
        records.read_status(tmp_path)


OWN = """
import sys, time
from mnistjax import records
with records.lock(sys.argv[1]):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_living_owner_is_named_and_a_killed_one_replaced(tmp_path):
    folder = tmp_path / "new" / "run"
    owner = start(OWN, folder)
    with pytest.raises(files.FolderInUse, match=str(owner.pid)), records.lock(folder):
        pass
    kill(owner)
    (folder / records.LOCK).write_text("9" * 10)  # its number may have more digits than ours
    with records.lock(folder):
        assert (folder / records.LOCK).read_text() == str(os.getpid())
        with pytest.raises(files.FolderInUse, match=str(os.getpid())), records.lock(folder):
            pass
    with records.lock(folder):
        pass


def test_a_reader_that_looks_for_an_owner_is_none(tmp_path, monkeypatch):
    """`is_locked` holds the lock for an instant."""
    with records.lock(tmp_path):
        pass
    with open(tmp_path / records.LOCK) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        monkeypatch.setattr(files.time, "sleep", lambda _: fcntl.flock(file, fcntl.LOCK_UN))
        with records.lock(tmp_path):
            pass


def test_a_lock_ends_with_its_owner_though_another_process_has_the_open_file(tmp_path, monkeypatch):
    """A forked one, for example; here a second descriptor."""
    opened, open_plain = [], files.open_plain
    monkeypatch.setattr(files, "open_plain", lambda *given: opened.append(open_plain(*given)) or opened[-1])
    with files.lock(tmp_path / records.LOCK):
        other = os.dup(opened[-1])
    assert not files.is_locked(tmp_path / records.LOCK)
    os.close(other)


def test_a_stopped_owner_still_owns(tmp_path):
    owner = start(OWN, tmp_path)
    owner.send_signal(signal.SIGSTOP)
    with pytest.raises(files.FolderInUse), records.lock(tmp_path):
        pass
    kill(owner)


def test_find_run_prefers_the_last_started_unfinished_run(tmp_path):
    runs: dict[str, tuple[records.Status, str, str]] = {
        "a": ("interrupted", "x", "2030-01-01T00:00:00"),
        "b/c": ("running", "x", "2030-01-02T00:00:00"),
        "d": ("done", "x", "2030-01-03T00:00:00"),
        "e": ("running", "y", "2030-01-04T00:00:00"),
        "g": ("done", "z", "2030-01-05T00:00:00"),
        "h": ("done", "z", "2030-01-06T00:00:00"),
    }
    assert records.find_run(tmp_path / "nowhere", ["x"]) is None
    for name, (status, identity, started) in runs.items():
        (tmp_path / name).mkdir(parents=True)
        records.write_status(tmp_path / name, status, identity=identity, epoch=1, started=started)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / records.STATUS).write_text("{torn")
    assert records.find_run(tmp_path, ["x"]) == tmp_path / "b" / "c"
    assert records.find_run(tmp_path / "a", ["x"]) == tmp_path / "a"
    assert records.find_run(tmp_path, ["z"]) == tmp_path / "h"
    assert records.find_run(tmp_path, ["w"]) is None


def test_records_import_without_jax():
    code = "import sys, mnistjax.records; assert not {'jax', 'safetensors'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
