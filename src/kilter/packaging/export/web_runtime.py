"""ONNX Runtime Web, pinned: taken from a folder, from npm's tarball, or from npm itself, and checked before it is used."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from kilter.core.errors import Damaged, InvalidInput, Unavailable

VERSION = "1.30.0"
"""The version of ``onnxruntime-web`` that bundles carry."""

INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""npm's integrity hash of its tarball (Subresource Integrity, W3C)."""

FILES: Mapping[str, str] = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""The files of it that a browser loads, with their SHA-256."""

LICENSE = """\
MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject
to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
"""The runtime's licence, which has to go along with it; npm's package has no file of it."""

_PACKAGE = f"onnxruntime-web@{VERSION}"
_DIST = PurePosixPath("package/dist")
_LARGEST = 64 << 20
_PATIENCE = 300
_FIX = f"npm pack {_PACKAGE}, on a machine that reaches npm, and hand the file in with --runtime-from"


def runtime_files(source: Path | None = None, *, offline: bool = False) -> dict[str, bytes]:
    """Return the files of ONNX Runtime Web by name; each is the one that is pinned here, wherever it came from.

    Args:
        source: A folder that holds them (or holds ``dist/``, such as ``node_modules/onnxruntime-web``), or npm's tarball of the
            pinned version. None asks npm, which looks into its cache first.
        offline: Take only what npm's cache holds.

    Raises:
        InvalidInput: When the source holds no such files.
        Damaged: When a file or the tarball is another one than the pinned.
        Unavailable: When npm is not there, or can't get the package.
    """
    if source is None:
        return _of_tarball(_packed(offline=offline), _PACKAGE)
    if source.is_dir():
        folder = next((one for one in (source, source / "dist") if all((one / name).is_file() for name in FILES)), None)
        if folder is None:
            raise InvalidInput(
                "the folder holds no ONNX Runtime Web", where=str(source), allowed=", ".join(FILES), fix=_FIX
            )
        return _checked(lambda name: (folder / name).read_bytes(), str(folder))
    try:
        return _of_tarball(source.read_bytes(), str(source))
    except OSError as error:
        raise InvalidInput(f"the runtime can't be read: {error.strerror}", where=str(source),
                           allowed="a folder or npm's tarball", fix=_FIX) from error  # fmt: skip


def _packed(*, offline: bool) -> bytes:
    """Return the package's tarball as npm has it."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed", where=_PACKAGE, fix=_FIX)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", _PACKAGE, "--json", "--ignore-scripts", "--pack-destination", folder]
        command.append("--offline" if offline else "--prefer-offline")
        try:
            run = subprocess.run(  # noqa: S603 - a fixed command
                command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"npm took longer than {_PATIENCE} s", where=_PACKAGE, fix=_FIX) from error
        found = list(Path(folder).glob("*.tgz"))
        if run.returncode or len(found) != 1:
            raise Unavailable(f"npm can't get the package: {_said(run.stdout)}", where=_PACKAGE, fix=_FIX)
        return found[0].read_bytes()


def _said(output: str) -> str:
    """Return what npm says went wrong, in one line."""
    try:
        error = json.loads(output)["error"]
        return str(error.get("summary") or error.get("code"))[:200]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "it did not say why"


def _of_tarball(data: bytes, where: str) -> dict[str, bytes]:
    """Return the files in npm's tarball; nothing is unpacked before its integrity hash fits."""
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != INTEGRITY:
        raise Damaged(f"the tarball is not that of {_PACKAGE}: its integrity hash is {found}", where=where,
                      allowed=INTEGRITY, fix=_FIX)  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tarball:

        def member(name: str) -> bytes:
            file = tarball.extractfile(str(_DIST / name))
            return file.read(_LARGEST) if file is not None else b""

        return _checked(member, where)


def _checked(read: Callable[[str], bytes], where: str) -> dict[str, bytes]:
    found = {}
    for name, wanted in FILES.items():
        found[name] = read(name)
        if hashlib.sha256(found[name]).hexdigest() != wanted:
            raise Damaged(f"{name} is not that of {_PACKAGE}", where=where, allowed=f"SHA-256 {wanted}", fix=_FIX)
    return found
