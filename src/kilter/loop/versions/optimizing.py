"""``kilter optimize``: the fastest form of a registered version that agrees with it, as a new version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from polars.exceptions import PolarsError

from kilter.core.errors import KilterError
from kilter.loop.remote import Kilter
from kilter.loop.versions.deploy import release
from kilter.loop.versions.deployments import Deployed
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import Parts, fetch
from kilter.packaging.formats import Matrix
from kilter.packaging.forms import Form, choose
from kilter.registry.service import split_reference
from kilter.serving.recording.predictions import PredictionLog, fronts, to_frame

_REAL_ROWS = 10_000
_FILES: tuple[Literal["model", "example", "explainer"], ...] = ("model", "example", "explainer")

Tell = Callable[[str], None]


class Optimized(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for a version.

    Args:
        model: The model's name.
        version: The version that was looked at.
        example_rows: How many rows of its bundle were compared.
        real_rows: How many rows of the prediction log were.
        tolerance: How far an answer might differ.
        forms: The forms, the native one first.
        kept: The name of the fastest that agrees.
        applied: The version that was made of it, or None.
    """

    model: str
    version: int
    example_rows: int
    real_rows: int
    tolerance: float
    forms: tuple[Form, ...]
    kept: str
    applied: Deployed | None = None


def optimize(
    kilter: Kilter,
    reference: str,
    *,
    tolerance: float = 1e-5,
    rows: Literal[1, 128] = 1,
    apply: bool = False,
    by: str = "",
    tell: Tell | None = None,
) -> Optimized:
    """Try the forms of a version, and with ``apply`` deploy the fastest that agrees.

    Args:
        kilter: The store or the server.
        reference: ``churn``, ``churn@v3`` or ``churn@champion``.
        tolerance: How far an answer may be from that of the version as it is.
        rows: What is to be fast: one row, or 128 at once.
        apply: Make the next version of what was kept; nothing is made when that is the version as it is.
        by: Who.
        tell: Takes a line about each step.

    Raises:
        NotFound: When there is no such version.
        Conflict: When a loop decides about the endpoint.
    """
    name, wanted = split_reference(reference)
    version = kilter.models.get(name, wanted)
    parts = parts_of(kilter, version.bundle)
    real = _real_rows(kilter, name, parts)
    choice = choose(parts, real, tolerance=tolerance, rows=rows, tell=tell)
    deployed = None
    if apply and choice.name != "native":
        trigger = f"{choice.name} form of v{version.version}"
        deployed = release(kilter, name, choice.best, trigger=trigger, by=by, parent=version.reference)
    return Optimized(
        model=name,
        version=version.version,
        example_rows=parts.manifest.example_rows,
        real_rows=0 if real is None else len(real),
        tolerance=tolerance,
        forms=choice.forms,
        kept=choice.name,
        applied=deployed,
    )


def parts_of(kilter: Kilter, bundle: str) -> Parts:
    """Return a bundle's bytes, from the store or through the server."""
    if isinstance(kilter, Workspace):
        return fetch(bundle, kilter.objects)
    manifest = kilter.deployments.bundle(bundle)
    model, example, explainer = (_file(kilter, bundle, part) for part in _FILES)
    return Parts(manifest, model, example, explainer)


def _file(kilter: Kilter, bundle: str, part: Literal["model", "example", "explainer"]) -> bytes:
    found = bytearray()
    while piece := kilter.deployments.file(bundle, part, len(found)):
        found += piece
    return bytes(found)


def _real_rows(kilter: Kilter, name: str, parts: Parts) -> Matrix | None:
    """Return the newest rows that the endpoint was asked about, if its log is on this machine."""
    if not isinstance(kilter, Workspace):
        return None
    logs = kilter.prediction_logs()
    found = [_rows_of(logs, front, name, parts) for front in fronts(logs)]
    rows = np.concatenate([np.zeros((0, len(parts.manifest.signature.encoding.names))), *found])
    return rows[-_REAL_ROWS:] if len(rows) else None


def _rows_of(logs: Path, front: str, name: str, parts: Parts) -> Matrix:
    encoding = parts.manifest.signature.encoding
    none = np.zeros((0, len(encoding.names)))
    log = PredictionLog.open(logs, front)
    try:
        frame = to_frame(log.read(), front, name).tail(_REAL_ROWS)
        frame = frame.rename({f"x_{column}": column for column in encoding.names})
        return np.ascontiguousarray(encoding.matrix(frame))
    except (KilterError, PolarsError):  # another version's inputs, or rows that were redacted
        return none
    finally:
        log.close()
