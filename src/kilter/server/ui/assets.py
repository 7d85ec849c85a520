"""Stylesheet, modules and vendored libraries: read once, served under the digest of them all."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

import msgspec

from kilter.core.digests import digest
from kilter.core.errors import NotFound

_MEDIA = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".toml": "text/plain; charset=utf-8",
}


class Asset(msgspec.Struct, frozen=True):
    """One file as it is sent."""

    body: bytes
    media: str


class Assets:
    """The files below ``static/``.

    A file's address holds the digest of all of them, so that a browser may keep it for ever and modules that import
    each other by relative names always come from one version.
    """

    def __init__(self) -> None:
        self._files: dict[str, Asset] = {}
        self._read(files("kilter.server.ui") / "static", "")
        self.digest = digest(b"".join(name.encode() + self._files[name].body for name in sorted(self._files)))[:12]

    def _read(self, folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                self._read(entry, f"{name}/")
            elif (suffix := f".{name.rpartition('.')[2]}") in _MEDIA:
                self._files[name] = Asset(entry.read_bytes(), _MEDIA[suffix])

    def url(self, name: str) -> str:
        """Return a file's address."""
        return f"/static/{self.digest}/{name}"

    def get(self, name: str) -> Asset:
        """Return a file by its name; only names that were found at the start exist.

        Raises:
            NotFound: When there is no such file.
        """
        if name not in self._files:
            raise NotFound("there is no such file", where="static")
        return self._files[name]

    def names(self) -> list[str]:
        """Return the names of all files."""
        return sorted(self._files)
