"""The files of runs: names in SQL, bytes in the object store, the same bytes once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.tracking.liveness import alive, require
from kilter.tracking.records import Artifact
from kilter.tracking.tables import artifacts
from kilter.tracking.writing import file_name, upsert


class ArtifactOperations:
    """The operations on files of runs."""

    _database: Database
    _objects: ObjectStore
    _clock: Clock
    _wall: Clock

    @operation(writes=True)
    def log_artifact(self, run: str, name: str, data: bytes) -> Artifact:
        """Keep a file of a run; the same name again replaces it.

        Args:
            run: The run.
            name: A relative path: ``plots/roc.png``.
            data: The bytes.

        Raises:
            InvalidInput: When the name climbs out of the run.
        """
        clean = file_name(name)
        kept = Artifact(name=clean, digest=self._objects.put(data), size=len(data), at=self._clock.now())
        self._keep(run, kept, late=False)
        return kept

    def keep_file(self, run: str, name: str, file: Path, digest: str, size: int) -> Artifact:
        """Keep a file of a run that is on this machine's disk, also after the run's end; the same name again replaces it.

        Args:
            run: The run.
            name: A relative path: ``plots/roc.png``.
            file: Where it lies.
            digest: The digest of its bytes.
            size: Its length in bytes.

        Raises:
            InvalidInput: When the name climbs out of the run.
        """
        kept = Artifact(name=file_name(name), digest=digest, size=size, at=self._clock.now())
        self._objects.put_file(file, digest, size)
        self._keep(run, kept, late=True)
        return kept

    def drop_artifacts(self, run: str, name: str) -> int:
        """Take a file, or all files of a folder, from a run, and return how many; the bytes stay for others that share them."""
        of = artifacts.c.run == run
        if name:
            below = artifacts.c.name.startswith(f"{name}/", autoescape=True)
            of &= (artifacts.c.name == name) | below
        with self._database.transaction() as connection:
            require(connection, run)
            return connection.execute(artifacts.delete().where(of)).rowcount

    def _keep(self, run: str, kept: Artifact, *, late: bool) -> None:
        with self._database.transaction() as connection:
            alive(connection, run, self._wall, late=late)
            row = {"run": run, "name": kept.name, "digest": kept.digest, "size": kept.size, "at": kept.at}
            upsert(connection, artifacts, [row])

    @operation
    def artifact(self, run: str, name: str) -> bytes:
        """Return the bytes of a run's file.

        Raises:
            NotFound: When the run has no such file.
            Damaged: When the stored bytes have another digest.
        """
        with self._database.reading() as connection:
            require(connection, run)
            found = connection.execute(
                sa.select(artifacts.c.digest).where(artifacts.c.run == run, artifacts.c.name == name)
            ).scalar()
        if found is None:
            raise NotFound(f"run {run} has no file {name!r}", where="runs", fix="see the run's artifacts")
        return self._objects.get(found)
