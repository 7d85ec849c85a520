"""Bringing what waits in the outbox to the webhooks: signed, tried again with longer and longer pauses, at least once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import KilterError
from kilter.engines.outward import post
from kilter.engines.sql.database import Database
from kilter.registry.records import WebhookTest
from kilter.registry.tables import deliveries, webhooks

logger = logging.getLogger("kilter.registry")

ATTEMPTS = 10
_PAUSE = 2.0
_LONGEST = 3600.0
_HELD = timedelta(seconds=30)
_AT_ONCE = 4
_BATCH = 32
_LOOK = 0.5
_DONE = range(200, 300)


def signature(secret: str, delivery: str, timestamp: str, body: str) -> str:
    """Return the signature of a delivery, as MLflow's receivers check it: ``v1,`` and the HMAC-SHA256 in base 64."""
    signed = f"{delivery}.{timestamp}.{body}".encode()
    return f"v1,{base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()}"


def send(url: str, secret: str, delivery: str, body: str) -> WebhookTest:
    """Send one delivery and say what came of it; nothing is raised.

    Args:
        url: Where to.
        secret: Signs it, when there is one.
        delivery: Its id, the same in every attempt.
        body: What is told.
    """
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "kilter",
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": timestamp,
    }
    if secret:
        headers["X-MLflow-Signature"] = signature(secret, delivery, timestamp, body)
    try:
        answer = post(url, body.encode(), headers)
    except KilterError as error:
        return WebhookTest(success=False, error=error.message)
    return WebhookTest(success=answer.status in _DONE, status=answer.status, body=answer.body)


def pause_after(attempts: int) -> float:
    """Return how many seconds to wait after so many attempts before the one that failed just now."""
    pause: float = min(_PAUSE * 2 ** min(attempts, 20), _LONGEST)
    return pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


class Courier:
    """A thread that empties the outbox.

    Several servers may have one on one store: each takes a delivery by moving its time, and one that a server took and never
    brought is taken again half a minute later.

    Args:
        database: Where the outbox is.
        clock: This machine's time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="kilter-webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what is on its way; the rest waits for the next server."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def round(self) -> int:
        """Bring what is due, and return how many were tried."""
        taken = [row for row in self._due() if self._take(row)]
        if taken:
            with ThreadPoolExecutor(_AT_ONCE, "kilter-webhook") as pool:
                for row, outcome in zip(taken, pool.map(self._bring, taken), strict=True):
                    self._note(row, outcome)
        return len(taken)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                if not self.round():
                    self._ending.wait(_LOOK)
            except KilterError as error:
                logger.warning("webhooks wait: %s", error)
                self._ending.wait(_PAUSE)

    def _due(self) -> list[sa.Row[Any]]:
        chosen = (
            sa.select(deliveries, webhooks.c.url, webhooks.c.secret, webhooks.c.status)
            .join(webhooks, webhooks.c.id == deliveries.c.webhook)
            .where(deliveries.c.due_at <= self._clock.now(), webhooks.c.status == "ACTIVE")
            .order_by(deliveries.c.due_at, deliveries.c.id)
            .limit(_BATCH)
        )
        with self._database.reading() as connection:
            return list(connection.execute(chosen))

    def _take(self, row: sa.Row[Any]) -> bool:
        """Say whether a delivery is ours: nobody else moved its time."""
        mine = (deliveries.c.id == row.id) & (deliveries.c.due_at == row.due_at)
        with self._database.transaction() as connection:
            moved = deliveries.update().where(mine).values(due_at=self._clock.now() + _HELD)
            return connection.execute(moved).rowcount == 1

    def _bring(self, row: sa.Row[Any]) -> WebhookTest:
        return send(row.url, row.secret, row.key, row.body)

    def _note(self, row: sa.Row[Any], outcome: WebhookTest) -> None:
        of = deliveries.c.id == row.id
        attempts = row.attempts + 1
        error = (outcome.error or f"answered {outcome.status}")[:500]
        with self._database.transaction() as connection:
            if outcome.success:
                connection.execute(deliveries.delete().where(of))
                return
            logger.warning("webhook %s, attempt %d: %s", row.webhook, attempts, error)
            connection.execute(webhooks.update().where(webhooks.c.id == row.webhook).values(error=error))
            if attempts >= ATTEMPTS:
                connection.execute(deliveries.delete().where(of))
                failed = {"failed": webhooks.c.failed + 1}
                connection.execute(webhooks.update().where(webhooks.c.id == row.webhook).values(**failed))
                return
            due = self._clock.now() + timedelta(seconds=pause_after(row.attempts))
            connection.execute(deliveries.update().where(of).values(attempts=attempts, due_at=due))
