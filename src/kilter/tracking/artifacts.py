"""The files of runs: names in SQL, bytes in the object store, the same bytes once."""

from __future__ import annotations

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.digests import digest_json
from kilter.core.errors import NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.tracking.liveness import alive, require
from kilter.tracking.logged_models import make_model, one_model
from kilter.tracking.records import Artifact, LoggedModel
from kilter.tracking.rows import one_run
from kilter.tracking.tables import artifacts, run_models
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
        clean, writer = file_name(name), self._objects.writer()
        writer.write(data)
        kept = Artifact(name=clean, digest=writer.finish(), size=len(data), at=self._clock.now())
        self._keep(run, kept, late=False)
        return kept

    @operation(writes=True, repeatable=True)
    def log_run_model(
        self,
        run: str,
        name: str,
        path: str,
        type: str = "",  # noqa: A002 - the client's word
        step: int = 0,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> LoggedModel:
        """Make a logged model of files that the run has already; the same name and step again gives the model that is there.

        Args:
            run: The run that made it.
            name: What people call it.
            path: The folder of the run's files that is the model.
            type: What kind of model it is.
            step: At which step it was made.
            params: What it is made with.
            tags: What people say about it.

        Raises:
            NotFound: When there is no such run, or it has no files there.
        """
        clean = file_name(path)
        identity = f"m-{digest_json([run, name, step])[:20]}"
        with self._database.transaction() as connection:
            made = one_run(connection, run)
            found = [kept for kept in made.artifacts if kept.name == clean or kept.name.startswith(f"{clean}/")]
            if not found:
                raise NotFound(f"run {run} has no files at {path!r}", where="runs", fix="log the files first")
            make_model(
                connection,
                identity,
                experiment=made.experiment_number,
                run=run,
                name=name,
                type=type,
                at=self._clock.now(),
                params=params or {},
                tags=tags or {},
                files={kept.name.removeprefix(f"{clean}/"): kept for kept in found},
            )
            upsert(connection, run_models, [{"run": run, "model": identity, "role": "output", "step": step}])
            return one_model(connection, identity)

    def keep_written(self, run: str, name: str, digest: str, size: int) -> Artifact:
        """Keep a file of a run whose bytes are in the store already, also after the run's end; the same name again replaces it.

        Args:
            run: The run.
            name: A relative path: ``plots/roc.png``.
            digest: The digest of its bytes.
            size: Its length in bytes.

        Raises:
            InvalidInput: When the name climbs out of the run.
        """
        kept = Artifact(name=file_name(name), digest=digest, size=size, at=self._clock.now())
        self._keep(run, kept, late=True)
        return kept

    def artifact_entry(self, run: str, name: str) -> Artifact:
        """Return what is known of a run's file without reading it.

        Raises:
            NotFound: When there is no such run, or it has no such file.
        """
        chosen = sa.select(artifacts).where(artifacts.c.run == run, artifacts.c.name == name)
        with self._database.reading() as connection:
            found = connection.execute(chosen).first()
            if found is None:
                require(connection, run)
                raise NotFound(f"run {run} has no file {name!r}", where="runs", fix="see the run's artifacts")
        return Artifact(name=found.name, digest=found.digest, size=found.size, at=found.at)

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
        return self._objects.get(self.artifact_entry(run, name).digest)
