"""Who is told about changes of the registry: MLflow's webhooks."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.outward import check_url
from kilter.engines.sql.database import Database
from kilter.engines.sql.paging import Place
from kilter.operations.table import operation
from kilter.registry.delivery import send
from kilter.registry.events import EVENTS, example
from kilter.registry.records import HookStatus, Webhook, WebhookPage, WebhookTest
from kilter.registry.rules import check_text
from kilter.registry.tables import deliveries, webhooks

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z")
_MOST = 1_000
_SECRET = 1_000
_URL = 2_000


class WebhookOperations:
    """The operations on webhooks."""

    _database: Database
    _clock: Clock

    @operation(writes=True)
    def create_webhook(
        self,
        name: str,
        url: str,
        events: tuple[str, ...],
        description: str = "",
        secret: str = "",
        status: HookStatus = "ACTIVE",
    ) -> Webhook:
        """Tell a URL about events from now on.

        Args:
            name: What people call it.
            url: ``https://...``; one in this network only where ``KILTER_WEBHOOKS_LOCAL`` is 1.
            events: ``model_version.created``, ``model_version_alias.created``, ...
            description: In people's words.
            secret: Signs what is sent; it is kept and never shown.
            status: ``ACTIVE`` or ``DISABLED``.

        Raises:
            InvalidInput: When the name, the URL or an event can't be one.
        """
        identity, now = str(uuid.uuid4()), self._clock.now()
        row = {
            "id": identity,
            "name": _name(name),
            "url": check_url(check_text(url, "url", _URL)),
            "events": list(_events(events)),
            "description": check_text(description, "description"),
            "secret": check_text(secret, "secret", _SECRET),
            "status": status,
            "dropped": 0,
            "failed": 0,
            "error": "",
            "created_at": now,
            "changed_at": now,
        }
        with self._database.transaction() as connection:
            connection.execute(webhooks.insert().values(**row))
            return _webhook(_row(connection, identity))

    @operation
    def webhook(self, id: str) -> Webhook:  # noqa: A002 - the word of every client
        """Return a webhook, without its secret.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            return _webhook(_row(connection, id))

    @operation
    def webhooks(self, limit: int = 100, cursor: str | None = None) -> WebhookPage:
        """Return webhooks, the newest first, page by page."""
        if not 1 <= limit <= _MOST:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {_MOST}")
        place = Place("webhooks")
        start = place.start(cursor)
        query = sa.select(webhooks).order_by(webhooks.c.created_at.desc(), webhooks.c.id)
        with self._database.reading() as connection:
            rows = connection.execute(query.offset(start).limit(limit + 1)).all()
        found = tuple(_webhook(row) for row in rows[:limit])
        return WebhookPage(webhooks=found, cursor=place.cursor(start + limit) if len(rows) > limit else None)

    @operation(writes=True)
    def change_webhook(
        self,
        id: str,  # noqa: A002 - the word of every client
        name: str | None = None,
        url: str | None = None,
        events: tuple[str, ...] | None = None,
        description: str | None = None,
        secret: str | None = None,
        status: HookStatus | None = None,
    ) -> Webhook:
        """Change a webhook; what isn't said stays.

        Raises:
            NotFound: When there is none.
            InvalidInput: When the name, the URL or an event can't be one.
        """
        said: dict[str, Any] = {
            "name": None if name is None else _name(name),
            "url": None if url is None else check_url(check_text(url, "url", _URL)),
            "events": None if events is None else list(_events(events)),
            "description": None if description is None else check_text(description, "description"),
            "secret": None if secret is None else check_text(secret, "secret", _SECRET),
            "status": status,
        }
        values: dict[str, Any] = {field: value for field, value in said.items() if value is not None}
        with self._database.transaction() as connection:
            _row(connection, id)
            values["changed_at"] = self._clock.now()
            connection.execute(webhooks.update().where(webhooks.c.id == id).values(**values))
            return _webhook(_row(connection, id))

    @operation(writes=True)
    def delete_webhook(self, id: str) -> None:  # noqa: A002 - the word of every client
        """Delete a webhook, and what waits for it.

        Raises:
            NotFound: When there is none.
        """
        with self._database.transaction() as connection:
            _row(connection, id)
            connection.execute(deliveries.delete().where(deliveries.c.webhook == id))
            connection.execute(webhooks.delete().where(webhooks.c.id == id))

    @operation(writes=True)
    def test_webhook(self, id: str, event: str = "") -> WebhookTest:  # noqa: A002 - the word of every client
        """Send made-up data to a webhook now, and return what it answers.

        Args:
            id: The webhook.
            event: Which event; its first, if not said.

        Raises:
            NotFound: When there is none.
            InvalidInput: When there is no such event.
        """
        with self._database.reading() as connection:
            row = _row(connection, id)
        chosen = _events((event,))[0] if event else row.events[0]
        return send(row.url, row.secret, str(uuid.uuid4()), example(chosen))


def _row(connection: sa.Connection, identity: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(webhooks).where(webhooks.c.id == identity)).first()
    if row is None:
        raise NotFound(f"there is no webhook {identity[:60]!r}", where="webhooks")
    return row


def _webhook(row: sa.Row[Any]) -> Webhook:
    return Webhook(
        id=row.id,
        name=row.name,
        url=row.url,
        events=tuple(row.events),
        description=row.description,
        status=row.status,
        signed=bool(row.secret),
        dropped=row.dropped,
        failed=row.failed,
        error=row.error,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


def _name(name: str) -> str:
    if not _NAME.match(name):
        raise InvalidInput(
            f"{name[:70]!r} is not a webhook's name",
            where="name",
            allowed="1 to 63 lower-case letters, digits, dots, underscores and hyphens, the ends letters or digits",
        )
    return name


def _events(events: Sequence[str]) -> tuple[str, ...]:
    known = [f"{entity}.{action}" for entity, actions in EVENTS.items() for action in actions]
    wrong = [event for event in events if event not in known]
    if wrong or not events:
        raise InvalidInput(
            f"{', '.join(wrong)[:100] or 'nothing'} is no event", where="events", allowed=", ".join(known)
        )
    return tuple(dict.fromkeys(events))
