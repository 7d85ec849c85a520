"""What must hold whatever happens to a loop: checked against what went in and came out, never against ``decide``'s word.

A ``Watch`` sees every event that was delivered, with the actions that were asked for. From these alone it keeps its own
account (who is champion, which proofs were delivered, when a step was confirmed, what a day has cost) and raises
``Violation`` as soon as the account and the loop disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from kilter.core.errors import KilterError
from kilter.loop.policy import Policy
from kilter.loop.records import (
    ActionFailed,
    Actions,
    Answer,
    Applied,
    Approved,
    Awaited,
    BatchFinished,
    CanaryJudged,
    Events,
    FreezeRequested,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    LoopState,
    Mark,
    Notify,
    PauseRequested,
    Promote,
    PromoteRequested,
    ResumeRequested,
    RetrainRequested,
    RollBack,
    RollbackRequested,
    RunBatch,
    SetTraffic,
    ShadowJudged,
    Stage,
    StartTraining,
    Tick,
    TrafficSet,
    TrainingFailed,
    TrainingFinished,
    UnfreezeRequested,
    VersionArrived,
)
from kilter.loop.rules.training import day_of
from kilter.loop.rules.turn import TRAFFIC, later
from kilter.loop.summary import traffic_number, traffic_of
from kilter.release.freeze import frozen_until

Decide = Callable[[LoopState, Events], tuple[LoopState, tuple[Actions, ...]]]

_KINDS: dict[type[Answer], tuple[type[Awaited], ...]] = {
    TrainingFinished: (StartTraining,),
    TrainingFailed: (StartTraining,),
    GatesJudged: (JudgeGates,),
    ShadowJudged: (JudgeShadow,),
    BatchFinished: (RunBatch,),
    TrafficSet: TRAFFIC,
}


def _pending(state: LoopState) -> set[str]:
    """Return the ids of what was asked for and not answered."""
    batches = (one.pending for one in state.batches if one.pending is not None)
    return {entry.action.id for entry in (*state.pending, *batches)}


class Violation(KilterError):
    """An invariant does not hold."""

    code = "violation"


def require(holds: bool, invariant: str) -> None:
    """Raise when an invariant does not hold.

    Raises:
        Violation: When it does not.
    """
    if not holds:
        raise Violation(invariant)


@dataclass
class Proof:
    """What a version has shown so far.

    Args:
        policy: The policy under which its training was started.
        gated: Its gates were answered with ``pass``.
        approved: An owner approved it after that.
        shadowed: Its shadow was judged with ``pass``.
        proven: Its canary was judged with ``pass``.
        manual: Someone asked to promote it while it had traffic.
        step: The latest step asked for: -2 none, -1 the shadow, from 0 the canary's.
        confirmed: When the endpoint confirmed that step.
    """

    policy: Policy
    gated: bool = False
    approved: bool = False
    shadowed: bool = False
    proven: bool = False
    manual: bool = False
    step: int = -2
    confirmed: datetime | None = None

    @property
    def admitted(self) -> bool:
        """Whether it may have traffic at all."""
        return self.gated and (self.approved or self.policy.approval == "auto")

    def baked(self, now: datetime) -> bool:
        """Say whether the present step has had its full time."""
        bake = self.policy.canary_bake if self.step >= 0 else self.policy.shadow_bake
        return self.confirmed is not None and now >= later(self.confirmed, bake or 0.0)


class Watch:
    """The account of one loop.

    Args:
        policy: The policy that the loop begins with.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now: datetime | None = None
        self.seen: dict[str, Actions] = {}
        self.latest = 0
        self.open: dict[str, Awaited] = {}
        self.attempts: dict[str, int] = {}
        self.failed: set[str] = set()
        self.proofs: dict[int, Proof] = {}
        self.trainings: dict[str, Policy] = {}
        self.stages: dict[int, Stage] = {}
        self.arrived: set[int] = set()
        self.champion: int | None = None
        self.previous: int | None = None
        self.previous_until: datetime | None = None
        self.traffic: SetTraffic | None = None
        self.paused = False
        self.holds: dict[str, datetime | None] = {}
        self.slots: dict[str, datetime] = {}
        self.spent: dict[str, float] = {}
        self.last_training: datetime | None = None
        self.excused = True
        self.losing = 0
        self.streak = policy.max_rejections * policy.max_failures

    # ------------------------------------------------------------ one step

    def check(
        self, decide: Decide, before: LoopState, event: Events, after: LoopState, actions: tuple[Actions, ...]
    ) -> None:
        """Check one decision, and take it into the account.

        Raises:
            Violation: When an invariant does not hold.
        """
        now = event.at if self.now is None else max(self.now, event.at)
        if after is before:
            require(not actions, "a decision that changes nothing asks for nothing")
        else:
            require(after.now == now, "time is the latest moment of any event that changed something")
            self.now = now
        action = self._answered(event)
        if action is not None:
            self._account(event, action, now)
        elif isinstance(event, Answer) and not self._known_failure(event, after):
            require(
                (after, actions) == decide(before, Tick(at=event.at)),
                "an answer to an action that is not pending changes nothing",
            )
        self._requests(event)
        if isinstance(event, VersionArrived):
            self.arrived.add(event.version)
        pending = _pending(after)
        for number in [number for number in self.failed if number in self.open and number not in pending]:
            del self.open[number]  # taken back while it waited for its next attempt
        for asked in actions:
            self._asked(asked, now)
            if isinstance(asked, SetTraffic | Promote | RollBack):
                self._way_back(asked, now)
        self._standing(before, after, event)

    def probe(self, decide: Decide, state: LoopState) -> None:
        """Check that a request to roll back would be followed, wherever there is something to go back to.

        Raises:
            Violation: When it would not.
        """
        if state.now is None or self.now is None or self.traffic is None or self.champion is None:
            return
        _, actions = decide(state, RollbackRequested(at=state.now, by="probe", reason="probe"))
        back = [action for action in actions if isinstance(action, TRAFFIC)]
        if self.traffic.challenger is not None or (self.traffic.champion not in {self.champion, self.previous}):
            require(
                bool(back) and traffic_of(back[-1]).champion == self.champion, "a challenger can always be taken back"
            )
        elif state.release is None and self.previous is not None and self.previous_until is not None:
            possible = bool(back) and traffic_of(back[-1]).champion == self.previous
            require(
                possible or self.now >= self.previous_until,
                "the champion can be taken back while the one before is loaded",
            )

    def _answered(self, event: Events) -> Awaited | None:
        """Take the action off the account that an answer ends; None for everything else, duplicates among it."""
        if not isinstance(event, Answer) or isinstance(event, ActionFailed):
            return None
        action = self.open.get(event.action)
        if action is None or not isinstance(action, _KINDS[type(event)]):
            return None
        if isinstance(event, GatesJudged | ShadowJudged) and getattr(action, "version", None) != event.version:
            return None
        del self.open[event.action]
        self.failed.discard(event.action)
        return action

    def _known_failure(self, event: Answer, after: LoopState) -> bool:
        """Take a failure of the present attempt into the account; False for a copy of it, or of an earlier one."""
        if not isinstance(event, ActionFailed) or event.action not in self.open or event.action in self.failed:
            return False
        if event.attempt != self.attempts[event.action]:
            return False
        if event.action in _pending(after):
            self.failed.add(event.action)
        else:
            del self.open[event.action]  # given up
        return True

    # ------------------------------------------------------------ what went in

    def _account(self, event: Events, action: Awaited, now: datetime) -> None:
        match event:
            case TrainingFinished(version=version, cpu_seconds=cost):
                self._charge(cost, now)
                self.proofs[version] = Proof(policy=self.trainings[action.id])
            case TrainingFailed(cpu_seconds=cost):
                self._charge(cost, now)
            case GatesJudged(version=version, verdict=verdict):
                self.proofs[version].gated = verdict == "pass"
            case ShadowJudged(version=version, verdict=verdict):
                self.proofs[version].shadowed = verdict == "pass"
            case TrafficSet():
                self._served(action, now)
            case _:
                pass

    def _charge(self, cost: float, now: datetime) -> None:
        day = day_of(now)
        self.spent[day] = self.spent.get(day, 0.0) + cost

    def _served(self, action: Awaited, now: datetime) -> None:
        if isinstance(action, Promote):
            self.champion, self.previous, self.losing = action.version, action.previous, 0
            self.previous_until = later(now, self.proofs[action.version].policy.keep_warm)
        elif isinstance(action, RollBack) and action.version == self.champion:
            self.champion, self.previous = action.to, None
        elif isinstance(action, SetTraffic) and action.challenger is not None:
            self.proofs[action.challenger].confirmed = now

    def _requests(self, event: Events) -> None:
        match event:
            case Applied(policy=policy):
                if policy.spec != self.policy.spec:
                    self.excused, self.losing = True, 0
                self.policy = policy
                self.streak = max(self.streak, policy.max_rejections * policy.max_failures)
            case RetrainRequested():
                self.excused = True
            case PauseRequested():
                self.paused = self.excused = True
            case FreezeRequested() | UnfreezeRequested():
                self._held(event)
            case ResumeRequested():
                self.paused, self.losing, self.excused = False, 0, True
            case Approved(version=version) if version in self.proofs:
                self.proofs[version].approved |= self.proofs[version].gated
            case CanaryJudged(version=version, verdict="pass") if version in self.proofs:
                self.proofs[version].proven |= self.proofs[version].step >= 0
            case PromoteRequested(version=version) if version in self.proofs:
                self.proofs[version].manual |= self.proofs[version].step > -2
            case _:
                pass

    def _held(self, event: FreezeRequested | UnfreezeRequested) -> None:
        if isinstance(event, FreezeRequested):
            self.holds[event.name] = event.until
        else:
            self.holds.pop(event.name, None)

    # ------------------------------------------------------------ what came out

    def _asked(self, action: Actions, now: datetime) -> None:
        if action.id in self.seen:
            require(self.seen[action.id] == action, "an id stands for one action only")
            require(action.id in self.open and action.id in self.failed, "only what has failed is asked for again")
            self._not_frozen(action, now)
            self.failed.discard(action.id)
            self.attempts[action.id] += 1
            return
        require(traffic_number(action.id) == self.latest + 1, "the numbers of actions rise one by one")
        self.latest += 1
        self.seen[action.id] = action
        if isinstance(action, Mark):
            self.stages[action.version] = action.stage
            if action.stage == "gated" and action.version in self.arrived:
                require(action.version not in self.proofs, "a version from elsewhere is released once")
                require(not self.paused, "a paused loop starts nothing")
                self.proofs[action.version] = Proof(policy=self.policy, gated=True)
        elif not isinstance(action, Notify):
            self._allowed(action, now)
            if isinstance(action, TRAFFIC):
                self.traffic = traffic_of(action)
                kept = self.open.items()
                self.open = {name: entry for name, entry in kept if not isinstance(entry, (*TRAFFIC, JudgeShadow))}
            self.open[action.id], self.attempts[action.id] = action, 1

    def _allowed(self, action: Awaited, now: datetime) -> None:
        if isinstance(action, RollBack):
            way = self.previous if action.version == self.champion else self.champion
            require(action.to == way, "a rollback leads to the champion, or from it to the one before")
            return
        if isinstance(action, SetTraffic) and action.mode == "solo":
            return
        if isinstance(action, RunBatch):
            self._batch(action, now)
            return
        require(not self.paused, "a paused loop starts nothing")
        self._not_frozen(action, now)
        match action:
            case StartTraining():
                self._training(action, now)
            case JudgeGates(version=version):
                require(version in self.proofs and not self.proofs[version].gated, "a version's gates are judged once")
            case JudgeShadow(version=version):
                proof = self.proofs[version]
                require(proof.step == -1 and proof.baked(now), "a shadow is judged after its bake")
            case SetTraffic():
                self._step(action, now)
            case Promote():
                self._promotion(action, now)

    def _batch(self, action: RunBatch, now: datetime) -> None:
        running = any(isinstance(entry, RunBatch) and entry.batch == action.batch for entry in self.open.values())
        require(not running, "a batch is run once at a time")
        require(action.version == self.champion, "a batch is scored by the champion")
        every = next(one.every for one in self.policy.batches if one.name == action.batch)
        require(
            action.slot <= now < later(action.slot, every), "what was missed is caught up with the latest time alone"
        )
        require(
            action.batch not in self.slots or action.slot > self.slots[action.batch],
            "a time of a schedule is scored once",
        )
        self.slots[action.batch] = action.slot

    def _not_frozen(self, action: Actions, now: datetime) -> None:
        if not isinstance(action, Promote) and not (isinstance(action, SetTraffic) and action.challenger is not None):
            return
        held = any(until is None or now < until for until in self.holds.values())
        require(
            not held and frozen_until(self.policy.freeze, now) is None,
            "in a freeze no challenger gets traffic, and none is promoted",
        )

    def _training(self, action: StartTraining, now: datetime) -> None:
        busy = any(isinstance(entry, StartTraining | JudgeGates | JudgeShadow) for entry in self.open.values())
        require(
            not busy and (self.traffic is None or self.traffic.challenger is None), "one release is in flight at a time"
        )
        day = day_of(now)
        if self.policy.budget is not None:
            left = self.policy.budget - self.spent.get(day, 0.0)
            require(
                action.cpu_limit is not None and action.cpu_limit <= left + 1e-6 and left > 0.0,
                "a training may use what is left of the day's budget, and no more",
            )
        require(
            self.excused or self.last_training is None or now >= later(self.last_training, self.policy.cooldown),
            "the cooldown lies between two trainings that nobody asked for",
        )
        require(action.spec == self.policy.spec, "a training uses the declaration that was applied last")
        self.losing += 1
        require(
            self.losing <= self.streak,
            "a losing streak ends in a pause",
        )
        self.last_training, self.excused = now, False
        self.trainings[action.id] = self.policy

    def _step(self, action: SetTraffic, now: datetime) -> None:
        proof = self.proofs.get(action.challenger or -1)
        require(proof is not None and proof.gated, "no traffic without passed gates")
        if proof is None:
            return
        require(proof.admitted, "no traffic without the approval that the policy asks for")
        require(self._runs(action), "no traffic for a version whose release has ended")
        require(action.champion == self.champion, "the champion serves beside its challenger")
        steps = proof.policy.canary_steps
        first = -2 if proof.policy.shadow_bake is None else -1
        if action.mode == "shadow":
            require(proof.step == -2 and first == -1, "a shadow is the first step, once, where it is declared")
            proof.step = -1
        else:
            following = max(proof.step, -1) + 1
            require(
                following < len(steps) and action.share == steps[following], "shares are the declared ones, in order"
            )
            if following == 0:
                require(proof.step == first and (first == -2 or proof.shadowed), "a canary begins after its shadow")
            else:
                require(proof.baked(now), "each step has its full bake")
            proof.step = following
        proof.confirmed = None

    def _promotion(self, action: Promote, now: datetime) -> None:
        proof = self.proofs.get(action.version)
        require(proof is not None and proof.gated, "no traffic without passed gates")
        require(action.previous == self.champion, "a promotion names the champion that it replaces")
        if proof is None:
            return
        require(proof.admitted, "no traffic without the approval that the policy asks for")
        require(self._runs(action), "no traffic for a version whose release has ended")
        if self.champion is None or proof.manual:
            return
        if proof.policy.canary_steps:
            require(proof.step == len(proof.policy.canary_steps) - 1, "shares are the declared ones, in order")
            require(proof.baked(now), "each step has its full bake")
            require(proof.proven, "no promotion without proof")
        else:
            require(proof.shadowed or proof.policy.shadow_bake is None, "no promotion without proof")

    def _runs(self, action: SetTraffic | Promote) -> bool:
        version = action.version if isinstance(action, Promote) else action.challenger
        return version is not None and self.stages.get(version) in {"gated", "shadow", "canary"}

    def _way_back(self, action: SetTraffic | Promote | RollBack, now: datetime) -> None:
        serves = traffic_of(action)
        if self.champion is not None:
            loaded = {serves.champion, *serves.warm}
            require(self.champion in loaded or serves.champion == self.previous, "the champion stays loaded")
        if isinstance(action, Promote) or self.previous is None or self.previous_until is None:
            return
        if now < self.previous_until:
            require(
                self.previous in {serves.champion, *serves.warm},
                "the previous champion stays loaded for its whole time",
            )

    # ------------------------------------------------------------ what always holds

    def _standing(self, before: LoopState, after: LoopState, event: Events) -> None:
        require(after.champion == self.champion, "the champion is the one that the endpoint has confirmed")
        champions = [version for version, stage in self.stages.items() if stage == "champion"]
        require(
            champions == ([] if self.champion is None else [self.champion]), "there is one champion, marked as such"
        )
        pending = _pending(after)
        require(pending == set(self.open), "what was asked for is pending until it is answered")
        policy, paused = after.policy, after.paused is not None
        many = after.rejections > before.rejections and after.rejections >= policy.max_rejections
        require(paused or not many, "too many rejections in a row pause the loop")
        many = after.failures > before.failures and after.failures >= policy.max_failures
        require(paused or not many, "too many failures in a row pause the loop")
        if self.traffic is None or self.champion is None:
            return
        back = self.traffic.challenger is None and self.traffic.champion in {self.champion, self.previous}
        if isinstance(event, PauseRequested):
            require(paused and back, "a pause takes the challenger's traffic away")
        if isinstance(event, CanaryJudged) and event.verdict == "fail" and event.version != self.champion:
            canary = self.traffic.mode == "canary" and self.traffic.challenger == event.version
            require(
                not canary and self.traffic.champion != event.version,
                "a breach takes the challenger's traffic away at once",
            )
