"""The rules for versions from another environment: they passed their gates there, and take the rest of the way here."""

from __future__ import annotations

from kilter.loop.records import Arrival, Release, VersionArrived
from kilter.loop.rules.release import gates_passed
from kilter.loop.rules.turn import Turn


def version_arrived(turn: Turn, event: VersionArrived) -> None:
    """Remember the version until nothing else is in flight; a newer one takes the place of one that waits."""
    before = turn.state.arrival
    if event.version <= turn.state.arrived:
        return
    turn.mark(event.version, "candidate", f"promoted from {event.origin}")
    if before is not None:
        turn.mark(before.version, "inconclusive", f"v{event.version} was promoted before its turn came")
    turn.change(arrival=Arrival(version=event.version, origin=event.origin), arrived=event.version)


def take_arrival(turn: Turn) -> None:
    """Standing rule: release the version that arrived, before any training, when nothing is in flight; never while paused."""
    state = turn.state
    arrival = state.arrival
    if arrival is None or state.paused is not None or state.release is not None:
        return
    release = Release(
        work="gating", trigger=f"promoted from {arrival.origin}", policy=state.policy, version=arrival.version
    )
    turn.change(arrival=None, release=release)
    gates_passed(turn, release, arrival.version)
