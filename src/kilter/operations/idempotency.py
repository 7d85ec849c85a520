"""A write that is sent twice with one key is done once, and answered alike.

A key is claimed in its own transaction before the operation runs and gets its result afterwards. A second request with
the key while the first one runs is told to come back. When the first attempt was cut off by a crash, an operation that
leaves the same whether done once or twice is run again; for any other the answer is ``Conflict``: what the first attempt
did is in the journal, and guessing would be worse than asking.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.sql.database import Database
from kilter.operations.tables import idempotency

KEPT = timedelta(days=7)

_KEY = re.compile(r"^[A-Za-z0-9._:-]{8,200}$")


class Idempotency:
    """Remembers the results of writes.

    Args:
        database: Where they are kept.
        clock: The machine's clock; results are forgotten after seven days.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._boot = secrets.token_hex(16)

    def once(
        self, key: str, operation: str, arguments: str, work: Callable[[], bytes], *, repeatable: bool = False
    ) -> bytes:
        """Return the result of ``work``, which runs only if the key is new.

        Args:
            key: The client's key.
            operation: The operation's name.
            arguments: Digest of the arguments; one key can't stand for two requests.
            work: Runs the operation and returns its result as JSON.
            repeatable: Run it again when the first attempt was cut off.

        Raises:
            InvalidInput: When the key isn't one.
            Conflict: When the key was used for another request, or its first attempt was cut off.
            Unavailable: When the first attempt still runs; the same request can be sent again.
        """
        if not _KEY.match(key):
            raise InvalidInput(
                "the key can't be used",
                where="Idempotency-Key",
                allowed="8 to 200 letters, digits, '.', '_', ':' or '-'",
            )
        kept = self._claim(key, operation, arguments, repeatable=repeatable)
        if kept is not None:
            return kept
        try:
            result = work()
        except BaseException:
            # Refused or failed: the operation's own transaction has been rolled back, and the key is free again.
            with self._database.transaction() as connection:
                connection.execute(delete(idempotency).where(idempotency.c.key == key))
            raise
        with self._database.transaction() as connection:
            connection.execute(update(idempotency).where(idempotency.c.key == key).values(result=result))
        return result

    def prune(self) -> int:
        """Forget results that are older than seven days, and return how many."""
        with self._database.transaction() as connection:
            oldest = self._clock.now() - KEPT
            return connection.execute(delete(idempotency).where(idempotency.c.at < oldest)).rowcount

    def _claim(self, key: str, operation: str, arguments: str, *, repeatable: bool) -> bytes | None:
        try:
            with self._database.transaction() as connection:
                connection.execute(
                    insert(idempotency).values(
                        key=key,
                        operation=operation,
                        arguments=arguments,
                        boot=self._boot,
                        result=None,
                        at=self._clock.now(),
                    )
                )
        except (IntegrityError, Conflict):
            return self._kept(key, operation, arguments, repeatable=repeatable)
        return None

    def _kept(self, key: str, operation: str, arguments: str, *, repeatable: bool) -> bytes | None:
        with self._database.reading() as connection:
            row = connection.execute(select(idempotency).where(idempotency.c.key == key)).mappings().first()
        if row is None:
            raise Unavailable(
                "the first attempt with this key has just failed", where="Idempotency-Key", fix="send it again"
            )
        if (row["operation"], row["arguments"]) != (operation, arguments):
            raise Conflict("the key was used for another request", where="Idempotency-Key", fix="use a new key")
        if row["result"] is not None:
            return bytes(row["result"])
        if row["boot"] == self._boot:
            raise Unavailable(
                "the first attempt with this key still runs", where="Idempotency-Key", fix="send it again"
            )
        if repeatable and self._taken_over(key, row["boot"]):
            return None
        if repeatable:
            raise Unavailable("another attempt with this key runs now", where="Idempotency-Key", fix="send it again")
        raise Conflict(
            "the first attempt with this key was cut off",
            where="Idempotency-Key",
            fix="see in the journal what it did, and use a new key",
        )

    def _taken_over(self, key: str, boot: str) -> bool:
        """Make a key whose attempt was cut off this process's own; False when somebody else was faster."""
        own = update(idempotency).where(
            idempotency.c.key == key, idempotency.c.boot == boot, idempotency.c.result.is_(None)
        )
        with self._database.transaction() as connection:
            return connection.execute(own.values(boot=self._boot)).rowcount == 1
