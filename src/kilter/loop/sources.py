"""Declarations as they were applied: the stored text, run again wherever a loop is worked on."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import select

from kilter.core.errors import Damaged, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.declare import AnyLoop
from kilter.loop.spec import Declared, LoopSpec, load_source, spec_of
from kilter.loop.tables import specs


@lru_cache(maxsize=64)
def _run(text: str, filename: str, name: str) -> Declared:
    return load_source(text, filename, name)


def declared(database: Database, objects: ObjectStore, digest: str) -> Declared:
    """Return a declaration that was applied, by the digest of its spec.

    Raises:
        NotFound: When no declaration of this digest was applied.
        Damaged: When the stored text no longer gives the spec that it gave when it was applied.
    """
    with database.reading() as connection:
        row = connection.execute(select(specs).where(specs.c.digest == digest)).mappings().first()
    if row is None:
        raise NotFound(f"No declaration {digest[:12]} was applied here", fix="apply its file with `kilter apply FILE`")
    found = _run(objects.get(row["source"]).decode(), row["filename"], row["name"])
    made = spec_of(found).digest
    if made != digest:
        raise Damaged(
            f"the stored text gives the declaration {made[:12]}, it was applied as {digest[:12]}",
            where=row["filename"],
            fix="apply the file again; it must declare the same value each time it is run",
        )
    return found


def declaration(database: Database, objects: ObjectStore, digest: str) -> tuple[AnyLoop, LoopSpec]:
    """Return a declaration that was applied as a value and as data; see `declared`."""
    found = declared(database, objects, digest)
    return found.loop, spec_of(found)
