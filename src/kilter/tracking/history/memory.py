"""Files that a source puts together: small ones in memory, growing ones on disk until the run ends."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from kilter.tracking.history.places import opener
from kilter.tracking.history.records import FileSeen

_GATHERED = 1 << 20


def small_file(name: str, data: bytes) -> FileSeen:
    """Return a file whose bytes are in memory."""

    def opened() -> BinaryIO:
        return io.BytesIO(data)

    return FileSeen(name, opened)


class Spool:
    """Gathers texts for files; what is gathered beyond a little lies in a folder of its own that goes at the end."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._paths: dict[str, Path] = {}
        self._lines: dict[str, list[str]] = {}
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def line(self, name: str, text: str) -> None:
        """Add a line to a file.

        Args:
            name: The file's name in the run.
            text: The line, without its end.
        """
        self.text(name, f"{text}\n")

    def text(self, name: str, text: str) -> None:
        """Add a text to a file, as it is."""
        self._lines.setdefault(name, []).append(text)
        self._size += len(text)
        if self._size >= _GATHERED:
            self._write()

    def files(self) -> Iterator[FileSeen]:
        """Yield the files, by name."""
        self._write()
        for name, path in sorted(self._paths.items()):
            yield FileSeen(name, opener(path))

    def _write(self) -> None:
        if self._lines and self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="kilter-import-")
        for name, lines in self._lines.items():
            if name not in self._paths and self._folder is not None:
                self._paths[name] = Path(self._folder.name, str(len(self._paths)))
            with self._paths[name].open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(lines)
        self._lines, self._size = {}, 0
