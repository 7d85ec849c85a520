"""The operations on models."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.core.evidence import Finding
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.registry.changes import ChangeOperations, change_of, note
from kilter.registry.elsewhere import lies_elsewhere, refuse_reading
from kilter.registry.entries import EntryOperations, number_of
from kilter.registry.reading import model_row
from kilter.registry.records import (
    Alias,
    Approval,
    Change,
    Evidence,
    EvidenceKind,
    Lineage,
    Model,
    ModelVersion,
    Stage,
    StageMark,
    VersionHistory,
)
from kilter.registry.registered import RegisteredOperations, adopt, claim
from kilter.registry.searching import SearchOperations
from kilter.registry.tables import aliases, approvals, changes, entries, evidence, models, registered, stages, versions
from kilter.registry.together import TogetherOperations
from kilter.registry.webhooks import WebhookOperations

_NAME = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_VERSION = re.compile(r"^v?(\d{1,9})$")
_ALIASES: tuple[Alias, ...] = ("champion", "challenger")
_LONGEST_NAME = 128

REFERENCE_ALLOWED = 'a number such as 7 or "v7", "champion", "challenger" or an alias of yours'


class ModelService(
    RegisteredOperations, EntryOperations, SearchOperations, ChangeOperations, TogetherOperations, WebhookOperations
):
    """Models, their versions, and what is known about them.

    Methods that take a connection write in the caller's transaction, so that a decision, its event and its marks are
    one change; the others open their own.

    Args:
        database: Where the rows are.
        clock: What time it is, when a caller does not say.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ------------------------------------------------------------ writing

    @operation(writes=True)
    def register(
        self,
        model: str,
        bundle: str,
        run: str,
        spec: str,
        data_digest: str,
        trigger: str,
        at: datetime | None = None,
        key: str = "",
        feature_digest: str = "",
        code_digest: str = "",
        environment: str = "",
        params: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> ModelVersion:
        """Register a packaged model as the next version, in the stage ``candidate``.

        Args:
            model: The model's name, which is the loop's.
            bundle: Digest of the packaged model.
            run: The run that trained it.
            spec: Digest of the declaration.
            data_digest: Digest of the training rows.
            trigger: Why it was trained.
            at: When; now, if not said.
            key: Idempotency key: the same key gives the version that it gave the first time.
            feature_digest: Digest of the feature definitions.
            code_digest: Digest of the source of the training and label functions.
            environment: Digest of the lock of installed distributions.
            params: The parameters of the training.
            seed: The seed of the training.

        Raises:
            InvalidInput: When the name is no model's name or the bundle no digest.
        """
        lineage = Lineage(
            run=run,
            spec=spec,
            data_digest=data_digest,
            feature_digest=feature_digest,
            code_digest=code_digest,
            environment=environment,
            params=dict(params or {}),
            seed=seed,
        )
        with self._database.transaction() as connection:
            return self.register_in(connection, model, bundle, lineage, trigger, at=at, key=key)

    def register_in(
        self,
        connection: sa.Connection,
        model: str,
        bundle: str,
        lineage: Lineage,
        trigger: str,
        *,
        at: datetime | None = None,
        key: str = "",
    ) -> ModelVersion:
        """Register a version in the caller's transaction; see :meth:`register`."""
        if not _NAME.match(model) or len(model) > _LONGEST_NAME:
            raise InvalidInput(
                f"{model!r} is not a model's name", where="model", allowed="lower-case words joined by hyphens"
            )
        if not _DIGEST.match(bundle):
            raise InvalidInput(f"{bundle!r} is not a digest", where="bundle", allowed="64 hexadecimal characters")
        moment = at or self._clock.now()
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        connection.execute(insert(models).values(name=model, latest=0, created_at=moment).on_conflict_do_nothing())
        # the update holds the model's row until the transaction ends, so numbers have no gaps and keys are looked up alone
        number = connection.execute(
            models.update().where(models.c.name == model).values(latest=models.c.latest + 1).returning(models.c.latest)
        ).scalar_one()
        if key:
            known = connection.execute(
                sa.select(versions.c.version).where(versions.c.model == model, versions.c.key == key)
            ).scalar()
            if known is not None:
                connection.execute(models.update().where(models.c.name == model).values(latest=number - 1))
                return self._version(connection, model, int(known))
        connection.execute(
            versions.insert().values(
                model=model,
                version=number,
                bundle=bundle,
                run=lineage.run,
                lineage=lineage,
                trigger=trigger,
                at=moment,
                key=key or None,
                stage="candidate",
                reason=trigger,
            )
        )
        connection.execute(
            stages.insert().values(model=model, version=number, stage="candidate", reason=trigger, at=moment)
        )
        adopt(connection, model, number, lineage.run, trigger, moment)
        return self._version(connection, model, number)

    def claim(self, connection: sa.Connection, model: str) -> None:
        """Make a model a loop's before it has versions, so that nobody else registers any in it.

        Raises:
            Conflict: When somebody did already.
        """
        claim(connection, model, self._clock.now())

    def by_key(self, model: str, key: str) -> ModelVersion | None:
        """Return the version that was registered under an idempotency key, or None."""
        with self._database.reading() as connection:
            known = connection.execute(
                sa.select(versions.c.version).where(versions.c.model == model, versions.c.key == key)
            ).scalar()
            return None if known is None else self._version(connection, model, int(known))

    def mark(
        self,
        connection: sa.Connection,
        model: str,
        version: int,
        stage: Stage,
        reason: str,
        at: datetime | None = None,
    ) -> None:
        """Write a version's stage; the same stage with the same reason twice is one mark.

        Raises:
            NotFound: When there is no such version.
        """
        where = (versions.c.model == model) & (versions.c.version == version)
        row = connection.execute(sa.select(versions.c.stage, versions.c.reason).where(where).with_for_update()).first()
        if row is None:
            raise _no_version(model, version)
        if (row.stage, row.reason) == (stage, reason):
            return
        connection.execute(versions.update().where(where).values(stage=stage, reason=reason))
        connection.execute(
            stages.insert().values(model=model, version=version, stage=stage, reason=reason, at=at or self._clock.now())
        )

    def set_alias(
        self, connection: sa.Connection, model: str, alias: Alias, version: int | None, at: datetime | None = None
    ) -> None:
        """Point an alias at a version, or at none; the version it pointed at before loses it in the same statement.

        Raises:
            NotFound: When there is no such version.
            InvalidInput: When the alias is none of ours.
        """
        if alias not in _ALIASES:
            raise InvalidInput(f"{alias!r} is not an alias", where="alias", allowed=" or ".join(_ALIASES))
        before = self.alias(connection, model, alias)
        if version is not None:
            self._require(connection, model, version)
        if before == version:
            return
        moment = at or self._clock.now()
        note(
            connection,
            model_row(connection, model),
            "alias",
            moment,
            field=alias,
            version=before if version is None else version,
            before=None if before is None else str(before),
            after=None if version is None else str(version),
            by="loop",
        )
        if version is None:
            connection.execute(aliases.delete().where(aliases.c.model == model, aliases.c.alias == alias))
            return
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        connection.execute(
            insert(aliases)
            .values(model=model, alias=alias, version=version, at=moment)
            .on_conflict_do_update(
                index_elements=[aliases.c.model, aliases.c.alias], set_={"version": version, "at": moment}
            )
        )

    def add_evidence(
        self,
        connection: sa.Connection,
        model: str,
        version: int,
        kind: EvidenceKind,
        findings: Sequence[Finding],
        at: datetime | None = None,
    ) -> None:
        """Keep what was found when a version was judged.

        Raises:
            NotFound: When there is no such version.
        """
        self._require(connection, model, version)
        connection.execute(
            evidence.insert().values(
                model=model,
                version=version,
                kind=kind,
                findings=[_finite(finding) for finding in findings],
                at=at or self._clock.now(),
            )
        )

    @operation(writes=True, role="approver")
    def approve(self, model: str, version: int | str, by: str, comment: str = "") -> Approval:
        """Note a person's yes to a version; the same person's second yes is the first one."""
        if not by.strip():
            raise InvalidInput("an approval needs a name", where="by", fix="say who approves")
        with self._database.transaction() as connection:
            number = self._resolve(connection, model, version)
            return self.approve_in(connection, model, number, by, comment)

    def approve_in(
        self,
        connection: sa.Connection,
        model: str,
        version: int,
        by: str,
        comment: str = "",
        at: datetime | None = None,
    ) -> Approval:
        """Note an approval in the caller's transaction; see :meth:`approve`."""
        self._require(connection, model, version)
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        moment = at or self._clock.now()
        made = connection.execute(
            insert(approvals)
            .values(model=model, version=version, by=by, comment=comment, at=moment)
            .on_conflict_do_nothing()
            .returning(approvals.c.by)
        ).first()
        if made is not None:
            seen = model_row(connection, model)
            where = (entries.c.model == seen.id) & (entries.c.version == version)
            before = connection.execute(sa.select(entries.c.approval).where(where)).scalar()
            connection.execute(entries.update().where(where).values(approval="approved", changed_at=moment))
            note(
                connection,
                seen,
                "approval",
                moment,
                version=version,
                before=before,
                after="approved",
                by=by,
                reason=comment,
            )
        row = connection.execute(
            sa.select(approvals).where(approvals.c.model == model, approvals.c.version == version, approvals.c.by == by)
        ).one()
        return Approval(version=version, by=row.by, at=row.at, comment=row.comment)

    # ------------------------------------------------------------ reading

    @operation
    def models(self) -> tuple[Model, ...]:
        """Return every model, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(models).order_by(models.c.name)).all()
            pointed = {(row.model, row.alias): row.version for row in connection.execute(sa.select(aliases))}
        return tuple(
            Model(
                name=row.name,
                versions=row.latest,
                champion=pointed.get((row.name, "champion")),
                challenger=pointed.get((row.name, "challenger")),
                created_at=row.created_at,
            )
            for row in rows
        )

    @operation
    def versions(self, model: str, limit: int = 1000) -> tuple[ModelVersion, ...]:
        """Return a model's versions, newest first.

        Raises:
            NotFound: When there is no such model.
        """
        query = sa.select(versions).where(versions.c.model == model).order_by(versions.c.version.desc()).limit(limit)
        with self._database.reading() as connection:
            self._require_model(connection, model)
            named = _named(connection, model)
            return tuple(_version(row, named) for row in connection.execute(query))

    @operation
    def get(self, model: str, version: int | str = "champion") -> ModelVersion:
        """Return one version.

        Args:
            model: The model's name, or a whole reference: ``flight-delay@v7``, ``flight-delay@champion``.
            version: A number, ``"v7"`` or an alias; not used when ``model`` is a whole reference.

        Raises:
            NotFound: When there is no such model or version, or nothing has the alias.
            InvalidInput: When the version is neither a number nor an alias.
        """
        name, wanted = split_reference(model, version)
        with self._database.reading() as connection:
            return self._version(connection, name, self._resolve(connection, name, wanted))

    def alias(self, connection: sa.Connection, model: str, alias: Alias) -> int | None:
        """Return the version that an alias points at, as the caller's transaction sees it."""
        found = connection.execute(
            sa.select(aliases.c.version).where(aliases.c.model == model, aliases.c.alias == alias)
        ).scalar()
        return None if found is None else int(found)

    @operation
    def lineage(self, model: str, version: int | str = "champion") -> Lineage:
        """Return what a version was built from: data, code, run, parameters, declaration and environment."""
        return self.get(model, version).lineage

    @operation
    def history(self, model: str, version: int | str = "champion") -> VersionHistory:
        """Return a version with its stages, its evidence and its approvals, each in order of time."""
        name, wanted = split_reference(model, version)
        with self._database.reading() as connection:
            number = self._resolve(connection, name, wanted)

            def rows(table: sa.Table, order: sa.ColumnElement[Any]) -> Sequence[sa.Row[Any]]:
                chosen = sa.select(table).where(table.c.model == name, table.c.version == number)
                return connection.execute(chosen.order_by(order)).all()

            return VersionHistory(
                version=self._version(connection, name, number),
                stages=tuple(
                    StageMark(stage=row.stage, reason=row.reason, at=row.at) for row in rows(stages, stages.c.id)
                ),
                evidence=tuple(
                    Evidence(kind=row.kind, findings=msgspec.convert(row.findings, tuple[Finding, ...]), at=row.at)
                    for row in rows(evidence, evidence.c.id)
                ),
                approvals=tuple(
                    Approval(version=number, by=row.by, at=row.at, comment=row.comment)
                    for row in rows(approvals, approvals.c.at)
                ),
                changes=self._changes_of(connection, name, number),
            )

    # ------------------------------------------------------------ within

    def _changes_of(self, connection: sa.Connection, model: str, version: int) -> tuple[Change, ...]:
        """Return what was changed of a version, and who moved the model's aliases."""
        of = (changes.c.version == version) | (changes.c.what == "alias")
        chosen = sa.select(changes).where(changes.c.model == model_row(connection, model).id, of)
        return tuple(change_of(row) for row in connection.execute(chosen.order_by(changes.c.id)))

    def get_in(self, connection: sa.Connection, model: str, version: int) -> ModelVersion:
        """Return one version, as the caller's transaction sees it; see :meth:`get`."""
        return self._version(connection, model, version)

    def _version(self, connection: sa.Connection, model: str, number: int) -> ModelVersion:
        row = connection.execute(
            sa.select(versions).where(versions.c.model == model, versions.c.version == number)
        ).first()
        if row is None:
            self._require_here(connection, model, number)
            self._require_model(connection, model)
            raise _no_version(model, number)
        return _version(row, _named(connection, model))

    def _resolve(self, connection: sa.Connection, model: str, version: int | str) -> int:
        if isinstance(version, int):
            return version
        found = _VERSION.match(version)
        if found is not None:
            return int(found.group(1))
        for alias in _ALIASES:
            if version == alias:
                number = self.alias(connection, model, alias)
                if number is None:
                    with suppress(NotFound):  # a client's alias of that name is one like any other
                        return number_of(connection, model_row(connection, model), version)
                    self._require_model(connection, model)
                    raise NotFound(f"{model!r} has no {alias}", where="models", fix="see its versions")
                return number
        with suppress(NotFound):
            return number_of(connection, model_row(connection, model), version)
        raise InvalidInput(f"{version!r} is not a version", where="version", allowed=REFERENCE_ALLOWED)

    def _require(self, connection: sa.Connection, model: str, version: int) -> None:
        found = connection.execute(
            sa.select(versions.c.version).where(versions.c.model == model, versions.c.version == version)
        ).scalar()
        if found is None:
            raise _no_version(model, version)

    def _require_here(self, connection: sa.Connection, model: str, version: int) -> None:
        """Refuse a client's version whose files lie elsewhere, where the packaged model is wanted."""
        known = sa.select(entries.c.location).join(registered, registered.c.id == entries.c.model)
        place = connection.execute(known.where(registered.c.name == model, entries.c.version == version)).scalar()
        if place is not None and lies_elsewhere(place):
            raise refuse_reading(f"{model}@v{version}", place)

    def _require_model(self, connection: sa.Connection, model: str) -> None:
        if connection.execute(sa.select(models.c.name).where(models.c.name == model)).first() is None:
            seen = connection.execute(sa.select(registered.c.owner).where(registered.c.name == model)).scalar()
            if seen == "client":
                raise NotFound(
                    f"{model!r} was registered by a client, and has no versions that were packaged here",
                    where="models",
                    fix=f"see `kilter models show {model}`",
                )
            known = connection.execute(sa.select(models.c.name).order_by(models.c.name).limit(10)).scalars().all()
            raise NotFound(f"no model is named {model!r}", where="models", allowed=", ".join(known) or "none yet")


def split_reference(model: str, version: int | str = "champion") -> tuple[str, int | str]:
    """Return name and version of ``flight-delay@v7``, or the two as they were given apart.

    Raises:
        Conflict: When the reference names one version and ``version`` another.
    """
    name, separator, wanted = model.partition("@")
    if not separator:
        return name, version.removeprefix("@") if isinstance(version, str) else version
    if version != "champion" and str(version).removeprefix("v") != wanted.removeprefix("v"):
        raise Conflict(f"{model!r} and version {version!r} name two versions", where="version", fix="give one of them")
    return name, wanted


def _no_version(model: str, version: int) -> NotFound:
    return NotFound(f"there is no version {version} of {model!r}", where="models", fix="see the model's versions")


def _named(connection: sa.Connection, model: str) -> dict[int, tuple[str, ...]]:
    named: dict[int, tuple[str, ...]] = {}
    chosen = sa.select(aliases).where(aliases.c.model == model).order_by(aliases.c.alias)
    for row in connection.execute(chosen):
        named[row.version] = (*named.get(row.version, ()), row.alias)
    return named


def _version(row: sa.Row[Any], named: dict[int, tuple[str, ...]]) -> ModelVersion:
    return ModelVersion(
        model=row.model,
        version=row.version,
        bundle=row.bundle,
        lineage=msgspec.convert(row.lineage, Lineage),
        trigger=row.trigger,
        at=row.at,
        stage=row.stage,
        reason=row.reason,
        aliases=named.get(row.version, ()),
    )


def _finite(finding: Finding) -> Finding:
    """Return the finding with numbers that JSON cannot say as text, or as open ends."""
    value = finding.value
    detail: dict[str, float | int | str | None] = {
        name: str(item) if isinstance(item, float) and not math.isfinite(item) else item
        for name, item in finding.detail.items()
    }
    if value is not None and not math.isfinite(value.estimate):
        detail["estimate"] = str(value.estimate)
        value = None
    elif value is not None:
        ends = {
            end: None
            for end in ("low", "high")
            if (number := getattr(value, end)) is not None and not math.isfinite(number)
        }
        value = msgspec.structs.replace(value, **ends)
    return msgspec.structs.replace(finding, value=value, detail=detail)
