"""Where a command works: the environment's store, through its running server when there is one."""

from __future__ import annotations

import argparse
import getpass
import http.client
import os
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.loop.workspace import Kilter, Store

FILE = "kilter.toml"
DEFAULT_STORE = ".kilter"


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One environment of ``kilter.toml``: operations only, never data, label or gates.

    Args:
        store: A folder or the URL of a database.
        home: The local folder of a store that is a database.
        host: The address of server and endpoints.
        port: The port of the server.
        serve_port: The port of the endpoints.
    """

    store: str = DEFAULT_STORE
    home: str | None = None
    host: str | None = None
    port: int | None = None
    serve_port: int | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    env: dict[str, Environment] = {}


def environment(name: str | None, folder: Path | None = None) -> Environment:
    """Return an environment of the ``kilter.toml`` in this folder or the nearest one above it.

    Args:
        name: ``dev`` when None; a ``dev`` that isn't written down has the defaults.
        folder: Where to begin to look.

    Raises:
        InvalidInput: When the file says something else than environments, or not this one.
    """
    start = (folder or Path.cwd()).resolve()
    path = next((parent / FILE for parent in (start, *start.parents) if (parent / FILE).is_file()), None)
    if path is None:
        found = _File()
    else:
        try:
            found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
            allowed = ", ".join(Environment.__struct_fields__)
            raise InvalidInput(
                str(error),
                where=str(path),
                allowed=f"[env.NAME] with {allowed}; data, label and gates stand in the loop's file",
            ) from None
    wanted = name or "dev"
    if wanted not in found.env:
        if wanted == "dev" or not found.env:
            return Environment()
        raise InvalidInput(f"there is no environment {wanted!r}", where=str(path or FILE), allowed=", ".join(found.env))
    kept = found.env[wanted]
    if "://" in kept.store or path is None:
        return kept
    return msgspec.structs.replace(kept, store=str((path.parent / kept.store).resolve()))


def store_name(options: argparse.Namespace) -> str:
    """Return the store that the options name, or the environment's."""
    return options.store or os.environ.get("KILTER_STORE") or environment(options.env).store


def store_of(options: argparse.Namespace) -> Store:
    """Return the places of the store that the options name."""
    from kilter.loop.workspace import Store  # noqa: PLC0415 - opens the way to every room

    return Store.parse(store_name(options), options.home or environment(options.env).home)


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Kilter]:
    """Open the operations: through the server that runs on the store, else on the store itself."""
    from kilter.loop.workspace import connect  # noqa: PLC0415

    name = store_name(options)
    if name.startswith(("http://", "https://")):
        kilter = connect(name)
    else:
        store = store_of(options)
        running = store.run.living("server")
        if running is not None and _answers(running.url):
            kilter = connect(running.url, store.run.token())
        else:
            kilter = connect(name, home=store.home)
    try:
        yield kilter
    finally:
        kilter.close()


def who() -> str:
    """Return who gives a command, for the journal: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname is None:
        return parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=1.0)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
