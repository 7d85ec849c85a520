"""A study in the store: the runs are its only truth, and everything else is read from them.

The study is a run; trial ``n`` is a run below it, begun under the idempotency key ``STUDY/n/ATTEMPT``, so that of all processes
that work on a study exactly one gets it. A trial whose process was killed is begun again once, with the values that it had.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from kilter.core.digests import digest_json
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.loop.tuning.processes import is_gone, this_process
from kilter.loop.tuning.records import Goal, StudySpec, TrialRecord, TrialState
from kilter.loop.tuning.search import Search
from kilter.loop.tuning.space import Point, grid_size, values_at
from kilter.tracking.records import MetricPoint, Run, Status, spelled
from kilter.tracking.service import RunService

PARENT: Final = "mlflow.parentRunId"
"""Where every tracking tool looks for the run that a run belongs to."""
STUDY: Final = "kilter.study"
SPEC: Final = "study.json"
TRIAL: Final = "kilter.trial"
ATTEMPT: Final = "kilter.attempt"
POINT: Final = "kilter.point"
OUTCOME: Final = "kilter.outcome"
CLAIM: Final = "kilter.claim"
WORKER: Final = "kilter.worker"
CPU: Final = "cpu_seconds"

STOPPED: Final = "stopped from outside"
"""The reason of a trial that somebody stopped on purpose: it does not count as killed."""
KILLED: Final = "its process was killed"

PATIENCE: Final = 30.0
"""Seconds after its last sign of life from which a trial counts as interrupted elsewhere."""
_PAGE: Final = 200
_STATES: Final[dict[str, TrialState]] = {
    "RUNNING": "running",
    "SCHEDULED": "running",
    "FINISHED": "complete",
    "FAILED": "failed",
    "INTERRUPTED": "interrupted",
}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that this process is to run."""

    number: int
    attempt: int
    run: str
    params: dict[str, Any]
    point: Point
    seed: int


class Study:
    """A study that this process works on.

    Args:
        runs: Where the runs are.
        spec: What is searched.
        parent: The study's run.
    """

    def __init__(self, runs: RunService, spec: StudySpec, parent: Run) -> None:
        self.runs, self.spec, self.parent = runs, spec, parent
        self.search = Search(spec)
        self.trials: dict[int, TrialRecord] = {}
        self._points: dict[int, Point] = {}
        self._ended: set[str] = set()
        self._mine: set[str] = set()
        self._killed: dict[int, int] = {}
        self._attempts: dict[int, int] = {}
        self._read = False

    @classmethod
    def open(cls, runs: RunService, spec: StudySpec, experiment: str) -> Study:
        """Begin a study, or join the one of this name.

        Raises:
            Conflict: When the study of this name searches something else.
            InvalidInput: When sampler, pruner and space don't go together.
        """
        check(spec)
        text = msgspec.json.encode(spec).decode()
        parent = runs.start(
            experiment,
            name=spec.name,
            params={"sampler": spec.sampler, "pruner": spec.pruner.kind, "trials_of": spec.kind},
            tags={STUDY: spec.name},
            seed=spec.seed,
            spec=digest_json(spec),
            key=key_of(spec.name),
            patience=PATIENCE,
        )
        if parent.spec != digest_json(spec):
            raise Conflict(
                f"the study {spec.name!r} searches something else",
                where="study",
                fix="give the new search another name with --study, or leave the name out",
            )
        if parent.status != "RUNNING":
            parent = runs.change(parent.id, status="RUNNING")
        runs.heartbeat(parent.id)
        if all(one.name != SPEC for one in parent.artifacts):
            runs.log_artifact(parent.id, SPEC, text.encode())
        return cls(runs, spec, parent)

    # ------------------------------------------------------------ reading

    def refresh(self) -> None:
        """Read what other processes did; what this one did it knows."""
        first = not self._read
        cursor = None
        known = dict(self.trials)
        while True:
            page = self.runs.list(
                self.parent.experiment, below(self.parent.id), "-started", _PAGE if first else 20, cursor
            )
            met = False
            for run in page.runs:
                met = met or run.id in self._ended
                self._note(run)
            cursor = page.cursor
            if cursor is None or (met and not first):
                break
        for one in known.values():  # those that went on while newer ones came
            if one.state == "running" and one.run not in self._mine and self.trials[one.number] is one:
                self._note(self.runs.get(one.run))
        self._read = True
        self._tell()

    def unfinished(self) -> list[TrialRecord]:
        """Return the trials that other processes are running."""
        return [one for one in self.trials.values() if one.state == "running" and one.run not in self._mine]

    def to_repeat(self) -> list[int]:
        """Return the trials whose process was killed once, or that were stopped."""
        return sorted(
            number
            for number, one in self.trials.items()
            if one.state == "interrupted" and self._killed.get(number, 0) < 2
        )

    def open_numbers(self, trials: int) -> bool:
        """Return whether there is a trial that nobody has begun."""
        return bool(self.to_repeat()) or any(number not in self.trials for number in range(self.most(trials)))

    def most(self, trials: int) -> int:
        """Return how many trials there can be: a grid ends by itself."""
        if self.spec.sampler != "grid":
            return trials
        return min(trials, grid_size(self.spec.space) + len(self.spec.first))

    def cpu_seconds(self) -> float:
        """Return what all trials have cost so far."""
        return sum(one.cpu_seconds for one in self.trials.values())

    # ------------------------------------------------------------ working

    def claim(self, trials: int) -> Claim | None:
        """Take the next trial, or return None when all are taken.

        Args:
            trials: How many the study is to have in all.
        """
        while True:
            again = self.to_repeat()
            number = again[0] if again else next((n for n in range(self.most(trials)) if n not in self.trials), None)
            if number is None:
                return None
            claimed = self._begin(number)
            if claimed is not None:
                return claimed

    def _begin(self, number: int) -> Claim | None:
        attempt = self._attempts.get(number, -1) + 1
        point = self._points.get(number)
        if point is None:
            point = self.search.ask(number)
        params = values_at(self.spec.space, point)
        token = secrets.token_hex(8)
        seed = (self.spec.seed + number) % 2**31
        run = self.runs.start(
            self.parent.experiment,
            name=f"{self.spec.name} {number}" + (f" again ({attempt})" if attempt else ""),
            params=params,
            tags={
                PARENT: self.parent.id,
                TRIAL: str(number),
                ATTEMPT: str(attempt),
                POINT: msgspec.json.encode(point).decode(),
                CLAIM: token,
                WORKER: this_process(),
            },
            seed=seed,
            spec=self.parent.spec,
            key=f"{self.parent.id}/{number}/{attempt}",
            patience=PATIENCE,
        )
        mine = run.tags.get(CLAIM) == token
        if mine:
            self._mine.add(run.id)
        self._note(run)
        self._tell()
        return (
            Claim(number=number, attempt=attempt, run=run.id, params=params, point=point, seed=seed) if mine else None
        )

    def report(self, claim: Claim, points: Sequence[MetricPoint]) -> None:
        """Write what a trial has reached at some steps, for everybody to see."""
        if points:
            self.runs.log_metrics(claim.run, points)

    def end(
        self,
        claim: Claim,
        state: TrialState,
        values: Sequence[float] | None = None,
        *,
        reason: str = "",
        cpu_seconds: float = 0.0,
        reports: Mapping[int, float] | None = None,
        logged: bool = False,
    ) -> TrialRecord:
        """Write how a trial of this process ended.

        Args:
            claim: The trial.
            state: How it ended.
            values: What came of it, one per goal.
            reason: Why it failed or was interrupted.
            cpu_seconds: What it cost.
            reports: What it had reported, by step.
            logged: The values stand in its run already.
        """
        if state == "complete" and (values is None or any(math.isnan(value) for value in values)):
            state, reason = "failed", reason or "the objective gave no number"
        known = reports or {}
        points = [MetricPoint(name=CPU, value=cpu_seconds)]
        if state == "complete" and values is not None and not logged:
            last = max(known, default=-1)
            for goal, value in zip(self.spec.goals, values, strict=True):
                if last < 0 or len(values) > 1 or known[last] != value:
                    points.append(MetricPoint(name=goal.metric, value=spelled(float(value)), step=last + 1))
        if state == "interrupted":
            points = []
        tags = {OUTCOME: "pruned"} if state == "pruned" else {}
        if points or tags:
            self.runs.log_batch(claim.run, points, tags=tags)
        status = {"failed": "FAILED", "interrupted": "INTERRUPTED"}.get(state, "FINISHED")
        run = self.runs.finish(claim.run, status, reason)  # type: ignore[arg-type]
        self._mine.discard(claim.run)
        for step, value in sorted(known.items()):
            self.search.report(claim.number, step, value)
        self._note(run)
        self._tell()
        return self.trials[claim.number]

    def heartbeat(self) -> None:
        """Say that the study and this process's trials are alive."""
        for run in (self.parent.id, *tuple(self._mine)):
            self.runs.heartbeat(run)

    def bury(self) -> None:
        """Mark as interrupted what processes of this machine left behind when they were killed, and what gave no sign for long."""
        for one in self.unfinished():
            run = self.runs.get(one.run)
            if run.status == "RUNNING" and is_gone(run.tags.get(WORKER, "")):
                self._note(self.runs.finish(run.id, "INTERRUPTED", KILLED))
        self.runs.interrupt_orphans()

    def close(self, *, stopped: bool = False, failed: str = "") -> None:
        """End this process's work; the study's run ends when no trial is left that another process works on."""
        self.refresh()
        if self.unfinished():
            return
        status: Status = "INTERRUPTED" if stopped else "FAILED" if failed else "FINISHED"
        self.runs.change(self.parent.id, status="RUNNING")  # another process may have ended it in its own way
        self.runs.finish(self.parent.id, status, STOPPED if stopped else failed)

    # ------------------------------------------------------------ within

    def _note(self, run: Run) -> None:
        """Take a trial's run into account; a later attempt goes before an earlier one, unless that has ended well."""
        one = trial_of(run, self.spec.goals)
        if one is None:
            return
        point = point_in(run)
        if point is not None:
            self._points.setdefault(one.number, point)
        self._attempts[one.number] = max(self._attempts.get(one.number, -1), one.attempt)
        if one.state != "running" and run.id not in self._ended:
            self._ended.add(run.id)
            if one.state == "interrupted" and run.reason != STOPPED:
                self._killed[one.number] = self._killed.get(one.number, 0) + 1
        before = self.trials.get(one.number)
        if before is None or before.run == one.run or (before.state == "interrupted" and one.attempt > before.attempt):
            self.trials[one.number] = one

    def _tell(self) -> None:
        """Hand Optuna what it does not know yet, in the order of the numbers."""
        for number in sorted(self.trials):
            one = self.trials[number]
            if one.state == "running" or (one.state == "interrupted" and self._killed.get(number, 0) < 2):
                if number in self._points:
                    self.search.place(number, self._points[number])
                continue
            if not self.search.knows(number):
                self.search.place(number, self._points.get(number, {}))
                if one.state == "pruned" or self.spec.pruner.kind != "none":
                    for point in self.runs.metrics(one.run, self.spec.goals[0].metric):
                        self.search.report(number, point.step, point.number)
                values = None if one.values is None else [float(value) for value in one.values]
                self.search.tell(number, one.state, values)


def check(spec: StudySpec) -> None:
    """Refuse what can't be searched together.

    Raises:
        InvalidInput: Saying what is allowed.
    """
    if not spec.name or len(spec.name) > 150:
        raise InvalidInput(f"{spec.name!r} can't be the name of a study", where="study", allowed="1 to 150 letters")
    if not spec.goals:
        raise InvalidInput("there is no metric", where="metric", allowed="at least one")
    if len({goal.metric for goal in spec.goals}) < len(spec.goals):
        raise InvalidInput("a metric is there twice", where="metric", allowed="each metric once")
    if len(spec.goals) > 1 and spec.sampler == "cma-es":
        raise InvalidInput("cma-es improves one metric", where="sampler", allowed="tpe, random or grid for several")
    if len(spec.goals) > 1 and spec.pruner.kind != "none":
        raise InvalidInput("trials can't be stopped early for several metrics", where="pruner", allowed="none")
    if spec.sampler == "cma-es" and sum(one.kind != "choice" for one in spec.space) < 2:
        raise InvalidInput("cma-es needs two numbers to search over", where="sampler", allowed="tpe, random or grid")
    if spec.sampler == "grid":
        grid_size(spec.space)
    pruner = spec.pruner
    if pruner.first < 1 or pruner.factor < 2 or (pruner.last is not None and pruner.last <= pruner.first):
        raise InvalidInput(
            f"{pruner}", where="pruner", allowed="first of 1 or more, factor of 2 or more, last above first"
        )


def key_of(name: str) -> str:
    """Return the idempotency key of a study's run: there is one study of a name."""
    return f"study/{name}"


def below(parent: str) -> str:
    """Return the filter for the trials of a study."""
    return f"tags.`{PARENT}` = '{parent}'"


def trial_of(run: Run, goals: Sequence[Goal]) -> TrialRecord | None:
    """Return the trial that a run is, or None when it is none: other runs may lie below a study too."""
    if TRIAL not in run.tags:
        return None
    state = _STATES[run.status]
    if state == "complete" and run.tags.get(OUTCOME) == "pruned":
        state = "pruned"
    values = [run.metric(goal.metric) for goal in goals]
    newest = next((one.last_step for one in run.metrics if one.name == goals[0].metric), None)
    complete = state == "complete" and all(value is not None for value in values)
    return TrialRecord(
        number=int(run.tags[TRIAL]),
        attempt=int(run.tags.get(ATTEMPT, "0")),
        run=run.id,
        state=state,
        params=run.params,
        values=tuple(spelled(value) for value in values if value is not None) if complete else None,
        reason=run.reason,
        started_at=run.started_at,
        ended_at=run.ended_at,
        cpu_seconds=run.metric(CPU) or 0.0,
        steps=newest,
    )


def point_in(run: Run) -> Point | None:
    """Return where a trial's run looks."""
    text = run.tags.get(POINT)
    return None if text is None else msgspec.json.decode(text, type=dict[str, Any])


def find(runs: RunService, name: str) -> Run:
    """Return a study's run.

    Raises:
        NotFound: When there is no such study.
    """
    quoted = name.replace("'", "")
    found = runs.list(filter=f"tags.`{STUDY}` = '{quoted}'", limit=1).runs
    if not found or quoted != name:
        raise NotFound(f"there is no study {name!r}", where="study", fix="see `kilter tune list`")
    return found[0]


def every(runs: RunService, parent: Run) -> Iterator[Run]:
    """Return the runs below a study, page by page, the oldest first."""
    cursor = None
    while True:
        page = runs.list(parent.experiment, below(parent.id), "started", 1000, cursor)
        yield from page.runs
        cursor = page.cursor
        if cursor is None:
            return


def spec_in(runs: RunService, parent: Run) -> StudySpec:
    """Return what a study searches, from the file beside its run."""
    return msgspec.json.decode(runs.artifact(parent.id, SPEC), type=StudySpec)
