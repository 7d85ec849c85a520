"""A small model of everything outside ``decide``: an executor, an endpoint, a registry, and messages that go astray.

It keeps the contract that a real executor has to keep: the same id is the same deed, an attempt's outcome is remembered,
a training uses at most its ``cpu_limit``, and the endpoint ignores a traffic action older than one it has seen.
Everything else may happen: attempts fail, before or after their effect; answers are lost, doubled, late and out of order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from random import Random

from kilter.core.evidence import Finding, Verdict
from kilter.loop.records import (
    ActionFailed,
    Awaited,
    BatchFinished,
    Events,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    RunBatch,
    SetTraffic,
    ShadowJudged,
    Stage,
    StartTraining,
    TrafficSet,
    TrainingFailed,
    TrainingFinished,
)
from kilter.loop.rules.training import day_of
from kilter.loop.rules.turn import TRAFFIC
from kilter.loop.summary import traffic_number, traffic_of

Answers = TrainingFinished | TrainingFailed | GatesJudged | ShadowJudged | TrafficSet | BatchFinished | ActionFailed

FINDING = Finding(name="simulated", verdict="inconclusive", value=None, allowed="anything", rows=0, rule="drawn")
_CPU = 300.0


@dataclass
class Chaos:
    """How likely things go wrong, per occasion; all 0 is a calm world.

    Args:
        fail: An attempt fails.
        hopeless: A failure is not retryable.
        unseen: A failed attempt at traffic took effect all the same.
        lose: An answer is lost.
        double: A message arrives once more.
        crash: The controller dies while it handles an event.
        bad: A training that ran produces no model.
        back: The clock jumps, backwards as often as forwards.
    """

    fail: float = 0.0
    hopeless: float = 0.0
    unseen: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    crash: float = 0.0
    bad: float = 0.0
    back: float = 0.0


@dataclass
class Deed:
    """An action as its executor remembers it.

    Args:
        action: The action.
        attempt: The latest attempt.
        running: Whether that attempt still runs.
        answer: The outcome of the latest attempt that ended.
        spent: CPU seconds used by attempts that were killed.
        done: Whether it took effect, even if the answer said otherwise.
    """

    action: Awaited
    attempt: int
    running: bool = True
    answer: Answers | None = None
    spent: float = 0.0
    done: bool = False


class World:
    """Everything outside ``decide``.

    Args:
        random: Draws every fate.
        now: The time on the wall.
        chaos: How likely things go wrong.
    """

    def __init__(self, random: Random, now: datetime, chaos: Chaos) -> None:
        self.random = random
        self.now = now
        self.chaos = chaos
        self.deeds: dict[str, Deed] = {}
        self.running: list[Deed] = []
        self.messages: list[Events] = []
        self.stages: dict[int, Stage] = {}
        self.gates: dict[int, Verdict] = {}
        self.traffic: SetTraffic | None = None
        self.generation = 0
        self.versions = 0
        self.burned: list[tuple[str, str, float]] = []

    # ------------------------------------------------------------ executing

    def execute(self, action: Awaited, attempt: int) -> None:
        """Take an action up; one that is known goes on, or answers as it did before."""
        deed = self.deeds.get(action.id)
        if deed is None:
            deed = self.deeds[action.id] = Deed(action=action, attempt=attempt)
            self.running.append(deed)
        elif deed.running:
            deed.attempt = max(deed.attempt, attempt)
        elif deed.answer is None or (isinstance(deed.answer, ActionFailed) and attempt > deed.attempt):
            deed.attempt, deed.running = attempt, True
            self.running.append(deed)
        else:
            self.send(deed.answer)

    def work(self, deed: Deed) -> None:
        """Bring a running attempt to its end."""
        self.running.remove(deed)
        deed.running = False
        draw = self.random.random
        if draw() >= self.chaos.fail:
            deed.answer = self._do(deed)
        elif isinstance(deed.action, StartTraining) and deed.spent > 0.0:  # it did run, so that its CPU time counts
            deed.answer = TrainingFailed(at=self.now, action=deed.action.id, reason="killed", cpu_seconds=deed.spent)
        else:
            hopeless = draw() < self.chaos.hopeless and not deed.done
            if not hopeless and isinstance(deed.action, TRAFFIC) and draw() < self.chaos.unseen:
                self._do(deed)  # done, but the executor never heard so
            deed.answer = ActionFailed(
                at=self.now, action=deed.action.id, reason="simulated", retryable=not hopeless, attempt=deed.attempt
            )
        if draw() >= self.chaos.lose:
            self.send(deed.answer)

    def _do(self, deed: Deed) -> Answers:
        deed.done = True
        match deed.action:
            case StartTraining() as action:
                return self._train(deed, action)
            case JudgeGates(id=number, version=version):
                verdict = self._draw()
                self.gates[version] = verdict
                return GatesJudged(at=self.now, action=number, version=version, verdict=verdict, findings=(FINDING,))
            case JudgeShadow(id=number, version=version):
                return ShadowJudged(at=self.now, action=number, version=version, verdict=self._draw(), finding=FINDING)
            case RunBatch(id=number, batch=name, version=version, slot=slot):
                return BatchFinished(at=self.now, action=number, batch=name, version=version, slot=slot, rows=1)
            case action:
                if traffic_number(action.id) >= self.generation:
                    self.generation = traffic_number(action.id)
                    self.traffic = traffic_of(action)
                return TrafficSet(at=self.now, action=action.id)

    def _train(self, deed: Deed, action: StartTraining) -> Answers:
        cost = self._burn(deed, action)
        if self.random.random() < self.chaos.bad:
            return TrainingFailed(at=self.now, action=action.id, reason="simulated", cpu_seconds=cost)
        self.versions += 1
        return TrainingFinished(at=self.now, action=action.id, version=self.versions, run="run", cpu_seconds=cost)

    def _burn(self, deed: Deed, action: StartTraining) -> float:
        burned = self.random.random() * max((_CPU if action.cpu_limit is None else action.cpu_limit) - deed.spent, 0.0)
        deed.spent += burned
        self.burned.append((day_of(self.now), action.id, burned))
        return deed.spent

    def _draw(self) -> Verdict:
        fate = self.random.random()
        if fate < 0.7:
            return "pass"
        return "fail" if fate < 0.85 else "inconclusive"

    # ------------------------------------------------------------ messages

    def send(self, event: Events) -> None:
        """Put an event on its way, perhaps more than once."""
        self.messages.append(event)
        while self.random.random() < self.chaos.double:
            self.messages.append(event)

    def crash(self) -> None:
        """The controller dies: half of the messages are lost, and half of what runs is killed."""
        self.messages = [message for message in self.messages if self.random.random() < 0.5]
        for deed in [deed for deed in self.running if self.random.random() < 0.5]:
            self.running.remove(deed)
            deed.running, deed.answer = False, None
            if isinstance(deed.action, StartTraining):
                self._burn(deed, deed.action)
