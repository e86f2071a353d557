"""The script that times lanes and sweeps on the device at hand: here on devices of a CPU."""

import json
import sys

import pytest

import accelerator


@pytest.mark.slow
def test_one_command_times_lanes_and_sweeps(tmp_path, monkeypatch, capsys):
    words = ["--data", "digits", "--only", "neuron, batch 64", "--widths", "1", "4", "--jobs", "6"]
    monkeypatch.setattr(sys, "argv", ["accelerator.py", str(tmp_path / "out"), *words])
    accelerator.main()
    record = json.loads((tmp_path / "out" / "accelerator.json").read_text("utf-8"))
    assert {*record["results"]} == {"neuron, batch 64", "6 neurons", "6 MLP-64"}
    for name, found in record["results"].items():
        for column, measured in found.items():
            if column != "PyTorch":  # not every environment has it
                assert min(measured["seconds"]) > 0, (name, column)
    assert "| neuron, batch 64 |" in capsys.readouterr().out


def test_a_width_that_does_not_fit_is_a_row_without_a_time():
    def timed(task, width):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9 GB")

    found = accelerator.attempt(timed, {}, 1024)
    assert found == {"error": "allocating 9 GB"}
    about = {"device": "A card", "devices": 1, "processor": "P", "jax": "0", "data": "mnist"}
    results = {
        "MLP-64": {"1": {"seconds": [0.2, 0.1, 0.3]}, "1,024": found},
        "9 neurons": {"vmap": {"seconds": [75]}},
    }
    text = accelerator.make_tables({**about, "results": results})
    assert "| MLP-64 | 0.2 | - |" in text
    assert "| 9 neurons | 1 min |" in text
