"""Experiments on an endpoint: versions share the traffic, and are compared, without a champion being made or unmade.

The first arm, the control, is what answers without the experiment. While one runs, the loop's releases are frozen; a
rollback is free, and ends it. What is known is computed from the prediction log and the outcomes each time it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from kilter.core.clock import Clock
from kilter.core.digests import digest_json
from kilter.core.durations import parse_duration
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.data.service import DataService
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.journal.service import Journal
from kilter.loop.declaration.experiment_checks import check_experiment
from kilter.loop.experiment_rows import ExperimentRows
from kilter.loop.ledger import Fence, Ledger
from kilter.loop.records import FreezeRequested, UnfreezeRequested
from kilter.operations.table import operation
from kilter.registry.service import ModelService
from kilter.release import experiment as statistics
from kilter.release.records import Allocation, Arm, ArmResult, ExperimentPlan, ExperimentStatus, Phase
from kilter.release.service import ReleaseService
from kilter.release.tables import experiments
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService


class ExperimentService:
    """Experiments: A/B tests and bandits.

    Args:
        database: The store's metadata.
        objects: Where the text of declarations is.
        journal: What happened.
        ledger: Where loops are told.
        models: Versions and their bundles.
        data: Rows with labels.
        endpoints: Plans.
        releases: The values of business metrics.
        clock: The time.
        logs: The folder of the prediction logs.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        journal: Journal,
        ledger: Ledger,
        models: ModelService,
        data: DataService,
        endpoints: EndpointService,
        releases: ReleaseService,
        clock: Clock,
        logs: Path,
    ) -> None:
        self._database = database
        self._journal = journal
        self._ledger = ledger
        self._models = models
        self._endpoints = endpoints
        self._clock = clock
        self._rows = ExperimentRows(database, objects, ledger, data, releases, logs)

    # ---------------------------------------------------------------- starting and stopping

    @operation(writes=True)
    def start(
        self,
        loop: str,
        name: str,
        arms: Sequence[Arm],
        metric: str,
        low: float = 0.0,
        high: float = 1.0,
        greater_is_better: bool = True,
        within: str | None = None,
        missing: float | None = None,
        confidence: float = 0.95,
        pre: str = "",
        allocation: Allocation = "fixed",
        every: str = "1h",
        floor: float = 0.05,
        by: str = "",
    ) -> ExperimentStatus:
        """Let several versions share an endpoint's traffic, and compare them; the first arm is the control.

        Args:
            loop: The endpoint.
            name: The experiment's name.
            arms: Two or more; the first is the version that answers now.
            metric: ``loss`` (of the loop's labels), ``errors``, or the name of a business metric that is observed.
            low: The least value of the metric; smaller ones are cut.
            high: The greatest value.
            greater_is_better: Which way is up; ``loss`` and ``errors`` are always better when less.
            within: How long after its prediction a value may come: ``"2d"``.
            missing: What a row without a value counts as; goes with ``within``.
            confidence: One minus the chance of any false ``better`` or ``worse``.
            pre: The period before the start that is used for CUPED: ``"28d"``; empty for none.
            allocation: ``fixed``, or ``thompson`` to follow the chance of being best.
            every: How often ``thompson`` draws the shares anew.
            floor: The least share of an arm under ``thompson``.
            by: Who asks.

        Raises:
            InvalidInput: When the experiment can't work.
            Conflict: When the endpoint is busy: a release has traffic, another experiment runs, or the name was used.
        """
        loss = metric in {"loss", "errors"}
        plan = ExperimentPlan(
            loop=loop,
            name=name,
            arms=tuple(arms),
            metric=metric,
            low=0.0 if loss else low,
            high=1.0 if loss else high,
            greater_is_better=not loss and greater_is_better,
            within=within,
            missing=missing,
            confidence=confidence,
            pre=pre,
            allocation=allocation,
            every=every,
            floor=floor,
        )
        check_experiment(plan, loops=self._ledger.names())
        now = self._clock.now()
        before = self._free(plan)
        bundles = {arm.version: self._models.get(loop, arm.version).bundle for arm in plan.arms}
        split = _shares(plan)
        serves = replace(before, mode="split", split=split, experiment=name, bundles=before.bundles | bundles)
        said = {"name": name, "metric": metric, "arms": msgspec.to_builtins(plan.arms), "by": by}
        with self._database.transaction() as connection:
            self._endpoints.set_plan(serves, connection, instead_of=before.generation)
            connection.execute(
                experiments.insert().values(
                    loop=loop,
                    name=name,
                    plan=msgspec.to_builtins(plan),
                    weights=[split[arm.version] for arm in plan.arms],
                    starts=self._rows.ends(),
                    started_at=now,
                    weighed_at=now,
                    stopped_at=None,
                    reason="",
                )
            )
            if loop in self._ledger.names():
                hold = FreezeRequested(at=now, by=by, reason=f"experiment {name} runs", name=_hold(name))
                self._ledger.feed_in(connection, loop, hold)
            self._journal.append(connection, "ExperimentStarted", loop, said, at=now)
        return self.status(loop, name)

    @operation(writes=True, repeatable=True)
    def stop(self, loop: str, name: str, reason: str = "", by: str = "") -> ExperimentStatus:
        """End an experiment: the control answers everything again, and releases go on.

        Args:
            loop: The endpoint.
            name: The experiment's name.
            reason: Why.
            by: Who asks.
        """
        row = self._row(loop, name)
        if row.stopped_at is None:
            now = self._clock.now()
            serves = self._endpoints.plan(loop)
            with self._database.transaction() as connection:
                if serves.mode == "split" and serves.experiment == name:
                    kept = {version: serves.bundles[version] for version in _solo(serves).versions()}
                    solo = replace(_solo(serves), bundles=kept)
                    self._endpoints.set_plan(solo, connection, instead_of=serves.generation)
                connection.execute(
                    experiments.update().where(_same(loop, name)).values(stopped_at=now, reason=reason[:500])
                )
                if loop in self._ledger.names():
                    self._ledger.feed_in(connection, loop, UnfreezeRequested(at=now, by=by, name=_hold(name)))
                said = {"name": name, "reason": reason, "by": by}
                self._journal.append(connection, "ExperimentStopped", loop, said, at=now)
        return self.status(loop, name)

    def _free(self, plan: ExperimentPlan) -> TrafficPlan:
        """Return the endpoint's plan, when an experiment may begin on it."""
        serves = self._endpoints.plan(plan.loop)
        if serves.mode != "solo":
            raise Conflict(
                f"the endpoint is in {serves.mode}" + (f" of {serves.experiment!r}" if serves.experiment else ""),
                where="experiment",
                allowed="an endpoint whose champion answers alone",
                fix="wait for the end of the release, or stop the other experiment",
            )
        if plan.arms[0].version != serves.champion:
            raise InvalidInput(
                f"the first arm is v{plan.arms[0].version}",
                where="arms[0].version",
                allowed=f"the version that answers now, v{serves.champion}: it is the control",
            )
        if plan.loop in self._ledger.names():
            release = self._ledger.row(plan.loop).state.release
            if release is not None and release.work not in {"training", "gating", "approval", "held"}:
                raise Conflict(f"a release is in {release.work}", where="experiment", fix="wait for its end")
        with self._database.reading() as connection:
            if connection.execute(sa.select(experiments.c.name).where(_same(plan.loop, plan.name))).first() is not None:
                raise Conflict("an experiment of this name was started before", where="name", fix="use another name")
        return serves

    # ---------------------------------------------------------------- looking

    @operation
    def list(self, loop: str | None = None) -> tuple[ExperimentStatus, ...]:
        """List experiments, the newest first, without their results.

        Args:
            loop: Of this endpoint only.
        """
        query = sa.select(experiments).order_by(experiments.c.started_at.desc(), experiments.c.name)
        if loop is not None:
            query = query.where(experiments.c.loop == loop)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(self._bare(row) for row in rows)

    @operation
    def status(self, loop: str, name: str) -> ExperimentStatus:
        """Return where an experiment stands: each arm against the control, valid whenever one looks.

        Args:
            loop: The endpoint.
            name: The experiment's name.
        """
        row = self._row(loop, name)
        bare = self._bare(row)
        plan = bare.plan
        arms, shares, units = self._rows.read(plan, row.starts, row.started_at, self._clock.now())
        ratio = statistics.judged_ratio(
            statistics.sample_ratio(arms, shares), statistics.sample_ratio(units.arms, units.shares)
        )
        found = statistics.compare(plan, units)
        if ratio.mismatched:
            found = tuple(replace(one, verdict="inconclusive") for one in found)
        return replace(
            bare,
            arms=tuple(
                ArmResult(
                    name=arm.name,
                    version=arm.version,
                    share=float(row.weights[place]),
                    units=int((arms == place).sum()),
                    outcomes=int((units.arms == place).sum()),
                    value=statistics.arm_value(plan, units, place),
                )
                for place, arm in enumerate(plan.arms)
            ),
            comparisons=found,
            sample_ratio=ratio,
        )

    def _bare(self, row: sa.Row[tuple[object, ...]]) -> ExperimentStatus:
        plan = msgspec.convert(row.plan, ExperimentPlan)
        try:
            serves = self._endpoints.plan(row.loop)
            here = serves.mode == "split" and serves.experiment == row.name
        except NotFound:
            here = False
        phase: Phase = "stopped" if row.stopped_at is not None else "running" if here else "interrupted"
        return ExperimentStatus(plan=plan, phase=phase, started_at=row.started_at, stopped_at=row.stopped_at)

    def _row(self, loop: str, name: str) -> sa.Row[tuple[object, ...]]:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(experiments).where(_same(loop, name))).first()
            if row is None:
                known = ", ".join(
                    connection.execute(sa.select(experiments.c.name).where(experiments.c.loop == loop)).scalars()
                )
                raise NotFound("there is no such experiment", where="name", allowed=known or "none was started here")
        return row

    # ---------------------------------------------------------------- bandits

    def weigh(self, fence: Fence | None = None) -> int:
        """Draw the shares of every bandit anew whose time has come, and return of how many.

        Args:
            fence: Called in the transaction before anything is written; raises when the caller has lost its lease.
        """
        now, done = self._clock.now(), 0
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(experiments).where(experiments.c.stopped_at.is_(None))).all()
        for row in rows:
            plan = msgspec.convert(row.plan, ExperimentPlan)
            if plan.allocation == "thompson" and now >= row.weighed_at + parse_duration(plan.every):
                done += self._weigh(row, plan, now, fence)
        return done

    def _weigh(self, row: sa.Row[tuple[object, ...]], plan: ExperimentPlan, now: datetime, fence: Fence | None) -> int:
        serves = self._endpoints.plan(plan.loop)
        if serves.mode != "split" or serves.experiment != plan.name:
            return 0
        units = self._rows.read(plan, row.starts, row.started_at, now).units
        seed = [int(digest_json([plan.loop, plan.name])[:12], 16), int(now.timestamp())]
        drawn = statistics.thompson_shares(units.arms, units.good, len(plan.arms), plan.floor, seed)
        split = {arm.version: share for arm, share in zip(plan.arms, drawn, strict=True)}
        with self._database.transaction() as connection:
            if fence is not None:
                fence(connection)
            self._endpoints.set_plan(replace(serves, split=split), connection, instead_of=serves.generation)
            changed = experiments.update().where(_same(plan.loop, plan.name))
            connection.execute(changed.values(weights=drawn, weighed_at=now))
            said = {"name": plan.name, "shares": {arm.name: split[arm.version] for arm in plan.arms}}
            self._journal.append(connection, "ExperimentWeighed", plan.loop, said, at=now)
        return 1


def carried(plan: TrafficPlan, before: TrafficPlan | None) -> TrafficPlan:
    """Return a plan with the experiment that runs on the endpoint, when it changes nothing for its control.

    Args:
        plan: The plan to be set.
        before: The plan that stands.
    """
    if before is None or before.mode != "split" or plan.mode != "solo" or plan.champion != before.champion:
        return plan
    bundles = plan.bundles | {version: before.bundles[version] for version in before.split}
    return replace(plan, mode="split", split=before.split, experiment=before.experiment, bundles=bundles)


def _shares(plan: ExperimentPlan) -> dict[int, float]:
    whole = sum(arm.share for arm in plan.arms)
    return {arm.version: arm.share / whole for arm in plan.arms}


def _solo(plan: TrafficPlan) -> TrafficPlan:
    return replace(plan, mode="solo", split={}, experiment="")


def _same(loop: str, name: str) -> sa.ColumnElement[bool]:
    return (experiments.c.loop == loop) & (experiments.c.name == name)


def _hold(name: str) -> str:
    return f"experiment {name}"
