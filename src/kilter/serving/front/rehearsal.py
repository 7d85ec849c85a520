"""Rehearsing the return of a version: it answers a row before the plan that rehearses it is taken up."""

from __future__ import annotations

import asyncio
import math
from array import array

from kilter.core.errors import Unavailable
from kilter.serving.answering.batching import Outcome
from kilter.serving.front.active import Loaded

_SECONDS = 5.0


async def rehearse(model: Loaded) -> None:
    """Ask a version's workers for the answer to a row of zeros; no cache answers in their place, and nobody sees it.

    Raises:
        Unavailable: When it is not in memory, gives no answer in time, or none that could be given to anybody.
    """
    where = f"drill of v{model.version}"
    if not model.pool.ready:
        raise Unavailable("the version is not in memory, or its worker has died", where=where)
    answered: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def done(values: bytes | None, _outcome: Outcome) -> None:
        if not answered.done():
            answered.set_result(values)

    model.pool.ask(bytes(8 * model.reader.width), 1, done)
    try:
        values = await asyncio.wait_for(answered, _SECONDS)
    except TimeoutError:
        raise Unavailable(f"the version did not answer within {_SECONDS:g} s", where=where) from None
    found = array("d", values or b"")
    if len(found) != model.reader.outputs or not all(map(math.isfinite, found)):
        raise Unavailable("the version gave no answer", where=where)
