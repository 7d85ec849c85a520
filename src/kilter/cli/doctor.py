"""``kilter doctor``: looks at the installation and the store, and says what to do."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

import msgspec

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, table
from kilter.cli.target import store_name, store_of
from kilter.core.errors import KilterError

_NEEDED = ("msgspec", "sqlalchemy", "polars", "deltalake", "obstore", "lmdb", "litestar", "httptools")
_EXTRAS = {"lightgbm": "lightgbm", "xgboost": "xgboost", "skops": "sklearn", "psycopg": "postgres", "mcp": "mcp"}
_RESERVE = 200 * 1024 * 1024


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: ``ok``, ``note`` (optional) or ``bad``."""

    name: str
    state: str
    found: str
    fix: str = ""


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = "Look at the installation and the store. Nothing is changed."
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    checks = [*_installation(), *_store(options)]
    answer(
        checks,
        as_json=options.json,
        show=lambda: table(("", "what", "found", "fix"), ((one.state, one.name, one.found, one.fix) for one in checks)),
    )
    if any(one.state == "bad" for one in checks):
        sys.exit(1)


def _installation() -> list[Check]:
    enough = sys.version_info >= (3, 11)
    checks = [
        Check("python", "ok" if enough else "bad", platform.python_version(), "" if enough else "use 3.11 or newer")
    ]
    for name in _NEEDED:
        try:
            checks.append(Check(name, "ok", version(name)))
        except PackageNotFoundError:
            checks.append(Check(name, "bad", "not installed", "pip install kilter"))
    for name, extra in _EXTRAS.items():
        if importlib.util.find_spec(name) is None:
            checks.append(Check(name, "note", "not installed", f"optional: pip install 'kilter[{extra}]'"))
        else:
            checks.append(Check(name, "ok", version(name)))
    return checks


def _store(options: argparse.Namespace) -> list[Check]:
    name = store_name(options)
    if name.startswith(("http://", "https://")):
        return [Check("store", "ok", "a server")]
    try:
        store = store_of(options)
    except KilterError as error:
        return [Check("store", "bad", error.message, error.fix)]
    folder = store.folder
    if not folder.exists():
        return [Check("store", "note", f"{folder} is not there yet", "it is made when it is first used")]
    writable = os.access(folder, os.W_OK)
    checks = [Check("store", "ok" if writable else "bad", str(folder), "" if writable else "it can't be written")]
    free = shutil.disk_usage(folder).free
    checks.append(Check("disk", "ok" if free > _RESERVE else "bad", f"{free / 1e9:.1f} GB free"))
    for part in ("up", "server", "serve", "controller"):
        running = store.run.living(part)
        found = "not running" if running is None else f"process {running.pid} {running.url}".rstrip()
        checks.append(Check(part, "note" if running is None else "ok", found))
    return checks
