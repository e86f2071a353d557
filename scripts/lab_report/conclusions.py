"""Tests of the lab report's conclusions, each with the confidence that our runs give it.

The lab report draws each conclusion from one run. Here a conclusion is an interval for a mean over seeds, or
for a difference of two means. Its confidence is the share of Student's t (Welch's, for two means) inside the
interval: 1 less the p-value of the one-sided test if the interval is open. For a conclusion of several parts
it is 1 less the sum of their doubts, which is never too high (Bonferroni). Our runs contradict a conclusion
if they are equally sure that one of its parts lies beyond one bound of its interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab_report.estimates import (
    Relation,
    Share,
    between,
    estimate,
    estimate_each,
    falling,
    highest,
    list_estimates,
    lowest,
    rising,
)
from lab_report.study import (
    OPTIMIZERS,
    SGD,
    Number,
    Study,
    TooFew,
    after,
    alike_share,
    curve,
    epochs_to_converge,
    f1_gap,
    irregularity,
    loss_gap,
    measure,
    moves_together,
    pick,
    pick_value,
    summary_number,
)

SURE = 0.95

Opinion = Literal["supported", "contradicted", "undecided", "too few runs", "not tested"]


@dataclass(frozen=True)
class Finding:
    """The evidence of our runs for or against a conclusion."""

    evidence: str
    shares: Sequence[Share]  # one for each part of the conclusion

    @property
    def confidence(self) -> float:
        """The confidence that all parts hold."""
        return max(0.0, 1 - sum(1 - share.inside for share in self.shares))

    @property
    def opinion(self) -> Opinion:
        if self.confidence >= SURE:
            return "supported"
        doubt = (1 - SURE) / len(self.shares)  # Bonferroni: the limit for one of several parts
        return "contradicted" if max(share.beyond for share in self.shares) >= 1 - doubt else "undecided"


Test = Callable[[Study], Finding]  # raises TooFew if the study lacks the runs


@dataclass(frozen=True)
class Conclusion:
    number: str  # in the list at the end of the lab report
    statement: str
    test: Test | None = None  # None if only looking at pictures can decide it

    def judge(self, study: Study) -> tuple[Opinion, Finding | None]:
        """The opinion and its finding; no finding if the study lacks the runs."""
        if self.test is None:
            return "not tested", None
        try:
            finding = self.test(study)
        except TooFew:
            return "too few runs", None
        return finding.opinion, finding


def mean_lies(
    what: str, experiment: str, value: Any, number: Number, low: float = -math.inf, high: float = math.inf
) -> Test:
    """The test that the mean of a number over an experiment's runs lies between two bounds.

    It takes the runs with this value of the key that the experiment varies, or all runs for None.
    """

    def test(study: Study) -> Finding:
        runs = pick(study, experiment) if value is None else pick_value(study, experiment, value)
        found = estimate(runs, number)
        return Finding(f"{what}: {found}", [found.share(low, high)])

    return test


def means_are(what: str, experiment: str, number: Number, relation: Relation) -> Test:
    """The test of a relation between the means of a number for the values that an experiment varies."""

    def test(study: Study) -> Finding:
        found = estimate_each(study, experiment, number)
        return Finding(f"{what}: {list_estimates(found)}", relation(found))

    return test


ACCURACY = summary_number("test/accuracy")
UPS_AND_DOWNS = "ups and downs of the validation loss per epoch"


def width_helps(study: Study) -> Finding:
    accuracy, f1 = (estimate_each(study, "width", x) for x in (ACCURACY, summary_number("test/f1")))
    evidence = f"test accuracy {list_estimates(accuracy)}; F1 {list_estimates(f1)}"
    return Finding(evidence, [*rising(accuracy), *rising(f1)])


def wide_fits_all(study: Study) -> Finding:
    runs = pick_value(study, "width", 1024)
    accuracy = estimate(runs, lambda run: float(after(run, "train/accuracy", 60).min()))
    loss = estimate(runs, lambda run: float(after(run, "train/loss", 60).max()))
    evidence = f"lowest training accuracy {accuracy}, highest training loss {loss}"
    shares = [accuracy.share(low=0.99995), loss.share(high=0.005)]
    return Finding(f"after epoch 60, 1,024 neurons: {evidence}", shares)


def cnn_beats_mlp(study: Study) -> Finding:
    cnn = estimate(pick_value(study, "optimizer", SGD), ACCURACY)
    mlp = estimate(pick(study, "multiclass"), ACCURACY)
    return Finding(f"test accuracy, SGD: CNN {cnn}, MLP {mlp}", [(cnn - mlp).share(low=0.01)])


def tuned_sgd_is_best(study: Study) -> Finding:
    runs = {name: pick(study, f"tuned_{name}") for name in OPTIMIZERS}
    found = {name: estimate(runs[name], ACCURACY) for name in OPTIMIZERS}
    rates = {name: f"{name} at {runs[name][0].config['optimizer.learning_rate']:g}" for name in OPTIMIZERS}
    evidence = list_estimates({rates[name]: accuracy for name, accuracy in found.items()})
    return Finding(f"test accuracy, each at its tuned rate: {evidence}", highest(SGD)(found))


CONCLUSIONS = (
    Conclusion(
        "1",
        "At batch 64 a neuron's training loss is at 0.075 to 0.100 within five epochs.",
        mean_lies(
            "lowest training loss of the first five epochs, batch 64",
            "batch_size",
            64,
            lambda run: float(curve(run, "train/loss")[:5].min()),
            0.075,
            0.1,
        ),
    ),
    Conclusion(
        "1",
        "The full batch converges near epoch 40 (30 to 50).",
        mean_lies(
            "epoch of a validation loss within 10 % of the lowest, full batch",
            "batch_size",
            "all",
            epochs_to_converge,
            30,
            50,
        ),
    ),
    Conclusion(
        "1",
        "Smaller batches converge in fewer epochs.",
        means_are(
            "epochs to within 10 % of the lowest validation loss", "batch_size", epochs_to_converge, rising
        ),
    ),
    Conclusion(
        "1",
        "Larger batches follow a smoother path.",
        means_are(UPS_AND_DOWNS, "batch_size", irregularity, falling),
    ),
    Conclusion(
        "2",
        "The full batch is the most accurate.",
        means_are("test accuracy", "batch_size", ACCURACY, highest("all")),
    ),
    Conclusion(
        "2",
        "The full batch is the fastest per epoch.",
        means_are(
            "seconds per epoch, in the sweep",
            "batch_size",
            summary_number("seconds_per_epoch"),
            lowest("all"),
        ),
    ),
    Conclusion(
        "2",
        "There are more false positives than false negatives.",
        mean_lies(
            "false positives less false negatives, all batch sizes",
            "batch_size",
            None,
            lambda run: measure(run, "false positives") - measure(run, "false negatives"),
            low=0,
        ),
    ),
    Conclusion("2", "Misclassified images resemble the other class."),
    Conclusion(
        "3",
        "With a hidden layer validation loss lies above training loss, most for ReLU.",
        means_are(
            "validation less training loss",
            "activation",
            loss_gap,
            lambda found: between(low=0)(found) + highest("relu")(found),
        ),
    ),
    Conclusion(
        "3",
        "F1 on validation is 3 to 4 points lower than on training.",
        means_are("points of F1 that validation is lower", "activation", f1_gap, between(3, 4)),
    ),
    Conclusion(
        "3",
        "Sigmoid is the steadiest.",
        means_are(UPS_AND_DOWNS, "activation", irregularity, lowest("sigmoid")),
    ),
    Conclusion("4", "Accuracy and F1 rise with width.", width_helps),
    Conclusion(
        "4",
        "At 1,024 neurons the validation loss rises (by 5 % or more).",
        mean_lies(
            "last validation loss over the lowest, 1,024 neurons",
            "width",
            1024,
            lambda run: float(curve(run, "val/loss")[-1] / curve(run, "val/loss").min()),
            low=1.05,
        ),
    ),
    Conclusion(
        "4", "At 1,024 neurons training accuracy is 1 and training loss 0 after epoch 60.", wide_fits_all
    ),
    Conclusion("5", "The CNN is far above the MLP (by more than a point).", cnn_beats_mlp),
    Conclusion(
        "5",
        "With SGD the CNN's training accuracy is 1 after epoch 20.",
        mean_lies(
            "lowest training accuracy after epoch 20, CNN with SGD",
            "optimizer",
            SGD,
            lambda run: float(after(run, "train/accuracy", 20).min()),
            low=0.9995,
        ),
    ),
    Conclusion(
        "5",
        "With SGD the CNN's curves are smoother than with RMSProp and Adam.",
        means_are(UPS_AND_DOWNS, "optimizer", irregularity, lowest(SGD)),
    ),
    Conclusion(
        "5",
        "With RMSProp both losses jump together.",
        mean_lies(
            "correlation of the steps of both losses, RMSProp",
            "optimizer",
            "rmsprop",
            moves_together,
            low=0.5,
        ),
    ),
    Conclusion(
        "5",
        "SGD is best at learning rate 0.01.",
        means_are("test accuracy at rate 0.01", "optimizer", ACCURACY, highest(SGD)),
    ),
    Conclusion("5", "SGD is best if each optimizer has its own tuned rate.", tuned_sgd_is_best),
    Conclusion(
        "6",
        "Most of the CNN's few errors are confusions of similar digits.",
        mean_lies(
            "share of errors within ten pairs of similar digits (22 % of all pairs)",
            "optimizer",
            SGD,
            alike_share,
            low=0.5,
        ),
    ),
    Conclusion("6", "They are hard for people, too."),
)
