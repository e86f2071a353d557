"""The report's conclusions, each as a number that our runs have, and the confidence that they give it.

The report draws them from one run each. Here a conclusion is an interval for a mean over seeds, or for a
difference of two means, and its confidence is the share of Student's t (Welch's, for two) that lies inside:
1 less the p-value of the one-sided test where the interval is open. Where it has several parts, the
confidence is 1 less the sum of their doubts, which is never too high (Bonferroni). Our runs contradict a
conclusion where they are as sure that one of its parts lies beyond one bound of its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from mnistjax.config import ConfigError
from mnistjax.report.paper import FULL_BATCH, Study, measure, pick
from mnistjax.report.runs import RunRecord

SURE = 0.95
SETTLED = 10  # epochs after which a curve should be smooth
ALIKE = [
    (0, 6),
    (1, 7),
    (2, 7),
    (3, 5),
    (3, 8),
    (4, 9),
    (5, 6),
    (5, 8),
    (7, 9),
    (8, 9),
]  # of 45 pairs of digits

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
    values = [value(run) for run in runs if run.status == "done"]
    if len(values) < 2 or not np.isfinite(values).all():
        raise TooFew("a conclusion needs two runs, long enough to measure it")
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(float(np.mean(values)), error, len(values) - 1, len(runs) - len(values))


def rises(estimates: Sequence[Estimate]) -> list[Share]:
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


def last(key: str) -> Callable[[RunRecord], float]:
    return lambda run: float(curve(run, key)[-1])


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


def batch(size: int | str) -> Callable[[Study], Sequence[RunRecord]]:
    return lambda study: pick(study, "batch_size", {"train.batch_size": size})


BATCHES = (32, 64, 128, 1024, "all")
ACTIVATIONS = ("sigmoid", "tanh", "relu")
WIDTHS = (16, 64, 1024)
OPTIMIZERS = ("sgd", "rmsprop", "adam")


def _by_batch(study: Study, value: Callable[[RunRecord], float]) -> list[Estimate]:
    return [estimate(batch(size)(study), value) for size in BATCHES]


def _by_activation(study: Study, value: Callable[[RunRecord], float]) -> dict[str, Estimate]:
    return {
        name: estimate(pick(study, "activation", {"model.activation": name}), value) for name in ACTIVATIONS
    }


def _by_width(study: Study, value: Callable[[RunRecord], float]) -> list[Estimate]:
    return [estimate(pick(study, "width", {"model.hidden": width}), value) for width in WIDTHS]


def _by_optimizer(study: Study, value: Callable[[RunRecord], float]) -> dict[str, Estimate]:
    return {name: estimate(pick(study, "optimizer", {"optimizer.name": name}), value) for name in OPTIMIZERS}


def _list(names: Sequence[object], estimates: Sequence[Estimate]) -> str:
    return "; ".join(f"{name}: {found}" for name, found in zip(names, estimates, strict=True))


def _early_loss(study: Study) -> Finding:
    found = estimate(batch(64)(study), lambda run: float(curve(run, "train/loss")[:5].min()))
    return Finding(
        f"lowest training loss of the first five epochs, batch 64: {found}", [found.share(0.075, 0.1)]
    )


def _full_batch_converges(study: Study) -> Finding:
    found = estimate(pick(study, "batch_size", FULL_BATCH), epochs_to_converge)
    return Finding(
        f"epoch of a validation loss within 10 % of the lowest, full batch: {found}", [found.share(30, 50)]
    )


def _small_batches_converge_first(study: Study) -> Finding:
    found = _by_batch(study, epochs_to_converge)
    return Finding(
        f"epochs to within 10 % of the lowest validation loss: {_list(BATCHES, found)}", rises(found)
    )


def _large_batches_are_smooth(study: Study) -> Finding:
    found = _by_batch(study, irregularity)
    return Finding(
        f"ups and downs of the validation loss per epoch: {_list(BATCHES, found)}", rises(found[::-1])
    )


def _full_batch_is_best(study: Study) -> Finding:
    found = _by_batch(study, tested("test/accuracy"))
    shares = [(found[-1] - other).share(low=0) for other in found[:-1]]
    return Finding(f"test accuracy: {_list(BATCHES, found)}", shares)


def _full_batch_is_fastest(study: Study) -> Finding:
    found = _by_batch(study, tested("seconds_per_epoch"))
    shares = [(other - found[-1]).share(low=0) for other in found[:-1]]
    return Finding(f"seconds per epoch, in the sweep: {_list(BATCHES, found)}", shares)


def _more_false_positives(study: Study) -> Finding:
    runs = [run for size in BATCHES for run in batch(size)(study)]
    found = estimate(runs, lambda run: measure(run, "false positives") - measure(run, "false negatives"))
    return Finding(f"false positives less false negatives, all batch sizes: {found}", [found.share(low=0)])


def _validation_above_training(study: Study) -> Finding:
    found = _by_activation(study, loss_gap)
    relu = found["relu"]
    shares = [gap.share(low=0) for gap in found.values()]
    shares += [(relu - found[name]).share(low=0) for name in ("sigmoid", "tanh")]
    return Finding(f"validation less training loss: {_list(ACTIVATIONS, [*found.values()])}", shares)


def _f1_gap(study: Study) -> Finding:
    found = _by_activation(study, f1_gap)
    shares = [gap.share(3, 4) for gap in found.values()]
    return Finding(f"points of F1 that validation is lower: {_list(ACTIVATIONS, [*found.values()])}", shares)


def _sigmoid_is_steady(study: Study) -> Finding:
    found = _by_activation(study, irregularity)
    shares = [(found[name] - found["sigmoid"]).share(low=0) for name in ("tanh", "relu")]
    return Finding(
        f"ups and downs of the validation loss per epoch: {_list(ACTIVATIONS, [*found.values()])}",
        shares,
    )


def _width_helps(study: Study) -> Finding:
    accuracy, f1 = (_by_width(study, tested(metric)) for metric in ("test/accuracy", "test/f1"))
    evidence = f"test accuracy {_list(WIDTHS, accuracy)}; F1 {_list(WIDTHS, f1)}"
    return Finding(evidence, [*rises(accuracy), *rises(f1)])


def _wide_overfits(study: Study) -> Finding:
    runs = pick(study, "width", {"model.hidden": 1024})
    found = estimate(runs, lambda run: last("val/loss")(run) / float(curve(run, "val/loss").min()))
    return Finding(f"last validation loss over the lowest, 1,024 neurons: {found}", [found.share(low=1.05)])


def _wide_is_perfect(study: Study) -> Finding:
    runs = pick(study, "width", {"model.hidden": 1024})
    accuracy = estimate(runs, lambda run: float(after(run, "train/accuracy", 60).min()))
    loss = estimate(runs, lambda run: float(after(run, "train/loss", 60).max()))
    evidence = (
        f"after epoch 60, 1,024 neurons: lowest training accuracy {accuracy}, highest training loss {loss}"
    )
    return Finding(evidence, [accuracy.share(low=0.99995), loss.share(high=0.005)])


def _cnn_beats_mlp(study: Study) -> Finding:
    cnn = estimate(pick(study, "optimizer", {"optimizer.name": "sgd"}), tested("test/accuracy"))
    mlp = estimate(pick(study, "multiclass"), tested("test/accuracy"))
    return Finding(f"test accuracy, SGD: CNN {cnn}, MLP {mlp}", [(cnn - mlp).share(low=0.01)])


def _sgd_learns_all(study: Study) -> Finding:
    runs = pick(study, "optimizer", {"optimizer.name": "sgd"})
    found = estimate(runs, lambda run: float(after(run, "train/accuracy", 20).min()))
    return Finding(
        f"lowest training accuracy after epoch 20, CNN with SGD: {found}", [found.share(low=0.9995)]
    )


def _sgd_is_smooth(study: Study) -> Finding:
    found = _by_optimizer(study, irregularity)
    shares = [(found[name] - found["sgd"]).share(low=0) for name in ("rmsprop", "adam")]
    evidence = f"ups and downs of the validation loss per epoch: {_list(OPTIMIZERS, [*found.values()])}"
    return Finding(evidence, shares)


def _rmsprop_moves_together(study: Study) -> Finding:
    found = estimate(pick(study, "optimizer", {"optimizer.name": "rmsprop"}), moves_together)
    return Finding(f"correlation of the steps of both losses, RMSProp: {found}", [found.share(low=0.5)])


def _sgd_is_best(study: Study) -> Finding:
    found = _by_optimizer(study, tested("test/accuracy"))
    shares = [(found["sgd"] - found[name]).share(low=0) for name in ("rmsprop", "adam")]
    return Finding(f"test accuracy at rate 0.01: {_list(OPTIMIZERS, [*found.values()])}", shares)


def _sgd_is_best_tuned(study: Study) -> Finding:
    runs = {name: pick(study, f"tuned_{name}") for name in OPTIMIZERS}
    found = {name: estimate(runs[name], tested("test/accuracy")) for name in OPTIMIZERS}
    rates = [f"{name} at {runs[name][0].config['optimizer.learning_rate']:g}" for name in OPTIMIZERS]
    shares = [(found["sgd"] - found[name]).share(low=0) for name in ("rmsprop", "adam")]
    return Finding(f"test accuracy, each at its tuned rate: {_list(rates, [*found.values()])}", shares)


def _errors_are_alike(study: Study) -> Finding:
    found = estimate(pick(study, "optimizer", {"optimizer.name": "sgd"}), alike_share)
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


def conclusion_cells(study: Study) -> list[list[str]]:
    """The conclusions as a table of text, with its head."""
    lines = [["", "the report concludes", "confidence", "our runs", "measured, mean ± standard error"]]
    for one in CONCLUSIONS:
        opinion, finding = one.judge(study)
        share = f"{_percent(finding.confidence)}" if finding else ""
        lines.append([one.number, one.statement, share, opinion, finding.evidence if finding else ""])
    return lines


def _percent(share: float) -> str:
    """Never a certainty, which no number of runs gives."""
    if share > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
