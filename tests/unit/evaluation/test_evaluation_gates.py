from __future__ import annotations

import math

import msgspec
import numpy as np
import polars as pl
import pytest

from kilter.core.errors import InsufficientData, InvalidInput
from kilter.core.evidence import Finding
from kilter.evaluation import latency
from kilter.evaluation.declare import (
    accuracy,
    at_least,
    auc,
    beats_champion,
    beats_naive,
    brier,
    fair,
    faster_than,
    log_loss,
    precision,
    recall,
)
from kilter.evaluation.gates import GateContext, decide_gates, judge, name_of, role_of

DAY = np.timedelta64(86400, "s")


def world(seed=0, days=7, per_day=800, *, skill=1.0, champion_skill=0.6, weather=0.5, base_rate=0.25):
    rng = np.random.default_rng(seed)
    n = days * per_day
    codes = np.repeat(np.arange(days), per_day)
    signal = rng.normal(size=n)
    logit = -1.2 + signal + rng.normal(0, weather, days)[codes]
    y = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    times = np.datetime64("2013-03-01T05:00", "us") + codes * DAY + rng.integers(0, 64800, n) * np.timedelta64(1, "s")
    predict = lambda k: 1 / (1 + np.exp(-(-1.2 + k * signal)))  # noqa: E731
    return GateContext(
        y=y,
        p_challenger=predict(skill),
        p_champion=predict(champion_skill),
        times=times,
        groups=pl.DataFrame({"carrier": rng.choice(["AA", "B6", "UA"], n)}),
        base_rate=base_rate,
        timings=np.full(1000, 0.001),
    )


def only(gate, context):
    return judge([gate], context)[0]


def test_a_better_challenger_beats_the_champion_and_the_worse_one_fails():
    found = only(beats_champion(log_loss), world())
    assert (found.verdict, found.name, found.allowed) == ("pass", "beats_champion(log_loss)", "< 0")
    assert found.value.high < 0
    assert found.value.estimate == pytest.approx(found.detail["challenger"] - found.detail["champion"])
    worse = only(beats_champion(log_loss), world(skill=0.6, champion_skill=1.0))
    assert worse.verdict == "fail"
    assert worse.value.low > 0


@pytest.mark.parametrize("metric", [auc, accuracy, brier, recall.at(0.3), precision.at(0.3)])
def test_every_metric_compares_in_its_own_direction(metric):
    skilled = world(skill=1.0, champion_skill=-0.5)
    found = only(beats_champion(metric), skilled)
    assert found.verdict == "pass", found.sentence()
    assert (found.value.estimate > 0) == metric.greater_is_better
    swapped = world(skill=-0.5, champion_skill=1.0)
    assert only(beats_champion(metric), swapped).verdict == "fail"


def test_the_same_model_is_neither_better_nor_worse_unless_a_margin_accepts_it():
    same = world(skill=1.0, champion_skill=1.0)
    assert only(beats_champion(log_loss), same).verdict == "inconclusive"
    assert only(beats_champion(log_loss, margin=0.01), same).verdict == "pass"
    assert only(beats_champion(log_loss, margin=-0.01), same).verdict == "fail"
    accepted = only(beats_champion(auc, margin=0.01), same)
    assert (accepted.verdict, accepted.allowed) == ("pass", "> -0.01")


def test_without_a_champion_the_gate_passes_and_says_so():
    context = world()
    alone = GateContext(context.y, context.p_challenger, None, context.times, context.groups, context.base_rate)
    found = only(beats_champion(log_loss), alone)
    assert (found.verdict, found.value, found.detail["reason"]) == ("pass", None, "no champion yet")


def test_a_constant_is_beaten_by_a_model_and_not_by_noise():
    assert only(beats_naive(), world()).verdict == "pass"
    assert only(beats_naive(), world(skill=-1.0)).verdict == "fail"
    assert only(beats_naive(auc), world()).verdict == "pass"
    assert only(beats_naive(), world(base_rate=math.nan)).verdict == "fail"


def test_a_bound_is_passed_missed_or_open():
    context = world()
    assert only(at_least(auc, 0.6), context).verdict == "pass"
    assert only(at_least(auc, 0.9), context).verdict == "fail"
    open_ = only(at_least(auc, only(at_least(auc, 0.5), context).value.estimate - 0.001), context)
    assert open_.verdict == "inconclusive"
    assert "cannot be excluded" in open_.detail["note"]
    assert only(at_least(brier, 0.25), context).allowed == "<= 0.25"
    assert only(at_least(brier, 0.25), context).verdict == "pass"
    assert only(at_least(brier, 0.01), context).verdict == "fail"


def test_a_first_model_with_a_week_of_rows_gets_through():
    context = world(seed=3)
    first = GateContext(
        context.y, context.p_challenger, None, context.times, context.groups, context.base_rate, context.timings
    )
    gates = [
        beats_champion(log_loss),
        beats_naive(),
        at_least(auc, 0.65),
        fair(by="carrier", metric=recall, max_gap=0.15),
        faster_than(p99="20ms"),
    ]
    findings = judge(gates, first)
    assert decide_gates(findings, gates) == "pass", [one.sentence() for one in findings]
    assert [one.detail["role"] for one in findings] == ["primary", "primary", "guard", "guard", "guard"]


@pytest.mark.parametrize(
    ("gate", "broken", "reason"),
    [
        (fair(by="tail", metric=recall, max_gap=0.1), {}, "no column 'tail'"),
        (fair(by="carrier", metric=recall, max_gap=0.1, min_support=10**6), {}, "0 groups"),
        (at_least(auc, 0.6), {"y": np.zeros(5600)}, "does not exist"),
        (at_least(auc, 0.6), {"p_challenger": np.full(5600, np.nan)}, "no probabilities"),
        (beats_champion(log_loss), {"p_champion": np.zeros(3)}, "shape"),
        (at_least(auc, 0.6), {"times": np.zeros(0, dtype="datetime64[us]")}, "times"),
        (at_least(auc, 0.6), {"y": np.zeros(0), "p_challenger": np.zeros(0)}, "no rows"),
        (faster_than(p99="20ms"), {"timings": None}, "no call was timed"),
        (at_least(auc, 0.6, confidence=95), {}, "no confidence"),
    ],
)
def test_a_gate_that_cannot_be_computed_fails_closed_with_its_reason(gate, broken, reason):
    context = world()
    fields = {name: getattr(context, name) for name in context.__dataclass_fields__} | broken
    found = only(gate, GateContext(**fields))
    assert (found.verdict, found.value) == ("fail", None)
    assert reason in found.detail["reason"]
    assert decide_gates([found], [gate]) == "fail"


def test_one_day_proves_nothing():
    one_day = world(days=1)
    found = only(beats_champion(log_loss), one_day)
    assert (found.verdict, found.value.low, found.value.high) == ("inconclusive", None, None)
    assert only(fair(by="carrier", metric=recall, max_gap=0.1), one_day).verdict == "fail"


def finding(gate, verdict):
    return Finding(name_of(gate), verdict, None, "", 1, "")


@pytest.mark.parametrize(
    ("primary", "guard", "decision"),
    [
        ("pass", "pass", "pass"),
        ("pass", "inconclusive", "pass"),
        ("pass", "fail", "fail"),
        ("inconclusive", "pass", "inconclusive"),
        ("inconclusive", "fail", "fail"),
        ("fail", "pass", "fail"),
    ],
)
def test_primary_gates_are_proven_and_guards_must_not_fail(primary, guard, decision):
    gates = [beats_naive(), at_least(auc, 0.6)]
    assert [role_of(gate) for gate in gates] == ["primary", "guard"]
    assert decide_gates([finding(gates[0], primary), finding(gates[1], guard)], gates) == decision


def test_no_gates_fail_closed_and_findings_must_match():
    assert decide_gates([], []) == "fail"
    with pytest.raises(InvalidInput, match="0 findings for 1 gates"):
        decide_gates([], [beats_naive()])


def test_a_finding_survives_json_and_says_how_it_was_judged():
    found = only(beats_champion(log_loss), world())
    assert msgspec.json.decode(msgspec.json.encode(found), type=Finding) == found
    assert found.detail["blocks"] == 7
    assert "MacKinnon" in found.rule


def test_the_paired_comparison_errs_as_rarely_as_it_says():
    wrong = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        days = np.repeat(np.arange(7), 60)
        y = (rng.random(days.size) < 0.3).astype(float)
        noise = rng.normal(0, 0.05, 7)[days]
        context = GateContext(
            y=y,
            p_challenger=np.clip(0.3 + noise + rng.normal(0, 0.02, days.size), 0, 1),
            p_champion=np.clip(0.3 - noise + rng.normal(0, 0.02, days.size), 0, 1),
            times=np.datetime64("2013-03-01", "us") + days * DAY,
            groups=pl.DataFrame(),
            base_rate=0.3,
        )
        wrong += only(beats_champion(brier), context).verdict == "pass"
    assert wrong / 200 < 0.09


class TestLatency:
    def test_calls_are_measured_one_row_at_a_time(self):
        shapes = set()
        taken = latency.measure(lambda rows: shapes.add(rows.shape), np.zeros((10, 4)), calls=20)
        assert (taken.shape, shapes) == ((20,), {(1, 4)})
        assert (taken > 0).all()
        with pytest.raises(InsufficientData):
            latency.measure(len, np.zeros((0, 4)))

    def test_the_percentiles_interval_covers(self):
        rng = np.random.default_rng(1)
        truth = -math.log(0.01)
        found = [latency.percentile(rng.exponential(1.0, 1000)) for _ in range(400)]
        assert np.mean([one.low <= truth for one in found]) > 0.93
        assert np.mean([one.high >= truth for one in found]) > 0.93

    @pytest.mark.parametrize(("slow", "verdict"), [(0, "pass"), (5, "inconclusive"), (30, "fail")])
    def test_verdicts(self, slow, verdict):
        timings = np.full(1000, 0.001)
        timings[:slow] = 0.1
        found = latency.judge_speed(faster_than(p99="20ms"), timings, "faster_than(20ms)")
        assert found.verdict == verdict
        assert found.allowed == "<= 0.02 s"

    def test_too_few_calls_are_inconclusive(self):
        found = latency.judge_speed(faster_than(p99="20ms"), np.full(50, 0.001), "faster_than(20ms)")
        assert (found.verdict, found.value.high) == ("inconclusive", None)
