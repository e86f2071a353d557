"""The text of the Report at W&B: letters and verdicts beside the means."""

import dataclasses
from typing import Any

from mnistjax.report.dashboard import make_data
from mnistjax.report.runs import Runs
from mnistjax.report.workspace import describe
from mnistjax.seeds import by_seed
from mnistjax.verdicts import letters
from small import made_run

MEANS = {"adam": 0.1, "lion": 0.11, "sgd": 0.5}


def make_runs(seeds, **changes):
    """Runs of three optimizers whose val/loss is near their means; the deviation of lion is large."""
    runs = []
    for name, mean in MEANS.items():
        for seed in range(seeds):
            noise = {"lion": 0.2, "adam": 0.01}.get(name, 0.012) * (-1) ** seed * (seed + 1)
            config: Any = {"optimizer.name": name}
            run = made_run(seed, epochs=1, **config)
            rows = [{**row, "val/loss": mean + noise} for row in run.rows]
            runs.append(dataclasses.replace(run, rows=rows, identity=f"{name} {seed}", **changes))
    return runs


def read_table(text):
    """The cells of the first table of a Markdown text, its head first."""
    lines = [line for line in text.split("\n\n")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_the_table_has_letters_and_a_verdict_follows_it():
    runs = make_runs(4)
    text = describe(make_data(runs))
    head, *rows = read_table(text)
    assert head[-1] == "letters"
    found = {row[0]: row[-1] for row in rows}
    own = [
        {"optimizer.name": run.config["optimizer.name"], "status": "done", "seed": run.seed} for run in runs
    ]
    own = [row | {"val/loss": run.kept_row["val/loss"]} for row, run in zip(own, runs, strict=True)]
    assert found == letters(by_seed(own, "val/loss"), "val/loss")
    assert found["adam"] != found["sgd"]
    assert {*found["lion"]} >= {*found["adam"]} | {*found["sgd"]}
    first = Runs(runs).verdicts("val/loss", most=1)[0]
    said = f"Configurations that share a letter are not told apart. The best two: {first:.4f}."
    assert said in text


def test_one_seed_has_no_letters_and_no_verdict():
    text = describe(make_data(make_runs(1)))
    assert "letters" not in text
    assert "told apart" not in text


def test_runs_without_a_finite_metric_come_last_and_have_no_letter():
    runs = make_runs(3)
    lost = [{**runs[0].rows[0], "val/loss": "nan"}]
    runs = [dataclasses.replace(run, rows=lost) if "adam" in str(run.identity) else run for run in runs]
    _, *rows = read_table(describe(make_data(runs)))
    assert [(row[0], row[-1] == "") for row in rows][-1] == ("adam", True)
    (verdict,) = Runs(runs).verdicts("val/loss")
    assert {verdict.better, verdict.worse} == {"lion", "sgd"}


def test_a_strangers_seeds_are_no_numbers():
    runs = make_runs(2)
    odd = [dataclasses.replace(run, config={**run.config, "seed": "<b>"}) for run in runs]
    assert "letters" not in describe(make_data(odd))
