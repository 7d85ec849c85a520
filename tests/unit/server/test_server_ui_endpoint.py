"""The pages of endpoints and releases, as functions: who answers, who calls, the form, the bands."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import msgspec
import numpy as np
import pytest

from kilter.core.errors import InvalidInput
from kilter.data.encoding import Encoding
from kilter.monitoring.records import DailyRow
from kilter.packaging.records import Signature
from kilter.server.ui import endpoints, trying, words
from kilter.server.ui.endpoint_records import Form
from kilter.server.ui.endpoints import EndpointReading
from kilter.server.ui.outcomes import running
from kilter.server.ui.release import span_words
from kilter.server.ui.tally import Counts, Seen
from kilter.serving.access.keys import ApiKey
from kilter.serving.recording.redaction import Recording
from kilter.serving.records import EndpointStatus, TrafficPlan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SIGNATURE = Signature(
    table="visits",
    key="visit",
    time="at",
    encoding=Encoding(("price", "city"), ("numeric", "categorical"), {"city": ("Kiel", "Ulm")}),
)


def reading(plan: TrafficPlan, **more) -> EndpointReading:
    counts = Counts()
    for version, arm in ((1, "champion"), (1, "champion"), (1, "champion"), (2, "challenger")):
        counts.add(Seen(NOW, plan.loop, [arm], [version], 1_000, [()]))
    fields = {
        "now": NOW,
        "simulated": False,
        "plan": plan,
        "fronts": (EndpointStatus(loop="shop", front="main", generation=3, applied=3, error="", updated_at=NOW),),
        "versions": (),
        "counts": counts,
        "consumers": (),
        "keys": (),
        "recording": Recording(),
        "experiments": (),
        "loop": True,
    }
    return EndpointReading(**(fields | more))


@pytest.mark.parametrize(
    ("plan", "said", "roles"),
    [
        ({"champion": 1}, "v1 answers everything", ["champion"]),
        ({"champion": None}, "Nobody can answer yet", []),
        ({"champion": None, "fallback": 0.5}, "The constant answers everything", ["fallback"]),
        ({"champion": 1, "challenger": 2, "mode": "shadow"}, "scores copies", ["champion", "shadow"]),
        (
            {"champion": 1, "challenger": 2, "mode": "canary", "share": 25, "warm": (3,), "fallback": 0.5},
            "v2 answers 25 % of the traffic beside v1",
            ["champion", "challenger", "warm", "fallback"],
        ),
        (
            {"champion": 1, "mode": "split", "split": {1: 0.5, 2: 0.5}, "experiment": "price", "warm": (2,)},
            "The arms of price share the traffic: v1 50 %, v2 50 %",
            ["arm", "arm"],
        ),
    ],
)
def test_who_answers_in_every_mode(plan, said, roles):
    found = endpoints.who(reading(TrafficPlan(loop="shop", **plan)), "1h")
    assert said in found.headline
    assert [one.role for one in found.servers] == roles
    shown = sum(one.share for one in found.servers if one.role != "shadow")
    assert shown == (100 if roles else 0)


def test_who_answered_is_counted_beside_what_was_planned():
    plan = TrafficPlan(loop="shop", champion=1, challenger=2, mode="canary", share=50, generation=3)
    found = endpoints.who(reading(plan), "1h")
    assert [(one.version, one.share, one.seen, one.rows) for one in found.servers] == [(1, 50, 75, 3), (2, 50, 25, 1)]
    assert found.release
    assert endpoints.card(plan, reading(plan).fronts, reading(plan).counts, NOW, loop=True).applied == 3


def test_keys_are_shown_without_their_digests():
    def key(name: str, **more) -> ApiKey:
        return ApiKey(
            name=name, digest="5" * 64, endpoints=more.pop("endpoints", ("shop",)), created_at=NOW - DAY, **more
        )

    keys = (
        key("one"),
        key("old", expires_at=NOW - timedelta(hours=1)),
        key("gone", revoked_at=NOW),
        key("all", endpoints=()),
        key("elsewhere", endpoints=("churn",)),
    )
    found = endpoints.callers(reading(TrafficPlan(loop="shop", champion=1), keys=keys))
    assert {one.name: one.state for one in found.keys} == {
        "one": "holds", "old": "expired", "gone": "revoked", "all": "holds",
    }  # fmt: skip
    assert found.locked
    assert "5555" not in msgspec.json.encode(found).decode()


def test_settings_say_what_is_recorded():
    rule = Recording(drop=("name",), sample=0.1)
    (said,) = [
        one.value for one in endpoints.settings(reading(TrafficPlan(loop="shop", champion=1), recording=rule))
        if one.name == "Recorded"
    ]  # fmt: skip
    assert said == "10 % of the rows; without name"


def form() -> Form:
    fields = trying.fields(SIGNATURE, NOW, {"price": 2.5, "city": "Ulm"})
    return Form(name="shop", version=1, fields=fields, versions=(1,), output="", running=True)


def test_a_form_is_made_of_the_signature():
    found = {one.name: one for one in form().fields}
    assert {name: (one.kind, one.role) for name, one in found.items()} == {
        "visit": ("text", "key"),
        "at": ("time", "time"),
        "price": ("number", "input"),
        "city": ("choice", "input"),
    }
    assert found["city"].choices == ("Kiel", "Ulm")
    assert (found["price"].value, found["city"].value, found["at"].value) == ("2.5", "Ulm", "2026-03-01T12:00:00Z")
    assert trying.output_of(SIGNATURE) == "the probability of the positive class"


def test_a_row_is_what_was_typed():
    row = trying.row_of({"price": " 3.5 ", "city": ""}, form())
    assert (row["price"], row["city"], row["at"]) == (3.5, None, "2026-03-01T12:00:00Z")
    assert str(row["visit"]).startswith("try-")
    for asked, where in (({"price": "cheap"}, "price"), ({"price": "inf"}, "price"), ({"colour": "red"}, "colour")):
        with pytest.raises(InvalidInput) as refused:
            trying.row_of(asked, form())
        assert refused.value.where == where


def test_a_refusal_names_the_field_of_the_form():
    said = {"detail": "a wrong value", "where": "rows[0].price", "allowed": "a number"}
    assert trying.refused(said, 422) == trying.Tried(problem="a wrong value", where="price", allowed="a number")
    assert trying.refused([], 500).problem == "the front answered 500"


def test_an_explanation_begins_with_the_largest_part():
    (found,) = trying.explained(
        {"explanations": [{"value": {"base": -1.0, "contributions": {"a": 0.1, "b": -0.4, "c": 0.0}}}]}
    )
    assert [(one.name, one.value, one.width) for one in found.parts] == [
        ("b", -0.4, 100),
        ("a", 0.1, 25),
        ("c", 0.0, 0),
    ]
    assert trying.explained({}) == ()


def daily(number: int, labels: int, errors: float) -> DailyRow:
    return DailyRow(
        loop="shop", version=1, arm="champion", day=date(2026, 3, 1) + number * DAY, rows=labels, labels=labels,
        value_sum=0.0, scored_sum=0.0, label_sum=0.0, log_loss_sum=0.0, brier_sum=errors,
    )  # fmt: skip


def test_the_band_of_a_curve_holds_at_all_days_together():
    random = np.random.default_rng(5)
    truth, missed = 0.2, 0
    for _ in range(300):
        days = random.binomial(40, truth, size=60)  # the worst case: an error is 0 or 1
        points = running([daily(number, 40, float(errors)) for number, errors in enumerate(days)], error=0.2)
        missed += any(not point.low <= truth <= point.high for point in points)
    assert missed / 300 < 0.2


def test_a_curve_is_the_running_mean_and_its_band_narrows():
    points = running([daily(0, 100, 20.0), daily(1, 0, 0.0), daily(2, 300, 40.0), daily(3, 9_600, 2_000.0)])
    assert [point.value for point in points] == [0.2, 0.15, 0.206]
    widths = [point.high - point.low for point in points]
    assert widths == sorted(widths, reverse=True)
    # Howard et al. 2021, eq. 14, at 10,000 rows.
    assert points[-1].high - points[-1].value == pytest.approx(0.0162, abs=2e-4)
    assert running([]) == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "due now"), (20, "less than a minute"), (900, "15 min"), (7260, "2 h 1 min"), (100_000, "1 d 3 h")],
)
def test_a_stretch_of_time_in_words(seconds, said):
    assert span_words(seconds) == said


def test_numbers_are_brief():
    assert [words.brief(one) for one in (None, 50.0, 3.06, 0.98765, -0.001234, 12345.6)] == [
        words.DASH, "50", "3.06", "0.988", f"{words.MINUS}0.00123", "12,346",
    ]  # fmt: skip
