"""The scripts that train and write tables: their rows, their figures, and what they refuse."""

import dataclasses
import sys

import pytest

import front
import photographs
import publish_zoo
from mnistjax.report import runs as report_runs
from small import made_run, write_run


def networks():
    """The runs of two networks with two seeds each; the larger one is worse on the validation images."""
    found = []
    for channels, count, accuracy in (([9, 9], 1_500, 0.8), ([6, 8, 8], 900, 0.9)):
        for seed in (0, 1):
            config = {"model.name": "separable", "model.channels": channels, "model.blocks": 1}
            run = made_run(seed, accuracy=0.99 - accuracy / 100 + seed / 1_000, **config)
            rows = [{**row, "val/accuracy": accuracy + seed / 100} for row in run.rows]
            found.append(dataclasses.replace(run, rows=rows, summary={**run.summary, "parameters": count}))
    return found


def test_the_table_has_the_smallest_first_and_a_star_for_the_front():
    head, _, small, large = front.make_table(networks()).splitlines()
    assert [cell.strip() for cell in head.split("|")][1:4] == ["parameters", "channels", "front"]
    name = "`separable.mnist_1000`"
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (small, large)]
    assert cells == [
        ["900", "[6,8,8]", "★", "90.50%", "98.15% ± 0.07% (2)", "98.10% to 98.20%", "3 s", name],
        ["1,500", "[9,9]", "", "80.50%", "98.25% ± 0.07% (2)", "98.20% to 98.30%", "3 s", ""],
    ]


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_sweep_that_is_not_done_writes_nothing(status, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "sweep" / "0")
    write_run(tmp_path / "sweep" / "1", status, seed=1)
    monkeypatch.setattr(front, "PLACE", tmp_path / "page")
    monkeypatch.setattr(sys, "argv", ["front.py", str(tmp_path / "sweep"), "--readme"])
    with pytest.raises(SystemExit) as exit:
        front.main()
    assert exit.value.code == 2
    assert "error: 1 of 2 runs are not done" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_the_page_has_a_table_and_a_figure(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("<!-- table: begin -->\n<!-- table: end -->\nend\n")
    monkeypatch.setattr(front, "PLACE", tmp_path)
    monkeypatch.setattr(front, "read_runs", lambda folder: report_runs.Runs(networks()))
    monkeypatch.setattr(sys, "argv", ["front.py", str(tmp_path), "--readme"])
    front.main()
    assert "| 900 |" in (tmp_path / "README.md").read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "front.png", "front.svg"]


@pytest.mark.parametrize("there", [False, True])
def test_the_rows_of_studies_that_a_folder_lacks_stay(there, tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text(before := photographs.README.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(photographs, "README", page)
    monkeypatch.setattr(photographs, "describe", lambda *_: ["ours"] * 12)
    if there:
        write_run(tmp_path / "runs/fashion_mlp/0")
    monkeypatch.setattr(sys, "argv", ["photographs.py", str(tmp_path / "runs"), "--readme"])
    photographs.main()
    pairs = zip(before.splitlines(), page.read_text("utf-8").splitlines(), strict=True)
    old, new = zip(*[pair for pair in pairs if len(set(pair)) > 1] or [("", "")], strict=True)
    assert ("model=mlp" in old[0], new[0].count("ours"), len(new)) == (there, 12 * there, 1)


def test_the_table_of_the_zoo_is_written_without_training(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(publish_zoo, "publish", lambda *args: trained.append(args))
    monkeypatch.setattr(publish_zoo, "write_section", lambda *args: trained.append("table"))
    monkeypatch.setattr(sys, "argv", ["publish_zoo.py", str(tmp_path), "--readme"])
    publish_zoo.main()
    assert trained == ["table"]
