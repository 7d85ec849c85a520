"""What a front looks after beside serving: keys and rules as they are in the store now, and consumers that it tells there.

A store that can't be reached changes nothing: keys that were known hold on, rules hold on, counts wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from kilter.core.clock import Clock
from kilter.core.errors import KilterError
from kilter.engines.sql.database import Database
from kilter.serving.access.consumers import ConsumerService
from kilter.serving.access.keys import KeyService
from kilter.serving.access.reception import Reception
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.recording.redaction import RecordingService

log = logging.getLogger("kilter.serving")
T = TypeVar("T")

_LOOK_SECONDS = 1.0
_TELL_EVERY = 5


class Upkeep:
    """Keeps a front at the store's keys and rules.

    Args:
        database: The store's metadata.
        clock: The time.
        reception: Who comes.
        predictions: The prediction log, to which the rules apply.
        thread: Where SQL is asked.
    """

    def __init__(
        self, database: Database, clock: Clock, reception: Reception, predictions: PredictionLog, thread: Executor
    ) -> None:
        self._keys = KeyService(database, clock)
        self._rules = RecordingService(database, clock)
        self._consumers = ConsumerService(database, clock)
        self._reception = reception
        self._predictions = predictions
        self._thread = thread
        self._reachable = True

    async def look(self) -> bool:
        """Take the keys and rules as they are now; say whether the store could be asked."""
        try:
            keys, rules = await self._blocking(lambda: (self._keys.all(), self._rules.redactors()))
        except KilterError as error:
            if self._reachable:
                log.warning("the keys can't be read, those that are known hold on: %s", error)
            self._reachable = False
            return False
        self._reachable = True
        self._reception.keys.know(keys)
        self._predictions.redactors = rules
        return True

    async def tell(self) -> None:
        """Add the consumers that were seen to the store's register."""
        taken = self._reception.seen.take()
        if not taken:
            return
        try:
            await self._blocking(lambda: self._consumers.add(taken))
        except KilterError as error:
            log.warning("the consumers can't be written, they wait: %s", error)
            self._reception.seen.put_back(taken)

    async def run(self) -> None:
        """Look and tell until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            turn += 1
            try:
                await self.look()
                if turn % _TELL_EVERY == 0:
                    await self.tell()
            except Exception:  # the front serves on, whatever is wrong with this
                log.exception("keys, rules and consumers could not be looked after")

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
