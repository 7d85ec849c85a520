from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from kilter.core.errors import NotFound
from kilter.evaluation.declare import log_loss
from kilter.operations.table import collect
from kilter.release import rules
from kilter.release.declare import Canary, Shadow
from kilter.release.service import ReleaseService
from kilter.serving.answering.router import Router

START = datetime(2013, 5, 1, tzinfo=UTC)
CANARY = Canary()


def predictions(seed=0, rows=3000, share=50, harm=0.0, version=2, loop="flight-delay"):
    rng = np.random.default_rng(seed)
    router = Router(loop, version, share)
    keys = [f"{seed}-{i}" for i in range(rows)]
    arms = np.array([router.arm(key) for key in keys])
    label = (rng.random(rows) < 0.25).astype(float)
    value = np.clip(0.25 + 0.2 * (label - 0.25) + harm * np.where(arms == "challenger", 1 - 2 * label, 0), 0, 1)
    at = [START + timedelta(minutes=i) for i in range(rows)]
    return pl.DataFrame(
        {
            "key": keys,
            "at": at,
            "time": at,
            "version": np.where(arms == "challenger", version, 1),
            "arm": arms,
            "share": share,
            "value": value,
            "label": label,
            "label_at": [moment + timedelta(hours=3) for moment in at],
            "shadow_version": version,
            "shadow_value": np.clip(value + 0.05 * (2 * label - 1), 0, 1),
        },
        schema_overrides={name: pl.Datetime("us", "UTC") for name in ("at", "time", "label_at")},
    )


@pytest.fixture
def service(database, clock):
    return ReleaseService(database, clock)


def test_a_canary_is_judged_kept_and_shown(service):
    frame = predictions()
    found = service.judge_canary("flight-delay", 2, CANARY, log_loss, frame, since=START)
    assert found.verdict == "pass"
    shown = service.evidence("flight-delay", 2)
    assert shown.canary == found
    assert (shown.margin, shown.confidence) == (0.02, 0.95)
    assert [point.day.day for point in shown.points] == [1, 2, 3]
    assert shown.points[-1].rows == found.rows == 3000
    assert shown.points[-1].verdict == "pass"
    assert shown.points[-1].e_promote == pytest.approx(found.detail["e_promote"])
    assert all(point.low <= point.difference <= point.high for point in shown.points)


def test_judging_again_replaces_and_gives_the_same(service, clock):
    frame = predictions(harm=0.4)
    first = service.judge_canary("flight-delay", 2, CANARY, log_loss, frame[:1000], since=START)
    clock.advance(timedelta(hours=1))
    again = service.judge_canary("flight-delay", 2, CANARY, log_loss, frame, since=START)
    assert again.verdict == "fail"
    assert again == service.judge_canary("flight-delay", 2, CANARY, log_loss, frame, since=START)
    assert first.rows < again.rows
    (summary,) = service.list("flight-delay")
    assert (summary.version, summary.verdict, summary.stage, summary.started_at) == (2, "fail", "canary", START)


def test_a_look_is_taken_once(service):
    first = service.judge_shadow("flight-delay", 2, Shadow(), log_loss, predictions(rows=12_000), look=1)
    assert first.verdict == "pass"
    again = service.judge_shadow("flight-delay", 2, Shadow(), log_loss, predictions(rows=100), look=1)
    assert again == first
    second = service.judge_shadow("flight-delay", 2, Shadow(), log_loss, predictions(rows=100), look=2)
    assert service.evidence("flight-delay", 2).shadow == (first, second)
    (summary,) = service.list("flight-delay")
    assert (summary.stage, summary.verdict) == ("shadow", "inconclusive")


def test_rows_that_another_shadow_scored_are_left_out(service):
    found = service.judge_shadow("flight-delay", 3, Shadow(), log_loss, predictions(version=2), look=1)
    assert (found.verdict, found.rows) == ("inconclusive", 0)


def test_a_release_without_evidence_is_not_found(service):
    with pytest.raises(NotFound, match="flight-delay@v9"):
        service.evidence("flight-delay", 9)
    assert service.list("flight-delay") == ()


def test_before_the_first_label_a_canary_is_open_and_leaves_no_trace(service):
    found = service.judge_canary("flight-delay", 2, CANARY, log_loss, predictions().clear(), since=START)
    assert (found.verdict, found.rows) == ("inconclusive", 0)
    with pytest.raises(NotFound):
        service.evidence("flight-delay", 2)


def test_the_operations(service):
    found = {one.name: one.writes for one in collect({"releases": ReleaseService})}
    assert found == {"releases.evidence": False, "releases.list": False, "releases.observe": True}


class TestRows:
    def test_only_rows_that_could_have_gone_either_way_count(self):
        frame = pl.concat(
            [predictions(1, 100, share=25), predictions(2, 50).with_columns(share=0, arm=pl.lit("champion"))]
        )
        assert rules.canary_rows(frame, "flight-delay", 2).height == 100

    def test_rows_before_the_canary_or_of_another_challenger_are_left_out(self):
        frame = predictions(1, 200)
        assert rules.canary_rows(frame, "flight-delay", 2, START + timedelta(minutes=150)).height == 50
        champions = frame.filter(pl.col("arm") == "champion").height
        assert rules.canary_rows(frame, "flight-delay", 3).height == champions

    def test_a_key_that_asks_twice_counts_once(self):
        frame = predictions(1, 100)
        assert rules.canary_rows(pl.concat([frame, frame]), "flight-delay", 2).height == 100

    def test_a_challenger_that_fails_is_charged_though_another_answered(self):
        frame = predictions(3, 1500)
        failing = frame.with_columns(
            version=pl.lit(1),
            arm=pl.when(pl.col("arm") == "challenger").then(pl.lit("fallback")).otherwise(pl.col("arm")),
        )
        rows = rules.canary_rows(failing, "flight-delay", 2)
        assert rows["taken"].to_list() == (frame["arm"] == "challenger").to_list()
        judged = rules.judge_rows(rows, CANARY, log_loss, START)
        assert judged.finding.verdict == "fail"
        assert judged.finding.detail["challenger_failures"] == int(rows["taken"].sum())

    def test_the_days_are_those_on_which_labels_joined(self):
        frame = predictions(4, 3000).with_columns(label_at=pl.col("at") + pl.duration(days=2))
        judged = rules.judge_rows(rules.canary_rows(frame, "flight-delay", 2), CANARY, log_loss, START)
        assert [point.day.day for point in judged.points] == [3, 4, 5]
        assert [point.rows for point in judged.points] == [1440, 2880, 3000]
