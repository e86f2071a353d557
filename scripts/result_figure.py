"""Trains the default model and draws the picture of its result that the README shows.

python scripts/result_figure.py [--data mnist] [--out .github/result.png]
"""

import argparse
from pathlib import Path

import mnistjax
from mnistjax.report.figures import result_figure, save


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="auto")
    parser.add_argument("--out", type=Path, default=Path(".github/result.png"))
    args = parser.parse_args()
    mnistjax.prepare_backend()
    data = mnistjax.load_data(args.data)
    plan = mnistjax.make_plan(data)
    result = mnistjax.fit(plan.spec, plan.hyper, seed=plan.seed, data=data, stopping=plan.stopping)
    if result.test is None:
        raise SystemExit(f"the run is {result.status}: {result.reason}")
    probabilities = mnistjax.predict(plan.spec, result.variables, data.test.images)
    accuracy, count = result.test["accuracy"], result.test["count"]
    title = f"{plan.spec.model} on {data.name}: {accuracy:.2%} of {count:,} test images"
    figure = result_figure(
        result.rows,
        result.test["confusion_matrix"],
        data.test.images,
        data.test.labels,
        probabilities,
        data.class_names,
        title=title,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(title, *save(figure, args.out), sep="\n")


if __name__ == "__main__":
    main()
