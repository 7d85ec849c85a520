"""Guards take a canary back beside its labels, err together no more than one, and never promote."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from kilter.core.errors import Conflict, InvalidInput
from kilter.evaluation.declare import log_loss
from kilter.release import rules
from kilter.release.declare import Agreement, Business, Canary, Errors, Latency
from kilter.release.evidence import CanaryEvidence
from kilter.release.guards import GuardedEvidence
from kilter.release.service import ReleaseService
from kilter.serving.answering.router import Router

START = datetime(2013, 5, 1, tzinfo=UTC)
LOOP = "flight-delay"
REVENUE = Business("revenue", low=0, high=50, margin=0.25, detect=1.0)


def predictions(rows=3000, share=50, seed=0, labels=True):
    """Rows of a canary in which both arms are alike."""
    rng = np.random.default_rng(seed)
    router = Router(LOOP, 2, share)
    keys = [f"{seed}-{i}" for i in range(rows)]
    arms = np.array([router.arm(key) for key in keys])
    label = (rng.random(rows) < 0.25).astype(float)
    at = [START + timedelta(minutes=i) for i in range(rows)]
    return pl.DataFrame(
        {
            "id": [f"main-{i:x}-0" for i in range(rows)],
            "key": keys,
            "at": at,
            "version": np.where(arms == "challenger", 2, 1),
            "arm": arms,
            "share": share,
            "value": 0.25 + 0.4 * (label - 0.25),
            "label": label if labels else None,
            "label_at": [moment + timedelta(hours=3) for moment in at],
            "latency_us": rng.integers(500, 1500, rows),
        },
        schema_overrides={
            "at": pl.Datetime("us", "UTC"),
            "label_at": pl.Datetime("us", "UTC"),
            "label": pl.Float64,
            "arm": pl.String,
        },
    )


def challengers(frame):
    return pl.col("arm") == "challenger"


def judge(frame, *guards, observed=None, at=None, **canary):
    return rules.judge_rows(
        rules.canary_rows(frame, LOOP, 2),
        Canary(guards=guards, **canary),
        log_loss,
        at or START + timedelta(days=9),
        routed=rules.routed_rows(frame, LOOP, 2),
        observed=observed,
    )


def observed(frame, values, *, by="prediction", after=timedelta(hours=1), name="revenue"):
    return pl.DataFrame(
        {
            "name": name,
            "prediction": frame["id"] if by == "prediction" else "",
            "key": frame["key"] if by == "key" else "",
            "value": np.asarray(values, dtype=float),
            "at": frame["at"] + after,
        },
        schema=rules.NOTHING_OBSERVED.schema,
    )


ALL = (Errors(), Latency("2ms"), Agreement(), REVENUE)


class TestOfTheAnswers:
    def test_alike_arms_breach_nothing_and_are_promoted_by_their_labels(self):
        frame = predictions(6000)
        judged = judge(frame, *ALL, observed=observed(frame, np.full(6000, 20.0)))
        assert judged.finding.verdict == judged.decided.verdict == "pass"
        assert [one.name for one in judged.guards] == ["errors", "latency(2ms)", "agreement", "business(revenue)"]
        assert {one.verdict for one in judged.guards} <= {"pass", "inconclusive"}

    def test_a_challenger_that_fails_goes_back_before_any_label_came(self):
        frame = predictions(400, labels=False)
        failing = frame.with_columns(
            arm=pl.when(challengers(frame)).then(pl.lit("fallback")).otherwise("arm"), version=pl.lit(1)
        )
        judged = judge(failing, Errors())
        assert (judged.finding.verdict, judged.finding.rows) == ("fail", 0)
        assert judged.finding.detail["decided_by"] == "errors"
        assert judged.decided.name == "canary guard errors"
        assert judged.decided.value.low > 0.5

    def test_a_slow_challenger_goes_back(self):
        frame = predictions(800, labels=False)
        slow = frame.with_columns(
            latency_us=pl.when(challengers(frame)).then(9000).otherwise("latency_us").cast(pl.Int64)
        )
        assert judge(slow, Latency("2ms")).decided.name == "canary guard latency(2ms)"
        assert judge(slow, Latency("20ms")).finding.verdict == "inconclusive"

    @pytest.mark.parametrize("shift", [0.35, -0.2])
    def test_answers_that_moved_go_back_in_either_direction_and_small_moves_do_not(self, shift):
        frame = predictions(3000, labels=False)
        value = pl.col("value").clip(0.2, 0.6)
        moved = frame.with_columns(value=pl.when(challengers(frame)).then(value + shift).otherwise(value))
        assert judge(moved, Agreement(within=0.05)).decided.name == "canary guard agreement"
        assert judge(moved, Agreement(within=0.5)).finding.verdict == "inconclusive"

    def test_no_guard_promotes(self):
        """Proxies are plenty and all well; without labels the canary stays open."""
        frame = predictions(8000, labels=False)
        judged = judge(frame, Errors(), Latency("2ms"), Agreement())
        assert {one.name: one.verdict for one in judged.guards}["errors"] == "pass"
        assert judged.finding.verdict == "inconclusive"

    def test_a_promotion_waits_for_a_guard_that_has_to_be_proven(self):
        frame = predictions(6000)
        few = observed(frame[:100], np.full(100, 20.0))
        strict = Business("revenue", low=0, high=50, margin=0.25, detect=1.0, prove=True)
        judged = judge(frame, strict, observed=few)
        assert judged.finding.verdict == "inconclusive"
        assert judged.finding.detail["waits_for"] == "business(revenue)"
        many = observed(frame, np.full(6000, 20.0))
        assert judge(frame, strict, observed=many).finding.verdict == "pass"

    def test_rows_whose_caller_named_the_version_tell_nothing(self):
        frame = predictions(300)
        named = frame.with_columns(arm=pl.lit("direct"))
        assert rules.routed_rows(pl.concat([frame, named.with_columns(key=pl.col("id"))]), LOOP, 2).height == 300

    def test_rows_that_were_routed_together_are_one_draw(self):
        frame = predictions(300).with_columns(route=pl.Series([f"session {i // 10}" for i in range(300)]))
        assert rules.routed_rows(frame, LOOP, 2).height == 30


class TestOfTheBusiness:
    def values(self, frame, drop, seed=1):
        rng = np.random.default_rng(seed)
        mean = np.where(frame["arm"] == "challenger", 10.0 * (1 - drop), 10.0)
        return np.clip(rng.gamma(4.0, mean / 4.0), 0, 50)

    @pytest.mark.parametrize("by", ["prediction", "key"])
    def test_a_tenth_less_revenue_goes_back_though_the_labels_are_as_good(self, by):
        frame = predictions(12_000)
        judged = judge(frame, REVENUE, observed=observed(frame, self.values(frame, 0.10), by=by))
        assert judged.finding.verdict == "fail"
        assert judged.decided.name == "canary guard business(revenue)"
        low, high = judged.decided.value.low, judged.decided.value.high
        assert low <= -1.0 <= high < 0.0, "in the metric's own units"

    def test_less_is_better_where_it_is_declared_so(self):
        frame = predictions(12_000)
        waiting = Business("revenue", low=0, high=50, margin=0.25, detect=1.0, greater_is_better=False)
        more = observed(frame, self.values(frame, -0.10))
        assert judge(frame, waiting, observed=more).finding.verdict == "fail"
        assert judge(frame, REVENUE, observed=more).finding.verdict == "pass"

    def test_a_correction_counts_in_the_place_of_the_first(self):
        frame = predictions(3000)
        wrong, right = observed(frame, np.full(3000, 1.0)), observed(frame, np.full(3000, 20.0))
        late = right.with_columns(at=pl.col("at") + timedelta(days=3))
        judged = judge(frame, REVENUE, observed=pl.concat([wrong, late]))
        assert judged.guards[0].rows == 3000
        assert judged.guards[0].detail["mean_outcome"] == pytest.approx(0.6)

    def test_who_buys_nothing_counts_once_the_time_is_over(self):
        frame = predictions(3000)
        closing = Business("revenue", low=0, high=50, margin=0.25, detect=1.0, within="2d", missing=0.0)
        bought = observed(frame[::2], np.full(1500, 50.0))
        judged = judge(frame, closing, observed=bought, at=START + timedelta(minutes=999) + timedelta(days=2))
        assert judged.guards[0].rows == 1000
        assert judged.guards[0].detail["mean_outcome"] == pytest.approx(0.5)
        late = observed(frame, np.full(3000, 50.0), after=timedelta(days=3))
        judged = judge(frame, closing, observed=late)
        assert judged.guards[0].detail["mean_outcome"] == 1.0, "what came too late did not come"

    def test_values_of_rows_that_were_not_drawn_are_left_out(self):
        frame = predictions(100)
        stranger = observed(frame, np.full(100, 5.0)).with_columns(prediction="other-" + pl.col("prediction"))
        assert judge(frame, REVENUE, observed=stranger).guards[0].rows == 0


class TestTogether:
    def test_the_money_is_shared(self):
        judged = judge(predictions(100), *ALL)
        assert [one.detail["weight"] for one in judged.guards] == pytest.approx([0.2] * 4)
        assert judged.finding.detail["e_rollback"] < 0.5

    def test_the_sum_of_guards_on_the_same_rows_is_the_sum_of_their_processes_row_by_row(self):
        rng = np.random.default_rng(3)
        arms, share = rng.random(500) < 0.3, np.full(500, 0.3)
        bad = {name: (rng.random(500) < 0.1 + 0.1 * arms).astype(float) for name in "ab"}
        alone = {name: CanaryEvidence(margin=0.02, detect=0.05, weight=0.5) for name in "ab"}
        paths = [np.exp(alone[name].update(arms, share, bad[name])[:, 0]) * 0.5 for name in "ab"]
        both = GuardedEvidence({name: CanaryEvidence(margin=0.02, detect=0.05, weight=0.5) for name in "ab"})
        for part in np.split(np.arange(500), [7, 300]):
            both.update(arms[part], share[part], {name: bad[name][part] for name in "ab"})
        assert both.best_e_rollback == pytest.approx((paths[0] + paths[1]).max())

    def test_harm_in_two_guards_adds_up(self):
        rng = np.random.default_rng(4)
        arms, share = rng.random(1200) < 0.5, np.full(1200, 0.5)
        bad = (rng.random(1200) < 0.1 + 0.07 * arms).astype(float)
        make = lambda: CanaryEvidence(margin=0.02, detect=0.05, weight=0.5)  # noqa: E731
        both, one = GuardedEvidence({"a": make(), "b": make()}), make()
        both.update(arms, share, {"a": bad, "b": bad})
        one.update(arms, share, bad)
        assert both.best_e_rollback == pytest.approx(2 * one.best_e_rollback)

    def test_all_together_take_a_healthy_canary_back_no_more_often_than_declared(self):
        """Labels a day late, answers at once, revenue in between; looked at every hour, over 200 canaries."""
        wrong, runs = 0, 200
        for seed in range(runs):
            frame = predictions(600, share=25, seed=seed)
            rng = np.random.default_rng(seed)
            frame = frame.with_columns(
                latency_us=pl.Series(rng.choice([500, 5000], 600, p=[0.9, 0.1])),
                arm=pl.when(pl.Series(rng.random(600) < 0.03)).then(pl.lit("fallback")).otherwise("arm"),
            )
            money = observed(frame, rng.gamma(2.0, 5.0, 600))
            wrong += judge(frame, *ALL, observed=money).finding.verdict == "fail"
        assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)

    def test_guards_must_agree_on_their_confidence(self):
        with pytest.raises(InvalidInput, match="guards"):
            GuardedEvidence({})
        with pytest.raises(InvalidInput, match="guards"):
            GuardedEvidence(
                {
                    "a": CanaryEvidence(margin=0.1, detect=0.1),
                    "b": CanaryEvidence(margin=0.1, detect=0.1, confidence=0.9),
                }
            )


class TestObserving:
    @pytest.fixture
    def service(self, database, clock):
        clock.set(START)
        return ReleaseService(database, clock)

    def test_a_value_is_kept_and_the_same_request_changes_nothing(self, service, clock):
        first = service.observe(LOOP, "revenue", 12.5, prediction="main-1f-0", request_id="order-1")
        clock.advance(timedelta(days=1))
        assert service.observe(LOOP, "revenue", 12.5, prediction="main-1f-0", request_id="order-1") == first
        assert service.observed(LOOP, START, ["revenue"]).height == 1

    def test_a_request_id_stands_for_one_value(self, service):
        service.observe(LOOP, "revenue", 12.5, key="UA1", request_id="order-1")
        with pytest.raises(Conflict, match="another value"):
            service.observe(LOOP, "revenue", 13.0, key="UA1", request_id="order-1")
        service.observe("other", "revenue", 13.0, key="UA1", request_id="order-1")

    def test_the_order_of_arrival_is_kept(self, service):
        for place in range(3):
            service.observe(LOOP, "revenue", float(place), key="UA1")
        service.observe(LOOP, "clicks", 1.0, key="UA1")
        found = service.observed(LOOP, START, ["revenue"])
        assert found["value"].to_list() == [0.0, 1.0, 2.0]
        assert service.observed(LOOP, START + timedelta(days=1), ["revenue"]).height == 0

    @pytest.mark.parametrize(
        ("given", "where"),
        [
            ({"name": "Revenue!"}, "name"),
            ({"value": math.nan}, "value"),
            ({"key": ""}, "prediction"),
            ({"prediction": "main-1f-0"}, "prediction"),
            ({"key": "", "prediction": "../etc"}, "prediction"),
            ({"key": "x" * 501}, "key"),
            ({"request_id": " "}, "request_id"),
        ],
    )
    def test_what_cannot_be_taken_names_its_field(self, service, given, where):
        with pytest.raises(InvalidInput) as error:
            service.observe(**{"loop": LOOP, "name": "revenue", "value": 1.0, "key": "UA1"} | given)
        assert error.value.where == where

    def test_a_guard_that_decides_is_what_the_judgement_says_and_the_evidence_shows(self, service):
        frame = predictions(400)
        failing = frame.with_columns(
            arm=pl.when(challengers(frame)).then(pl.lit("fallback")).otherwise("arm"), version=pl.lit(1)
        )
        none = failing.clear()
        found = service.judge_canary(
            LOOP, 2, Canary(guards=(Errors(), REVENUE)), log_loss, none, since=START, predictions=failing
        )
        assert (found.name, found.verdict) == ("canary guard errors", "fail")
        shown = service.evidence(LOOP, 2)
        assert shown.canary.verdict == "fail"
        assert [one.verdict for one in shown.guards] == ["fail", "inconclusive"]
