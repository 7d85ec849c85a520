"""Judging releases, and showing what the verdicts rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import msgspec
import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.core.evidence import Finding, Verdict
from kilter.core.statistics import BlockSize
from kilter.engines.sql.database import Database
from kilter.evaluation.declare import Metric
from kilter.operations.table import operation
from kilter.release import rules, shadow
from kilter.release.declare import METRIC_NAME, Business, Canary, Shadow
from kilter.release.records import EvidencePoint, Observation, ReleaseEvidence, ReleaseSummary
from kilter.release.tables import canaries, looks, observations
from kilter.serving.recording.predictions import PREDICTION_ID


class ReleaseService:
    """The evidence about releases.

    Args:
        database: The store's metadata.
        clock: Tells the time of a judgement.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @operation
    def evidence(self, loop: str, version: int) -> ReleaseEvidence:
        """Return all evidence about a version's release: the looks at its shadow, and its canary's course by day.

        Args:
            loop: The loop.
            version: The challenger.

        Raises:
            NotFound: When the version was never released beyond its gates.
        """
        with self._database.reading() as connection:
            canary = connection.execute(
                sa.select(canaries).where(canaries.c.loop == loop, canaries.c.version == version)
            ).one_or_none()
            taken = connection.execute(
                sa.select(looks.c.finding)
                .where(looks.c.loop == loop, looks.c.version == version)
                .order_by(looks.c.look)
            ).scalars()
            shadows = tuple(msgspec.convert(one, Finding) for one in taken)
        if canary is None and not shadows:
            raise NotFound(
                f"there is no evidence about {loop}@v{version}",
                where="releases",
                fix="it was not released, or no label came yet",
            )
        finding = None if canary is None else msgspec.convert(canary.finding, Finding)
        points = () if canary is None else msgspec.convert(canary.points, tuple[EvidencePoint, ...])
        return ReleaseEvidence(
            loop=loop,
            version=version,
            margin=_number(finding, "margin"),
            confidence=_number(finding, "confidence"),
            points=points,
            canary=finding,
            shadow=shadows,
            guards=() if canary is None else msgspec.convert(canary.guards, tuple[Finding, ...]),
        )

    @operation
    def list(self, loop: str) -> tuple[ReleaseSummary, ...]:
        """List the releases of a loop, the newest version first.

        Args:
            loop: The loop.
        """
        with self._database.reading() as connection:
            tried = connection.execute(sa.select(canaries).where(canaries.c.loop == loop)).all()
            looked = connection.execute(sa.select(looks).where(looks.c.loop == loop).order_by(looks.c.look)).all()
        found: dict[int, ReleaseSummary] = {}
        for row in looked:
            before = found.get(row.version)
            finding = msgspec.convert(row.finding, Finding)
            found[row.version] = ReleaseSummary(
                loop=loop,
                version=row.version,
                started_at=row.at if before is None else before.started_at,
                latest_at=row.at,
                rows=finding.rows,
                verdict=finding.verdict,
                stage="shadow",
            )
        for row in tried:
            before = found.get(row.version)
            found[row.version] = ReleaseSummary(
                loop=loop,
                version=row.version,
                started_at=row.started_at if before is None else before.started_at,
                latest_at=row.at,
                rows=row.row_count,
                verdict=cast("Verdict", row.verdict),
                stage="canary",
            )
        return tuple(sorted(found.values(), key=lambda one: -one.version))

    @operation(writes=True, key="request_id")
    def observe(
        self,
        loop: str,
        name: str,
        value: float,
        prediction: str = "",
        key: str = "",
        request_id: str | None = None,
    ) -> Observation:
        """Take in a value of a business metric: revenue, clicks, minutes of waiting. It is on disk when this returns.

        A value belongs to the arm of the prediction that it names, or to that of the first prediction for the key.
        Several values for one of them are corrections: the newest counts. A metric that is a sum is observed as the
        sum so far.

        Args:
            loop: The loop, or another endpoint.
            name: The metric, as declared: lower-case letters, digits, ``_``, ``.`` and ``-``.
            value: The value.
            prediction: The id of a prediction, as the answer to a request gave it.
            key: The row's key, when the id is not known.
            request_id: The caller's own id of this value: the same one again changes nothing, however late it comes.

        Raises:
            InvalidInput: When the value is not finite, or it is not said whose it is.
            Conflict: When the request id was used for another value.
        """
        _check_observation(name, value, prediction, key, request_id)
        given: dict[str, Any] = {
            "loop": loop,
            "name": name,
            "prediction": prediction,
            "key": key,
            "value": float(value),
        }
        with self._database.transaction() as connection:
            if request_id is not None:
                same = (observations.c.loop == loop) & (observations.c.request == request_id)
                known = connection.execute(sa.select(observations).where(same)).mappings().first()
                if known is not None:
                    if any(known[field] != wanted for field, wanted in given.items()):
                        raise Conflict(
                            "the request id was used for another value", where="request_id", fix="use a new one"
                        )
                    return _observation(known)
            moment = self._clock.now()
            done = connection.execute(observations.insert().values(**given, request=request_id, at=moment))
            number = done.inserted_primary_key
        return Observation(id=int(number[0]) if number else 0, at=moment, **given)

    def observed(self, loop: str, since: datetime, names: Sequence[str], until: datetime | None = None) -> pl.DataFrame:
        """Return the values of business metrics since a moment, in the order of their arrival.

        Args:
            loop: The loop.
            since: From when.
            names: Which metrics.
            until: To when, exclusive; None for all.

        Returns:
            ``name, prediction, key, value, at``.
        """
        query = (
            sa.select(*(observations.c[name] for name in rules.NOTHING_OBSERVED.columns))
            .where(observations.c.loop == loop, observations.c.name.in_(names), observations.c.at >= since)
            .order_by(observations.c.id)
        )
        if until is not None:
            query = query.where(observations.c.at < until)
        with self._database.reading() as connection:
            rows = [tuple(row) for row in connection.execute(query)]
        return pl.DataFrame(rows, schema=rules.NOTHING_OBSERVED.schema, orient="row")

    def judge_canary(
        self,
        loop: str,
        version: int,
        canary: Canary,
        metric: Metric,
        joined: pl.DataFrame,
        *,
        since: datetime | None = None,
        at: datetime | None = None,
        predictions: pl.DataFrame | None = None,
    ) -> Finding:
        """Judge a canary on all labels that joined since it began, and keep the answer for the page.

        May be called as often as one likes: the verdict holds at every look.

        Args:
            loop: The loop.
            version: The challenger.
            canary: The step, as declared.
            metric: What the loop cares about.
            joined: All labelled predictions since the canary began, in the order of joining.
            since: When the canary began; earlier rows are left out.
            at: When it is judged; now, if not said.
            predictions: All predictions since the canary began, labelled or not, in the order of their log: what the
                guards look at.

        Returns:
            ``fail`` to roll back, ``pass`` when promotion is proven to be safe, else ``inconclusive``; when a guard takes
            the canary back, the guard's finding.
        """
        moment = at or self._clock.now()
        routed = observed = None
        if canary.guards and predictions is not None:
            routed = rules.routed_rows(predictions, loop, version, since)
            names = [guard.metric for guard in canary.guards if isinstance(guard, Business)]
            observed = self.observed(loop, since or moment, names) if names else None
        rows = rules.canary_rows(joined, loop, version, since)
        judged = rules.judge_rows(rows, canary, metric, moment, routed=routed, observed=observed)
        if judged.finding.rows or (routed is not None and routed.height):
            self._keep(
                canaries,
                ("loop", "version"),
                {
                    "loop": loop,
                    "version": version,
                    "started_at": since or moment,
                    "at": moment,
                    "row_count": judged.finding.rows,
                    "verdict": judged.finding.verdict,
                    "finding": msgspec.to_builtins(judged.finding),
                    "points": msgspec.to_builtins(judged.points),
                    "guards": msgspec.to_builtins(judged.guards),
                },
                fixed=("started_at",),
            )
        return judged.decided

    def judge_shadow(
        self,
        loop: str,
        version: int,
        step: Shadow,
        metric: Metric,
        joined: pl.DataFrame,
        *,
        look: int,
        at: datetime | None = None,
        resample: BlockSize = "day",
    ) -> Finding:
        """Take one look at a shadow, and keep it; a look that was taken before gives what it gave then.

        Args:
            loop: The loop.
            version: The challenger; rows that another shadow scored are left out.
            step: The step, as declared.
            metric: What to compare.
            joined: Labelled predictions with the shadow's answers, since the shadow began.
            look: The number of the look, from 1.
            at: When it is taken; now, if not said.
            resample: The block that is resampled whole.
        """
        with self._database.reading() as connection:
            known = connection.execute(
                sa.select(looks.c.finding).where(looks.c.loop == loop, looks.c.version == version, looks.c.look == look)
            ).scalar_one_or_none()
        if known is not None:
            return msgspec.convert(known, Finding)
        mine = joined.filter(pl.col("shadow_version") == version)
        finding = shadow.look(mine, metric, step.confidence, look, resample, guards=step.guards)
        moment = at or self._clock.now()
        values = {"loop": loop, "version": version, "look": look, "at": moment, "finding": msgspec.to_builtins(finding)}
        self._keep(looks, ("loop", "version", "look"), values, fixed=("at", "finding"))
        return finding

    def _keep(self, table: sa.Table, key: Sequence[str], values: dict[str, Any], *, fixed: Sequence[str] = ()) -> None:
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        statement = insert(table).values(**values)
        changed = {name: statement.excluded[name] for name in values if name not in key and name not in fixed}
        if changed:
            statement = statement.on_conflict_do_update(index_elements=list(key), set_=changed)
        else:
            statement = statement.on_conflict_do_nothing()
        with self._database.transaction() as connection:
            connection.execute(statement)


def _number(finding: Finding | None, name: str) -> float | None:
    value = None if finding is None else finding.detail.get(name)
    return float(value) if isinstance(value, int | float) else None


def _check_observation(name: str, value: float, prediction: str, key: str, request_id: str | None) -> None:
    if not METRIC_NAME.match(name):
        raise InvalidInput(
            "this is no name of a metric",
            where="name",
            allowed="1 to 100 lower-case letters, digits, '_', '.' and '-'",
        )
    if not math.isfinite(value):
        raise InvalidInput("the value is not finite", where="value", allowed="a finite number")
    if bool(prediction) == bool(key):
        raise InvalidInput(
            "it is not said whose value this is",
            where="prediction",
            allowed="the id of a prediction or the key of a row, one of the two",
        )
    if prediction and not PREDICTION_ID.match(prediction):
        raise InvalidInput(
            "that is not the id of a prediction", where="prediction", allowed="front-position-row, like main-1f4a0-3"
        )
    for field, text, most in (("key", key, 500), ("request_id", request_id or "-", 200)):
        if len(text) > most or (field == "request_id" and not text.strip()):
            raise InvalidInput("the text is too long, or empty", where=field, allowed=f"1 to {most} characters")


def _observation(row: sa.RowMapping) -> Observation:
    return Observation(**{field: row[field] for field in Observation.__struct_fields__})
