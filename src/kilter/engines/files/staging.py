"""Parts that many machines have written, in any order, until one of them puts them where they belong."""

from __future__ import annotations

import shutil
from pathlib import Path

import obstore
import polars as pl
from obstore.exceptions import BaseError

from kilter.core.errors import NotFound, Unavailable
from kilter.engines.files.reading import Piece, pieces, reading, scan
from kilter.engines.location import Bucket, locate, s3_store

_NAME = 24
"""How much of a job's digest names its place."""


def stage_beside(place: str) -> str:
    """Return where the parts of an output are kept until all of them are there.

    Args:
        place: The output: a folder, a file, or a prefix of a bucket.
    """
    where = locate(place)
    if isinstance(where, Bucket):
        address, mark, options = place.partition("?")
        return f"{address.rstrip('/')}.cluster{mark}{options}"
    return str(where.path.with_name(f".{where.path.name}.cluster"))


def stage_of(root: str, job: str) -> str:
    """Return a job's own place, so that a straggler of another one can't write into it.

    Args:
        root: Where parts are kept.
        job: Digest of the job.
    """
    where = locate(root)
    if isinstance(where, Bucket):
        address, mark, options = root.partition("?")
        return f"{address}/{job[:_NAME]}{mark}{options}"
    return str(where.path / job[:_NAME])


def staged(place: str) -> dict[tuple[int, int], Piece]:
    """Return the parts that are there, by piece and number.

    Raises:
        Unavailable: When the place can't be read.
    """
    try:
        found = pieces(place)
    except NotFound:
        return {}
    return {_numbers(piece): piece for piece in found}


def read_staged(place: str, piece: Piece) -> pl.DataFrame:
    """Return a part.

    Raises:
        Damaged: When it can't be read.
    """
    with reading(piece.uri):
        return scan(piece, place).collect()


def clear_stage(root: str, but: str = "") -> None:
    """Remove what is kept, with what is noted about it.

    Args:
        root: Where parts are kept.
        but: Digest of the job whose parts stay; empty for none.

    Raises:
        Unavailable: When they can't be removed.
    """
    where = locate(root)
    if isinstance(where, Bucket):
        _clear_bucket(where, but[:_NAME])
        return
    try:
        for one in where.path.iterdir() if where.path.is_dir() else ():
            if not (but and one.name.lstrip(".").startswith(but[:_NAME])):
                shutil.rmtree(one)
        if not but and where.path.is_dir():
            where.path.rmdir()
    except OSError as error:
        raise Unavailable("the parts can't be removed", where=str(where.path), fix="remove them by hand") from error


def _clear_bucket(where: Bucket, but: str) -> None:
    store = s3_store(Bucket(where.name, "", where.endpoint, where.region))
    try:
        found = [str(entry["path"]) for listed in obstore.list(store, where.prefix) for entry in listed]
        gone = [path for path in found if not (but and path.removeprefix(f"{where.prefix}/").startswith(but))]
        if gone:
            obstore.delete(store, gone)
    except (BaseError, OSError) as error:
        raise Unavailable("the parts can't be removed", where=where.url, fix="remove them by hand") from error


def _numbers(piece: Piece) -> tuple[int, int]:
    _, number, part = Path(piece.uri).stem.split("-")
    return int(number), int(part)
