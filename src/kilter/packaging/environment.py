"""What a model was made with: exact versions of its framework and of everything that framework needs."""

from __future__ import annotations

import platform
import re
from importlib import metadata

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def lock(*distributions: str) -> tuple[str, ...]:
    """Return ``name==version`` of distributions and, recursively, of what they require and is installed, sorted.

    Args:
        distributions: Names of installed distributions: ``"lightgbm"``.
    """
    found: dict[str, str] = {}
    todo = list(distributions)
    while todo:
        name = _canonical(todo.pop())
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # required only elsewhere: another platform, another Python
        found[name] = distribution.version
        for requirement in distribution.requires or ():
            named, _, marker = requirement.partition(";")
            match = _NAME.match(named.strip())
            if match and "extra" not in marker:
                todo.append(match.group())
    return (f"python=={platform.python_version()}", *(f"{name}=={version}" for name, version in sorted(found.items())))


def version(distribution: str) -> str:
    """Return the installed version of a distribution."""
    return metadata.version(distribution)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
