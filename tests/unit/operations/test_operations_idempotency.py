from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.sql.database import Database
from kilter.operations.idempotency import Idempotency
from kilter.operations.tables import idempotency as rows

KEY = "0123456789abcdef"


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path}/kilter.db")
    with opened.transaction() as connection:
        rows.create(connection)
    yield opened
    opened.close()


@pytest.fixture
def manual():
    return ManualClock(datetime(2013, 3, 1, tzinfo=UTC))


def test_a_key_does_its_work_once(database, manual):
    done = []
    once = Idempotency(database, manual)

    def work():
        done.append(1)
        return b"[1]"

    assert [once.once(KEY, "room.put", "a", work) for _ in range(3)] == [b"[1]"] * 3
    # Another process, after a restart, gives the same answer.
    assert Idempotency(database, manual).once(KEY, "room.put", "a", work) == b"[1]"
    assert done == [1]


@pytest.mark.parametrize(("operation", "arguments"), [("room.put", "b"), ("room.drop", "a")])
def test_a_key_stands_for_one_request(database, manual, operation, arguments):
    once = Idempotency(database, manual)
    once.once(KEY, "room.put", "a", lambda: b"1")
    with pytest.raises(Conflict, match="another request"):
        once.once(KEY, operation, arguments, lambda: b"2")


def test_work_that_was_refused_frees_its_key(database, manual):
    once = Idempotency(database, manual)

    def refuse():
        raise Conflict("no")

    with pytest.raises(Conflict):
        once.once(KEY, "room.put", "a", refuse)
    assert once.once(KEY, "room.put", "a", lambda: b"2") == b"2"


def test_at_the_same_time_only_one_works(database, manual):
    once = Idempotency(database, manual)
    entered, leave = threading.Event(), threading.Event()
    results = []

    def slow():
        entered.set()
        leave.wait(10)
        return b"1"

    first = threading.Thread(target=lambda: results.append(once.once(KEY, "room.put", "a", slow)))
    first.start()
    entered.wait(10)
    with pytest.raises(Unavailable, match="still runs"):
        once.once(KEY, "room.put", "a", lambda: b"2")
    leave.set()
    first.join()
    assert results == [b"1"]
    assert once.once(KEY, "room.put", "a", lambda: b"2") == b"1"


def test_a_cut_off_attempt_is_not_guessed_about(database, manual):
    with database.transaction() as connection:
        connection.execute(
            rows.insert().values(
                key=KEY, operation="room.put", arguments="a", boot="dead", result=None, at=manual.now()
            )
        )
    with pytest.raises(Conflict, match="cut off"):
        Idempotency(database, manual).once(KEY, "room.put", "a", lambda: b"2")


def test_results_are_forgotten_after_a_week(database, manual):
    once = Idempotency(database, manual)
    once.once(KEY, "room.put", "a", lambda: b"1")
    assert once.prune() == 0
    manual.advance(timedelta(days=8))
    assert once.prune() == 1


@pytest.mark.parametrize("key", ["", "short", "x" * 201, "has space in it", "new\nline-in-it", "ünïcödé-key"])
def test_keys_have_a_form(database, manual, key):
    with pytest.raises(InvalidInput):
        Idempotency(database, manual).once(key, "room.put", "a", lambda: b"1")


def test_work_that_was_cut_off_runs_again_only_if_that_leaves_the_same(database, manual):
    cut_off = Idempotency(database, manual)
    with database.transaction() as connection:
        connection.execute(
            rows.insert().values(
                key=KEY, operation="room.put", arguments="a", boot="before", result=None, at=manual.now()
            )
        )
    with pytest.raises(Conflict, match="cut off"):
        cut_off.once(KEY, "room.put", "a", lambda: b"1")
    assert cut_off.once(KEY, "room.put", "a", lambda: b"2", repeatable=True) == b"2"
    assert Idempotency(database, manual).once(KEY, "room.put", "a", lambda: b"3", repeatable=True) == b"2"
