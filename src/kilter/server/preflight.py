"""What is looked at before anything starts on a store, so that a mistake is told and not half done."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kilter.core.errors import Conflict, Damaged, InvalidInput, Unavailable

_OURS = frozenset({"kilter.db", "kilter.db-wal", "kilter.db-shm", "objects", "tables", "online", "log", "run", "clock"})
_MAGIC = b"SQLite format 3\x00"


def check_folder(folder: Path) -> None:
    """Check that a folder is a store, or can become one.

    Raises:
        InvalidInput: When it is a file, or holds things that aren't a store's.
        Damaged: When its database is none.
        Unavailable: When it can't be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(
            "this is a file, not a folder", where=str(folder), allowed="a folder", fix="choose another --store"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".trial-{secrets.token_hex(4)}"
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        reason = {errno.EROFS: "it is on a read-only file system", errno.EACCES: "this user may not write there"}
        said = reason.get(error.errno or 0, error.strerror or "unknown reason")
        raise Unavailable(
            f"the folder can't be written: {said}", where=str(folder), fix="choose another folder with --store"
        ) from None
    metadata = folder / "kilter.db"
    if metadata.exists():
        with metadata.open("rb") as file:
            begins = file.read(len(_MAGIC))
        if begins not in {b"", _MAGIC}:
            raise Damaged(
                "the file is no SQLite database", where=str(metadata), fix="restore it, or choose another --store"
            )
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OURS and not path.name.startswith("."))
    if foreign:
        raise InvalidInput(
            f"the folder holds other things ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}) and no store",
            where=str(folder),
            allowed="an empty or a new folder, or one that Kilter made",
            fix=f"choose another, like --store {folder / '.kilter'}",
        )


@contextmanager
def only_one(lock: Path, where: str) -> Iterator[None]:
    """Hold a lock file for as long as the block runs; the kernel lets go of it whenever the process ends.

    Args:
        lock: The file; it holds the owner's process id.
        where: The store, for the error.

    Raises:
        Conflict: When another process holds it.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            raise Conflict(
                f"another `kilter up` runs on this store (process {holder})",
                where=where,
                fix="use the running one (`kilter status`), stop it, or choose another --store",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
