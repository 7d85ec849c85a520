"""Tables, columns, labels and windows, as a user declares them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Table:
    """A versioned table of rows that arrive over time, a row possibly in several parts.

    Args:
        name: The table's name in the store.
        key: The column that identifies a row; later parts of a row carry the same key.
        time: The event-time column by which windows are cut (UTC).
    """

    name: str
    key: str
    time: str

    def columns(self, *names: str) -> Columns:
        """Use columns of this table, known when the prediction is made, as inputs of a model."""
        return Columns(self, names)


@dataclass(frozen=True)
class Columns:
    """Columns of a table as model inputs."""

    table: Table
    names: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    """The truth, known late.

    Args:
        expression: A function that returns a boolean or numeric Polars expression over the table's columns.
        known_at: The column that tells when the truth of a row became known (UTC). Rows where it or the label is null
            are censored: they are neither positive nor negative, and take no part in training or judging.
    """

    expression: Callable[[], pl.Expr]
    known_at: str


@dataclass(frozen=True)
class Window:
    """Which rows a training sees, cut by event time, the holdout always after the training rows.

    Args:
        train: How far back training reaches before the holdout, as a duration. With ``mode="expand"`` it is the least
            span: everything older is used too.
        holdout: The newest stretch, kept for the gates.
        mode: ``slide`` keeps the span's length; ``expand`` starts at the first row of the table.
    """

    train: str = "60d"
    holdout: str = "7d"
    mode: Literal["slide", "expand"] = "slide"
