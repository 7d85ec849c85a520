"""What travels with a version, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from kilter.packaging.records import Manifest
from kilter.registry.records import Approval, Evidence, Lineage, Stage

Place = Literal["model", "loop"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a version.

    Args:
        name: ``manifest``, ``model``, ``example``, ``explainer``, ``environment`` or ``profile``.
        digest: BLAKE3 of its bytes.
        size: How many.
    """

    name: str
    digest: str
    size: int


class Dossier(msgspec.Struct, frozen=True, kw_only=True):
    """A version as it leaves its store: everything but the bytes.

    Args:
        model: The model's name.
        version: Its number there.
        bundle: Digest of its manifest, which names everything else that it answers with.
        manifest: That manifest.
        parts: Its files.
        lineage: What it was built from: run, data version, declaration, code, environment, params.
        label: Digest of the label as declared; empty for a version without a loop.
        trigger: Why it was trained.
        at: When it was registered there.
        stage: Where it stood.
        gates: What its gates found.
        approvals: Who approved it.
    """

    model: str
    version: int
    bundle: str
    manifest: Manifest
    parts: tuple[Part, ...]
    lineage: Lineage
    label: str
    trigger: str
    at: datetime
    stage: Stage
    gates: tuple[Evidence, ...]
    approvals: tuple[Approval, ...]

    @property
    def reference(self) -> str:
        """The version there as people write it: ``flight-delay@v7``."""
        return f"{self.model}@v{self.version}"


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version comes from.

    Args:
        store: The store's address, without credentials.
        environment: Its environment.
    """

    store: str
    environment: str


class Promoted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a promotion.

    Args:
        source: The version where it was trained: ``flight-delay@v7``.
        version: The version where it is now; empty when it would be made.
        bundle: The bundle's digest, the same in both.
        known: It had been promoted before, and nothing was changed.
        dry_run: Nothing was changed: this is what would be.
        place: ``loop`` when a loop of that name takes it the rest of its way, ``model`` when there is none.
        next: What happens, or has to be done, next.
        size: Bytes of all its files.
        sent: Bytes that had to be sent; the rest was there.
    """

    source: str
    version: str
    bundle: str
    known: bool
    dry_run: bool
    place: Place
    next: str
    size: int = 0
    sent: int = 0
