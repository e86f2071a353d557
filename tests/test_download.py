"""Downloads from a server on this machine, which lies, breaks off, stalls or is not there."""

import hashlib
import http.server
import logging
import os
import socket
import threading
import time

import pytest

from mnistjax.data import DataError, download
from mnistjax.data.arrays import Missing, Unreachable
from mnistjax.data.download import File, obtain, start_git_id, verify
from test_data import one_line

CONTENT = bytes(range(256)) * 999
SUMS = {kind: f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}" for kind in ("md5", "sha256")}
SUMS["git"] = "git:" + hashlib.sha1(b"blob 255744\0" + CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, or what the path asks for."""

    def do_HEAD(self):
        self.send_response(404 if "missing" in self.path else 200)
        endless = "endless" in self.path
        if not endless:
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        self.server.asked.append(self.path)  # pyright: ignore[reportAttributeAccessIssue] # ours
        if "gone" in self.path:
            self.send_error(503)
            return
        self.do_HEAD()
        if "stalled" in self.path:
            self.wfile.write(CONTENT[:1000])
            self.wfile.flush()
            time.sleep(3)
        elif "short" in self.path:
            self.wfile.write(CONTENT[:1000])
        elif "html" in self.path:
            self.wfile.write(b"<html>".ljust(len(CONTENT)))
        elif "endless" in self.path:
            for _ in range(50):
                self.wfile.write(CONTENT)
        else:
            self.wfile.write(CONTENT)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server, and the paths that it was asked for."""
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked: list[str] = []
    monkeypatch.setattr(running, "handle_error", lambda *args: None)  # a client that goes away is no error
    monkeypatch.setattr(running, "asked", asked, raising=False)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/", asked
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("kind", SUMS)
def test_a_file_is_downloaded_once_and_again_if_it_is_damaged(kind, server, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    url, asked = server
    folder = tmp_path / "a" / "b"
    path = download.download(f"{url}x", folder, "x.bin", SUMS[kind])
    assert path == folder / "x.bin"
    assert path.read_bytes() == CONTENT
    assert f"downloading {url}x" in caplog.text
    assert download.download(f"{url}x", folder, "x.bin", SUMS[kind]) == path
    assert len(asked) == 1
    path.write_bytes(CONTENT[1:])
    download.download(f"{url}x", folder, "x.bin", SUMS[kind])
    assert len(asked) == 2
    assert path.read_bytes() == CONTENT
    assert os.listdir(folder) == ["x.bin"]


WRONG = {
    "html": (DataError, r"wrong checksum: MD5 \w+ expected, found \w+ \(255744 bytes; it is an HTML page\)$"),
    "endless": (DataError, "at most 1,000,000 bytes expected, found more"),
    "missing": (Unreachable, r"can't be downloaded \(HTTP 404\); give a folder"),
    "gone": (Unreachable, r"can't be downloaded \(HTTPError\); give a folder"),
    "short": (Unreachable, r"can't be downloaded \(ChunkedEncodingError\)"),
    "stalled": (Unreachable, r"can't be downloaded \(ConnectionError\); .*data.raw_dir=FOLDER.*data=digits"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(case, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(download, "LARGEST", 1_000_000)
    kind, expected = WRONG[case]
    with pytest.raises(DataError, match=expected) as error:
        download.download(f"{server[0]}{case}", tmp_path, "x.bin", SUMS["md5"])
    assert type(error.value) is kind
    assert one_line(error).startswith(f"{server[0]}{case}")
    assert os.listdir(tmp_path) == []


def test_a_server_that_is_not_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match="can't be downloaded") as error:
        download.download(f"http://127.0.0.1:{port}/x", tmp_path, "x.bin", SUMS["md5"])
    one_line(error)


def test_a_verified_file_needs_no_server(tmp_path):
    (tmp_path / "x.bin").write_bytes(CONTENT)
    assert download.download("http://127.0.0.1:9/", tmp_path, "x.bin", SUMS["git"]) == tmp_path / "x.bin"


@pytest.mark.parametrize("name", ["x.bin", "x.bin.partial"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_links_are_replaced_and_not_followed(make, name, server, tmp_path):
    make(tmp_path / name)
    path = download.download(f"{server[0]}x", tmp_path, "x.bin", SUMS["md5"])
    assert path.read_bytes() == CONTENT
    assert path.is_file()
    assert not path.is_symlink()
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_full_disk_is_an_oserror(server, disk, monkeypatch):
    folder = disk("size=100k")
    with pytest.raises(OSError, match="No space left"):
        download.download(f"{server[0]}x", folder, "x.bin", SUMS["md5"])
    assert os.listdir(folder) == []


def test_the_users_folder_comes_first_and_may_have_a_damaged_and_a_good_copy(tmp_path):
    file = File("x.bin", "http://127.0.0.1:9/x", SUMS["sha256"])

    def read(path):
        verify(path, file)
        return path

    def search():
        return obtain("name", file, read, raw_dir=tmp_path, downloads=tmp_path / "none")

    with pytest.raises(
        Missing, match=r"files of name are not in it: x\.bin expected there or in .* name$"
    ) as error:
        search()
    one_line(error)
    (tmp_path / "name").mkdir()
    (tmp_path / "name/x.bin").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(DataError, match=r"SHA-256 .* an HTML page\); replace it by http") as error:
        search()
    assert one_line(error).startswith(str(tmp_path / "name/x.bin"))
    (tmp_path / "x.bin").write_bytes(CONTENT)
    assert search() == tmp_path / "x.bin"
    (tmp_path / "name/x.bin").write_bytes(CONTENT)
    assert search() == tmp_path / "name/x.bin"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_anything_but_a_file_is_refused(make, tmp_path):
    make(tmp_path / "x.bin")
    with pytest.raises(DataError, match="a file expected, found a") as error:
        verify(tmp_path / "x.bin", File("x.bin", "http://x", SUMS["md5"]))
    one_line(error)


def test_a_terabyte_is_not_read(tmp_path):
    (tmp_path / "x.bin").touch()
    os.truncate(tmp_path / "x.bin", 2**40)
    with pytest.raises(DataError, match="at most 536,870,912 bytes expected, found 1,099,511,627,776"):
        verify(tmp_path / "x.bin", File("x.bin", "http://x", SUMS["md5"]))


def test_the_git_id_is_that_of_git():
    """`echo hello | git hash-object --stdin`."""
    git_id = start_git_id(6)
    git_id.update(b"hello\n")
    assert git_id.hexdigest() == "ce013625030ba8dba906f756967f9e9ca394464a"
