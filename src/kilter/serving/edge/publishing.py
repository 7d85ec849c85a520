"""The releases that a store holds: one small file each, their bytes in the object store."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kilter.core.errors import Conflict, Damaged, InvalidInput, NotFound, Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.packaging.export.device.release import RELEASE, SIGNATURE
from kilter.packaging.export.signing import Release
from kilter.serving.edge.records import PIECE, OfferedFile, Published

if TYPE_CHECKING:
    from kilter.serving.edge.service import DeviceService


class Releases:
    """The releases of a store.

    Args:
        folder: Where their files lie.
        objects: Where the bytes are.
    """

    def __init__(self, folder: Path, objects: ObjectStore) -> None:
        self._folder = folder
        self._objects = objects

    def put(self, release: bytes, signature: bytes, pieces: dict[str, tuple[str, ...]]) -> Published:
        """Keep a release, when its files are all there; keeping it again changes nothing.

        Args:
            release: The bytes that were signed.
            signature: Their signature.
            pieces: Per file the digests of its pieces in the object store.

        Raises:
            InvalidInput: When it is no release, or its files are others.
            Conflict: When the model has a release with that number, or a higher one.
        """
        said = read_release(release)
        if set(pieces) != {one.path for one in said.files}:
            raise InvalidInput("the files are not those of the release", where="pieces")
        if len(signature) != 64:
            raise InvalidInput(f"a signature of {len(signature)} bytes", where="signature", allowed="64 bytes")
        digest = hashlib.sha256(release).hexdigest()
        others = self.of(said.model)
        same = next((one for one in others if one.digest == digest), None)
        if same is not None:
            return same
        newest = max((one.sequence for one in others), default=0)
        if said.sequence <= newest:
            raise Conflict(f"the model has release {newest}", where="sequence", allowed=f"more than {newest}",
                           fix="sign it again with a higher --sequence: devices refuse older ones")  # fmt: skip
        for one in said.files:
            hashed, size = hashlib.sha256(), 0
            for piece in pieces[one.path]:
                data = self._objects.get(piece)
                hashed.update(data)
                size += len(data)
            if (size, hashed.hexdigest()) != (one.size, one.sha256):
                raise InvalidInput("the bytes are not those that the release names", where=one.path)
        made = Published(
            model=said.model,
            version=said.version,
            sequence=said.sequence,
            release=release,
            signature=signature,
            digest=digest,
            files=tuple(OfferedFile(one.path, one.size, one.sha256, pieces[one.path]) for one in said.files),
        )
        path = self._of_model(said.model) / f"{said.sequence:020d}.json"
        if not write_whole(path, msgspec.json.encode(made), replace=False):
            raise Conflict(f"another release {said.sequence} came first", where="sequence")
        return made

    def of(self, model: str) -> list[Published]:
        """Return a model's releases, the newest last."""
        folder = self._of_model(model)
        return [_read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []

    def newest(self, model: str, version: int) -> Published:
        """Return the newest release of a version.

        Raises:
            NotFound: When it has none.
        """
        found = [one for one in self.of(model) if one.version == version]
        if not found:
            raise NotFound(f"{model}@v{version} has no release for devices", where="model",
                           fix="kilter export MODEL --target edge --out DIR --sign KEY --publish")  # fmt: skip
        return found[-1]

    def piece(self, model: str, release: str, path: str, start: int) -> bytes:
        """Return a piece of a release's file; nothing after its end.

        Raises:
            NotFound: When there is no such release or file.
        """
        found = next((one for one in self.of(model) if one.digest == release), None)
        file = next((one for one in found.files if one.path == path), None) if found else None
        if file is None:
            raise NotFound("there is no such release or file", where="path")
        place, inside = divmod(max(start, 0), PIECE)
        return self._objects.get(file.pieces[place])[inside:] if place < len(file.pieces) else b""

    def _of_model(self, model: str) -> Path:
        # a model's name may hold what a file's name must not
        return self._folder / "releases" / hashlib.sha256(model.encode()).hexdigest()[:32]


def publish_folder(service: DeviceService, folder: Path) -> Published:
    """Publish an exported bundle.

    Args:
        service: The store's service for devices, or a server's.
        folder: What ``kilter export --target edge --sign KEY`` wrote.

    Raises:
        InvalidInput: When it is not signed, or a file is not the one that was signed.
        Conflict: When devices may have had a later release.
    """
    try:
        release, signature = (folder / RELEASE).read_bytes(), (folder / SIGNATURE).read_bytes()
        files = {one.path: (folder / one.path).read_bytes() for one in read_release(release).files}
    except OSError as error:
        raise InvalidInput(f"the folder holds no signed release: {error.strerror}", where=str(folder),
                           fix="export it with --sign KEY") from error  # fmt: skip
    pieces = {
        path: tuple(service.keep(data[start : start + PIECE]) for start in range(0, len(data), PIECE))
        for path, data in files.items()
    }
    return service.publish(release, signature, pieces)


def read_release(data: bytes) -> Release:
    """Return what was signed.

    Raises:
        InvalidInput: When it is no release.
    """
    try:
        return msgspec.json.decode(data, type=Release)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"that is no release: {error}", where="release") from error


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> bool:
    """Write a file that is there whole or not at all.

    Args:
        path: Where.
        data: Its bytes.
        replace: Take the place of one that is there.

    Returns:
        Whether it was written.

    Raises:
        Unavailable: When it can't be written.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            aside.rename(path)
        else:
            path.hardlink_to(aside)
    except FileExistsError:
        return False
    except OSError as error:
        raise Unavailable(f"the file can't be written: {error.strerror}", where=str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
    return True


def _read(path: Path) -> Published:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Published)
    except (OSError, msgspec.MsgspecError) as error:
        raise Damaged("the file is no release", where=str(path)) from error
