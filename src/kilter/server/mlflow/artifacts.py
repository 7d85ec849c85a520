"""Artifacts over MLflow's wire: files of runs go in and out of the store as they are, whatever their size.

``mlflow-artifacts:/EXPERIMENT/RUN/artifacts/PATH`` is the file PATH of a run, ``mlflow-artifacts:/models/NAME/VERSION/PATH`` one of a
registered version as an MLflow model.
"""

from __future__ import annotations

import asyncio
import functools
import mimetypes
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import msgspec

from kilter.core.errors import Forbidden, KilterError, NotFound
from kilter.llm.service import TraceService
from kilter.server.edge import ROLE, Receive, Scope, Send
from kilter.server.mlflow.exported import ROOT, Exported
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.multipart import Multipart
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.ranges import part_of
from kilter.server.mlflow.trace_files import TraceFiles
from kilter.server.pool import Pool
from kilter.server.problems import TooLarge, WrongMethod
from kilter.tracking.records import Artifact
from kilter.tracking.service import RunService

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
PRESIGNED = "/api/2.0/mlflow-artifacts/presigned"
LARGEST = 64 << 30
_WRITES = 16
_BLOCK = 1 << 20
_FOLDER = "artifacts"
_MODELS = "models"
_TRACES = "traces"
_TEXTS = frozenset({"mlmodel", "mlproject"})
_TOKEN = re.compile(r"[A-Za-z0-9!#$&+.^_`|~-]+\Z")


class Broken(Exception):
    """A file turned out damaged in the middle of its answer: the connection is cut, so that nobody takes it as whole."""


class Artifacts:
    """The calls about files.

    Args:
        runs: The room's operations.
        pool: Where they run.
        traces: The operations on traces, whose files come and go here too.
        exported: Registered versions as MLflow models; None where there are none.
    """

    def __init__(
        self, runs: RunService, pool: Pool, traces: TraceService | None = None, exported: Exported | None = None
    ) -> None:
        self._runs = runs
        self._traces = traces
        self._exported = exported
        self._pool = pool
        self._writing = asyncio.Semaphore(_WRITES)
        self.multipart = Multipart(runs, pool, lambda path: self._owner(path, folder=False))

    def of_run(self, fields: Fields) -> dict[str, Any]:
        """``artifacts/list``: what lies in a folder of a run."""
        run = fields.text("run_id") or fields.text("run_uuid") or fields.text("run_id", required=True)
        if (asked := fields.text("path")).startswith("/"):
            raise Refused(INVALID, "Invalid path")
        folder = relative(asked)
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
            if relative(path).partition("/")[0] == ROOT and scope.get(ROLE) in {None, "viewer"}:
                raise Forbidden("the token's role doesn't allow this call", where="models", allowed="editor")
            await self._file(scope, path, receive, send)
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

    async def presigned(self, scope: Scope, path: str) -> dict[str, Any]:
        """Answer where a file can be fetched in parallel ranges: here. The caller's own credentials go back to it."""
        if scope["method"] != "GET":
            raise WrongMethod("the path doesn't know this method", where="method", allowed="GET")
        owner, name = self._owner(path, folder=False)
        entry = await self._pool.run(lambda: _entry(owner, name, path))
        headers = dict(scope["headers"])
        sent = {"Authorization": headers[b"authorization"].decode("latin-1")} if b"authorization" in headers else {}
        root = f"{scope.get('scheme', 'http')}://{headers[b'host'].decode('latin-1')}{PROXY}"
        return {"url": f"{root}/{quote(relative(path))}", "headers": sent, "file_size": entry.size}

    async def _file(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        method = scope["method"]
        owner, name = self._owner(path, folder=method == "DELETE")
        if method == "PUT":
            await self._take(owner, name, receive)
            await _send(send, 200, b"{}", b"application/json")
        elif method in {"GET", "HEAD"}:
            await self._give(scope, owner, await self._pool.run(lambda: _entry(owner, name, path)), send)
        elif method == "DELETE":
            await self._pool.run(lambda: owner.drop(name))
            await _send(send, 200, b"{}", b"application/json")
        else:
            raise WrongMethod("the path doesn't know this method", where="method", allowed="GET, HEAD, PUT, DELETE")

    async def _give(self, scope: Scope, owner: _Owner, entry: Artifact, send: Send) -> None:
        """Send a file, or the part of it that is asked for, piece by piece; each piece is checked before it goes."""
        part = part_of(dict(_latin(scope["headers"])), entry.digest, entry.size)
        headers = [
            (b"etag", f'"{entry.digest}"'.encode()),
            (b"accept-ranges", b"bytes"),
            # What was uploaded is never shown as a page of this server: a browser downloads it.
            (b"content-disposition", _attached(posixpath.basename(entry.name)).encode()),
            (b"content-type", _kind(posixpath.basename(entry.name)).encode()),
        ]
        if part.status in {206, 416}:
            shown = f"{part.start}-{part.end - 1}" if part.status == 206 else "*"
            headers.append((b"content-range", f"bytes {shown}/{entry.size}".encode()))
        empty = scope["method"] == "HEAD" or part.start == part.end
        pieces: Iterator[bytes] = iter(()) if empty else owner.read(entry, part.start, part.end)
        # The first piece is there before the answer begins: a file that is damaged or gone is still a proper error.
        piece = await self._pool.run(lambda: next(pieces, b""))
        if part.status != 304:
            headers.append((b"content-length", str(part.end - part.start).encode()))
        await send({"type": "http.response.start", "status": part.status, "headers": headers})
        while piece:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            try:
                piece = await self._pool.run(lambda: next(pieces, b""))
            except KilterError as error:
                raise Broken from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _owner(self, path: str, *, folder: bool) -> tuple[_Owner, str]:
        """Return whose file a path of the proxy names, and the file.

        Raises:
            Refused: When it names none, or climbs.
        """
        parts = relative(path).split("/")
        if parts[0] == ROOT and len(parts) > 2 and self._exported is not None:
            owner, rest = _version(self._exported, parts[1], parts[2]), parts[3:]
        elif len(parts) > 3 and parts[1] == _MODELS and parts[3] == _FOLDER:
            owner, rest = _model(self._runs, parts[2]), parts[4:]
        elif len(parts) > 3 and parts[1] == _TRACES and parts[3] == _FOLDER and self._traces is not None:
            owner, rest = _trace(TraceFiles(self._traces, parts[2])), parts[4:]
        elif len(parts) > 2 and parts[2] == _FOLDER:
            owner, rest = _run(self._runs, parts[1]), parts[3:]
        else:
            raise Refused(INVALID, "Invalid path: expected EXPERIMENT/RUN/artifacts/PATH")
        if not (rest or folder):
            raise Refused(INVALID, "Invalid path: it names no file")
        return owner, "/".join(rest)

    async def _take(self, owner: _Owner, name: str, receive: Receive) -> None:
        """Hand a body to the store as it comes: memory holds a piece of it only."""
        async with self._writing:
            await self._pool.run(owner.check)
            writer, held, more = self._runs.file_writer(), bytearray(), True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(INVALID, "the upload ended before it was whole")
                held += message.get("body", b"")
                more = message.get("more_body", False)
                if writer.size + len(held) > LARGEST:
                    raise TooLarge("the file is too large", where="body", allowed=f"{LARGEST:,} bytes")
                if len(held) >= _BLOCK:
                    block, held = held, bytearray()
                    await self._pool.run(functools.partial(writer.write, block))

            def keep() -> None:
                writer.write(held)
                owner.keep(name, writer.finish(), writer.size)

            await self._pool.run(keep)


@dataclass(frozen=True)
class _Owner:
    """Who has files: a run, a logged model or a trace.

    Args:
        check: Refuses when it is not there.
        files: Its files.
        entry: Returns what is known of one.
        read: Yields the bytes of one from a place to a place.
        keep: Keeps one: name, digest, size.
        drop: Takes one or a folder away.
    """

    check: Callable[[], object]
    files: Callable[[], tuple[Artifact, ...]]
    entry: Callable[[str], Artifact]
    read: Callable[[Artifact, int, int], Iterator[bytes]]
    keep: Callable[[str, str, int], object]
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

    return _Owner(
        check,
        files,
        lambda name: runs.artifact_entry(run, name),
        lambda entry, start, end: runs.file_bytes(entry.digest, start, end),
        lambda *kept: runs.keep_written(run, *kept),
        drop,
    )


def _model(runs: RunService, model: str) -> _Owner:
    def check() -> object:
        try:
            return runs.logged_model(model)
        except NotFound:
            raise Refused(MISSING, f"Logged model with ID '{model}' not found.") from None

    return _Owner(
        check,
        lambda: runs.model_files(model),
        lambda name: runs.model_entry(model, name),
        lambda entry, start, end: runs.file_bytes(entry.digest, start, end),
        lambda *kept: runs.keep_model_written(model, *kept),
        lambda name: runs.drop_model_files(model, name),
    )


def _trace(files: TraceFiles) -> _Owner:
    return _Owner(files.check, files.listed, files.entry, files.read, files.keep, files.drop)


def _version(exported: Exported, name: str, version: str) -> _Owner:
    return _Owner(
        exported.refuse,
        lambda: exported.files(name, version),
        lambda path: exported.entry(name, version, path),
        lambda entry, start, end: iter((exported.read(name, version, entry.name)[start:end],)),
        lambda *_: exported.refuse(),
        lambda _: exported.refuse(),
    )


def _entry(owner: _Owner, name: str, path: str) -> Artifact:
    try:
        return owner.entry(name)
    except NotFound:
        raise Refused(MISSING, f"No such artifact: '{relative(path)}'") from None


def _latin(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, str]]:
    return ((name.lower(), value.decode("latin-1")) for name, value in headers)


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


def _attached(name: str) -> str:
    """Return what tells a browser to keep a file under its name (RFC 6266)."""
    return (
        f"attachment; filename={name}" if _TOKEN.match(name) else f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    )


def _kind(name: str) -> str:
    """Return a file's media type; MLflow's own descriptions are texts."""
    return "text/plain" if name.lower() in _TEXTS else mimetypes.guess_type(name)[0] or "application/octet-stream"


async def _send(send: Send, status: int, body: bytes, kind: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
