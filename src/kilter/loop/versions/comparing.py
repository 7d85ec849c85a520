"""Two versions side by side: what they were built from, and what was measured of them."""

from __future__ import annotations

from typing import Any

import msgspec

from kilter.core.errors import InvalidInput, NotFound
from kilter.loop.remote import Kilter
from kilter.registry.records import RegisteredVersion
from kilter.tracking.records import LoggedModel, Run

_PARTS = ("metric", "param", "lineage", "tag", "state")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is known of one of the two, or of both.

    Args:
        part: ``metric``, ``param``, ``lineage``, ``tag`` or ``state``.
        name: Its name.
        left: What it is of the first; nothing, if it isn't known.
        right: What it is of the second.
        same: Whether both are equal.
    """

    part: str
    name: str
    left: Any
    right: Any
    same: bool


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions side by side.

    Args:
        left: The first, as people write it.
        right: The second.
        differences: What is known of them, by part and name; what is the same, too.
    """

    left: str
    right: str
    differences: tuple[Difference, ...]


def compare(kilter: Kilter, left: tuple[str, int | str], right: tuple[str, int | str]) -> Comparison:
    """Return two versions side by side, whoever made them.

    Args:
        kilter: The store or the server.
        left: Model and version of the first.
        right: Model and version of the second.

    Raises:
        NotFound: When there is no such version.
        InvalidInput: When both are one.
    """
    first, second = (kilter.models.registered_version(*one) for one in (left, right))
    if first.reference == second.reference:
        raise InvalidInput(f"{first.reference} is the same version twice", where="VERSION", fix="give two versions")
    known = [_known(kilter, version) for version in (first, second)]
    names = {key for found in known for key in found}
    return Comparison(
        left=first.reference,
        right=second.reference,
        differences=tuple(
            Difference(
                part=part,
                name=name,
                left=known[0].get((part, name)),
                right=known[1].get((part, name)),
                same=known[0].get((part, name)) == known[1].get((part, name)),
            )
            for part, name in sorted(names, key=lambda key: (_PARTS.index(key[0]), key[1]))
        ),
    )


def _known(kilter: Kilter, version: RegisteredVersion) -> dict[tuple[str, str], Any]:
    """Return what is known of a version, by part and name: of its run, of the logged model that it is, and of its lineage."""
    found: dict[tuple[str, str], Any] = {
        ("state", "stage"): version.stage,
        ("state", "loop"): version.state or None,
        ("state", "approval"): version.approval,
        ("state", "run"): version.run or None,
    }
    found.update({("tag", name): value for name, value in version.tags.items()})
    run = _run(kilter, version.run)
    if run is not None:
        found.update({("param", name): value for name, value in run.params.items()})
        found.update({("metric", one.name): one.last for one in run.metrics})
        for name in ("data_digest", "feature_digest", "code_digest", "environment", "seed", "spec"):
            found["lineage", name] = getattr(run, name)
        for one in run.inputs.datasets:
            found["lineage", f"dataset {one.name}"] = one.digest
    model = _logged(kilter, version.logged_model)
    if model is not None:
        found.update({("param", name): value for name, value in model.params.items()})
        found.update({("metric", one.point.name): one.point.value for one in model.metrics})
    if version.owner == "loop":
        made = kilter.models.get(version.model, version.version)
        found.update({("param", name): value for name, value in made.lineage.params.items()})
        for name in ("data_digest", "feature_digest", "code_digest", "environment", "seed", "spec", "profile"):
            found["lineage", name] = getattr(made.lineage, name)
        found["lineage", "bundle"] = made.bundle
        for evidence in kilter.models.history(version.model, version.version).evidence:
            for finding in evidence.findings:
                if finding.value is not None:
                    found["metric", f"{evidence.kind}: {finding.name}"] = finding.value.estimate
    return {key: value for key, value in found.items() if value not in (None, "")}


def _run(kilter: Kilter, run: str) -> Run | None:
    try:
        return kilter.runs.get(run) if run else None
    except NotFound:  # it may be a run of another server
        return None


def _logged(kilter: Kilter, model: str) -> LoggedModel | None:
    try:
        return kilter.runs.logged_model(model, deleted=True) if model else None
    except NotFound:
        return None
