"""A signed release, as a device reads it: the signature first, then every word of it, then the files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

RELEASE = "release.json"
SIGNATURE = "release.sig"
CONTEXT = b"kilter-edge-release-v1\n"
"""Stands before what is signed, so that a signature is good for nothing else."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_PATH = re.compile(rf"{_PART}(/{_PART}){{0,7}}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 1_000
_LARGEST = 1 << 30


class EdgeError(Exception):
    """Something on the device can't be done; nothing has changed."""


class Refused(EdgeError):
    """A release that must not run: wrong signature, wrong bytes, older than what runs, or it failed its self test."""


class Unreachable(EdgeError):
    """The server did not answer, or is busy: later it may."""


class File(NamedTuple):
    """A file of a release: path below its folder, bytes, SHA-256."""

    path: str
    size: int
    sha256: str


class Release(NamedTuple):
    """A release whose signature was verified.

    Args:
        model: The model's name.
        version: Its version.
        sequence: The release's number.
        files: Its files.
        digest: SHA-256 of what was signed: the release's name on the device.
    """

    model: str
    version: int
    sequence: int
    files: tuple[File, ...]
    digest: str


def verified(data: bytes, signature: bytes, keys: Iterable[bytes]) -> Release:
    """Return a release, when one of the keys signed it.

    Args:
        data: The bytes of ``release.json``.
        signature: The bytes of ``release.sig``.
        keys: Public keys, PEM.

    Raises:
        Refused: When none of them did, or what it says is no release.
    """
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - a device that never updates needs it not
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    except ImportError as error:
        raise EdgeError("cryptography is not installed: pip install cryptography") from error

    for pem in keys:
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise EdgeError("the key is no public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise EdgeError("the key is no Ed25519 key")
        try:
            key.verify(signature, CONTEXT + data)
        except InvalidSignature:
            continue
        return _read(data)
    raise Refused("the signature is not that of a key that this device trusts")


def check_file(file: File, data: bytes) -> bytes:
    """Return a file's bytes when they are those that the release names.

    Raises:
        Refused: When they are not.
    """
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
        raise Refused(f"{file.path} is not the file that the release names")
    return data


def check_folder(release: Release, folder: Path) -> None:
    """Check every file of a release in a folder.

    Raises:
        Refused: When one is missing or another one.
    """
    for file in release.files:
        try:
            check_file(file, (folder / file.path).read_bytes())
        except OSError as error:
            raise Refused(f"{file.path} can't be read: {error.strerror}") from error


def _read(data: bytes) -> Release:
    try:
        said = json.loads(data)
        files = tuple(File(str(one["path"]), _whole(one["size"]), str(one["sha256"])) for one in said["files"])
        found = Release(
            str(said["model"]),
            _whole(said["version"]),
            _whole(said["sequence"]),
            files,
            hashlib.sha256(data).hexdigest(),
        )
        kind = (said["kind"], said["schema"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("what was signed is no release") from error
    if kind != ("kilter-edge-release", 1):
        raise Refused(f"a release of the kind {kind[0]!r}, schema {kind[1]!r}, is not known to this runtime")
    paths = [file.path for file in files]
    good = all(_PATH.fullmatch(file.path) and _DIGEST.fullmatch(file.sha256) for file in files)
    if not good or len(set(paths)) != len(paths) or not 0 < len(files) <= _MOST_FILES:
        raise Refused("the release names files that it must not")
    if sum(file.size for file in files) > _LARGEST:
        raise Refused("the release is larger than 1 GiB")
    return found


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value
