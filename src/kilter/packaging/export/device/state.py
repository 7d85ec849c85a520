"""What a device knows, in small files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .release import EdgeError


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's object; an empty one when there is no file.

    Raises:
        EdgeError: When it can't be read.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EdgeError(f"{path} can't be read: {error}") from error
    return dict(found)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file in one step."""
    write_bytes(path, json.dumps(value, sort_keys=True).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step.

    Raises:
        EdgeError: When it can't be written; the file is as it was.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise EdgeError(f"{path} can't be written: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
