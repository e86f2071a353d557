"""Trains the packaged models and writes their weights, their cards and the README's table of them.

    python scripts/publish_zoo.py FOLDER [NAME...]
    python scripts/publish_zoo.py --readme

Each model is a sweep over seeds in FOLDER; run again, it goes on where it was stopped. Of the seeds the one
that is best on the validation images is packaged; its card names the others, too. `--readme` trains nothing.
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
from pathlib import Path

from marked import replace_marked
from mnistjax import records, zoo
from mnistjax.config import ConfigError, unknown
from mnistjax.report.runs import read_runs

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"
BEST = "train.keep=best train.monitor=val/accuracy"
STRONG = "experiment=strong"
MODELS = {  # name -> what its command says, its data set, and how many seeds are trained
    "neuron.mnist_zero": (f"experiment=single_neuron {BEST}", "mnist", 5),
    "mlp.mnist_zero": (f"experiment=activation model.activation=relu {BEST}", "mnist", 5),
    "mlp.mnist": (f"experiment=multiclass {BEST}", "mnist", 5),
    "cnn.mnist": (f"experiment=optimizer optimizer=momentum {BEST}", "mnist", 3),
    "lenet5.mnist": (f"{STRONG} model=lenet5", "mnist", 4),
    "cnn_bn.mnist": (STRONG, "mnist", 6),
    "resnet.mnist": (f"{STRONG} model=resnet", "mnist", 2),
    "mlp_mixer.mnist": (f"{STRONG} model=mlp_mixer", "mnist", 2),
    "vit.mnist": (f"{STRONG} model=vit", "mnist", 2),
}


def publish(name: str, folder: Path) -> zoo.Card:
    """The card of the best seed's run, whose weights are packaged now."""
    words, data, seeds = MODELS[name]
    words = f"{words} data={data}"
    place = folder / name
    if not (place / "sweep.json").exists():
        every = ",".join(map(str, range(seeds)))
        _call("-m", *words.split(), f"seed={every}", f"hydra.sweep.dir={place}")
    elif any(run.status != "done" for run in read_runs([place])):
        _call("-m", f"sweep.resume={place}")
    cards = {run.folder: zoo.describe_run(run.folder, name=name) for run in read_runs([place])}
    run, card = max(cards.items(), key=lambda pair: pair[1].val_accuracy)  # the first of equals
    card = dataclasses.replace(
        card,
        command=f"mnistjax {words} seed={card.seed}",
        tried=tuple((card.seed, card.val_accuracy, card.test_accuracy) for card in cards.values()),
    )
    zoo.WEIGHTS.mkdir(exist_ok=True)
    path = zoo.WEIGHTS / f"{name}{zoo.SUFFIX}"
    records.replace_file(path, zoo.encode_weights(card, zoo.read_variables(run)))
    return zoo.load(name)[2]


def _call(*words: str) -> None:
    print(f"\n$ mnistjax {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "mnistjax", *words]).returncode
    if code:
        raise SystemExit(code)


def readme_text() -> str:
    """The table of the packaged models."""
    lines = [
        "| name | parameters | size | test accuracy | of all seeds | F1 | epochs | trained by |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in zoo.list_models(pretrained=True):
        card = zoo.load(name)[2]
        size = (zoo.WEIGHTS / f"{name}{zoo.SUFFIX}").stat().st_size
        tests = [100 * test for _, _, test in card.tried]
        spread = f"{statistics.fmean(tests):.2f} ± {statistics.stdev(tests):.2f} % ({len(tests)})"
        lines.append(
            f"| `{name}` | {card.parameters:,} | {size / 1000:,.0f} kB | {card.test_accuracy:.2%} | {spread} "
            f"| {card.test_f1:.4f} | {card.epochs} | `{card.command}` |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--readme", action="store_true")
    args = parser.parse_args()
    try:
        if args.folder is None and not args.readme:
            raise ConfigError("a folder for the runs is missing")
        for name in args.names:
            if name not in MODELS:
                raise unknown("model of the zoo", name, MODELS)
        if args.folder:
            for name in args.names or MODELS:
                card = publish(name, args.folder.absolute())
                print(f"{name}: seed {card.seed}, epoch {card.epochs}, {card.test_accuracy:.2%}", flush=True)
        replace_marked(README, BEGIN, END, f"\n\n{readme_text()}\n")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
