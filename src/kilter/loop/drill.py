"""A rehearsed rollback: everything that a rollback does to the endpoint, except that nobody gets another answer.

A rollback is a plan that names another champion; the fronts swap one pointer for another. The drill writes the plan that
stands now once more with one addition: the version that a rollback leads to must be in memory and answer a row before the
fronts take the plan up. Then it writes the plan as it was. Both ways are timed from the write until every front
serves it, which is what a rollback takes. Whatever else writes a plan meanwhile simply wins.
"""

from __future__ import annotations

import time
from datetime import datetime

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, Unavailable
from kilter.journal.records import Event
from kilter.journal.service import Journal
from kilter.loop.records import LoopState
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService

KIND = "RollbackDrilled"
_PATIENCE = 15.0
_LOOK = 0.01


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """A rehearsed rollback.

    Args:
        at: When.
        champion: The version that answered, before, during and after it.
        to: The version that a rollback would have led to.
        passed: Whether that version answered and every front moved there and back.
        there: Seconds from the write of the plan until every front served it.
        back: The same for the way back.
        reason: Why it failed, or empty.
        by: Who asked for it.
    """

    at: datetime
    champion: int
    to: int
    passed: bool
    there: float | None
    back: float | None
    reason: str = ""
    by: str = ""

    def sentence(self) -> str:
        """Return the drill as one line for people."""
        when = f"{self.at:%Y-%m-%d %H:%M}"
        if not self.passed or self.there is None or self.back is None:
            return f"failed on {when}, to v{self.to}: {self.reason}"
        return f"passed on {when}: to v{self.to} in {self.there * 1000:.0f} ms, back in {self.back * 1000:.0f} ms"


def way_back(state: LoopState) -> tuple[int, int]:
    """Return the champion and the version to which a rollback without a release in flight would lead.

    Raises:
        Conflict: When there is none, or a challenger has traffic: its rollback is no rehearsal.
    """
    release = state.release
    if release is not None and release.work in {"shadow", "canary", "promoting", "rolling_back"}:
        raise Conflict(
            f"a release is in {release.work}",
            where="drill",
            fix="wait for its end: while it runs, the champion itself is warm",
        )
    if state.champion is None or state.previous is None:
        raise Conflict(
            "no previous champion is loaded",
            where="drill",
            allowed="after a promotion, for as long as the one before stays loaded",
            fix="see `kilter models versions` for what was there",
        )
    return state.champion, state.previous


def rehearse(name: str, state: LoopState, endpoints: EndpointService, clock: Clock, by: str) -> Drill:
    """Rehearse the rollback of a loop's champion.

    Args:
        name: The loop.
        state: Where it stands.
        endpoints: Its plans.
        clock: Tells when.
        by: Who asks.

    Raises:
        Conflict: When there is nothing to rehearse, or the endpoint is about to serve something else.
        Unavailable: When no front serves it.
    """
    champion, to = way_back(state)
    moment = clock.now()
    plan = endpoints.plan(name)
    if plan.champion != champion or to not in plan.warm:
        raise Conflict(
            f"the endpoint is about to serve another plan than that of v{champion}", where="drill", fix="try again"
        )
    if not endpoints.status(name):
        raise Unavailable(
            "no front serves this endpoint", where="drill", fix="start one: `kilter serve` or `kilter up`"
        )

    def drilled(there: float | None, back: float | None, reason: str = "") -> Drill:
        passed = not reason
        return Drill(at=moment, champion=champion, to=to, passed=passed, there=there, back=back, reason=reason, by=by)

    generation, there, reason = _move(endpoints, plan, msgspec.structs.replace(plan, rehearsed=to))
    if generation is None:
        return drilled(None, None, reason)
    _, back, stuck = _move(endpoints, msgspec.structs.replace(plan, generation=generation, rehearsed=to), plan)
    return drilled(there, back, reason or stuck)


def last_drill(journal: Journal, loop: str) -> Drill | None:
    """Return a loop's latest drill, or None."""
    found: list[Event] = journal.events(limit=1, subject=loop, kind=KIND, newest=True)
    return msgspec.convert({**found[0].data, "at": found[0].at}, Drill) if found else None


def note(journal: Journal, connection: sa.Connection, loop: str, drill: Drill) -> None:
    """Write a drill into the journal, in the caller's transaction."""
    data = msgspec.to_builtins(drill)
    at = data.pop("at")
    journal.append(connection, KIND, loop, data, at=datetime.fromisoformat(at) if isinstance(at, str) else at)


def _move(endpoints: EndpointService, before: TrafficPlan, after: TrafficPlan) -> tuple[int | None, float | None, str]:
    """Write a plan in the place of another, and wait for the fronts.

    Returns:
        Its generation, None when it was not written; the seconds; why it did not come to it.
    """
    began = time.perf_counter()
    try:
        generation = endpoints.set_plan(after, instead_of=before.generation)
    except Conflict as error:
        return None, None, error.message
    while time.perf_counter() - began < _PATIENCE:
        found = endpoints.status(before.loop)
        if found and all(one.applied >= generation for one in found):
            return generation, time.perf_counter() - began, ""
        refused = [one.error for one in found if one.generation == generation and one.error]
        if refused:
            return generation, None, refused[0]
        time.sleep(_LOOK)
    return generation, None, f"not every front had moved after {_PATIENCE:g} s"
