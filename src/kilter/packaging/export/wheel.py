"""The installed kilter as a wheel: an image is then built with the very code that packaged and checked the model."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

from kilter.core.errors import Unavailable

_ROOT = Path(__file__).parents[2]
_WHEEL = "Wheel-Version: 1.0\nGenerator: kilter export\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


def wheel() -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel of the running kilter; the same code gives the same bytes.

    Raises:
        Unavailable: When kilter runs from a place that knows nothing of its version.
    """
    try:
        distribution = metadata.distribution("kilter")
    except metadata.PackageNotFoundError as error:
        raise Unavailable("kilter is not installed", where="export", fix="pip install kilter") from error
    about = f"kilter-{distribution.version}.dist-info"
    files = {
        f"{_ROOT.name}/{path.relative_to(_ROOT).as_posix()}": path.read_bytes()
        for path in sorted(_ROOT.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    files[f"{about}/METADATA"] = (distribution.read_text("METADATA") or "").encode()
    files[f"{about}/WHEEL"] = _WHEEL.encode()
    files[f"{about}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    record = "".join(f"{name},sha256={_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, _MODE
            archive.writestr(entry, data)
    return f"kilter-{distribution.version}-py3-none-any.whl", held.getvalue()


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
