"""Telling the journal to whoever collects lineage: over HTTP or into a file, in order, each at least once.

The journal is the outbox, and a cursor says how far it was told: nothing is kept twice, and a receiver that is away for a week costs
nothing. What is told of an event is the same each time, ids included, so that a repetition changes nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from kilter.core.errors import InvalidInput, KilterError, Unavailable
from kilter.engines.outward import post
from kilter.engines.sql.lease import Lease
from kilter.loop.openlineage.events import Translator
from kilter.loop.openlineage.facets import Json, release
from kilter.loop.openlineage.service import NAMESPACE, READER, LineageService
from kilter.registry.delivery import ATTEMPTS, pause_after

logger = logging.getLogger("kilter.lineage")

_PAGE = 100
_LOOK = 1.0
_LEASE = 15.0
_DONE = range(200, 300)
_NEVER = frozenset({400, 413, 415, 422})
"""Answers that say that this event will never be taken, whoever asks and however often."""


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Where lineage goes.

    Args:
        url: ``http(s)://HOST/api/v1/lineage``, or ``file:PATH``.
        key: The bearer token, or nothing.
        namespace: The namespace of jobs and datasets.
    """

    url: str
    key: str = ""
    namespace: str = NAMESPACE


def destination(variables: Mapping[str, str] | None = None) -> Destination | None:
    """Return where lineage goes, as OpenLineage's own clients are told it, or None.

    ``OPENLINEAGE_URL`` with ``OPENLINEAGE_ENDPOINT`` (``api/v1/lineage``), ``OPENLINEAGE_API_KEY``, ``OPENLINEAGE_NAMESPACE`` and
    ``OPENLINEAGE_DISABLED``; a URL may also be ``file:PATH``.

    Args:
        variables: The environment variables; those of the process, if not said.

    Raises:
        InvalidInput: When the URL can't be used.
    """
    found = os.environ if variables is None else variables
    url = found.get("OPENLINEAGE_URL", "").strip()
    if not url or found.get("OPENLINEAGE_DISABLED", "").lower() in {"true", "1"}:
        return None
    namespace = found.get("OPENLINEAGE_NAMESPACE", "").strip() or NAMESPACE
    parts = urlsplit(url)
    if parts.scheme == "file" and url.removeprefix("file:").lstrip("/"):
        return Destination(url=url, namespace=namespace)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise InvalidInput(
            "this is no place for lineage",
            where="OPENLINEAGE_URL",
            allowed="http://HOST:PORT, https://HOST or file:PATH, without a name or a password",
        )
    endpoint = found.get("OPENLINEAGE_ENDPOINT", "").strip("/ ") or "api/v1/lineage"
    key = found.get("OPENLINEAGE_API_KEY", "").strip()
    return Destination(url=f"{url.rstrip('/')}/{endpoint}", key=key, namespace=namespace)


class Shipper:
    """A thread that tells the journal to one place.

    Of several servers on a store one has the lease, and tells. A receiver that is away, or refuses the token, is tried again with longer
    and longer pauses, and nothing is lost or overtaken; an event that it says it will never take is tried ten times and passed over.

    Args:
        service: The journal, and what it says.
        to: Where to.
    """

    def __init__(self, service: LineageService, to: Destination) -> None:
        self._service = service
        self._to = to
        self._lease = Lease(service.database)
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{id(self)}"
        self._translator: Translator | None = None
        self._at = -1
        self._ahead = -1
        self._waiting: list[Json] = []
        self._attempts = 0
        self._due = 0.0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self.refused = 0

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="kilter-openlineage", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what is on its way; the next server goes on from there."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self._lease.release()

    def round(self) -> int:
        """Tell the next events of the journal, and return how many of its events were done with."""
        if time.monotonic() < self._due or not self._mine():
            return 0
        journal = self._service.journal
        with self._service.database.reading() as connection:
            told = journal.cursor(connection, READER)
        if self._translator is None or told != self._at:
            self._translator, self._at, self._waiting = self._service.translator(self._to.namespace, told), told, []
            self._ahead = told
        done = 0
        for event in journal.events(after=told, limit=_PAGE):
            if event.seq > self._ahead:  # what is said of an event is made once, however often it has to be sent
                self._waiting, self._ahead = self._translator.feed(event), event.seq
            while self._waiting:
                if self._ending.is_set() or not self._send(
                    self._waiting[0], f"{event.digest[:32]}-{len(self._waiting)}"
                ):
                    return done
                del self._waiting[0]
            self._advance(event.seq)
            done += 1
        return done

    def _mine(self) -> bool:
        if self._lease.epoch is not None and self._lease.renew():
            return True
        return self._lease.acquire(READER, self._holder, _LEASE) is not None

    def _advance(self, seq: int) -> None:
        with self._service.database.transaction() as connection:
            self._lease.check(connection)
            self._service.journal.advance(connection, READER, seq)
        self._at = seq

    def _send(self, told: Json, key: str) -> bool:
        """Say whether an event is done with: taken, or never to be."""
        try:
            status = self._tell(msgspec.json.encode(told), key)
        except KilterError as error:
            return self._again(str(error))
        if status in _DONE:
            self._attempts = 0
            return True
        if status in _NEVER and self._attempts + 1 >= ATTEMPTS:
            self.refused += 1
            self._attempts = 0
            logger.error(
                "lineage: %s of %s is not taken (%d), and passed over", told["eventType"], told["job"]["name"], status
            )
            return True
        return self._again(f"answered {status}")

    def _again(self, reason: str) -> bool:
        pause = pause_after(self._attempts)
        self._attempts += 1
        self._due = time.monotonic() + pause
        logger.warning("lineage waits %.0f s, attempt %d: %s", pause, self._attempts, reason)
        return False

    def _tell(self, body: bytes, key: str) -> int:
        if self._to.url.startswith("file:"):
            _append(_path(self._to.url), body)
            return 200
        headers = {"Content-Type": "application/json", "User-Agent": f"kilter/{release()}", "Idempotency-Key": key}
        if self._to.key:
            headers["Authorization"] = f"Bearer {self._to.key}"
        return post(self._to.url, body, headers, trusted=True).status

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                if not self.round():
                    self._ending.wait(_LOOK)
            except KilterError as error:
                logger.warning("lineage waits: %s", error)
                self._ending.wait(_LOOK)


def _path(url: str) -> Path:
    place = url.removeprefix("file:")
    return Path(place.removeprefix("//") if place.startswith("///") else place)


def _append(path: Path, line: bytes) -> None:
    """Add a line to a file, on the disk when this returns; what an earlier end left torn stays a line of its own."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Unavailable(f"the file can't be written: {error.strerror}", where=str(path)) from error
