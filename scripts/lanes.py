"""Times the ways to train many runs of one Spec; `sweep.mode=auto` follows from this table.

    python scripts/lanes.py [--data mnist] [--runs 8] [--repeats 3] [--only NAME ...]

It prints seconds per run and epoch: wall time with evaluation, without compiling; medians of repeats in turn.
`one` trains one run after the other, `map` one run on each core at a time, `vmap` all runs as lanes of one
program. The last two columns are for runs that read the images in one order (one seed, or
`train.shuffle=shared`): `in turn` is `map` with interleaved runs on each core, which share their batches, and
`shared` is `vmap`.
"""

import concurrent.futures
import statistics
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable

import mnistjax
from mnistjax.backend import cores
from mnistjax.config import Spec, Stopping
from mnistjax.data import Dataset

NEURON = {"model": "neuron", "optimizer": "rmsprop", "schedule": "constant"}
MLP = {"model": "mlp", "optimizer": "sgd", "batch_size": 64}
WORKLOADS = {
    "neuron batch 64": {**NEURON, "batch_size": 64},
    "neuron batch 1024": {**NEURON, "batch_size": 1024},
    "mlp 64 batch 64": {**MLP, "model_options": {"hidden": 64}},
    "mlp 1024 batch 64": {**MLP, "model_options": {"hidden": 1024}},
}
EPOCHS = {"neuron batch 64": 10, "neuron batch 1024": 10, "mlp 64 batch 64": 2, "mlp 1024 batch 64": 1}


def ways(name: str, data: Dataset, count: int) -> tuple[dict[str, Callable[[], None]], int]:
    """The functions to time, each of which trains `count` runs, and the epochs of a run."""
    positive = 0 if name.startswith("neuron") else None
    data = data if positive is None else mnistjax.to_binary(data, positive)
    stopping = Stopping(EPOCHS[name])

    def make(shuffle: str) -> tuple[Spec, list[mnistjax.Run]]:
        options = {**WORKLOADS[name], "stopping": stopping, "shuffle": shuffle, "positive": positive}
        plans = [mnistjax.make_plan(data, seed=seed, **options) for seed in range(count)]
        return plans[0].spec, [mnistjax.Run(plan.hyper, plan.seed, stopping) for plan in plans]

    def train(spec: Spec, groups: list[list[mnistjax.Run]], width: int = 1) -> None:
        for _ in mnistjax.fit_runs(mnistjax.make_program(spec, data, width=width), groups):
            pass

    def in_threads(spec: Spec, groups: list[list[mnistjax.Run]]) -> None:
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda group: train(spec, [group]), groups))

    (own, own_runs), (shared, shared_runs) = make("own"), make("shared")
    return {
        "one": lambda: train(own, [[run] for run in own_runs]),
        "map": lambda: in_threads(own, [[run] for run in own_runs]),
        "vmap": lambda: train(own, [own_runs], width=count),
        "in turn": lambda: in_threads(shared, [shared_runs[i :: cores()] for i in range(cores())]),
        "shared": lambda: train(shared, [shared_runs], width=count),
    }, stopping.epochs


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="auto")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(WORKLOADS), choices=WORKLOADS, metavar="NAME")
    args = parser.parse_args()
    mnistjax.prepare_backend()
    data = mnistjax.load_data(args.data)
    for index, name in enumerate(args.only):
        timed, epochs = ways(name, data, args.runs)
        if not index:
            print(f"{'workload':<20}" + "".join(f"{way:>10}" for way in timed))
        seconds: dict[str, list[float]] = {way: [] for way in timed}
        for repeat in range(args.repeats + 1):  # the first one compiles
            for way, run in timed.items():
                started = time.perf_counter()
                run()
                if repeat:
                    seconds[way].append((time.perf_counter() - started) / args.runs / epochs)
        print(f"{name:<20}" + "".join(f"{statistics.median(s):>10.4f}" for s in seconds.values()), flush=True)


if __name__ == "__main__":
    main()
