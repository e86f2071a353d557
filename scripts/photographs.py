"""Trains networks on harder images than digits and writes their table into scripts/photographs/README.md.

    python scripts/photographs.py FOLDER [STUDY...] [--signdigits FOLDER]
    python scripts/photographs.py FOLDER --readme

Each study is a sweep over seeds in FOLDER; the same command continues one that was stopped. The data sets are
prepared as for the command `mnistjax`, from data.raw_dir if MNISTJAX_RAW_DIR names a folder with them.
`--readme` trains nothing: it writes the rows of the studies in FOLDER.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistjax.checks import show_shape
from mnistjax.config import unknown
from mnistjax.finished import load_examples, reopen
from mnistjax.markdown import format_table
from mnistjax.metrics import area_under_curve
from mnistjax.report.runs import RunRecord, read_runs
from mnistjax.seeds import Spread
from sections import write_section
from training import errors_in_one_line, show_time, train_seeds

README = Path(__file__).parent / "photographs" / "README.md"


class Study(NamedTuple):
    """A sweep over seeds, and what others have published for its data."""

    words: str  # of the command
    published: str = ""  # accuracy and AUC on the test images
    seeds: tuple[int, ...] = (0, 1, 2)
    hands: bool = False  # trained on the photographs of --signdigits


FIVE = (0, 1, 2, 3, 4)
RESNET18 = "ResNet-18 of 11 million parameters: {} (MedMNIST v2, table 3)"
STUDIES = {
    "fashion neuron": Study("experiment=fashion model=neuron"),
    "fashion mlp": Study("experiment=fashion model=mlp"),
    "fashion cnn": Study("experiment=fashion model=cnn"),
    "fashion strong": Study("experiment=fashion_strong"),
    "breast": Study("experiment=breast", RESNET18.format("86.3 %, AUC 0.901")),
    "retina": Study("experiment=retina", RESNET18.format("52.4 %, AUC 0.717")),
    "retina balanced": Study("experiment=retina train.class_weights=balanced"),
    "signdigits": Study("experiment=photographs", hands=True),
    "signdigits scratch": Study("experiment=finetune init_from=null", seeds=FIVE, hands=True),
    "signdigits tuned": Study("experiment=finetune init_from=cnn_bn.mnist", seeds=FIVE, hands=True),
}


def find_place(name: str, folder: Path) -> Path:
    """The folder of a study's sweep."""
    return folder / name.replace(" ", "_")


def describe(name: str, runs: Sequence[RunRecord]) -> list[str]:
    """The row of a study in the table."""
    first, study = runs[0].summary, STUDIES[name]
    data, spec = first["data"], first["spec"]
    return [
        data["name"],
        show_shape(spec["image_shape"]),
        str(len(data["class_names"])),
        f"{spec['train_count']:,}",
        spec["model"],
        f"{first['parameters']:,}",
        f"{_spread(runs, 'test/accuracy'):.2%} ({len(runs)})",
        f"{_spread(runs, 'test/balanced_accuracy'):.2%}",
        f"{Spread(tuple(find_auc(run) for run in runs)):.3f}",
        show_time(float(np.mean([sum(row["seconds"] for row in run.rows) for run in runs]))),
        study.published,
        f"`{_show_command(study)}{','.join(str(run.seed) for run in runs)}`",
    ]


def _show_command(study: Study) -> str:
    """The command of a study up to its seeds, with a name for the folder of photographs."""
    experiment, *others = study.words.split()
    return " ".join(["mnistjax -m", experiment, *["data.raw_dir=PICTURES"] * study.hands, *others, "seed="])


def _spread(runs: Sequence[RunRecord], key: str) -> Spread:
    return Spread(tuple(run.summary[key] for run in runs if key in run.summary))  # older runs lack some


def find_auc(run: RunRecord) -> float:
    """The area under the ROC curve on the test images: the mean over the classes, each against the others."""
    if "test/auc" in run.summary:
        return run.summary["test/auc"]
    examples = load_examples(*reopen(run.folder), run.folder)
    classes = range(len(examples.class_names))
    areas = [area_under_curve(examples.labels == k, examples.probabilities[:, k]) for k in classes]
    return float(np.mean([area for area in areas if area is not None]))


def make_table(folder: Path) -> str:
    """The table in Markdown: the studies in a folder whose runs are all done, and the other rows so far."""
    so_far = [line.strip("|\n ").split(" | ") for line in README.read_text("utf-8").splitlines()]
    head = ["data", "image", "classes", "train images", "network", "parameters", "test accuracy"]
    rows = [[*head, "balanced", "AUC", "time a run", "published", "command"]]
    for name in STUDIES:
        place = find_place(name, folder)
        runs = read_runs(place) if place.exists() else []
        if runs and all(run.status == "done" for run in runs):
            rows.append(describe(name, runs))
        else:
            rows += [row for row in so_far if row[-1].startswith(f"`{_show_command(STUDIES[name])}")]
    return format_table(rows, left=["image", "network", "published", "command"])


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--signdigits", type=Path, help="photographs, in a folder for each class")
    parser.add_argument("--readme", action="store_true")
    args = parser.parse_args()
    with errors_in_one_line():
        for name in args.studies:
            if name not in STUDIES:
                raise unknown("study", name, STUDIES)
        for name in () if args.readme else args.studies or STUDIES:
            study = STUDIES[name]
            if args.signdigits or not study.hands:
                where = [f"data.raw_dir={args.signdigits}"] if study.hands else []
                place = find_place(name, args.folder.absolute())
                train_seeds([*study.words.split(), *where], study.seeds, place)
        write_section(README, "table", make_table(args.folder.absolute()))


if __name__ == "__main__":
    main()
