"""What people, judges and programs say about traces."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.digests import digest_json
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.engines.sql.types import json_text
from kilter.llm.content import cleaned
from kilter.llm.reading import assessment_of, require
from kilter.llm.records import Assessment
from kilter.llm.tables import assessments
from kilter.operations.table import operation

SOURCE_RUN = "mlflow.assessment.sourceRunId"
SOURCES = ("HUMAN", "LLM_JUDGE", "CODE", "SOURCE_TYPE_UNSPECIFIED")

_ID = re.compile(r"^[\w.\-]{1,64}$")
_LARGEST = 1 << 20


class AssessmentOperations:
    """The operations on assessments."""

    _database: Database
    _clock: Clock

    @operation(writes=True)
    def assess(self, trace: str, assessment: Assessment) -> Assessment:
        """Say something about a trace; what it overrides is no longer valid.

        Args:
            trace: The trace.
            assessment: What is said. Without an id it is given one.

        Raises:
            NotFound: When there is no such trace, or nothing that it overrides.
            Conflict: When there is one of that id already.
        """
        now = self._now()
        with self._database.transaction() as connection:
            require(connection, trace, lock=True)
            row = row_of(assessment, trace, now)
            if not assessment.id:
                # They are listed by the millisecond and then by the id: two that were said in one stay in their order.
                row["id"] = f"a-{int(self._clock.now().timestamp() * 1_000_000):016x}{secrets.token_hex(8)}"
            if assessment.overrides:
                of = (assessments.c.trace == trace) & (assessments.c.id == assessment.overrides)
                if not connection.execute(assessments.update().where(of).values(valid=False)).rowcount:
                    raise NotFound(
                        f"Assessment with ID '{assessment.overrides}' not found for trace '{trace}'",
                        where="assessments",
                    )
            if connection.execute(sa.select(assessments.c.id).where(assessments.c.id == row["id"])).first():
                raise Conflict(f"there is an assessment {row['id']!r} already", where="assessments")
            connection.execute(assessments.insert().values(**row))
            return _one(connection, trace, row["id"])

    @operation
    def assessment(self, trace: str, assessment: str) -> Assessment:
        """Return an assessment.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            return _one(connection, trace, assessment)

    @operation(writes=True)
    def change_assessment(self, trace: str, assessment: str, change: dict[str, Any]) -> Assessment:
        """Say an assessment otherwise; who said it and of what stays.

        Args:
            trace: The trace.
            assessment: Its id.
            change: What becomes otherwise: ``name``, ``feedback`` or ``expectation`` (the value), ``error``, ``rationale``, and
                ``metadata``, which is laid over what there is.

        Raises:
            NotFound: When there is none.
            InvalidInput: When a feedback is made an expectation or the other way round.
        """
        if unknown := sorted(
            change.keys() - {"name", "feedback", "expectation", "error", "rationale", "metadata", "valid"}
        ):
            raise InvalidInput(f"there is no field {unknown[0]!r}", where="change")
        if "feedback" in change and "expectation" in change:
            raise InvalidInput("Cannot specify both `expectation` and `feedback` parameters.", where="change")
        with self._database.transaction() as connection:
            require(connection, trace, lock=True)
            known = _one(connection, trace, assessment)
            for kind, other in (("expectation", "Feedback"), ("feedback", "Expectation")):
                if kind in change and known.kind != kind:
                    raise InvalidInput(
                        f"Cannot update {kind} value on a{'n' if other[0] == 'E' else ''} {other} assessment.",
                        where="change",
                    )
            value = change.get("feedback", change.get("expectation", known.value))
            said = msgspec.structs.replace(
                known,
                name=change.get("name") or known.name,
                value=value,
                error=change.get("error") if "feedback" in change else known.error,
                rationale=change.get("rationale", known.rationale),
                metadata={**known.metadata, **(change.get("metadata") or {})},
                valid=bool(change.get("valid", known.valid)),
                changed_ms=self._now(),
            )
            row = row_of(said, trace, self._now())
            del row["id"]
            connection.execute(assessments.update().where(assessments.c.id == assessment).values(**row))
            return _one(connection, trace, assessment)

    @operation(writes=True)
    def withdraw_assessment(self, trace: str, assessment: str) -> None:
        """Take an assessment back; what it overrode is valid again. Taking it back again changes nothing.

        Raises:
            NotFound: When there is no such trace.
        """
        with self._database.transaction() as connection:
            require(connection, trace, lock=True)
            of = (assessments.c.trace == trace) & (assessments.c.id == assessment)
            row = connection.execute(sa.select(assessments.c.overrides).where(of)).first()
            if row is None:
                return
            if row.overrides:
                was = (assessments.c.trace == trace) & (assessments.c.id == row.overrides)
                connection.execute(assessments.update().where(was).values(valid=True))
            connection.execute(assessments.delete().where(of))

    def _now(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def row_of(said: Assessment, trace: str, now: int, place: int | None = None) -> dict[str, Any]:
    """Return the row of an assessment.

    Args:
        said: The assessment.
        trace: What it is about.
        now: When it is kept, in milliseconds since 1970.
        place: Where it stands among those that came with its trace: the same one sent again then has the same id.

    Raises:
        InvalidInput: When it has no name, or a value that can't be kept.
    """
    if not said.name.strip() or len(said.name) > 250:
        raise InvalidInput("an assessment needs a name", where="assessment_name", allowed="1 to 250 characters")
    if said.source_type not in SOURCES:
        raise InvalidInput(f"{said.source_type[:40]!r}", where="source_type", allowed=", ".join(SOURCES))
    if said.id and not _ID.match(said.id):
        raise InvalidInput(
            "an assessment's id can't be used", where="assessment_id", allowed="1 to 64 letters or digits"
        )
    value = json_text(cleaned(msgspec.to_builtins(said.value)))
    if len(value) > _LARGEST:
        raise InvalidInput("the value is too large", where="value", allowed=f"{_LARGEST:,} characters")
    created = said.created_ms if said.created_ms is not None else now
    number, numeric = _number(said.value)
    identity = said.id
    if not identity:
        identity = f"a-{digest_json([trace, said.name, said.kind, value, said.source, said.span, created, place])[:32]}"
    return {
        "id": identity,
        "trace": trace,
        "name": cleaned(said.name),
        "kind": said.kind,
        "value": value,
        "number": number,
        "numeric": numeric,
        "error": cleaned(said.error),
        "source_type": said.source_type,
        "source": cleaned(said.source[:250]),
        "span": said.span[:64],
        "rationale": cleaned(said.rationale),
        "metadata": _texts(said.metadata),
        "run": (said.run or said.metadata.get(SOURCE_RUN, ""))[:64],
        "overrides": said.overrides,
        "valid": said.valid,
        "created_ms": created,
        "changed_ms": said.changed_ms if said.changed_ms is not None else now,
    }


def _texts(pairs: Mapping[str, Any]) -> dict[str, str]:
    return {str(cleaned(name)): str(cleaned(value)) for name, value in pairs.items()}


def _number(value: Any) -> tuple[float | None, bool]:
    """Return what is averaged of a value, and whether it is a number itself."""
    if isinstance(value, bool):
        return float(value), False
    if isinstance(value, int | float):
        number = float(value) if abs(value) < 1e308 else math.inf
        return (number, True) if math.isfinite(number) else (None, False)
    if isinstance(value, str) and (word := value.strip().lower()) in {"yes", "no"}:
        return float(word == "yes"), False
    return None, False


def _one(connection: sa.Connection, trace: str, assessment: str) -> Assessment:
    of = (assessments.c.trace == trace) & (assessments.c.id == assessment)
    row = connection.execute(sa.select(assessments).where(of)).first()
    if row is None:
        require(connection, trace)
        raise NotFound(f"Assessment with ID '{assessment}' not found for trace '{trace}'", where="assessments")
    return assessment_of(row)
