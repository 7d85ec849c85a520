"""Where releases come from: the server of the store, or a folder that was carried to the device."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from .release import RELEASE, SIGNATURE, EdgeError, File, Refused, Unreachable

_BUSY = {408, 425, 429, 500, 502, 503, 504}


class Source(Protocol):
    """Gives releases."""

    def latest(self, model: str) -> tuple[bytes, bytes]:
        """Return the newest release of a model and its signature, not verified."""
        ...

    def file(self, model: str, release: str, file: File) -> bytes:
        """Return a file of a release, not verified."""
        ...


class Folder:
    """An exported bundle in a folder.

    Args:
        folder: The bundle.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def latest(self, model: str) -> tuple[bytes, bytes]:  # noqa: ARG002 - a folder holds one
        """Return its release.

        Raises:
            EdgeError: When it is not signed.
        """
        try:
            return (self._folder / RELEASE).read_bytes(), (self._folder / SIGNATURE).read_bytes()
        except OSError as error:
            raise EdgeError(f"the folder holds no signed release: {error}") from error

    def file(self, model: str, release: str, file: File) -> bytes:  # noqa: ARG002 - as above
        """Return a file."""
        try:
            return (self._folder / file.path).read_bytes()
        except OSError as error:
            raise EdgeError(f"{file.path} can't be read: {error}") from error


class Server:
    """The server of a store.

    Args:
        url: ``https://kilter.example.org``.
        token: A viewer's token.
        timeout: Seconds to wait for one answer.
    """

    def __init__(self, url: str, token: str = "", *, timeout: float = 60.0) -> None:
        address = urlsplit(url)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise EdgeError(f"{url!r} is not the address of a server")
        self._kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._base = address.hostname, address.port, address.path.rstrip("/")
        self._token, self._timeout = token, timeout

    def latest(self, model: str) -> tuple[bytes, bytes]:
        """Return the release of the model's champion."""
        found = self.call("latest", {"model": model})
        return base64.b64decode(found["release"]), base64.b64decode(found["signature"])

    def file(self, model: str, release: str, file: File) -> bytes:
        """Return a file, piece by piece.

        Raises:
            Refused: When there is more of it than the release says.
        """
        pieces: list[bytes] = []
        held = 0
        while held < file.size:
            arguments = {"model": model, "release": release, "path": file.path, "start": held}
            piece = base64.b64decode(self.call("file", arguments))
            held += len(piece)
            if not piece or held > file.size:
                raise Refused(f"{file.path} has another length than the release says")
            pieces.append(piece)
        return b"".join(pieces)

    def call(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Call an operation for devices.

        Raises:
            Unreachable: When the server does not answer, or is busy.
            EdgeError: When it refuses; the message is the server's.
        """
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._kind(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("POST", f"{self._base}/api/v1/devices/{verb}", json.dumps(arguments), headers)
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the server did not answer: {error}") from error
        finally:
            connection.close()
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if status == 200:
            return found
        said = found.get("detail", "") if isinstance(found, dict) else ""
        kind = Unreachable if status in _BUSY else EdgeError
        raise kind(f"the server answered {status}: {said}")
