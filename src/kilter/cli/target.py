"""Where a command works: the environment's store, through its running server when there is one."""

from __future__ import annotations

import argparse
import getpass
import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.loop.declare import Environment as EnvironmentName
    from kilter.loop.environment import Overlay
    from kilter.loop.remote import Kilter
    from kilter.loop.store import Store

FILE = "kilter.toml"
DEFAULT_STORE = ".kilter"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8700


def environment(name: str | None) -> Overlay | None:
    """Return an environment of the ``kilter.toml`` in this folder or the nearest one above it, or None without a file.

    Args:
        name: ``dev`` when None.

    Raises:
        InvalidInput: When the file can't be used, or the name is no environment.
    """
    here = Path.cwd()
    folder = next((parent for parent in (here, *here.parents) if (parent / FILE).is_file()), None)
    wanted = environment_name(name)
    if folder is None:
        return None
    from kilter.loop.environment import load_environment  # noqa: PLC0415 - only a file makes anyone pay for it

    return load_environment(folder, wanted)


def environment_name(name: str | None) -> EnvironmentName:
    """Return the environment's name, ``dev`` for None.

    Raises:
        InvalidInput: When there is no such environment.
    """
    match name or "dev":
        case "dev":
            return "dev"
        case "staging":
            return "staging"
        case "prod":
            return "prod"
        case other:
            raise InvalidInput(f"{other!r} is no environment", where="--env", allowed="dev, staging, prod")


def store_name(options: argparse.Namespace) -> str:
    """Return the store that the options name, else ``KILTER_STORE``, else the environment's."""
    given: str | None = options.store or os.environ.get("KILTER_STORE")
    if given:
        return given
    overlay = environment(options.env)
    return DEFAULT_STORE if overlay is None else store_in(overlay)


def store_in(overlay: Overlay) -> str:
    """Return the store of an environment."""
    metadata, objects = overlay.url("metadata"), overlay.url("objects")
    if metadata:
        return f"{metadata}{'&' if '?' in metadata else '?'}{urlencode({'objects': objects})}"
    return overlay.store if "://" in overlay.store else str(Path(overlay.folder, overlay.store))


def address(options: argparse.Namespace) -> tuple[str, int]:
    """Return the server's host and port: the options', else the environment's, else the usual ones."""
    overlay = environment(options.env)
    host, port = (DEFAULT_HOST, DEFAULT_PORT) if overlay is None else (overlay.host, overlay.port)
    return options.host or host, port if options.port is None else options.port


def store_of(options: argparse.Namespace) -> Store:
    """Return the places of the store that the options name."""
    from kilter.loop.store import Store  # noqa: PLC0415 - opens the way to every room

    return Store.parse(store_name(options), options.home)


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Kilter]:
    """Open the operations: through the server that runs on the store, else on the store itself."""
    overlay = None if options.store or os.environ.get("KILTER_STORE") else environment(options.env)
    with opened(store_name(options), options.home, "" if overlay is None else overlay.url("token")) as kilter:
        yield kilter


@contextmanager
def opened(name: str, home: str | None = None, token: str = "") -> Iterator[Kilter]:
    """Open the operations of a store by its name: through the server that runs on it, else on the store itself.

    Args:
        name: A folder, the URL of a database, or the address of a server.
        home: The local folder of a store that is a database.
        token: The server's token; ``KILTER_TOKEN``, if not said.
    """
    from kilter.loop.store import Store  # noqa: PLC0415 - opens the way to every room
    from kilter.loop.workspace import connect  # noqa: PLC0415

    if name.startswith(("http://", "https://")):
        kilter = connect(name, token or None)
    else:
        store = Store.parse(name, home)
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
