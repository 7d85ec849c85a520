"""A run with everything that is known about it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kilter.core.errors import KilterError, NotFound
from kilter.loop.workspace import Workspace
from kilter.server.ui import comparing, notes
from kilter.server.ui.differences import spoken
from kilter.server.ui.previews import Preview, entries, image_type, preview, too_large
from kilter.server.ui.tracking_address import experiment_path
from kilter.server.ui.tracking_records import Files, Made, RunView
from kilter.tracking.projection import PARENT
from kilter.tracking.records import LoggedModel, Run

_USER = ("mlflow.user", "kilter.user")
_CODE = {
    "mlflow.source.git.commit": "Commit",
    "mlflow.source.git.branch": "Branch",
    "mlflow.source.git.repoURL": "Repository",
    "git.commit": "Commit",
    "git.branch": "Branch",
    "git.dirty": "Changed since",
    "mlflow.source.name": "Source",
    "mlflow.source.type": "Kind",
    "mlflow.project.entryPoint": "Entry point",
}
_SYSTEM = ("mlflow.", "kilter.")
_RECORDED, _LOCK, _DIFF = "recorded.json", "environment.lock", "code.diff"
"""Files that the native client keeps with a run."""

_SMALL = 500_000
_MOST_FACTS = 40
_DEEPEST = 4
_MOST_VERSIONS = 200


def run_view(workspace: Workspace, run: Run) -> RunView:
    """Return what a run's page shows."""
    tags = run.tags
    known = {PARENT, notes.NOTE, "mlflow.runName", *_USER, *_CODE}
    return RunView(
        run=run,
        path=experiment_path(run.experiment, run.experiment_number),
        who=next((tags[name] for name in _USER if tags.get(name)), ""),
        note=tags.get(notes.NOTE, ""),
        params=tuple((name, spoken(value)) for name, value in run.params.items()),
        own_tags={name: value for name, value in tags.items() if not name.startswith(_SYSTEM) and name not in known},
        system_tags={n: value for n, value in tags.items() if n.startswith(_SYSTEM) and n not in known},
        code=tuple((said, tags[name]) for name, said in _CODE.items() if tags.get(name)),
        recorded=_recorded(workspace, run),
        diff=any(one.name == _DIFF for one in run.artifacts),
        environment=comparing.environment_lines(workspace.objects, run) or _lock(workspace, run),
        parent=_parent(workspace, run),
        children=workspace.runs.rows(run.experiment, parent=run.id, limit=1).total,
        models=_models(workspace, run),
        versions=_versions(workspace, run),
        curves=tuple(one.name for one in run.metrics if one.count > 1),
    )


def files(run: Run, folder: str) -> Files:
    """Return a folder of a run's files."""
    return Files(folder, entries(run.artifacts, folder), len(run.artifacts))


def shown(workspace: Workspace, run: Run, name: str) -> Preview:
    """Return what a file of a run looks like.

    Raises:
        NotFound: When the run has no such file.
    """
    found = next((one for one in run.artifacts if one.name == name), None)
    if found is None:
        raise NotFound(f"run {run.id} has no file {name[:80]!r}", where="file", fix="choose one from the list")
    read = not too_large(found.size) and not image_type(name)
    return preview(name, found.size, workspace.runs.artifact(run.id, name) if read else None)


def _recorded(workspace: Workspace, run: Run) -> tuple[tuple[str, str], ...]:
    """Return what the native client noted of the machine, the code and the seeds, one fact a line."""
    data = _small(workspace, run, _RECORDED)
    if data is None:
        return ()
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return ()
    return tuple(_facts("", value))[:_MOST_FACTS]


def _facts(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and depth < _DEEPEST:
        for key, one in value.items():
            yield from _facts(f"{name} {key}".strip().replace("_", " "), one, depth + 1)
    elif value not in (None, "", [], {}):
        yield name, spoken(value)


def _lock(workspace: Workspace, run: Run) -> tuple[str, ...]:
    data = _small(workspace, run, _LOCK)
    return () if data is None else tuple(data.decode(errors="replace").splitlines()[:2000])


def _small(workspace: Workspace, run: Run, name: str) -> bytes | None:
    found = next((one for one in run.artifacts if one.name == name and one.size <= _SMALL), None)
    try:
        return None if found is None else workspace.runs.artifact(run.id, name)
    except KilterError:  # its bytes are gone; the page says the rest
        return None


def _parent(workspace: Workspace, run: Run) -> tuple[str, str] | None:
    parent = run.tags.get(PARENT, "")
    if not parent:
        return None
    found = workspace.runs.rows(among=[parent], view="all", limit=1).rows
    return (parent, found[0].name) if found else None


def _models(workspace: Workspace, run: Run) -> tuple[tuple[str, LoggedModel], ...]:
    found = []
    for use in run.inputs.models:
        try:
            found.append((use.role, workspace.runs.logged_model(use.model, deleted=True)))
        except KilterError:  # put away for good meanwhile
            continue
    return tuple(found)


def _versions(workspace: Workspace, run: Run) -> tuple[Made, ...]:
    endpoints = {one.loop for one in workspace.endpoints.plans()}
    found = workspace.models.search_versions(filter=f"run_id = '{run.id}'", limit=_MOST_VERSIONS).versions
    return tuple(
        Made(one.model, one.version, one.state or one.label, one.aliases, one.model in endpoints) for one in found
    )
