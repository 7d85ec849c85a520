"""The operations on loops, and on the journal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

import msgspec
import polars as pl
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, DeclarationError, InvalidInput, NotFound
from kilter.data.batch import TYPES
from kilter.data.service import DataService
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.features.leakage import refuse_leaky_views
from kilter.features.service import FeatureService
from kilter.features.spec import spec_of as view_spec
from kilter.journal.records import Event
from kilter.journal.service import Journal
from kilter.loop.building import views_of
from kilter.loop.declaration.checks import require
from kilter.loop.declaration.plan import plan
from kilter.loop.declaration.policy import policy_of
from kilter.loop.declaration.spec import Declared, LoopSpec, load_source, spec_from_json, spec_of
from kilter.loop.declare import ApprovalRule, Environment
from kilter.loop.drill import Drill, last_drill, note, rehearse
from kilter.loop.ledger import Ledger, Row
from kilter.loop.recorded import watched_inputs
from kilter.loop.records import (
    Applied,
    Approved,
    Events,
    FreezeRequested,
    LoopState,
    PauseRequested,
    PromoteRequested,
    ResumeRequested,
    RetrainRequested,
    RollbackRequested,
    UnfreezeRequested,
)
from kilter.loop.rules.freeze import freeze_reason, is_frozen
from kilter.loop.status import AppliedText, LoopStatus, Planned
from kilter.loop.summary import summary
from kilter.loop.tables import loops, specs
from kilter.loop.why import Why, explain
from kilter.operations.table import operation
from kilter.registry.service import ModelService, split_reference
from kilter.release.freeze import parse as parse_window
from kilter.serving.recording.predictions import PREDICTION_ID
from kilter.serving.recording.redaction import RecordingService, check_monitors
from kilter.serving.records import CONSTANT
from kilter.serving.service import EndpointService

Events_: TypeAlias = list[Event]


_SPECS = 256
"""How many declarations are kept read."""


class LoopService:
    """Loops: what is declared, where they stand, why, and what people ask of them.

    Args:
        database: The metadata store.
        objects: Where the text of declarations is kept.
        journal: What happened.
        models: Versions and their evidence.
        data: Tables, to check columns against and to declare.
        features: Where the views that a loop declares are registered.
        endpoints: What was answered, by whom.
        clock: The time.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        journal: Journal,
        models: ModelService,
        data: DataService,
        features: FeatureService,
        endpoints: EndpointService,
        clock: Clock,
    ) -> None:
        self._database = database
        self._objects = objects
        self._journal = journal
        self._models = models
        self._data = data
        self._features = features
        self._endpoints = endpoints
        self._clock = clock
        self.ledger = Ledger(database, journal, models, clock)
        self._specs: dict[str, LoopSpec] = {}

    # ---------------------------------------------------------------- declaring

    @operation(role="editor")
    def plan(
        self,
        source: str,
        filename: str = "loop.py",
        name: str | None = None,
        env: Environment = "dev",
        approval: ApprovalRule | None = None,
        budget: str | None = None,
        freeze: Sequence[str] = (),
    ) -> Planned:
        """Return what applying a declaration would change; nothing is written.

        Args:
            source: The text of the user's file.
            filename: What to call it in messages.
            name: Which loop of the file, when it declares several.
            env: The environment it would run in.
            approval: The environment's own rule of approval; the stricter of this and the declaration's holds.
            budget: The environment's own budget; the smaller of this and the declaration's holds.
            freeze: The environment's own freeze windows; they hold beside the declaration's.
        """
        declared = self._checked(source, filename, name)
        spec = spec_of(declared)
        check_monitors(
            RecordingService(self._database, self._clock).get(spec.name).rule, watched_inputs(spec), filename
        )
        policy_of(spec, env, approve=approval, budget=budget, freeze=_windows(freeze))
        before = self._applied(spec.name)
        return Planned(
            loop=spec.name,
            digest=spec.digest,
            applied="" if before is None else before.digest,
            changes=tuple(plan(before, spec)),
        )

    @operation(writes=True, role="admin", repeatable=True)
    def apply(
        self,
        source: str,
        filename: str = "loop.py",
        name: str | None = None,
        env: Environment = "dev",
        by: str = "",
        expect: str | None = None,
        approval: ApprovalRule | None = None,
        budget: str | None = None,
        freeze: Sequence[str] = (),
    ) -> Planned:
        """Make a declaration so: the controller trains what is missing, and keeps it going from here on.

        Args:
            source: The text of the user's file.
            filename: What to call it in messages.
            name: Which loop of the file, when it declares several.
            env: The environment it runs in.
            by: Who applies it.
            expect: Refuse when another declaration than this digest is applied now.
            approval: The environment's own rule of approval; the stricter of this and the declaration's holds.
            budget: The environment's own budget; the smaller of this and the declaration's holds.
            freeze: The environment's own freeze windows; they hold beside the declaration's.

        Raises:
            DeclarationError: When the declaration can't work; nothing is written then.
            Conflict: When the applied declaration is not the expected one, or others registered models under the loop's name.
        """
        declared = self._checked(source, filename, name)
        spec = spec_of(declared)
        check_monitors(
            RecordingService(self._database, self._clock).get(spec.name).rule, watched_inputs(spec), filename
        )
        policy = policy_of(spec, env, approve=approval, budget=budget, freeze=_windows(freeze))
        before = self._applied(spec.name)
        if expect is not None and (before.digest if before else "") != expect:
            raise Conflict(
                f"another declaration of {spec.name!r} was applied meanwhile",
                where=filename,
                fix="plan again, then apply",
            )
        changes = tuple(plan(before, spec))
        now = self._clock.now()
        stored = self._objects.put(source.encode())
        self._welcome(declared)
        with self._database.transaction() as connection:
            self._models.claim(connection, spec.name)
            if connection.execute(sa.select(specs.c.digest).where(specs.c.digest == spec.digest)).first() is None:
                connection.execute(
                    specs.insert().values(
                        digest=spec.digest,
                        loop=spec.name,
                        spec=spec.json(),
                        source=stored,
                        filename=declared.filename,
                        name=spec.name,
                        applied_at=now,
                    )
                )
            known = connection.execute(sa.select(loops.c.name).where(loops.c.name == spec.name)).first()
            values = {
                "environment": env,
                "spec_digest": spec.digest,
                "filename": declared.filename,
                "applied_at": now,
            }
            if known is None:
                state = msgspec.to_builtins(LoopState(policy=policy))
                connection.execute(loops.insert().values(name=spec.name, state=state, revision=0, **values))
            else:
                connection.execute(loops.update().where(loops.c.name == spec.name).values(**values))
            rebuild = self._built_otherwise(connection, spec)
            self.ledger.feed_in(connection, spec.name, Applied(at=now, policy=policy, rebuild=rebuild, by=by))
        return Planned(
            loop=spec.name, digest=spec.digest, applied="" if before is None else before.digest, changes=changes
        )

    def _checked(self, source: str, filename: str, name: str | None) -> Declared:
        declared = load_source(source, filename, name)
        schemas = self._schemas()
        require(declared, schemas)
        # Whether a view knows the truth too early only rows can tell; most views don't touch the label, and need none.
        late = {*declared.loop.label.expression().meta.root_names(), declared.loop.label.known_at}
        for view in views_of(declared.loop):
            if view.table.name in schemas and any(one.column in late for _, one in view.aggregates):
                try:
                    refuse_leaky_views([view], declared.loop.label, self._data.frame(view.table.name))
                except DeclarationError as error:
                    error.where = f"{declared.filename}: {error.where}"
                    raise
        return declared

    def _schemas(self) -> dict[str, dict[str, pl.DataType]]:
        """Return the columns of every table that has rows: declaring one names its times, and only rows bring its key."""
        return {
            table.name: {column.name: TYPES[column.kind] for column in table.columns}
            for table in self._data.tables()
            if any(column.name == table.key for column in table.columns)
        }

    def _welcome(self, declared: Declared) -> None:
        """Declare the tables that a loop reads, and register the views whose columns are known."""
        for item in declared.loop.inputs:
            times = [declared.loop.label.known_at, *(view.time for view in views_of(declared.loop))]
            self._data.declare(item.table, tuple(dict.fromkeys(times)))
        schemas = self._schemas()
        for view in views_of(declared.loop):
            needed = {view.entity, view.time, *(one.column for _, one in view.aggregates if one.column)}
            if needed <= set(schemas.get(view.table.name, ())):
                self._features.register(view_spec(view))

    def _applied(self, name: str) -> LoopSpec | None:
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(specs.c.spec).join(loops, loops.c.spec_digest == specs.c.digest).where(loops.c.name == name)
            ).first()
        return None if row is None else spec_from_json(row.spec)

    def _built_otherwise(self, connection: sa.Connection, spec: LoopSpec) -> bool:
        """Return whether the champion was built from other data, features, label or training than declared now."""
        champion = self._models.alias(connection, spec.name, "champion")
        if champion is None:
            return True
        built = self._models.get_in(connection, spec.name, champion).lineage.spec
        row = connection.execute(sa.select(specs.c.spec).where(specs.c.digest == built)).first()
        return row is None or spec_from_json(row.spec).data_digest != spec.data_digest

    # ---------------------------------------------------------------- looking

    @operation
    def list(self) -> tuple[LoopStatus, ...]:
        """Return where every loop stands."""
        return tuple(self.status(name) for name in self.ledger.names())

    @operation
    def status(self, loop: str) -> LoopStatus:
        """Return where a loop stands.

        Args:
            loop: The loop's name.
        """
        row = self.ledger.row(loop)
        spec = self._spec(row)
        return LoopStatus(
            name=row.name,
            environment=row.environment,
            owner=spec.owner,
            purpose=spec.purpose,
            spec=row.spec,
            filename=row.filename,
            now=self._clock.now(),
            settled_at=row.settled_at,
            summary=summary(row.state),
            failure=self._failure(row) if row.state.failures else None,
            drill=last_drill(self._journal, row.name),
        )

    def _failure(self, row: Row) -> str | None:
        found = self._journal.events(limit=1, subject=row.name, kind="TrainingFailed", newest=True)
        return found[0].data["reason"] if found else None

    @operation
    def source(self, loop: str) -> AppliedText:
        """Return the text of the declaration that is applied.

        Raises:
            NotFound: When there is no such loop.
            Damaged: When its text is lost.
        """
        digest = self.spec(loop).digest
        with self._database.reading() as connection:
            row = connection.execute(sa.select(specs.c.source, specs.c.filename).where(specs.c.digest == digest)).one()
        return AppliedText(filename=row.filename, text=self._objects.get(row.source).decode(), digest=digest)

    @operation
    def spec(self, loop: str) -> LoopSpec:
        """Return a loop's applied declaration as data.

        Args:
            loop: The loop's name.
        """
        return self._spec(self.ledger.row(loop))

    def _spec(self, row: Row) -> LoopSpec:
        found = self._specs.get(row.spec)
        if found is None:
            with self._database.reading() as connection:
                found = spec_from_json(
                    connection.execute(sa.select(specs.c.spec).where(specs.c.digest == row.spec)).scalar_one()
                )
            if len(self._specs) >= _SPECS:
                self._specs.clear()
            self._specs[row.spec] = found  # its digest is its name: it never changes
        return found

    def declared(self, digest: str) -> LoopSpec | None:
        """Return a declaration that was applied once, by its digest, or None."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(specs.c.spec).where(specs.c.digest == digest)).first()
        return None if row is None else spec_from_json(row.spec)

    @operation
    def why(self, target: str) -> Why:
        """Return the chain behind a version: alarm, data, run, gates, shadow, canary, verdict.

        Args:
            target: ``flight-delay@v7``, ``flight-delay@champion``, a loop's name for its champion, or the id of a
                prediction for the version that made it.

        Raises:
            NotFound: When there is no such version or prediction, or no version made it.
        """
        prediction = None
        if PREDICTION_ID.match(target) and target not in self.ledger.names():
            prediction = self._endpoints.prediction(target)
            if prediction.version == CONSTANT:
                raise NotFound(
                    f"no version made this prediction: the fallback of {prediction.loop!r} ({prediction.value:g}) was given "
                    f"to {prediction.key!r} on {prediction.at:%Y-%m-%d %H:%M} UTC",
                    where=target,
                    fix=f"see `kilter journal list --subject {prediction.loop}` for what happened then",
                )
            target = f"{prediction.loop}@v{prediction.version}"
        name, wanted = split_reference(target)
        if wanted == "champion" and name in self.ledger.names():
            self._require_champion(name)
        history = self._models.history(name, wanted)
        subject = history.version.reference
        events = self._all(subject)
        return explain(history, events, self._standing_alarms(name, history.version.at), prediction)

    def _require_champion(self, name: str) -> None:
        if self.ledger.row(name).state.champion is None:
            status = self.status(name)
            reason = f"the latest training failed: {status.failure}" if status.failure else status.summary.waiting
            raise NotFound(f"{name!r} has no champion yet; {reason}", where="why", fix=f"see `kilter status {name}`")

    def _all(self, subject: str) -> Events_:
        found: Events_ = []
        after = 0
        while page := self._journal.events(after=after, limit=1000, subject=subject):
            found += page
            after = page[-1].seq
        return found

    def _standing_alarms(self, loop: str, at: datetime) -> Events_:
        """Return the alarms that had been raised and not cleared at a moment."""
        standing: dict[str, Event] = {}
        for event in self._all(loop):
            if event.at > at:
                break
            if event.kind == "AlarmRaised":
                standing[event.data["monitor"]] = event
            elif event.kind == "AlarmCleared":
                standing.pop(event.data["monitor"], None)
            elif event.kind == "Promote":
                standing.clear()
        return [*standing.values()]

    @operation
    def timeline(self, loop: str, after: int = 0, limit: int = 200) -> tuple[Event, ...]:
        """Return what happened to a loop and its versions, oldest first.

        Args:
            loop: The loop's name.
            after: Only events behind this place in the journal.
            limit: At most so many.
        """
        self.ledger.row(loop)
        return tuple(self._journal.events(after=after, limit=limit, subject=loop))

    # ---------------------------------------------------------------- asking

    @operation(writes=True, role="editor", repeatable=True)
    def pause(self, loop: str, reason: str = "", by: str = "") -> LoopStatus:
        """Stop a loop at once: nothing new starts, and a release in flight goes back to the champion.

        Args:
            loop: The loop's name.
            reason: Why.
            by: Who asks.
        """
        return self._ask(loop, PauseRequested(at=self._clock.now(), by=by, reason=reason or "paused by hand"))

    @operation(writes=True, role="editor", repeatable=True)
    def resume(self, loop: str, by: str = "") -> LoopStatus:
        """Let a paused loop go on.

        Args:
            loop: The loop's name.
            by: Who asks.
        """
        return self._ask(loop, ResumeRequested(at=self._clock.now(), by=by))

    @operation(writes=True, role="editor")
    def retrain(self, loop: str, by: str = "") -> LoopStatus:
        """Train a challenger now, within the day's budget; it has to prove itself like any other.

        Args:
            loop: The loop's name.
            by: Who asks.
        """
        return self._ask(loop, RetrainRequested(at=self._clock.now(), by=by))

    @operation(writes=True, role="editor")
    def rollback(self, loop: str, reason: str = "", by: str = "") -> LoopStatus:
        """Take the release in flight back or, when there is none, the champion back to the one before.

        Args:
            loop: The loop's name.
            reason: Why.
            by: Who asks.
        """
        row = self.ledger.row(loop)
        if row.state.release is None and row.state.previous is None:
            raise Conflict(
                f"{loop!r} has no release in flight and no previous champion that is still loaded",
                where="rollback",
                fix="see `kilter models versions` for what was there",
            )
        return self._ask(loop, RollbackRequested(at=self._clock.now(), by=by, reason=reason or "taken back by hand"))

    @operation(writes=True, role="editor", repeatable=True)
    def drill(self, loop: str, by: str = "") -> Drill:
        """Rehearse a rollback on the live endpoint: prove that the version before is warm and answers, and time the move.

        Nobody gets another answer than without it. The result is kept in the journal, failed drills too.

        Args:
            loop: The loop's name.
            by: Who asks.

        Raises:
            Conflict: When there is no previous champion that is still loaded, or a release is in flight.
            Unavailable: When no front serves the endpoint.
        """
        found = rehearse(loop, self.ledger.row(loop).state, self._endpoints, self._clock, by)
        with self._database.transaction() as connection:
            note(self._journal, connection, loop, found)
        return found

    @operation(writes=True, role="approver")
    def promote(self, loop: str, version: int | str, by: str = "") -> LoopStatus:
        """End the bake of the gated release in flight and give it all traffic now.

        Args:
            loop: The loop's name.
            version: The version in flight.
            by: Who asks.
        """
        number = self._models.get(loop, version).version
        row = self.ledger.row(loop)
        release = row.state.release
        if release is None or release.version != number:
            flying = "nothing" if release is None else f"v{release.version}" if release.version else "a training"
            raise Conflict(
                f"v{number} of {loop!r} is not in flight",
                where="promote",
                allowed=f"the release in flight: {flying}",
                fix="a version that was refused stays refused; ask for a new challenger with `kilter retrain`",
            )
        if release.work not in {"shadow", "canary"}:
            raise Conflict(f"v{number} of {loop!r} is in {release.work}", where="promote", allowed="shadow or canary")
        now = self._clock.now()
        if is_frozen(row.state, now):
            raise Conflict(
                f"releases of {loop!r} are frozen: {freeze_reason(row.state, now)}",
                where="promote",
                fix="wait for its end, or end a freeze that was asked for with `kilter unfreeze`",
            )
        return self._ask(loop, PromoteRequested(at=self._clock.now(), version=number, by=by))

    @operation(writes=True, role="editor", repeatable=True)
    def freeze(self, loop: str, reason: str = "", until: datetime | None = None, by: str = "") -> LoopStatus:
        """Hold releases where they are: no challenger gets traffic or more of it, and none is promoted. Going back is free.

        Args:
            loop: The loop's name.
            reason: Why.
            until: When it ends by itself, with a time zone; without it only ``unfreeze`` ends it.
            by: Who asks.
        """
        now = self._clock.now()
        if until is not None and (until.tzinfo is None or until <= now):
            raise InvalidInput(
                "the end of the freeze is not a moment to come",
                where="until",
                allowed=f"a time with its zone, after {now:%Y-%m-%dT%H:%M}Z",
            )
        return self._ask(loop, FreezeRequested(at=now, by=by, reason=reason, until=until))

    @operation(writes=True, role="editor", repeatable=True)
    def unfreeze(self, loop: str, by: str = "") -> LoopStatus:
        """Let releases go on; windows of the declaration or the environment, and running experiments, hold all the same.

        Args:
            loop: The loop's name.
            by: Who asks.
        """
        return self._ask(loop, UnfreezeRequested(at=self._clock.now(), by=by))

    @operation(writes=True, role="approver")
    def approve(self, loop: str, version: int | str, by: str, comment: str = "") -> LoopStatus:
        """Approve a version that waits for its owner.

        Args:
            loop: The loop's name.
            version: The version that waits.
            by: Who approves.
            comment: What to note beside it.
        """
        if not by.strip():
            raise InvalidInput("an approval needs a name", where="by", fix="say who approves")
        number = self._models.get(loop, version).version
        row = self.ledger.row(loop)
        release = row.state.release
        if release is None or release.version != number or release.work != "approval":
            raise Conflict(f"v{number} of {loop!r} does not wait for an approval", where="approve")
        now = self._clock.now()
        with self._database.transaction() as connection:
            self._models.approve_in(connection, loop, number, by, comment, now)
            self.ledger.feed_in(connection, loop, Approved(at=now, version=number, by=by))
        return self.status(loop)

    def _ask(self, loop: str, event: Events) -> LoopStatus:
        self.ledger.feed(loop, event)
        return self.status(loop)


def _windows(given: Sequence[str]) -> tuple[str, ...]:
    for window in given:
        parse_window(window)
    return tuple(given)
