"""The rules for what people ask of a loop: pause, resume, roll back, promote."""

from __future__ import annotations

from kilter.loop.records import PauseRequested, PromoteRequested, ResumeRequested, RollbackRequested
from kilter.loop.rules.freeze import freeze_reason, is_frozen
from kilter.loop.rules.release import count_rejection, promote, return_champion, take_back
from kilter.loop.rules.turn import Turn


def pause_requested(turn: Turn, event: PauseRequested) -> None:
    """Start nothing new, and take the release in flight back."""
    if turn.state.paused is not None:
        return
    reason = f"paused by {event.by}: {event.reason}"
    turn.change(paused=reason, requested="")
    release = turn.state.release
    if release is None or not take_back(turn, release, "inconclusive", reason):
        return
    if release.trigger == "declaration" and release.outcome is None:
        turn.change(rebuild=True)  # the declaration still asks for it once the loop is resumed


def resume_requested(turn: Turn, event: ResumeRequested) -> None:  # noqa: ARG001 - all rules of events look alike
    """Let the loop go on, with a clean slate of rejections and failures."""
    turn.change(paused=None, rejections=0, failures=0)


def rollback_requested(turn: Turn, event: RollbackRequested) -> None:
    """Take the release in flight back or, without one, the champion back to the one before."""
    state = turn.state
    reason = f"rolled back by {event.by}: {event.reason}"
    if state.release is not None:
        ended = state.release.outcome is not None
        if take_back(turn, state.release, "rolled_back", reason):
            if not ended:
                count_rejection(turn)
        elif state.champion is None:
            turn.notify(
                f"{state.policy.loop} was not rolled back", f"{event.by} asked for it, but there is no champion before."
            )
    elif state.champion is not None and state.previous is not None:
        return_champion(turn, state.champion, state.previous, reason)
    else:
        turn.notify(
            f"{state.policy.loop} was not rolled back",
            f"{event.by} asked for it, but nothing is in flight and no previous champion is loaded.",
        )


def promote_requested(turn: Turn, event: PromoteRequested) -> None:
    """End the bake of a release in flight that passed its gates and was approved."""
    state, release = turn.state, turn.state.release
    if release is None or release.version != event.version:
        refusal = "it is not in flight"
    elif release.work in {"shadow", "canary", "held"} and is_frozen(state, turn.now):
        refusal = f"releases are frozen ({freeze_reason(state, turn.now)})"
    elif release.work in {"shadow", "canary"}:
        promote(turn, release, event.version)
        return
    elif release.work == "promoting":
        return
    elif release.work == "approval":
        refusal = "it waits for an approval first"
    elif release.work == "gating":
        refusal = "its gates are not judged yet"
    else:
        refusal = "it is being taken back"
    turn.notify(f"v{event.version} of {state.policy.loop} was not promoted", f"{event.by} asked for it, but {refusal}.")
