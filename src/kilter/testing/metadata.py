"""The contract of metadata stores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.sql.database import Database
from kilter.engines.sql.lease import Lease
from kilter.engines.sql.types import Json, UtcDateTime

_ALL = sa.MetaData()
_THINGS = sa.Table(
    "contract_thing",
    _ALL,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", UtcDateTime),
    sa.Column("data", Json),
)


class MetadataContract:
    """What every metadata store does; a subclass gives the fixture ``database``, a migrated one."""

    @pytest.fixture(autouse=True)
    def _things(self, database: Database) -> Iterator[None]:
        with database.transaction() as connection:
            _ALL.create_all(connection)
        yield
        with database.transaction() as connection:
            _ALL.drop_all(connection)

    def _count(self, database: Database) -> int:
        with database.reading() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(_THINGS)).scalar_one())

    def test_commits_at_the_end_and_rolls_back_on_error(self, database: Database) -> None:
        """A transaction is done wholly or not at all."""
        with database.transaction() as connection:
            connection.execute(_THINGS.insert().values(id=1))

        def fail() -> None:
            with database.transaction() as connection:
                connection.execute(_THINGS.insert().values(id=2))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert self._count(database) == 1

    def test_a_broken_constraint_is_the_callers(self, database: Database) -> None:
        """An integrity error passes through, and the next transaction works."""
        with pytest.raises(IntegrityError), database.transaction() as connection:
            connection.execute(_THINGS.insert(), [{"id": 1}, {"id": 1}])
        assert self._count(database) == 0

    def test_a_savepoint_rolls_back_alone(self, database: Database) -> None:
        """A nested transaction that fails leaves the outer one whole."""
        with database.transaction() as connection:
            connection.execute(_THINGS.insert().values(id=1))
            with pytest.raises(IntegrityError), connection.begin_nested():
                connection.execute(_THINGS.insert().values(id=1))
            connection.execute(_THINGS.insert().values(id=2))
        assert self._count(database) == 2

    def test_a_second_transaction_of_one_thread_is_refused(self, database: Database) -> None:
        """It would wait for itself; the error says so at once."""
        with database.transaction(), pytest.raises(Conflict, match="open already"), database.transaction():
            pass
        with database.transaction() as connection:
            connection.execute(_THINGS.insert().values(id=1))

    def test_reading_sees_one_moment(self, database: Database) -> None:
        """What others commit meanwhile is not seen until the next reading."""
        with database.reading() as connection:
            count = sa.select(sa.func.count()).select_from(_THINGS)
            assert connection.execute(count).scalar_one() == 0
            with database.transaction() as other:
                other.execute(_THINGS.insert().values(id=1))
            assert connection.execute(count).scalar_one() == 0
        assert self._count(database) == 1

    def test_reading_cannot_write(self, database: Database) -> None:
        """A reading transaction refuses to change anything."""
        with pytest.raises((Unavailable, DBAPIError)), database.reading() as connection:
            connection.execute(_THINGS.insert().values(id=1))
        assert self._count(database) == 0

    def test_threads_write_in_turn(self, database: Database) -> None:
        """Read-modify-write in one transaction loses no update."""
        with database.transaction() as connection:
            connection.execute(_THINGS.insert().values(id=1, data=0))

        def add(_: int) -> None:
            with database.transaction() as connection:
                row = sa.select(_THINGS.c.data).where(_THINGS.c.id == 1).with_for_update()
                value = connection.execute(row).scalar_one()
                connection.execute(_THINGS.update().where(_THINGS.c.id == 1).values(data=value + 1))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(40)))
        with database.reading() as connection:
            assert connection.execute(sa.select(_THINGS.c.data)).scalar_one() == 40

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2013, 3, 1, 12, 30, 15, 123_457, tzinfo=UTC),
            datetime(2013, 3, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ],
    )
    def test_times_keep_their_microseconds(self, database: Database, moment: datetime) -> None:
        """A moment comes back equal and in UTC."""
        with database.transaction() as connection:
            connection.execute(_THINGS.insert().values(id=1, at=moment))
        with database.reading() as connection:
            found = connection.execute(sa.select(_THINGS.c.at).where(_THINGS.c.at == moment)).scalar_one()
        assert found == moment
        assert found.utcoffset() == timedelta(0)

    def test_times_compare_as_times(self, database: Database) -> None:
        """Order and comparison follow the moment, whatever zone it was given in."""
        east = timezone(timedelta(hours=5))
        moments = [
            datetime(2013, 3, 1, 4, 59, 59, 999_999, tzinfo=east),
            datetime(2013, 3, 1, tzinfo=UTC),
            datetime(2013, 3, 1, 5, 0, 1, tzinfo=east),
        ]
        with database.transaction() as connection:
            for number, moment in enumerate(reversed(moments)):
                connection.execute(_THINGS.insert().values(id=number, at=moment))
        with database.reading() as connection:
            assert list(connection.execute(sa.select(_THINGS.c.at).order_by(_THINGS.c.at)).scalars()) == moments
            later = sa.select(_THINGS.c.id).where(_THINGS.c.at >= moments[1])
            assert sorted(connection.execute(later).scalars()) == [0, 1]

    @pytest.mark.parametrize(
        "value",
        [
            {"a": [1, 2.5, None, True], "b": {"c": "é\x00\u2028😀"}},
            [0.1 + 0.2, 1e308, 5e-324, 1.0, -1, 2**63, -(2**63)],
            "text",
            "",
            0,
            False,
            {},
            [],
        ],
    )
    def test_json_comes_back_equal(self, database: Database, value: Any) -> None:
        """What goes in comes out: numbers to the bit, integers as integers, any character."""
        with database.transaction() as connection:
            connection.execute(_THINGS.insert().values(id=1, data=value))
        with database.reading() as connection:
            found = connection.execute(sa.select(_THINGS.c.data)).scalar_one()
        assert found == value
        assert repr(found) == repr(value)

    @pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, object()])
    def test_json_refuses_what_it_cannot_say(self, database: Database, value: Any) -> None:
        """Nothing is stored in place of a value that JSON has no words for."""
        with pytest.raises((InvalidInput, sa.exc.StatementError)), database.transaction() as connection:
            connection.execute(_THINGS.insert().values(id=1, data=value))
        assert self._count(database) == 0

    def test_one_holder_at_a_time(self, database: Database) -> None:
        """A lease has one holder until it runs out or is given back; each holder has a larger epoch."""
        now = [100.0]
        first, second = Lease(database, lambda: now[0]), Lease(database, lambda: now[0])
        assert first.acquire("controller", "a", 10) == 1
        assert second.acquire("controller", "b", 10) is None
        now[0] = 109.0
        assert first.renew()
        now[0] = 118.0
        assert second.acquire("controller", "b", 10) is None
        now[0] = 119.5
        assert second.acquire("controller", "b", 10) == 2
        assert not first.renew()
        second.release()
        assert first.acquire("controller", "a", 10) == 3

    def test_a_stale_holder_is_fenced(self, database: Database) -> None:
        """Who lost the lease can't commit an effect, even if it does not know yet."""
        now = [100.0]
        first, second = Lease(database, lambda: now[0]), Lease(database, lambda: now[0])
        first.acquire("controller", "a", 10)
        with database.transaction() as connection:
            first.check(connection)
            connection.execute(_THINGS.insert().values(id=1))
        now[0] = 111.0
        second.acquire("controller", "b", 10)

        def act() -> None:
            with database.transaction() as connection:
                connection.execute(_THINGS.insert().values(id=2))
                first.check(connection)

        with pytest.raises(Conflict, match="gone to someone else"):
            act()
        assert self._count(database) == 1

    def test_an_heir_takes_the_lease_of_the_dead_and_of_nobody_else(self, database: Database) -> None:
        """Who knows that a holder is dead need not wait; the dead one's epoch is over."""
        now = [100.0]
        first, second = Lease(database, lambda: now[0]), Lease(database, lambda: now[0])
        epoch = first.acquire("work", "house/one", 10)
        assert second.acquire("work", "other/two", 10, heir_of="other/") is None
        taken = second.acquire("work", "house/two", 10, heir_of="house/")
        assert epoch is not None
        assert taken is not None
        assert taken > epoch
        assert not first.renew()

    def test_a_clock_that_began_anew_frees_the_lease(self, database: Database) -> None:
        """After a restart of the machine the old holder's time lies far ahead, and does not count."""
        now = [1_000_000.0]
        first, second = Lease(database, lambda: now[0]), Lease(database, lambda: now[0])
        first.acquire("controller", "a", 10)
        now[0] = 5.0
        assert second.acquire("controller", "b", 10) == 2

    def test_one_of_many_gets_the_lease(self, database: Database) -> None:
        """Of several that ask at once for a new lease, exactly one gets it."""

        def ask(number: int) -> int | None:
            return Lease(database).acquire("controller", f"holder {number}", 60)

        with ThreadPoolExecutor(4) as pool:
            epochs = list(pool.map(ask, range(8)))
        assert sorted(epoch for epoch in epochs if epoch is not None) == [1]
