"""Thousands of seeded schedules of crashes, delays, duplicates and people, against the very ``decide`` of production.

A schedule is drawn from its seed alone. The loop is driven like the controller drives it: decide, commit, execute; a
crash may come before the commit, after it, or between any two executions, and what is left is the last committed state.
Every decision is checked against the invariants (``invariants.Watch``). In the end the chaos stops, and the loop has to
come to rest by itself. ``simulate(seed).text()`` tells the whole story of a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
from msgspec.structs import replace

from kilter.core.evidence import Verdict
from kilter.loop import decide as deciding
from kilter.loop.policy import BatchPolicy, Policy
from kilter.loop.records import (
    Actions,
    AlarmCleared,
    AlarmRaised,
    Applied,
    Approved,
    Awaited,
    CanaryJudged,
    Events,
    FreezeRequested,
    LoopState,
    Mark,
    Notify,
    PauseRequested,
    PromoteRequested,
    ResumeRequested,
    RetrainRequested,
    RollbackRequested,
    Tick,
    TrafficSet,
    UnfreezeRequested,
    VersionArrived,
)
from kilter.loop.simulation.invariants import Decide, Violation, Watch, require
from kilter.loop.simulation.world import FINDING, Chaos, World
from kilter.loop.summary import next_deadline, summary, traffic

START = datetime(2013, 3, 1, tzinfo=UTC)
MONITORS = ("decay(log_loss)", "calibration", "drift(psi)")

FREEZES = ((), (), (), ("2013-03-03 to 2013-03-05",), ("0 16 * * fri for 64h", "2013-03-11T06:00 to 2013-03-12"))

BATCHES = (
    (),
    (),
    (BatchPolicy(name="daily", every=86400.0),),
    (BatchPolicy(name="daily", every=86400.0), BatchPolicy(name="often", every=7200.0)),
)

_HOUR = 3600.0
_DAY = 86400.0
_CALM = Chaos()
_ROUNDS = 400
_PATIENCE = timedelta(days=366)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LoopState).decode


@dataclass
class Trace:
    """What happened in a schedule.

    Args:
        seed: The seed that it was drawn from.
        violation: The first invariant that did not hold, or None.
        entries: Every event that was delivered, with what followed, and every crash.
        marks: How often each stage was reached.
    """

    seed: int
    violation: str | None = None
    entries: list[tuple[str, Events | None, tuple[Actions, ...]]] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """Return the schedule for people: one line per event, its actions indented below."""
        lines = [f"seed {self.seed}: {self.violation or 'every invariant holds'}"]
        for word, event, actions in self.entries:
            lines.append(word if event is None else f"{event.at:%m-%d %H:%M:%S} {word} {_said(event)}")
            lines += [f"    -> {_said(action)}" for action in actions]
        return "\n".join(lines)


def _said(record: Events | Actions) -> str:
    fields = {name: value for name, value in msgspec.to_builtins(record).items() if name not in {"at", "finding"}}
    return f"{fields.pop('kind')}({', '.join(f'{name}={value}' for name, value in fields.items())})"


class Schedule:
    """One schedule being played.

    Args:
        seed: What it is drawn from.
        decide: The function under test.
    """

    def __init__(self, seed: int, decide: Decide) -> None:
        self.random = Random(seed)  # noqa: S311 - a reproducible draw, not a secret
        self.decide = decide
        self.policy = self.draw_policy(0)
        self.world = World(self.random, START, self._draw_chaos())
        self.watch = Watch(self.policy)
        self.state = self.committed = LoopState(policy=self.policy)
        self.trace = Trace(seed=seed)
        self.jumped = False

    def _draw_chaos(self) -> Chaos:
        # Each schedule has its own mixture: most are rich in a few troubles, and some are calm.
        draw = self.random.random
        return Chaos(
            fail=draw() * 0.4 * (draw() < 0.5),
            hopeless=draw() * 0.5 * (draw() < 0.3),
            unseen=draw(),
            lose=draw() * 0.2 * (draw() < 0.3),
            double=draw() * 0.4 * (draw() < 0.6),
            crash=draw() * 0.2 * (draw() < 0.6),
            bad=draw() * 0.4 * (draw() < 0.3),
            back=draw() * 0.2 * (draw() < 0.3),
        )

    def draw_policy(self, number: int) -> Policy:
        """Return a policy at random."""
        pick = self.random.choice
        return Policy(
            loop="simulated",
            owner="owner@example.org",
            spec=f"spec-{number}",
            on=MONITORS[: pick((1, 2))],
            every=pick((None, None, 5 * _DAY)),
            cooldown=pick((0.0, _DAY, 3 * _DAY)),
            budget=pick((None, 100.0, 600.0)),
            max_rejections=pick((1, 2, 5)),
            max_failures=pick((1, 2, 3)),
            shadow_bake=pick((None, 0.0, 6 * _HOUR, 2 * _DAY)),
            shadow_limit=pick((0.0, _DAY, 4 * _DAY)),
            canary_steps=pick(((), (5,), (5, 25, 50), (1, 10))),
            canary_bake=pick((0.0, 6 * _HOUR, _DAY)),
            canary_limit=pick((0.0, _DAY)),
            keep_warm=pick((0.0, _DAY, 4 * _DAY)),
            approval=pick(("auto", "auto", "owner")),
            freeze=pick(FREEZES),
            batches=pick(BATCHES),
        )

    # ------------------------------------------------------------ driving

    def play(self, steps: int) -> Trace:
        """Play the schedule, then let it come to rest."""
        try:
            self.deliver(Applied(at=self.world.now, policy=self.policy))
            for _ in range(steps):
                self.step()
            self.rest()
            self._check_burned()
        except Violation as violation:
            self.trace.violation = violation.message
        return self.trace

    def step(self) -> None:
        """Let one thing happen."""
        fate = self.random.random()
        world = self.world
        if fate < 0.35 and world.running:
            world.work(self.random.choice(world.running))
        elif fate < 0.70 and world.messages:
            late = self.random.randrange(len(world.messages)) if self.random.random() < 0.3 else 0
            self.deliver(world.messages.pop(late))
        elif fate < 0.85:
            self.pass_time()
            self.deliver(Tick(at=world.now))
        elif fate < 0.92:
            self.judge_canary()
        else:
            world.send(self.draw_event())
        if self.random.random() < 0.1:
            self.watch.probe(self.decide, self.state)
            summary(self.state, self.world.now)

    def deliver(self, event: Events) -> None:
        """Decide, commit and execute, with a crash somewhere if fate wants it."""
        fate = self.random.random()
        crash = fate < self.world.chaos.crash
        if crash and fate < self.world.chaos.crash / 3:
            self.trace.entries.append(("crash before the commit of", event, ()))
            self.restart()
            return
        before = self.state
        after, actions = self.decide(before, event)
        self.trace.entries.append(("", event, actions))
        self.watch.check(self.decide, before, event, after, actions)
        self.state = self.committed = after
        done = self.random.randrange(len(actions) + 1) if crash else len(actions)
        for action in actions:
            if isinstance(action, Mark):  # written in the transaction of the decision
                self.trace.marks[action.stage] = self.trace.marks.get(action.stage, 0) + 1
        for action in actions[:done]:
            if not isinstance(action, Mark | Notify):
                self.execute(action)
        if crash:
            self.trace.entries.append((f"crash after {done} of {len(actions)} actions", None, ()))
            self.restart()

    def execute(self, action: Awaited) -> None:
        """Hand an action to its executor, with the number of its attempt."""
        batches = (one.pending for one in self.state.batches if one.pending is not None)
        for entry in (*self.state.pending, *batches):
            if entry.action.id == action.id:
                self.world.execute(action, entry.attempts)

    def restart(self) -> None:
        """Lose the memory, read what was committed, and take up again what is pending."""
        self.world.crash()
        self.state = self.committed = _decode(_encode(self.committed))
        for action in deciding.pending_actions(self.state, self.world.now):
            self.execute(action)

    def pass_time(self) -> None:
        """Move the clock: to the next deadline, just before it, by minutes or by days; sometimes back."""
        world, draw = self.world, self.random.random
        if draw() < world.chaos.back:
            world.now += timedelta(seconds=(draw() - 0.5) * 2 * _DAY)
            self.jumped = True
            return
        deadline = next_deadline(self.state)
        if deadline is not None and deadline > world.now and draw() < 0.6:
            world.now = deadline - timedelta(microseconds=self.random.choice((0, 1)))
        else:
            world.now += timedelta(seconds=draw() * self.random.choice((0.0, 600.0, 6 * _HOUR, 2 * _DAY)))

    # ------------------------------------------------------------ what comes from outside

    def judge_canary(self) -> None:
        """Send a verdict on the canary that the endpoint serves now; labels may bring it late."""
        serves = self.world.traffic
        if serves is None or serves.challenger is None:
            return
        verdict: Verdict = self.random.choice(("pass", "pass", "pass", "inconclusive", "fail"))
        self.world.send(CanaryJudged(at=self.world.now, version=serves.challenger, verdict=verdict, finding=FINDING))

    def draw_event(self) -> Events:
        """Return an alarm, a request, a new declaration or nonsense."""
        state, random = self.state, self.random
        if state.paused is not None and random.random() < 0.4:
            return ResumeRequested(at=self.world.now, by="someone")
        if random.random() < 0.5:
            return self._draw_alarm()
        return self._draw_request()

    def _draw_alarm(self) -> Events:
        at, fate = self.world.now, self.random.random()
        monitor = self.random.choice(MONITORS)
        champion = self.state.champion or 1
        if fate < 0.7:
            return AlarmRaised(at=at, monitor=monitor, version=champion, finding=FINDING)
        if fate < 0.9:
            return AlarmCleared(at=at, monitor=monitor, version=champion)
        return AlarmRaised(at=at, monitor=monitor, version=self._draw_version(), finding=FINDING)

    def _draw_request(self) -> Events:
        at, random = self.world.now, self.random
        version = self._draw_version()
        return random.choice(
            (
                self._draw_declaration(),
                self._draw_declaration(),
                RetrainRequested(at=at, by="someone"),
                PauseRequested(at=at, by="someone", reason="drawn"),
                RollbackRequested(at=at, by="someone", reason="drawn"),
                PromoteRequested(at=at, version=version, by="someone"),
                self._draw_freeze(),
                UnfreezeRequested(at=at, by="someone", name=random.choice(("", "experiment"))),
                Approved(at=at, version=version, by="owner"),
                Approved(at=at, version=version, by="owner"),
                TrafficSet(at=at, action=self._draw_stranger()),
                self._draw_arrival(),
            )
        )

    def _draw_freeze(self) -> FreezeRequested:
        until = self.random.choice((None, self.world.now + timedelta(seconds=self.random.random() * 3 * _DAY)))
        name = self.random.choice(("", "experiment"))
        return FreezeRequested(at=self.world.now, by="someone", reason="drawn", until=until, name=name)

    def _draw_arrival(self) -> VersionArrived:
        self.world.versions += 1
        return VersionArrived(
            at=self.world.now, version=self.world.versions, origin="simulated@v1 of dev", by="someone"
        )

    def _draw_stranger(self) -> str:
        name = f"simulated/{self.random.randrange(self.state.sequence + 1)}"
        return name if name not in self.watch.open else "another/1"

    def _draw_version(self) -> int:
        release = self.state.release
        if release is not None and release.version is not None and self.random.random() < 0.7:
            return release.version
        return self.random.randrange(1, self.world.versions + 2)

    def _draw_declaration(self) -> Applied:
        fate = self.random.random()
        if fate < 0.3:
            return Applied(at=self.world.now, policy=self.state.policy)
        if fate < 0.5:
            return Applied(at=self.world.now, policy=replace(self.state.policy, cooldown=_HOUR), rebuild=False)
        policy = self.draw_policy(self.random.randrange(1, 10**6))
        return Applied(at=self.world.now, policy=policy, rebuild=fate < 0.9)

    # ------------------------------------------------------------ rest

    def rest(self) -> None:
        """Stop the chaos: everything that is pending has to be done, and every release has to end, by time alone.

        Raises:
            Violation: When the loop does not come to rest, or rests in the wrong place.
        """
        world = self.world
        world.chaos = _CALM
        if self.state.now is not None:
            world.now = max(world.now, self.state.now)
        self.trace.entries.append(("the chaos stops", None, ()))
        self.restart()
        world.send(
            Applied(at=world.now, policy=replace(self.state.policy, every=None, on=(), approval="auto", batches=()))
        )
        for name in ("", "experiment"):
            world.send(UnfreezeRequested(at=world.now, by="someone", name=name))
        latest = world.now + _PATIENCE
        for _ in range(_ROUNDS):
            if not self._calm_step():
                break
        state = self.state
        require(world.now <= latest, "when the chaos stops, the loop comes to rest within a year")
        require(
            all(one.pending is None for one in state.batches),
            "when the chaos stops, every batch that was begun has ended",
        )
        require(not state.pending and not world.running, "when the chaos stops, everything pending is done")
        require(state.release is None, "when the chaos stops, every release comes to its end")
        require(state.champion is not None or state.paused is not None, "a loop at rest has a champion, or has paused")
        require(state.previous is None or state.paused is not None, "a loop at rest has unloaded what it needs no more")
        require(_serves(world, state), "at rest the endpoint serves as the loop believes")

    def _calm_step(self) -> bool:
        world = self.world
        if world.running:
            world.work(world.running[0])
        elif world.messages:
            self.deliver(world.messages.pop(0))
        else:
            release = self.state.release
            if release is not None and release.work == "approval" and release.version is not None:
                self.deliver(Approved(at=world.now, version=release.version, by="owner"))
                return True
            deadline = next_deadline(self.state)
            if deadline is None:
                return False
            world.now = max(world.now, deadline)
            self.deliver(Tick(at=world.now))
        return True

    def _check_burned(self) -> None:
        """Check the CPU time that was really burned on each day, where the clock never jumped."""
        if self.jumped:
            return
        days: dict[str, float] = {}
        budgets: dict[str, float | None] = {}
        for day, training, cost in self.world.burned:
            budget = self.watch.trainings[training].budget
            known = budgets.get(day, 0.0)
            budgets[day] = None if budget is None or known is None else max(known, budget)
            days[day] = days.get(day, 0.0) + cost
        for day, cost in days.items():
            budget = budgets[day]
            require(budget is None or cost <= budget + 1e-6, "no day burns more CPU time than its budget")


def _serves(world: World, state: LoopState) -> bool:
    wanted = traffic(state)
    if wanted is None or world.traffic is None:
        return wanted is None and world.traffic is None
    return replace(world.traffic, id="") == replace(wanted, id="")


def simulate(seed: int, steps: int = 150, decide: Decide = deciding.decide) -> Trace:
    """Play the schedule of a seed.

    Args:
        seed: Any number; the same one gives the same schedule.
        steps: How many things happen before the chaos stops.
        decide: The function under test.

    Returns:
        What happened, and the first invariant that did not hold.
    """
    return Schedule(seed, decide).play(steps)
