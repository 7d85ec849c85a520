"""The output of a long job, in parts that are whole or not there, so that a killed job goes on where it was.

A part is written aside and renamed, or is one commit of a Delta table. The parts of a job are written in order; the last one
that is there tells where to go on. Which job the parts are of stands beside them, so that two jobs never mix.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import obstore
import polars as pl
from obstore.exceptions import BaseError

from kilter.core.errors import Conflict, Damaged, InvalidInput, Unavailable
from kilter.engines.files.reading import FORMATS, Format
from kilter.engines.location import Bucket, Folder, locate, s3_store
from kilter.engines.tables.paths import append_once, appended

_PART = re.compile(r"^part-(\d{5})-(\d{6})\.[a-z]+$")
_SHIFT = 20
_ENDINGS: dict[Format, str] = {"parquet": "parquet", "csv": "csv", "arrow": "arrow"}
_JOB = "job.json"
NOWHERE = (-1, -1)
"""The place before the first part."""
THE_END = (1 << 31, 0)
"""The place behind the last part of a job that is done."""


class Job(msgspec.Struct, frozen=True):
    """Which job an output is of.

    Args:
        digest: Digest of everything that decides what comes out.
        about: The same for people, and for the files' own metadata.
        done: Whether it has ended.
    """

    digest: str
    about: dict[str, str]
    done: bool = False


class Output(Protocol):
    """Where the parts of a job go."""

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there: ``NOWHERE`` without one, ``THE_END`` with all."""
        ...

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Write a part; when this returns, it is whole and survives the death of the process."""
        ...

    def finish(self) -> None:
        """Put the parts together, where the output is one file, and note that the job is done."""
        ...


def open_output(place: str, job: Job, *, format: Format | None = None, overwrite: bool = False) -> Output:  # noqa: A002
    """Open an output.

    Args:
        place: A file that ends in .parquet, .csv or .arrow; else a folder of parts, in a bucket too. With the format
            ``delta``, a Delta table.
        job: The job.
        format: The format of a folder's parts; Parquet if not said.
        overwrite: Whether the output of another job may be replaced.

    Raises:
        Conflict: When something else is there.
        InvalidInput: When the place can't take that format.
    """
    where = locate(place)
    if format == "delta":
        return DeltaOutput(where, job)
    ending = FORMATS.get(Path(where.prefix if isinstance(where, Bucket) else where.path).suffix)
    if ending is not None and format not in (None, ending):
        raise InvalidInput(f"the file's name says {ending}", where="output", allowed=f"{ending}, or another name")
    if isinstance(where, Bucket):
        if ending is not None:
            raise InvalidInput(
                "one file in a bucket can't be put together of parts", where="output", fix="give a prefix: s3://bucket/scores/"
            )  # fmt: skip
        bucket = BucketOutput(where, job, format or "parquet")
        bucket.begin(overwrite=overwrite)
        return bucket
    folder = FolderOutput(where.path, job, ending or format or "parquet", single=ending is not None)
    folder.begin(overwrite=overwrite)
    return folder


class FolderOutput:
    """Parts in a folder, or one file made of them.

    Args:
        path: The folder or the file.
        job: The job.
        format: The parts' format.
        single: Whether one file is wanted.
    """

    def __init__(self, path: Path, job: Job, format: Format, *, single: bool) -> None:  # noqa: A002
        self._path = path
        self._job = job
        self._format: Format = format
        self._single = single
        self._done = False
        self._aside = path.with_name(f".{path.name}.batch")
        self._parts = self._aside / "parts" if single else path

    def begin(self, *, overwrite: bool) -> None:
        """Make ready.

        Raises:
            Conflict: When something else is there.
        """
        try:
            known = _job((self._aside / _JOB).read_bytes()) if (self._aside / _JOB).exists() else None
            if overwrite and known is not None and known.digest != self._job.digest:
                self._clear()
                known = None
            taken = self._path.is_file() or (self._path.is_dir() and any(self._path.iterdir()))
            if (known is None and taken and not (overwrite and self._single)) or (
                known is not None and known.digest != self._job.digest
            ):
                raise _taken(str(self._path))
            self._aside.mkdir(parents=True, exist_ok=True)
            self._parts.mkdir(parents=True, exist_ok=True)
            if known is None:
                _replace(self._aside / _JOB, lambda file: file.write_bytes(msgspec.json.encode(self._job)))
        except OSError as error:
            raise _unwritten(error, self._path) from error
        self._done = known is not None and known.done and taken

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there."""
        if self._done:
            return THE_END
        return max((_numbers(one.name) for one in self._parts.iterdir()), default=NOWHERE)

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Write a part aside, bring it to the disk, and rename it."""
        name = _name(piece, number, self._format)
        self.put(name, lambda file: _store(frame, file, self._format, self._job.about))

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        return (self._parts / name).exists()

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Let a file be written aside, bring it to the disk, and give it its name."""
        try:
            _replace(self._parts / name, write, self._aside)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unwritten(error, self._parts / name) from error

    def finish(self) -> None:
        """Put the parts together, and note that the job is done."""
        if self._done:
            return
        done = msgspec.structs.replace(self._job, done=True)
        try:
            if self._single:
                parts = sorted(one for one in self._parts.iterdir() if _PART.match(one.name))
                _replace(self._path, lambda file: _join(parts, file, self._format, self._job.about), self._aside)
            _replace(self._aside / _JOB, lambda file: file.write_bytes(msgspec.json.encode(done)))
            if self._single:
                shutil.rmtree(self._parts, ignore_errors=True)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _unwritten(error, self._path) from error

    def _clear(self) -> None:
        for one in self._path.iterdir() if self._path.is_dir() else ():
            if _PART.match(one.name):
                one.unlink()
        shutil.rmtree(self._aside)


class BucketOutput:
    """Parts under a prefix of a bucket, where a put is whole or not there.

    Args:
        where: The prefix.
        job: The job.
        format: The parts' format.
    """

    def __init__(self, where: Bucket, job: Job, format: Format) -> None:  # noqa: A002
        self._store = s3_store(Bucket(where.name, "", where.endpoint, where.region))
        self._prefix = where.prefix.rstrip("/")
        self._job = job
        self._format: Format = format
        self._url = where.url
        self._done = False
        self._note = f"{self._prefix}.batch/{_JOB}"

    def begin(self, *, overwrite: bool) -> None:
        """Make ready.

        Raises:
            Conflict: When something else is there.
        """
        try:
            known = _job(bytes(obstore.get(self._store, self._note).bytes()))
        except FileNotFoundError:
            known = None
        except (BaseError, OSError) as error:
            raise _unwritten(error, self._url) from error
        if known is not None and known.digest == self._job.digest:
            self._done = known.done
            return
        names = self._names()
        if names and not (overwrite and known is not None):
            raise _taken(self._url)
        self._put(self._note, msgspec.json.encode(self._job))
        for name in names:
            if _PART.match(name):
                obstore.delete(self._store, f"{self._prefix}/{name}")

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there."""
        if self._done:
            return THE_END
        return max(map(_numbers, self._names()), default=NOWHERE)

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Put a part."""
        held = io.BytesIO()
        _store(frame, held, self._format, self._job.about)
        self._put(f"{self._prefix}/{_name(piece, number, self._format)}", held.getvalue())

    def finish(self) -> None:
        """Note that the job is done."""
        if self._done:
            return
        self._put(self._note, msgspec.json.encode(msgspec.structs.replace(self._job, done=True)))

    def _names(self) -> list[str]:
        try:
            listed = [entry for batch in obstore.list(self._store, self._prefix) for entry in batch]
        except (BaseError, OSError) as error:
            raise _unwritten(error, self._url) from error
        return [str(entry["path"]).removeprefix(f"{self._prefix}/") for entry in listed]

    def _put(self, path: str, data: bytes) -> None:
        try:
            obstore.put(self._store, path, data)
        except (BaseError, OSError) as error:
            raise _unwritten(error, self._url) from error


class DeltaOutput:
    """Parts as commits of a Delta table, to which other jobs may have added rows, too.

    Args:
        where: The table.
        job: The job; its digest is the transaction's application.
    """

    def __init__(self, where: Folder | Bucket, job: Job) -> None:
        self._where = where
        self._writer = f"kilter-batch-{job.digest[:32]}"

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there."""
        found = appended(self._where, self._writer)
        return (found >> _SHIFT, found & ((1 << _SHIFT) - 1)) if found >= 0 else NOWHERE

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Append a part in one commit."""
        append_once(self._where, frame, self._writer, piece << _SHIFT | number)

    def finish(self) -> None:
        """Do nothing: the last commit says it all."""


def _store(frame: pl.DataFrame, file: Path | io.BytesIO, format: Format, about: Mapping[str, str]) -> None:  # noqa: A002
    match format:
        case "parquet":
            frame.write_parquet(file, metadata=dict(about))
        case "csv":
            frame.write_csv(file)
        case "arrow":
            frame.write_ipc(file)
        case "delta":
            raise AssertionError


def _join(parts: list[Path], file: Path, format: Format, about: Mapping[str, str]) -> None:  # noqa: A002
    """Make one file of parts, without holding them all in memory."""
    match format:
        case "parquet":
            pl.scan_parquet(parts, glob=False).sink_parquet(file, metadata=dict(about))
        case "arrow":
            pl.scan_ipc(parts, glob=False).sink_ipc(file)
        case "csv":
            with file.open("wb") as whole:
                for number, part in enumerate(parts):
                    with part.open("rb") as one:
                        if number:
                            one.readline()  # the names of the columns stand in the first part already
                        shutil.copyfileobj(one, whole)
        case "delta":
            raise AssertionError


def _replace(target: Path, write: Callable[[Path], object], aside: Path | None = None) -> None:
    """Write a file aside, bring it to the disk, and give it its name."""
    draft = (aside or target.parent) / f".{target.name}.{os.getpid()}"
    try:
        write(draft)
        _sync(draft)
        draft.replace(target)
        _sync(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _job(data: bytes) -> Job:
    try:
        return msgspec.json.decode(data, type=Job)
    except msgspec.MsgspecError as error:
        raise Damaged("the note beside the output can't be read", where=_JOB, fix="remove it and the output") from error


def _name(piece: int, number: int, format: Format) -> str:  # noqa: A002
    return f"part-{piece:05d}-{number:06d}.{_ENDINGS[format]}"


def _numbers(name: str) -> tuple[int, int]:
    found = _PART.match(name)
    return (int(found.group(1)), int(found.group(2))) if found else NOWHERE


def _taken(where: str) -> Conflict:
    return Conflict(
        "something else is there",
        where=where,
        fix="choose another output, or --overwrite for what an earlier batch wrote",
    )


def _unwritten(error: BaseException, where: Path | str) -> Unavailable:
    said = str(error).split("\n", 1)[0]
    return Unavailable(f"the output can't be written: {said}", where=str(where), fix="free space or check the rights")
