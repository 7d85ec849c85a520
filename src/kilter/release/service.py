"""Judging releases, and showing what the verdicts rest on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import msgspec
import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import Clock
from kilter.core.errors import NotFound
from kilter.core.evidence import Finding, Verdict
from kilter.core.statistics import BlockSize
from kilter.engines.sql.database import Database
from kilter.evaluation.declare import Metric
from kilter.operations.table import operation
from kilter.release import rules, shadow
from kilter.release.declare import Canary, Shadow
from kilter.release.records import EvidencePoint, ReleaseEvidence, ReleaseSummary
from kilter.release.tables import canaries, looks


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

        Returns:
            ``fail`` to roll back, ``pass`` when promotion is proven to be safe, else ``inconclusive``.
        """
        moment = at or self._clock.now()
        judged = rules.judge_rows(rules.canary_rows(joined, loop, version, since), canary, metric, moment)
        if judged.finding.rows:
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
                },
                fixed=("started_at",),
            )
        return judged.finding

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
        finding = shadow.look(mine, metric, step.confidence, look, resample)
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
