"""The report's conclusions, each as a number that our runs have, and the confidence that they give it.

The report draws them from one run each. Here a conclusion is an interval for a mean over seeds, or for a
difference of two means, and its confidence is the share of Student's t (Welch's, for two) that lies inside:
1 less the p-value of the one-sided test where the interval is open. Where it has several parts, the
confidence is 1 less the sum of their doubts, which is never too high (Bonferroni). Our runs contradict a
conclusion where they are as sure that one of its parts lies beyond one bound of its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from mnistjax.config import ConfigError
from mnistjax.report.paper import Study, measure, pick
from mnistjax.report.runs import RunRecord, done

SURE = 0.95
SETTLED = 10  # epochs after which a curve should be smooth
# Pairs of similar digits, of all 45.
ALIKE = [(0, 6), (1, 7), (2, 7), (3, 5), (3, 8), (4, 9), (5, 6), (5, 8), (7, 9), (8, 9)]

Opinion = Literal["supported", "contradicted", "undecided", "too few runs", "not tested"]


class Share(NamedTuple):
    """Of the distribution of a mean, or of a difference of two."""

    inside: float  # where the conclusion says
    beyond: float  # on the one side of that where more is


@dataclass(frozen=True)
class Finding:
    """What our runs say of a conclusion."""

    evidence: str
    shares: Sequence[Share]  # of each of its parts

    @property
    def confidence(self) -> float:
        """That all parts hold."""
        return max(0.0, 1 - sum(1 - share.inside for share in self.shares))

    @property
    def opinion(self) -> Opinion:
        if self.confidence >= SURE:
            return "supported"
        doubt = (1 - SURE) / len(self.shares)  # a part must be as sure against it as all are together
        return "contradicted" if max(share.beyond for share in self.shares) >= 1 - doubt else "undecided"


@dataclass(frozen=True)
class Conclusion:
    number: str  # of the list at the end of the report's page
    statement: str
    test: Callable[[Study], Finding] | None  # None where it is a matter of looking

    def judge(self, study: Study) -> tuple[Opinion, Finding | None]:
        """The opinion and its finding; none where the study lacks the runs."""
        if self.test is None:
            return "not tested", None
        try:
            finding = self.test(study)
        except TooFew:
            return "too few runs", None
        return finding.opinion, finding


class TooFew(ConfigError):
    """Fewer than two runs that are done."""


# Statistics


@dataclass(frozen=True)
class Estimate:
    """A mean over runs, or a difference of two, with its standard error."""

    mean: float
    error: float
    freedom: float
    left: int = 0  # runs that are not done, and not in it

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference, Welch's: the two need not have one variance."""
        one, two = self.error**2, other.error**2
        total = one + two
        freedom = total**2 / (one**2 / self.freedom + two**2 / other.freedom) if total else math.inf
        return Estimate(self.mean - other.mean, math.sqrt(total), freedom)

    def share(self, low: float = -math.inf, high: float = math.inf) -> Share:
        """How much of it lies between these."""
        below, above = self._below(low), 1 - self._below(high)
        return Share(1 - below - above, max(below, above))

    def _below(self, bound: float) -> float:
        from scipy.stats import t

        if self.error == 0:
            return 0.5 if self.mean == bound else float(self.mean < bound)
        return float(t.cdf((bound - self.mean) / self.error, self.freedom))

    def __str__(self) -> str:
        left = f" ({self.left} not done)" if self.left else ""
        return f"{self.mean:.4g} ± {self.error:.2g}{left}"


def estimate(runs: Sequence[RunRecord], value: Callable[[RunRecord], float]) -> Estimate:
    """Of a number of each run that is done; TooFew for less than two, or where one is too short for it."""
    values = [value(run) for run in done(runs)]
    if len(values) < 2 or not np.isfinite(values).all():
        raise TooFew("a conclusion needs two runs, long enough to measure it")
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(float(np.mean(values)), error, len(values) - 1, len(runs) - len(values))


def rises(estimates: Iterable[Estimate]) -> list[Share]:
    """Of each mean but the first whether it is above the one before it."""
    return [(after - before).share(low=0) for before, after in pairwise(estimates)]


# What is measured of a run


def curve(run: RunRecord, key: str) -> np.ndarray:
    """A column of `metrics.jsonl`, an entry per epoch."""
    return np.array([float(row[key]) for row in run.rows])


def after(run: RunRecord, key: str, epoch: int) -> np.ndarray:
    """The column after that epoch; TooFew where the run is no longer than that."""
    if len(run.rows) <= epoch:
        raise TooFew(f"a run of {len(run.rows)} epochs; more than {epoch} are needed")
    return curve(run, key)[epoch:]


def tested(metric: str) -> Callable[[RunRecord], float]:
    return lambda run: measure(run, metric)


def irregularity(run: RunRecord) -> float:
    """How much the validation loss goes up and down per epoch, once settled; 0 for a monotonic curve."""
    values = after(run, "val/loss", SETTLED)
    if len(values) < 3:
        return math.nan
    return float(np.abs(np.diff(values)).sum() - abs(values[-1] - values[0])) / (len(values) - 1)


def epochs_to_converge(run: RunRecord) -> float:
    """The first epoch whose validation loss is within a tenth of the lowest one."""
    values = curve(run, "val/loss")
    return 1.0 + float(np.argmax(values <= 1.1 * values.min()))


def loss_gap(run: RunRecord) -> float:
    """Validation less training loss, the mean of the last ten epochs."""
    return float(np.mean((curve(run, "val/loss") - curve(run, "train/loss"))[-10:]))


def f1_gap(run: RunRecord) -> float:
    """Training less validation F1, the mean of the last ten epochs, in points of 0.01."""
    return 100 * float(np.mean((curve(run, "train/f1") - curve(run, "val/f1"))[-10:]))


def moves_together(run: RunRecord) -> float:
    """The correlation of the steps, epoch to epoch, of training and validation loss, once settled."""
    train, val = (np.diff(after(run, key, SETTLED)) for key in ("train/loss", "val/loss"))
    return float(np.corrcoef(train, val)[0, 1]) if len(train) > 1 and train.any() and val.any() else math.nan


def alike_share(run: RunRecord) -> float:
    """The share of errors that take one of ten pairs of similar digits for each other."""
    matrix = np.array(run.summary["test/confusion_matrix"])
    errors = matrix - np.diag(np.diag(matrix))
    return float(sum(errors[i, j] + errors[j, i] for i, j in ALIKE) / errors.sum())


# The conclusions


BATCHES = (32, 64, 128, 1024, "all")
ACTIVATIONS = ("sigmoid", "tanh", "relu")
WIDTHS = (16, 64, 1024)
SGD = "momentum"  # the report's, as we understand it (conf/experiment/optimizer.yaml)
OPTIMIZERS = (SGD, "rmsprop", "adam")
VARIED = {  # by each experiment
    "batch_size": ("train.batch_size", BATCHES),
    "activation": ("model.activation", ACTIVATIONS),
    "width": ("model.hidden", WIDTHS),
    "optimizer": ("optimizer.name", OPTIMIZERS),
}


def of(study: Study, experiment: str, value: Any) -> list[RunRecord]:
    """The runs of an experiment with this value of what it varies."""
    return pick(study, experiment, {VARIED[experiment][0]: value})


def each(study: Study, experiment: str, number: Callable[[RunRecord], float]) -> dict[Any, Estimate]:
    """The estimates of a number by what an experiment varies."""
    return {value: estimate(of(study, experiment, value), number) for value in VARIED[experiment][1]}


def told(estimates: Mapping[Any, Estimate]) -> str:
    return "; ".join(f"{value}: {found}" for value, found in estimates.items())


def below_others(estimates: Mapping[Any, Estimate], lowest: Any) -> list[Share]:
    """Of each other mean whether it is above this one."""
    return [(found - estimates[lowest]).share(low=0) for value, found in estimates.items() if value != lowest]


def above_others(estimates: Mapping[Any, Estimate], highest: Any) -> list[Share]:
    """Of each other mean whether it is below this one."""
    return [
        (estimates[highest] - found).share(low=0) for value, found in estimates.items() if value != highest
    ]


def _early_loss(study: Study) -> Finding:
    found = estimate(of(study, "batch_size", 64), lambda run: float(curve(run, "train/loss")[:5].min()))
    return Finding(
        f"lowest training loss of the first five epochs, batch 64: {found}", [found.share(0.075, 0.1)]
    )


def _full_batch_converges(study: Study) -> Finding:
    found = estimate(of(study, "batch_size", "all"), epochs_to_converge)
    return Finding(
        f"epoch of a validation loss within 10 % of the lowest, full batch: {found}", [found.share(30, 50)]
    )


def _small_batches_converge_first(study: Study) -> Finding:
    found = each(study, "batch_size", epochs_to_converge)
    return Finding(
        f"epochs to within 10 % of the lowest validation loss: {told(found)}", rises(found.values())
    )


def _large_batches_are_smooth(study: Study) -> Finding:
    found = each(study, "batch_size", irregularity)
    return Finding(
        f"ups and downs of the validation loss per epoch: {told(found)}", rises(reversed(found.values()))
    )


def _full_batch_is_best(study: Study) -> Finding:
    found = each(study, "batch_size", tested("test/accuracy"))
    return Finding(f"test accuracy: {told(found)}", above_others(found, "all"))


def _full_batch_is_fastest(study: Study) -> Finding:
    found = each(study, "batch_size", tested("seconds_per_epoch"))
    return Finding(f"seconds per epoch, in the sweep: {told(found)}", below_others(found, "all"))


def _more_false_positives(study: Study) -> Finding:
    runs = pick(study, "batch_size")
    found = estimate(runs, lambda run: measure(run, "false positives") - measure(run, "false negatives"))
    return Finding(f"false positives less false negatives, all batch sizes: {found}", [found.share(low=0)])


def _validation_above_training(study: Study) -> Finding:
    found = each(study, "activation", loss_gap)
    shares = [gap.share(low=0) for gap in found.values()]
    return Finding(f"validation less training loss: {told(found)}", [*shares, *above_others(found, "relu")])


def _f1_gap(study: Study) -> Finding:
    found = each(study, "activation", f1_gap)
    shares = [gap.share(3, 4) for gap in found.values()]
    return Finding(f"points of F1 that validation is lower: {told(found)}", shares)


def _sigmoid_is_steady(study: Study) -> Finding:
    found = each(study, "activation", irregularity)
    shares = below_others(found, "sigmoid")
    return Finding(
        f"ups and downs of the validation loss per epoch: {told(found)}",
        shares,
    )


def _width_helps(study: Study) -> Finding:
    accuracy, f1 = (each(study, "width", tested(metric)) for metric in ("test/accuracy", "test/f1"))
    evidence = f"test accuracy {told(accuracy)}; F1 {told(f1)}"
    return Finding(evidence, [*rises(accuracy.values()), *rises(f1.values())])


def _wide_overfits(study: Study) -> Finding:
    runs = of(study, "width", 1024)
    found = estimate(runs, lambda run: float(curve(run, "val/loss")[-1] / curve(run, "val/loss").min()))
    return Finding(f"last validation loss over the lowest, 1,024 neurons: {found}", [found.share(low=1.05)])


def _wide_is_perfect(study: Study) -> Finding:
    runs = of(study, "width", 1024)
    accuracy = estimate(runs, lambda run: float(after(run, "train/accuracy", 60).min()))
    loss = estimate(runs, lambda run: float(after(run, "train/loss", 60).max()))
    evidence = (
        f"after epoch 60, 1,024 neurons: lowest training accuracy {accuracy}, highest training loss {loss}"
    )
    return Finding(evidence, [accuracy.share(low=0.99995), loss.share(high=0.005)])


def _cnn_beats_mlp(study: Study) -> Finding:
    cnn = estimate(of(study, "optimizer", SGD), tested("test/accuracy"))
    mlp = estimate(pick(study, "multiclass"), tested("test/accuracy"))
    return Finding(f"test accuracy, SGD: CNN {cnn}, MLP {mlp}", [(cnn - mlp).share(low=0.01)])


def _sgd_learns_all(study: Study) -> Finding:
    runs = of(study, "optimizer", SGD)
    found = estimate(runs, lambda run: float(after(run, "train/accuracy", 20).min()))
    return Finding(
        f"lowest training accuracy after epoch 20, CNN with SGD: {found}", [found.share(low=0.9995)]
    )


def _sgd_is_smooth(study: Study) -> Finding:
    found = each(study, "optimizer", irregularity)
    shares = below_others(found, SGD)
    evidence = f"ups and downs of the validation loss per epoch: {told(found)}"
    return Finding(evidence, shares)


def _rmsprop_moves_together(study: Study) -> Finding:
    found = estimate(of(study, "optimizer", "rmsprop"), moves_together)
    return Finding(f"correlation of the steps of both losses, RMSProp: {found}", [found.share(low=0.5)])


def _sgd_is_best(study: Study) -> Finding:
    found = each(study, "optimizer", tested("test/accuracy"))
    return Finding(f"test accuracy at rate 0.01: {told(found)}", above_others(found, SGD))


def _sgd_is_best_tuned(study: Study) -> Finding:
    runs = {name: pick(study, f"tuned_{name}") for name in OPTIMIZERS}
    found = {name: estimate(runs[name], tested("test/accuracy")) for name in OPTIMIZERS}
    rates = {name: f"{name} at {runs[name][0].config['optimizer.learning_rate']:g}" for name in OPTIMIZERS}
    evidence = told({rates[name]: accuracy for name, accuracy in found.items()})
    return Finding(f"test accuracy, each at its tuned rate: {evidence}", above_others(found, SGD))


def _errors_are_alike(study: Study) -> Finding:
    found = estimate(of(study, "optimizer", SGD), alike_share)
    evidence = f"share of errors within ten pairs of similar digits (22 % of all pairs): {found}"
    return Finding(evidence, [found.share(low=0.5)])


CONCLUSIONS = (
    Conclusion(
        "1", "At batch 64 a neuron's training loss is at 0.075 to 0.100 within five epochs.", _early_loss
    ),
    Conclusion("1", "The full batch converges near epoch 40 (30 to 50).", _full_batch_converges),
    Conclusion("1", "Smaller batches converge in fewer epochs.", _small_batches_converge_first),
    Conclusion("1", "Larger batches follow a smoother path.", _large_batches_are_smooth),
    Conclusion("2", "The full batch is the most accurate.", _full_batch_is_best),
    Conclusion("2", "The full batch is the fastest per epoch.", _full_batch_is_fastest),
    Conclusion("2", "There are more false positives than false negatives.", _more_false_positives),
    Conclusion("2", "Misclassified images resemble the other class.", None),
    Conclusion(
        "3",
        "With a hidden layer validation loss lies above training loss, most for ReLU.",
        _validation_above_training,
    ),
    Conclusion("3", "F1 on validation is 3 to 4 points lower than on training.", _f1_gap),
    Conclusion("3", "Sigmoid is the steadiest.", _sigmoid_is_steady),
    Conclusion("4", "Accuracy and F1 rise with width.", _width_helps),
    Conclusion("4", "At 1,024 neurons the validation loss rises (by 5 % or more).", _wide_overfits),
    Conclusion(
        "4", "At 1,024 neurons training accuracy is 1 and training loss 0 after epoch 60.", _wide_is_perfect
    ),
    Conclusion("5", "The CNN is far above the MLP (by more than a point).", _cnn_beats_mlp),
    Conclusion("5", "With SGD the CNN's training accuracy is 1 after epoch 20.", _sgd_learns_all),
    Conclusion("5", "With SGD the CNN's curves are smoother than with RMSProp and Adam.", _sgd_is_smooth),
    Conclusion("5", "With RMSProp both losses jump together.", _rmsprop_moves_together),
    Conclusion("5", "SGD is best at learning rate 0.01.", _sgd_is_best),
    Conclusion("5", "SGD is best where each optimizer has its own tuned rate.", _sgd_is_best_tuned),
    Conclusion("6", "Most of the CNN's few errors are confusions of similar digits.", _errors_are_alike),
    Conclusion("6", "They are hard for people, too.", None),
)
