"""Runs `experiment=fast_99` once: python fast_99.py SEED prints its seconds and its test accuracy.

The seconds count everything after loading the data: planning, compiling, shuffling, training, evaluating. The
seconds of shuffling are for making the orders and gathering the batches, mostly while the device trains.
"""

import json
import sys
import time

import mnistjax
from mnistjax.batches import HostBatches
from mnistjax.cli import overrides
from mnistjax.compose import plan_run, read_settings
from mnistjax.devices import count_shards, shard_mesh
from mnistjax.layout import epoch_rows


def main() -> None:
    mnistjax.prepare_backend()
    data = mnistjax.load_data("mnist")
    with overrides.composing():
        words = ["experiment=fast_99", "data=mnist", f"seed={int(sys.argv[1])}"]
        settings = read_settings(overrides.to_plain_config(overrides.compose(words), resolve=True))
    started = time.perf_counter()
    plan = plan_run(settings, data)
    result = mnistjax.fit(plan.spec, plan.hyper, seed=plan.seed, data=data, stopping=plan.stopping)
    seconds = time.perf_counter() - started
    assert result.test
    started = time.perf_counter()
    batches = HostBatches(data.train, count_shards(plan.spec), shard_mesh(plan.spec))
    for epoch in range(plan.stopping.epochs):
        batches.prepare(epoch_rows(plan.spec, seed=plan.seed + 1, epoch=epoch))  # not made before
    shuffling = time.perf_counter() - started
    answer = {"seconds": seconds, "accuracy": result.test["accuracy"], "val": result.rows[-1]["val/accuracy"]}
    print(json.dumps({**answer, "compile": result.compile_seconds, "shuffle": shuffling}))


if __name__ == "__main__":
    main()
