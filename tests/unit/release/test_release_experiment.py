"""Arms are compared by what holds at every look; less variance is not another answer; lost rows are found."""

from __future__ import annotations

import math
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest

from kilter.release import experiment
from kilter.release.experiment import Units
from kilter.release.records import Arm, ExperimentPlan
from kilter.serving.answering.router import Split

PLAN = ExperimentPlan(
    loop="shop",
    name="blue",
    arms=(Arm(name="control", version=1), Arm(name="blue", version=2), Arm(name="green", version=3)),
    metric="revenue",
    low=0.0,
    high=100.0,
)
EVEN = (1 / 3, 1 / 3, 1 / 3)


def units(seed, rows, effect=0.0, past=0.0, shares=EVEN):
    """Keys whose outcome is partly what it was before; green is as much worse as blue is better."""
    rng = np.random.default_rng(seed)
    dealt = np.tile(shares, (rows, 1))
    arms = rng.choice(3, rows, p=shares)
    before = rng.beta(2, 5, rows)
    good = past * before + (1 - past) * rng.beta(2, 5, rows) + np.array([0.0, effect, -effect])[arms]
    return Units(arms, dealt, np.clip(good, 0, 1), before if past else np.full(rows, math.nan))


def first(found, rows):
    return Units(*(column[:rows] for column in found))


def test_better_worse_and_inconclusive_with_the_difference_in_the_metrics_units():
    blue, green = experiment.compare(PLAN, units(1, 30_000, 0.02))
    assert (blue.arm, blue.against, blue.verdict, green.verdict) == ("blue", "control", "better", "worse")
    assert 0 < blue.effect.low < 2.0 < blue.effect.high < 4.0
    assert green.effect.high < 0
    assert max(blue.p_value, green.p_value) < 0.05
    early = experiment.compare(PLAN, first(units(1, 30_000, 0.02), 300))
    assert {one.verdict for one in early} == {"inconclusive"}
    none = experiment.compare(PLAN, first(units(1, 10), 0))
    assert [(one.verdict, one.effect, one.p_value) for one in none] == [("inconclusive", None, 1.0)] * 2


def test_where_less_is_better_the_difference_has_the_other_sign():
    less = ExperimentPlan(**{f: getattr(PLAN, f) for f in PLAN.__struct_fields__} | {"greater_is_better": False})
    found = units(1, 30_000, 0.02)
    blue, _ = experiment.compare(less, found)
    assert blue.verdict == "better"
    assert blue.effect.low < -2.0 < blue.effect.high < 0
    assert experiment.in_units(less, 1.0) == 0.0
    assert experiment.goodness(less, np.array([0.0, 25.0, 400.0])).tolist() == [1.0, 0.75, 0.0]


def test_whoever_looks_all_the_time_sees_a_difference_that_is_not_there_no_more_often_than_declared():
    wrong, missed, runs = 0, 0, 60
    for seed in range(runs):
        found = units(seed, 600, past=0.5)
        looks = [experiment.compare(PLAN, first(found, rows)) for rows in range(60, 601, 60)]
        wrong += any(one.verdict != "inconclusive" for look in looks for one in look)
        missed += any(one.p_value <= 0.05 for look in looks for one in look)
    assert max(wrong, missed) / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_intervals_hold_the_truth_at_every_look_also_when_the_shares_change():
    held, runs = 0, 50
    for seed in range(runs):
        some, more = units(seed, 300, 0.05), units(1000 + seed, 600, 0.05, shares=(0.1, 0.8, 0.1))
        found = Units(*(np.concatenate(pair) for pair in zip(some, more, strict=True)))
        inside = True
        for rows in range(100, 901, 100):
            blue, green = experiment.compare(PLAN, first(found, rows))
            inside &= blue.effect.low <= 5.0 <= blue.effect.high and green.effect.low <= -5.0 <= green.effect.high
        held += inside
    assert held / runs >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_cuped_narrows_the_interval_and_leaves_the_answer():
    found = units(2, 6000, 0.01, past=0.8)
    plain = found._replace(before=np.full(6000, math.nan))
    (blue, _), (wide, _) = experiment.compare(PLAN, found), experiment.compare(PLAN, plain)
    assert blue.variance_left < 0.2
    assert wide.variance_left == 1.0
    assert blue.effect.high - blue.effect.low < 0.55 * (wide.effect.high - wide.effect.low)
    assert (blue.verdict, wide.verdict) == ("better", "inconclusive")


def test_a_past_that_says_nothing_costs_nothing():
    found = units(3, 3000, 0.01)
    strange = found._replace(before=np.random.default_rng(0).random(3000))
    (blue, _), (plain, _) = experiment.compare(PLAN, strange), experiment.compare(PLAN, found)
    assert blue.variance_left == pytest.approx(1.0, abs=0.01)
    assert blue.effect.estimate == pytest.approx(plain.effect.estimate, abs=0.1)


def test_an_arm_is_never_a_bare_mean():
    found = units(4, 2000)
    value = experiment.arm_value(PLAN, found, 0)
    assert value.low < 100 * float(found.good[found.arms == 0].mean()) < value.high
    assert experiment.arm_value(PLAN, first(found, 0), 0) is None


class TestSampleRatio:
    def test_fair_arms_are_fair_at_every_look(self):
        worst = [experiment.sample_ratio(*units(seed, 3000)[:2]) for seed in range(200)]
        assert sum(one >= math.log(20) for one in worst) / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
        assert not any(one >= experiment.MISMATCH for one in worst)

    @pytest.mark.parametrize("lost", [0, 2])
    def test_an_arm_that_loses_a_tenth_of_its_rows_is_found(self, lost):
        found = units(5, 30_000, shares=(0.5, 0.3, 0.2))
        kept = (found.arms != lost) | (np.random.default_rng(1).random(30_000) > 0.1)
        ratio = experiment.sample_ratio(found.arms[kept], found.shares[kept])
        assert experiment.judged_ratio(0.0, ratio).mismatched

    def test_shares_that_change_are_the_ones_that_count(self):
        rng = np.random.default_rng(6)
        shares = np.repeat([[0.8, 0.1, 0.1], [0.2, 0.4, 0.4]], 5000, axis=0)
        arms = np.array([rng.choice(3, p=row) for row in shares])
        assert experiment.sample_ratio(arms, shares) < experiment.MISMATCH
        assert experiment.sample_ratio(arms, shares[::-1]) > experiment.MISMATCH

    def test_it_is_the_dirichlet_mixture_where_the_shares_stay(self):
        arms = units(7, 60)[0]
        counts = np.bincount(arms, minlength=3)
        prior = 100.0 / 3
        expected = (
            math.lgamma(100) - math.lgamma(160) + sum(math.lgamma(prior + n) - math.lgamma(prior) for n in counts)
        )
        expected += 60 * math.log(3)
        paths = [experiment.sample_ratio(arms[:n], np.tile(EVEN, (n, 1))) for n in range(61)]
        assert max(0.0, expected) <= paths[-1] + 1e-9
        assert experiment.sample_ratio(arms[:0], np.zeros((0, 3))) == 0.0


class TestBandit:
    def test_the_shares_follow_the_chance_of_being_best_and_never_fall_below_the_floor(self):
        found = units(8, 3000, 0.2)
        shares = experiment.thompson_shares(found.arms, found.good, 3, 0.05, [1])
        assert shares == experiment.thompson_shares(found.arms, found.good, 3, 0.05, [1])
        assert sum(shares) == pytest.approx(1.0)
        assert shares[1] == pytest.approx(0.9)
        assert min(shares) == pytest.approx(0.05)

    def test_before_the_first_outcome_all_are_alike(self):
        none = np.zeros(0)
        shares = experiment.thompson_shares(none.astype(np.int64), none, 3, 0.05, [2])
        assert shares == pytest.approx([1 / 3] * 3, abs=0.02)

    def test_it_earns_more_than_fixed_shares_and_its_comparison_still_holds(self):
        rng = np.random.default_rng(9)
        means, shares = np.array([0.3, 0.5, 0.2]), np.full(3, 1 / 3)
        arms, dealt, good = np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros(0)
        for draw in range(10):
            drawn = rng.choice(3, 200, p=shares)
            arms, dealt = np.concatenate([arms, drawn]), np.concatenate([dealt, np.tile(shares, (200, 1))])
            good = np.concatenate([good, (rng.random(200) < means[drawn]).astype(float)])
            shares = np.array(experiment.thompson_shares(arms, good, 3, 0.05, [draw]))
        assert good.mean() > means.mean() + 0.1
        blue, _ = experiment.compare(PLAN, Units(arms, dealt, good, np.full(good.size, math.nan)))
        assert blue.verdict == "better"
        assert blue.effect.low <= 20.0 <= blue.effect.high


class TestSplit:
    SHARES: ClassVar = {1: 0.5, 2: 0.3, 3: 0.2}

    def test_each_arm_gets_its_share_and_a_key_stays(self):
        split = Split("shop", "blue", self.SHARES)
        dealt = [split.version(f"key {i}") for i in range(20_000)]
        assert dealt[:500] == [Split("shop", "blue", self.SHARES).version(f"key {i}") for i in range(500)]
        for version, count in Counter(dealt).items():
            share = self.SHARES[version]
            assert count / 20_000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))

    def test_another_experiment_deals_anew(self):
        one, other = Split("shop", "blue", {1: 0.5, 2: 0.5}), Split("shop", "green", {1: 0.5, 2: 0.5})
        same = sum(one.version(f"key {i}") == other.version(f"key {i}") for i in range(4000))
        assert same / 4000 == pytest.approx(0.5, abs=0.04)

    def test_when_shares_change_only_as_many_keys_move_as_have_to(self):
        before, after = Split("shop", "b", {1: 0.5, 2: 0.5}), Split("shop", "b", {1: 0.4, 2: 0.6})
        moves = Counter((before.version(f"key {i}"), after.version(f"key {i}")) for i in range(10_000))
        assert moves[2, 1] == 0
        assert moves[1, 2] / 10_000 == pytest.approx(0.1, abs=0.015)
