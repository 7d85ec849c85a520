"""Whatever is done to a stored event, the check of the chain names it."""

import re
import shutil

import pytest
import sqlalchemy as sa

from kilter.core.clock import ManualClock
from kilter.core.errors import KilterError
from kilter.engines.sql.database import Database
from kilter.journal.service import Journal
from kilter.journal.tables import events, head

MARK = "needle-in-the-journal"


@pytest.fixture
def written(database, journal):
    with database.transaction() as connection:
        for number in range(1, 8):
            journal.append(connection, "Counted", f"flight-delay@v{number}", {"number": number, "share": 1e5})
    assert journal.verify().ok
    return journal


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kind", "counted"),
        ("subject", "flight-delay@v5"),
        ("topic", "flight"),
        ("data", '{"number":4,"share":1E5}'),
        ("data", '{"number":4, "share":100000.0}'),
        ("data", "{"),
        ("at", 1),
        ("previous", "0" * 64),
        ("digest", "0" * 64),
    ],
)
def test_a_changed_column_is_found(database, written, column, value):
    with database.transaction() as connection:
        connection.execute(events.update().where(events.c.seq == 4).values({column: value}))
    found = written.verify()
    assert (found.ok, found.broken_at, found.checked) == (False, 4, 3)
    assert found.reason


@pytest.mark.parametrize("seq", range(1, 8))
def test_a_removed_event_is_found(database, written, seq):
    with database.transaction() as connection:
        connection.execute(events.delete().where(events.c.seq == seq))
    found = written.verify()
    assert (found.ok, found.broken_at) == (False, seq)
    assert "missing" in found.reason


def test_all_events_removed_are_found(database, written):
    with database.transaction() as connection:
        connection.execute(events.delete())
    assert written.verify().broken_at == 1


def test_the_head_removed_is_found(database, written):
    with database.transaction() as connection:
        connection.execute(head.delete())
    assert written.verify().broken_at == 1


def test_swapped_events_are_found(database, written):
    with database.transaction() as connection:
        for old, new in ((3, 1003), (4, 3), (1003, 4)):
            connection.execute(events.update().where(events.c.seq == old).values(seq=new))
    assert written.verify().broken_at == 3


def test_a_forged_event_at_the_end_is_found(database, written):
    with database.transaction() as connection:
        row = connection.execute(sa.select(events).where(events.c.seq == 7)).mappings().one()
        connection.execute(events.insert().values({**row, "seq": 8, "previous": row["digest"]}))
    assert written.verify().broken_at == 8


def test_the_empty_journal_is_whole(journal):
    found = journal.verify()
    assert (found.ok, found.checked, found.broken_at) == (True, 0, None)


def test_any_one_flipped_byte_of_the_file_is_found(tmp_path, clock: ManualClock):
    """Every byte of a stored event in the SQLite file, flipped one at a time."""
    path = tmp_path / "kilter.db"
    database = Database.open(f"sqlite:///{path}")
    database.migrate()
    journal = Journal(database, clock)
    with database.transaction() as connection:
        for number in range(1, 6):
            journal.append(connection, "Counted", "flight-delay@v1", {"n": number, "mark": MARK if number == 3 else ""})
    database.close()
    data = path.read_bytes()
    place = re.search(MARK.encode(), data)
    assert place is not None
    broken = tmp_path / "broken.db"
    # The row is written as: header, at, kind, subject, topic, data, previous, digest.
    start, end = place.start() - 70, place.end() + 140
    missed = []
    for offset in range(start, end):
        changed = bytearray(data)
        changed[offset] ^= 0x20
        broken.write_bytes(changed)
        try:
            copy = Database.open(f"sqlite:///{broken}")
        except KilterError:
            continue
        found = Journal(copy, clock).verify()
        copy.close()
        if found.ok:
            missed.append(offset - place.start())
    assert missed == []
    shutil.copy(path, broken)
    copy = Database.open(f"sqlite:///{broken}")
    assert Journal(copy, clock).verify().ok
    copy.close()
