"""What was changed of registered models: written with every change, and never changed itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from kilter.core.errors import NotFound
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.registry.events import tell
from kilter.registry.records import Change, What
from kilter.registry.rules import check_text
from kilter.registry.tables import changes, registered

_MOST = 10_000
_LONGEST = 2_000
_WHO = 200


def note(
    connection: sa.Connection,
    model: sa.Row[Any],
    what: What,
    at: datetime,
    *,
    field: str = "",
    version: int | None = None,
    before: str | None = None,
    after: str | None = None,
    by: str = "",
    reason: str = "",
) -> None:
    """Write who changed what, in the transaction that changes it, and tell it to the webhooks that listen.

    Args:
        connection: The transaction.
        model: The model's row, as it was before.
        what: What kind of thing was changed.
        at: When.
        field: Which one.
        version: The version; None for the model itself.
        before: What it was; a long text is cut.
        after: What it became; a long text is cut.
        by: Who did it.
        reason: Why.
    """
    connection.execute(
        changes.insert().values(
            model=model.id,
            name=model.name,
            version=version,
            what=what,
            field=field,
            before=None if before is None else before[:_LONGEST],
            after=None if after is None else after[:_LONGEST],
            by=check_text(by, "by", _WHO),
            reason=check_text(reason, "reason"),
            at=at,
        )
    )
    tell(connection, model, what, at, field, version, before, after)


class ChangeOperations:
    """The operations on what was changed."""

    _database: Database

    @operation
    def changes(self, model: str, version: int | None = None, after: int = 0, limit: int = 1000) -> tuple[Change, ...]:
        """Return who changed what of a model, in order of time; also of one that is deleted or was renamed.

        Args:
            model: Its name, now or then.
            version: Only of this version.
            after: Only what came after the change of this id.
            limit: At most so many.

        Raises:
            NotFound: When no model was ever named so.
        """
        with self._database.reading() as connection:
            known = sa.select(changes.c.model).where(changes.c.name == model)
            now = sa.select(registered.c.id).where(registered.c.name == model)
            of = changes.c.model.in_(known) | changes.c.model.in_(now)
            query = sa.select(changes).where(of, changes.c.id > after)
            if version is not None:
                query = query.where(changes.c.version == version)
            rows = connection.execute(query.order_by(changes.c.id).limit(min(max(limit, 1), _MOST))).all()
            if not rows and connection.execute(now).first() is None and connection.execute(known).first() is None:
                raise NotFound(f"no model is named {model!r}", where="models", fix="see `kilter models list`")
        return tuple(change_of(row) for row in rows)


def change_of(row: sa.Row[Any]) -> Change:
    """Return a change from its row."""
    return Change(
        id=row.id,
        model=row.name,
        version=row.version,
        what=row.what,
        field=row.field,
        before=row.before,
        after=row.after,
        by=row.by,
        reason=row.reason,
        at=row.at,
    )
