"""A bounded pool of threads: rooms are synchronous, the event loop is not, and a queue without an end is a lie."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from kilter.core.errors import Unavailable

R = TypeVar("R")


class Pool:
    """Runs functions beside the event loop.

    Args:
        threads: How many run at once.
        waiting: How many more may wait; beyond that the caller is told to come back.
    """

    def __init__(self, threads: int = 8, waiting: int = 128) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="kilter-server")
        self._most = threads + waiting
        self._taken = 0

    async def run(self, work: Callable[[], R]) -> R:
        """Run ``work`` in a thread and return its result.

        Raises:
            Unavailable: When too many wait already.
        """
        if self._taken >= self._most:
            raise Unavailable(
                "the server is busy", allowed=f"{self._most} requests at once", fix="try again in a second"
            )
        self._taken += 1
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()

        def settle(result: R | None, error: BaseException | None) -> None:
            # Counted until the work ends, not until the caller goes away: a cancelled request's thread is still taken.
            self._taken -= 1
            if answer.done():
                return
            if error is None:
                answer.set_result(cast("R", result))
            else:
                answer.set_exception(error)

        def act() -> None:
            try:
                result, error = work(), None
            except BaseException as raised:  # noqa: BLE001 - it is the caller's
                result, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(settle, result, error)

        # The executor's own bridge to the loop takes three turns of it for what one can do.
        self._executor.submit(act)
        return await answer

    def close(self) -> None:
        """Wait for what runs, and take nothing more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
