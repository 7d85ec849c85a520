"""Versions that loops made, as MLflow models over the artifact proxy: ``mlflow-artifacts:/models/NAME/VERSION/PATH``.

Nothing is kept for it: the files are made of the version's bundle when they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from threading import Lock
from typing import NamedTuple

from kilter.core.digests import digest
from kilter.core.errors import NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.packaging.bundle import file_of, manifest_of
from kilter.packaging.mlmodel.writing import Lazy, mlmodel_folder
from kilter.registry.service import ModelService
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.tracking.records import Artifact

ROOT = "models"
"""The first part of their paths; where a run's files lie, it is the number of an experiment."""
_KEPT = 16


class _Folder(NamedTuple):
    """A version's folder.

    Args:
        files: Its files; the model among them is read from the store whenever it is asked for.
        at: When the version was made.
    """

    files: Mapping[str, Lazy]
    at: datetime


class Exported:
    """The folders of versions.

    Args:
        models: The registry.
        objects: Where bundles are.
    """

    def __init__(self, models: ModelService, objects: ObjectStore) -> None:
        self._models = models
        self._objects = objects
        # A client asks for one folder file by file; what is remembered of it is small.
        self._folders: OrderedDict[str, _Folder] = OrderedDict()
        self._lock = Lock()

    def files(self, name: str, version: str) -> tuple[Artifact, ...]:
        """Return the files of a version's folder.

        Raises:
            Refused: When there is no such version.
            InvalidInput: When its format can't be an MLflow model.
        """
        found = self._folder(name, version)
        return tuple(
            # A version's files never change: its name and the file's stand for the bytes.
            Artifact(name=path, digest=digest(f"{name}@v{version}/{path}".encode()), size=file.size, at=found.at)
            for path, file in sorted(found.files.items())
        )

    def entry(self, name: str, version: str, path: str) -> Artifact:
        """Return what is known of a file of a version's folder.

        Raises:
            NotFound: When it has no such file.
            Refused: When there is no such version.
        """
        found = next((one for one in self.files(name, version) if one.name == path), None)
        if found is None:
            raise NotFound(f"{name}@v{version} has no file {path!r}", where="models")
        return found

    def read(self, name: str, version: str, path: str) -> bytes:
        """Return a file of a version's folder.

        Raises:
            NotFound: When it has no such file.
            Refused: When there is no such version.
        """
        file = self._folder(name, version).files.get(path)
        if file is None:
            raise NotFound(f"{name}@v{version} has no file {path!r}", where="models")
        return file.read()

    def refuse(self) -> object:
        """Refuse to take a file, or to take one away.

        Raises:
            Refused: Always.
        """
        raise Refused(INVALID, "The files of a registered version are made of its bundle: they can't be changed.")

    def _folder(self, name: str, version: str) -> _Folder:
        try:
            found = self._models.get(name, version)
        except NotFound:
            raise Refused(MISSING, f"Model Version (name={name}, version={version}) not found") from None
        with self._lock:
            held = self._folders.get(found.reference)
            if held is not None:
                self._folders.move_to_end(found.reference)
                return held
        manifest = manifest_of(found.bundle, self._objects)
        files = mlmodel_folder(
            manifest,
            lambda: file_of(manifest.model, self._objects),
            lambda: file_of(manifest.example, self._objects),
            reference=found.reference,
            at=found.at,
        )
        made = _Folder(files, found.at)
        with self._lock:
            self._folders[found.reference] = made
            if len(self._folders) > _KEPT:
                self._folders.popitem(last=False)
        return made
