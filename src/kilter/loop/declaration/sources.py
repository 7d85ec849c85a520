"""Declarations as they were applied: the stored text, run again wherever a loop is worked on."""

from __future__ import annotations

import sys

from sqlalchemy import select

from kilter.core.errors import Damaged, DeclarationError, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.declaration.frameworks import import_now
from kilter.loop.declaration.spec import Declared, LoopSpec, load_source, spec_of
from kilter.loop.declare import AnyLoop
from kilter.loop.tables import specs

_LOADED: dict[str, Declared] = {}
_SPECS: dict[str, LoopSpec] = {}


def declared(database: Database, objects: ObjectStore, digest: str) -> Declared:
    """Return a declaration that was applied, by the digest of its spec.

    Raises:
        NotFound: When no declaration of this digest was applied.
        Damaged: When the stored text is lost, or no longer gives the spec that it gave when it was applied.
    """
    if digest in _LOADED:  # a digest names its text for ever
        return _LOADED[digest]
    with database.reading() as connection:
        row = connection.execute(select(specs).where(specs.c.digest == digest)).mappings().first()
    if row is None:
        raise NotFound(f"No declaration {digest[:12]} was applied here", fix="apply its file with `kilter apply FILE`")
    found = load_source(_text(objects, row["source"], row["filename"]), row["filename"], row["name"])
    made = spec_of(found).digest
    if made != digest:
        raise Damaged(
            f"the stored text gives the declaration {made[:12]}, it was applied as {digest[:12]}",
            where=row["filename"],
            fix="apply the file again; it must declare the same value each time it is run",
        )
    _LOADED[digest] = found
    return found


def _text(objects: ObjectStore, source: str, filename: str) -> str:
    try:
        return objects.get(source).decode()
    except (NotFound, Damaged) as error:
        raise Damaged(
            f"the text of {filename} as it was applied is lost: {error.message}",
            where=error.where,
            fix=f"apply the same text again: `kilter apply {filename}`",
        ) from error


def declaration(
    database: Database, objects: ObjectStore, digest: str, *, running: bool = False
) -> tuple[AnyLoop, LoopSpec]:
    """Return a declaration that was applied as a value and as data; see `declared`.

    Args:
        database: Where it was applied.
        objects: Where its text is.
        digest: Of its spec.
        running: Its functions are called here, so the frameworks that it names are imported now.

    Raises:
        DeclarationError: When one of them can't be.
    """
    found = declared(database, objects, digest)
    if running:
        try:
            import_now(vars(sys.modules[found.module]))
        except ImportError as error:
            raise DeclarationError(
                f"an import of the file failed: {error}", where=found.filename, fix="correct it, or install the package"
            ) from error
    if digest not in _SPECS:
        _SPECS[digest] = spec_of(found)
    return found.loop, _SPECS[digest]
