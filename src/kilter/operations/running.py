"""What runs on a store: one small file per process in ``DIR/run``, and the token that only its owner can read."""

from __future__ import annotations

import fcntl
import os
import secrets
from datetime import datetime
from pathlib import Path

import msgspec

from kilter.core.errors import InvalidInput, Unavailable

TOKEN_FILE = "token"  # noqa: S105 - the name of a file, not a secret
MIN_TOKEN = 16
_MARK_LENGTH = 16


class Running(msgspec.Struct, frozen=True):
    """A process that works on a store.

    Args:
        name: ``up``, ``server``, ``serve`` or ``controller``.
        pid: Its process id.
        started: When it started, by the machine's clock.
        host: Where it listens; empty when it doesn't.
        port: Its port; 0 when it listens on none.
        url: How to reach it; empty when it can't be reached.
    """

    name: str
    pid: int
    started: datetime
    host: str = ""
    port: int = 0
    url: str = ""

    def alive(self) -> bool:
        """Say whether a process of this id exists (ids are used again, so an answer from ``url`` is the better proof)."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class RunFolder:
    """The folder ``run`` of a store.

    Args:
        path: The folder; it is made, for its owner alone, when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: dict[str, tuple[int, str]] = {}

    def write(self, running: Running) -> None:
        """Say that a process runs; the file is replaced as a whole."""
        self._replace(f"{running.name}.json", msgspec.json.encode(running))

    def read(self, name: str) -> Running | None:
        """Return what is said about a process, or None when nothing readable is."""
        try:
            return msgspec.json.decode((self.path / f"{name}.json").read_bytes(), type=Running)
        except (OSError, msgspec.DecodeError):
            return None

    def living(self, name: str) -> Running | None:
        """Return a process that is said to run and does."""
        found = self.read(name)
        return found if found is not None and found.alive() else None

    def remove(self, name: str, pid: int) -> None:
        """Take back what the process ``pid`` said; another process's word is left alone."""
        found = self.read(name)
        if found is not None and found.pid == pid:
            (self.path / f"{name}.json").unlink(missing_ok=True)

    def hold(self, name: str) -> str:
        """Hold a name on this store for as long as this process lives, however it ends.

        Args:
            name: What is held; the file ``<name>.lock`` stays, the lock on it goes with the process.

        Returns:
            The mark of the name, the same for everyone who ever holds it: whoever is known by it and isn't this process is
            dead. Empty while another process holds it.
        """
        if name in self._held:
            return self._held[name][1]
        self.make()
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark = os.pread(descriptor, _MARK_LENGTH, 0).decode("ascii", "replace")
            if len(mark) < _MARK_LENGTH:
                mark = secrets.token_hex(_MARK_LENGTH // 2)
                os.pwrite(descriptor, mark.encode(), 0)
        except OSError:
            os.close(descriptor)
            return ""
        self._held[name] = (descriptor, mark)
        return mark

    def let_go(self, name: str) -> None:
        """Hold a name no longer; without holding it, do nothing."""
        descriptor, _ = self._held.pop(name, (-1, ""))
        if descriptor >= 0:
            os.close(descriptor)

    def token(self) -> str | None:
        """Return the owner's token: ``KILTER_TOKEN`` if set, else the store's own, else None."""
        given = os.environ.get("KILTER_TOKEN", "")
        if given:
            return check_secret(given, "KILTER_TOKEN")
        try:
            kept = (self.path / TOKEN_FILE).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return kept if len(kept) >= MIN_TOKEN else None

    def make_token(self) -> str:
        """Return the owner's token; the first call makes one and keeps it in a file that only its owner can read."""
        found = self.token()
        if found is not None:
            return found
        token = secrets.token_urlsafe(32)
        aside = self._aside(TOKEN_FILE, token.encode())
        try:
            os.link(aside, self.path / TOKEN_FILE)  # fails if another process was first: then its token holds
        except FileExistsError:
            found = self.token()
            if found is None:
                aside.replace(self.path / TOKEN_FILE)  # a torn file from a crash is no token
                return token
            return found
        finally:
            aside.unlink(missing_ok=True)
        return token

    def make(self) -> None:
        """Make the folder, for its owner alone.

        Raises:
            Unavailable: When it can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise Unavailable(
                f"the folder can't be written ({error.strerror})",
                where=str(self.path),
                fix="choose another --store or --home",
            ) from None

    def _replace(self, name: str, data: bytes) -> None:
        self._aside(name, data).replace(self.path / name)

    def _aside(self, name: str, data: bytes) -> Path:
        self.make()
        aside = self.path / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return aside


def check_secret(token: str, where: str) -> str:
    """Return a token that is fit to be one.

    Raises:
        InvalidInput: When it is short or can't stand in a header.
    """
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(
            "the token is too weak or can't stand in a header",
            where=where,
            allowed=f"{MIN_TOKEN} or more printable ASCII characters without spaces",
            fix='make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return token
