"""The reception of a front: who comes, whether they may, the trace they belong to, and that they were here.

Every protocol asks here, whatever it speaks: with the caller's credentials and trace headers when a request comes, with the
endpoint when it is known, and once more when it was answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kilter.core.clock import Clock
from kilter.serving.access.consumers import Seen
from kilter.serving.access.keys import KeyRing
from kilter.serving.telemetry.tracing import Context, begin, parse

if TYPE_CHECKING:
    from kilter.serving.telemetry.otlp import Exporter


class Reception:
    """Who comes to a front.

    Args:
        token: The front's token, or None.
        clock: The time.
        now: The event loop's time.
        exporter: Sends spans; None for none.
        share: The share of requests that begin a trace here, of those that come without one.
    """

    def __init__(
        self,
        token: str | None,
        clock: Clock,
        now: Callable[[], float],
        exporter: Exporter | None = None,
        share: float = 1.0,
    ) -> None:
        self.keys = KeyRing(token, clock)
        self.seen = Seen()
        self.exporter = exporter
        self._now = now
        self._share = share

    def trace(self, parent: bytes | None, state: bytes | None = None) -> Context | None:
        """Return the place of a request in a trace, or None when it has none.

        Args:
            parent: The header ``traceparent``, or None.
            state: The header ``tracestate``, or None.
        """
        if parent is not None:
            found = parse(parent, state)
            if found is not None:
                return found
        if self.exporter is not None and (self._share >= 1.0 or random.random() < self._share):  # noqa: S311 - no secret
            return begin(sampled=True)
        return None

    def answered(
        self,
        loop: str,
        client: str,
        agent: bytes,
        protocol: str,
        rows: int,
        status: int,
        arrived: float,
        context: Context | None,
    ) -> None:
        """Note that a request was answered.

        Args:
            loop: The endpoint.
            client: The caller's name, or empty.
            agent: Its User-Agent.
            protocol: The protocol it spoke.
            rows: How many rows it had.
            status: The status of the answer.
            arrived: When it arrived, on the loop's clock.
            context: Its place in a trace, or None.
        """
        self.seen.saw(loop, client, agent, protocol, rows)
        if context is not None and context.sampled and self.exporter is not None:
            self.exporter.request(context, loop, protocol, status, arrived, self._now(), rows)

    def step(
        self,
        name: str,
        contexts: Sequence[Context | None],
        since: float,
        until: float,
        attributes: dict[str, str | int],
    ) -> None:
        """Note that a step was done for requests; of those without a trace nothing is noted."""
        if self.exporter is not None:
            sampled = [one for one in contexts if one is not None and one.sampled]
            if sampled:
                self.exporter.step(name, sampled, since, until, attributes)
