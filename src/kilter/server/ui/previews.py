"""The files of a run in a browser: folders, and what a file looks like. Nothing of a file ever runs in our origin."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import polars as pl

from kilter.tracking.records import Artifact

Kind = Literal["text", "json", "table", "image", "none"]

_IMAGES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "svg": "image/svg+xml",
}
_TABLES = {"csv", "tsv", "parquet"}
_MOST_BYTES = 32 << 20
_MOST_TEXT = 200_000
_MOST_ROWS = 200
_MOST_COLUMNS = 100
_LONGEST_CELL = 300


class Entry(msgspec.Struct, frozen=True):
    """A file or a folder.

    Args:
        name: Its name within the folder.
        path: Its whole name.
        folder: It is one.
        size: Its bytes; those of all files in a folder.
        files: How many files a folder has.
    """

    name: str
    path: str
    folder: bool
    size: int
    files: int = 1


class Preview(msgspec.Struct, frozen=True):
    """What a file looks like.

    Args:
        path: Its name.
        kind: What is shown.
        size: Its bytes.
        text: The text, or its beginning.
        columns: The columns of a table.
        rows: Its first rows, as text.
        total: How many rows the whole table has, where that is known.
        cut: Not all of it is shown.
        problem: Why nothing is shown.
    """

    path: str
    kind: Kind
    size: int
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    total: int | None = None
    cut: bool = False
    problem: str = ""


def entries(files: Iterable[Artifact], folder: str) -> tuple[Entry, ...]:
    """Return what is in a folder, folders first."""
    prefix = f"{folder}/" if folder else ""
    folders: dict[str, tuple[int, int]] = {}
    found = []
    for file in files:
        if not file.name.startswith(prefix):
            continue
        name, slash, _ = file.name[len(prefix) :].partition("/")
        if slash:
            size, count = folders.get(name, (0, 0))
            folders[name] = (size + file.size, count + 1)
        else:
            found.append(Entry(name, file.name, folder=False, size=file.size))
    above = [Entry(name, f"{prefix}{name}", True, size, count) for name, (size, count) in sorted(folders.items())]
    return (*above, *sorted(found, key=lambda one: one.name))


def ending(path: str) -> str:
    """Return a name's ending in small letters."""
    return path.rpartition("/")[2].rpartition(".")[2].lower() if "." in path else ""


def image_type(path: str) -> str:
    """Return the media type that an image is sent as, or nothing: whatever else there is is sent as mere bytes."""
    return _IMAGES.get(ending(path), "")


def too_large(size: int) -> bool:
    """Return whether a file is too large to be looked into."""
    return size > _MOST_BYTES


def preview(path: str, size: int, data: bytes | None) -> Preview:
    """Return what a file looks like.

    Args:
        path: Its name.
        size: Its bytes.
        data: Its content; None where it is too large.
    """
    if image_type(path):
        return Preview(path, "image", size)
    if data is None:
        return Preview(path, "none", size, problem="It is too large to be shown here; download it.")
    kind = ending(path)
    return _table(path, size, data, kind) if kind in _TABLES else _text(path, size, data, kind)


def _text(path: str, size: int, data: bytes, kind: str) -> Preview:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text[:8192]:
        return Preview(path, "none", size, problem="It is not text; download it.")
    if kind in {"json", "ipynb"}:
        return _json(path, size, text)
    return Preview(path, "text", size, text=text[:_MOST_TEXT], cut=len(text) > _MOST_TEXT)


def _json(path: str, size: int, text: str) -> Preview:
    try:
        value = msgspec.json.decode(text)
        pretty = msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return Preview(path, "text", size, text=text[:_MOST_TEXT], cut=len(text) > _MOST_TEXT)
    if isinstance(value, dict) and isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _rows(path, size, [str(one) for one in value["columns"]], value["data"], len(value["data"]))
    return Preview(path, "json", size, text=pretty[:_MOST_TEXT], cut=len(pretty) > _MOST_TEXT)


def _table(path: str, size: int, data: bytes, kind: str) -> Preview:
    try:
        if kind == "parquet":
            frame = pl.scan_parquet(io.BytesIO(data))
            total = int(frame.select(pl.len()).collect().item())
            head = frame.head(_MOST_ROWS).collect()
        else:
            whole = data.rstrip(b"\r\n")
            total = whole.count(b"\n")
            separator = "\t" if kind == "tsv" else ","
            head = pl.read_csv(io.BytesIO(data), separator=separator, n_rows=_MOST_ROWS, infer_schema_length=0)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        return Preview(path, "none", size, problem=f"It can't be read as a table: {str(error).splitlines()[0][:200]}")
    return _rows(path, size, head.columns, [list(row) for row in head.iter_rows()], total)


def _rows(path: str, size: int, columns: list[str], rows: list[Any], total: int) -> Preview:
    shown = tuple(
        tuple(_cell(cell) for cell in (row if isinstance(row, list) else [row])[:_MOST_COLUMNS])
        for row in rows[:_MOST_ROWS]
    )
    cut = total > _MOST_ROWS or len(columns) > _MOST_COLUMNS
    return Preview(path, "table", size, columns=tuple(columns[:_MOST_COLUMNS]), rows=shown, total=total, cut=cut)


def _cell(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}\N{HORIZONTAL ELLIPSIS}"
