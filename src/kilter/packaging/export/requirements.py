"""What an image has to install: exact versions of what kilter and the model need, with the hashes of a lock file when there is one."""

from __future__ import annotations

import re
from pathlib import Path

from kilter.core.errors import InvalidInput, NotFound
from kilter.packaging.environment import lock
from kilter.packaging.native import Flavor
from kilter.packaging.records import Manifest

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
_LIBRARIES: dict[Flavor, str] = {"lightgbm-text": "lightgbm", "xgboost-ubjson": "xgboost"}
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def pinned(manifest: Manifest) -> dict[str, str]:
    """Return the versions by name: those that the model was packaged with, and those that kilter runs with here."""
    explains = (
        [_LIBRARIES[manifest.explainer.flavor]]
        if manifest.explainer and manifest.explainer.flavor in _LIBRARIES
        else []
    )
    found = dict(entry.split("==", 1) for entry in (*lock("kilter", *explains), *manifest.environment))
    return {name: found[name] for name in sorted(found) if name not in {"python", "kilter"}}


def python_of(manifest: Manifest) -> str:
    """Return the Python that the model was packaged with: ``3.11``."""
    found = dict(entry.split("==", 1) for entry in manifest.environment).get("python", "3.11")
    return ".".join(found.split(".")[:2])


def requirements(wanted: dict[str, str], hashes: dict[tuple[str, str], tuple[str, ...]] | None) -> str:
    """Return a requirements file: names, versions and, with a lock file, hashes; no addresses.

    Args:
        wanted: Versions by name.
        hashes: What a lock file says of each name and version; None without one.

    Raises:
        InvalidInput: When the lock file lacks one of them.
    """
    if hashes is None:
        return "".join(f"{name}=={version}\n" for name, version in wanted.items())
    missing = [f"{name}=={version}" for name, version in wanted.items() if (name, version) not in hashes]
    if missing:
        raise InvalidInput(
            f"the lock file has no hash of {', '.join(missing[:5])}{' and others' * (len(missing) > 5)}",
            where="--lock",
            allowed="a lock of what is installed here and of what the model was packaged with",
            fix="compile it again from this environment, or leave --lock out",
        )
    lines = []
    for name, version in wanted.items():
        entries = " \\\n".join(f"    --hash={entry}" for entry in sorted(hashes[name, version]))
        lines.append(f"{name}=={version} \\\n{entries}\n")
    return "".join(lines)


def read_lock(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the hashes by name and version of a lock file, as ``pip-compile`` and ``uv pip compile`` write it.

    Raises:
        NotFound: When there is no such file.
        InvalidInput: When it has no hashes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound("there is no such file", where=str(path)) from error
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for entry in re.split(r"(?<!\\)\n", text):
        match = _PINNED.match(entry)
        if match:
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            found[name, match[2]] = tuple(_HASH.findall(entry))
    if not any(found.values()):
        raise InvalidInput("the lock file has no hashes", where=str(path), allowed="name==version --hash=sha256:...",
                           fix="uv pip compile --generate-hashes")  # fmt: skip
    return {key: hashes for key, hashes in found.items() if hashes}
