"""What the registry says about models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from kilter.core.evidence import Finding

Stage = Literal[
    "candidate", "gated", "shadow", "canary", "champion", "retired", "rejected", "rolled_back", "inconclusive"
]
Alias = Literal["champion", "challenger"]
EvidenceKind = Literal["gates", "shadow", "canary"]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was built from; a copy kept with the version, so that it outlives the run.

    Args:
        run: The run that trained it.
        spec: Digest of the declaration.
        data_digest: Digest of the training rows.
        feature_digest: Digest of the feature definitions.
        code_digest: Digest of the source of the training and label functions.
        environment: Digest of the lock of installed distributions.
        params: The parameters.
        seed: The seed.
        profile: Digest of the profile that the version is watched against.
    """

    run: str
    spec: str
    data_digest: str
    feature_digest: str = ""
    code_digest: str = ""
    environment: str = ""
    params: dict[str, Any] = {}
    seed: int = 0
    profile: str = ""


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model; all but its stage and aliases is fixed for ever.

    Args:
        model: The model's name, which is the loop's.
        version: 1, 2, 3, ... per model.
        bundle: Digest of the packaged model.
        lineage: What it was built from.
        trigger: Why it was trained.
        at: When it was registered, UTC.
        stage: Where it stands now.
        reason: Why it stands there.
        aliases: ``champion``, ``challenger`` or neither.
    """

    model: str
    version: int
    bundle: str
    lineage: Lineage
    trigger: str
    at: datetime
    stage: Stage
    reason: str
    aliases: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The version as people write it: ``flight-delay@v7``."""
        return f"{self.model}@v{self.version}"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model in a list."""

    name: str
    versions: int
    champion: int | None
    challenger: int | None
    created_at: datetime


class StageMark(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a version's history."""

    stage: Stage
    reason: str
    at: datetime


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when a version was judged."""

    kind: EvidenceKind
    findings: tuple[Finding, ...]
    at: datetime


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A person's yes to a version."""

    version: int
    by: str
    at: datetime
    comment: str = ""


class VersionHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A version with everything that is known about it."""

    version: ModelVersion
    stages: tuple[StageMark, ...]
    evidence: tuple[Evidence, ...]
    approvals: tuple[Approval, ...]
