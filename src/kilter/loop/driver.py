"""One loop's driver in production: it watches, tells ``decide``, and does what is asked for.

All that it knows is in the store: killed between any two steps, its successor reads the state and goes on. Actions carry ids,
and whatever they change is keyed by them, so doing one again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeAlias

import msgspec

from kilter.core.clock import Clock
from kilter.core.durations import parse_duration
from kilter.core.errors import KilterError, NotFound
from kilter.core.evidence import Finding
from kilter.engines.compute.processes import Compute, Job, Outcome
from kilter.engines.sql.lease import Lease
from kilter.loop import batches, jobs
from kilter.loop.building import table_of
from kilter.loop.decide import decide, pending_actions
from kilter.loop.declaration.sources import declaration
from kilter.loop.declare import AnyLoop
from kilter.loop.experiments import carried
from kilter.loop.ledger import Ledger, Row
from kilter.loop.records import (
    ActionFailed,
    AlarmCleared,
    AlarmRaised,
    BatchFinished,
    CanaryJudged,
    Events,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    LoopState,
    Notify,
    Promote,
    RollBack,
    RunBatch,
    SetTraffic,
    ShadowJudged,
    StartTraining,
    Tick,
    Traffic,
    TrafficSet,
    TrainingFailed,
    TrainingFinished,
)
from kilter.loop.rules.steps import canary_of, primary_metric, shadow_of
from kilter.loop.summary import traffic_of
from kilter.loop.workspace import Workspace
from kilter.monitoring.labels import LabelJoin
from kilter.monitoring.profile import ReferenceProfile
from kilter.registry.records import EvidenceKind
from kilter.serving.recording.logs import ends
from kilter.serving.records import TrafficPlan

log = logging.getLogger("kilter.controller")

Evidence: TypeAlias = tuple[int, EvidenceKind, tuple[Finding, ...]]
"""A version, how it was judged, and what was found."""

DAY = timedelta(days=1)

_SETTLE_SECONDS = 5.0
_LOOK_SECONDS = 30.0
_LOOKS_PER_BAKE = 24

_LIVES = 5
"""How many workers may be lost to one job before the job itself is held responsible."""


class Driver:
    """Drives one loop.

    What it keeps in memory (joined labels, a canary's evidence, which day was evaluated) is read again from the logs
    after a restart.

    Args:
        workspace: The store.
        name: The loop.
        compute: Where trainings run.
        lease: Checked in every transaction.
        batching: Gives where batches run, apart from trainings: they take long, and must not keep a challenger waiting.
    """

    def __init__(
        self, workspace: Workspace, name: str, compute: Compute, lease: Lease, batching: Callable[[], Compute]
    ) -> None:
        self._workspace = workspace
        self._name = name
        self._compute = compute
        self._batching = batching
        self._fence = lease.check
        self._ledger: Ledger = workspace.loops.ledger
        self._clock: Clock = workspace.clock
        self._join = LabelJoin(workspace.prediction_logs(), workspace.data)
        self._passed: dict[str, int] = {}
        self._idle: datetime | None = None
        self._jobs: dict[str, Job] = {}
        self._lost: dict[str, tuple[int, float]] = {}
        self._day: datetime | None = None
        self._seen: datetime | None = None
        self._looked: datetime | None = None
        self._profiles: dict[int, ReferenceProfile] = {}
        self._doing: dict[type, Callable[..., bool]] = {
            StartTraining: self._train,
            JudgeGates: self._judge,
            JudgeShadow: self._look,
            SetTraffic: self._steer,
            Promote: self._steer,
            RollBack: self._steer,
            RunBatch: self._batch,
        }

    def step(self) -> bool:
        """Look, tell, do; return whether anything happened."""
        now = self._clock.now()
        row = self._ledger.row(self._name)
        busy = False
        if now != self._seen:
            busy = self._observe(row, now)
            self._seen = now
            row = self._ledger.row(self._name) if busy else row
        if decide(row.state, Tick(at=now))[0] is not row.state:
            row = msgspec.structs.replace(row, state=self._feed(Tick(at=now)))
            busy = True
        for action in pending_actions(row.state, now):
            busy = self._doing[type(action)](action, now) or busy
        if not busy:
            self._settle(row, now)
        return busy

    def _feed(self, event: Events, evidence: Evidence | None = None) -> LoopState:
        """Tell ``decide``; the evidence behind the event is kept in the same transaction."""
        with self._workspace.database.transaction() as connection:
            self._fence(connection)
            if evidence is not None:
                self._workspace.models.add_evidence(connection, self._name, *evidence, event.at)
            state, actions = self._ledger.feed_in(connection, self._name, event)
        for action in actions:
            if isinstance(action, Notify):
                log.warning("for %s: %s. %s", action.to, action.title, action.body)
        return state

    def _settle(self, row: Row, now: datetime) -> None:
        running = [one.pending for one in row.state.batches if one.pending is not None]
        if any(entry.not_before is None for entry in (*row.state.pending, *running)):
            return
        if row.settled_at is None or abs((now - row.settled_at).total_seconds()) >= _SETTLE_SECONDS:
            self._ledger.settle(self._name, now, revision=row.revision, fence=self._fence)

    # ---------------------------------------------------------------- watching

    def _loop(self, spec: str) -> AnyLoop:
        return declaration(self._workspace.database, self._workspace.objects, spec)[0]

    def _observe(self, row: Row, now: datetime) -> bool:
        """Judge what can be judged now: a canary whenever time has passed, the monitors at the end of each day."""
        state = row.state
        midnight = _midnight(now)
        if state.champion is None:
            self._need_nothing(midnight)
            return False
        if self._day is None:
            self._day = self._resumed(row, midnight) - DAY
        canary = self._canary_due(state, now)
        if self._day >= midnight and not canary:
            return False
        loop = self._loop(row.spec)
        self._join.watch(self._name, table_of(loop), loop.label)
        self._join.catch_up(now)
        self._let_go(now)
        if canary:
            self._judge_canary(row, now)
            self._looked = now
        while self._day < midnight:
            self._evaluate(loop, self._ledger.row(self._name).state, self._day + DAY)
            self._day += DAY
        return True

    def _let_go(self, now: datetime) -> None:
        """Say what of the prediction logs is needed no more, not even to join everything again after a restart."""
        passed = self._join.passed(self._name, now)
        if passed != self._passed:
            self._workspace.logs.mark(
                f"labels:{self._name}", {f"predictions/{front}": at for front, at in passed.items()}
            )
            self._passed = passed

    def _need_nothing(self, midnight: datetime) -> None:
        """Say that a loop that answers nothing needs nothing of the prediction logs up to now; once a day is enough."""
        if midnight != self._idle:
            folder = self._workspace.prediction_logs()
            self._workspace.logs.mark(f"labels:{self._name}", {"predictions": -1, **ends(folder)})
            self._idle = midnight

    def _canary_due(self, state: LoopState, now: datetime) -> bool:
        """Say whether to look at a canary: its verdict holds at any look, so how often is a matter of cost alone."""
        release = state.release
        if release is None or release.work != "canary":
            self._looked = None
            return False
        pace = max(_LOOK_SECONDS, release.policy.canary_bake / _LOOKS_PER_BAKE)
        return self._looked is None or abs((now - self._looked).total_seconds()) >= pace

    def _resumed(self, row: Row, midnight: datetime) -> datetime:
        """Return the day with which the monitors go on after a restart.

        It is the last one on which nothing was left to do, or that of a later alarm; what is written is keyed, so doing it again
        is harmless. Doing again what lies before an alarm would take it back.
        """
        days = [midnight if row.settled_at is None else _midnight(row.settled_at)]
        for kind in ("AlarmRaised", "AlarmCleared"):
            newest = self._workspace.journal_log.events(limit=1, subject=self._name, kind=kind, newest=True)
            days += [_midnight(event.at) for event in newest]
        return max(days)

    def _evaluate(self, loop: AnyLoop, state: LoopState, day: datetime) -> None:
        if state.champion is None:
            return
        judged = self._workspace.monitors.evaluate(
            self._name,
            loop.monitors,
            state.champion,
            self._profile(state.champion),
            self._join.predictions(self._name, since=day - _reach(loop), until=day),
            day,
        )
        for monitor, finding, raised in judged:
            if raised and monitor not in state.alarms:
                self._feed(AlarmRaised(at=day, monitor=monitor, version=state.champion, finding=finding))
            elif not raised and monitor in state.alarms:
                self._feed(AlarmCleared(at=day, monitor=monitor, version=state.champion, finding=finding))

    def _profile(self, version: int) -> ReferenceProfile:
        if version not in self._profiles:
            digest = self._workspace.models.get(self._name, version).lineage.profile
            self._profiles[version] = msgspec.json.decode(self._workspace.objects.get(digest), type=ReferenceProfile)
        return self._profiles[version]

    def _judge_canary(self, row: Row, now: datetime) -> None:
        release = row.state.release
        if release is None or release.work != "canary" or release.version is None:
            return
        version = release.version
        history = self._workspace.models.history(self._name, version)
        began = next((mark.at for mark in history.stages if mark.stage == "canary"), None)
        if began is None:
            return  # asked for, and not yet confirmed by the endpoint
        loop = self._loop(history.version.lineage.spec)
        step = canary_of(loop)
        finding = self._workspace.releases.judge_canary(
            self._name,
            version,
            step,
            primary_metric(loop),
            self._join.joined(self._name, since=began),
            since=began,
            at=now,
            predictions=self._join.predictions(self._name, since=began) if step.guards else None,
        )
        if finding.verdict != release.evidence:
            self._feed(
                CanaryJudged(at=now, version=version, verdict=finding.verdict, finding=finding),
                (version, "canary", (finding,)),
            )

    # ---------------------------------------------------------------- doing

    def _outcome(
        self,
        action: str,
        target: str,
        payload: msgspec.Struct,
        cpu_limit: float | None,
        compute: Callable[[], Compute] | None = None,
    ) -> Outcome | None:
        """Return what came of an action's job, or None while it runs.

        A worker that was killed says nothing about its job, which is run again; what the lost attempts cost is counted.
        """
        deaths, burned = self._lost.get(action, (0, 0.0))
        job = self._jobs.pop(action, None)
        if job is not None and not job.done():
            self._jobs[action] = job
            return None
        if job is not None:
            outcome = job.result()
            burned += outcome.cpu_seconds
            affordable = cpu_limit is None or burned < cpu_limit
            if not (outcome.lost and affordable and deaths < _LIVES):
                self._lost.pop(action, None)
                return msgspec.structs.replace(outcome, cpu_seconds=burned)
            log.warning("%s is run again: %s", action, outcome.error)
            self._lost[action] = (deaths + 1, burned)
        limit = None if cpu_limit is None else max(cpu_limit - burned, 0.001)
        pool = self._compute if compute is None else compute()
        self._jobs[action] = pool.submit(target, msgspec.json.encode(payload), limit)
        return None

    def _train(self, action: StartTraining, now: datetime) -> bool:
        asked = jobs.TrainJob(
            store=self._workspace.store,
            loop=self._name,
            spec=action.spec,
            at=action.at,
            trigger=action.trigger,
            action=action.id,
        )
        begins = action.id not in self._jobs
        outcome = self._outcome(action.id, "kilter.loop.jobs:train", asked, action.cpu_limit)
        if outcome is None:
            if begins:
                # The file is needed here too, for the release; its libraries are imported while the training runs.
                with suppress(KilterError):
                    self._loop(action.spec)
            return False
        if outcome.payload is None:
            reason = outcome.error or "the training process died"
            self._feed(TrainingFailed(at=now, action=action.id, reason=reason, cpu_seconds=outcome.cpu_seconds))
            return True
        answer = msgspec.json.decode(outcome.payload, type=jobs.TrainAnswer)
        if isinstance(answer, jobs.Failure) and answer.retryable:
            self._lost[action.id] = (0, outcome.cpu_seconds)
            self._feed(ActionFailed(at=now, action=action.id, reason=answer.reason))
        elif isinstance(answer, jobs.Failure):
            self._feed(TrainingFailed(at=now, action=action.id, reason=answer.reason, cpu_seconds=outcome.cpu_seconds))
        else:
            self._feed(
                TrainingFinished(
                    at=now, action=action.id, version=answer.version, run=answer.run, cpu_seconds=outcome.cpu_seconds
                )
            )
        return True

    def _judge(self, action: JudgeGates, now: datetime) -> bool:
        asked = jobs.JudgeJob(
            store=self._workspace.store,
            loop=self._name,
            spec=action.spec,
            version=action.version,
            champion=action.champion,
        )
        outcome = self._outcome(action.id, "kilter.loop.jobs:judge", asked, None)
        if outcome is None:
            return False
        if outcome.payload is None:
            self._feed(ActionFailed(at=now, action=action.id, reason=outcome.error or "the judging process died"))
            return True
        answer = msgspec.json.decode(outcome.payload, type=jobs.JudgeAnswer)
        if isinstance(answer, jobs.Failure):
            self._feed(ActionFailed(at=now, action=action.id, reason=answer.reason, retryable=answer.retryable))
            return True
        self._feed(
            GatesJudged(
                at=now, action=action.id, version=action.version, verdict=answer.verdict, findings=answer.findings
            ),
            (action.version, "gates", answer.findings),
        )
        return True

    def _batch(self, action: RunBatch, now: datetime) -> bool:
        asked = batches.BatchJob(
            store=self._workspace.store,
            loop=self._name,
            spec=action.spec,
            batch=action.batch,
            version=action.version,
            slot=action.slot,
        )
        outcome = self._outcome(action.id, "kilter.loop.batches:run", asked, None, self._batching)
        if outcome is None:
            return False
        if outcome.payload is None:
            reason = (outcome.error or "the process died").strip().rpartition("\n")[2]
            self._feed(ActionFailed(at=now, action=action.id, reason=reason))
            return True
        answer = msgspec.json.decode(outcome.payload, type=batches.BatchAnswer)
        if isinstance(answer, jobs.Failure):
            self._feed(ActionFailed(at=now, action=action.id, reason=answer.reason, retryable=answer.retryable))
            return True
        self._feed(
            BatchFinished(
                at=now,
                action=action.id,
                batch=action.batch,
                version=action.version,
                slot=action.slot,
                rows=answer.rows,
                bad_rows=answer.bad_rows,
                output=answer.output,
            )
        )
        return True

    def _look(self, action: JudgeShadow, now: datetime) -> bool:
        loop = self._loop(self._workspace.models.get(self._name, action.version).lineage.spec)
        self._join.catch_up(now)
        finding = self._workspace.releases.judge_shadow(
            self._name,
            action.version,
            shadow_of(loop),
            primary_metric(loop),
            self._join.joined(self._name, since=action.since, until=now),
            look=action.look,
            at=now,
        )
        self._feed(
            ShadowJudged(at=now, action=action.id, version=action.version, verdict=finding.verdict, finding=finding),
            (action.version, "shadow", (finding,)),
        )
        return True

    def _steer(self, action: Traffic, now: datetime) -> bool:
        generation = self._plan(action, now)
        if generation is None:
            return True
        if self._workspace.endpoints.applied(self._name) < generation:
            reason = self._refusal(generation)
            if reason:
                self._feed(ActionFailed(at=now, action=action.id, reason=reason))
                return True
            return False
        self._feed(TrafficSet(at=now, action=action.id))
        return True

    def _plan(self, action: Traffic, now: datetime) -> int | None:
        """Write the endpoint's plan, and the aliases that go with it, in one transaction.

        Returns:
            The plan's generation, or None when the action is no longer wanted.
        """
        traffic = traffic_of(action)
        row = self._ledger.row(self._name)
        loop = self._loop(row.spec)
        named = {traffic.champion, *traffic.warm} | ({traffic.challenger} if traffic.challenger is not None else set())
        plan = TrafficPlan(
            loop=self._name,
            champion=traffic.champion,
            challenger=traffic.challenger,
            mode=traffic.mode,
            share=traffic.share,
            warm=traffic.warm,
            bundles={version: self._workspace.models.get(self._name, version).bundle for version in named},
            fallback=loop.fallback,
            spec=row.spec,
        )
        plan = carried(plan, self._standing_plan())
        with self._workspace.database.transaction() as connection:
            self._fence(connection)
            pending = self._ledger.row(self._name, connection).state.pending
            if all(entry.action.id != action.id for entry in pending):
                return None  # a newer action has taken its place meanwhile; an old plan must not undo it
            self._workspace.models.set_alias(connection, self._name, "champion", traffic.champion, now)
            self._workspace.models.set_alias(connection, self._name, "challenger", traffic.challenger, now)
            return self._workspace.endpoints.set_plan(plan, connection)

    def _standing_plan(self) -> TrafficPlan | None:
        try:
            return self._workspace.endpoints.plan(self._name)
        except NotFound:
            return None

    def _refusal(self, generation: int) -> str:
        try:
            statuses = self._workspace.endpoints.status(self._name)
        except NotFound:
            return ""
        return next((status.error for status in statuses if status.generation == generation and status.error), "")


def _reach(loop: AnyLoop) -> timedelta:
    """Return how far back the monitors of a loop look, with room for labels that come late."""
    return max([timedelta(days=14), *(parse_duration(monitor.over) for monitor in loop.monitors)]) + timedelta(days=7)


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
