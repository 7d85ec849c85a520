"""One thread for what is written all the time: what waits when it is free is done at once, and costs one commit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from kilter.core.errors import Unavailable

A = TypeVar("A")
R = TypeVar("R")


class Groups(Generic[A, R]):
    """Takes requests straight from the event loop and does those that wait as one group.

    A thread that is free begins at once, with one request if only one is there: nothing waits on a timer. Each group wakes the event
    loop once, however many it answers.

    Args:
        act: Does a group and returns a result for each of its requests, in their order; runs in the thread. What it raises, all get.
        end: Called in the thread when it ends.
        most: How many may wait; beyond that the caller is told to come back.
        together: How many are done at once at most.

    Attributes:
        act: As above.
    """

    def __init__(
        self,
        act: Callable[[Sequence[A]], Sequence[R]],
        end: Callable[[], None],
        *,
        most: int = 256,
        together: int = 64,
    ) -> None:
        self.act = act
        self._end = end
        self._most = most
        self._together = together
        self._taken = 0
        self._arrived: list[_Asked[A, R]] = []
        self._waiting: SimpleQueue[list[_Asked[A, R]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, request: A) -> asyncio.Future[R]:
        """Hand a request to the thread; what comes back is set when its group is done.

        Raises:
            Unavailable: When too many wait already, or the server is ending.
        """
        if self._closed:
            raise Unavailable("the server is ending", fix="try again in a second")
        if self._taken >= self._most:
            raise Unavailable(
                "the server is busy", allowed=f"{self._most} requests at once", fix="try again in a second"
            )
        self._taken += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kilter-writer", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        if not self._arrived:
            # At the end of this turn of the loop: a thread that woke now would only wait for the interpreter, and what else arrives
            # in this turn goes along.
            loop.call_soon(self._hand_over)
        self._arrived.append(_Asked(request, answer, loop))
        return answer

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._waiting.put(arrived)

    def close(self) -> None:
        """Do what waits, and take nothing more."""
        self._closed = True
        if self._thread is not None:
            if self._arrived:
                self._hand_over()
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            going = True
            while going and (arrived := self._waiting.get()) is not None:
                going = self._gather(arrived)
                for begin in range(0, len(arrived), self._together):
                    self._do(arrived[begin : begin + self._together])
        finally:
            self._end()

    def _gather(self, arrived: list[_Asked[A, R]]) -> bool:
        """Add what else waits by now, and say whether more may come."""
        with contextlib.suppress(Empty):
            while len(arrived) < self._together:
                more = self._waiting.get_nowait()
                if more is None:
                    return False
                arrived += more
        return True

    def _do(self, group: list[_Asked[A, R]]) -> None:
        results: Sequence[R | BaseException]
        try:
            results = self.act([asked.request for asked in group])
        except BaseException as error:  # noqa: BLE001 - it is the callers'
            results = [error] * len(group)
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            group[0].loop.call_soon_threadsafe(self._settle, group, results)

    def _settle(self, group: Sequence[_Asked[A, R]], results: Sequence[R | BaseException]) -> None:
        # Counted until the work ends, not until a caller goes away: a cancelled request is still done.
        self._taken -= len(group)
        for asked, result in zip(group, results, strict=True):
            if asked.answer.done():
                continue
            if isinstance(result, BaseException):
                asked.answer.set_exception(result)
            else:
                asked.answer.set_result(result)


class _Asked(Generic[A, R]):
    """A request that waits.

    Args:
        request: What is asked.
        answer: Where the result is set.
        loop: Whose it is.
    """

    __slots__ = ("answer", "loop", "request")

    def __init__(self, request: A, answer: asyncio.Future[R], loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.answer = answer
        self.loop = loop
