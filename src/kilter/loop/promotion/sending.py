"""From one store to another: the bytes go through whoever promotes, who alone needs to reach both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import msgspec

from kilter.core.errors import Damaged
from kilter.loop.promotion.records import Dossier, Part, Promoted, Sender
from kilter.loop.remote import Kilter
from kilter.loop.workspace import Workspace
from kilter.tracking.transfer import send_pieces

Tell = Callable[[str], None]


def promote_to(
    source: Kilter,
    target: Kilter,
    model: str,
    version: int | str,
    *,
    sender: Sender,
    by: str = "",
    dry_run: bool = False,
    tell: Tell | None = None,
) -> Promoted:
    """Copy a version's bytes into another store, by their digests, and hand it to that store's rules.

    Nothing is trained or built again. What is there already is not sent: after a ``kill -9`` it goes on where it was, and a second
    promotion says that the version is there.

    Args:
        source: The store or server that it was trained in.
        target: The store or server that it goes to.
        model: The model's name.
        version: A number, ``"v7"`` or an alias.
        sender: What the source is called.
        by: Who promotes it.
        dry_run: Say what would happen, and change nothing.
        tell: Takes a line about each step.

    Raises:
        GateRefused: When its gates did not pass.
        ApprovalNeeded: When nobody approved it who had to.
        Conflict: When the target's loop can't take it.
        Forbidden: When the token's role in the target is less than approver.
        Damaged: When bytes are not those of their digests, in the source or on arrival.
    """
    said = tell or _silent
    dossier = source.promotions.dossier(model, version)
    said(f"{dossier.reference} is {dossier.stage}: its gates and approvals allow it")
    looked = target.promotions.look(model, dossier)
    absent = set(target.promotions.missing(model, [part.digest for part in dossier.parts]))
    unsent = [part for part in dossier.parts if part.digest in absent]
    if dry_run:
        return msgspec.structs.replace(looked, sent=sum(part.size for part in unsent))
    sent = 0
    for part in {one.digest: one for one in unsent}.values():
        sent += _send(source, target, dossier, part)
        said(f"{part.name}: {part.size:,} bytes, as {part.digest[:12]}")
    if isinstance(target, Workspace):
        found = target.promotions.take(model, dossier, sender, by)
    else:
        found = target.promotions.receive(model, dossier, sender, by)
    return msgspec.structs.replace(found, sent=sent)


def _send(source: Kilter, target: Kilter, dossier: Dossier, part: Part) -> int:
    found = send_pieces(
        _bytes(source, dossier, part),
        lambda pieces: target.promotions.missing_pieces(dossier.model, pieces),
        lambda piece: target.promotions.put(dossier.model, piece),
    )
    if (found.digest, found.size) != (part.digest, part.size):
        raise Damaged(f"the file {part.name} of {dossier.reference} holds other bytes than its digest says",
                      where=part.digest, fix="restore the source's objects from a backup")  # fmt: skip
    target.promotions.assemble(dossier.model, part.digest, found.pieces)
    return found.sent


def _bytes(source: Kilter, dossier: Dossier, part: Part) -> Iterator[bytes]:
    start = 0
    while start < part.size:
        data = source.promotions.part(dossier.model, dossier.version, part.digest, start)
        if not data:
            return
        yield data
        start += len(data)


def address_of(store: str) -> str:
    """Return a store's address without what could be a secret."""
    if "://" not in store:
        return store
    parts = urlsplit(store)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def _silent(_line: str) -> None:
    """Say nothing."""
