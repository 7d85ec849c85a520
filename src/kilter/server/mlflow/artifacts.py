"""Artifacts over MLflow's wire: files of runs go in and out of the store as they are, whatever their size.

``mlflow-artifacts:/EXPERIMENT/RUN/artifacts/PATH`` is the file PATH of a run.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import posixpath
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from blake3 import blake3

from kilter.core.errors import NotFound
from kilter.server.edge import Receive, Scope, Send
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.pool import Pool
from kilter.server.problems import TooLarge, WrongMethod
from kilter.tracking.records import Artifact
from kilter.tracking.service import RunService

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
LARGEST = 64 << 30
_WRITES = 16
_FOLDER = "artifacts"
_MODELS = "models"


class Artifacts:
    """The calls about files.

    Args:
        runs: The room's operations.
        pool: Where they run.
    """

    def __init__(self, runs: RunService, pool: Pool) -> None:
        self._runs = runs
        self._pool = pool
        self._writing = asyncio.Semaphore(_WRITES)

    def of_run(self, fields: Fields) -> dict[str, Any]:
        """``artifacts/list``: what lies in a folder of a run."""
        run = fields.text("run_id") or fields.text("run_uuid") or fields.text("run_id", required=True)
        folder = relative(fields.text("path"))
        try:
            found = self._runs.get(run)
        except NotFound:
            raise Refused(MISSING, f"Run with id={run} not found") from None
        root = f"mlflow-artifacts:/{found.experiment_number}/{run}/{_FOLDER}"
        return {"root_uri": root, "files": children(found.artifacts, folder, whole=True)}

    async def answer(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        """Answer a call of the proxy.

        Args:
            scope: The request.
            path: What comes after the proxy's own path.
            receive: Hands its body over, piece by piece.
            send: Takes the answer.
        """
        if path.strip("/"):
            await self._file(scope["method"], path, receive, send)
        else:
            await self._list(scope, send)

    async def _list(self, scope: Scope, send: Send) -> None:
        if scope["method"] != "GET":
            raise WrongMethod("the path doesn't know this method", where="method", allowed="GET")
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("path", [""])[-1]

        def listed() -> bytes:
            owner, folder = self._owner(asked, folder=True)
            return msgspec.json.encode({"files": children(owner.files(), folder, whole=False)})

        await _send(send, 200, await self._pool.run(listed), b"application/json")

    async def _file(self, method: str, path: str, receive: Receive, send: Send) -> None:
        owner, name = self._owner(path, folder=method == "DELETE")
        if method == "PUT":
            await self._take(owner, name, receive)
            await _send(send, 200, b"{}", b"application/json")
        elif method == "GET":
            data = await self._pool.run(lambda: _read(owner, name))
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            # What was uploaded is never shown as a page of this server: a browser downloads it.
            await _send(send, 200, data, kind.encode(), (b"content-disposition", b"attachment"))
        elif method == "DELETE":
            await self._pool.run(lambda: owner.drop(name))
            await _send(send, 200, b"{}", b"application/json")
        else:
            raise WrongMethod("the path doesn't know this method", where="method", allowed="GET, PUT, DELETE")

    def _owner(self, path: str, *, folder: bool) -> tuple[_Owner, str]:
        """Return whose file a path of the proxy names, and the file.

        Raises:
            Refused: When it names none, or climbs.
        """
        parts = relative(path).split("/")
        if len(parts) > 3 and parts[1] == _MODELS and parts[3] == _FOLDER:
            owner, rest = _model(self._runs, parts[2]), parts[4:]
        elif len(parts) > 2 and parts[2] == _FOLDER:
            owner, rest = _run(self._runs, parts[1]), parts[3:]
        else:
            raise Refused(INVALID, "Invalid path: expected EXPERIMENT/RUN/artifacts/PATH")
        if not (rest or folder):
            raise Refused(INVALID, "Invalid path: it names no file")
        return owner, "/".join(rest)

    async def _take(self, owner: _Owner, name: str, receive: Receive) -> None:
        """Write a body to a file beside the store as it comes, then keep it: memory holds a piece of it only."""
        async with self._writing:
            await self._pool.run(owner.check)
            descriptor, path = tempfile.mkstemp(prefix="kilter-upload-")
            hashing, size = blake3(), 0
            try:
                with os.fdopen(descriptor, "wb") as file:
                    more = True
                    while more:
                        message = await receive()
                        if message["type"] != "http.request":
                            raise Refused(INVALID, "the upload ended before it was whole")
                        piece, more = message.get("body", b""), message.get("more_body", False)
                        size += len(piece)
                        if size > LARGEST:
                            raise TooLarge("the file is too large", where="body", allowed=f"{LARGEST:,} bytes")
                        hashing.update(piece)
                        file.write(piece)
                kept = Path(path)
                await self._pool.run(lambda: owner.keep(name, kept, hashing.hexdigest(), size))
            finally:
                os.unlink(path)  # noqa: PTH108 - a microsecond, not worth a thread


@dataclass(frozen=True)
class _Owner:
    """Who has files: a run or a logged model.

    Args:
        check: Refuses when it is not there.
        files: Its files.
        read: Returns the bytes of one.
        keep: Keeps one: name, where it lies, digest, size.
        drop: Takes one or a folder away.
    """

    check: Callable[[], object]
    files: Callable[[], tuple[Artifact, ...]]
    read: Callable[[str], bytes]
    keep: Callable[[str, Path, str, int], object]
    drop: Callable[[str], object]


def _run(runs: RunService, run: str) -> _Owner:
    def check() -> object:
        try:
            return runs.get(run)
        except NotFound:
            raise Refused(MISSING, f"Run with id={run} not found") from None

    def files() -> tuple[Artifact, ...]:
        try:
            return runs.get(run).artifacts
        except NotFound:
            return ()

    def drop(name: str) -> object:
        check()
        return runs.drop_artifacts(run, name)

    return _Owner(check, files, lambda name: runs.artifact(run, name), lambda *kept: runs.keep_file(run, *kept), drop)


def _model(runs: RunService, model: str) -> _Owner:
    def check() -> object:
        try:
            return runs.logged_model(model)
        except NotFound:
            raise Refused(MISSING, f"Logged model with ID '{model}' not found.") from None

    return _Owner(
        check,
        lambda: runs.model_files(model),
        lambda name: runs.model_file(model, name),
        lambda *kept: runs.keep_model_file(model, *kept),
        lambda name: runs.drop_model_files(model, name),
    )


def _read(owner: _Owner, name: str) -> bytes:
    try:
        return owner.read(name)
    except NotFound:
        raise Refused(MISSING, f"The following artifact does not exist: '{name}'") from None


def children(files: tuple[Artifact, ...], folder: str, *, whole: bool) -> list[dict[str, Any]]:
    """Return what lies directly in a folder, by name; with the whole path, or the last part alone."""
    below = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if not file.name.startswith(below):
            continue
        head, slash, _ = file.name[len(below) :].partition("/")
        shown = f"{below}{head}" if whole else head
        if slash:
            found.setdefault(head, {"path": shown, "is_dir": True})
        else:
            found[head] = {"path": shown, "is_dir": False, "file_size": file.size}
    return [found[name] for name in sorted(found)]


def relative(path: str) -> str:
    """Return a relative path in its shortest form; one that climbs or hides something is refused."""
    decoded = unquote(path)
    clean = posixpath.normpath(path.strip("/")) if path.strip("/") else ""
    climbs = clean.startswith(("..", "/")) or ".." in decoded.split("/") or decoded.startswith("//")
    if climbs or "\\" in decoded or "\x00" in decoded or ":" in decoded.partition("/")[0]:
        raise Refused(INVALID, "Invalid path")
    return "" if clean == "." else clean


async def _send(send: Send, status: int, body: bytes, kind: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
