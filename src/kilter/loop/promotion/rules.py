"""What may leave a store, and what another one takes: decisions over records alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kilter.core.digests import digest_json
from kilter.core.errors import ApprovalNeeded, Conflict, GateRefused, InvalidInput
from kilter.loop.declaration.spec import ColumnsSpec, LoopSpec, ViewSpec, seconds_of
from kilter.loop.promotion.records import Dossier
from kilter.packaging.records import FileEntry, Manifest
from kilter.registry.records import Stage, VersionHistory

PROVEN: frozenset[Stage] = frozenset({"gated", "shadow", "canary", "champion", "retired"})
"""The stages of versions that passed their gates, and were not refused after that."""


def check_leaves(history: VersionHistory, *, looped: bool, owner_decides: bool, approval: str) -> None:
    """Refuse a version that its own store did not let through.

    Args:
        history: What is known of it.
        looped: Whether a loop made it: its gates have to have passed.
        owner_decides: Whether that loop's rule asks for an approval.
        approval: What the registry's approval says: ``pending``, ``approved`` or ``rejected``.

    Raises:
        GateRefused: When its gates did not pass, or it was refused later.
        ApprovalNeeded: When nobody approved it who had to.
    """
    version = history.version
    if looped:
        if version.stage not in PROVEN:
            raise GateRefused(
                f"{version.reference} is {version.stage}: {version.reason}",
                where="promote",
                allowed=", ".join(sorted(PROVEN)),
                fix=f"promote a version that passed its gates: `kilter models versions {version.model}`",
            )
        judged = [one for one in history.evidence if one.kind == "gates"]
        refused = [finding for finding in judged[-1].findings if finding.verdict != "pass"] if judged else []
        arrived = version.lineage.origin is not None  # its gates were judged where it was trained, and came with it
        if refused or not (judged or arrived):
            said = "; ".join(finding.sentence() for finding in refused) or "no gate was judged"
            raise GateRefused(f"the gates of {version.reference} did not pass: {said}", where="promote",
                              fix=f"see `kilter why {version.reference}`")  # fmt: skip
    if approval == "rejected":
        raise ApprovalNeeded(f"{version.reference} was rejected", where="promote",
                             fix=f"see `kilter models history {version.reference}`")  # fmt: skip
    if (owner_decides or not looped) and not history.approvals and approval != "approved":
        why = "its loop asks for its owner's approval" if looped else "no loop proved it, so somebody has to approve it"
        command = "approve" if looped and version.stage == "gated" else "models approve-state"
        state = "" if command == "approve" else " approved"
        raise ApprovalNeeded(f"{version.reference} is not approved, and {why}", where="promote",
                             fix=f"`kilter {command} {version.reference}{state}`")  # fmt: skip


def label_digest(spec: LoopSpec) -> str:
    """Return the digest of a declared label."""
    return digest_json(spec.label)


def check_fits(spec: LoopSpec, manifest: Manifest, dossier: Dossier) -> None:
    """Refuse a version that the loop of that name could not feed, or that answers another question.

    Args:
        spec: The declaration that is applied where the version arrives.
        manifest: The version's.
        dossier: What travels with it.

    Raises:
        Conflict: When table, inputs, features, kind of answer or label are others.
    """
    signature = manifest.signature
    tables = {table.name: table for table in spec.tables}
    table = tables.get(signature.table)
    if table is None or (table.key, table.time) != (signature.key, signature.time):
        raise _unfit(
            dossier,
            f"its rows are of the table {signature.table or 'none'!r} (key {signature.key!r}, time {signature.time!r})",
            "; ".join(f"{one.name!r} (key {one.key!r}, time {one.time!r})" for one in spec.tables),
        )
    columns = {name for item in spec.inputs if isinstance(item, ColumnsSpec) for name in item.names}
    views = [item for item in spec.inputs if isinstance(item, ViewSpec)]
    given = columns | {one.name for view in views for one in view.aggregates}
    missing = [name for name in signature.encoding.names if name not in given]
    if missing:
        raise _unfit(dossier, f"it needs the inputs {_listed(missing)}, which the loop does not have", _listed(given))
    declared = [_declared(view) for view in views]
    others = [view for view in signature.views if _packaged(view) not in declared]
    if others:
        raise _unfit(
            dossier,
            f"it has other features of {_listed(str(view.get('table', {}).get('name')) for view in others)} than the loop",
            "the features of the loop",
        )
    if signature.label != "binary":
        raise _unfit(dossier, f"it answers with {signature.label}", "binary: the probability of one class")
    if dossier.label and dossier.label != label_digest(spec):
        raise _unfit(dossier, "it learned another label than the loop joins", "the label of the loop")


def check_dossier(dossier: Dossier, manifest: Manifest) -> None:
    """Refuse a dossier that does not name all files of its manifest.

    Raises:
        InvalidInput: When it doesn't.
    """
    named = {(part.name, part.digest, part.size) for part in dossier.parts}
    wanted = {("model", *_entry(manifest.model)), ("example", *_entry(manifest.example))}
    if manifest.explainer is not None:
        wanted.add(("explainer", *_entry(manifest.explainer.file)))
    digests = {part.digest for part in dossier.parts}
    lineage = {digest for digest in (dossier.lineage.environment, dossier.lineage.profile) if digest}
    if not wanted <= named or not {dossier.bundle, *lineage} <= digests:
        raise InvalidInput("the dossier does not name every file of the version", where="dossier.parts")


def _entry(entry: FileEntry) -> tuple[str, int]:
    return entry.digest, entry.size


def _declared(view: ViewSpec) -> list[Any]:
    """Return a view of a declaration in a form that compares: durations in seconds."""
    aggregates = [
        [one.name, one.operation, seconds_of(one.over), one.column, one.resolution] for one in view.aggregates
    ]
    return [view.table, view.entity, view.time, seconds_of(view.lag), aggregates]


def _packaged(view: dict[str, Any]) -> list[Any]:
    """Return a view as a bundle keeps it, in the same form; nothing that compares for one that can't be read."""
    try:
        aggregates = [
            [name, one["operation"], seconds_of(one["over"]), one["column"], float(one["resolution"])]
            for name, one in view["aggregates"]
        ]
        return [view["table"]["name"], view["entity"], view["time"], seconds_of(view["lag"]), aggregates]
    except (KeyError, TypeError, ValueError, InvalidInput):
        return []


def _unfit(dossier: Dossier, what: str, allowed: str) -> Conflict:
    return Conflict(
        f"the loop {dossier.model!r} can't take {dossier.reference}: {what}",
        where="promote",
        allowed=allowed,
        fix="apply the declaration that it was trained under there first: `kilter apply FILE --env ENV`",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:20])
