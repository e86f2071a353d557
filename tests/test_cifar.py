"""CIFAR's archives and unpacked files; small ones stand for the official ones."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import sys
import tarfile
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnistjax.data import DataError, builders, cifar, idx
from mnistjax.data.arrays import Missing, check_arrays
from mnistjax.data.download import start_git_id
from test_data import one_line, refused_within

COUNTS = (50, 10)
CLASSES = {"cifar10": 10, "cifar100": 100}
ARCHIVES = {name: f"{name[:5]}-{name[5:]}-binary.tar.gz" for name in CLASSES}
PREFIXES = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}


def draw(name, half):
    """Images (N, 32, 32, 3) and labels (N,)."""
    count = COUNTS[half == "test"]
    random = np.random.default_rng(count)
    labels = np.arange(count) * 7 % CLASSES[name]
    return random.integers(0, 256, (count, 32, 32, 3), np.uint8), labels.astype(np.uint8)


def files(name):
    """The contents of the binary files by name."""
    halves = {}
    for half in ("train", "test"):
        images, labels = draw(name, half)
        columns = [labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)]
        if name == "cifar100":
            columns.insert(0, np.full((len(images), 1), 99, np.uint8))  # the coarse label, which is not used
        halves[half] = np.hstack(columns).astype(np.uint8)
    if name == "cifar100":
        return {"test.bin": halves["test"].tobytes(), "train.bin": halves["train"].tobytes()}
    batches = {f"data_batch_{n + 1}.bin": halves["train"][10 * n : 10 * n + 10].tobytes() for n in range(5)}
    return {"test_batch.bin": halves["test"].tobytes(), **batches, "readme.html": b"<html>"}


def pack(members, format=tarfile.USTAR_FORMAT):
    """A .tar.gz of (TarInfo, content), whose bytes depend on nothing else (gzip would write the time)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), compresslevel=1, mtime=0)


def member(name, content, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def archive(name):
    folder = [member(PREFIXES[name], b"", type=tarfile.DIRTYPE)]
    return pack(
        folder + [member(f"{PREFIXES[name]}/{file}", content) for file, content in files(name).items()]
    )


def pin(name, content, monkeypatch, url="https://example.org/"):
    """Makes `content` the official archive."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    info = UrlInfo(Size(len(content)), hashlib.sha256(content).hexdigest(), ARCHIVES[name])
    monkeypatch.setattr(builders.BUILDERS[name][0], "url_infos", {url + ARCHIVES[name]: info})


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(cifar.Cifar10, "counts", COUNTS)
    ids = {name: start_git_id(len(content)) for name, content in files("cifar10").items()}
    for name, content in files("cifar10").items():
        ids[name].update(content)
    pinned = {name: f"git:{ids[name].hexdigest()}" for name in cifar.UNPACKED}
    monkeypatch.setattr(cifar, "UNPACKED", pinned)
    for name in CLASSES:
        pin(name, archive(name), monkeypatch)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def prepare(name, folder):
    """The arrays from the files in a folder."""
    options = {"downloads": folder / "downloads", "raw_dir": folder}
    return builders.prepare(name, data_dir=folder / "tfds", **options)


def check(name, arrays):
    arrays = check_arrays(name, arrays)
    for half in ("train", "test"):
        images, labels = draw(name, half)
        np.testing.assert_array_equal(arrays.by_name[f"{half}_images"], images)
        np.testing.assert_array_equal(arrays.by_name[f"{half}_labels"], labels)
    assert len(arrays.class_names) == CLASSES[name]


@pytest.mark.parametrize("place", ["", "NAME"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_archive_is_found_and_read_in_the_official_order(name, place, tmp_path):
    put(tmp_path / place.replace("NAME", name) / ARCHIVES[name], archive(name))
    check(name, prepare(name, tmp_path))
    check(name, builders.decode(name, tmp_path / "tfds"))
    assert "tensorflow" not in sys.modules


def test_it_is_downloaded_without_unpacking_it(tmp_path, monkeypatch):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    put(tmp_path / "www" / ARCHIVES["cifar10"], archive("cifar10"))
    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        pin("cifar10", archive("cifar10"), monkeypatch, url=f"http://127.0.0.1:{running.server_port}/")
        options = {"downloads": tmp_path / "downloads", "raw_dir": None}
        check("cifar10", builders.prepare("cifar10", data_dir=tmp_path / "tfds", **options))
        running.shutdown()
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".bin"]


def test_class_names():
    assert cifar.Cifar10.class_names[::9] == ("airplane", "truck")
    assert cifar.Cifar100.class_names[::33] == ("apple", "forest", "raccoon", "worm")
    assert len({*cifar.Cifar100.class_names}) == 100


def test_official_checksums_and_counts(monkeypatch):
    monkeypatch.undo()
    for name, (builder, _) in builders.BUILDERS.items():
        if name in CLASSES:
            ((url, info),) = builder.url_infos.items()
            assert url == f"https://www.cs.toronto.edu/~kriz/{ARCHIVES[name]}"
            assert len(info.checksum) == 64
            assert builder.counts == (50_000, 10_000)


@pytest.mark.parametrize("place", ["", "cifar10", PREFIXES["cifar10"], f"cifar10/{PREFIXES['cifar10']}"])
def test_unpacked_files_of_cifar10_are_verified(place, tmp_path):
    for name, content in files("cifar10").items():
        put(tmp_path / place / name, content)
    check("cifar10", prepare("cifar10", tmp_path))
    put(tmp_path / place / "data_batch_3.bin", files("cifar10")["data_batch_2.bin"])
    with pytest.raises(
        DataError, match=r"batch_3\.bin: wrong checksum: Git id .* replace it by cifar"
    ) as error:
        prepare("cifar10", tmp_path)
    one_line(error)
    (tmp_path / place / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: .*No such file"):
        prepare("cifar10", tmp_path)


def test_unpacked_files_of_cifar100_can_not_be_verified(tmp_path):
    for name, content in files("cifar100").items():
        put(tmp_path / PREFIXES["cifar100"] / name, content)
    with pytest.raises(DataError, match=rf"can't be verified; give {ARCHIVES['cifar100']} \(http") as error:
        prepare("cifar100", tmp_path)
    one_line(error)


@pytest.mark.parametrize("name", CLASSES)
def test_pickles_are_never_loaded(name, tmp_path):
    for pickled in builders.BUILDERS[name][0].pickles:
        (tmp_path / pickled).mkdir()
        with pytest.raises(DataError, match=rf"{pickled}: pickles are never .*{ARCHIVES[name]}") as error:
            prepare(name, tmp_path)
        one_line(error)
        (tmp_path / pickled).rmdir()


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_without_it_counts_as_missing(name, tmp_path):
    with pytest.raises(Missing, match=f"official files of {name} are not in it: {ARCHIVES[name]}") as error:
        prepare(name, tmp_path)
    one_line(error)
    (other,) = CLASSES.keys() - {name}
    put(tmp_path / ARCHIVES[other], archive(other))
    with pytest.raises(Missing, match=rf"\({ARCHIVES[other]} is of {other}\)"):
        prepare(name, tmp_path)


@pytest.mark.parametrize(
    ("content", "looks"),
    [(archive("cifar10")[:-9], "truncated"), (b"<html>" * 99_999, "an HTML page"), (b"", "truncated")],
)
def test_an_archive_with_another_checksum_is_refused(content, looks, tmp_path):
    put(tmp_path / ARCHIVES["cifar10"], content)
    with pytest.raises(DataError, match=f"wrong checksum: SHA-256 .*{looks}.*replace it by https:") as error:
        prepare("cifar10", tmp_path)
    one_line(error)


FIRST = f"{PREFIXES['cifar10']}/data_batch_1.bin"
BATCH = files("cifar10")["data_batch_1.bin"]


def claim(size, name=FIRST):
    """A tar whose only member claims a size."""
    info = tarfile.TarInfo(name)
    info.size = size
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024), 1)


def bomb(kind):
    """A tar with a header of extensions of 256 MiB."""
    info = tarfile.TarInfo("x")
    info.size, info.type = 2**28, kind
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2**28), 1)


def odd(**fields):
    return lambda: pack([member(FIRST, BATCH, **fields)], tarfile.GNU_FORMAT)


HOSTILE = {
    "empty": (lambda: b"", "readable tar.gz file expected"),
    "HTML": (lambda: b"<html>" * 99, "Not a gzipped file"),
    "zipped HTML": (lambda: gzip.compress(b"<html>" * 999), "readable tar.gz file expected"),
    "truncated": (lambda: archive("cifar10")[:-2000], "readable tar.gz file expected"),
    "flipped": (lambda: archive("cifar10")[:5000] + b"\xff" * 5000, "readable tar.gz file expected"),
    "a tar without members": (lambda: pack([]), "no cifar-10-batches-bin/"),
    "a short file": (
        lambda: pack([member(FIRST, BATCH[:-1])]),
        "data_batch_1.bin .* 30,729 bytes, not 30,730",
    ),
    "a long file": (lambda: pack([member(FIRST, BATCH + b"x")]), "30,731 bytes, not 30,730"),
    "a huge claim": (lambda: claim(2**40), "1,099,511,627,776 bytes, not 30,730"),
    "a huge claim of another member": (lambda: claim(2**60, "x"), "truncated"),
    "a negative claim": (lambda: claim(-5), "readable tar.gz file expected"),
    "a false claim": (lambda: claim(len(BATCH)), "readable tar.gz file expected"),
    "a link": (odd(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "of type b'2'"),
    "a hard link": (odd(type=tarfile.LNKTYPE, linkname="../x"), "of type b'1'"),
    "a device": (odd(type=tarfile.CHRTYPE), "of type b'3'"),
    "another path": (lambda: pack([member("/etc/passwd", b"")]), "no cifar-10-batches-bin/"),
    "many members": (lambda: pack([member(str(n), b"") for n in range(999)]), "more than 100 members"),
    "a long name": (lambda: bomb(tarfile.GNUTYPE_LONGNAME), "more than 1,000,000 bytes"),
    "a long extension": (lambda: bomb(tarfile.XHDTYPE), "more than 1,000,000 bytes"),
    "a large member": (lambda: pack([member("x", bytes(2**27))]), "more than 1,000,000 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_with_a_right_checksum_end_in_one_line(case, tmp_path, monkeypatch):
    make, expected = HOSTILE[case]
    content = make()
    pin("cifar10", content, monkeypatch)
    put(tmp_path / ARCHIVES["cifar10"], content)
    monkeypatch.setattr(cifar, "LARGEST", 1_000_000)
    builder = cifar.Cifar10(data_dir=tmp_path / "tfds")
    archive = ARCHIVES["cifar10"]
    refused_within(8 << 20, lambda: builder.read_archive(tmp_path / archive, archive), expected)
    with pytest.raises(DataError):
        prepare("cifar10", tmp_path)
    assert not (tmp_path / "tfds/cifar10/3.0.2").exists()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ARCHIVES["cifar10"])
    os.mkfifo(tmp_path / "data_batch_1.bin")
    with pytest.raises(DataError, match="a file expected, found a pipe"):
        prepare("cifar10", tmp_path)
    (tmp_path / ARCHIVES["cifar10"]).unlink()
    with pytest.raises(DataError, match=r"batch_1\.bin: a file expected, found a pipe"):
        prepare("cifar10", tmp_path)


SMALL = {"a": b"a" * 600, "b": b"b" * 600}
PACKED = gzip.decompress(pack([member(name, content) for name, content in SMALL.items()], tarfile.PAX_FORMAT))


@given(
    st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), max_size=8), st.integers(0, len(PACKED))
)
def test_any_tar_gives_the_right_sizes_or_an_error(flips, length):
    content, found = bytearray(PACKED[:length]), SMALL
    for place, value in flips:
        content[min(place, len(content)) : place + 1] = bytes([value])
    with contextlib.suppress(DataError), idx.readable("name", "tar"):
        found = cifar.read_members(io.BytesIO(content), {"a": 600, "b": 600})
    assert {name: len(content) for name, content in found.items()} == {"a": 600, "b": 600}
