"""Uploads in parts over MLflow's wire: ``mpu/create``, the parts, ``mpu/complete`` or ``mpu/abort``.

The client sends the parts to addresses that it is given; they are this server's own. Parts lie beside the store's objects until the
upload is complete: an upload that breaks off leaves nothing that anybody sees, and what it left is swept away after a day.
"""

from __future__ import annotations

import asyncio
import posixpath
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, cast

import msgspec
from blake3 import blake3

from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.objects.staging import MOST_PARTS
from kilter.server.api import body_of, read_object
from kilter.server.edge import Receive, Scope
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.pool import Pool
from kilter.server.problems import TooLarge, WrongMethod
from kilter.tracking.uploads import ABANDONED, UploadOperations

MULTIPART = "/api/2.0/mlflow-artifacts/mpu"
_PART = 5 << 30
_AT_ONCE = 16
_SWEPT = 3600.0


class Target(Protocol):
    """Who gets the file: a run or a logged model."""

    @property
    def check(self) -> Callable[[], object]:
        """Refuses when it is not there."""

    @property
    def keep(self) -> Callable[[str, str, int], object]:
        """Keeps a file by name, digest and size."""


Targets = Callable[[str], tuple[Target, str]]


class _About(msgspec.Struct, frozen=True):
    """What an upload is about; ``done`` once its file is there, so that a client that lost the answer may ask again."""

    path: str
    done: bool = False


class Multipart:
    """The calls about uploads in parts.

    Args:
        runs: The room's operations.
        pool: Where they run.
        target: Finds whose file a path names, and the file.
    """

    def __init__(self, runs: UploadOperations, pool: Pool, target: Targets) -> None:
        self._runs = runs
        self._pool = pool
        self._target = target
        self._taking = asyncio.Semaphore(_AT_ONCE)
        self._completing: dict[str, asyncio.Lock] = {}
        self._swept = 0.0

    async def answer(
        self, scope: Scope, path: str, receive: Receive
    ) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
        """Answer a call, and return its answer and headers.

        Args:
            scope: The request.
            path: What comes after the calls' common path.
            receive: Hands its body over.
        """
        act, _, rest = path.strip("/").partition("/")
        if act == "part":
            if scope["method"] != "PUT":
                raise WrongMethod("the path doesn't know this method", where="method", allowed="PUT")
            return await self._take(rest, receive)
        calls = {"create": self._create, "complete": self._complete, "abort": self._abort}
        if act not in calls:
            raise Refused("ENDPOINT_NOT_FOUND", "There is nothing at this path")
        if scope["method"] != "POST":
            raise WrongMethod("the path doesn't know this method", where="method", allowed="POST")
        fields = Fields(read_object(await body_of(cast("Any", receive))))
        file = posixpath.join(rest, posixpath.basename(fields.text("path", required=True)))
        return await calls[act](scope, fields, file), []

    async def _create(self, scope: Scope, fields: Fields, file: str) -> dict[str, Any]:
        count = fields.integer("num_parts", 1, least=1)
        if count > MOST_PARTS:
            raise Refused(INVALID, f"num_parts: at most {MOST_PARTS} parts, larger ones if need be.")
        target, _ = self._target(file)
        upload = secrets.token_hex(16)

        def begin() -> None:
            target.check()
            self._runs.staging.begin(upload, msgspec.json.encode(_About(file)))
            if time.monotonic() - self._swept > _SWEPT:
                self._swept = time.monotonic()
                self._runs.sweep_uploads(ABANDONED)

        await self._pool.run(begin)
        headers = dict(scope["headers"])
        # A part is sent without the client's own credentials, with what it is told here: its own, back on the same way.
        sent = {"Authorization": headers[b"authorization"].decode("latin-1")} if b"authorization" in headers else {}
        root = f"{scope.get('scheme', 'http')}://{headers[b'host'].decode('latin-1')}{MULTIPART}/part/{upload}"
        parts = [{"url": f"{root}/{part}", "part_number": part, "headers": sent} for part in range(1, count + 1)]
        return {"upload_id": upload, "credentials": parts}

    async def _take(self, rest: str, receive: Receive) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
        upload, _, number = rest.partition("/")
        if not (number.isdecimal() and len(number) < 6):
            raise Refused(INVALID, "the part has no number")
        hashing, size = blake3(), 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal size
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise OSError("the part ended before it was whole")
                piece, more = message.get("body", b""), message.get("more_body", False)
                size += len(piece)
                if size > _PART:
                    raise OSError("the part is too large")
                hashing.update(piece)
                if piece:
                    yield piece

        async with self._taking:
            about = await self._pool.run(lambda: self._about(upload))
            if about.done:
                raise Refused(INVALID, "the upload is complete")
            await self._runs.staging.put(upload, int(number), pieces())
        if size > _PART:
            raise TooLarge("the part is too large", where="body", allowed=f"{_PART:,} bytes")
        return {}, [(b"etag", f'"{hashing.hexdigest()}"'.encode())]

    async def _complete(self, _scope: Scope, fields: Fields, file: str) -> dict[str, Any]:
        upload = fields.text("upload_id", required=True)
        said = [
            (one.integer("part_number", required=True), one.text("etag").strip('"')) for one in fields.items("parts")
        ]
        lock = self._completing.setdefault(upload, asyncio.Lock())
        try:
            async with lock:
                await self._pool.run(lambda: self._join(upload, file, said))
        finally:
            if not lock.locked():
                self._completing.pop(upload, None)
        return {}

    async def _abort(self, _scope: Scope, fields: Fields, file: str) -> dict[str, Any]:
        upload = fields.text("upload_id", required=True)

        def drop() -> None:
            if not self._about(upload, file).done:
                self._runs.staging.drop(upload)

        await self._pool.run(drop)
        return {}

    def _join(self, upload: str, file: str, said: list[tuple[int, str]]) -> None:
        """Make the file of its parts, and forget them."""
        if self._about(upload, file).done:
            return
        target, name = self._target(file)
        target.check()
        staging = self._runs.staging
        sizes = staging.parts(upload)
        wanted = [number for number, _ in said]
        if not said or wanted != sorted(set(wanted)) or not set(wanted) <= set(sizes):
            raise Refused(INVALID, "parts: each part once, by its number, and all of them uploaded before.")
        writer = self._runs.file_writer()
        for number, tag in said:
            hashing = blake3()
            for piece in staging.read(upload, number, sizes[number]):
                hashing.update(piece)
                writer.write(piece)
            if tag and hashing.hexdigest() != tag:
                raise Refused(INVALID, f"parts: part {number} has another ETag.")
        target.keep(name, writer.finish(), writer.size)
        staging.drop(upload)
        staging.begin(upload, msgspec.json.encode(_About(file, done=True)))

    def _about(self, upload: str, file: str = "") -> _About:
        try:
            found = msgspec.json.decode(self._runs.staging.about(upload), type=_About)
        except (NotFound, InvalidInput):
            raise Refused(
                MISSING, "There is no such upload; one that nobody went on with is forgotten after a day."
            ) from None
        if file and found.path != file:
            raise Refused(INVALID, "upload_id: it belongs to another path.")
        return found
