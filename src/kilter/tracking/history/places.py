"""Where a source may read from: its own folder and those that the user names, and nowhere else, whatever its files say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from kilter.tracking.history.records import FileSeen, LeftOut

_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Places:
    """The folders that files may come from.

    Args:
        roots: The folders; links and ``..`` are followed before the question is asked.
    """

    roots: tuple[Path, ...]

    @classmethod
    def of(cls, *folders: Path | None) -> Places:
        """Return the places of some folders; those that aren't there are left out."""
        return cls(tuple(folder.resolve() for folder in folders if folder is not None and folder.is_dir()))

    def file(self, path: Path) -> Path | None:
        """Return a file's real place, or None when it is none or lies elsewhere."""
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return real if real.is_file() and self._holds(real) else None

    def folder(self, path: Path) -> Path | None:
        """Return a folder's real place, or None when it is none or lies elsewhere."""
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return real if real.is_dir() and self._holds(real) else None

    def _holds(self, real: Path) -> bool:
        return any(real.is_relative_to(root) for root in self.roots)

    def files(self, folder: Path, prefix: str = "") -> Iterator[FileSeen | LeftOut]:
        """Yield the files of a folder and its folders, by name; a link that leads out is counted.

        Args:
            folder: The folder.
            prefix: What their names begin with.
        """
        found = 0
        for parent, folders, names in os.walk(folder, followlinks=False):
            folders.sort()
            for name in sorted(names):
                found += 1
                if found > _MOST:
                    yield LeftOut(f"file beyond the first {_MOST:,} of a folder")
                    return
                path = Path(parent, name)
                inside = path.relative_to(folder).as_posix()
                real = self.file(path)
                if real is None:
                    yield LeftOut("file that is a link out of the folder (give its folder with --files)")
                else:
                    yield FileSeen(f"{prefix}{inside}", opener(real))
            for name in folders:
                if Path(parent, name).is_symlink():
                    yield LeftOut("folder that is a link")


class opener:  # noqa: N801 - called like a function
    """Opens a file when it is asked to.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> BinaryIO:
        """Open it."""
        return self.path.open("rb")


def local_path(uri: str) -> Path | None:
    """Return the path that a plain path or a ``file:`` address names, or None for anything else."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(unquote(parts.path))
    if not parts.scheme and not parts.netloc and uri and "\x00" not in uri:
        return Path(uri)
    return None


def existing(places: Sequence[Path]) -> Path | None:
    """Return the first of some folders that is there."""
    return next((place for place in places if place.is_dir()), None)
