"""Where a store keeps what: a folder, or a database and buckets with a local folder beside them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit, urlunsplit

import msgspec

from kilter.core.clock import Clock, SystemClock
from kilter.core.digests import digest_json
from kilter.core.errors import InvalidInput
from kilter.engines.clock import SharedClock
from kilter.engines.location import locate
from kilter.operations.running import RunFolder

DEFAULT_STORE = ".kilter"

_BUCKET_OPTIONS = frozenset({"endpoint", "region"})


class Store(msgspec.Struct, frozen=True):
    """Where a workspace keeps what.

    Args:
        database: SQLAlchemy URL of the metadata.
        objects: URL of the content-addressed bytes.
        tables: URL of the versioned tables.
        home: Local folder of the logs, the online features and the run files.
        name: What the user called it.
    """

    database: str
    objects: str
    tables: str
    home: str
    name: str

    @classmethod
    def parse(cls, target: str | os.PathLike[str], home: str | None = None) -> Store:
        """Return the places that a ``--store`` names.

        Args:
            target: A folder, or ``postgresql://user@host/database?objects=s3://bucket/prefix``. Options of the object store (such as
                ``endpoint``, ``region``) are given in the URL of ``objects``, or by the usual environment variables.
            home: The local folder of a remote store; ``KILTER_HOME``, else one below ``~/.kilter`` that is this store's own.

        Raises:
            InvalidInput: When the target is neither.
        """
        text = os.fspath(target)
        if "://" not in text:
            folder = Path(text).expanduser().resolve()
            return cls(
                f"sqlite:///{folder / 'kilter.db'}", str(folder / "objects"), str(folder / "tables"), str(folder), text
            )
        parts = urlsplit(text)
        if not parts.scheme.startswith("postgresql"):
            raise InvalidInput(
                f"{parts.scheme}:// is no store",
                where="--store",
                allowed="a folder, or postgresql://user@host/database?objects=s3://bucket/prefix",
            )
        query = parse_qs(parts.query, keep_blank_values=True)
        objects = query.pop("objects", [""])[0]
        if not objects:
            raise InvalidInput(
                "the URL names a database and no place for bytes",
                where="--store",
                allowed="postgresql://user@host/database?objects=s3://bucket/prefix",
                fix="add ?objects= with a folder or an s3:// URL",
            )
        # Written without quoting, the second option of the bucket looks like one of the database, which has none such.
        for name in _BUCKET_OPTIONS & query.keys():
            objects += f"{'&' if '?' in objects else '?'}{urlencode({name: query.pop(name)[0]})}"
        tables = query.pop("tables", [_below(objects, "tables")])[0]
        for place in (objects, tables):
            locate(place)  # a place that can't be is refused here, before anything is reached
        database = urlunsplit(("postgresql+psycopg", parts.netloc, parts.path, urlencode(query, doseq=True), ""))
        place = home or os.environ.get("KILTER_HOME") or str(_own_home(parts, query))
        return cls(database, _below(objects, "objects"), tables, str(Path(place).expanduser().resolve()), text)

    @property
    def archive(self) -> str:
        """URL of the archive of predictions, beside the tables."""
        head, mark, options = self.tables.partition("?")
        return f"{head.rstrip('/').rpartition('/')[0]}/archive{mark}{options}"

    @property
    def folder(self) -> Path:
        """The local folder."""
        return Path(self.home)

    @property
    def run(self) -> RunFolder:
        """What runs on this store, on this machine."""
        return RunFolder(self.folder / "run")


def _own_home(parts: SplitResult, query: dict[str, list[str]]) -> Path:
    """Return a folder for a database alone: two servers may both have one of the same name."""
    own = digest_json([parts.hostname, parts.port, parts.path, sorted(query.items())])
    return Path.home() / ".kilter" / f"{parts.path.strip('/') or 'default'}-{own[:8]}"


def _below(url: str, name: str) -> str:
    head, mark, options = url.partition("?")
    return f"{head.rstrip('/')}/{name}{mark}{options}"


def clock_from(text: str) -> Clock:
    """Return the clock that ``--clock`` names: ``system``, or ``file:PATH`` for a simulated one shared by processes."""
    if text == "system":
        return SystemClock()
    kind, _, path = text.partition(":")
    if kind != "file" or not path:
        raise InvalidInput(f"{text!r} is no clock", where="--clock", allowed='"system" or "file:PATH"')
    return SharedClock(Path(path))
