"""Models without a loop: a packaged model becomes the next version of an endpoint, and answers alone from then on."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.digests import digest
from kilter.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.journal.service import Journal
from kilter.loop.tables import loops
from kilter.operations.running import RunFolder
from kilter.operations.table import operation
from kilter.packaging.bundle import Parts, fetch, keep
from kilter.packaging.loading import OWNERS_ONLY
from kilter.packaging.records import Manifest
from kilter.registry.records import Lineage, ModelVersion
from kilter.registry.service import ModelService
from kilter.serving.records import TrafficPlan
from kilter.serving.rules import check_plan
from kilter.serving.service import EndpointService

PIECE = 8 << 20
"""How much of a model is sent at once, in bytes."""


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A model that an endpoint answers with.

    Args:
        name: The endpoint's name, which is the model's.
        version: The version.
        bundle: The bundle's digest.
        flavor: The runtime that answers.
        generation: The endpoint's plan.
        address: Where to ask; empty when no front runs on the store yet.
    """

    name: str
    version: int
    bundle: str
    flavor: str
    generation: int
    address: str = ""

    @property
    def reference(self) -> str:
        """The version as people write it: ``churn@v3``."""
        return f"{self.name}@v{self.version}"

    def __str__(self) -> str:
        where = self.address or "no front runs yet: start it with `kilter up`"
        return f"{self.reference} ({self.flavor}): {where}"


class DeploymentService:
    """Makes a packaged model answer.

    Args:
        database: The store's metadata.
        objects: Where bundles are kept.
        journal: Where it is noted.
        models: The registry.
        endpoints: The plans.
        clock: The time.
        run: What runs on the store, to tell the address.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        journal: Journal,
        models: ModelService,
        endpoints: EndpointService,
        clock: Clock,
        run: RunFolder,
    ) -> None:
        self._database = database
        self._objects = objects
        self._journal = journal
        self._models = models
        self._endpoints = endpoints
        self._clock = clock
        self._run = run

    @property
    def objects(self) -> ObjectStore:
        """Where bundles are kept."""
        return self._objects

    @operation(writes=True, repeatable=True)
    def keep(self, data: bytes) -> str:
        """Keep a piece of a model that is too large to be sent at once; return the digest to name it by.

        Args:
            data: The piece.
        """
        return self._objects.put(data)

    @operation(writes=True, key="key")
    def release(
        self,
        name: str,
        manifest: Manifest,
        pieces: tuple[str, ...],
        example: bytes,
        trigger: str = "deployed",
        by: str = "",
        parent: str = "",
        fallback: float | None = None,
        explainer: tuple[str, ...] = (),
        key: str = "",
    ) -> Deployed:
        """Register a packaged model as the next version, and let the endpoint of that name answer with it alone.

        Args:
            name: The endpoint's name.
            manifest: The bundle's manifest.
            pieces: The digests of the model file's pieces, in order, as ``keep`` returned them.
            example: The bundle's example rows.
            trigger: Why.
            by: Who.
            parent: The version that it was made from: ``churn@v2``.
            fallback: The constant that answers when no model can; that of the plan before, if not said.
            explainer: The digests of the explainer's pieces, when the manifest names one.
            key: Idempotency key: the same key deploys once.

        Raises:
            Conflict: When a loop of that name decides about the endpoint.
            Forbidden: When the model's format is one that only the store's owner may package.
            InvalidInput: When the bytes are not those of the manifest.
        """
        if manifest.flavor in OWNERS_ONLY:
            raise Forbidden(
                f"a model of the format {manifest.flavor!r} runs or reaches what its maker wrote into it",
                where="manifest.flavor",
                fix="deploy it on the machine of the store, as the store's owner",
            )
        data = b"".join(self._objects.get(piece) for piece in pieces)
        behind = b"".join(self._objects.get(piece) for piece in explainer)
        wanted = manifest.explainer.file.digest if manifest.explainer else digest(b"")
        if (digest(data), digest(example), digest(behind)) != (manifest.model.digest, manifest.example.digest, wanted):
            raise InvalidInput("the bytes are not those that the manifest names", where="pieces")
        return self.deploy(
            name,
            Parts(manifest, data, example, behind),
            trigger=trigger,
            by=by,
            parent=parent,
            fallback=fallback,
            key=key,
        )

    def deploy(
        self,
        name: str,
        parts: Parts,
        *,
        trigger: str = "deployed",
        by: str = "",
        parent: str = "",
        fallback: float | None = None,
        key: str = "",
    ) -> Deployed:
        """Deploy a bundle; see :meth:`release`."""
        check_plan(TrafficPlan(loop=name, champion=None, fallback=0.0))  # the name, before anything is written
        bundle = keep(parts, self._objects)
        environment = self._objects.put("\n".join(parts.manifest.environment).encode())
        lineage = Lineage(run="", spec="", data_digest="", environment=environment, params=_params(parts, parent))
        now = self._clock.now()
        with self._database.transaction() as connection:
            self._refuse_loop(connection, name)
            version = self._models.register_in(connection, name, bundle.digest, lineage, trigger, at=now, key=key)
            before = self._plan(name)  # another deployment waits for the model's row by now
            if version.stage != "candidate":  # this very key has been here
                return self._deployed(version, before.generation if before else 0, parts.manifest)
            generation = self._make_champion(connection, version, before, fallback)
            data = {"bundle": bundle.digest, "flavor": parts.manifest.flavor, "by": by, "parent": parent}
            self._journal.append(connection, "Deployed", version.reference, data, at=now)
        return self._deployed(version, generation, parts.manifest)

    @operation(role="editor")
    def bundle(self, name: str) -> Manifest:
        """Return a bundle's manifest.

        Args:
            name: The bundle's digest.
        """
        return fetch(name, self._objects).manifest

    @operation(role="editor")
    def file(self, bundle: str, part: Literal["model", "example", "explainer"], start: int = 0) -> bytes:
        """Return eight megabytes of a bundle's file, or what is left of it; nothing after its end.

        Args:
            bundle: The bundle's digest.
            part: Which file.
            start: The first byte.
        """
        parts = fetch(bundle, self._objects)
        found: bytes = getattr(parts, part)
        return found[max(start, 0) : max(start, 0) + PIECE]

    def _make_champion(
        self, connection: sa.Connection, version: ModelVersion, before: TrafficPlan | None, fallback: float | None
    ) -> int:
        """Let a version answer alone; the one before stays loaded as the way back."""
        name, number, now = version.model, version.version, version.at
        bundles = {number: version.bundle}
        warm: tuple[int, ...] = ()
        if before is not None and before.champion is not None:
            warm = (before.champion,)
            bundles[before.champion] = before.bundles[before.champion]
            self._models.mark(connection, name, before.champion, "retired", f"v{number} was deployed", now)
        self._models.mark(connection, name, number, "champion", version.trigger, now)
        self._models.set_alias(connection, name, "champion", number, now)
        self._models.set_alias(connection, name, "challenger", None, now)
        kept = before.fallback if before is not None and fallback is None else fallback
        return self._endpoints.set_plan(
            TrafficPlan(loop=name, champion=number, warm=warm, bundles=bundles, fallback=kept), connection
        )

    def _plan(self, name: str) -> TrafficPlan | None:
        try:
            return self._endpoints.plan(name)
        except NotFound:
            return None

    def _refuse_loop(self, connection: sa.Connection, name: str) -> None:
        if connection.execute(sa.select(loops.c.name).where(loops.c.name == name)).first() is not None:
            raise Conflict(
                f"the loop {name!r} decides what its endpoint answers with",
                where="name",
                fix="choose another name, or let the loop train and prove it: `kilter retrain`",
            )

    def _deployed(self, version: ModelVersion, generation: int, manifest: Manifest) -> Deployed:
        front = self._run.living("serve")
        return Deployed(
            name=version.model,
            version=version.version,
            bundle=version.bundle,
            flavor=manifest.flavor,
            generation=generation,
            address=f"{front.url}/predict/{version.model}" if front is not None else "",
        )


def _params(parts: Parts, parent: str) -> dict[str, Any]:
    found: dict[str, Any] = {"framework": parts.manifest.framework, "flavor": parts.manifest.flavor}
    return {**found, "made_from": parent} if parent else found
