"""The operations of promotion: what a store hands out of a version, and how another one takes it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kilter.core.clock import Clock
from kilter.core.digests import digest_json
from kilter.core.errors import Conflict, Damaged, Forbidden, InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.journal.service import Journal
from kilter.loop.promotion.records import Dossier, Part, Place, Promoted, Sender
from kilter.loop.promotion.rules import check_dossier, check_fits, check_leaves, label_digest
from kilter.loop.records import VersionArrived
from kilter.loop.service import LoopService
from kilter.operations.table import operation
from kilter.packaging.bundle import manifest_of
from kilter.packaging.loading import OWNERS_ONLY
from kilter.packaging.records import Manifest
from kilter.registry.records import Approval, ModelVersion, Origin
from kilter.registry.service import ModelService, split_reference

PIECE = 4 << 20
"""How much of a file is handed out at once, in bytes."""


class PromotionService:
    """Versions on their way from one store to another.

    Args:
        database: The metadata.
        objects: Where the bytes are.
        journal: Where an arrival is noted.
        models: The registry.
        loops: The loops, which decide what becomes of an arrival.
        clock: The time.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        journal: Journal,
        models: ModelService,
        loops: LoopService,
        clock: Clock,
    ) -> None:
        self._database = database
        self._objects = objects
        self._journal = journal
        self._models = models
        self._loops = loops
        self._clock = clock

    # ---------------------------------------------------------------- where it was trained

    @operation(role="editor")
    def dossier(self, model: str, version: int | str = "champion") -> Dossier:
        """Return everything that is known of a version, but its bytes, when it may leave this store.

        Args:
            model: The model's name.
            version: A number, ``"v7"`` or an alias.

        Raises:
            NotFound: When there is no such version.
            GateRefused: When its gates did not pass, or it was refused after that.
            ApprovalNeeded: When nobody approved it who had to.
        """
        name, wanted = split_reference(model, version)
        history = self._models.history(name, wanted)
        found = history.version
        state = self._models.registered_version(name, found.version).approval
        looped = bool(found.lineage.spec)
        owner_decides = False
        if name in self._loops.ledger.names():
            owner_decides = self._loops.ledger.row(name).state.policy.approval == "owner"
        check_leaves(history, looped=looped, owner_decides=owner_decides, approval=state)
        approvals = history.approvals
        if state == "approved" and not approvals:
            said = [one for one in history.changes if one.what == "approval" and one.after == "approved"]
            approvals = tuple(
                Approval(version=found.version, by=one.by, at=one.at, comment=one.reason) for one in said[-1:]
            )
        return Dossier(
            model=name,
            version=found.version,
            bundle=found.bundle,
            manifest=manifest_of(found.bundle, self._objects),
            parts=self._parts(found),
            lineage=found.lineage,
            label=self._label(found),
            trigger=found.trigger,
            at=found.at,
            stage=found.stage,
            gates=tuple(one for one in history.evidence if one.kind == "gates"),
            approvals=approvals,
        )

    @operation(role="editor")
    def part(self, model: str, version: int, digest: str, start: int = 0) -> bytes:
        """Return four megabytes of a version's file, or what is left of it; nothing after its end.

        Args:
            model: The model's name.
            version: Its number.
            digest: Which of its files.
            start: The first byte.

        Raises:
            NotFound: When the version has no such file.
            Damaged: When its bytes are not those of the digest.
        """
        if digest not in {part.digest for part in self._parts(self._models.get(model, version))}:
            raise NotFound(f"{model}@v{version} has no file {digest[:16]!r}", where="digest")
        begin = max(start, 0)
        return b"".join(self._objects.read(digest, begin, begin + PIECE))

    def _label(self, version: ModelVersion) -> str:
        """Return the digest of the label that a version learned; empty when nothing tells it any more."""
        spec = self._loops.declared(version.lineage.spec)
        if spec is not None:
            return label_digest(spec)
        return "" if version.lineage.origin is None else version.lineage.origin.label

    def _parts(self, version: ModelVersion) -> tuple[Part, ...]:
        manifest = manifest_of(version.bundle, self._objects)
        named = [
            ("manifest", version.bundle),
            ("model", manifest.model.digest),
            ("example", manifest.example.digest),
            ("explainer", manifest.explainer.file.digest if manifest.explainer is not None else ""),
            ("environment", version.lineage.environment),
            ("profile", version.lineage.profile),
        ]
        return tuple(Part(name=name, digest=one, size=self._size(one)) for name, one in named if one)

    def _size(self, digest: str) -> int:
        size = self._objects.size(digest)
        if size is None:
            raise Damaged("a file of the version is missing", where=digest, fix="restore the objects from a backup")
        return size

    # ---------------------------------------------------------------- where it goes

    @operation(role="approver")
    def look(self, model: str, dossier: Dossier) -> Promoted:
        """Return what promoting a version to this store would do, as far as it can be said without its bytes.

        Args:
            model: The model's name.
            dossier: What travels with it.

        Raises:
            Conflict: When it comes from this very store, or the loop of that name can't take it.
        """
        self._check(model, dossier)
        known = self._models.by_key(model, _key(dossier))
        return self._said(dossier, known, known=known is not None, dry_run=True)

    @operation(writes=True, role="approver", repeatable=True)
    def missing(self, model: str, digests: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - who may is looked up by it
        """Return which files this store does not have whole; what is damaged is thrown away, and has to come again.

        Args:
            model: The model that they are of.
            digests: The files.
        """
        return tuple(one for one in dict.fromkeys(digests) if not self._whole(one))

    @operation(role="approver")
    def missing_pieces(self, model: str, pieces: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - who may is looked up by it
        """Return which pieces this store does not have.

        Args:
            model: The model that they are of.
            pieces: Their digests.
        """
        return self._objects.missing(pieces)

    @operation(writes=True, role="approver", repeatable=True)
    def put(self, model: str, data: bytes) -> str:  # noqa: ARG002 - who may is looked up by it
        """Keep a piece of a file and return its digest.

        Args:
            model: The model that it is of.
            data: Up to 4 MiB.
        """
        return self._objects.put_piece(data)

    @operation(writes=True, role="approver", repeatable=True)
    def assemble(self, model: str, digest: str, pieces: Sequence[str]) -> int:  # noqa: ARG002 - who may is looked up by it
        """Make a file of pieces that were put, and return its size.

        Args:
            model: The model that it is for.
            digest: The digest that it has to have.
            pieces: The digests of its pieces, in order.

        Raises:
            NotFound: When a piece isn't there.
            InvalidInput: When the pieces give another digest.
        """
        return self._objects.assemble(pieces, digest)

    @operation(writes=True, role="approver", repeatable=True)
    def receive(self, model: str, dossier: Dossier, sender: Sender, by: str = "") -> Promoted:
        """Register a version whose bytes have arrived; a second time it is said to be there.

        A loop of that name takes it on: its rules ask for an approval, and for shadow and canary. Without one it is a registered
        model, which nobody serves before it is deployed.

        Args:
            model: The model's name.
            dossier: What travels with it.
            sender: Where it comes from.
            by: Who promotes it.

        Raises:
            Conflict: When the loop can't take it, or it comes from this very store.
            Forbidden: When its format is one that only the store's owner may bring in.
            Damaged: When bytes are not those of their digests.
            NotFound: When a file has not arrived.
        """
        manifest = manifest_of(dossier.bundle, self._objects)
        if manifest.flavor in OWNERS_ONLY:
            raise Forbidden(
                f"a model of the format {manifest.flavor!r} runs or reaches what its maker wrote into it",
                where="manifest.flavor",
                fix="promote it on the machine of the store, as the store's owner",
            )
        return self.take(model, dossier, sender, by)

    def take(self, model: str, dossier: Dossier, sender: Sender, by: str = "") -> Promoted:
        """Register a version; see :meth:`receive`."""
        self._check(model, dossier)
        manifest = self._verified(dossier)
        now, key = self._clock.now(), _key(dossier)
        with self._database.transaction() as connection:
            row = self._loops.ledger.row(model, connection) if self._has_loop(model) else None
            lineage = dossier.lineage
            if row is not None:
                spec = self._loops.spec(model)
                check_fits(spec, manifest, dossier)
                # What judges it from here on is the declaration of this store; the other one is in its origin.
                lineage = msgspec.structs.replace(lineage, spec=spec.digest)
            lineage = msgspec.structs.replace(lineage, origin=_origin(dossier, sender, by))
            trigger = f"promoted from {_said_of(dossier, sender)}"
            version = self._models.register_in(connection, model, dossier.bundle, lineage, trigger, at=now, key=key)
            # Whoever registered it first has ended by now: the model's row was theirs until then.
            if self._journal.events(limit=1, subject=version.reference, kind="VersionPromoted"):
                return self._said(dossier, version, known=True, dry_run=False)
            for one in dossier.gates:
                self._models.add_evidence(connection, model, version.version, one.kind, one.findings, one.at)
            data = {
                "bundle": dossier.bundle,
                "version": version.version,
                "origin": msgspec.to_builtins(lineage.origin),
                "run": lineage.run,
                "data_digest": lineage.data_digest,
                "by": by,
            }
            self._journal.append(connection, "VersionPromoted", version.reference, data, at=now)
            if row is not None:
                event = VersionArrived(at=now, version=version.version, origin=_said_of(dossier, sender), by=by)
                self._loops.ledger.feed_in(connection, model, event)
            elif lineage.spec:
                self._models.mark(
                    connection, model, version.version, "gated", f"gates passed in {sender.environment}", now
                )
        return self._said(dossier, self._models.get(model, version.version), known=False, dry_run=False)

    def _check(self, model: str, dossier: Dossier) -> None:
        if model != dossier.model:
            raise InvalidInput(f"the dossier is of {dossier.model!r}", where="model", allowed=dossier.model)
        self._same_store(dossier)
        if self._has_loop(model):
            check_fits(self._loops.spec(model), dossier.manifest, dossier)

    def _same_store(self, dossier: Dossier) -> None:
        try:
            found = self._models.get(dossier.model, dossier.version)
        except NotFound:
            return
        if (found.bundle, found.at, found.trigger) == (dossier.bundle, dossier.at, dossier.trigger):
            raise Conflict(
                f"{dossier.reference} is a version of the store that it would be promoted to",
                where="promote",
                fix="name another environment with --to",
            )

    def _verified(self, dossier: Dossier) -> Manifest:
        """Read every byte that has arrived against its digest."""
        for part in dossier.parts:
            size = sum(len(piece) for piece in self._objects.read(part.digest))
            if size != part.size:
                raise Damaged(f"the file {part.name} has {size} bytes, {part.size} were told", where=part.digest)
        manifest = manifest_of(dossier.bundle, self._objects)
        check_dossier(dossier, manifest)
        return manifest

    def _whole(self, digest: str) -> bool:
        """Say whether a file is there as its digest says; what was damaged is sent again."""
        if not self._objects.has(digest):
            return False
        try:
            for _ in self._objects.read(digest):
                pass
        except Damaged:
            self._objects.delete(digest)
            return False
        return True

    def _has_loop(self, model: str) -> bool:
        return model in self._loops.ledger.names()

    def _said(self, dossier: Dossier, version: ModelVersion | None, *, known: bool, dry_run: bool) -> Promoted:
        place: Place = "loop" if self._has_loop(dossier.model) else "model"
        return Promoted(
            source=dossier.reference,
            version="" if version is None else version.reference,
            bundle=dossier.bundle,
            known=known,
            dry_run=dry_run,
            place=place,
            next=self._next(dossier.model, version, place),
            size=sum(part.size for part in dossier.parts),
        )

    def _next(self, model: str, version: ModelVersion | None, place: Place) -> str:
        if version is not None and version.stage not in {"candidate", "gated"}:
            return f"it is {version.stage}: {version.reason}"
        if place == "model":
            named = "VERSION" if version is None else str(version.version)
            return f"no loop of that name: `kilter deploy models:/{model}/{named} --name NAME` serves it"
        state = self._loops.ledger.row(model).state
        if state.paused is not None:
            return f"the loop is paused ({state.paused}): it waits until `kilter resume {model}`"
        waiting = state.release
        if waiting is not None and (version is None or waiting.version != version.version):
            return "it waits until what is in flight has ended"
        if state.policy.approval == "owner":
            named = "vN" if version is None else f"v{version.version}"
            return f"it waits for the approval of {state.policy.owner}: `kilter approve {model}@{named}`"
        return "it becomes the champion, as the first one" if state.champion is None else "its release begins"


def _key(dossier: Dossier) -> str:
    """Return what makes a version the same one, by whatever address its store is reached."""
    said = [dossier.model, dossier.version, dossier.bundle, dossier.lineage.run, dossier.at, dossier.trigger]
    return f"promoted/{digest_json(said)}"


def _said_of(dossier: Dossier, sender: Sender) -> str:
    return f"{dossier.reference} of {sender.environment or sender.store}"


def _origin(dossier: Dossier, sender: Sender, by: str) -> Origin:
    return Origin(
        store=sender.store,
        environment=sender.environment,
        version=dossier.reference,
        stage=dossier.stage,
        spec=dossier.lineage.spec,
        label=dossier.label,
        approvals=tuple(f"{one.by} on {one.at:%Y-%m-%d %H:%M}" for one in dossier.approvals),
        at=dossier.at,
        by=by,
    )
