"""Inputs that know the answer: columns that are not there, or not yet true, when a prediction is made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from kilter.core.errors import DeclarationError
from kilter.data.declare import Columns, Label, Table
from kilter.data.schema import nearest
from kilter.data.windows import LABEL, labelled

_LEAST_ROWS = 20
_MOSTLY_NULL = 0.8
_MOSTLY_THERE = 0.2


def refuse_leaks(inputs: Sequence[Columns], label: Label, frame: pl.DataFrame, at: datetime) -> None:
    """Refuse columns that can't be known when a prediction is made.

    Args:
        inputs: The columns that the model would see.
        label: The truth.
        frame: The table's rows as known at ``at``: what had arrived by then, not what is known today.
        at: The moment of the check.

    Raises:
        DeclarationError: For the first column that is unknown or leaks; it names the column, the evidence and the fix.
    """
    for found in leaks(inputs, label, frame, at):
        raise found


def leaks(inputs: Sequence[Columns], label: Label, frame: pl.DataFrame, at: datetime) -> list[DeclarationError]:
    """Return what :func:`refuse_leaks` would raise, for all columns.

    Three kinds of evidence: the column is part of the label's expression; it is the column that tells when the label is
    known; or it is missing in nearly all rows whose label is not known yet and there once it is, so it comes with the truth.
    """
    found: list[DeclarationError] = []
    of_label = set(label.expression().meta.root_names())
    for columns in inputs:
        table = columns.table
        where = f"inputs: {table.name}.columns(...)"
        known = labelled(frame, table, label, at)
        shares = _null_shares(known, table, [name for name in columns.names if name in frame.columns])
        for name in columns.names:
            if name not in frame.columns:
                found.append(
                    DeclarationError(
                        f"unknown column {name!r}",
                        where=where,
                        allowed=", ".join(sorted(frame.columns)),
                        fix=nearest(name, frame.columns) or "append rows that have it, or correct the name",
                    )
                )
                continue
            evidence = _evidence(name, label, of_label, shares)
            if evidence:
                found.append(
                    DeclarationError(
                        f"input {name!r} leaks the label: {evidence}",
                        where=where,
                        allowed="columns known when the prediction is made",
                        fix=f"remove {name!r} from the inputs, or use earlier rows of it through features(..., lag=...)",
                    )
                )
    return found


def _evidence(name: str, label: Label, of_label: set[str], shares: dict[str, tuple[float, float, int]]) -> str:
    if name in of_label:
        return f"the label's expression {getattr(label.expression, '__name__', 'label')}() is made of it"
    if name == label.known_at:
        return "it tells when the label became known"
    unlabelled, there, rows = shares.get(name, (0.0, 0.0, 0))
    if rows >= _LEAST_ROWS and unlabelled >= _MOSTLY_NULL and there <= _MOSTLY_THERE:
        return (
            f"it is missing in {unlabelled:.0%} of the {rows:,} rows whose label is not known yet, "
            f"and in {there:.0%} of those whose label is known, so it comes with the truth"
        )
    return ""


def _null_shares(known: pl.DataFrame, table: Table, names: Sequence[str]) -> dict[str, tuple[float, float, int]]:
    """Return per column the share of nulls without and with a known label, and the number of rows without."""
    timed = known.filter(pl.col(table.time).is_not_null())
    without, having = timed.filter(pl.col(LABEL).is_null()), timed.filter(pl.col(LABEL).is_not_null())
    if without.is_empty() or having.is_empty():
        return {}
    return {
        name: (
            without[name].null_count() / without.height,
            having[name].null_count() / having.height,
            without.height,
        )
        for name in names
    }
