"""Trains small networks on MNIST; writes the table and the figure in scripts/front: accuracy, parameters.

    python scripts/front.py FOLDER
    python scripts/front.py FOLDER --readme

The sweep `experiment=small` is in FOLDER; the same command continues one that was stopped. `--readme` trains
nothing: it writes what the runs in FOLDER have. A network is on the front if its validation accuracy is
better than that of all smaller ones; the test images decide nothing.
"""

import statistics
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from mnistjax.config import ConfigError
from mnistjax.markdown import format_table
from mnistjax.report.configurations import Configuration, find_front, group_runs
from mnistjax.report.figures import save
from mnistjax.report.runs import RunRecord, read_runs
from mnistjax.report.sweep_figures import parameters
from sections import write_section
from training import errors_in_one_line, show_time, train

PLACE = Path(__file__).parent / "front"
WORDS = "-m experiment=small data=mnist"
MONITOR = "val/accuracy"
PACKAGED = {  # channels -> name in the model zoo
    "[6,8,8]": "separable.mnist_1000",
    "[12,16,16]": "separable.mnist_2500",
    "[16,24,24]": "separable.mnist_5000",
    "[24,32,48]": "separable.mnist_10000",
    "[24,56,96]": "separable.mnist_25000",
}


def train_front(folder: Path) -> Sequence[RunRecord]:
    """The runs of the sweep in this folder, once all are trained."""
    return train(WORDS.split(), folder.absolute())


def make_table(runs: Sequence[RunRecord]) -> str:
    """A row for each network, the smallest first, in Markdown; those on the front have a star."""
    head = ["parameters", "channels", "front", "validation", "test accuracy", "lowest to highest"]
    rows = [[*head, "time a run", "packaged"]]
    networks = group_runs(runs)
    front = find_front(networks, MONITOR)
    for one in sorted(networks, key=count_parameters):
        test, channels = one.spread("test/accuracy"), show_channels(one.config["model.channels"])
        rows.append(
            [
                f"{count_parameters(one):,}",
                channels,
                "★" if one in front else "",
                f"{statistics.fmean(run.kept_row[MONITOR] for run in one.runs):.2%}",
                f"{test:.2%} ({test.n})",
                f"{min(test.values):.2%} to {max(test.values):.2%}",
                show_time(statistics.median(sum(row["seconds"] for row in run.rows) for run in one.runs)),
                f"`{PACKAGED[channels]}`" if channels in PACKAGED else "",
            ]
        )
    return format_table(rows, left=["channels", "packaged"])


def show_channels(channels: Sequence[int]) -> str:
    """A list of channels as on a command line."""
    return str([*channels]).replace(" ", "")


def count_parameters(network: Configuration) -> int:
    """The number of parameters of a network, which all its runs have."""
    return int(network.spread("parameters").values[0])


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--readme", action="store_true")
    args = parser.parse_args()
    with errors_in_one_line():
        runs = read_runs(args.folder) if args.readme else train_front(args.folder)
        if waiting := [run for run in runs if run.status != "done"]:
            raise ConfigError(f"{len(waiting)} of {len(runs)} runs are not done")
        write_section(PLACE / "README.md", "table", make_table(runs))
        save(parameters(runs), PLACE / "front.png")


if __name__ == "__main__":
    main()
