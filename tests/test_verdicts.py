"""Verdicts agree with textbook examples, and are right as often as they say."""

import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import mnistjax
from mnistjax.cli import main
from mnistjax.verdicts import LEVEL, MOST_LETTERED, Verdict, compare, find_columns, holm, letters

SLEEP = (  # Student (1908), "The probable error of a mean": hours of sleep gained by ten patients
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)


def by_seed(values, first=0):
    return dict(enumerate(values, first))


def test_students_sleep_data_paired_and_not():
    first, second = map(by_seed, SLEEP)
    (paired,) = compare({"one": first, "two": second}, "val/accuracy")
    assert (paired.better, paired.worse, paired.paired, paired.seeds) == ("two", "one", True, (10, 10))
    assert paired.difference == pytest.approx(1.58)
    assert paired.p == pytest.approx(0.002833, abs=1e-6)  # t = 4.0621, 9 degrees of freedom
    assert paired.interval == pytest.approx((0.7001, 2.4599), abs=1e-4)
    (welch,) = compare({"one": first, "two": by_seed(SLEEP[1], 10)}, "val/accuracy")
    assert not welch.paired
    assert welch.p == pytest.approx(0.07939, abs=1e-5)  # t = 1.8608, 17.776 degrees of freedom
    assert welch.interval == pytest.approx((-0.2055, 3.3655), abs=1e-4)
    assert paired.decided
    assert not welch.decided


def test_a_loss_is_better_if_it_is_lower():
    (verdict,) = compare({"a": by_seed(SLEEP[0]), "b": by_seed(SLEEP[1])}, "val/loss")
    assert (verdict.better, verdict.difference) == ("a", pytest.approx(1.58))
    assert verdict.interval == pytest.approx((0.7001, 2.4599), abs=1e-4)


def test_holms_correction_is_that_of_his_paper():
    """Holm (1979): reject while p(k) <= level / (m - k + 1), from the smallest on."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.999))
def test_holms_correction_rejects_what_its_steps_reject(p_values, level):
    rejected = set()
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if (len(p_values) - rank) * p_values[index] >= level:
            break
        rejected.add(int(index))
    assert {i for i, p in enumerate(holm(p_values)) if p < level} == rejected


@pytest.mark.parametrize("shift", [0, 1, 10])
@pytest.mark.parametrize("configurations", [2, 6])
def test_false_verdicts_are_as_rare_as_stated(shift, configurations):
    """Of 600 sweeps without a difference, at most 5 % and two standard errors have a decided verdict.

    With equal seeds, with some common ones and with different ones.
    """
    random, wrong = np.random.default_rng(0), 0
    for _ in range(600):
        common = random.normal(size=60)  # of a seed
        sweep = {
            str(i): by_seed(common[i * shift :][:4] + random.normal(size=4), i * shift)
            for i in range(configurations)
        }
        wrong += any(verdict.decided for verdict in compare(sweep, "val/accuracy"))
    assert wrong <= 600 * 0.05 + 2 * (600 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("seeds", [2, 3])
def test_false_verdicts_on_few_images_are_as_rare_as_stated(seeds):
    """The accuracy on 359 images, of two networks that are equally good."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(2_000):
        right = random.binomial(359, 0.95, size=(2, seeds)) / 359
        (verdict,) = compare({"a": by_seed(right[0]), "b": by_seed(right[1])}, "test/accuracy")
        wrong += verdict.decided
    assert wrong <= 2_000 * 0.05 + 2 * (2_000 * 0.05 * 0.95) ** 0.5


def test_the_number_of_more_seeds_decides_about_half_of_the_time():
    random, decided, asked = np.random.default_rng(1), [], []
    while len(decided) < 200:
        more = random.normal(size=(2, 60))
        more[1] += 0.8
        (verdict,) = compare({"a": by_seed(more[0][:5]), "b": by_seed(more[1][:5])}, "val/accuracy")
        if not verdict.decided and verdict.better == "b" and 0.6 < verdict.difference < 1.0 and verdict.more:
            n = 5 + min(verdict.more, 55)
            (later,) = compare({"a": by_seed(more[0][:n]), "b": by_seed(more[1][:n])}, "val/accuracy")
            decided.append(later.decided)
            asked.append(verdict.more)
    assert 0.3 < np.mean(decided) < 0.8
    assert np.median(asked) > 1


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.dictionaries(st.integers(0, 4), st.floats(-10, 10) | st.floats(), max_size=5),
        max_size=5,
    )
)
def test_any_values_have_verdicts_with_numbers(values):
    found = compare(values, "val/accuracy")
    finite = {name: np.isfinite([*seeds.values()]).sum() for name, seeds in values.items()}
    names = [name for name, count in finite.items() if count > 1]
    assert letters(values, "val/accuracy").keys() == values.keys()
    assert len(found) == len(names) * (len(names) - 1) // 2
    for verdict in found:
        assert 0 <= verdict.p <= 1
        assert verdict.difference >= 0 or verdict.difference == pytest.approx(0, abs=1e-9)
        low, high = verdict.interval
        assert low <= verdict.difference + 1e-9
        assert high >= verdict.difference - 1e-9
        assert verdict.better in f"{verdict:.2%}"


def test_verdicts_in_words():
    decided = Verdict("adam", "sgd", 0.01, (0.004, 0.016), 0.012, True, (5, 5))
    said = "adam is better than sgd by 1.00% (95 % 0.40% to 1.60%, p = 0.012, 5 seeds, paired)"
    assert f"{decided:.2%}" == said
    open_ = Verdict("adam", "sgd", 0.01, (-0.01, 0.03), 0.3, False, (5, 4), 7)
    assert f"{open_:.2%}" == (
        "undecided: adam is 1.00% ahead of sgd (95 % -1.00% to 3.00%, p = 0.3, 5 and 4 seeds); "
        "about 7 more seeds would decide"
    )
    assert f"{replace(open_, more=1):.2%}".endswith("; about 1 more seed would decide")
    assert "p = 0.3 corrected for 1,225 comparisons, 5" in f"{replace(open_, comparisons=1225):.2%}"
    same = replace(
        open_, interval=(0.01, 0.01), seeds=(2, 2), more=None
    )  # an interval without width says nothing
    assert f"{same:.2%}" == "undecided: adam is 1.00% ahead of sgd (p = 0.3, 2 seeds)"


def test_more_seeds_of_samples_of_different_sizes_are_not_estimated():
    """Most of the variance is in the larger one here, and it would hardly grow by as many."""
    rng = np.random.default_rng(0)
    few, many = 0.502 + rng.normal(0, 0.0003, 3), 0.5 + rng.normal(0, 0.01, 60)
    (verdict,) = compare({"a": by_seed(few), "b": by_seed(many, 10)}, "val/accuracy")
    assert (verdict.decided, verdict.more, verdict.seeds) == (False, None, (3, 60))


def test_equal_differences_need_six_seeds_and_equal_values_are_undecided():
    """By the sign test, whose smallest p-value for n seeds is 2^(1 - n)."""
    one, other = by_seed([0.5, 0.75, 1.0]), by_seed([0.25, 0.5, 0.75])
    (verdict,) = compare({"a": one, "b": other}, "val/accuracy")
    assert (verdict.p, verdict.decided, verdict.more) == (0.25, False, 3)
    (verdict,) = compare({"a": by_seed([0.5] * 6), "b": by_seed([0.25] * 6)}, "val/accuracy")
    assert (verdict.p, verdict.decided) == (2**-5, True)
    (verdict,) = compare({"a": one, "b": dict(one)}, "val/accuracy")
    assert (verdict.p, verdict.decided, verdict.more) == (1.0, False, None)


def test_one_failed_seed_does_not_end_the_pairing():
    """Nor does it turn the verdict: the seed that failed was the worst of all."""
    seeds, gain = np.array([0.5, 0.1, 0.7, 0.3, 0.9, 0.6]), np.array([0.01, 0.012, 0.011, 0.009, 0.01, 0.013])
    values = {"a": by_seed(seeds + gain), "b": by_seed(seeds)}
    (whole,) = compare(values, "val/accuracy")
    del values["b"][1]
    (verdict,) = compare(values, "val/accuracy")
    assert np.mean([*values["b"].values()]) > np.mean([*values["a"].values()])
    for found, count in ((whole, 6), (verdict, 5)):
        assert (found.better, found.paired, found.decided, found.seeds) == ("a", True, True, (count, count))
    assert verdict.difference == pytest.approx(np.delete(gain, 1).mean())
    assert not {*letters(values, "val/accuracy")["a"]} & {*letters(values, "val/accuracy")["b"]}


def test_all_pairs_agree_with_scipy(monkeypatch):
    monkeypatch.setattr("mnistjax.verdicts.holm", list)
    random = np.random.default_rng(2)
    values = {
        str(i): by_seed(random.normal(size=random.integers(2, 6)), int(random.integers(2))) for i in range(12)
    }
    found = compare(values, "val/loss")
    assert {verdict.paired for verdict in found} == {True, False}
    for verdict in found:
        pair = values[verdict.better], values[verdict.worse]
        shared = pair[0].keys() & pair[1].keys()
        one, other = ([-side[seed] for seed in sorted(shared if verdict.paired else side)] for side in pair)
        test: Any = (
            stats.ttest_rel(one, other) if verdict.paired else stats.ttest_ind(one, other, equal_var=False)
        )
        assert verdict.paired == (len(shared) > 1)
        assert verdict.seeds == (len(one), len(other))
        assert verdict.p == pytest.approx(test.pvalue)
        assert verdict.interval == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_a_sweep_ends_with_a_verdict_about_its_best_two(work, capsys):
    words = [
        "data=digits",
        "model=mlp",
        "train.epochs=2",
        "train.batch_size=230",
        "train.monitor=val/accuracy",
    ]
    rates = "optimizer.learning_rate=0.001,0.1,0.03"
    assert main(["-m", *words, rates, "seed=0,1,2", "hydra.sweep.dir=sweep"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("verdict")]
    first, *_ = found = mnistjax.read_runs("sweep").verdicts("val/accuracy")
    assert line == f"verdict    {first:.2%}"
    assert first.seeds == (3, 3)
    assert first.paired
    assert [verdict.comparisons for verdict in found] == [3, 3, 3]
    frame = mnistjax.read_runs("sweep").to_frame()
    means: Any = frame.groupby("optimizer.learning_rate")["val/accuracy"].mean()
    one, two, three = (f"learning_rate={rate}" for rate in means.sort_values(ascending=False).index)
    assert [(verdict.better, verdict.worse) for verdict in found] == [(one, two), (one, three), (two, three)]
    assert len(mnistjax.read_runs("sweep").verdicts("test/accuracy", most=1)) == 1
    with pytest.raises(mnistjax.ConfigError, match="unknown metric 'val/acuracy'; nearest is 'val/accuracy'"):
        mnistjax.read_runs("sweep").verdicts("val/acuracy")
    with pytest.raises(mnistjax.ConfigError, match="unknown metric 'test/confusion_matrix'"):
        mnistjax.read_runs("sweep").verdicts("test/confusion_matrix")
    with pytest.raises(mnistjax.ConfigError, match=r"allowed: test/.*, train/accuracy, .*, val/loss\)"):
        mnistjax.read_runs("sweep").verdicts("loss")
    with pytest.raises(mnistjax.ConfigError, match="none of the 0 runs has ended an epoch"):
        mnistjax.read_runs().verdicts()
    assert main(["-m", *words, rates, "hydra.sweep.dir=one"]) == 0
    assert "verdict" not in capsys.readouterr().out


def test_more_comparisons_need_more_seeds():
    """Also if the corrected p-value is 1 already."""
    pair = {"a": by_seed([0.1, 0.9, 0.45, 0.3, 0.6]), "b": by_seed([0.35, 0.5, 0.4, 0.2, 0.7], 5)}
    others = {str(i): by_seed([-9 - i / 1000, -9.2, -9.1], 20 * i) for i in range(1, 6)}
    (few,) = compare(pair, "val/accuracy")
    many = compare({**pair, **others}, "val/accuracy")[0]
    assert (many.better, many.worse, many.p) == (few.better, few.worse, 1.0)
    assert few.more is not None
    assert many.more is not None
    assert many.more > few.more


# Letters


def check_letters(values, metric="val/accuracy"):
    """Asserts that two configurations share a letter if and only if their verdict is undecided."""
    found, verdicts = letters(values, metric), compare(values, metric)
    assert [*found] == [*values]
    for verdict in verdicts:
        shared = {*found[verdict.better]} & {*found[verdict.worse]}
        assert bool(shared) == (not verdict.decided)
    if verdicts:
        assert "a" in found[verdicts[0].better]
    for text in found.values():
        assert len({*text}) == len(text)
    used = sorted({letter for text in found.values() for letter in text}, key=ord)
    assert len(used) == len("".join(used).encode()) or len(used) > 52  # Latin letters first
    return found


def test_letters_are_shared_by_those_that_are_not_told_apart():
    random = np.random.default_rng(3)
    kinds = set()
    for _ in range(300):
        values = {}
        for i in range(random.integers(0, 9)):
            mean, noise = random.normal(), random.choice([0.01, 0.1, 1.0])
            seeds = mean + noise * random.normal(size=random.integers(1, 6))
            values[str(i)] = by_seed(seeds, int(random.integers(2)))
        found = check_letters(values, str(random.choice(["val/accuracy", "val/loss"])))
        kinds |= {*found.values()}
        assert all(found[name] == "" for name, seeds in values.items() if len(seeds) < 2)
    assert {"", "a", "ab", "b", "bc"} <= kinds


@given(st.integers(0, 9), st.data())
def test_columns_hold_exactly_the_pairs_that_are_not_decided(count, data):
    pairs = [*itertools.combinations(range(count), 2)]
    decided = data.draw(st.sets(st.sampled_from(pairs)) if pairs else st.just(set()))
    columns = find_columns(count, decided)
    together = {pair for column in columns for pair in itertools.combinations(column, 2)}
    assert together == {*pairs} - decided
    assert {index for column in columns for index in column} == {*range(count)}
    assert columns == sorted(columns)
    for column in columns:  # none is needless
        others = [other for other in columns if other != column]
        rest = {p for other in others for p in itertools.combinations_with_replacement(other, 2)}
        assert not rest.issuperset(itertools.combinations_with_replacement(column, 2))


def test_the_columns_of_the_chick_weights():
    """R's data `chickwts`: pairs of feeds that Holm's correction of Wilcoxon's test leaves undecided.

    The letters in the manual of R's package cld: casein a, horsebean b, linseed bc, meatmeal ac, soybean c,
    sunflower a.
    """
    feeds = ["casein", "horsebean", "linseed", "meatmeal", "soybean", "sunflower"]
    open_ = {"casein meatmeal", "casein sunflower", "meatmeal sunflower", "horsebean linseed"}
    open_ |= {"linseed meatmeal", "linseed soybean", "meatmeal soybean"}
    pairs = itertools.combinations(range(6), 2)
    columns = find_columns(6, [(i, j) for i, j in pairs if f"{feeds[i]} {feeds[j]}" not in open_])
    found = ["".join("abc"[k] for k, column in enumerate(columns) if i in column) for i in range(6)]
    assert found == ["a", "b", "bc", "ac", "c", "a"]
    assert find_columns(3, []) == [[0, 1, 2]]
    assert find_columns(3, [(0, 1), (0, 2), (1, 2)]) == [[0], [1], [2]]


def test_many_columns_stay_few_and_right():
    """Pairs that are decided within triples alone would need 3 ** 13 columns without the sweep."""
    decided = [pair for pair in itertools.combinations(range(40), 2) if pair[0] // 3 == pair[1] // 3]
    columns = find_columns(40, decided)
    together = {pair for column in columns for pair in itertools.combinations(column, 2)}
    assert together == {*itertools.combinations(range(40), 2)} - {*decided}
    assert len(columns) < 200


def test_only_the_best_of_many_have_letters_and_all_count():
    random = np.random.default_rng(4)
    values = {str(i): by_seed(random.normal(size=5) * 0.05 + i / 30) for i in range(1_000)}
    before = time.perf_counter()
    found = letters(values, "val/accuracy")
    assert time.perf_counter() - before < 3  # 0.5 s on an idle machine
    ranked = sorted(values, key=lambda name: -np.mean([*values[name].values()]))
    assert all(found[name] for name in ranked[:MOST_LETTERED])
    assert not any(found[name] for name in ranked[MOST_LETTERED:])
    best = {(verdict.better, verdict.worse): verdict for verdict in compare(values, "val/accuracy", most=999)}
    for name in ranked[1:MOST_LETTERED]:
        shared = {*found[ranked[0]]} & {*found[name]}
        assert bool(shared) == (best[ranked[0], name].p >= LEVEL)


def test_values_that_are_not_finite_are_missing():
    nan, inf = float("nan"), float("inf")
    values = {"a": {0: 0.9, 1: 0.8, 2: nan}, "b": {0: 0.5, 1: 0.401}, "c": {0: inf, 1: 0.2}, "d": {0: nan}}
    (verdict,) = compare(values, "val/accuracy")
    assert (verdict.better, verdict.worse, verdict.seeds, verdict.paired) == ("a", "b", (2, 2), True)
    assert letters(values, "val/accuracy") == {"a": "a", "b": "b", "c": "", "d": ""}
