"""Data sets: real TFDS builders on small files, all kinds of damage, splits and orders.

No test uses the network: names other than this machine's do not resolve.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnistjax import data
from mnistjax.cli.overrides import conf_dir
from mnistjax.config import ConfigError
from mnistjax.data import DataError, digits, idx, prepared
from mnistjax.data.arrays import ARRAYS

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("MNISTJAX_RAW_DIR") or REPOSITORY / "../shared/data/mnist").resolve()
HAS_REAL = all((REAL / f"{name}.gz").is_file() for name in idx.FILES.values())
COUNTS = {"train": 50, "test": 20}  # images of the small data sets
RESOLVE = socket.getaddrinfo


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """No network except this machine, and none of the user's data folders."""

    def resolve(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(f"tests use no network: {host}")
        return RESOLVE(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1,localhost")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.delenv("MNISTJAX_RAW_DIR", raising=False)


def to_idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def draw(part: str, *, classes: int = 10, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of a small data set."""
    random, count = np.random.RandomState(len(part)), COUNTS[part]
    images = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
    return images, (np.arange(count) % classes + first).astype(np.uint8)


def write_official(folder: Path, *, suffix: str = ".gz") -> Path:
    """Four small files under MNIST's names."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in COUNTS:
        for kind, array in zip(("images", "labels"), draw(part), strict=True):
            content = to_idx(array)
            path = folder / (idx.FILES[f"{part}_{kind}"] + suffix)
            path.write_bytes(gzip.compress(content, mtime=0) if suffix else content)
    return folder


def pin(folder: Path, setattr, *, builder: str = "MNIST", url: str | None = None) -> None:
    """Pins the files in `folder` as TFDS's official ones, by `setattr(object, name, value)`."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    from mnistjax.data import builders

    cls = getattr(builders, builder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    base = url or (cls.URL if builder != "EMNIST" else cls.URL.rpartition("/")[0] + "/")

    def info(path: Path) -> UrlInfo:
        content = path.read_bytes()
        return UrlInfo(Size(len(content)), hashlib.sha256(content).hexdigest(), path.name)

    setattr(cls, "url_infos", {base + path.name: info(path) for path in files})
    if url:
        setattr(cls, "URL", url)
    setattr(builders._IdxBuilder, "counts", (COUNTS["train"], COUNTS["test"]))
    setattr(prepared, "SHA256", {**prepared.SHA256, "mnist": None})


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of small files, pinned as TFDS's official ones."""
    folder = write_official(tmp_path / "raw")
    pin(folder, monkeypatch.setattr)
    return folder


def one_line(error: pytest.ExceptionInfo) -> str:
    """The message, which must be one line without a chain of causes."""
    text = str(error.value)
    assert "\n" not in text
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return text


def refused_within(limit: int, call: Callable, match: str | None = None) -> str:
    """The one line of DataError in which the call ends, with at most `limit` bytes of memory.

    What other tests left running in this process counts as well, so it may try three times.
    """
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        with pytest.raises(DataError, match=match) as error:
            call()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        text = one_line(error)
        if peaks[-1] <= limit:
            return text
    raise AssertionError(f"{peaks} bytes, with the threads {threading.enumerate()}")


# --- real MNIST


@pytest.mark.slow
@pytest.mark.skipif(not HAS_REAL, reason="needs the official MNIST files")
def test_real_mnist(tmp_path):
    dataset = data.load_data("mnist", data_dir=tmp_path, raw_dir=REAL)
    assert [len(part.labels) for part in (dataset.train, dataset.val, dataset.test)] == [
        48_000,
        12_000,
        10_000,
    ]
    assert dataset.sha256 == "9ff647f7e670d4f1525fde4d88d4beabb5f81c33f3917b7fba3724c8cc78e9d7"
    counts = dataset.class_counts
    assert counts["test"] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    whole = np.add(counts["train"], counts["val"]).tolist()
    assert whole == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    data._load.cache_clear()
    started = time.perf_counter()
    assert data.load_data("mnist", data_dir=tmp_path).sha256 == dataset.sha256
    assert time.perf_counter() - started < 1  # second


# --- preparing


def test_builders_extend_tfds_and_do_not_replace_its_own():
    import tensorflow_datasets as tfds

    from mnistjax.data import builders

    builder: Any
    for builder, _ in builders.BUILDERS.values():
        stock: Any = tfds.builder_cls(builder.name)
        assert issubclass(builder, stock)
        assert builder is not stock
        assert getattr(builder, "URL", None) == getattr(stock, "URL", None)
        assert builder.VERSION == stock.VERSION
    pinned: Any = builders.MNIST.url_infos
    pinned = pinned[builders.MNIST.URL + "t10k-labels-idx1-ubyte.gz"]
    assert pinned.checksum == "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"


def test_arrays_are_those_of_the_files(small, tmp_path):
    dataset = data.load_data("mnist", data_dir=tmp_path / "data", raw_dir=small)
    images, labels = draw("train")
    train, val = data.split(COUNTS["train"])
    for part, rows in ((dataset.train, train), (dataset.val, val)):
        np.testing.assert_array_equal(part.images, images[rows])
        np.testing.assert_array_equal(part.labels, labels[rows])
    np.testing.assert_array_equal(dataset.test.images, draw("test")[0])
    for part in (dataset.train, dataset.val, dataset.test):
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int32)
        assert part.images.flags.c_contiguous
        assert not part.images.flags.writeable
    assert dataset.class_names == tuple("0123456789")
    assert (dataset.num_classes, dataset.banner) == (10, None)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"mnistjax"}
    assert data.load_data("mnist", data_dir=tmp_path / "data", raw_dir=small) is dataset


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_data_sets_like_mnist(name, tmp_path, monkeypatch):
    folder = write_official(tmp_path / "raw" / name)
    pin(folder, monkeypatch.setattr, builder={"fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}[name])
    dataset = data.load_data(name, raw_dir=tmp_path / "raw")
    assert dataset.class_names[0] == {"fashion_mnist": "T-shirt/top", "kmnist": "o"}[name]
    np.testing.assert_array_equal(dataset.test.images, draw("test")[0])


EMNIST = {"balanced": 47, "letters": 26, "digits": 10, "byclass": 62, "bymerge": 47, "mnist": 10}


def write_emnist(path: Path, config: str, *, first: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for part in COUNTS:
            images, labels = draw(part, classes=EMNIST[config], first=first)
            for name, array in (("images-idx3", images.swapaxes(1, 2)), ("labels-idx1", labels)):
                member = f"gzip/emnist-{config}-{part}-{name}-ubyte.gz"
                archive.writestr(member, gzip.compress(to_idx(np.ascontiguousarray(array)), mtime=0))


def pin_emnist(path: Path, config: str, monkeypatch) -> None:
    from mnistjax.data import builders

    pin(path.parent, monkeypatch.setattr, builder="EMNIST")
    row = next(row for row in builders.EMNIST.BUILDER_CONFIGS if row.name == config)
    monkeypatch.setattr(row, "train_examples", COUNTS["train"])
    monkeypatch.setattr(row, "test_examples", COUNTS["test"])


@pytest.mark.parametrize("config", EMNIST)
def test_emnist_is_upright_and_starts_at_0(config, tmp_path, monkeypatch):
    path = tmp_path / "raw" / "emnist" / "gzip.zip"
    write_emnist(path, config, first=int(config == "letters"))
    pin_emnist(path, config, monkeypatch)
    dataset = data.load_data(f"emnist_{config}", raw_dir=tmp_path / "raw")
    images, labels = draw("test", classes=EMNIST[config])
    np.testing.assert_array_equal(dataset.test.images, images)
    np.testing.assert_array_equal(dataset.test.labels, labels)
    assert dataset.num_classes == EMNIST[config]
    assert dataset.class_names[:2] == (("A", "B") if config == "letters" else ("0", "1"))
    assert dataset.class_names[-1] == {"byclass": "z", "letters": "Z", "digits": "9", "mnist": "9"}.get(
        config, "t"
    )


def test_the_pages_tell_how_many_images_emnist_has():
    from mnistjax.data import builders

    page = (Path(data.__file__).parent / "README.md").read_text()
    assert {*data.list_datasets()} - {*data.SUBSETS} <= {*re.findall(r"\w+", page)}
    for row in builders.EMNIST.BUILDER_CONFIGS:
        count = f"{row.train_examples:,} + {row.test_examples:,}"
        assert any(f"emnist_{row.name}`" in line and count in line for line in page.splitlines())
        assert count in (conf_dir() / "data" / f"emnist_{row.name}.yaml").read_text()


def test_letters_that_start_at_0_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "emnist" / "gzip.zip"
    write_emnist(path, "letters", first=0)
    pin_emnist(path, "letters", monkeypatch)
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz: labels 1 to 26 expected, found 0") as error:
        data.load_data("emnist_letters", raw_dir=tmp_path)
    one_line(error)


def test_emnist_counts_are_those_of_the_archive():
    from mnistjax.data import builders

    counts = {row.name: (row.train_examples, row.test_examples) for row in builders.EMNIST.BUILDER_CONFIGS}
    assert counts["letters"] == (26 * 4800, 26 * 800)
    assert counts["balanced"] == (47 * 2400, 47 * 400)
    assert set(counts) == set(EMNIST)


CHILD = """
import sys, time
from pathlib import Path
from typing import Any
sys.path.insert(0, {tests!r})
import test_data
from mnistjax import data
from mnistjax.data import builders
test_data.pin(Path({raw!r}), setattr)
if {stop!r}:
    def decode(*args):
        Path({stop!r}).touch()
        time.sleep(600)
    builders.decode = decode
started = time.time()
dataset = data.load_data("mnist", data_dir={home!r}, raw_dir={raw!r})
foreign = [name for name in ("tensorflow", "jax", "sklearn") if name in sys.modules]
print(dataset.sha256, foreign)
"""


def start_child(small: Path, home: Path, stop: str = "") -> subprocess.Popen:
    code = CHILD.format(tests=str(Path(__file__).parent), raw=str(small), home=str(home), stop=stop)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_prepare_at_once(small, tmp_path):
    children = [start_child(small, tmp_path / "data") for _ in range(2)]
    results = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    expected = data.load_data("mnist", data_dir=tmp_path / "data").sha256
    for out, err in results:
        assert out == f"{expected} []\n"  # no TensorFlow, and no output of TFDS on stdout
        assert err == ""
    assert sorted(os.listdir(tmp_path / "data/mnistjax")) == ["downloads", "mnist", "mnist.lock"]


@pytest.mark.slow
def test_kill_leaves_nothing_that_counts_as_prepared(small, tmp_path):
    home, stop = tmp_path / "data", tmp_path / "stop"
    child = start_child(small, home, str(stop))
    while not stop.exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (home / "mnistjax/mnist.partial").exists()
    assert not (home / "mnistjax/mnist").exists()
    dataset = data.load_data("mnist", data_dir=home, raw_dir=small)
    np.testing.assert_array_equal(dataset.test.images, draw("test")[0])
    assert not (home / "mnistjax/mnist.partial").exists()


def test_failure_leaves_nothing(small, tmp_path):
    (small / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(DataError):
        data.load_data("mnist", data_dir=tmp_path / "data", raw_dir=small)
    assert os.listdir(tmp_path / "data/mnistjax") == ["mnist.lock"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def test_damaged_arrays_are_read_again_from_the_records(small, tmp_path, caplog):
    home = tmp_path / "data"
    before = data.load_data("mnist", data_dir=home, raw_dir=small)
    data._load.cache_clear()
    flip(home / "mnistjax/mnist/train_images.npy")
    after = data.load_data("mnist", data_dir=home)  # without files or network
    assert after.sha256 == before.sha256
    assert len(caplog.records) == 1
    assert "preparing mnist again" in caplog.text
    prepared.read_arrays("mnist", home / "mnistjax/mnist")


def test_records_of_other_images_restore_nothing(tmp_path):
    images, labels = np.zeros((10, 4, 4), np.uint8), np.arange(10, dtype=np.int32) % 2
    one, other = (data.Arrays(images + level, labels, images, labels, ("a", "b")) for level in (0, 1))
    recipe = prepared.Recipe(lambda *_: one, restore=lambda _: other)
    for _ in range(2):
        found = prepared.load_prepared("mine", recipe, tmp_path, None)
        assert prepared.digest(found) == prepared.digest(one)
        (tmp_path / "mnistjax/mine/train_labels.npy").write_bytes(b"")


@pytest.mark.parametrize("victim", ["manifest.json", "tfds", "test_labels.npy"])
def test_damaged_records_are_prepared_again_from_the_source(victim, small, tmp_path, caplog):
    home = tmp_path / "data"
    before = data.load_data("mnist", data_dir=home, raw_dir=small)
    data._load.cache_clear()
    folder = home / "mnistjax/mnist"
    (folder / "train_labels.npy").write_bytes(b"")
    for path in folder.rglob("*.array_record*") if victim == "tfds" else [folder / victim]:
        path.write_bytes(b"{")
    assert data.load_data("mnist", data_dir=home, raw_dir=small).sha256 == before.sha256
    assert "damaged" in caplog.text
    assert sorted(os.listdir(home / "mnistjax")) == ["downloads", "mnist", "mnist.lock"]


def put_header(path, shape, dtype="|u1", padding=0):
    """Replaces the header of a .npy file by one that claims another shape."""
    described = repr({"descr": dtype, "fortran_order": False, "shape": shape}) + " " * padding + "\n"
    head = b"\x93NUMPY\x02\x00" + len(described).to_bytes(4, "little") + described.encode()
    path.write_bytes(head + path.read_bytes()[128:])


def put_link(path):
    path.rename(path.with_suffix(".kept"))
    path.symlink_to(path.with_suffix(".kept"))


def put(make):
    """A function that replaces a file by something else."""

    def replace(path):
        path.unlink()
        make(path)

    return replace


DAMAGE = {
    "a huge shape": ("train_images.npy", lambda path: put_header(path, (10**12, 28, 28))),
    "a negative shape": ("train_images.npy", lambda path: put_header(path, (-50, 28, 28))),
    "a long header": ("train_images.npy", lambda path: put_header(path, (50, 28, 28), padding=2**25)),
    "objects": ("test_labels.npy", lambda path: np.save(path, np.array([{}, 1], object))),
    "other types": ("test_labels.npy", lambda path: np.save(path, np.zeros(20))),
    "a terabyte": ("test_images.npy", lambda path: os.truncate(path, 2**40)),
    "nothing": ("test_images.npy", lambda path: os.truncate(path, 128)),
    "no file": ("test_images.npy", Path.unlink),
    "a folder": ("test_images.npy", put(Path.mkdir)),
    "a pipe": ("train_labels.npy", put(os.mkfifo)),
    "a device": ("train_labels.npy", put(lambda path: path.symlink_to("/dev/zero"))),
    "a link": ("train_labels.npy", put_link),
    "a pipe as manifest": ("manifest.json", put(os.mkfifo)),
    "a broken link as manifest": ("manifest.json", put(lambda path: path.symlink_to("nowhere"))),
    "a deep manifest": ("manifest.json", lambda path: path.write_text("[" * 10**5)),
    "a large manifest": ("manifest.json", lambda path: os.truncate(path, 2**40)),
    "a list as manifest": ("manifest.json", lambda path: path.write_text("[]")),
    "null as manifest": ("manifest.json", lambda path: path.write_text("null")),
    "a number as names": ("manifest.json", lambda path: path.write_text('{"sha256": "", "class_names": 3}')),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_data_is_prepared_again(case, small, tmp_path, caplog):
    home, (victim, damage) = tmp_path / "data", DAMAGE[case]
    before = data.load_data("mnist", data_dir=home, raw_dir=small)
    data._load.cache_clear()
    damage(home / "mnistjax/mnist" / victim)
    tracemalloc.start()
    after = data.load_data("mnist", data_dir=home, raw_dir=small)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert after.sha256 == before.sha256
    assert peak < 32 << 20  # bytes
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "damaged" in caplog.text
    prepared.read_arrays("mnist", home / "mnistjax/mnist")


def test_records_that_are_a_pipe_are_not_waited_for(small, tmp_path):
    before = data.load_data("mnist", data_dir=tmp_path, raw_dir=small)
    data._load.cache_clear()
    (tmp_path / "mnistjax/mnist/test_labels.npy").unlink()
    for path in [*tmp_path.rglob("*.array_record*"), *tmp_path.rglob("dataset_info.json")]:
        put(os.mkfifo)(path)
    assert data.load_data("mnist", data_dir=tmp_path, raw_dir=small).sha256 == before.sha256


@pytest.mark.parametrize("name", ["mnist", "mnist.partial", "mnist.damaged"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_files_with_the_names_of_our_folders_are_replaced(name, make, small, tmp_path):
    home = tmp_path / "data/mnistjax"
    home.mkdir(parents=True)
    make(home / name)
    dataset = data.load_data("mnist", data_dir=tmp_path / "data", raw_dir=small)
    np.testing.assert_array_equal(dataset.test.images, draw("test")[0])
    assert sorted(os.listdir(home)) == ["downloads", "mnist", "mnist.lock"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_lock_that_is_not_a_file_is_refused(make, small, tmp_path):
    (tmp_path / "data/mnistjax").mkdir(parents=True)
    make(tmp_path / "data/mnistjax/mnist.lock")
    with pytest.raises(ConfigError, match=r"mnist\.lock is (not a regular file|a link)") as error:
        data.load_data("mnist", data_dir=tmp_path / "data", raw_dir=small)
    one_line(error)


@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=4k", "No space left on device"), ("size=100k", "No space left"), ("ro", "Read-only file system")],
)
def test_a_full_or_read_only_disk_is_reported(options, reason, small, disk):
    folder = disk(options)
    with pytest.raises(DataError, match=rf"can't be prepared: {folder}/mnistjax.*: {reason}") as error:
        data.load_data("mnist", data_dir=folder, raw_dir=small)
    one_line(error)
    assert not [*folder.glob("mnistjax/mnist"), *folder.glob("mnistjax/*.partial")]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_REAL, reason="needs the official MNIST files")
@pytest.mark.parametrize("megabytes", [1, 3, 12, 20, 40, 60, 70])
def test_real_mnist_on_a_small_disk(megabytes, disk):
    folder = disk(f"size={megabytes}m")
    with pytest.raises(DataError, match=rf"{folder}/mnistjax\S*: No space left on device; choose") as error:
        data.load_data("mnist", data_dir=folder, raw_dir=REAL)
    one_line(error)
    assert not [*folder.rglob("*.npy"), *folder.rglob("*.array_record*"), *folder.rglob("*.tmp")]


def test_later_loads_need_no_tfds(small, tmp_path):
    expected = data.load_data("mnist", data_dir=tmp_path, raw_dir=small).sha256
    code = """if True:
        import sys
        from mnistjax import data
        from mnistjax.data import prepared
        prepared.SHA256["mnist"] = None
        print(data.load_data("mnist").sha256)
        print([m for m in ("tensorflow", "tensorflow_datasets", "sklearn", "jax") if m in sys.modules])"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TFDS_DATA_DIR": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split("\n")[:2] == [expected, "[]"]


def test_an_impossible_data_folder_is_refused(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file.*data\.dir=FOLDER") as error:
        data.load_data("mnist", data_dir=tmp_path / "file", raw_dir=small)
    one_line(error)


# --- damaged and wrong files

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
CONTENT = to_idx(draw("train")[0])


def header(*sizes: int, magic: int = 0x0803) -> bytes:
    return np.array([magic, *sizes], ">u4").tobytes()


DAMAGED = {
    "empty": (b"", "magic 00 00 08 03 or 00 00 08 04 expected, found bytes none"),
    "header only": (CONTENT[:9], "truncated: a header of 16 bytes"),
    "truncated": (CONTENT[:-1], "truncated: 39200 bytes after the header expected, found 39199"),
    "truncated gzip": (gzip.compress(CONTENT)[:-20], "readable IDX file expected"),
    "damaged gzip": (gzip.compress(CONTENT)[:-8] + bytes(8), "readable IDX file expected"),
    "longer": (CONTENT + b"x", "found more"),
    "wrong magic": (header(50, 28, 28, magic=0x0D03) + CONTENT[16:], "found bytes 00 00 0d 03"),
    "labels": (to_idx(draw("train")[1]), "found bytes 00 00 08 01"),
    "HTML": (b"\n<!DOCTYPE html><html>", "found an HTML page"),
    "absurd count": (
        header(2**31, 28, 28),
        "dimensions 1 to 2,000,000 x 1 to 4096 x 1 to 4096 expected, found 2147483648",
    ),
    "absurd size": (
        gzip.compress(header(2_000_000, 4096, 4096) + bytes(2**24)),
        "at most 4,294,967,296 bytes expected, found 33,554,432,000,000",
    ),
    "large count": (header(1_900_000, 28, 28) + bytes(100), "truncated"),
    "no image": (header(0, 28, 28), "dimensions"),
    "no side": (header(50, 0, 28), "found 50 x 0 x 28"),
    "count mismatch": (to_idx(draw("train")[0][:-1]), "49 labels expected as in"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_of_the_user_are_refused(case, tmp_path):
    content, expected = DAMAGED[case]
    (write_official(tmp_path) / IMAGES).write_bytes(content)
    message = refused_within(8 << 20, lambda: data.load_data("idx", raw_dir=tmp_path))
    assert expected in message
    assert (LABELS if case == "count mismatch" else IMAGES) in message


def put_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


NO_FILES = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": put_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["idx", "mnist"])
def test_anything_but_a_file_is_refused(name, kind, small, tmp_path, monkeypatch):
    monkeypatch.chdir(small)  # a socket's name has at most 107 bytes
    (small / IMAGES).unlink()
    NO_FILES[kind](Path(IMAGES))
    with pytest.raises(DataError, match=rf"{IMAGES}: a file expected, found {kind}") as error:
        data.load_data(name, data_dir=tmp_path, raw_dir=small)
    one_line(error)


def test_files_may_be_links(small, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in small.iterdir():
        (linked / path.name).symlink_to(path)
    for name in ("idx", "mnist"):
        np.testing.assert_array_equal(data.load_data(name, raw_dir=linked).test.images, draw("test")[0])


@pytest.mark.parametrize("name", ["idx", "mnist"])
def test_a_file_of_a_terabyte_is_not_read(name, small):
    """gzip would skip its tail of zeros byte by byte."""
    os.truncate(small / IMAGES, 2**40)
    with pytest.raises(DataError, match=rf"{IMAGES}: .* bytes.* expected, found 1,099,511,627,776") as error:
        data.load_data(name, raw_dir=small)
    one_line(error)


def test_a_zip_bomb_takes_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "emnist" / "gzip.zip"
    write_emnist(path, "digits", first=0)
    bomb = gzip.compress(header(50, 28, 28) + bytes(2**27), compresslevel=1)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, bomb if "train-images" in name else content)
    pin_emnist(path, "digits", monkeypatch)
    refused_within(64 << 20, lambda: data.load_data("emnist_digits", raw_dir=tmp_path), "found more")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["idx", "mnist"])
def test_an_unreadable_file(name, small):
    (small / IMAGES).chmod(0)
    with pytest.raises(DataError, match=rf"{IMAGES}.*Permission denied") as error:
        data.load_data(name, raw_dir=small)
    one_line(error)


@pytest.mark.parametrize(
    ("content", "looks"), [(b"<html>" * 9000, "an HTML page"), (b"\x1f\x8b", "truncated"), (b"x" * 99999, "")]
)
def test_wrong_checksum(content, looks, small):
    expected = hashlib.sha256((small / IMAGES).read_bytes()).hexdigest()
    (small / IMAGES).write_bytes(content)
    with pytest.raises(DataError) as error:
        data.load_data("mnist", raw_dir=small)
    message = one_line(error)
    assert IMAGES in message
    assert f"SHA-256 {expected}" in message
    assert hashlib.sha256(content).hexdigest() in message
    assert looks in message
    assert "https://storage.googleapis.com" in message


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (LABELS, to_idx(np.full(50, 10, np.uint8)), "labels 0 to 9 expected, found 10"),
        (LABELS, to_idx(np.zeros(49, np.uint8)), "50 labels expected"),
        (IMAGES, header(2**31, 28, 28), "dimensions"),
        (IMAGES, b"<html>", "HTML"),
    ],
)
def test_wrong_files_with_a_right_checksum_are_refused(file, content, expected, small, monkeypatch):
    (small / file).write_bytes(gzip.compress(content))
    pin(small, monkeypatch.setattr)
    with pytest.raises(DataError) as error:
        data.load_data("mnist", raw_dir=small)
    message = one_line(error)
    assert file in message
    assert expected in message


def test_another_number_of_images_than_pinned(small, monkeypatch):
    from mnistjax.data import builders

    monkeypatch.setattr(builders._IdxBuilder, "counts", (51, COUNTS["test"]))
    with pytest.raises(DataError, match=rf"{IMAGES}: 51 images expected, found 50"):
        data.load_data("mnist", raw_dir=small)


def test_another_content_than_pinned(small, monkeypatch):
    monkeypatch.setitem(prepared.SHA256, "mnist", "0" * 64)
    with pytest.raises(DataError, match="decoded arrays of SHA-256 0000"):
        data.load_data("mnist", raw_dir=small)


def test_missing_files_are_named_and_not_downloaded(small):
    (small / IMAGES).unlink()
    for name in ("mnist", "auto"):
        with pytest.raises(DataError, match=rf"official files of mnist.*{IMAGES} expected") as error:
            data.load_data(name, raw_dir=small)
        one_line(error)


@pytest.mark.parametrize("folder", ["~nobody-of-this-name/data", "x" * 5000])
def test_impossible_folders_are_refused(folder):
    for options in ({"data_dir": folder}, {"raw_dir": folder}):
        with pytest.raises(ConfigError, match=r"nobody-of-this-name|xxx") as error:
            data.load_data("mnist", **options)
        assert len(one_line(error)) < 1000


@pytest.mark.parametrize("kind", ["idx", "npz", "folder"])
def test_own_files_are_loaded_again_only_if_they_have_changed(kind, tmp_path):
    def write(number: int) -> None:
        images = np.full((20, 6, 6), number, np.uint8)
        parts: dict[str, Any] = dict(
            zip(ARRAYS, (images, np.arange(20) % 2, images[:9], np.arange(9) % 2), strict=True)
        )
        for index, label in enumerate(parts["train_labels"]):
            (tmp_path / "folder" / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[0]).save(tmp_path / "folder" / str(label) / f"{number}-{index}.png")
        for part, name in idx.FILES.items():
            (tmp_path / name).write_bytes(to_idx(parts[part].astype(np.uint8)))
        np.savez(tmp_path / "own.npz", **parts)

    def load() -> data.Dataset:
        place = tmp_path / "folder" if kind == "folder" else tmp_path
        return data.load_data(kind, raw_dir=place)

    write(3)
    first = load()
    assert load() is first
    write(4)
    second = load()
    assert second is not first
    assert second.train.images.max() == 4
    assert load() is second


def test_missing_folder(tmp_path, monkeypatch, caplog):
    for name in ("mnist", "auto", "idx", "digits"):
        with pytest.raises(DataError, match=r"data\.raw_dir=.*nowhere"):
            data.load_data(name, raw_dir=tmp_path / "nowhere")
    monkeypatch.setenv("MNISTJAX_RAW_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"MNISTJAX_RAW_DIR=.*nowhere"):
        data.load_data("mnist")
    assert data.load_data("digits").banner is None
    assert data.load_data("auto").name == "digits"
    assert "nowhere" in caplog.text


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_array_or_a_data_error(content, with_header):
    content = header(1 + len(content) // 784, 28, 28) + content if with_header else content
    for packed in (content, gzip.compress(content)):
        for item in (idx.IMAGE, idx.LABEL):
            try:
                with idx.readable("name"):
                    array = idx.parse(io.BytesIO(packed), "name", item)
            except DataError:
                continue
            assert array.shape[1:] == item
            assert array.nbytes == len(content) - 4 * (2 + len(item))


@given(st.integers(1, 2**32 - 1), st.binary(max_size=60), st.booleans())
def test_memory_follows_the_content_not_the_header(count, content, zipped):
    packed = header(count, 28, 28) + content
    packed = gzip.compress(packed) if zipped else packed
    refused_within(4 << 20, lambda: idx.parse(io.BytesIO(packed), "name", idx.IMAGE))


@given(st.integers(1, 5), st.data())
def test_idx_round_trip(count, draws):
    array = np.frombuffer(draws.draw(st.binary(min_size=count * 784, max_size=count * 784)), np.uint8)
    array = array.reshape(count, 28, 28)
    np.testing.assert_array_equal(idx.parse(io.BytesIO(to_idx(array)), "name", idx.IMAGE), array)


# --- the network


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(folder, requests) of a local web server with small files, pinned as TFDS's official ones."""
    folder, requests = write_official(tmp_path / "www"), []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, format, *args):
            requests.append(self.command + self.path)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    pin(folder, monkeypatch.setattr, url=f"http://127.0.0.1:{running.server_port}/")
    yield folder, requests
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_download(name, server, capsys):
    dataset = data.load_data(name)
    assert (dataset.name, dataset.banner) == ("mnist", None)
    np.testing.assert_array_equal(dataset.test.images, draw("test")[0])
    assert sum(request.startswith("GET") for request in server[1]) == 4
    assert capsys.readouterr() == ("", "")


def test_download_of_another_file(server):
    (server[0] / IMAGES).write_bytes(b"<html>sign in</html>")
    for name in ("mnist", "auto"):
        with pytest.raises(DataError, match=rf"{IMAGES}.*wrong checksum.*Expected.*Got") as error:
            data.load_data(name)
        one_line(error)


def test_no_network(tmp_path):
    for name in ("mnist", "emnist_letters"):
        with pytest.raises(
            DataError, match=r"http.*can't be downloaded.*raw_dir=FOLDER.*data=digits"
        ) as error:
            data.load_data(name)
        one_line(error)
    assert not list(tmp_path.glob("home/mnistjax/*.partial"))


def test_a_silent_server_counts_as_unreachable(tmp_path, monkeypatch):
    from mnistjax.data import download

    folder = write_official(tmp_path / "www")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        pin(folder, monkeypatch.setattr, url=f"http://127.0.0.1:{silent.getsockname()[1]}/")
        monkeypatch.setattr(download, "PROBE_SECONDS", 0.3)
        started = time.perf_counter()
        with pytest.raises(DataError, match="can't be downloaded"):
            data.load_data("mnist")
        assert time.perf_counter() - started < 3  # seconds
        fallback = data.load_data("auto")
    assert fallback.name == "digits"


def test_a_hanging_name_server_counts_as_unreachable(monkeypatch):
    from mnistjax.data import download

    over = threading.Event()

    def resolve(*args, **kwargs):
        over.wait()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)
    started = time.perf_counter()
    with pytest.raises(DataError, match="no answer"):
        download.check_reachable("https://example.org/file")
    assert time.perf_counter() - started < 2  # seconds
    over.set()


def test_a_stalled_download_ends(tmp_path, monkeypatch):
    from mnistjax.data import download

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(b"x" * 1000)
            self.wfile.flush()
            time.sleep(3)

        def log_message(self, format, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{running.server_port}/"
    pin(write_official(tmp_path / "www"), monkeypatch.setattr, url=url)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    with pytest.raises(DataError, match=r"can't be downloaded \(ConnectionError\)") as error:
        data.load_data("mnist")
    one_line(error)
    running.shutdown()
    running.server_close()


# --- auto


def test_auto_falls_back_to_the_digits_with_a_banner():
    dataset = data.load_data()
    assert dataset.name == "digits"
    assert "NOT MNIST" in (dataset.banner or "")
    assert "1,797" in (dataset.banner or "")
    assert data.load_data() is dataset
    assert dataset.sha256 == data.load_data("digits").sha256


def test_auto_takes_mnist_from_the_folder_and_later_as_prepared(small, monkeypatch):
    monkeypatch.setenv("MNISTJAX_RAW_DIR", str(small))
    assert data.load_data("auto") is data.load_data("mnist")
    monkeypatch.delenv("MNISTJAX_RAW_DIR")
    assert data.load_data("auto").name == "mnist"


def test_auto_does_not_hide_broken_mnist(small, monkeypatch):
    (small / IMAGES).write_bytes(b"<html>")
    monkeypatch.setenv("MNISTJAX_RAW_DIR", str(small))
    with pytest.raises(DataError, match="wrong checksum"):
        data.load_data("auto")


def test_auto_warns_of_a_folder_without_mnist(tmp_path, monkeypatch, caplog):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("MNISTJAX_RAW_DIR", str(tmp_path / "empty"))
    assert data.load_data("auto").name == "digits"
    assert "no file of MNIST" in caplog.text


# --- the user's files, digits, registered data sets


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_users_own_files(suffix, tmp_path):
    write_official(tmp_path, suffix=suffix)
    dataset = data.load_data("idx", raw_dir=tmp_path)
    np.testing.assert_array_equal(dataset.test.images, draw("test")[0])
    assert dataset.class_names == tuple("0123456789")


def test_idx_needs_a_folder_and_two_classes(tmp_path):
    with pytest.raises(DataError, match="raw_dir=FOLDER"):
        data.load_data("idx")
    for kind in ("train", "test"):
        name = idx.FILES[f"{kind}_labels"] + ".gz"
        (write_official(tmp_path) / name).write_bytes(to_idx(np.zeros(COUNTS[kind], np.uint8)))
    write_official(tmp_path / "whole")
    for kind in ("train", "test"):
        name = idx.FILES[f"{kind}_labels"] + ".gz"
        (tmp_path / "whole" / name).write_bytes(to_idx(np.zeros(COUNTS[kind], np.uint8)))
    assert data.load_data("idx", raw_dir=tmp_path / "whole").class_names == ("0", "1")


def test_digits():
    dataset = data.load_data("digits")
    counts = dataset.class_counts
    assert [len(part.labels) for part in (dataset.train, dataset.val, dataset.test)] == [1150, 288, 359]
    whole = np.add(np.add(counts["train"], counts["val"]), counts["test"])
    np.testing.assert_allclose(counts["test"], whole / 5, atol=0.5)
    assert dataset.sha256 == "bfe0f5d1375453c960e304faf67eeab22ec70182ef5c5c02f1a33c2a42bfb544"


def test_the_digits_are_read_as_scikit_learn_reads_them(monkeypatch):
    rows = digits.read_embedded()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    np.testing.assert_array_equal(rows, digits.read_embedded())


@given(st.integers(0, 16))
def test_enlarging_keeps_flat_images_flat(value):
    image = digits.enlarge(np.full((1, 8, 8), value))[0]
    assert (image[4:24, 4:24] == round(value * 255 / 16 + 1e-9)).all()
    assert image[:4].sum() == image[24:].sum() == image[:, :4].sum() == image[:, 24:].sum() == 0


def test_enlarging_keeps_left_and_top():
    corner = np.zeros((1, 8, 8), int)
    corner[0, 1, 6] = 16  # row 1, column 6
    image = digits.enlarge(corner)[0]
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert (row < 10, column > 18) == (True, True)


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(data, "DATASETS", dict(data.DATASETS))


def load_stripes():
    return draw("train", classes=3), draw("test", classes=3), ["a", "b", "c"]


def test_a_registered_data_set(table):
    data.register_dataset("stripes", load_stripes)
    dataset = data.load_data("stripes")
    assert [len(part.labels) for part in (dataset.train, dataset.val, dataset.test)] == [40, 10, 20]
    assert dataset.class_names == ("a", "b", "c")
    assert "stripes" in data.list_datasets()
    with pytest.raises(ConfigError, match="built in"):
        data.register_dataset("mnist", load_stripes)


def test_a_data_set_from_an_entry_point(table, monkeypatch, tmp_path):
    (tmp_path / "stripes.dist-info").mkdir()
    (tmp_path / "stripes.dist-info/entry_points.txt").write_text(
        "[mnistjax.datasets]\nstriped = stripes_data:load\n"
    )
    (tmp_path / "stripes.dist-info/METADATA").write_text("Name: stripes\nVersion: 1\n")
    (tmp_path / "stripes_data.py").write_text("from test_data import load_stripes as load\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    assert "striped" in data.list_datasets()
    assert "stripes_data" not in sys.modules
    assert data.load_data("striped").num_classes == 3


def test_a_data_set_of_a_package_that_can_not_be_used_is_one_line(table, monkeypatch, tmp_path):
    (tmp_path / "broken.dist-info").mkdir()
    (tmp_path / "broken.dist-info/METADATA").write_text("Name: broken\nVersion: 1\n")
    points = "[mnistjax.datasets]\nlost = no_such_package:load\n"
    (tmp_path / "broken.dist-info/entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"^data set 'lost': ModuleNotFoundError: .*no_such_package") as error:
        data.load_data("lost")
    one_line(error)


@pytest.mark.parametrize(
    "returned", [None, 3, (), (1, 2, 3), ((1, 2), (3, 4)), ((1, 2), (3, 4), 5)], ids=repr
)
def test_a_registered_function_that_returns_no_data_set_is_named(returned, table):
    data.register_dataset("wrong", lambda: returned)
    with pytest.raises(
        DataError, match=r"data set 'wrong': load\(\) must return \(train_images, train_labels\)"
    ):
        data.load_data("wrong")


@pytest.mark.parametrize(
    ("train", "names", "expected"),
    [
        ((np.zeros((9, 28, 28)), np.zeros(9, int)), "ab", "uint8"),
        ((np.zeros((9, 28, 27), np.uint8), np.zeros(9, int)), "ab", r"images of \(28, 27\) as"),
        ((np.zeros((9, 28, 28), np.uint8), np.zeros(8, int)), "ab", "9 integer labels"),
        ((np.zeros((9, 28, 28), np.uint8), np.zeros(9)), "ab", "9 integer labels"),
        ((np.zeros((9, 28, 28), np.uint8), np.full(9, 2)), "ab", "labels 0 to 1 expected, found 2"),
        ((np.zeros((9, 28, 28), np.uint8), np.full(9, -1)), "ab", "found -1"),
        ((np.zeros((2, 28, 28), np.uint8), np.zeros(2, int)), "ab", "at least 5 images"),
        ((np.zeros((9, 28, 28), np.uint8), np.zeros(9, int)), "a", "at least 2"),
    ],
)
def test_wrong_arrays_of_a_registered_data_set_are_refused(train, names, expected, table):
    data.register_dataset("wrong", lambda: (train, draw("test", classes=2), names))
    with pytest.raises(DataError, match=expected) as error:
        data.load_data("wrong")
    one_line(error)


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown data set 'mnits'; nearest is 'mnist'"):
        data.load_data("mnits")


# --- split, order, binary labels


@pytest.mark.parametrize("count", [5, 6, 1438, 60_000])
def test_split_takes_each_image_once(count):
    train, val = data.split(count)
    assert (len(train), len(val)) == (count * 4 // 5, count - count * 4 // 5)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(count))


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(60_000, 0.05, 3_000), (100, 0.07, 7), (1_437, 0.2, 288), (9, 1e-9, 1)]
)
def test_a_fraction_of_the_training_images_is_held_out(count, fraction, held):
    train, val = data.split(count, fraction)
    assert (len(train), len(val)) == (count - held, held)
    np.testing.assert_array_equal(np.concatenate([train, val]), np.concatenate(data.split(count)))


def test_fewer_validation_images_are_some_of_those_held_out_before():
    usual, few = data.load_data("digits"), data.load_data("digits", validation_fraction=0.1)
    np.testing.assert_array_equal(few.val.images, usual.val.images[-len(few.val.images) :])
    assert len(few.val.images) == 144
    assert len(few.train.images) + 144 == len(usual.train.images) + len(usual.val.images)
    np.testing.assert_array_equal(few.test.images, usual.test.images)
    assert data.load_data("digits", validation_fraction=0.2).sha256 == usual.sha256 != few.sha256


@pytest.mark.parametrize("fraction", [0, 0.51, -0.1, "0.1", True, float("nan")])
def test_a_fraction_that_holds_out_nothing_or_most_images_is_refused(fraction):
    with pytest.raises(
        ConfigError, match=r"^data.validation_fraction must be a number > 0 and <= 0.5 or nul"
    ):
        data.load_data("digits", validation_fraction=fraction)


def test_a_validation_part_of_its_own_stays(tmp_path):
    half = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), half * 2, strict=True))
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=r"^data.validation_fraction must be null: .* 'npz' is fixed$"):
        data.load_data("npz", raw_dir=tmp_path, validation_fraction=0.1)
    assert len(data.load_data("npz", raw_dir=tmp_path).val.images) == 4


def test_order_is_a_permutation_of_seed_and_epoch():
    first = data.order(1000, seed=3, epoch=4)
    assert first.dtype == np.int32
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(first, data.order(1000, seed=3, epoch=4))
    others = [
        data.order(1000, seed=4, epoch=3),
        data.order(1000, seed=3, epoch=5),
        data.order(1000, seed=0, epoch=4),
    ]
    assert not any((first == other).mean() > 0.05 for other in others)


def test_order_has_the_same_bits_everywhere():
    digest = hashlib.sha256(data.order(48_000, seed=1, epoch=2).astype("<i4").tobytes()).hexdigest()
    assert digest == "32e1a0fe9274e845376e035f29629da002bf4d9a2c0b1995b103f2455ba21338"


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (2**32, 0), (0, -1)])
def test_order_refuses_seeds_that_numpy_would(seed, epoch):
    with pytest.raises(ConfigError, match="4294967295"):
        data.order(10, seed=seed, epoch=epoch)


def test_binary_labels():
    dataset = data.load_data("digits")
    binary = data.to_binary(dataset, positive=3)
    assert binary.class_names == ("other", "3")
    for part, counts in binary.class_counts.items():
        before = dataset.class_counts[part]
        assert counts == [sum(before) - before[3], before[3]]
    assert np.shares_memory(binary.train.images, dataset.train.images)
    assert binary.train.labels.dtype == np.int32
    wrong: list[Any] = [-1, 10, "3", 1.5]
    for positive in wrong:
        with pytest.raises(ConfigError, match="0 to 9 expected"):
            data.to_binary(dataset, positive=positive)


def test_importing_and_the_digits_are_light():
    code = "import sys, mnistjax.data as d; d.load_data('digits');"
    code += "print([m for m in {!r} if m in sys.modules])"
    heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "jax", "requests")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    out = subprocess.run(
        [sys.executable, "-c", code.format(heavy)], env=environment, capture_output=True, check=True
    )
    assert out.stdout.strip() == b"[]"


def test_the_manifest_has_the_hash(small, tmp_path):
    data.load_data("mnist", data_dir=tmp_path, raw_dir=small)
    folder = tmp_path / "mnistjax/mnist"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"] == data.digest(prepared.read_arrays("mnist", folder))
