"""Where the server listens: the socket, TLS, who is connected, and the end of it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from kilter.core.errors import Conflict, InvalidInput
from kilter.server.edge import App, Message
from kilter.server.http import Connection, Limits

_SWEEP = 5.0
_LEAVE = 10.0
"""Seconds that answers which are under way may take when the server ends."""


class Listener:
    """Serves an ASGI application over HTTP/1.1 on the running event loop.

    Args:
        app: What answers.
        limits: What a client may ask of a connection.
        tls: The certificates, or None for plain HTTP.
    """

    def __init__(self, app: App, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.app = app
        self.limits = limits or Limits()
        self.draining = False
        self.connections: set[Connection] = set()
        self._tls = tls
        self._ended = asyncio.Event()
        self._lifespan = _Lifespan(app)
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Start the application, then listen; when this returns, it answers.

        Raises:
            Conflict: When the address can't be listened on.
        """
        loop = asyncio.get_running_loop()
        await self._lifespan.start()
        scheme = "http" if self._tls is None else "https"
        try:
            self._server = await loop.create_server(
                lambda: Connection(self, loop, scheme), host.strip("[]") or None, port, ssl=self._tls, backlog=512
            )
        except OSError as error:
            await self._lifespan.stop()
            raise Conflict(f"can't listen: {error.strerror or error}", where=f"{host}:{port}") from error

    def stop(self) -> None:
        """Let the server end."""
        self._ended.set()

    async def serve(self) -> None:
        """Serve until :meth:`stop`; answers that are under way are finished, and the application is ended."""
        assert self._server is not None  # noqa: S101 - started
        loop = asyncio.get_running_loop()
        while not self._ended.is_set():
            with_time = asyncio.timeout(_SWEEP)
            try:
                async with with_time:
                    await self._ended.wait()
            except TimeoutError:
                self._sweep(loop.time())
        self._server.close()
        self.draining = True
        deadline = loop.time() + _LEAVE
        while self.connections and loop.time() < deadline:
            self._sweep(loop.time())
            await asyncio.sleep(0.02)
        for connection in tuple(self.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await self._lifespan.stop()

    def _sweep(self, now: float) -> None:
        for connection in tuple(self.connections):
            connection.sweep(now)


def tls_of(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return what TLS needs; older versions of it than 1.3 are not spoken.

    Raises:
        InvalidInput: When the files are not a certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # also what OpenSSL says of files that are none
        raise InvalidInput(
            f"TLS can't use these files: {error}", where="--tls-cert", allowed="a certificate chain and its key in PEM"
        ) from error
    return context


class _Lifespan:
    """Starts and ends an application, as ASGI says it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self._change("startup")

    async def stop(self) -> None:
        await self._change("shutdown")
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        await self._app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, self._asked.get, self._said.put)

    async def _change(self, to: str) -> None:
        assert self._task is not None  # noqa: S101 - started
        await self._asked.put({"type": f"lifespan.{to}"})
        said = asyncio.create_task(self._said.get())
        await asyncio.wait({said, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not said.done():
            said.cancel()
            await self._task  # raises what it ended with
            return
        if said.result()["type"] == f"lifespan.{to}.failed":
            raise RuntimeError(f"the application's {to} failed: {said.result().get('message', '')}")
