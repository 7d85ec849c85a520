"""A folder of files that is complete or not there, with a manifest of their digests."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from kilter.core.digests import digest
from kilter.core.errors import Conflict, Damaged, Unavailable

MANIFEST = "manifest.json"


class ExportedFile(msgspec.Struct, frozen=True):
    """A file of an export.

    Args:
        path: Below the folder, with ``/``.
        size: In bytes.
        blake3: BLAKE3 of its bytes.
        sha256: SHA-256 of its bytes.
    """

    path: str
    size: int
    blake3: str
    sha256: str


class ExportManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in an exported folder.

    Args:
        target: For which platform.
        model: The model's name.
        version: Its version.
        bundle: The bundle's digest.
        framework: What the model was made with.
        inputs: The names of its columns.
        outputs: The names of its answers.
        label: What it answers with.
        tolerance: How far an answer may be from the packaged model's; 0 for the same runtime.
        files: All files but this one.
        kind: Says that the folder is an export.
        schema: Version of this record.
    """

    target: str
    model: str
    version: int
    bundle: str
    framework: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    label: str
    tolerance: float = 0.0
    files: tuple[ExportedFile, ...] = ()
    kind: Literal["kilter-export"] = "kilter-export"
    schema: Literal[1] = 1


def write(folder: Path, files: Mapping[str, bytes], manifest: ExportManifest, *, force: bool = False) -> ExportManifest:
    """Write files and their manifest aside, then give them the folder's name in one step.

    Args:
        folder: Where; it is made, and must be empty or an earlier export that ``force`` replaces.
        files: By path below the folder.
        manifest: What is known about them; the files are added here.
        force: Replace an earlier export.

    Raises:
        Conflict: When the folder holds something.
        Unavailable: When it can't be written.
    """
    listed = tuple(_listed(path, files[path]) for path in sorted(files))
    manifest = msgspec.structs.replace(manifest, files=listed)
    target = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100 - a link's own name is replaced, not what it names
    _check_free(target, force=force)
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for path, data in {**files, MANIFEST: as_json(manifest)}.items():
            _write_file(aside / path, data)
        if target.exists():
            old = aside.with_name(f"{aside.name}.old")
            target.rename(old)
            try:
                aside.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            aside.rename(target)
    except OSError as error:
        raise Unavailable(f"the folder can't be written: {error.strerror or error}", where=str(folder)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def read(folder: Path) -> ExportManifest:
    """Return an export's manifest, after its files were compared with it.

    Raises:
        Damaged: When a file is not the one that the manifest names.
        Unavailable: When the folder can't be read.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ExportManifest)
        for entry in manifest.files:
            if _listed(entry.path, (folder / entry.path).read_bytes()) != entry:
                raise Damaged("a file is not the one that the manifest names", where=entry.path)
    except msgspec.MsgspecError as error:
        raise Damaged("the file is not an export's manifest", where=MANIFEST) from error
    except OSError as error:
        raise Unavailable(f"the export can't be read: {error.strerror}", where=str(folder)) from error
    return manifest


def as_json(value: Any) -> bytes:
    """Return a value as JSON for people and programs: the same bytes for the same value."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _listed(path: str, data: bytes) -> ExportedFile:
    return ExportedFile(path, len(data), digest(data), hashlib.sha256(data).hexdigest())


def _check_free(target: Path, *, force: bool) -> None:
    if target.exists() and not target.is_dir():
        raise Conflict("there is a file of that name", where=str(target), fix="name another folder")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not force:
        raise Conflict("the folder is not empty", where=str(target), fix="name another folder, or add --force")
    try:
        msgspec.json.decode((target / MANIFEST).read_bytes(), type=ExportManifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise Conflict("the folder holds other things than an export", where=str(target),
                       fix="name another folder") from error  # fmt: skip


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
