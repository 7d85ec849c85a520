"""What would this policy have done last year? History replayed through the same ``decide``, under a virtual clock.

Each simulated day: rows whose event falls into it are routed and scored as the endpoint would have, labels become known at
their time, monitors are evaluated, ``decide`` is told, and what it asks for is done at once on what was known by then. Nothing of the
future is seen, no process is started, and nothing is written. The monitors, the gates, the look at a shadow and the
evidence of a canary are the very functions that the controller calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from time import process_time

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.durations import parse_duration
from kilter.core.errors import KilterError
from kilter.data.dataset import Dataset
from kilter.data.windows import LABEL
from kilter.evaluation.declare import auc, log_loss
from kilter.evaluation.metrics import row_losses
from kilter.evaluation.metrics import value as metric_value
from kilter.loop.building import Fitted, Predicts, fit, inputs_of, judge_gates, profile, table_of, with_truth
from kilter.loop.decide import decide
from kilter.loop.declare import AnyLoop
from kilter.loop.policy import Policy
from kilter.loop.records import (
    ActionFailed,
    Actions,
    AlarmCleared,
    AlarmRaised,
    Applied,
    CanaryJudged,
    Events,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    LoopState,
    Mark,
    Notify,
    Promote,
    RollBack,
    SetTraffic,
    ShadowJudged,
    StartTraining,
    Tick,
    TrafficSet,
    TrainingFailed,
    TrainingFinished,
)
from kilter.loop.rules.steps import canary_of, primary_metric, shadow_of
from kilter.loop.summary import traffic_of
from kilter.monitoring.declare import Drift
from kilter.monitoring.profile import ReferenceProfile
from kilter.monitoring.rules import evaluate_frame
from kilter.packaging.formats import export
from kilter.packaging.loading import load_model
from kilter.packaging.native import ModelSpec
from kilter.release import rules, shadow
from kilter.serving.answering.router import Router

Floats = NDArray[np.float64]
DAY = timedelta(days=1)
_THE_END = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Variant:
    """A policy to compare.

    Args:
        name: What to call it.
        change: What it changes in the declared policy.
        blind: Deploy every challenger without judging it, trained on the newest rows without keeping a holdout.
    """

    name: str
    change: Callable[[Policy], Policy] = lambda policy: policy
    blind: bool = False


def _blind(policy: Policy, on: tuple[str, ...], every: float | None, cooldown: float) -> Policy:
    return msgspec.structs.replace(
        policy,
        on=on,
        every=every,
        cooldown=cooldown,
        shadow_bake=None,
        canary_steps=(),
        approval="auto",
        budget=None,
        keep_warm=0.0,
    )


DECLARED = Variant("loop")
FROZEN = Variant("frozen", lambda policy: msgspec.structs.replace(policy, on=(), every=None))
BLIND_MONTHLY = Variant("blind monthly", lambda policy: _blind(policy, (), 30 * 86400.0, 0.0), blind=True)
ALARM_DEPLOYS = Variant(
    "psi alarm deploys", lambda policy: _blind(policy, ("drift(psi)",), None, 14 * 86400.0), blind=True
)
POLICIES = (FROZEN, DECLARED, BLIND_MONTHLY, ALARM_DEPLOYS)


class Moment(msgspec.Struct, frozen=True):
    """Something that a policy did.

    Args:
        at: When, by the virtual clock.
        what: In one line.
        version: Which version, or None.
    """

    at: datetime
    what: str
    version: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have come to.

    Args:
        name: The policy.
        log_loss: Mean log loss of the answers, over all rows with a label.
        auc: Area under the ROC curve of the same answers.
        rows: How many rows that is.
        deployments: Changes of the champion after the first.
        trainings: Challengers trained after the first champion.
        refusals: Challengers that were refused, or stayed unproven.
        rollbacks: Releases that were taken back.
        cpu_seconds: CPU time of the trainings, the first included.
        timeline: What happened, in order.
        daily: Per day the mean log loss of the answers.
    """

    name: str
    log_loss: float
    auc: float
    rows: int
    deployments: int
    trainings: int
    refusals: int
    rollbacks: int
    cpu_seconds: float
    timeline: tuple[Moment, ...]
    daily: tuple[tuple[date, float], ...]


class _Native:
    """A fitted model in its native library, as it would be served, without a store."""

    def __init__(self, fitted: Fitted) -> None:
        exported = export(fitted.model, "binary")
        spec = ModelSpec(flavor=exported.flavor, columns=len(fitted.training.names), iterations=exported.iterations)
        self._model = load_model(spec, exported.data)

    def predict(self, matrix: Floats, /) -> Floats:
        held = np.ascontiguousarray(matrix, dtype="<f8")
        answers = self._model.predict(held.tobytes(), *held.shape) if len(held) else b""
        return np.frombuffer(answers, dtype="<f8").copy()


class Trainer:
    """Trains on what was known at a moment, once per moment: compared policies share their trainings.

    Args:
        loop: The declaration.
        prepared: All rows of history with features and labels, from ``building.prepare``.
        load: From a fitted model to something that predicts; the default is its native library.
    """

    def __init__(self, loop: AnyLoop, prepared: pl.DataFrame, load: Callable[[Fitted], Predicts] = _Native) -> None:
        self.loop = loop
        self.table = table_of(loop)
        self.prepared = with_truth(loop, prepared, _THE_END).sort(self.table.time, self.table.key)
        self._load = load
        self._kept: dict[tuple[datetime, bool], tuple[Fitted, Predicts, ReferenceProfile, float]] = {}

    def train(self, at: datetime, *, holdout: bool) -> tuple[Fitted, Predicts, ReferenceProfile, float]:
        """Return the fitted model, what predicts, its profile, and the CPU seconds that the training took."""
        key = (at, holdout)
        if key not in self._kept:
            began = process_time()
            fitted = fit(self.loop, self.prepared, at, holdout=holdout)
            runtime = self._load(fitted)
            self._kept[key] = (fitted, runtime, profile(fitted, runtime), process_time() - began)
        return self._kept[key]


@dataclass
class _Version:
    fitted: Fitted
    runtime: Predicts
    reference: ReferenceProfile


@dataclass
class _Replay:
    """One policy on its way through history."""

    trainer: Trainer
    variant: Variant
    state: LoopState
    start: datetime
    versions: dict[int, _Version] = field(default_factory=dict)
    traffic: SetTraffic | None = None
    canary_since: datetime | None = None
    answered: list[pl.DataFrame] = field(default_factory=list)
    timeline: list[Moment] = field(default_factory=list)
    promotions: int = 0
    refusals: int = 0
    rollbacks: int = 0
    cpu: float = 0.0

    # ------------------------------------------------------------ deciding

    def tell(self, event: Events) -> None:
        """Tell ``decide``, and do what it asks until it asks no more."""
        todo: list[Events] = [event]
        while todo:
            self.state, actions = decide(self.state, todo.pop(0))
            for action in actions:
                answer = self._do(action, self.state.now or event.at)
                if answer is not None:
                    todo.append(answer)

    def _do(self, action: Actions, now: datetime) -> Events | None:
        match action:
            case StartTraining():
                return self._train(action, now)
            case JudgeGates():
                return self._judge(action, now)
            case JudgeShadow():
                return self._look(action, now)
            case SetTraffic() | Promote() | RollBack():
                return self._steer(action, now)
            case Mark():
                self._note(action, now)
            case Notify():
                self.timeline.append(Moment(now, f"told {action.to}: {action.title}"))
        return None

    def _train(self, action: StartTraining, now: datetime) -> Events:
        try:
            fitted, runtime, reference, cost = self.trainer.train(
                action.at, holdout=not self.variant.blind or not self.versions
            )
        except KilterError as error:
            return TrainingFailed(at=now, action=action.id, reason=str(error))
        version = len(self.versions) + 1
        self.versions[version] = _Version(fitted, runtime, reference)
        self.cpu += cost
        self.timeline.append(Moment(now, f"trained ({action.trigger})", version))
        return TrainingFinished(at=now, action=action.id, version=version, run="", cpu_seconds=cost)

    def _judge(self, action: JudgeGates, now: datetime) -> Events:
        if self.variant.blind:
            return GatesJudged(at=now, action=action.id, version=action.version, verdict="pass", findings=())
        one = self.versions[action.version]
        kept = one.fitted.holdout
        if kept is None:
            return ActionFailed(at=now, action=action.id, reason="no holdout", retryable=False)
        champion = None if action.champion is None else self._values(action.champion, kept)
        verdict, findings = judge_gates(self.trainer.loop, kept, one.runtime, champion, base_rate=one.fitted.base_rate)
        for finding in findings:
            self.timeline.append(Moment(now, finding.sentence(), action.version))
        return GatesJudged(at=now, action=action.id, version=action.version, verdict=verdict, findings=findings)

    def _values(self, version: int, kept: Dataset) -> Floats:
        one = self.versions[version]
        return one.runtime.predict(one.fitted.training.encoding.matrix(kept.frame))

    def _look(self, action: JudgeShadow, now: datetime) -> Events:
        joined = self._joined(action.since, now)
        step = shadow_of(self.trainer.loop)
        metric = primary_metric(self.trainer.loop)
        finding = shadow.look(joined, metric, step.confidence, action.look, guards=step.guards)
        self.timeline.append(Moment(now, finding.sentence(), action.version))
        return ShadowJudged(at=now, action=action.id, version=action.version, verdict=finding.verdict, finding=finding)

    def _steer(self, action: SetTraffic | Promote | RollBack, now: datetime) -> Events:
        before = self.traffic
        self.traffic = traffic_of(action)
        if self.traffic.mode == "canary" and (before is None or before.mode != "canary"):
            self.canary_since = now
        if isinstance(action, Promote):
            self.promotions += action.previous is not None
        if isinstance(action, RollBack):
            self.rollbacks += 1
        return TrafficSet(at=now, action=action.id)

    def _note(self, mark: Mark, now: datetime) -> None:
        if mark.stage in {"rejected", "inconclusive"}:
            self.refusals += 1
        self.timeline.append(Moment(now, f"{mark.stage}: {mark.reason}", mark.version))

    # ------------------------------------------------------------ time passes

    def pass_day(self, rows: pl.DataFrame, end: datetime) -> None:
        """Answer a day's rows, then let the day's end be known."""
        if self.traffic is not None and rows.height:
            self.answered.append(self._answer(rows))
        self._watch(end)
        self.tell(Tick(at=end))

    def _answer(self, rows: pl.DataFrame) -> pl.DataFrame:
        traffic = self.traffic
        assert traffic is not None  # noqa: S101 - the caller asked
        table = self.trainer.table
        champion = self._scored(traffic.champion, rows)
        values, versions = champion, np.full(rows.height, traffic.champion)
        arms = np.full(rows.height, "champion", dtype=object)
        shadowed: Floats | None = None
        if traffic.challenger is not None and traffic.mode == "shadow":
            shadowed = self._scored(traffic.challenger, rows)
        elif traffic.challenger is not None:
            router = Router(self.state.policy.loop, traffic.challenger, traffic.share)
            taken = np.array([router.arm(str(key)) == "challenger" for key in rows[table.key]])
            values = np.where(taken, self._scored(traffic.challenger, rows), champion)
            versions[taken] = traffic.challenger
            arms[taken] = "challenger"
        return rows.select(
            pl.col(table.key).cast(pl.String).alias("key"),
            pl.col(table.time).alias("time"),
            pl.col(table.time).alias("at"),
            pl.col(LABEL).alias("label"),
            pl.col(self.trainer.loop.label.known_at).alias("label_at"),
            *(pl.col(name).alias(f"x_{name}") for name in inputs_of(self.trainer.loop)),
        ).with_columns(
            pl.Series("value", values),
            pl.Series("version", versions, dtype=pl.Int64),
            pl.Series("arm", arms.tolist(), dtype=pl.String),
            pl.lit(traffic.share if traffic.mode == "canary" else 0, dtype=pl.Int64).alias("share"),
            pl.Series("shadow_value", np.full(rows.height, np.nan) if shadowed is None else shadowed).fill_nan(None),
            pl.lit(traffic.challenger if traffic.mode == "shadow" else None, dtype=pl.Int64).alias("shadow_version"),
        )

    def _scored(self, version: int, rows: pl.DataFrame) -> Floats:
        one = self.versions[version]
        return one.runtime.predict(one.fitted.training.encoding.matrix(rows))

    def _recent(self, since: datetime, now: datetime, *, inputs: bool = False) -> pl.DataFrame:
        """Return answered rows with the labels that are known now, and their inputs if asked."""
        frames = [frame for frame in self.answered[-(now - since).days - 2 :] if frame.height]
        if not frames:
            return pl.DataFrame()
        known = pl.col("label_at") <= now
        wanted = [name for name in frames[0].columns if inputs or not name.startswith("x_")]
        return (
            pl.concat([frame.select(wanted) for frame in frames])
            .filter((pl.col("at") >= since) & (pl.col("at") < now))
            .with_columns(pl.when(known).then("label"), pl.when(known).then("label_at"))
        )

    def _joined(self, since: datetime, now: datetime) -> pl.DataFrame:
        rows = self._recent(since, now)
        if not rows.height:
            return rows
        return rows.filter(pl.col("label").is_not_null()).sort(pl.max_horizontal("at", "label_at"), "key")

    def _watch(self, now: datetime) -> None:
        champion = self.state.champion
        if champion is None:
            return
        release = self.state.release
        if (
            release is not None
            and release.work == "canary"
            and release.version is not None
            and self.canary_since is not None
        ):
            joined = self._joined(self.canary_since, now)
            if joined.height:
                metric, step = primary_metric(self.trainer.loop), canary_of(self.trainer.loop)
                kept = rules.canary_rows(joined, self.state.policy.loop, release.version, self.canary_since)
                finding = rules.judge_rows(kept, step, metric, now).decided
                if finding.verdict != release.evidence:
                    self.timeline.append(Moment(now, finding.sentence(), release.version))
                    self.tell(CanaryJudged(at=now, version=release.version, verdict=finding.verdict, finding=finding))
        watched = [monitor for monitor in self.trainer.loop.monitors if monitor.name in self.state.policy.on]
        if not watched:
            return
        back = max(parse_duration(monitor.over) for monitor in watched) + 2 * DAY
        rows = self._recent(now - back, now, inputs=any(isinstance(monitor, Drift) for monitor in watched))
        if not rows.height:
            return
        for monitor, finding, raised in evaluate_frame(
            watched, rows, self.versions[champion].reference, now, version=champion
        ):
            if raised and monitor not in self.state.alarms:
                self.timeline.append(Moment(now, finding.sentence(), champion))
                self.tell(AlarmRaised(at=now, monitor=monitor, version=champion, finding=finding))
            elif not raised and monitor in self.state.alarms:
                self.tell(AlarmCleared(at=now, monitor=monitor, version=champion, finding=finding))

    def outcome(self) -> Outcome:
        """Return what it came to."""
        answers = pl.concat(self.answered).filter(pl.col("label").is_not_null())
        y, p = answers["label"].to_numpy(), answers["value"].to_numpy()
        losses = row_losses(log_loss, y, p)
        assert losses is not None  # noqa: S101 - log loss has a loss per row
        daily = (
            answers.select(pl.col("time").dt.date().alias("day"), pl.Series("loss", losses))
            .group_by("day")
            .agg(pl.col("loss").mean())
            .sort("day")
        )
        return Outcome(
            name=self.variant.name,
            log_loss=float(losses.mean()),
            auc=float(metric_value(auc, y, p)),
            rows=answers.height,
            deployments=self.promotions,
            trainings=max(0, len(self.versions) - 1),
            refusals=self.refusals,
            rollbacks=self.rollbacks,
            cpu_seconds=self.cpu,
            timeline=tuple(self.timeline),
            daily=tuple(daily.iter_rows()),
        )


def backtest(
    trainer: Trainer,
    policy: Policy,
    start: datetime,
    end: datetime,
    variants: Sequence[Variant] = POLICIES,
    progress: Callable[[str, datetime], None] | None = None,
) -> tuple[Outcome, ...]:
    """Replay history once per policy.

    Args:
        trainer: The declaration and the rows.
        policy: The declared policy, from ``policy.policy_of``.
        start: The first champion is trained then, on what was known.
        end: The replay ends then; both in UTC.
        variants: The policies to compare.
        progress: Called with the policy's name and each simulated day.

    Returns:
        One outcome per policy, in order.
    """
    table = trainer.table
    times = trainer.prepared[table.time]
    outcomes: list[Outcome] = []
    for variant in variants:
        changed = msgspec.structs.replace(variant.change(policy), approval="auto", batches=())
        replay = _Replay(trainer, variant, LoopState(policy=changed), start)
        replay.tell(Applied(at=start, policy=changed))
        day = start
        while day < end:
            low, high = times.search_sorted(day), times.search_sorted(min(day + DAY, end))
            replay.pass_day(trainer.prepared[low:high], min(day + DAY, end))
            day += DAY
            if progress is not None:
                progress(variant.name, day)
        outcomes.append(replay.outcome())
    return tuple(outcomes)
