"""What types can't say about a declaration: names, values, and how they fit together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import get_args

from kilter.core.errors import DeclarationError
from kilter.data.declare import Columns, Label, Window
from kilter.evaluation.declare import Gate
from kilter.features.declare import FeatureView
from kilter.loop.declaration.batch_checks import check_batches
from kilter.loop.declaration.faults import Faults, Schemas
from kilter.loop.declaration.function_checks import check_train
from kilter.loop.declaration.input_checks import check_inputs, check_label
from kilter.loop.declaration.policy_checks import (
    check_gates,
    check_monitors,
    check_release,
    check_retrain,
    check_windows,
)
from kilter.loop.declaration.spec import Declared
from kilter.loop.declaration.tune_checks import check_tune
from kilter.loop.declare import ApprovalRule, Batch, Environment, Retrain
from kilter.monitoring.declare import Monitor
from kilter.release.declare import Canary, Freeze, Shadow

_NAME = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
_LONGEST_NAME = 100


def check(declared: Declared, schemas: Schemas | None = None) -> list[DeclarationError]:
    """Return everything that is wrong with a declaration; an empty list says that it can be applied.

    Each error names the file and line, the field, what was given, what is allowed and, where there is one, the fix.

    Args:
        declared: A loop, as :func:`kilter.loop.declaration.spec.load` returns it.
        schemas: Per table, its columns; a table that isn't in it has no rows yet, and its columns can't be checked.
    """
    faults = Faults(declared, schemas or {})
    _kinds(faults)
    if not faults.found:  # the other checks would stumble over values of a wrong kind
        for part in _PARTS:
            part(faults)
    return faults.found


def require(declared: Declared, schemas: Schemas | None = None) -> None:
    """Raise the first error of :func:`check`, with the number of the others."""
    found = check(declared, schemas)
    if len(found) > 1:
        first = found[0]
        raise DeclarationError(
            f"{first.message} (and {len(found) - 1} more)", where=first.where, allowed=first.allowed, fix=first.fix
        ) from first
    if found:
        raise found[0]


def _kinds(faults: Faults) -> None:
    """Note values of a wrong kind: a file that no type checker has seen may hold any."""
    loop = faults.loop
    for name in ("name", "owner", "purpose"):
        faults.kind(name, getattr(loop, name), (str,), "a text")
    faults.kind("label", loop.label, (Label,), "Label(function, known_at=column)")
    faults.kind("retrain", loop.retrain, (Retrain,), "Retrain(...)")
    faults.kind("seed", loop.seed, (int,), "a whole number")
    faults.kind("approve", loop.approve, (Mapping,), '{"staging": "auto", "prod": "owner"}')
    faults.each("inputs", loop.inputs, (Columns, FeatureView), "table.columns(...) or features(table, ...)")
    faults.each("gates", loop.gates, get_args(Gate), "beats_champion, beats_naive, at_least, fair or faster_than")
    faults.each("release", loop.release, (Shadow, Canary, Freeze), "Shadow(...), Canary(...) or Freeze(...)")
    faults.each("monitors", loop.monitors, get_args(Monitor), "decay, calibration or drift")
    faults.each("batch", loop.batch, (Batch,), "Batch(input=..., output=...)")
    if not isinstance(loop.data, Window):
        faults.each("data", loop.data, (Window,), "Window(...), or a tuple of them")
    if isinstance(loop.retrain, Retrain):
        faults.each("retrain.on", loop.retrain.on, get_args(Monitor), "the loop's own monitors")


def _identity(faults: Faults) -> None:
    loop = faults.loop
    if not _NAME.match(loop.name) or len(loop.name) > _LONGEST_NAME:
        faults.wrong(
            "name",
            f"{loop.name!r} can't be a name",
            allowed=f'lower-case words joined by hyphens, like "flight-delay", up to {_LONGEST_NAME} letters',
            fix=_slug(loop.name),
        )
    if not loop.owner.strip():
        faults.wrong("owner", "nobody answers for the model", allowed="an address that alerts can reach")


def _rest(faults: Faults) -> None:
    loop = faults.loop
    for environment, rule in loop.approve.items():
        faults.literal("approve", environment, get_args(Environment))
        faults.literal(f"approve.{environment}", rule, get_args(ApprovalRule))
    if loop.fallback is not None and not (
        isinstance(loop.fallback, int | float)
        and not isinstance(loop.fallback, bool)
        and abs(loop.fallback) < float("inf")
    ):
        faults.wrong("fallback", f"{loop.fallback!r} is no answer", allowed="a finite number")
    if not 0 <= loop.seed < 2**63:
        faults.wrong("seed", f"{loop.seed!r}", allowed="0 or more, below 2**63")


def _slug(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return f"{'-'.join(words)!r} would do" if words else ""


_PARTS: tuple[Callable[[Faults], None], ...] = (
    _identity,
    check_inputs,
    check_train,
    check_windows,
    check_gates,
    check_release,
    check_monitors,
    check_retrain,
    check_batches,
    check_tune,
    _rest,
    check_label,
)
