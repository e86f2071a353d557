"""The script that compares ways to search, on made-up curves."""

import json

import numpy as np
import pytest

import compare_searches as script


def made_curves(chance, noise, seeds=2):
    """Curves of all configurations, of which number 17 is the best."""
    count = len(script.configurations())
    worth = np.linspace(0.5, 0.9, count)[chance.permutation(count)]
    worth[17] = 0.95
    progress = 1 - 0.5 ** np.arange(1, script.EPOCHS + 1)
    return {
        number: [
            list(worth[number] * progress + chance.normal(0, noise, script.EPOCHS)) for _ in range(seeds)
        ]
        for number in range(count)
    }


@pytest.mark.parametrize("rank", ["last", "best"])
def test_both_find_the_best_of_curves_that_never_cross(rank):
    curves = made_curves(np.random.default_rng(0), 0.0)
    assert script.choose_by_halving(curves, rank) == (17, 162 + 27 * 2 * 2 + 9 * 2 * 6 + 3 * 2 * 18)
    number, epochs = script.choose_by_hyperband(curves, 0)
    assert number == 17
    assert 486 < epochs < 4374


def test_the_table_has_regrets_and_ratios(tmp_path, monkeypatch):
    curves = made_curves(np.random.default_rng(1), 0.05, seeds=4)
    monkeypatch.setattr(script, "REPETITIONS", 2)
    monkeypatch.setattr(script, "read_curves", lambda folder: curves)
    times = {"full": [160.0], "last": [33.0], "best": [30.0, 32.0, 34.0], "hyperband": [96.0]}
    (tmp_path / "times.json").write_text(json.dumps(times))
    head, _, full, last, best, hyperband = script.compare(tmp_path).splitlines()
    assert "of all 6 pairs" in head
    assert "| 160 s | 5.0 | 4,374 | 0.000 ± 0.000 (at most 0.000) | 0.000 ± 0.000 (at most 0.000) |" in full
    assert "| 33 s | 1.0 | 486 |" in last
    assert "| 32 ± 2 s | 1.0 | 486 |" in best
    assert "| 96 s | 3.0 |" in hyperband
    apart, pairs = (float(cell.split("most ")[1].split(")")[0]) for cell in best.split("|")[-3:-1])
    assert 0 <= apart <= pairs < 30


def test_a_regret_is_that_of_the_given_seeds():
    curves = {0: [[0.9], [0.5]], 1: [[0.7], [0.8]]}
    regrets = [script.find_regret(curves, seeds, 0, lambda own, _: (0, 1)) for seeds in ([0], [1], [0, 1])]
    assert regrets == [(1, 0.0), (1, pytest.approx(0.3)), (1, pytest.approx(0.05))]


@pytest.mark.parametrize("step", ["msint", "lasd"])
def test_a_wrong_step_is_one_line(step, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare_searches.py", str(tmp_path), step])
    with pytest.raises(SystemExit) as exit:
        script.main()
    assert exit.value.code == 2
    assert f"error: unknown step '{step}'; nearest is" in capsys.readouterr().err


def test_the_figure_shows_each_method():
    found = {name: np.sort(np.random.default_rng(2).uniform(0.97, 0.98, (5, 64))) for name in script.METHODS}
    (axes,) = script.draw_trials(found).axes
    assert [line.get_label() for line in axes.lines] == [*script.METHODS]
    assert script.tabulate_trials(found).count("\n") == 5
