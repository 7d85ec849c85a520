"""The journal: in the caller's transaction, without gaps, and exactly once for a reader."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from kilter.core.errors import Conflict, InvalidInput
from kilter.engines.sql.database import Database
from kilter.journal.records import GENESIS
from kilter.journal.service import Journal

WRITER = """
import sys
from kilter.core.clock import SystemClock
from kilter.engines.sql.database import Database
from kilter.journal.service import Journal

database = Database.open(sys.argv[1])
journal = Journal(database, SystemClock())
for number in range(int(sys.argv[3])):
    with database.transaction() as connection:
        journal.append(connection, "Counted", sys.argv[2], {"number": number})
"""


def write(database: Database, journal: Journal, count: int, subject: str = "flight-delay") -> None:
    for number in range(count):
        with database.transaction() as connection:
            journal.append(connection, "Counted", subject, {"number": number})


def test_an_event_is_returned_as_it_is_read_again(database, journal, clock):
    data = {"z": 1, "a": [1.5, None, "é\x00"], "n": {"b": True}}
    with database.transaction() as connection:
        event = journal.append(connection, "AlarmRaised", "flight-delay@v7", data)
    assert journal.events() == [event]
    assert (event.seq, event.at, event.kind, event.subject) == (1, clock.now(), "AlarmRaised", "flight-delay@v7")
    assert event.data == data
    assert event.previous == GENESIS


def test_each_event_names_the_digest_before(database, journal):
    write(database, journal, 3)
    first, second, third = journal.events()
    assert (second.previous, third.previous) == (first.digest, second.digest)


def test_a_time_may_be_given(database, journal):
    at = datetime(2013, 9, 1, 12, 0, 0, 123_457, tzinfo=UTC)
    with database.transaction() as connection:
        journal.append(connection, "Counted", "flight-delay", {}, at=at)
    assert journal.events()[0].at == at


def test_an_event_rolls_back_with_the_change_it_tells_of(database, journal):
    write(database, journal, 1)

    def fail():
        with database.transaction() as connection:
            journal.append(connection, "Counted", "flight-delay", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    write(database, journal, 1)
    assert [event.seq for event in journal.events()] == [1, 2]
    assert journal.verify().ok


def test_several_events_of_one_transaction_follow_each_other(database, journal):
    with database.transaction() as connection:
        events = [journal.append(connection, "Counted", "flight-delay", {"n": n}) for n in range(5)]
    assert journal.events() == events


def test_a_subject_covers_its_versions_and_nothing_else(database, journal):
    for subject in ("flight-delay", "flight-delay@v1", "flight-delay@v10", "flight-delays", "flight", "flight@v1"):
        write(database, journal, 1, subject)
    assert [e.subject for e in journal.events(subject="flight-delay")] == [
        "flight-delay",
        "flight-delay@v1",
        "flight-delay@v10",
    ]
    assert [e.subject for e in journal.events(subject="flight-delay@v1")] == ["flight-delay@v1"]
    assert journal.events(subject="flight-%") == []


def test_a_page_begins_after_a_place(database, journal):
    write(database, journal, 10)
    assert [e.seq for e in journal.events(after=4, limit=3)] == [5, 6, 7]
    assert [e.seq for e in journal.events(limit=2, newest=True)] == [10, 9]
    assert journal.events(after=10) == []
    assert journal.events(kind="AlarmRaised") == []
    for limit in (0, 1001):
        with pytest.raises(InvalidInput, match="1 to 1000"):
            journal.events(limit=limit)


@pytest.mark.parametrize(
    ("kind", "subject", "data"),
    [("", "s", {}), ("k" * 101, "s", {}), ("k", "", {}), ("k", "s\x00", {}), ("k", "s", {"x": float("nan")})],
)
def test_what_cannot_be_kept_is_refused(database, journal, kind, subject, data):
    with pytest.raises(InvalidInput), database.transaction() as connection:
        journal.append(connection, kind, subject, data)
    assert journal.events() == []


def test_a_cursor_moves_with_the_effect_or_not_at_all(database, journal):
    write(database, journal, 3)

    def handle(upto, fail=False):
        with database.transaction() as connection:
            before = journal.cursor(connection, "controller")
            journal.advance(connection, "controller", upto)
            if fail:
                raise ZeroDivisionError
            return before

    assert handle(2) == 0
    with pytest.raises(ZeroDivisionError):
        handle(3, fail=True)
    assert handle(3) == 2


def test_a_cursor_never_goes_back(database, journal):
    write(database, journal, 3)
    with database.transaction() as connection:
        journal.advance(connection, "controller", 3)
    for seq in (2, 3):
        with pytest.raises(Conflict, match="further already"), database.transaction() as connection:
            journal.advance(connection, "controller", seq)
    with database.transaction() as connection:
        assert journal.cursor(connection, "controller") == 3
        assert journal.cursor(connection, "page") == 0


@pytest.mark.slow
def test_writers_in_several_processes_leave_no_gap(database_url, database, journal):
    count, writers = 60, 3
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, database_url, f"loop-{number}", str(count)])
        for number in range(writers)
    ]
    assert [process.wait(120) for process in processes] == [0] * writers
    events = journal.events(limit=1000)
    assert [event.seq for event in events] == list(range(1, count * writers + 1))
    for number in range(writers):
        assert [e.data["number"] for e in events if e.subject == f"loop-{number}"] == list(range(count))
    assert journal.verify().ok


def test_many_pages_are_verified(database, journal, clock):
    with database.transaction() as connection:
        for number in range(2500):
            clock.advance(timedelta(seconds=1))
            journal.append(connection, "Counted", "flight-delay", {"number": number})
    found = journal.verify()
    assert (found.ok, found.checked) == (True, 2500)
