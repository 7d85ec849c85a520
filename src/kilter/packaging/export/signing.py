"""Signed releases of edge bundles: which files they have, and who says so.

The user makes the key and keeps it (``openssl genpkey -algorithm ed25519 -out release.pem``); neither the store nor a server has
it, so that whoever gets into them can't put a model on a device. Source: RFC 8032 (Ed25519), and the rules of The Update
Framework that a device follows: numbered releases, digests of all files, nothing that is older.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.export.device.release import CONTEXT, RELEASE, SIGNATURE
from kilter.packaging.export.folder import as_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSWORD = "KILTER_SIGNING_PASSWORD"  # noqa: S105 - the variable's name
_FIX = "openssl genpkey -algorithm ed25519 -out release.pem"


class ReleaseFile(msgspec.Struct, frozen=True):
    """A file of a release.

    Args:
        path: Below the folder, with ``/``.
        size: In bytes.
        sha256: SHA-256 of its bytes.
    """

    path: str
    size: int
    sha256: str


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed.

    Args:
        model: The model's name.
        version: Its version.
        bundle: The bundle's digest.
        sequence: The release's number among those of the model.
        files: Its files.
        kind: Says that it is a release.
        schema: Version of this record.
    """

    model: str
    version: int
    bundle: str
    sequence: int
    files: tuple[ReleaseFile, ...]
    kind: Literal["kilter-edge-release"] = "kilter-edge-release"
    schema: Literal[1] = 1


def signed_files(
    files: Mapping[str, bytes], model: str, version: int, bundle: str, sequence: int, key: Path
) -> dict[str, bytes]:
    """Return a release of files and its signature, as two more files.

    Args:
        files: The files by path.
        model: The model's name.
        version: Its version.
        bundle: The bundle's digest.
        sequence: The release's number, above 0.
        key: The private key, PEM; the variable ``KILTER_SIGNING_PASSWORD`` has its password when it is encrypted.

    Raises:
        InvalidInput: When the key can't be read or is no Ed25519 key, or the number is none.
        Unavailable: When cryptography is not installed.
    """
    if sequence < 1:
        raise InvalidInput(f"{sequence} is no release's number", where="--sequence", allowed="1 or more")
    listed = tuple(
        ReleaseFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items())
    )
    release = as_json(Release(model=model, version=version, bundle=bundle, sequence=sequence, files=listed))
    return {RELEASE: release, SIGNATURE: read_key(key).sign(CONTEXT + release)}


def make_key(path: Path) -> Path:
    """Make a key pair: the private key at a path that only its owner may read, the public key beside it, ending in ``.pub``.

    Args:
        path: Where the private key goes; nothing may be there.

    Returns:
        The public key's path.

    Raises:
        InvalidInput: When something is there, or the folder can't be written.
        Unavailable: When cryptography is not installed.
    """
    _installed()
    from cryptography.hazmat.primitives import serialization as written  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(written.Encoding.PEM, written.PrivateFormat.PKCS8, written.NoEncryption())
    public = key.public_key().public_bytes(written.Encoding.PEM, written.PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(f"{path.name}.pub")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(private)
        beside.write_bytes(public)
    except OSError as error:
        raise InvalidInput(f"the key can't be written: {error.strerror}", where=str(path)) from error
    return beside


def read_key(path: Path) -> Ed25519PrivateKey:
    """Return a private key.

    Raises:
        InvalidInput: When it can't be read or is no Ed25519 key.
        Unavailable: When cryptography is not installed.
    """
    _installed()
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    password = os.environ.get(PASSWORD)
    try:
        key = load_pem_private_key(path.read_bytes(), password.encode() if password else None)
    except OSError as error:
        raise InvalidInput(f"the key can't be read: {error.strerror}", where=str(path), fix=_FIX) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput("the file is no private key, or its password is another one", where=str(path),
                           allowed="an Ed25519 key in PEM", fix=f"{_FIX}; {PASSWORD} has its password") from error  # fmt: skip
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput("the key is of another kind", where=str(path), allowed="an Ed25519 key in PEM", fix=_FIX)
    return key


def _installed() -> None:
    try:
        import cryptography  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise Unavailable("cryptography is not installed", where="--sign", fix="pip install kilter[edge]") from error
