"""What a run is started with, and what parameters become."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from kilter.engines.sql.types import json_text


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is started with; see :func:`kilter.run`."""

    experiment: str = "default"
    name: str = ""
    params: dict[str, Any] = {}
    tags: dict[str, str] = {}
    seed: int | None = None
    store: str | Path | None = None
    resume: str = ""
    parent: str = ""
    data_digest: str = ""
    system_metrics: bool | float | None = None
    record: bool = True


class Reproduces(msgspec.Struct, frozen=True, kw_only=True):
    """What ``kilter reproduce --run`` tells the program that it starts, in the environment variable ``KILTER_REPRODUCES``.

    Args:
        run: The run that is made again.
        token: Marks the new one.
        store: Where it goes, whatever the program says.
    """

    run: str
    token: str
    store: str


def reproduces() -> Reproduces | None:
    """Return what this process was started to make again, or None."""
    given = os.environ.get("KILTER_REPRODUCES")
    if not given:
        return None
    try:
        return msgspec.json.decode(given, type=Reproduces)
    except msgspec.MsgspecError:
        return None


def plain(value: Any) -> Any:
    """Return a parameter's value as the store will give it back.

    Raises:
        InvalidInput: When it can't be said.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy's
        value = value.item()
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        return str(value)
    return msgspec.json.decode(json_text(value))
