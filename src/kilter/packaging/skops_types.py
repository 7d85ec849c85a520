"""Which types a skops file may name, and which it names: read off its list, without skops or scikit-learn."""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import Any

from kilter.core.errors import Damaged

# A class of scikit-learn: a dotted path whose last part is capitalised. Functions are not on the list: an estimator that
# calls one could call any.
TRUSTED = re.compile(r"^(sklearn(\.\w+)+\.(?=_*[A-Z])\w+|numpy\.dtype)$")


def trusted_types(data: bytes) -> list[str]:
    """Return the types beyond skops' own list that a file names and that are trusted, which its reader has to be told.

    Args:
        data: A file that was checked when it was packaged.

    Raises:
        Damaged: When the bytes are not a skops file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            todo: list[Any] = [json.loads(archive.read("schema.json"))]
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, OSError) as error:
        raise Damaged("the bytes are not a skops file", where="model.skops") from error
    found: set[str] = set()
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            found.add(f"{node.get('__module__')}.{node.get('__class__')}")
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return sorted(name for name in found if TRUSTED.match(name))
