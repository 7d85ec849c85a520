"""The pages of models and their versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput, KilterError
from kilter.core.evidence import Finding
from kilter.loop.workspace import Workspace
from kilter.registry.elsewhere import lies_elsewhere
from kilter.registry.records import (
    Change,
    Lineage,
    ModelPage,
    ModelVersion,
    RegisteredModel,
    RegisteredVersion,
    VersionHistory,
)
from kilter.server.ui.differences import Line, side_by_side
from kilter.server.ui.notes import rendered
from kilter.server.ui.tracking_records import Reign
from kilter.tracking.records import Run

_MOST = 500


class ModelView(msgspec.Struct, frozen=True):
    """The page of a model, whoever registered it.

    Args:
        model: The model.
        versions: Its versions, newest first.
        packaged: What is known more of those that were packaged here, by their numbers.
        more: It has more versions than these.
        reigns: Which version was champion when, the latest first.
        changes: What people changed, the latest first.
        loop: A loop of its name looks after it.
        endpoint: An endpoint of its name answers.
    """

    model: RegisteredModel
    versions: tuple[RegisteredVersion, ...]
    packaged: dict[int, ModelVersion]
    more: bool
    reigns: tuple[Reign, ...]
    changes: tuple[Change, ...]
    loop: bool
    endpoint: bool


class VersionView(msgspec.Struct, frozen=True):
    """The page of a version, whoever registered it.

    Args:
        version: The version.
        history: What is known more of one that was packaged here; None for one of a client.
        run: The run that made it, if it is still there.
        reigns: When it was champion.
        changes: What people changed, the latest first.
        others: The model's other versions, newest first.
        loop: A loop of the model's name looks after it.
        endpoint: An endpoint of the model's name answers.
        elsewhere: Its files are outside this store, and nobody here reads them.
    """

    version: RegisteredVersion
    history: VersionHistory | None
    run: Run | None
    reigns: tuple[Reign, ...]
    changes: tuple[Change, ...]
    others: tuple[int, ...]
    loop: bool
    endpoint: bool
    elsewhere: bool


class Side(msgspec.Struct, frozen=True):
    """A version beside another one."""

    version: RegisteredVersion
    history: VersionHistory | None
    run: Run | None


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
    left: RegisteredVersion
    right: RegisteredVersion
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

    def index(self, query: Mapping[str, Any]) -> str:
        """Return the page of all models."""
        return self._render("tracking/models.html", page=self.models(query), **self._clock())

    def models(self, query: Mapping[str, Any]) -> ModelPage:
        """Return the models by name, page by page."""
        return self._models.search(limit=_MOST, cursor=str(query.get("cursor", "")) or None)

    def model(self, name: str, *, acts: bool) -> str:
        """Return a model's page."""
        view = self.model_data(name)
        note = rendered(view.model.description) if view.model.description else ""
        return self._render("tracking/model.html", view=view, note=note, acts=acts, **self._clock())

    def model_data(self, name: str) -> ModelView:
        """Return what a model's page shows.

        Raises:
            NotFound: When there is no such model.
        """
        found = self._models.registered(name)
        page = self._models.search_versions(order="-version_number", model=name, limit=_MOST)
        packaged = self._models.versions(name, limit=_MOST) if found.owner == "loop" else ()
        histories = [self._models.history(name, one.version) for one in packaged]
        return ModelView(
            found,
            page.versions,
            {one.version: one for one in packaged},
            page.cursor is not None,
            reigns(histories),
            self._changes(name),
            *self._served(name),
        )

    def version(self, name: str, version: str, *, acts: bool) -> str:
        """Return a version's page."""
        view = self.version_data(name, version)
        note = rendered(view.version.description) if view.version.description else ""
        return self._render("tracking/model_version.html", view=view, note=note, acts=acts, **self._clock())

    def version_data(self, name: str, version: str) -> VersionView:
        """Return what a version's page shows.

        Raises:
            NotFound: When there is no such version.
        """
        side = self._side(name, version)
        number = side.version.version
        page = self._models.search_versions(order="-version_number", model=name, limit=_MOST)
        made = [one.version for one in page.versions] if side.history is not None else []
        loop, endpoint = self._served(name)
        return VersionView(
            version=side.version,
            history=side.history,
            run=side.run,
            reigns=tuple(one for one in reigns([self._models.history(name, n) for n in made]) if one.version == number),
            changes=self._changes(name, number),
            others=tuple(one.version for one in page.versions if one.version != number),
            loop=loop,
            endpoint=endpoint,
            elsewhere=lies_elsewhere(side.version.location),
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
        sides = [self._side(name, one) for one in (left, right)]
        measured = [{m.name: float(m.last) for m in side.run.metrics} if side.run else {} for side in sides]
        return VersionsCompared(
            model=name,
            left=sides[0].version,
            right=sides[1].version,
            checks=_checks(*sides),
            metrics=side_by_side(measured),
            params=side_by_side([_params(side) for side in sides]),
            made_of=side_by_side([_made_of(side) for side in sides]),
        )

    def _side(self, name: str, version: str) -> Side:
        found = self._models.registered_version(name, version)
        history = self._models.history(name, found.version) if found.owner == "loop" else None
        return Side(found, history, self._run(history.version.lineage.run if history is not None else found.run))

    def _changes(self, name: str, version: int | None = None) -> tuple[Change, ...]:
        return tuple(reversed(self._models.changes(name, version, limit=_MOST)))

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


def _checks(one: Side, other: Side) -> tuple[Pair, ...]:
    sides = [
        {
            f"{evidence.kind}: {finding.name}": finding
            for evidence in side.history.evidence
            for finding in evidence.findings
        }
        if side.history is not None
        else {}
        for side in (one, other)
    ]
    return tuple(Pair(name, sides[0].get(name), sides[1].get(name)) for name in dict.fromkeys(chain(*sides)))


def _params(side: Side) -> Mapping[str, Any]:
    if side.history is not None:
        return side.history.version.lineage.params
    return side.run.params if side.run is not None else {}


def _made_of(side: Side) -> dict[str, str]:
    found = {
        "run": side.version.run,
        "source": side.version.source,
        "logged model": side.version.logged_model,
        "by": side.version.user,
        **{f"tag {name}": value for name, value in side.version.tags.items()},
    }
    if side.history is not None:
        version = side.history.version
        lineage: Lineage = version.lineage
        found = (
            {
                "bundle": version.bundle[:16],
                "data": lineage.data_digest[:16],
                "features": lineage.feature_digest[:16],
                "code": lineage.code_digest[:16],
                "environment": lineage.environment[:16],
                "declaration": lineage.spec[:16],
                "seed": str(lineage.seed),
                "trigger": version.trigger,
            }
            | found
            | {"run": lineage.run}
        )
    return {name: value for name, value in found.items() if value}
