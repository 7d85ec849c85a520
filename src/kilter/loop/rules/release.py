"""The rules of a release: from the gates over shadow and canary to the champion, and every way back."""

from __future__ import annotations

from kilter.loop.records import (
    Approved,
    CanaryJudged,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    Promote,
    Release,
    RollBack,
    SetTraffic,
    ShadowJudged,
    Stage,
    TrafficSet,
)
from kilter.loop.rules.freeze import is_frozen
from kilter.loop.rules.turn import TRAFFIC, Turn, later

SHORTEST_LOOK = 60.0
"""Seconds between two looks at a shadow at the least, however short its bake."""

UNSEEN = frozenset({"training", "gating", "approval", "held"})
"""The works in which the endpoint knows nothing of the challenger."""

# ---------------------------------------------------------------- gates


def judge_gates(turn: Turn, release: Release, version: int) -> None:
    """Begin with the gates of a trained version."""
    turn.change_release(release, work="gating", version=version)
    turn.ask(
        JudgeGates(
            id=turn.number(),
            version=version,
            champion=turn.state.champion,
            spec=release.policy.spec,
            at=turn.now,
        )
    )


def gates_judged(turn: Turn, event: GatesJudged) -> None:
    """``pass`` goes on to the approval or the first step; anything else ends the release."""
    entry = turn.find(event.action)
    release = turn.state.release
    if entry is None or not isinstance(entry.action, JudgeGates) or entry.action.version != event.version:
        return
    turn.drop(entry)
    if release is None or release.version != event.version:
        return
    if event.verdict == "pass":
        gates_passed(turn, release, event.version)
    else:
        weak = [finding.sentence() for finding in event.findings if finding.verdict != "pass"]
        gates_refused(turn, event.version, event.verdict == "fail", "; ".join(weak) or "no gate could be judged")


def gates_passed(turn: Turn, release: Release, version: int) -> None:
    """Mark the version gated, and wait for the owner where the policy says so."""
    turn.mark(version, "gated", "all gates passed")
    if release.outcome is not None:
        turn.mark(version, release.outcome, release.reason)
        turn.end_release()
    elif release.policy.approval == "owner":
        turn.change_release(release, work="approval", since=turn.now)
        turn.notify(
            f"v{version} of {turn.state.policy.loop} waits for your approval",
            f"It was trained because of: {release.trigger}. All its gates passed; it gets no traffic before you agree.",
        )
    else:
        first_step(turn, release, version)


def gates_refused(turn: Turn, version: int, failed: bool, reason: str) -> None:
    """End a release that lost at its gates, or could not show that it won."""
    turn.mark(version, "rejected" if failed else "inconclusive", f"gates: {reason}")
    turn.end_release()
    count_rejection(turn)


def approved(turn: Turn, event: Approved) -> None:
    """The owner agrees: the first step begins."""
    release = turn.state.release
    if release is not None and release.work == "approval" and release.version == event.version:
        first_step(turn, release, event.version)


# ---------------------------------------------------------------- steps


def first_step(turn: Turn, release: Release, version: int) -> None:
    """Begin with the shadow, else with the canary; with nobody to compare with, or nothing to do, promote.

    In a freeze it waits, and begins when that is over.
    """
    if is_frozen(turn.state, turn.now):
        turn.change_release(release, work="held", since=turn.now, due=None)
    elif turn.state.champion is None:
        promote(turn, release, version)
    elif release.policy.shadow_bake is not None:
        _serve(turn, release, version, SetTraffic(id=turn.number(), champion=turn.state.champion, mode="shadow"))
    else:
        first_canary_step(turn, release, version)


def first_canary_step(turn: Turn, release: Release, version: int) -> None:
    """Begin with the canary's first share, or promote where no canary is declared."""
    if release.policy.canary_steps:
        canary_step(turn, release, version, 0)
    else:
        promote(turn, release, version)


def go_on(turn: Turn) -> None:
    """Standing rule: begin what a freeze has held, once it is over."""
    release = turn.state.release
    if release is None or release.version is None or is_frozen(turn.state, turn.now):
        return
    if release.work == "held":
        first_step(turn, release, release.version)
    elif release.work == "shadow" and release.passed:
        first_canary_step(turn, release, release.version)


def canary_step(turn: Turn, release: Release, version: int, step: int) -> None:
    """Give the challenger the share of this step."""
    champion = turn.state.champion
    if champion is None:  # nobody to share with: cannot happen while a canary runs
        return
    share = release.policy.canary_steps[step]
    traffic = SetTraffic(id=turn.number(), champion=champion, mode="canary", share=share)
    _serve(turn, release, version, traffic, step=step)


def _serve(turn: Turn, release: Release, version: int, traffic: SetTraffic, step: int = 0) -> None:
    work = "canary" if traffic.mode == "canary" else "shadow"
    turn.change_release(release, work=work, step=step, passed=False, since=None, due=None)
    turn.ask(
        SetTraffic(
            id=traffic.id,
            champion=traffic.champion,
            challenger=version,
            mode=traffic.mode,
            share=traffic.share,
            warm=turn.warm(),
        )
    )


def promote(turn: Turn, release: Release, version: int) -> None:
    """Move the alias and all traffic to the version."""
    turn.change_release(release, work="promoting", passed=False, since=None, due=None)
    turn.ask(Promote(id=turn.number(), version=version, previous=turn.state.champion))


def examine_shadow(turn: Turn) -> None:
    """Standing rule: look at a shadow at the end of its bake, and again until its limit."""
    release = turn.state.release
    if release is None or release.work != "shadow" or not _due(turn, release) or turn.awaits(JudgeShadow):
        return
    if release.version is None or release.since is None or turn.state.champion is None:
        return
    look = release.look + 1
    turn.change_release(release, look=look)
    turn.ask(
        JudgeShadow(
            id=turn.number(),
            version=release.version,
            champion=turn.state.champion,
            look=look,
            since=release.since,
            at=turn.now,
        )
    )


def shadow_judged(turn: Turn, event: ShadowJudged) -> None:
    """``pass`` goes on to the canary, ``fail`` ends the release, and an open look is repeated until the limit."""
    entry = turn.find(event.action)
    if entry is None or not isinstance(entry.action, JudgeShadow) or entry.action.version != event.version:
        return
    turn.drop(entry)
    release = turn.state.release
    if release is None or release.work != "shadow" or release.version != event.version:
        return
    if event.verdict == "pass" and is_frozen(turn.state, turn.now):
        turn.change_release(release, passed=True, due=None)
    elif event.verdict == "pass":
        first_canary_step(turn, release, event.version)
    elif event.verdict == "fail":
        withdraw_shadow(turn, release, "rejected", event.finding.sentence())
        count_rejection(turn)
    else:
        look_again(turn, release, event.finding.sentence())


def look_again(turn: Turn, release: Release, reason: str) -> None:
    """Wait a quarter of the bake for the next look, the last of which is at the limit; then give up."""
    since = turn.now if release.since is None else release.since
    end = later(since, release.policy.shadow_limit)
    if turn.now >= end:
        withdraw_shadow(turn, release, "inconclusive", f"still open at its limit: {reason}")
        count_rejection(turn)
    else:
        pause = max((release.policy.shadow_bake or 0.0) / 4, SHORTEST_LOOK)
        turn.change_release(release, due=min(later(turn.now, pause), end))


def examine_canary(turn: Turn) -> None:
    """Standing rule: go on at the end of a step's bake; after the last step, promote on proof, or give up at the limit.

    In a freeze it only gives up.
    """
    release = turn.state.release
    if release is None or release.work != "canary" or release.version is None or not _due(turn, release):
        return
    last = release.step + 1 >= len(release.policy.canary_steps)
    if not last or release.evidence == "pass":
        if is_frozen(turn.state, turn.now):
            return
        if last:
            promote(turn, release, release.version)
        else:
            canary_step(turn, release, release.version, release.step + 1)
    elif release.due is not None and turn.now >= later(release.due, release.policy.canary_limit):
        roll_back(turn, release, "inconclusive", "canary: no proof either way within its limit")
        count_rejection(turn)


def canary_judged(turn: Turn, event: CanaryJudged) -> None:
    """A breach rolls back at once, whatever is pending; a proof has to stand at the end of the last step."""
    release = turn.state.release
    if release is None or release.version != event.version or release.work not in {"canary", "promoting"}:
        return
    if event.verdict == "fail" and turn.state.champion is not None:
        reason = event.finding.sentence()
        roll_back(turn, release, "rolled_back", reason)
        turn.notify(f"v{event.version} of {turn.state.policy.loop} was rolled back", reason)
        count_rejection(turn)
    elif event.verdict != release.evidence and release.work == "canary":
        turn.change_release(release, evidence=event.verdict)


def _due(turn: Turn, release: Release) -> bool:
    return release.due is not None and turn.now >= release.due


# ---------------------------------------------------------------- the endpoint's answers


def traffic_set(turn: Turn, event: TrafficSet) -> None:
    """The endpoint serves as it was asked to."""
    action = turn.answered(event, TRAFFIC)
    release = turn.state.release
    if action is None or release is None or release.version is None:
        return  # a duplicate, or the previous champion was unloaded
    if isinstance(action, Promote):
        _promoted(turn, release, action)
    elif isinstance(action, RollBack) and action.version == turn.state.champion:
        _champion_returned(turn, action, release.reason)
    elif release.work == "rolling_back":
        turn.end_release()
    elif isinstance(action, SetTraffic) and action.mode != "solo":
        _step_begun(turn, release, action, release.version)


def _step_begun(turn: Turn, release: Release, action: SetTraffic, version: int) -> None:
    if action.mode == "shadow":
        bake = release.policy.shadow_bake or 0.0
        turn.mark(version, "shadow", f"sees the traffic of v{action.champion} without answering")
    else:
        bake = release.policy.canary_bake
        if release.step == 0:
            turn.mark(version, "canary", f"answers {action.share} % of the traffic")
    turn.change_release(release, since=turn.now, due=later(turn.now, bake))


def _promoted(turn: Turn, release: Release, action: Promote) -> None:
    until = None if action.previous is None else later(turn.now, release.policy.keep_warm)
    if action.previous is not None:
        turn.mark(action.previous, "retired", f"replaced by v{action.version}; stays loaded as the way back")
    turn.mark(action.version, "champion", f"promoted ({release.trigger})")
    turn.change(
        champion=action.version,
        previous=action.previous,
        previous_until=until,
        release=None,
        alarms=(),  # they concerned the champion that has left
        rejections=0,
    )


def _champion_returned(turn: Turn, action: RollBack, reason: str) -> None:
    turn.mark(action.version, "rolled_back", reason)
    turn.mark(action.to, "champion", f"took over again from v{action.version}: {reason}")
    turn.change(champion=action.to, previous=None, previous_until=None, release=None, alarms=())


def unload_previous(turn: Turn) -> None:
    """Standing rule: unload the previous champion once its time is over and no challenger is being compared.

    A paused loop keeps its way back: whoever paused it may be about to take that way.
    """
    state = turn.state
    if state.paused is not None:
        return
    if state.previous_until is None or turn.now < state.previous_until or state.champion is None:
        return
    if state.release is not None and state.release.work not in UNSEEN:
        return
    if turn.awaits(TRAFFIC):
        return
    turn.change(previous=None, previous_until=None)
    turn.ask(SetTraffic(id=turn.number(), champion=state.champion))


# ---------------------------------------------------------------- ways back


def take_back(turn: Turn, release: Release, stage: Stage, reason: str) -> bool:
    """Stop a release, whatever it is at.

    Args:
        turn: The present turn.
        release: The release in flight.
        stage: What its version is marked as.
        reason: Why.

    Returns:
        False when it cannot be stopped: it is on its way back already, or it is becoming the first champion.
    """
    version = release.version
    if release.work in {"training", "gating"}:
        _withdraw_work(turn, release, stage, reason)
    elif release.work in {"approval", "held"} and version is not None:
        turn.mark(version, stage, reason)
        turn.end_release()
    elif release.work == "shadow":
        withdraw_shadow(turn, release, stage, reason)
    elif release.work in {"canary", "promoting"} and turn.state.champion is not None:
        roll_back(turn, release, "rolled_back", reason)
    else:
        return False
    return True


def _withdraw_work(turn: Turn, release: Release, stage: Stage, reason: str) -> None:
    """Let a training or gating that runs come to its end; one that waits for its next attempt ends now."""
    if release.outcome is not None:
        return
    waiting = [entry for entry in turn.state.pending if entry.not_before is not None]
    for entry in waiting:
        if not isinstance(entry.action, TRAFFIC):
            turn.drop(entry)
            if release.version is not None:
                turn.mark(release.version, stage, reason)
            turn.end_release()
            return
    turn.change_release(release, outcome=stage, reason=reason)


def withdraw_shadow(turn: Turn, release: Release, stage: Stage, reason: str) -> None:
    """Take the challenger out of the shadow."""
    if turn.state.champion is None or release.version is None:
        return
    turn.change_release(release, work="rolling_back", passed=False, since=None, due=None, reason=reason)
    turn.ask(SetTraffic(id=turn.number(), champion=turn.state.champion, warm=turn.warm()))
    turn.mark(release.version, stage, reason)


def roll_back(turn: Turn, release: Release, stage: Stage, reason: str) -> None:
    """Give all traffic back to the champion, even while something else is pending."""
    if turn.state.champion is None or release.version is None:
        return
    turn.change_release(release, work="rolling_back", passed=False, since=None, due=None, reason=reason)
    turn.ask(
        RollBack(
            id=turn.number(),
            version=release.version,
            to=turn.state.champion,
            reason=reason,
            warm=turn.warm(),
        )
    )
    turn.mark(release.version, stage, reason)


def return_champion(turn: Turn, champion: int, previous: int, reason: str) -> None:
    """Give the alias and all traffic back to the previous champion, which is still loaded."""
    release = Release(
        work="rolling_back", trigger="rollback", policy=turn.state.policy, version=champion, reason=reason
    )
    turn.change(release=release)
    turn.ask(RollBack(id=turn.number(), version=champion, to=previous, reason=reason))


def count_rejection(turn: Turn) -> None:
    """Count a challenger that did not become champion; too many in a row pause the loop."""
    state = turn.state
    turn.change(rejections=state.rejections + 1)
    if state.rejections + 1 >= state.policy.max_rejections and state.paused is None:
        pause_itself(turn, f"{state.rejections + 1} challengers in a row did not become champion")


def pause_itself(turn: Turn, reason: str) -> None:
    """Pause the loop and tell its owner."""
    turn.change(paused=reason, requested="")
    turn.notify(
        f"{turn.state.policy.loop} has paused itself",
        f"{reason[:1].upper()}{reason[1:].rstrip('.')}. What serves keeps serving; nothing is trained until the loop is resumed.",
    )
