"""The script that compares ways to search, on made-up curves."""

import json

import numpy as np
import pytest

import compare_searches as script


def made_curves(chance, noise):
    """Curves of all configurations, of which number 17 is the best."""
    count = len(script.configurations())
    worth = np.linspace(0.5, 0.9, count)[chance.permutation(count)]
    worth[17] = 0.95
    progress = 1 - 0.5 ** np.arange(1, script.EPOCHS + 1)
    return {
        number: [list(worth[number] * progress + chance.normal(0, noise, script.EPOCHS)) for _ in range(2)]
        for number in range(count)
    }


def test_both_find_the_best_of_curves_that_never_cross():
    curves = made_curves(np.random.default_rng(0), 0.0)
    assert script.choose_by_halving(curves) == (17, 162 + 27 * 2 * 2 + 9 * 2 * 6 + 3 * 2 * 18)
    number, epochs = script.choose_by_hyperband(curves, 0)
    assert number == 17
    assert 486 < epochs < 4374


def test_the_table_has_regrets_and_ratios(tmp_path, monkeypatch):
    chance = np.random.default_rng(1)
    monkeypatch.setattr(script, "read_curves", lambda folder: [made_curves(chance, 0.05) for _ in range(5)])
    times = {"full": [160.0], "halved": [30.0, 32.0, 40.0], "hyperband": [96.0]}
    (tmp_path / "times.json").write_text(json.dumps(times))
    full, halved, hyperband = script.compare(tmp_path).splitlines()[2:]
    assert "| 160 s | 5.0 | 4,374 | 0.000 ± 0.000 (at most 0.000) |" in full
    assert "| 32 s | 1.0 | 486 |" in halved
    assert "| 96 s | 3.0 |" in hyperband
    regret = float(halved.split("|")[-2].split()[0])
    assert 0 <= regret < 30


@pytest.mark.parametrize("step", ["gird", "halfed"])
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
