"""Trains the packaged models; writes their weights and cards, and the table in mnistjax/zoo/README.md.

    python scripts/publish_zoo.py FOLDER [NAME...]
    python scripts/publish_zoo.py --readme

Each model is a sweep over seeds in FOLDER; the same command continues one that was stopped. The small
networks are those of scripts/front.py, in FOLDER/front. The seed that is best on the validation images is
packaged; its card also lists the other seeds. An ensemble of all seeds must be better than it there. All
models are rounded to float16, which halves their files, before they are measured.
`--readme` trains nothing.
"""

import dataclasses
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

import front
from mnistjax import checkpoints, files, zoo
from mnistjax.compose import differing_keys
from mnistjax.config import ConfigError, unknown
from mnistjax.data import Dataset, Split
from mnistjax.finished import reopen
from mnistjax.markdown import format_table
from mnistjax.metrics import batch_sums, summarize
from mnistjax.report.runs import RunRecord
from mnistjax.words import shell_join
from mnistjax.zoo.classify import find_logits
from mnistjax.zoo.ensemble import ensemble
from sections import write_section
from training import errors_in_one_line, show_time, train_seeds

README = zoo.WEIGHTS.with_name("README.md")
SECTION = "zoo"  # in it
BEST = "train.keep=best train.monitor=val/accuracy"
AUGMENTED = "experiment=augmented"
MODELS = {  # name -> arguments of its command, data set, number of seeds
    "neuron.mnist_zero": (f"experiment=single_neuron {BEST}", "mnist", 5),
    "mlp.mnist_zero": (f"experiment=activation model.activation=relu {BEST}", "mnist", 5),
    "mlp.mnist": (f"experiment=multiclass {BEST}", "mnist", 5),
    "cnn.mnist": (f"experiment=optimizer optimizer=momentum {BEST}", "mnist", 3),
    "lenet5.mnist": (AUGMENTED, "mnist", 4),
    "cnn_bn.mnist": ("experiment=strong", "mnist", 6),
    "cnn_bn.mnist_strongest": ("experiment=strongest", "mnist", 6),
    "resnet.mnist": (f"{AUGMENTED} model=resnet", "mnist", 4),
    "mlp_mixer.mnist": (f"{AUGMENTED} model=mlp_mixer train.micro_batch=32", "mnist", 4),
    "vit.mnist": (f"{AUGMENTED} model=vit train.micro_batch=16", "mnist", 4),
    "mlp.fashion_mnist": ("experiment=fashion model=mlp model.hidden=128", "fashion_mnist", 3),
    "cnn.fashion_mnist": ("experiment=fashion model=cnn", "fashion_mnist", 3),
    "cnn_bn.fashion_mnist": ("experiment=fashion_strong", "fashion_mnist", 3),
}
MODELS |= {
    name: (f"experiment=small model.channels={channels}", "mnist", 5)
    for channels, name in front.PACKAGED.items()
}

ENSEMBLES = {"cnn_bn.mnist_ensemble": ("experiment=strong", "mnist", 6)}  # all seeds of a command together


def publish(name: str, folder: Path) -> zoo.Card:
    """Trains and packages a model, the best seed or an ensemble; returns its card."""
    known = MODELS | ENSEMBLES
    words, data, seeds = known[name]
    words = f"{words} data={data}"
    if name in front.PACKAGED.values():
        runs = [run for run in front.train_front(folder / "front") if find_channels(run) in words]
    else:
        # An ensemble shares its runs.
        first = next(other for other, made in known.items() if made == known[name])
        runs = train_seeds(words.split(), range(seeds), folder / first)
    check_command(words, range(seeds), runs)
    _, dataset = reopen(runs[0].folder)  # with the validation images of these runs
    cards = {run.folder: zoo.describe_run(run.folder, name=name) for run in runs}
    tried = tuple((card.seed, card.val_accuracy, card.test_accuracy) for card in cards.values())
    run, best = max(cards.items(), key=lambda pair: pair[1].val_accuracy)  # the first of equals
    flag, seed = (["-m"], ",".join(map(str, range(seeds)))) if name in ENSEMBLES else ([], best.seed)
    command = shell_join(["mnistjax", *flag, *words.split(), f"seed={seed}"])
    best = dataclasses.replace(best, command=command, tried=tried)
    if name in ENSEMBLES:
        _write(*unite(best, list(cards), dataset))
    else:
        _write(*round_model(best, run, dataset))
    return zoo.load(name)[2]


def find_channels(run: RunRecord) -> str:
    """The channels of a run as its command gives them."""
    return f"model.channels={front.show_channels(run.config['model.channels'])}"


def check_command(words: str, seeds: Sequence[int], runs: Sequence[RunRecord]) -> None:
    """Raises ConfigError unless this command trained the runs, possibly in an earlier version."""
    if (found := [run.seed for run in runs]) != [*seeds]:
        raise ConfigError(f"the runs of this command have the seeds {found}, not {[*seeds]}")
    command = [sys.executable, "-m", "mnistjax", *words.split(), "--cfg", "job", "--resolve"]
    config = yaml.safe_load(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout)
    for run in runs:
        if different := differing_keys({**config, "seed": run.seed}, run.config):
            raise ConfigError(f"the run in {run.folder} is not of this command: {', '.join(different)}")


def round_model(card: zoo.Card, run: Path, data: Dataset) -> tuple[zoo.Card, dict[str, np.ndarray]]:
    """The card and the variables of a run, measured when they are rounded to float16."""
    model, variables, _ = zoo.load(run)
    halved = {path: array.astype(np.float16) for path, array in checkpoints.flatten(variables).items()}
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), variables)
    return measure_card(card, model, rounded, data), halved


def measure_card(card: zoo.Card, model: Any, variables: Any, data: Dataset) -> zoo.Card:
    """The card with the results of these variables on the validation and the test images."""
    val, test = (measure(card, model, variables, split) for split in (data.val, data.test))
    return dataclasses.replace(
        card,
        val_accuracy=val["accuracy"],
        test_accuracy=test["accuracy"],
        test_f1=test["f1"],
        test_confusion_matrix=tuple(map(tuple, test["confusion_matrix"])),
    )


def unite(best: zoo.Card, runs: list[Path], data: Dataset) -> tuple[zoo.Card, dict[str, np.ndarray]]:
    """The card and the variables of the runs' ensemble, whose members are in float16.

    ConfigError unless it is better on the validation images than the best of them.
    """
    loaded = [zoo.load(run) for run in runs]
    val_images = data.val.images.reshape(-1, *data.image_shape)
    members = [jax.tree.map(lambda leaf: leaf.astype(jnp.float16), variables) for _, variables, _ in loaded]
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), members)
    model, variables = ensemble(loaded[0][0], rounded, best.task, val_images, data.val.labels)
    found = measure(best, model, variables, data.val)["accuracy"]
    if found <= best.val_accuracy:
        raise ConfigError(
            f"{best.name}: {found:.2%} on validation, not better than the best seed, {best.val_accuracy:.2%}"
        )
    card = dataclasses.replace(
        measure_card(best, model, variables, data),
        seed=loaded[0][2].seed,
        identity=loaded[0][2].identity,
        members=len(runs),
        epochs=max(card.epochs for _, _, card in loaded),
        seconds=sum(card.seconds for _, _, card in loaded),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    )
    arrays = checkpoints.flatten(variables)
    halved = {path: array.astype(np.float16) for path, array in arrays.items() if "member_" in path}
    return card, {**arrays, **halved}


def measure(card: zoo.Card, model: Any, variables: Any, split: Split) -> dict[str, Any]:
    """The metrics of a model's predictions for all images of a split."""
    images, labels = split.images.reshape(-1, *card.image_shape), jnp.asarray(split.labels)
    logits = find_logits(model, variables, images)
    sums = batch_sums(card.task, len(card.class_names), logits, labels, jnp.ones(len(labels)))
    return summarize(card.task, sums)


def _write(card: zoo.Card, arrays: Mapping[str, np.ndarray]) -> None:
    zoo.WEIGHTS.mkdir(exist_ok=True)
    files.replace(zoo.WEIGHTS / f"{card.name}{zoo.SUFFIX}", zoo.encode_weights(card, arrays))


def readme_text() -> str:
    """The table of the packaged models in Markdown."""
    head = ["name", "parameters", "size", "test accuracy", "of all seeds", "F1", "epoch", "time"]
    rows = [[*head, "trained by"]]
    for name in zoo.list_models(pretrained=True):
        card = zoo.read_card(name)
        size = (zoo.WEIGHTS / f"{name}{zoo.SUFFIX}").stat().st_size
        rows.append(
            [
                f"`{name}`",
                f"{card.parameters:,}",
                f"{size / 1000:,.0f} kB",
                f"{card.test_accuracy:.2%}",
                card.spread if card.members == 1 else f"{card.members} together",
                f"{card.test_f1:.4f}",
                str(card.epochs),
                show_time(card.seconds),
                f"`{card.command}`",
            ]
        )
    return format_table(rows, left=["trained by"])


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS | ENSEMBLES))
    parser.add_argument("--readme", action="store_true")
    args = parser.parse_args()
    with errors_in_one_line():
        if args.folder is None and not args.readme:
            raise ConfigError("a folder for the runs is missing")
        for name in args.names:
            if name not in MODELS | ENSEMBLES:
                raise unknown("model of the zoo", name, MODELS | ENSEMBLES)
        if args.folder and not args.readme:
            for name in args.names or MODELS | ENSEMBLES:
                card = publish(name, args.folder.absolute())
                print(f"{name}: seed {card.seed}, epoch {card.epochs}, {card.test_accuracy:.2%}", flush=True)
        write_section(README, SECTION, readme_text())


if __name__ == "__main__":
    main()
