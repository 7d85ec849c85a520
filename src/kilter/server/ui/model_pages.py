"""The pages of models and their versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput, KilterError
from kilter.core.evidence import Finding
from kilter.loop.workspace import Workspace
from kilter.registry.records import Lineage, Model, ModelVersion, VersionHistory
from kilter.server.ui.differences import Line, side_by_side
from kilter.server.ui.tracking_records import Reign
from kilter.tracking.records import Run

_MOST = 500


class ModelView(msgspec.Struct, frozen=True):
    """The page of a model.

    Args:
        model: The model.
        versions: Its versions, newest first.
        reigns: Which version was champion when, the latest first.
        loop: A loop of its name looks after it.
        endpoint: An endpoint of its name answers.
    """

    model: Model
    versions: tuple[ModelVersion, ...]
    reigns: tuple[Reign, ...]
    loop: bool
    endpoint: bool


class VersionView(msgspec.Struct, frozen=True):
    """The page of a version.

    Args:
        history: Everything that the registry knows about it.
        run: The run that made it, if it is still there.
        reigns: When it was champion.
        others: The model's other versions, newest first.
        loop: A loop of the model's name looks after it.
        endpoint: An endpoint of the model's name answers.
    """

    history: VersionHistory
    run: Run | None
    reigns: tuple[Reign, ...]
    others: tuple[int, ...]
    loop: bool
    endpoint: bool


class Pair(msgspec.Struct, frozen=True):
    """A check that two versions went through.

    Args:
        name: What was checked, and when in the release.
        left: What was found of the first one.
        right: What was found of the second one.
    """

    name: str
    left: Finding | None
    right: Finding | None


class VersionsCompared(msgspec.Struct, frozen=True):
    """Two versions of a model."""

    model: str
    left: ModelVersion
    right: ModelVersion
    checks: tuple[Pair, ...]
    metrics: tuple[Line, ...]
    params: tuple[Line, ...]
    made_of: tuple[Line, ...]


class ModelPages:
    """Models and their versions.

    Args:
        workspace: The store's services.
        render: Fills a template.
        simulated: The store's clock is not the machine's.
    """

    def __init__(self, workspace: Workspace, render: Callable[..., str], *, simulated: bool) -> None:
        self._workspace = workspace
        self._models = workspace.models
        self._render = render
        self._simulated = simulated

    def _clock(self) -> dict[str, object]:
        return {"now": self._workspace.clock.now(), "simulated": self._simulated}

    def index(self) -> str:
        """Return the page of all models."""
        return self._render("tracking/models.html", models=self.models(), **self._clock())

    def models(self) -> tuple[Model, ...]:
        """Return all models."""
        return self._models.models()

    def model(self, name: str) -> str:
        """Return a model's page."""
        return self._render("tracking/model.html", view=self.model_data(name), **self._clock())

    def model_data(self, name: str) -> ModelView:
        """Return what a model's page shows.

        Raises:
            NotFound: When there is no such model.
        """
        versions = self._models.versions(name, limit=_MOST)
        (found,) = [one for one in self._models.models() if one.name == name]
        histories = [self._models.history(name, one.version) for one in versions]
        return ModelView(found, versions, reigns(histories), *self._served(name))

    def version(self, name: str, version: str) -> str:
        """Return a version's page."""
        return self._render("tracking/model_version.html", view=self.version_data(name, version), **self._clock())

    def version_data(self, name: str, version: str) -> VersionView:
        """Return what a version's page shows.

        Raises:
            NotFound: When there is no such version.
        """
        history = self._models.history(name, version)
        versions = self._models.versions(name, limit=_MOST)
        everyone = reigns([self._models.history(name, one.version) for one in versions])
        number = history.version.version
        return VersionView(
            history=history,
            run=self._run(history.version.lineage.run),
            reigns=tuple(one for one in everyone if one.version == number),
            others=tuple(one.version for one in versions if one.version != number),
            loop=self._served(name)[0],
            endpoint=self._served(name)[1],
        )

    def compare(self, name: str, query: Mapping[str, Any]) -> str:
        """Return the page that compares two versions."""
        return self._render("tracking/model_compare.html", found=self.compare_data(name, query), **self._clock())

    def compare_data(self, name: str, query: Mapping[str, Any]) -> VersionsCompared:
        """Return two versions side by side.

        Raises:
            InvalidInput: When the query does not say which.
        """
        left, right = str(query.get("left", "")), str(query.get("right", ""))
        if not left or not right:
            raise InvalidInput("two versions are compared", where="left, right", allowed="?left=1&right=2")
        one, other = self._models.history(name, left), self._models.history(name, right)
        runs = [self._run(side.version.lineage.run) for side in (one, other)]
        measured = [{m.name: float(m.last) for m in run.metrics} if run else {} for run in runs]
        return VersionsCompared(
            model=name,
            left=one.version,
            right=other.version,
            checks=_checks(one, other),
            metrics=side_by_side(measured),
            params=side_by_side([side.version.lineage.params for side in (one, other)]),
            made_of=side_by_side([_made_of(side.version) for side in (one, other)]),
        )

    def _run(self, identity: str) -> Run | None:
        try:
            return self._workspace.runs.get(identity)
        except KilterError:  # a version outlives its run
            return None

    def _served(self, name: str) -> tuple[bool, bool]:
        loop = name in set(self._workspace.loops.ledger.names())
        return loop, any(one.loop == name for one in self._workspace.endpoints.plans())


def reigns(histories: Sequence[VersionHistory]) -> tuple[Reign, ...]:
    """Return which version was champion when, the latest first.

    A reign ends with the version's next stage, or when another version becomes champion.
    """
    marks = sorted(
        (mark.at, place, history.version.version, mark.stage, mark.reason)
        for history in histories
        for place, mark in enumerate(history.stages)
    )
    found: list[Reign] = []
    for at, _, version, stage, reason in marks:
        now = found[-1] if found and found[-1].until is None else None
        if stage == "champion":
            if now is not None and now.version == version:
                continue
            if now is not None:
                found[-1] = msgspec.structs.replace(now, until=at)
            found.append(Reign(version, at, None, reason))
        elif now is not None and now.version == version:
            found[-1] = msgspec.structs.replace(now, until=at)
    return tuple(reversed(found))


def _checks(one: VersionHistory, other: VersionHistory) -> tuple[Pair, ...]:
    sides = [
        {f"{evidence.kind}: {finding.name}": finding for evidence in side.evidence for finding in evidence.findings}
        for side in (one, other)
    ]
    return tuple(Pair(name, sides[0].get(name), sides[1].get(name)) for name in dict.fromkeys([*sides[0], *sides[1]]))


def _made_of(version: ModelVersion) -> dict[str, str]:
    lineage: Lineage = version.lineage
    found = {
        "bundle": version.bundle[:16],
        "data": lineage.data_digest[:16],
        "features": lineage.feature_digest[:16],
        "code": lineage.code_digest[:16],
        "environment": lineage.environment[:16],
        "declaration": lineage.spec[:16],
        "seed": str(lineage.seed),
        "run": lineage.run,
        "trigger": version.trigger,
    }
    return {name: value for name, value in found.items() if value}
