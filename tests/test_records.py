"""A run folder survives what machines do to it: kills, full disks, flipped bits, second owners."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistjax import records
from mnistjax.config import ConfigError

ARRAYS = {
    "state/params/Dense_0/kernel": np.linspace(-1, 1, 60, dtype=np.float32).reshape(12, 5),
    "state/params/half": np.asarray(jnp.array([[1.5, -0.0, 3e38]], jnp.bfloat16)),
    "state/step": np.array(7, np.int32),
    "state/mask": np.array([True, False]),
    "state/empty": np.zeros((0, 3), np.float32),
    "images": np.arange(6, dtype=np.uint8),
    "seed": np.array([1, 2**32 - 1], np.uint32),
}
META = {"epoch": 3, "best": 0.1 + 0.2, "identity": "ab'\"/é"}

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)


def same(left, right):
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype
        and left[n].shape == right[n].shape
        and left[n].tobytes() == right[n].tobytes()
        for n in left
    )


def start(code, *arguments):
    """A real process that runs `code` and has said its first line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_checkpoint_round_trips_every_dtype_and_type(tmp_path):
    records.save_checkpoint(tmp_path, ARRAYS, meta=META)
    loaded = records.load_checkpoint(tmp_path)
    assert loaded is not None
    assert same(ARRAYS, loaded.arrays)
    assert loaded.meta == META
    assert {k: type(v) for k, v in loaded.meta.items()} == {k: type(v) for k, v in META.items()}
    assert loaded.path == tmp_path / "checkpoint.safetensors"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(names, st.binary(max_size=20)), st.dictionaries(names, floats | st.integers() | names))
def test_any_names_and_meta_round_trip(tmp_path_factory, blobs, meta):
    folder = tmp_path_factory.mktemp("run")
    arrays = {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}
    records.save_checkpoint(folder, arrays, meta=meta)
    loaded = records.load_checkpoint(folder)
    assert loaded is not None
    assert same(arrays, loaded.arrays)
    assert loaded.meta == meta


def test_equal_states_have_equal_files(tmp_path):
    files = []
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        order = ARRAYS if number % 2 else dict(reversed(ARRAYS.items()))
        records.save_checkpoint(folder, order, meta=META)
        files.append((folder / records.CHECKPOINT).read_bytes())
    assert len(set(files)) == 1


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(records.CheckpointError, match="'x': complex64"):
        records.save_checkpoint(tmp_path, {"x": np.zeros(2, np.complex64)}, meta={})
    assert not list(tmp_path.iterdir())


def test_no_flipped_bit_goes_unseen(tmp_path):
    records.save_checkpoint(tmp_path, ARRAYS, meta=META)
    path = tmp_path / records.CHECKPOINT
    content = path.read_bytes()
    detected = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            loaded = records.load_checkpoint(tmp_path)
        except records.CheckpointError:
            detected += 1
            continue
        assert loaded is not None
        assert same(ARRAYS, loaded.arrays)  # white space of the header
        assert loaded.meta == META
    assert detected > 0.95 * len(content)


def test_a_cut_checkpoint_is_detected(tmp_path):
    records.save_checkpoint(tmp_path, ARRAYS, meta=META)
    path = tmp_path / records.CHECKPOINT
    content = path.read_bytes()
    for length in (0, 4, 8, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(records.CheckpointError):
            records.load_checkpoint(tmp_path)


def test_a_bad_checkpoint_falls_back_to_the_previous(tmp_path):
    assert records.load_checkpoint(tmp_path) is None
    for epoch in (1, 2, 3):
        records.save_checkpoint(tmp_path, ARRAYS, meta={"epoch": epoch})
    current, previous = tmp_path / records.CHECKPOINT, tmp_path / records.PREVIOUS
    current.write_bytes(current.read_bytes()[:-1] + b"?")
    with pytest.warns(RuntimeWarning, match=r"checkpoint\.safetensors .*checkpoint\.previous\.safetensors"):
        loaded = records.load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.meta["epoch"], loaded.path) == (2, previous)

    current.unlink()  # where a kill fell between the two renames
    with pytest.warns(RuntimeWarning, match="No such file"):
        assert records.load_checkpoint(tmp_path) is not None

    previous.write_bytes(b"junk")
    with pytest.raises(records.CheckpointError, match="no usable checkpoint"):
        records.load_checkpoint(tmp_path)


SAVE_FOREVER = """
import sys, numpy as np
from mnistjax import records
for epoch in range(1, 10**6):
    records.append_row(sys.argv[1], {"epoch": epoch, "val/loss": 1 / epoch})
    records.save_checkpoint(sys.argv[1], {"w": np.full(50_000, epoch, np.float32)}, meta={"epoch": epoch})
    if epoch == 1: print("saving", flush=True)
"""


@pytest.mark.filterwarnings("ignore:.*using")
def test_kill_9_at_any_moment_leaves_a_checkpoint_and_its_rows(tmp_path):
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start(SAVE_FOREVER, folder)
        time.sleep(random.Random(number).uniform(0, 0.05))
        kill(process)
        loaded = records.load_checkpoint(folder)
        assert loaded is not None
        epoch = loaded.meta["epoch"]
        assert isinstance(epoch, int)
        assert np.all(loaded.arrays["w"] == epoch)
        records.truncate_rows(folder, epoch)
        assert [row["epoch"] for row in records.read_rows(folder)] == list(range(1, epoch + 1))


FULL_DISK = """
import resource, sys, numpy as np
from mnistjax import records
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
def fails(write, *arguments, **options):
    try: write(*arguments, **options)
    except OSError: return True
folder = sys.argv[1]
assert fails(records.save_checkpoint, folder, {"w": np.ones(1000)}, meta={"epoch": 2})
assert fails(records.append_row, folder, {"epoch": 2, "note": "x" * 600})
assert fails(records.write_summary, folder, {"note": "x" * 600})
records.append_row(folder, {"epoch": 2})
print("done")
"""


def test_a_full_disk_raises_and_harms_nothing(tmp_path):
    records.save_checkpoint(tmp_path, {"w": np.zeros(1000)}, meta={"epoch": 0})
    records.save_checkpoint(tmp_path, {"w": np.zeros(1000)}, meta={"epoch": 1})
    records.append_row(tmp_path, {"epoch": 1})
    records.write_summary(tmp_path, {"test/loss": 1.0})
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


def test_non_finite_floats_are_words(tmp_path):
    records.append_row(tmp_path, {"epoch": 1, "val/loss": np.float32("nan"), "all": [float("inf"), -np.inf]})
    assert records.read_rows(tmp_path) == [{"epoch": 1, "val/loss": "nan", "all": ["inf", "-inf"]}]
    assert "NaN" not in (tmp_path / records.ROWS).read_text()


@pytest.mark.parametrize("torn", ['{"epoch": 3, "val/lo', '{"epoch": 3}', "\0\0\0", "x" * 9000])
def test_a_torn_row_is_dropped_and_written_over(tmp_path, torn):
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
    summary = {"test/loss": 0.1 + 0.2, "test/confusion_matrix": [[1, 2], [3, 4]], "data": {"name": "mnist"}}
    records.write_summary(tmp_path, summary)
    assert records.read_summary(tmp_path) == summary
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
    with pytest.raises(records.RunLocked, match=str(owner.pid)), records.lock(folder):
        pass
    kill(owner)
    with records.lock(folder):
        assert (folder / records.LOCK).read_text() == str(os.getpid())
        with pytest.raises(records.RunLocked, match=str(os.getpid())), records.lock(folder):
            pass
    with records.lock(folder):
        pass


def test_a_stopped_owner_still_owns(tmp_path):
    owner = start(OWN, tmp_path)
    owner.send_signal(signal.SIGSTOP)
    with pytest.raises(records.RunLocked), records.lock(tmp_path):
        pass
    kill(owner)


def test_find_run_takes_the_newest_that_is_not_done_then_the_newest(tmp_path):
    runs: dict[str, tuple[records.Status, str, str]] = {
        "a": ("interrupted", "x", "2030-01-01T00:00:00"),
        "b/c": ("running", "x", "2030-01-02T00:00:00"),
        "d": ("done", "x", "2030-01-03T00:00:00"),
        "e": ("running", "y", "2030-01-04T00:00:00"),
        "g": ("done", "z", "2030-01-05T00:00:00"),
        "h": ("done", "z", "2030-01-06T00:00:00"),
    }
    assert records.find_run(tmp_path / "nowhere", "x") is None
    for name, (status, identity, started) in runs.items():
        (tmp_path / name).mkdir(parents=True)
        records.write_status(tmp_path / name, status, identity=identity, epoch=1, started=started)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / records.STATUS).write_text("{torn")
    assert records.find_run(tmp_path, "x") == tmp_path / "b" / "c"
    assert records.find_run(tmp_path / "a", "x") == tmp_path / "a"
    assert records.find_run(tmp_path, "z") == tmp_path / "h"
    assert records.find_run(tmp_path, "w") is None


Slots = namedtuple("Slots", ["mu", "nu"])


def tree():
    optimizer = (Slots(jnp.ones((2, 3)), {"b": jnp.zeros(3, jnp.bfloat16)}), jnp.int32(4), None)
    return {"params": {"Dense_0": {"kernel": jnp.ones((2, 3))}}, "opt": optimizer}


def test_flatten_names_leaves_by_path_and_unflatten_reverses_it(tmp_path):
    arrays = records.flatten(tree())
    assert set(arrays) == {"params/Dense_0/kernel", "opt/0/mu", "opt/0/nu/b", "opt/1"}
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    records.save_checkpoint(tmp_path, arrays, meta={})
    loaded = records.load_checkpoint(tmp_path)
    assert loaded is not None
    for template in (tree(), jax.eval_shape(tree)):
        back = records.unflatten(template, loaded.arrays)
        assert jax.tree.structure(back) == jax.tree.structure(tree())
        assert same(records.flatten(back), arrays)


def test_unflatten_names_what_differs():
    arrays = records.flatten(tree())
    kernel = "params/Dense_0/kernel"
    wrong = {**arrays, kernel: np.ones((2, 4), np.float32)}
    with pytest.raises(
        records.CheckpointError, match=rf"'{kernel}': expected float32\[2, 3\], found float32\[2, 4\]"
    ):
        records.unflatten(tree(), wrong)
    with pytest.raises(records.CheckpointError, match=r"expected float32\[2, 3\], found float64\[2, 3\]"):
        records.unflatten(tree(), {**arrays, kernel: np.ones((2, 3))})
    with pytest.raises(records.CheckpointError, match=r"'extra' is not expected, found uint8\[1\]"):
        records.unflatten(tree(), {**arrays, "extra": np.zeros(1, np.uint8)})
    arrays.pop(kernel)
    with pytest.raises(records.CheckpointError, match=rf"'{kernel}' is missing, expected float32\[2, 3\]"):
        records.unflatten(tree(), arrays)
    with pytest.raises(records.CheckpointError, match="two leaves"):
        records.flatten({"a": {"b": 1}, "a/b": 2})


def test_records_import_without_jax():
    code = "import sys, mnistjax.records; assert not {'jax', 'safetensors'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
