"""Compares ways to search: a grid, successive halving, Optuna's Hyperband; Sobol and random points, and TPE.

    python scripts/compare_searches.py FOLDER [STEP...]
    python scripts/compare_searches.py FOLDER --readme

Each step keeps its result in FOLDER: `mnist` and `fashion_mnist` train a grid of configurations with many
seeds, so that regrets can be computed for pairs of them; `full`, `last` and `best` (halving with this
sweep.rank) and `hyperband` are timed, so nothing else may run beside them; `trials` runs each way to draw
trials several times. `--readme` trains nothing: it writes the tables and the figure in scripts/searches. The
data sets are prepared as for the command `mnistjax`.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import mnistjax
from mnistjax.backend import processor
from mnistjax.config import badness, unknown
from mnistjax.loop import fit_runs
from mnistjax.markdown import format_table
from mnistjax.programs import make_program
from mnistjax.report.figures import new_figure, save, style
from mnistjax.report.runs import read_runs
from mnistjax.run import Run, Snapshot
from mnistjax.seeds import Spread
from mnistjax.sweeps.halving import Entrant, Halving, Rank, find_pauses
from sections import write_section
from training import errors_in_one_line, train

PLACE = Path(__file__).parent / "searches"
EPOCHS, FACTOR, SEEDS, REPETITIONS = 27, 3, 2, 5
COMMON = ["model=mlp", "train.monitor=val/accuracy"]
GRIDS = {"mnist": SEEDS * REPETITIONS, "fashion_mnist": 6}  # seeds by data set; each is also a step
VALUES = {
    "optimizer": ["sgd", "momentum", "adam"],
    "optimizer.learning_rate": [0.001, 0.01, 0.1],
    "model.hidden": [16, 32, 64],
    "train.batch_size": [64, 128, 256],
}
SPACE = [
    "optimizer=sgd,momentum,adam",
    "optimizer.learning_rate=tag(log,interval(1e-4,1))",
    "model.hidden=16,32,64",  # each width needs a program of its own
    "train.batch_size=64,128,256",
]
METHODS, TRIALS, SHORT = ("sobol", "random", "tpe"), 64, 9  # the last: epochs of a trial
MONITOR = "val/accuracy"
RANKS: tuple[Rank, ...] = ("last", "best")  # each is also a step
Curves = Mapping[int, Sequence[Sequence[float]]]
"""A validation metric after each epoch of each seed, by configuration; a loss is negative."""
Search = Callable[[Curves, int], tuple[int, int]]
"""Takes curves and a seed of its own; returns the configuration it ends with and the epochs it trained."""


def command(*words: str) -> float:
    """Runs `mnistjax -m` with these words; returns its seconds."""
    print(f"\n$ mnistjax -m {' '.join(words)}", flush=True)
    start = time.perf_counter()
    if code := subprocess.run([sys.executable, "-m", "mnistjax", "-m", *words]).returncode:
        raise SystemExit(code)
    return time.perf_counter() - start


def grid_words(seeds: Sequence[int], data: str = "mnist") -> list[str]:
    """The words of the grid."""
    values = [f"{key}={','.join(map(str, choices))}" for key, choices in VALUES.items()]
    return [f"data={data}", *COMMON, *values, f"train.epochs={EPOCHS}", seed_word(seeds)]


def seed_word(seeds: Sequence[int]) -> str:
    """The word of these seeds.

    >>> seed_word(seeds_of(2))
    'seed=4,5'
    """
    return f"seed={','.join(map(str, seeds))}"


def run_step(step: str, folder: Path) -> None:
    """Runs a step unless it is done; SystemExit if its command fails."""
    place = folder / step
    if step in GRIDS:
        train(["-m", *grid_words(range(GRIDS[step]), data=step)], place)
    elif step == "trials":
        for method, repetition in itertools.product(METHODS, range(REPETITIONS)):
            one, seeds = place / method / str(repetition), seed_word(seeds_of(repetition))
            words = ["data=mnist", *COMMON, *SPACE, f"train.epochs={SHORT}", seeds]
            search = [
                f"hydra/sweeper={method}",
                f"hydra.sweeper.trials={TRIALS}",
                f"hydra.sweeper.seed={repetition}",
            ]
            command(
                *([f"sweep.resume={one}"] if one.exists() else [*words, *search, f"hydra.sweep.dir={one}"])
            )
    else:
        time_step(step, folder)


def time_step(step: str, folder: Path) -> None:
    """Adds the time of a step, with the seeds of the next repetition, to times.json."""
    kept = folder / "times.json"
    times = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    number = len(times.get(step, []))
    repetition = number % REPETITIONS
    if step == "hyperband":
        start = time.perf_counter()
        run_hyperband(repetition)
        seconds = time.perf_counter() - start
    else:
        more = [f"sweep.halving={FACTOR}", f"sweep.rank={step}"] if step in RANKS else []
        # Without W&B, because Optuna's loop logs nothing.
        more += ["wandb.mode=disabled", f"hydra.sweep.dir={folder / f'{step}{number}'}"]
        seconds = command(*grid_words(seeds_of(repetition)), *more)
    times.setdefault(step, []).append(round(seconds, 1))
    kept.write_text(json.dumps({**times, "processor": processor()}, indent=1), "utf-8")


def seeds_of(repetition: int) -> Sequence[int]:
    """The seeds of a repetition."""
    return range(SEEDS * repetition, SEEDS * (repetition + 1))


def configurations() -> list[dict[str, Any]]:
    """The configurations of the grid, in its order."""
    return [dict(zip(VALUES, values, strict=True)) for values in itertools.product(*VALUES.values())]


def run_hyperband(repetition: int) -> None:
    """Optuna's loop with its Hyperband pruner over the grid, training single runs in this process."""
    mnistjax.prepare_backend()
    data = mnistjax.load_data("mnist")

    def train(number: int) -> Iterator[list[float]]:
        """Yields the curves of both seeds so far, at each rung."""
        config = configurations()[number]
        plan = mnistjax.make_plan(
            data,
            model="mlp",
            model_options={"hidden": config["model.hidden"]},
            optimizer=config["optimizer"],
            optimizer_options={"learning_rate": config["optimizer.learning_rate"]},
            batch_size=config["train.batch_size"],
            stopping=mnistjax.Stopping(EPOCHS, monitor=MONITOR),
        )
        program = make_program(plan.spec, data)
        runs = [Run(plan.hyper, seed, plan.stopping) for seed in seeds_of(repetition)]
        for epochs in find_rungs():
            results = []
            for run in runs:
                more = Run(run.hyper, run.seed, run.stopping, run.snapshot, run.rows, pause=epochs)
                ((_, result),) = fit_runs(program, [[more]])
                results.append(result)
            yield [result.rows[-1][MONITOR] for result in results]
            snapshots = [Snapshot(state=result.state, best=None) for result in results]
            runs = [
                Run(run.hyper, run.seed, run.stopping, snapshot, result.rows)
                for run, snapshot, result in zip(runs, snapshots, results, strict=True)
            ]

    print(loop_hyperband(train, seed=repetition))


def loop_hyperband(train: Any, seed: int) -> tuple[int, int]:
    """The configuration that Optuna's loop ends with, and the epochs that it trained.

    `train` yields the values of both seeds at each rung.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.GridSampler({"number": [*range(len(configurations()))]}, seed=seed)
    pruner = optuna.pruners.HyperbandPruner(1, EPOCHS, FACTOR)
    name = f"grid {seed}"  # Hyperband chooses brackets by the hash of the name, which is random unless given
    study = optuna.create_study(study_name=name, direction="maximize", sampler=sampler, pruner=pruner)
    spent = 0

    def objective(trial: Any) -> float:
        nonlocal spent
        number = trial.suggest_int("number", 0, len(configurations()) - 1)
        before, value = 0, 0.0
        for epochs, values in zip(find_rungs(), train(number), strict=False):
            spent, before, value = spent + SEEDS * (epochs - before), epochs, statistics.fmean(values)
            trial.report(value, epochs)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=len(configurations()))
    return study.best_params["number"], spent


def find_rungs() -> list[int]:
    """The epochs at which a search can stop a run, and the last one."""
    return [*find_pauses(EPOCHS, FACTOR, 3), EPOCHS]


def read_curves(folder: Path, data: str = "mnist", monitor: str = MONITOR) -> Curves:
    """The curves of a grid, in the order of their seeds."""
    numbers = {tuple(map(str, config.values())): number for number, config in enumerate(configurations())}
    found: dict[int, dict[int, Sequence[float]]] = {}
    for run in read_runs(folder / data):
        config = run.config
        (hidden,) = np.atleast_1d(config["model.hidden"])
        values = (
            config["optimizer.name"],
            config["optimizer.learning_rate"],
            hidden,
            config["train.batch_size"],
        )
        number = numbers[tuple(map(str, values))]
        found.setdefault(number, {})[run.seed or 0] = [-badness(monitor, row[monitor]) for row in run.rows]
    return {number: [own[seed] for seed in range(GRIDS[data])] for number, own in found.items()}


def choose_by_halving(curves: Curves, rank: Rank) -> tuple[int, int]:
    """The configuration that halving ends with on these curves, and the epochs that it trains."""
    entrants = {
        number * SEEDS + seed: Entrant("mnist", number, EPOCHS) for number in curves for seed in range(SEEDS)
    }
    halving, reached = Halving(entrants, FACTOR, monitor=MONITOR, rank=rank), dict.fromkeys(entrants, 0)
    ready = [*entrants]
    while ready:
        for job in ready:
            reached[job] = end = halving.pause(job) or EPOCHS
            rows = [{MONITOR: value} for value in curves[job // SEEDS][job % SEEDS][:end]]
            halving.record(job, "done" if end == EPOCHS else "waiting", rows)
        ready = halving.decide().onward
    finalists = {job // SEEDS for job, epochs in reached.items() if epochs == EPOCHS}
    return max(finalists, key=lambda number: final(curves, number)), sum(reached.values())


def choose_by_hyperband(curves: Curves, seed: int) -> tuple[int, int]:
    """The configuration that Optuna's loop ends with on these curves, and the epochs that it trains."""
    return loop_hyperband(
        lambda number: ([curve[epochs - 1] for curve in curves[number]] for epochs in find_rungs()), seed
    )


def final(curves: Curves, number: int) -> float:
    """The mean of a configuration's values at the end."""
    return statistics.fmean(curve[-1] for curve in curves[number])


def compare(folder: Path) -> str:
    """The table of the grid, halving and Hyperband: seconds, epochs, regret."""
    times = json.loads((folder / "times.json").read_text("utf-8"))
    everything = len(configurations()) * SEEDS * EPOCHS
    searches: dict[str, Search] = {
        "full": lambda curves, _: (max(curves, key=lambda number: final(curves, number)), everything),
        "last": lambda curves, _: choose_by_halving(curves, "last"),
        "best": lambda curves, _: choose_by_halving(curves, "best"),
        "hyperband": choose_by_hyperband,
    }
    names = {
        "full": "`mnistjax -m`, all of the grid",
        "last": f"`mnistjax -m ... sweep.halving={FACTOR}`",
        "best": f"`mnistjax -m ... sweep.halving={FACTOR} sweep.rank=best`",
        "hyperband": "Optuna's loop with `HyperbandPruner`, single runs in one process",
    }
    curves = read_curves(folder)
    apart = [seeds_of(repetition) for repetition in range(REPETITIONS)]
    pairs = [*itertools.combinations(range(SEEDS * REPETITIONS), SEEDS)]
    table = [["search", "wall time", "ratio", "epochs trained", "regret", f"of all {len(pairs)} pairs"]]
    base = statistics.fmean(times["best"])
    for name, search in searches.items():
        results = [find_regret(curves, seeds, number, search) for number, seeds in enumerate(apart)]
        spent = f"{statistics.fmean(epochs for epochs, _ in results):,.0f}"
        more = [find_regret(curves, seeds, number, search) for number, seeds in enumerate(pairs)]
        regrets = [show_regret([regret for _, regret in some]) for some in (results, more)]
        ratio = statistics.fmean(times[name]) / base
        table.append([names[name], f"{Spread(tuple(times[name])):.0f} s", f"{ratio:.1f}", spent, *regrets])
    return format_table(table)


def compare_ranks(folder: Path) -> str:
    """The table of the regrets of halving by the last and by the best value, for each data set and metric."""
    table = [["data", "train.monitor", *(f"sweep.rank={rank}" for rank in RANKS)]]
    for data, monitor in itertools.product(GRIDS, ("val/accuracy", "val/loss")):
        curves = read_curves(folder, data, monitor)
        row = [data, monitor]
        for rank in RANKS:
            found = [
                find_regret(curves, seeds, 0, lambda own, _, rank=rank: choose_by_halving(own, rank))
                for seeds in itertools.combinations(range(GRIDS[data]), SEEDS)
            ]
            row.append(show_regret([regret for _, regret in found]))
        table.append(row)
    return format_table(table)


def find_regret(curves: Curves, seeds: Sequence[int], draw: int, search: Search) -> tuple[int, float]:
    """The epochs that a search over these seeds trains, and how far its choice is below the best."""
    own = {number: [some[seed] for seed in seeds] for number, some in curves.items()}
    chosen, epochs = search(own, draw)
    return epochs, max(final(own, number) for number in own) - final(own, chosen)


def show_regret(regrets: Sequence[float]) -> str:
    """Regrets in percentage points or hundredths of a nat: mean ± deviation (largest)."""
    spread = Spread(tuple(100 * regret for regret in regrets))
    return f"{spread:.3f} (at most {max(spread.values):.3f})"


def read_trials(folder: Path) -> dict[str, np.ndarray]:
    """The best validation accuracy after each trial (REPETITIONS, TRIALS), by method."""
    found: dict[str, np.ndarray] = {}
    for method in METHODS:
        curves = []
        for seed in range(REPETITIONS):
            values: dict[tuple[Any, ...], list[float]] = {}
            for run in read_runs(folder / "trials" / method / str(seed)):
                keys = ("optimizer.name", "optimizer.learning_rate", "model.hidden", "train.batch_size")
                key = tuple(str(run.config[key]) for key in keys)
                values.setdefault(key, []).append(run.rows[-1][MONITOR] if run.status == "done" else 0.0)
            means = [statistics.fmean(own) for own in values.values()]
            best = np.maximum.accumulate(means)
            curves.append(
                np.pad(best, (0, TRIALS - len(best)), mode="edge")
            )  # a repeated trial is no new one
        found[method] = np.array(curves)
    return found


def draw_trials(found: Mapping[str, np.ndarray]) -> Figure:
    """The best validation accuracy after n trials, mean and range of the repetitions."""
    figure = new_figure(7.0, 4.2)
    with style():
        axes = figure.add_subplot()
        for (method, curves), colour in zip(found.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
            trials = np.arange(1, curves.shape[1] + 1)
            axes.plot(trials, 100 * curves.mean(0), color=colour, label=method)
            low, high = 100 * curves.min(0), 100 * curves.max(0)
            axes.fill_between(trials, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="trials", ylabel="best validation accuracy (%)", ylim=(96, 98))
        axes.set_title(f"MLPs on MNIST, {SHORT} epochs: mean and range of {REPETITIONS} repetitions")
        axes.legend(loc="lower right")
    return figure


def tabulate_trials(found: Mapping[str, np.ndarray]) -> str:
    """The table of the best validation accuracy after some trials."""
    marks = (8, 16, 32, TRIALS)
    rows = [["method", *(f"after {mark} trials" for mark in marks)]]
    for method, curves in found.items():
        rows.append([method, *(f"{Spread(tuple(curves[:, mark - 1])):.2%}" for mark in marks)])
    return format_table(rows)


STEPS = (*GRIDS, "full", *RANKS, "hyperband", "trials")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--readme", action="store_true")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with errors_in_one_line():
        for step in args.steps:
            if step not in STEPS:
                raise unknown("step", step, STEPS)
        for step in () if args.readme else args.steps or STEPS:
            run_step(step, folder)
        if args.readme or not args.steps:
            write_section(PLACE / "README.md", "halving", compare(folder))
            write_section(PLACE / "README.md", "ranks", compare_ranks(folder))
            found = read_trials(folder)
            write_section(PLACE / "README.md", "trials", tabulate_trials(found))
            save(draw_trials(found), PLACE / "trials")


if __name__ == "__main__":
    main()
