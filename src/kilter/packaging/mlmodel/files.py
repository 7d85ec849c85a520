"""A model's files, wherever they lie: named by clean relative paths, read one by one."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kilter.core.errors import Damaged, InvalidInput, NotFound, Unavailable
from kilter.packaging.mlmodel.document import LARGEST, NAME

_MOST = 10_000
_ARCHIVE = 16 << 30
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Files:
    """The files of a folder.

    Args:
        sizes: Per path its length in bytes.
        fetch: Returns the bytes of one.
        where: What people call the folder.
    """

    sizes: Mapping[str, int]
    fetch: Callable[[str], bytes]
    where: str

    def read(self, path: str, largest: int | None = None) -> bytes:
        """Return a file's bytes.

        Args:
            path: Below the folder.
            largest: At most so many bytes.

        Raises:
            InvalidInput: When the path climbs, or the file is too large.
            NotFound: When there is no such file.
        """
        name = clean(path)
        size = self.sizes.get(name)
        if size is None:
            raise NotFound(f"the folder has no file {name!r}", where=self.where)
        if largest is not None and size > largest:
            raise InvalidInput(f"the file has {size:,} bytes", where=name, allowed=f"{largest:,}")
        return self.fetch(name)

    def document(self) -> bytes:
        """Return the ``MLmodel`` file.

        Raises:
            InvalidInput: When there is none, or it is too large.
        """
        if NAME not in self.sizes:
            raise InvalidInput(
                f"the folder has no {NAME} file", where=self.where, allowed="a folder that mlflow's save_model wrote"
            )
        return self.read(NAME, LARGEST)


def clean(path: str) -> str:
    """Return a relative path in its shortest form.

    Raises:
        InvalidInput: When it is absolute, climbs, or hides something.
    """
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "\\" in path or "\x00" in path or ":" in parts[0]:
        raise InvalidInput(
            f"{path[:200]!r} is no path below the folder", where="path", allowed="a relative path without .."
        )
    name = PurePosixPath(path).as_posix()
    if name == ".":
        raise InvalidInput(f"{path[:200]!r} names no file", where="path")
    return name


def is_mlmodel(path: Path) -> bool:
    """Say whether a path on this machine is a model of MLflow: its folder, its ``MLmodel`` file, or an archive of either."""
    return path.is_dir() or path.name == NAME or path.name.lower().endswith(ARCHIVES)


def on_disk(path: Path) -> Files:
    """Return the files of a folder on this machine; an archive is read without unpacking it.

    Raises:
        InvalidInput: When it holds links or other things than files, too many of them, or names that climb.
        Unavailable: When it can't be read.
    """
    root = path.parent if path.name == NAME else path
    try:
        return _folder(root) if root.is_dir() else _archive(root)
    except FileNotFoundError as error:
        raise NotFound("there is no such file", where=str(path)) from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise Damaged("the file is no archive that can be read", where=str(path)) from error
    except OSError as error:
        raise Unavailable(f"the folder can't be read: {error.strerror or error}", where=str(path)) from error


def _folder(root: Path) -> Files:
    sizes: dict[str, int] = {}
    for folder, folders, names in os.walk(root, followlinks=False):
        for name in (*folders, *names):
            found = Path(folder, name)
            status = found.lstat()
            inside = found.relative_to(root).as_posix()
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise InvalidInput("it is a link or no plain file", where=inside, allowed="files and folders")
            if stat.S_ISREG(status.st_mode):
                sizes[inside] = status.st_size
        _check_count(len(sizes), root)

    def fetch(name: str) -> bytes:
        # the last part must not have become a link meanwhile; who can replace a folder above it can write the model, too
        try:
            descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                return file.read()
        except OSError as error:
            raise Unavailable(f"the file can't be read: {error.strerror}", where=name) from error

    return Files(sizes, fetch, str(root))


def _archive(path: Path) -> Files:
    members = _zip(path) if path.name.lower().endswith(".zip") else _tar(path)
    tops = [PurePosixPath(name).parent.as_posix() for name in members if PurePosixPath(name).name == NAME]
    top = min(tops, key=len, default=".")  # an archive often holds the folder itself
    below = "" if top == "." else f"{top}/"
    sizes = {name[len(below) :]: size for name, size in members.items() if name.startswith(below)}
    return Files(sizes, lambda name: _member(path, below + name), str(path))


def _zip(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    total = 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise InvalidInput("the archive holds a link", where=entry.filename[:200], allowed="files and folders")
            found[clean(entry.filename)] = entry.file_size
            total += entry.file_size
            _check_count(len(found), path, total)
    return found


def _tar(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    total = 0
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isdir():
                continue
            if not entry.isreg():
                raise InvalidInput(
                    "the archive holds a link or no plain file", where=entry.name[:200], allowed="files and folders"
                )
            found[clean(entry.name)] = entry.size
            total += entry.size
            _check_count(len(found), path, total)
    return found


def _member(path: Path, name: str) -> bytes:
    try:
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                held = next(
                    entry for entry in archive.infolist() if not entry.is_dir() and clean(entry.filename) == name
                )
                return archive.read(held)
        with tarfile.open(path) as archive:
            for entry in archive:
                if entry.isreg() and clean(entry.name) == name:
                    opened = archive.extractfile(entry)
                    return b"" if opened is None else opened.read()
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, StopIteration) as error:
        raise Damaged("the archive can't be read", where=name) from error
    raise NotFound("the archive has no such file", where=name)


def _check_count(files: int, where: Path, size: int = 0) -> None:
    if files > _MOST or size > _ARCHIVE:
        raise InvalidInput("it holds too much", where=str(where), allowed=f"{_MOST:,} files and {_ARCHIVE:,} bytes")
