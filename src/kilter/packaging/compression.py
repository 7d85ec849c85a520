"""What a smaller form of a model costs: how far its answers are off, how large it is, and the gate that both have to pass.

Quantised, pruned and distilled models are judged alike: on rows that were not used to make them, against the packaged model's
own answers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import msgspec
import numpy as np

from kilter.core.errors import GateRefused, InvalidInput
from kilter.packaging.formats import Matrix
from kilter.packaging.records import LabelKind


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a smaller form may cost.

    Args:
        loss: How far the worst answer may be off: in units of probability, or of the answer where that is more than 1.
        mean: How far answers may be off on average, in the same units; None for no such limit.
        flips: The share of rows, 0 to 1, whose decision may change: the side of one half, or the likeliest class.
        share: Its bytes at most, as a share of the larger form's; 1 asks it to be no larger.
        size: Its bytes at most; None for no such limit.
        packed: Its bytes at most when deflated, as it is sent; None for no such limit.
    """

    loss: float = 0.01
    mean: float | None = None
    flips: float = 1.0
    share: float = 1.0
    size: int | None = None
    packed: int | None = None

    def __post_init__(self) -> None:
        if not (self.loss >= 0 and 0 <= self.flips <= 1 and self.share > 0):
            raise InvalidInput("the limits can't be met or missed", where="limits",
                               allowed="a loss of 0 or more, flips from 0 to 1, a share above 0")  # fmt: skip


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What a smaller form costs.

    Args:
        form: Its name.
        size: Its bytes.
        packed: Its bytes when deflated.
        share: Its bytes as a share of the larger form's.
        loss: How far the worst answer is off; see :class:`Limits`.
        mean: How far answers are off on average.
        flips: The share of rows whose decision changes; 0 for models that answer with values.
        rows: On how many rows it was judged.
        missed: The limits that it missed, in words; empty when it passed.
    """

    form: str
    size: int
    packed: int
    share: float
    loss: float
    mean: float
    flips: float
    rows: int
    missed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it is within all limits."""
        return not self.missed


def score(
    form: str, data: bytes, answers: Matrix, wanted: Matrix, larger: int, label: LabelKind, limits: Limits
) -> Score:
    """Judge a form.

    Args:
        form: Its name.
        data: Its bytes.
        answers: Its answers, (rows, outputs) or (rows,).
        wanted: The packaged model's answers to the same rows.
        larger: The bytes of the form that it is to replace.
        label: What the model answers with.
        limits: What it may cost.

    Raises:
        InvalidInput: When there are no rows, or the shapes differ.
    """
    found, given = (np.atleast_2d(np.asarray(one, dtype=np.float64).T).T for one in (answers, wanted))
    if found.shape != given.shape or not found.size:
        raise InvalidInput(f"answers of the shapes {found.shape} and {given.shape}", where=form,
                           allowed="the same rows and outputs, at least one")  # fmt: skip
    apart = np.where(found == given, 0.0, np.abs(found - given) / np.maximum(1.0, np.abs(given)))
    apart = np.where(np.isnan(apart), np.inf, apart)
    judged = Score(
        form=form,
        size=len(data),
        packed=len(zlib.compress(data, 9)),
        share=len(data) / larger,
        loss=float(apart.max()),
        mean=float(apart.mean()),
        flips=_flips(found, given, label),
        rows=len(found),
    )
    return msgspec.structs.replace(judged, missed=_missed(judged, limits))


def require(judged: Score) -> None:
    """Refuse a form that missed a limit.

    Raises:
        GateRefused: With what was measured.
    """
    if judged.missed:
        raise GateRefused(
            f"it missed {'; '.join(judged.missed)} (measured on {judged.rows} rows: loss {judged.loss:.4g}, "
            f"{judged.mean:.4g} on average, {judged.flips:.2%} of decisions changed, {judged.size:,} bytes, {judged.share:.0%} of the larger form)",
            where=judged.form,
            fix="allow more, or keep the larger form",
        )


def table(scores: Iterable[Score]) -> list[str]:
    """Return scores as the lines of a table."""
    lines = [
        f"{'form':<16} {'bytes':>12} {'deflated':>12} {'share':>7} {'loss':>10} {'mean':>10} {'flips':>8}  verdict"
    ]
    lines += [
        f"{one.form:<16} {one.size:>12,} {one.packed:>12,} {one.share:>7.0%} {one.loss:>10.3g} {one.mean:>10.3g} "
        f"{one.flips:>8.2%}  {'passed' if one.passed else 'missed ' + '; '.join(one.missed)}"
        for one in scores
    ]
    return lines


def halves(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Return rows to make a form with and other rows to judge it on; a single row has to do for both."""
    return (rows, rows) if len(rows) < 2 else (rows[0::2], rows[1::2])


def _flips(found: Matrix, wanted: Matrix, label: LabelKind) -> float:
    if label == "binary":
        return float(((found[:, 0] >= 0.5) != (wanted[:, 0] >= 0.5)).mean())
    if label == "multiclass":
        return float((found.argmax(axis=1) != wanted.argmax(axis=1)).mean())
    return 0.0


def _missed(judged: Score, limits: Limits) -> tuple[str, ...]:
    checks = [
        (judged.loss <= limits.loss, f"a loss of {limits.loss:g}, with {judged.loss:.4g}"),
        (
            limits.mean is None or judged.mean <= limits.mean,
            f"a loss of {limits.mean or 0:g} on average, with {judged.mean:.4g}",
        ),
        (judged.flips <= limits.flips, f"{limits.flips:.2%} of changed decisions, with {judged.flips:.2%}"),
        (judged.share <= limits.share, f"{limits.share:.0%} of the larger form's bytes, with {judged.share:.0%}"),
        (limits.size is None or judged.size <= limits.size, f"{limits.size or 0:,} bytes, with {judged.size:,}"),
        (
            limits.packed is None or judged.packed <= limits.packed,
            f"{limits.packed or 0:,} bytes when deflated, with {judged.packed:,}",
        ),
    ]
    return tuple(said for held, said in checks if not held)
