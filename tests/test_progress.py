"""What a command prints: if it can't be printed, the run and its records are still complete."""

import contextlib
import errno
import logging
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mnistjax import progress, records
from mnistjax.cli import errors_to_code, main

RUN = ["data=digits", "model=mlp", "model.hidden=16", "train.epochs=1", "hydra.run.dir=run"]


@pytest.fixture
def put(monkeypatch):
    """Makes a stream the process's own stdout or stderr."""
    streams = []

    def put(name, stream):
        monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(sys, f"__{name}__", stream)
        streams.append(stream)

    yield put
    for stream in filter(None, streams):
        with contextlib.suppress(OSError):
            stream.close()


def full_disk():
    return open("/dev/full", "w")


def left_by_its_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def ascii_only():
    return open("shown", "w", encoding="ascii")


def answer(*words):
    """The exit code of a command that prints these words."""
    with errors_to_code() as exit:
        print(*words)
        return progress.flush_stdout()
    return exit.code


STREAMS = [full_disk, left_by_its_reader, ascii_only, lambda: None]


def check_run(code, folder="run"):
    status, summary = records.read_status(folder), records.read_summary(folder)
    assert code == 0
    assert status is not None
    assert summary is not None
    assert (status["status"], status["reason"]) == ("done", None)
    assert summary["test/count"] == 359


@pytest.mark.parametrize("make", STREAMS)
def test_a_run_is_done_whatever_happens_to_its_output(make, work, put):
    for name in ("stdout", "stderr"):
        put(name, make())
    check_run(main(RUN))


def test_a_sweep_is_done_without_a_reader(work, put):
    put("stdout", left_by_its_reader())
    words = ["-m", *RUN[:-1], "seed=0,1", "hydra.sweep.dir=sweep", "sweep.executor=inline"]
    assert main(words) == 0
    for number in range(2):
        check_run(0, f"sweep/{number}")


def test_a_run_is_done_if_its_terminal_is_closed(work, monkeypatch, put):
    terminal, ours = os.openpty()
    put("stdout", os.fdopen(ours, "w"))
    describe, closed = progress.describe, []

    def hang_up(*arguments):
        if not closed:
            closed.append(os.close(terminal))
        return describe(*arguments)

    monkeypatch.setattr(progress, "describe", hang_up)
    check_run(main(RUN))
    assert closed
    with pytest.raises(OSError, match="Input/output error"):
        os.write(ours, b"x")


def test_missing_characters_are_replaced_and_bytes_of_a_name_are_written(work, put):
    name = os.fsdecode(b"\xfcber")
    with open("shown", "w", encoding="ascii") as file:
        put("stdout", file)
        assert answer("Grüße", name) == 0
    assert Path("shown").read_bytes() == b"Gr??e \xfcber\n"


@pytest.mark.parametrize("words", ["--version", "--cfg job", "-m seed=0,1 data=digits sweep.plan=true"])
@pytest.mark.parametrize(("make", "code"), [(full_disk, 1), (left_by_its_reader, 0), (lambda: None, 1)])
def test_a_lost_answer_is_a_failure(words, make, code, work, put, capsys):
    put("stdout", make())
    assert main(words.split()) == code
    error = capsys.readouterr().err
    assert error.count("\n") == (code > 0)
    assert ("the answer can't be written to stdout" in error) == (code > 0)


def test_a_pipe_that_does_not_block_gets_everything(work, put):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "x" * 200_000  # more than a pipe holds
    got = []
    with open(reader, "rb") as end, open(writer, "w") as file:
        thread = threading.Thread(target=lambda: got.append(end.read()))
        thread.start()
        put("stdout", file)
        assert answer(text) == 0
        file.close()
        thread.join()
    assert len(got[0]) == len(text) + 1


def test_streams_are_restored_and_those_of_others_are_left_alone(work, put, capsys):
    theirs = sys.stdout
    with open("own", "w") as own:
        put("stderr", own)
        with progress.guard_output():
            assert sys.stdout is theirs
            assert isinstance(sys.stderr, progress.Guarded)
            assert not logging.raiseExceptions
        assert sys.stderr is own
    assert logging.raiseExceptions


def log(text, name="mnistjax.log"):
    handler = progress.LogFile(name)
    handler.emit(logging.makeLogRecord({"msg": text}))
    handler.close()


@pytest.mark.parametrize("more", [0, 30])
def test_names_of_classes_and_files_are_printed_as_they_are(more, capsys):
    """They are no markup, which "[/a]" would end."""
    names = ["[/a]", "[b]", *map(str, range(more))]
    matrix = np.zeros((len(names), len(names)), int)
    matrix[0, 1] = 3
    progress.make_console().print(progress.confusion_table(matrix.tolist(), names))
    progress.show_banner("skipped: cat/photo[copy].png, [/c].png")
    out, err = capsys.readouterr()
    assert "[/a]" in out
    assert "[b]" in out
    assert "skipped: cat/photo[copy].png, [/c].png" in err


def test_a_log_is_utf_8_and_is_appended_to(work):
    log("Grüße")
    log("half a pair: \ud800")
    assert Path("mnistjax.log").read_text("utf-8") == "Grüße\nhalf a pair: \\ud800\n"


def test_a_log_is_not_written_through_a_link(work):
    Path("theirs").write_text("")
    Path("link.log").symlink_to("theirs")
    os.link("theirs", "second.log")
    log("ours", "link.log")
    log("ours", "second.log")
    assert Path("theirs").read_text() == ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_log_that_can_not_be_written_is_ignored(code, work, monkeypatch):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(progress, "open_plain", refuse)
    log("lost")


def test_a_run_logs_into_its_folder(work, monkeypatch, capsys):
    def fail(self, moment):
        raise RuntimeError("Grüße")

    monkeypatch.setattr(progress.PlainLines, "__call__", fail)
    assert main(RUN) == 1
    assert "RuntimeError: Grüße" in Path("run/mnistjax.log").read_text("utf-8")


def test_a_missing_working_folder_is_an_error(work, capsys):
    gone = work / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert main(["--version"]) == 2
    error = capsys.readouterr().err
    os.chdir(work)
    assert error.startswith("error: no working folder: No such file or directory")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("make", "code"), [(full_disk, 1), (left_by_its_reader, 0), (lambda: None, 1)])
def test_a_lost_answer_of_the_other_commands_is_a_failure(make, code, put, capsys):
    put("stdout", make())
    assert answer("[]") == code
    assert capsys.readouterr().err.startswith("error: the answer" if code else "")
