"""Trains the default model and draws its curves, its confusion matrix and its worst errors.

python scripts/result_figure.py [--data mnist] [--out .github/result.png]
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import mnistjax
from mnistjax.report.figures import draw_confusion, draw_curve, draw_errors, new_figure, save, style
from mnistjax.tracking import Examples


def result_figure(
    rows: Sequence[Mapping[str, Any]], matrix: Sequence[Sequence[int]], examples: Examples, *, title: str
) -> Figure:
    """A finished run's curves, its confusion matrix on the test images, and its worst errors there."""
    names = examples.class_names
    figure = new_figure(12.0, 9.4)
    figure.suptitle(title, fontsize=14, weight="bold")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.7, 1))
    upper, lower = halves
    left, right = upper.subfigures(1, 2, width_ratios=(1, 1.25))
    with style():
        for axes, metric in zip(left.subplots(2, 1), ("loss", "accuracy"), strict=True):
            draw_curve(axes, rows, metric)
        draw_confusion(right.add_subplot(), matrix, names, 9.0 if len(names) <= 20 else 5.0)
    some = len(examples.errors()) > 0
    heading = "Its most confident errors  (true → predicted, confidence)" if some else "No errors"
    lower.suptitle(heading, fontsize=11, weight="bold")
    draw_errors(lower, examples, count=20, columns=10)
    return figure


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="auto")
    parser.add_argument("--out", type=Path, default=Path(".github/result.png"))
    args = parser.parse_args()
    mnistjax.prepare_backend()
    data = mnistjax.load_data(args.data)
    plan = mnistjax.make_plan(data)
    result = mnistjax.fit(plan.spec, plan.hyper, seed=plan.seed, data=data, stopping=plan.stopping)
    if result.test is None:
        raise SystemExit(f"the run is {result.status}: {result.reason}")
    test = data.test
    probabilities = mnistjax.predict(plan.spec, result.variables, test.images)
    examples = Examples(test.images, test.labels, probabilities, data.class_names)
    accuracy, count = result.test["accuracy"], result.test["count"]
    title = f"{plan.spec.model} on {data.name}: {accuracy:.2%} of {count:,} test images"
    figure = result_figure(result.rows, result.test["confusion_matrix"], examples, title=title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(title, *save(figure, args.out), sep="\n")


if __name__ == "__main__":
    main()
