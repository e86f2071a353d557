"""Files in untrusted folders: only regular ones of limited size and depth are read; no link is written to."""

import json
import os
import socket
import stat
import subprocess
import sys
import time

import pytest

from mnistjax import checkpoints, files, records
from mnistjax.config import ConfigError
from small import write_run


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path)[-100:] if len(str(path)) < 100 else os.path.relpath(path))


def make_sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**40)


STRANGE = {
    "a pipe": make_pipe,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": make_socket,
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to("elsewhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a terabyte": make_sparse,
}
READERS = {
    records.CONFIG: records.read_config,
    records.ROWS: records.read_rows,
    records.STATUS: records.read_status,
    records.SUMMARY: records.read_summary,
    checkpoints.CHECKPOINT: checkpoints.load_checkpoint,
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", READERS)
def test_anything_but_a_regular_file_is_refused_at_once(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").write_text("{}")
    write_run(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    STRANGE[kind](tmp_path / "run" / name)
    began = time.monotonic()
    with pytest.raises((ConfigError, OSError)):
        READERS[name](tmp_path / "run")
    with pytest.raises(ConfigError):
        records.read_record(tmp_path / "run")
    assert time.monotonic() - began < 2


BOMBS = {
    "aliases": "a: &a [1, 1, 1, 1]\n" + "".join(f"a{i}: &a{i} [*a, *a, *a, *a]\n" for i in range(9)),
    "a list of lists": "a: " + "[" * 100_000 + "]" * 100_000,
    "a mapping of mappings": "".join(" " * i + "a:\n" for i in range(1000)),
    "a program": "a: !!python/object/apply:os.system ['touch owned']",
    "bytes": "a: !!binary aGVsbG8=",
    "a set": "a: !!set {b, c}",
    "a date": "a: 2026-01-01",
    "keys that are no text": "1: 2",
    "a list as a key": "? [a]\n: b",
    "a merge": "a: &a {b: 1}\nc:\n  <<: *a",
    "10 MB": "a: " + "x" * 10**7,
    "two documents": "a: 1\n---\na: 2",
    "half a character": b"a: \xff",
    "a number of 5,000 digits": "a: " + "9" * 5000,
    "a lonely surrogate": 'a: "\\ud800"',
    "infinity": "a: [.inf]",
    "no whole number": 'a: !!int ""',
    "no number": 'a: !!float ""',
    "a time of many parts": f"a: {'1:' * 200}1.0",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_bombs_are_refused_at_once(bomb, tmp_path):
    content = BOMBS[bomb]
    (tmp_path / records.CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.monotonic()
    with pytest.raises(files.DamagedFile, match=r"config\.yaml"):
        records.read_config(tmp_path)
    assert time.monotonic() - began < 2
    assert not os.path.exists("owned")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[Infinity]",
        '{"a": 1e999}',
        "[" * 100_000,
        "[" * 60 + "]" * 60,
        "9" * 5000,
        '"\\ud800"',
        "\0",
        "[1] 2",
    ],
)
def test_text_that_is_not_json_is_refused(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(files.DamagedFile, match=r"file\.json is damaged"):
        files.read_json(path, limit=files.MIB)


def test_plain_values_are_read(tmp_path):
    value = {"é": [None, True, 1, 1.5, "\U0001f600", {"a": []}], "n": 10**30}
    path = tmp_path / "file.json"
    path.write_text(json.dumps(value))
    assert files.read_json(path, limit=files.MIB) == value


# Writing


def test_replace_follows_no_link_and_leaves_no_other_file(tmp_path):
    precious, path = tmp_path / "precious", tmp_path / "run" / "file"
    path.parent.mkdir()
    precious.write_text("precious")
    path.symlink_to(precious)
    (path.parent / "file.tmp").symlink_to(precious)
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert precious.read_text() == "precious"
    assert {p.name for p in path.parent.iterdir()} == {"file", "file.tmp"}


def test_a_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a machine that loses its power could keep the name without the content."""
    steps, sync, rename = [], os.fsync, os.replace

    def note_sync(descriptor):
        found = os.fstat(descriptor)
        steps.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("name"), rename(*paths)))
    files.replace(tmp_path / "file", b"cont", b"ent")
    assert steps == [7, "name", "folder"]


def test_new_files_have_the_users_own_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        files.replace(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_file_with_a_second_name_is_not_written(tmp_path):
    (tmp_path / "run").mkdir()
    precious, rows = tmp_path / "precious", tmp_path / "run" / records.ROWS
    precious.write_text("precious\n")
    os.link(precious, rows)
    with pytest.raises(files.DamagedFile, match="hard link"):
        records.append_row(tmp_path / "run", {"epoch": 1})
    assert precious.read_text() == "precious\n"


WRITE_FOREVER = """
import sys
from pathlib import Path
from mnistjax import files
print("writing", flush=True)
while True:
    files.replace(Path(sys.argv[1], "file"), b"x" * 10**6)
"""


def test_the_next_owner_removes_the_files_of_a_killed_writer(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    end = time.monotonic() + 20
    while not list(tmp_path.glob(".file.*.tmp")):
        assert time.monotonic() < end
    process.kill()
    process.communicate()
    (tmp_path / ".mine.tmp").write_text("the user's")
    with records.lock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} <= {"file", "lock", ".mine.tmp"}


def test_links_within_a_folder_are_allowed_and_those_out_of_it_are_refused(tmp_path):
    folder = tmp_path / "run"
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb/run-1").mkdir()
    (folder / "wandb/latest-run").symlink_to("run-1")
    files.check_links(folder)
    (folder / "wandb/run-1/log").symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match="run-1/log is a link out of"):
        files.check_links(folder)
    (tmp_path / "other").symlink_to(folder)
    with pytest.raises(ConfigError, match="is a link; give the folder itself"):
        files.check_links(tmp_path / "other")


def test_every_impossible_name_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file/x", "x" * 300, "a\0b", "/".join(["x" * 200] * 30), "/dev/null/x"):
        with pytest.raises(ConfigError) as caught:
            files.make_folder(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
