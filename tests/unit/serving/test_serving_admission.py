import pytest

from kilter.core.errors import InvalidInput
from kilter.serving.answering.admission import PLAIN, Budget, Door, Terms, terms_of, with_parameters
from kilter.serving.front.http import HttpError
from kilter.serving.settings import Settings, check_settings


class Pool:
    """A pool that needs a while for what waits, and can shed."""

    def __init__(self, seconds=0.0):
        self.wait = seconds
        self.shedded = []

    def seconds(self, _rows, _urgency):
        return self.wait

    def shed(self, rows, urgency):
        self.shedded.append((rows, urgency))


@pytest.mark.parametrize(
    ("headers", "terms"),
    [
        ({}, PLAIN),
        ({b"priority": b"u=0"}, Terms(0)),
        ({b"priority": b"i, u=7;x=1"}, Terms(7)),
        ({b"priority": b"u=9, high, \xff"}, Terms(3)),
        ({b"x-request-timeout": b"250"}, Terms(3, 0.25)),
        ({b"x-request-timeout": b"0.5", b"priority": b"u=1"}, Terms(1, 0.0005)),
    ],
)
def test_terms_of_headers(headers, terms):
    assert terms_of(headers) == terms


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"nan", b"inf", b"1e999", b"soon"])
def test_a_timeout_that_is_none_is_refused_without_its_value(value):
    with pytest.raises(InvalidInput) as refused:
        terms_of({b"x-request-timeout": value})
    assert refused.value.where == "X-Request-Timeout"
    assert "soon" not in str(refused.value)


def test_parameters_as_triton_names_them():
    assert with_parameters(PLAIN, {}) == PLAIN
    assert with_parameters(PLAIN, {"priority": 0, "timeout": 0}) == PLAIN
    assert with_parameters(PLAIN, {"priority": 1, "timeout": 2_000_000}) == Terms(0, 2.0)
    assert with_parameters(Terms(3, 1.0), {"priority": 99, "timeout": 2_000_000}) == Terms(7, 1.0)
    for wrong in ({"timeout": "1"}, {"timeout": -1}, {"priority": True}, {"priority": 1.5}):
        with pytest.raises(InvalidInput):
            with_parameters(PLAIN, wrong)


def refused(door, rows=1, terms=PLAIN, pools=()):
    with pytest.raises(HttpError) as error:
        door.check(rows, terms, pools)
    return error.value.http_status, error.value.headers


def test_the_door_counts_rows_of_the_endpoint_and_of_the_front():
    budget = Budget(100)
    one, other = Door(Settings(queue_rows=40), budget), Door(Settings(), budget)
    one.check(40, PLAIN, ())
    one.enter(40)
    assert refused(one) == (429, b"retry-after: 1\r\n")
    other.enter(50)
    assert refused(other) == (429, b"retry-after: 1\r\n")
    assert refused(other, 20) == (503, b"retry-after: 1\r\n")
    one.leave(40, 1)
    one.check(40, PLAIN, ())
    assert budget.rows == 50


def test_the_door_counts_requests():
    door = Door(Settings(concurrency=2), Budget(100))
    door.enter(1)
    door.check(1, PLAIN, ())
    door.enter(5)
    assert refused(door)[0] == 429
    door.leave(6, 2)
    door.check(1, PLAIN, ())


def test_what_would_come_too_late_is_refused_with_the_time_to_wait():
    door = Door(Settings(queue_seconds=2.0), Budget(100))
    door.check(1, PLAIN, (Pool(1.9),))
    assert refused(door, pools=(Pool(0.1), Pool(5.5))) == (503, b"retry-after: 4\r\n")
    assert refused(door, terms=Terms(3, 0.5), pools=(Pool(1.0),)) == (503, b"retry-after: 1\r\n")
    Door(Settings(queue_seconds=0), Budget(100)).check(1, PLAIN, (Pool(1000.0),))


def test_a_full_door_asks_what_is_less_urgent_to_give_way():
    door, pool = Door(Settings(queue_rows=10), Budget(100)), Pool()
    door.enter(10)
    refused(door, 3, Terms(1), (pool,))
    assert pool.shedded == [(3, 1)]


def test_a_request_is_due_after_the_shorter_of_both_times():
    door = Door(Settings(timeout=30.0), Budget(1))
    assert [door.due(100.0, terms) for terms in (PLAIN, Terms(3, 0.5), Terms(3, 60.0))] == [130.0, 100.5, 130.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": -1},
        {"replicas": 4, "replicas_max": 2},
        {"replicas_max": 5000},
        {"batch_rows": 0},
        {"queue_rows": 0},
        {"timeout": 0.0},
        {"cache": -1},
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(wrong):
    with pytest.raises(InvalidInput) as error:
        check_settings(Settings(**wrong), "settings")
    assert error.value.where.removeprefix("settings.") in {*wrong, "replicas_max"}
