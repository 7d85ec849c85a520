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
Owner = Literal["client", "loop"]
Label = Literal["None", "Staging", "Production", "Archived"]
LABELS: tuple[Label, ...] = ("None", "Staging", "Production", "Archived")
ApprovalState = Literal["pending", "approved", "rejected"]
APPROVALS: tuple[ApprovalState, ...] = ("pending", "approved", "rejected")
HookStatus = Literal["ACTIVE", "DISABLED"]
What = Literal["model", "version", "alias", "stage", "approval", "tag", "description"]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version was promoted from; what is said about the other store is what its sender said.

    Args:
        store: The store that it was trained in, without credentials.
        environment: The environment of that store.
        version: The version there: ``flight-delay@v7``.
        stage: Where it stood there.
        spec: Digest of the declaration that it was built from there.
        label: Digest of the label as declared there.
        approvals: Who approved it there, and when.
        at: When it was registered there, UTC.
        by: Who promoted it.
    """

    store: str
    environment: str
    version: str
    stage: str
    spec: str
    label: str = ""
    approvals: tuple[str, ...] = ()
    at: datetime
    by: str = ""


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
        origin: Where it was promoted from; None for one that was made in this store. Its run is a run of that store then.
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
    origin: Origin | None = None


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


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed what of a registered model, when and why.

    Args:
        id: Rises with time.
        model: The model's name at that time.
        version: The version, or None for the model itself.
        what: What kind of thing was changed.
        field: Which one: the alias, the tag; ``name`` of a model.
        before: What it was, or None when it was not.
        after: What it became, or None when it was taken away.
        by: Who did it.
        reason: Why, in their words.
        at: When, UTC.
    """

    id: int
    model: str
    version: int | None
    what: What
    field: str
    before: str | None
    after: str | None
    by: str
    reason: str
    at: datetime

    def sentence(self) -> str:
        """The change as people read it."""
        thing = f"{self.what} {self.field}".strip()
        if self.what == "version" and self.before is None:
            return "registered" if self.after == str(self.version) else f"registered from {self.after}"
        if self.what == "model" and self.before is None:
            return "made"
        if self.before is None:
            return f"{thing} set to {self.after}" if self.after is not None else thing
        return f"{thing} taken from {self.before}" if self.after is None else f"{thing}: {self.before} -> {self.after}"


class RegisteredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version as every registry's client sees it, whoever made it.

    Args:
        model: The model's name.
        version: 1, 2, 3, ... per model.
        owner: ``loop`` when a loop made it, with a bundle; ``client`` when somebody registered it, with a source.
        source: Where the client said that its files are.
        location: Where they can be read from.
        run: The run that made it.
        logged_model: The logged model that it is.
        run_link: Where the run can be looked at.
        description: In people's words.
        user: Who registered it.
        stage: MLflow's stage, a label that moves no traffic.
        state: Where a loop's version stands: ``champion``, ``retired``, ...; nothing for others.
        status: ``READY``.
        approval: ``pending``, ``approved`` or ``rejected``.
        tags: What people say about it.
        aliases: Its aliases.
        created_at: When it was registered.
        changed_at: When something was last said about it.
    """

    model: str
    version: int
    owner: Owner
    source: str
    location: str
    run: str
    logged_model: str
    run_link: str
    description: str
    user: str
    stage: Label
    state: str
    status: str
    approval: ApprovalState
    tags: dict[str, str]
    aliases: tuple[str, ...]
    created_at: datetime
    changed_at: datetime

    @property
    def reference(self) -> str:
        """The version as people write it: ``flight-delay@v7``."""
        return f"{self.model}@v{self.version}"

    @property
    def label(self) -> str:
        """MLflow's stage, where it has one."""
        return "" if self.stage == "None" else self.stage


class RegisteredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as every registry's client sees it, whoever made it.

    Args:
        name: Its name.
        owner: ``loop`` or ``client``.
        description: In people's words.
        tags: What people say about it.
        aliases: The versions by alias.
        latest: The newest version of each stage.
        created_at: When it was made.
        changed_at: When it, or one of its versions, last changed.
    """

    name: str
    owner: Owner
    description: str
    tags: dict[str, str]
    aliases: dict[str, int]
    latest: tuple[RegisteredVersion, ...]
    created_at: datetime
    changed_at: datetime


class ModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some models, and where the next page begins."""

    models: tuple[RegisteredModel, ...]
    cursor: str | None = None


class VersionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some versions, and where the next page begins."""

    versions: tuple[RegisteredVersion, ...]
    cursor: str | None = None


class VersionHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A version with everything that is known about it."""

    version: ModelVersion
    stages: tuple[StageMark, ...]
    evidence: tuple[Evidence, ...]
    approvals: tuple[Approval, ...]
    changes: tuple[Change, ...] = ()


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told about events; its secret is never shown.

    Args:
        id: Its id.
        name: What people call it.
        url: Where it is told.
        events: What it is told.
        description: In people's words.
        status: ``ACTIVE`` or ``DISABLED``.
        signed: Whether what is sent is signed.
        dropped: How many were not kept, because too many waited.
        failed: How many were given up.
        error: What went wrong last.
        created_at: When it was made.
        changed_at: When it was changed.
    """

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    description: str
    status: HookStatus
    signed: bool
    dropped: int
    failed: int
    error: str
    created_at: datetime
    changed_at: datetime


class WebhookPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some webhooks, and where the next page begins."""

    webhooks: tuple[Webhook, ...]
    cursor: str | None = None


class WebhookTest(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a delivery: an answer, or what went wrong."""

    success: bool
    status: int | None = None
    body: str = ""
    error: str = ""
