"""Times a training pass of the report's models: seconds per epoch and milliseconds per step, as a table.

    python scripts/benchmark.py [--data mnist] [--epochs 20] [--only NAME ...]

Order, gather and steps; compile and evaluation excluded. Median over the epochs, with the extremes.
"""

import argparse

import mnistjax
from mnistjax.config import Plan, Stopping
from mnistjax.data import Dataset

NEURON = {"model": "neuron", "optimizer": "rmsprop", "optimizer_options": {"learning_rate": 0.01}}
MLP = {"model": "mlp", "optimizer": "sgd"}
CNN = {"model": "cnn", "batch_size": 128, "optimizer": "sgd"}
WORKLOADS = {
    **{f"neuron batch {batch}": {**NEURON, "batch_size": batch} for batch in (32, 64, 128, 1024, "all")},
    "mlp 64 batch 64": {**MLP, "batch_size": 64, "model_options": {"hidden": 64}},
    "mlp 1024 batch 64": {**MLP, "batch_size": 64, "model_options": {"hidden": 1024}},
    "cnn 34,826 batch 128": {**CNN, "model_options": {"channels": [32, 64], "convolutions": 1, "hidden": []}},
    "cnn default batch 64": {},
}


def plan_workload(name: str, data: Dataset, epochs: int) -> tuple[Plan, Dataset]:
    """The Plan of a workload and its data; a neuron's task is binary."""
    options = {**WORKLOADS[name], "stopping": Stopping(epochs)}
    if not name.startswith("neuron"):
        return mnistjax.make_plan(data, **{"schedule": "constant", **options}), data
    data = mnistjax.to_binary(data, 0)
    return mnistjax.make_plan(data, schedule="constant", positive=0, **options), data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="auto")
    parser.add_argument("--epochs", type=int, default=20, help="of a neuron; others take a tenth, at least 2")
    parser.add_argument("--only", nargs="*", default=list(WORKLOADS), choices=WORKLOADS, metavar="NAME")
    args = parser.parse_args()
    mnistjax.prepare_backend()
    data = mnistjax.load_data(args.data)
    print(f"{'workload':<22}{'s/epoch':>10}{'min':>10}{'max':>10}{'ms/step':>10}{'compile s':>11}")
    for name in args.only:
        epochs = args.epochs if name.startswith("neuron") else max(2, args.epochs // 10)
        plan, labelled = plan_workload(name, data, epochs)
        result = mnistjax.fit(plan.spec, plan.hyper, data=labelled, stopping=plan.stopping)
        seconds = [row["seconds"] for row in result.rows]
        step = 1000 * result.seconds_per_epoch / plan.spec.steps_per_epoch
        print(
            f"{name:<22}{result.seconds_per_epoch:>10.4f}{min(seconds):>10.4f}{max(seconds):>10.4f}"
            f"{step:>10.3f}{result.compile_seconds:>11.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
