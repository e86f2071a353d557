"""Where a report is written: into a folder of its own, over its own files only."""

from pathlib import Path

import pytest

from mnistjax.cli import report
from mnistjax.config import ConfigError
from mnistjax.report.dashboard import make_data, write_report
from mnistjax.report.output import MARK, check_output
from small import made_run


def write_one(folder):
    """Writes a small report to the folder; its files by name."""
    write_report([made_run(0)], make_data([made_run(0)]), folder, title="one")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_replaces_its_own_files_and_no_others(work):
    paper = work / "paper"
    (paper / "figures").mkdir(parents=True)
    own = ["notes.txt", "figures/curves.tex", "figures/curves.pdf", "figures/curves.svg.old"]
    for name in own:
        (paper / name).write_text("mine")
    check_output(paper)
    first = write_one(paper)
    assert MARK in first["index.html"][:1000].decode()
    check_output(paper)
    write_report(
        [made_run(0, status="failed")], make_data([made_run(0, status="failed")]), paper, title="none"
    )
    names = {str(path.relative_to(paper)) for path in paper.rglob("*") if path.is_file()}
    assert names == {"index.html", "runs.csv", "seeds.csv", *own}
    assert {(paper / name).read_text() for name in own} == {"mine"}
    assert write_one(paper) == first


@pytest.mark.parametrize(
    "name", ["index.html", "runs.csv", "seeds.csv", "comparison.md", "figures/curves.svg"]
)
@pytest.mark.parametrize("out", [True, False])
def test_a_report_leaves_the_files_of_others(work, capsys, name, out):
    folder = work / ("paper" if out else "report")
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert report.main([".", *(["--out", "paper"] if out else [])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path.relative_to(work)) in line
    assert "--out DIR" in line
    assert [(found, found.read_text()) for found in work.rglob("*") if found.is_file()] == [(path, "mine")]


def test_a_figure_of_others_is_not_replaced_in_a_folder_of_ours(work):
    write_one(work / "report")
    (work / "report/figures/curves.png").write_bytes(b"\x89PNG mine")
    with pytest.raises(ConfigError, match=r"curves\.png was not drawn by mnistjax"):
        check_output(work / "report")


@pytest.mark.parametrize(
    "name", [".", "figures", "index.html", "runs.csv", "comparison.md", "figures/curves.png"]
)
def test_a_report_follows_no_link(work, capsys, name):
    elsewhere = work.parent / "elsewhere"
    write_one(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    link = work / "report" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / name)
    assert report.main(["."]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a link" in line
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "file"], "file is no folder"),
        (["--out", "file/below"], "file/below: Not a directory"),
        (["--out", "x" * 300], "xxx: File name too long"),
        (["--out", "folder"], "folder/index.html is no regular file"),
        (["--out", "folder/index.html"], "figures is no folder"),
    ],
)
def test_an_unwritable_folder_is_one_line_before_any_run_is_read(work, capsys, words, message):
    (work / "file").touch()
    (work / "folder/index.html").mkdir(parents=True)
    (work / "folder/index.html/figures").touch()
    before = sorted(work.rglob("*"))
    assert report.main([".", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(work.rglob("*")) == before


def test_a_folder_that_can_not_be_made_is_an_error():
    with pytest.raises(ConfigError, match="this folder can't be made: /proc/new: No such file or directory"):
        write_one(Path("/proc/new"))
