"""Traces, spans and what is said about them, on every engine of the metadata."""

from __future__ import annotations

import concurrent.futures
import itertools
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.llm.conventions import completed
from kilter.llm.filters import clauses
from kilter.llm.previews import preview
from kilter.llm.records import Aggregation, Assessment, Span, SpanEvent, SpanLink, TraceInfo
from kilter.llm.service import TraceService
from kilter.llm.tables import spans
from kilter.tracking.service import RunService
from kilter.tracking.tables import experiments

MS = 1_000_000
START = 1_700_000_000_000
ONE, TWO, THREE = (f"tr-{n:032x}" for n in (1, 2, 3))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(str(tmp_path / "objects"))


@pytest.fixture
def traces(database: Database, clock: ManualClock, objects: ObjectStore) -> TraceService:
    with database.transaction() as connection:  # the tests share a PostgreSQL whose tables are emptied between them
        if connection.execute(sa.select(experiments.c.id).where(experiments.c.id == 0)).first() is None:
            row = {"id": 0, "name": "Default", "created_at": clock.now(), "changed_at": clock.now()}
            connection.execute(experiments.insert().values(**row))
    return TraceService(database, objects, clock)


def span(
    trace: str, number: int, parent: int | None = None, *, ms: int = 0, took: int | None = 10, **more: Any
) -> Span:
    start = (START + ms) * MS
    return Span(
        trace=trace,
        id=f"{number:016x}",
        parent=None if parent is None else f"{parent:016x}",
        name=more.pop("name", f"span {number}"),
        start_ns=start,
        end_ns=None if took is None else start + took * MS,
        **more,
    )


def used(tokens: int, cost: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mlflow.chat.tokenUsage": {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1}
    }
    return found if cost is None else {**found, "mlflow.llm.cost": {"total_cost": cost}}


def test_a_span_comes_back_as_it_was(traces: TraceService) -> None:
    sent = span(
        ONE,
        1,
        attributes={
            "text": "größer <b>\n",
            "whole": -(2**62),
            "float": 0.1,
            "no": False,
            "list": [1, None, {"a": "b"}],
            "empty": {},
        },
        events=(SpanEvent(name="exception", at_ns=START * MS + 5, attributes={"exception.type": "ValueError"}),),
        links=(SpanLink(trace=TWO, span=f"{9:016x}", attributes={"why": "batch"}),),
        status="ERROR",
        message="it broke",
        kind="SERVER",
        resource={"service.name": "shop", "telemetry.sdk.name": "opentelemetry"},
        scope="my.scope",
    )
    kept = traces.ingest([sent])
    assert (kept.traces, kept.spans, kept.new) == ((ONE,), 1, 1)
    read = traces.get(ONE)
    assert read.spans == (sent,)
    info = read.info
    assert (info.state, info.name, info.request_ms, info.duration_ms, info.spans) == ("ERROR", "span 1", START, 10, 1)
    assert info.tags == {"service.name": "shop"}


def test_spans_in_any_order_and_any_number_of_times_make_one_trace(traces: TraceService) -> None:
    sent = [
        span(
            ONE, 1, ms=0, took=100, name="root", attributes={"mlflow.spanInputs": {"q": 1}, "mlflow.spanOutputs": "a"}
        ),
        span(ONE, 2, 1, ms=10, took=50, attributes=used(10, 0.5)),
        span(ONE, 3, 2, ms=20, took=200, attributes={"session.id": "s", "user.id": "ann"}),
    ]
    seen = set()
    for place, order in enumerate(itertools.permutations(sent)):
        trace = f"tr-{100 + place:032x}"
        for one in (*order, order[0]):
            traces.ingest([Span(**{**{name: getattr(one, name) for name in one.__struct_fields__}, "trace": trace})])
        info = traces.info(trace)
        seen.add(
            (
                info.state,
                info.name,
                info.request_ms,
                info.duration_ms,
                info.spans,
                info.session,
                info.request,
                info.response,
            )
        )
        assert info.usage == {"input_tokens": 10, "output_tokens": 1, "total_tokens": 11}
        assert info.cost["total_cost"] == 0.5
        assert info.metadata == {"mlflow.trace.user": "ann"}
    assert seen == {("OK", "root", START, 220, 3, "s", '{"q":1}', '"a"')}
    again = traces.ingest(
        [Span(**{**{name: getattr(one, name) for name in one.__struct_fields__}, "trace": trace}) for one in sent]
    )
    assert (again.spans, again.new) == (3, 0)


def test_batches_at_the_same_time_make_one_trace(traces: TraceService) -> None:
    """Each thread sends spans of the same two traces, some of them twice, in its own order."""

    def send(worker: int) -> None:
        for place in range(6):
            number = worker * 6 + place + 2
            both = [span(trace, number, 1, ms=number, attributes=used(1)) for trace in (TWO, ONE)]
            traces.ingest([*both, span(ONE, 1, took=1000), span(TWO, 1, took=1000)])
            traces.ingest(both[::-1])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(send, worker) for worker in range(4)]:
            done.result()
    for trace in (ONE, TWO):
        read = traces.get(trace)
        assert len(read.spans) == read.info.spans == 25
        assert (read.info.usage["input_tokens"], read.info.duration_ms, read.info.state) == (24, 1000, "OK")


def test_tokens_are_counted_once_along_a_branch(traces: TraceService) -> None:
    # the agent sums its two calls; the third call stands beside it
    sent = [
        span(ONE, 1),
        span(ONE, 2, 1, attributes=used(30, 3.0)),
        span(ONE, 3, 2, attributes=used(10, 1.0)),
        span(ONE, 4, 2, attributes=used(20, 2.0)),
        span(ONE, 5, 1, attributes=used(5)),
    ]
    traces.ingest(sent)
    traces.ingest([sent[3], sent[2]])
    for one in reversed(sent):  # children first, each in a batch of its own
        traces.ingest([Span(**{**{name: getattr(one, name) for name in one.__struct_fields__}, "trace": TWO})])
    for trace in (ONE, TWO):
        assert traces.info(trace).usage["input_tokens"] == 35
        assert traces.info(trace).cost["total_cost"] == 3.0


def test_a_span_that_ended_is_not_replaced_by_its_beginning(traces: TraceService) -> None:
    traces.ingest([span(ONE, 1, took=None)])
    assert (traces.info(ONE).state, traces.info(ONE).duration_ms) == ("IN_PROGRESS", None)
    traces.ingest([span(ONE, 1, took=5)])
    traces.ingest([span(ONE, 1, took=None)])
    traces.ingest([span(ONE, 1, took=5), span(ONE, 1, took=None)])
    assert traces.get(ONE).spans[0].end_ns == (START + 5) * MS
    assert (traces.info(ONE).state, traces.info(ONE).duration_ms, traces.info(ONE).spans) == ("OK", 5, 1)


@pytest.mark.parametrize("first", ["info", "spans"])
def test_what_the_client_says_of_a_whole_trace_counts(traces: TraceService, first: str) -> None:
    said = TraceInfo(
        id=ONE,
        experiment=0,
        request_ms=START - 50,
        duration_ms=77,
        state="OK",
        client_id="mine",
        request="asked",
        tags={"mlflow.traceName": "theirs", "k": "v"},
        metadata={
            "mlflow.trace.tokenUsage": '{"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}',
            "mlflow.trace.session": "their session",
            "other": "x",
        },
        assessments=(Assessment(name="ok", kind="feedback", value=True, created_ms=5),),
    )
    steps = [
        lambda: traces.put(said),
        lambda: traces.ingest([span(ONE, 1, attributes={**used(99, 1.5), "session.id": "s"})]),
    ]
    for step in steps if first == "info" else reversed(steps):
        step()
    traces.put(said)
    info = traces.info(ONE)
    assert (info.request_ms, info.duration_ms, info.state, info.name) == (START - 50, 77, "OK", "theirs")
    assert (info.client_id, info.request, info.session) == ("mine", "asked", "their session")
    assert info.usage == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    assert info.cost["total_cost"] == 1.5
    assert (info.tags, info.metadata["other"], info.spans) == ({"k": "v"}, "x", 1)
    assert [(one.name, one.value) for one in info.assessments] == [("ok", True)], "sent twice, there once"


def test_long_values_lie_beside_and_come_back_whole(
    traces: TraceService, objects: ObjectStore, database: Database
) -> None:
    long = {"messages": ["ü" * 50_000, "x" * 200_000]}
    traces.ingest([span(ONE, 1, attributes={"big": long, "text": "y" * 100_000, "small": 1})])
    with database.reading() as connection:
        (content,) = connection.execute(sa.select(spans.c.content)).scalars()
    assert len(content) < 10_000
    assert len([*objects.digests()]) == 2
    assert traces.get(ONE).spans[0].attributes == {"big": long, "text": "y" * 100_000, "small": 1}
    traces.ingest([span(ONE, 1, attributes={"big": long, "text": "y" * 100_000, "small": 1})])
    assert len([*objects.digests()]) == 2


def test_texts_that_databases_refuse_are_kept_without_harm(traces: TraceService) -> None:
    hostile = "a\x00b'; DROP TABLE traces; --"
    traces.ingest(
        [span(ONE, 1, name=hostile, attributes={hostile: hostile, "plain": "\\u0000"}, resource={"r\x00": "\x00"})]
    )
    traces.put(
        TraceInfo(id=TWO, experiment=0, request_ms=1, tags={"k": hostile}, metadata={"m": hostile}, request=hostile)
    )
    traces.tag(ONE, {"k": hostile})
    read = traces.get(ONE)
    clean = hostile.replace("\x00", "\ufffd")
    assert read.info.name == clean
    assert read.spans[0].attributes == {clean: clean, "plain": "\\u0000"}
    assert traces.list(filter="span.attributes.plain = 'x'").traces == ()
    assert traces.info(TWO).tags == {"k": clean}


def test_what_cannot_be_kept_is_refused_wholly(traces: TraceService) -> None:
    good = span(ONE, 1)
    for bad in (
        span("tr 1", 1),
        Span(trace=ONE, id="xyz", name="", start_ns=0),
        Span(trace=ONE, id="0" * 16, name="", start_ns=-1),
        Span(trace=ONE, id="0" * 16, name="", start_ns=2**63),
    ):
        with pytest.raises(InvalidInput):
            traces.ingest([good, bad])
    with pytest.raises(NotFound, match="No Experiment"):
        traces.ingest([good], experiment=12345)
    with pytest.raises(NotFound, match="Run"):
        traces.ingest([good], run="run_none")
    assert traces.list().traces == ()


def test_pages_stand_still_while_traces_come(traces: TraceService) -> None:
    for place in range(7):
        traces.ingest([span(f"tr-{place:032x}", 1, ms=place // 2)])
    seen, cursor = [], None
    while True:
        page = traces.list(limit=3, cursor=cursor)
        seen += [one.id for one in page.traces]
        cursor = page.cursor
        traces.ingest([span(f"tr-{1000 + len(seen):032x}", 1, ms=1000)])
        if cursor is None:
            break
    assert [int(one[3:], 16) for one in seen] == [6, 4, 5, 2, 3, 0, 1]
    with pytest.raises(InvalidInput, match="cursor"):
        traces.list(cursor="bm9uc2Vuc2U=")
    with pytest.raises(InvalidInput, match="order"):
        traces.list(order=["name ASC"], cursor=traces.list(limit=1).cursor)


def test_orders_by_fields_tags_and_metadata(traces: TraceService) -> None:
    for place, (name, took) in enumerate((("b", 5), ("a", 9), ("c", 1))):
        traces.ingest([span(f"tr-{place:032x}", 1, name=name, took=took)])
    traces.tag(ONE, {"k": "2"})
    traces.tag(TWO, {"k": "1"})

    def names(*order: str) -> str:
        return "".join(one.name or "" for one in traces.list(order=order).traces)

    assert names("name ASC") == "abc"
    assert names("execution_time_ms DESC") == names("-execution_time") == "abc"
    assert names("end_time_ms") == "cba"
    assert names("tags.k ASC") == "cab"
    assert names("metadata.x", "name DESC") == "cba"
    for wrong in (["size ASC"], ["span.name"], ["name", "name DESC"], ["name; DROP"]):
        with pytest.raises(InvalidInput):
            traces.list(order=wrong)


def test_filters_meet_spans_values_and_assessments(traces: TraceService) -> None:
    traces.ingest(
        [span(ONE, 1), span(ONE, 2, 1, attributes={"model": "gpt", "n": 5, "o": {"a": "b"}, "we.ird key": "x"})]
    )
    traces.ingest([span(TWO, 1, attributes={"model": "claude"})])
    traces.assess(ONE, Assessment(name="score", kind="feedback", value=0.5))
    traces.assess(ONE, Assessment(name="right", kind="feedback", value="yes"))
    traces.assess(TWO, Assessment(name="right", kind="feedback", value=False))
    traces.link_prompts(TWO, [("greet", "3"), ("greet", "3")])

    def found(text: str) -> list[str]:
        return [one.id for one in traces.list(filter=text, order=["request_id"]).traces]

    for text, expected in {
        "span.attributes.model = 'gpt'": [ONE],
        "span.attributes.model != 'gpt'": [TWO],
        "span.attributes.model IN ('gpt', 'claude')": [ONE, TWO],
        "span.attributes.n = '5'": [ONE],
        "span.attributes.o LIKE '%b%'": [ONE],
        "span.attributes.`we.ird key` = 'x'": [ONE],
        "span.attributes.model = 'gpt' AND span.name = 'span 2'": [ONE],
        "span.attributes.model = 'gpt' AND span.name = 'span 1'": [],
        "feedback.score > 0.4 AND feedback.score <= 0.5": [ONE],
        "feedback.score > 0.6": [],
        "feedback.score = '0.5'": [ONE],
        "feedback.right = 'yes'": [ONE],
        "feedback.right = 'false'": [TWO],
        "feedback.right IS NOT NULL": [ONE, TWO],
        "feedback.score IS NULL": [TWO],
        "expectation.right IS NULL": [ONE, TWO],
        "prompt = 'greet/3'": [TWO],
        "prompt = 'greet/4'": [],
    }.items():
        assert found(text) == expected, text
    with pytest.raises(InvalidInput):
        traces.list(filter="span.attributes.model > 'x'")


def test_no_pattern_takes_for_ever(traces: TraceService) -> None:
    traces.ingest([span(ONE, 1, name="a" * 5000, attributes={"v": f"{'a' * 30_000}!"})])
    began = time.monotonic()
    for pattern in ("^(a+)+$", "((a+))+$", "^(a|a)*$", "a*a*a*a*a*b", "(.*)*x"):
        assert traces.list(filter=f"span.attributes.v RLIKE '{pattern}'").traces == ()
        assert traces.list(filter=f"name RLIKE '{pattern}' AND status = 'ERROR'").traces == ()
    assert len(traces.list(filter="span.attributes.v RLIKE '^a+!$' AND name RLIKE 'aa'").traces) == 1
    assert time.monotonic() - began < 20
    for wrong in ("(", "(a)\\1", "a(?=b)", "a" * 201):
        with pytest.raises(InvalidInput, match="pattern"):
            traces.list(filter=f"name RLIKE '{wrong}'")


@given(text=st.text(max_size=60))
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        clauses(text)
    except InvalidInput:
        return


def test_an_assessment_overrides_and_comes_back(traces: TraceService) -> None:
    traces.ingest([span(ONE, 1), span(TWO, 1)])
    first = traces.assess(ONE, Assessment(name="ok", kind="feedback", value=1))
    second = traces.assess(ONE, Assessment(name="ok", kind="feedback", value=2, overrides=first.id))
    assert [(one.value, one.valid) for one in sorted(traces.info(ONE).assessments, key=lambda one: one.value)] == [
        (1, False),
        (2, True),
    ]
    assert traces.list(filter="feedback.ok = '1'").traces == ()
    with pytest.raises(NotFound):
        traces.assess(TWO, Assessment(name="ok", kind="feedback", value=2, overrides=first.id))
    assert traces.info(TWO).assessments == ()
    with pytest.raises(Conflict):
        traces.assess(TWO, Assessment(name="ok", kind="feedback", value=2, id=second.id))
    traces.withdraw_assessment(ONE, second.id)
    assert traces.assessment(ONE, first.id).valid
    with pytest.raises(InvalidInput, match="Feedback"):
        traces.change_assessment(ONE, first.id, {"expectation": 1})
    for bad in (Assessment(name=" ", kind="feedback"), Assessment(name="x", kind="feedback", source_type="ROBOT")):
        with pytest.raises(InvalidInput):
            traces.assess(ONE, bad)


def test_what_is_said_in_one_millisecond_stays_in_its_order(traces: TraceService, clock: ManualClock) -> None:
    traces.ingest([span(ONE, 1)])
    for place in range(20):
        traces.assess(ONE, Assessment(name=f"said {place}", kind="feedback", value=place))
        clock.advance(timedelta(microseconds=3))
    info = traces.info(ONE)
    assert len({one.created_ms for one in info.assessments}) == 1
    assert [one.value for one in info.assessments] == list(range(20))


def test_the_root_says_which_service_recorded_it() -> None:
    named = {"service.name": "shop"}
    assert completed(span(ONE, 1, resource=named))["service.name"] == "shop"
    assert completed(span(ONE, 1, resource=named, attributes={"service.name": "own"}))["service.name"] == "own"
    for other in (
        span(ONE, 2, 1, resource=named),
        span(ONE, 1),
        span(ONE, 1, resource={"service.name": "unknown_service:py"}),
    ):
        assert "service.name" not in completed(other)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("Bye!", '"Bye!"'), ('{"q": 1}', '{"q": 1}'), ([{"role": "user", "content": "hi"}], "hi"), (5, "5"), (None, None)],
)
def test_previews_are_those_of_mlflows_clients(value: object, shown: str | None) -> None:
    assert preview(value, "user") == shown


def test_a_judgement_of_a_session_counts_for_its_traces(traces: TraceService) -> None:
    for trace, session in ((ONE, "s"), (TWO, "s"), (THREE, "other")):
        traces.ingest([span(trace, 1, attributes={"session.id": session})])
    traces.assess(ONE, Assessment(name="nice", kind="feedback", value="yes", metadata={"mlflow.trace.session": "s"}))
    assert {one.id for one in traces.list(filter="feedback.nice = 'yes'").traces} == {ONE, TWO}
    assert {one.id for one in traces.list(filter="feedback.nice IS NULL").traces} == {THREE}


def test_traces_go_with_all_that_is_theirs(
    traces: TraceService, database: Database, clock: ManualClock, objects: ObjectStore
) -> None:
    runs = RunService(database, objects, clock)
    run = runs.start("Default").id
    for place, trace in enumerate((ONE, TWO, THREE)):
        traces.ingest([span(trace, 1, ms=place)], run=run)
        traces.tag(trace, {"a": "b"})
        traces.assess(trace, Assessment(name="ok", kind="feedback", value=1))
        traces.link_prompts(trace, [("p", "1")])
    assert len(traces.list(filter=f"run_id = '{run}'").traces) == 3
    assert traces.delete(0, [ONE, "tr-none"]) == 1
    assert traces.delete(7, [TWO]) == 0
    assert traces.delete(0, before_ms=START + 5, most=1) == 1
    assert [one.id for one in traces.list().traces] == [THREE]
    with pytest.raises(NotFound):
        traces.get(ONE)
    for wrong in ({}, {"traces": [ONE], "before_ms": 1}, {"traces": [ONE], "most": 1}, {"before_ms": 1, "most": 0}):
        with pytest.raises(InvalidInput):
            traces.delete(0, **wrong)


def test_numbers_over_time_and_by_name(traces: TraceService, clock: ManualClock) -> None:
    for place in range(10):
        more = {
            "attributes": {**used(place), "gen_ai.request.model": "m" if place < 5 else "n"},
            "name": "even" if place % 2 == 0 else "odd",
        }
        traces.ingest([span(f"tr-{place:032x}", 1, ms=place * 1000, took=place, **more)])

    def measured(
        metric: str, *how: Aggregation, view: Any = "TRACES", **more: Any
    ) -> list[tuple[dict[str, str], dict[str, float]]]:
        return [(one.dimensions, one.values) for one in traces.measure([0], view, metric, how, **more)]

    count = Aggregation(type="COUNT")
    assert measured("trace_count", count, dimensions=["trace_name"]) == [
        ({"trace_name": "even"}, {"COUNT": 5}),
        ({"trace_name": "odd"}, {"COUNT": 5}),
    ]
    spread = (Aggregation(type="AVG"), Aggregation(type="MAX"), Aggregation(type="PERCENTILE", percentile=90))
    assert measured("latency", *spread) == [({}, {"AVG": 4.5, "MAX": 9.0, "P90.0": pytest.approx(8.1)})]
    assert measured("span_count", count, view="SPANS", dimensions=["span_model_name"]) == [
        ({"span_model_name": "m"}, {"COUNT": 5}),
        ({"span_model_name": "n"}, {"COUNT": 5}),
    ]
    buckets = measured("trace_count", count, interval=5, start_ms=START, end_ms=START + 9000)
    assert [values["COUNT"] for _, values in buckets] == [5, 5]
    assert buckets[0][0]["time_bucket"].startswith("2023-11-14T22:13:20")
    assert measured("trace_count", count, filters=["trace.status = 'ERROR'"]) == []
    for wrong in ({"metric": "size", "how": count}, {"metric": "latency", "how": count}):
        with pytest.raises(InvalidInput):
            measured(wrong["metric"], wrong["how"])  # type: ignore[arg-type]
    found = traces.correlate([0], "name = 'even'", "name = 'even'")
    assert (found.npmi, found.joint, found.total) == (pytest.approx(1.0), 5, 10)
    assert traces.correlate([0], "name = 'even'", "name = 'odd'").npmi == -1.0
    assert traces.correlate([0], "name = 'none'", "name = 'odd'").npmi is None


def test_a_deleted_experiment_takes_no_new_traces_as_a_whole(
    traces: TraceService, database: Database, clock: ManualClock, objects: ObjectStore
) -> None:
    runs = RunService(database, objects, clock)
    number = runs.create_experiment("gone").number
    clock.advance(timedelta(seconds=1))
    runs.delete_experiment(number)
    with pytest.raises(Conflict, match="deleted"):
        traces.put(TraceInfo(id=ONE, experiment=number, request_ms=1))
