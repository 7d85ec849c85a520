"""Models that other people's trainings left, by the names that MLflow has for them: a folder, a run's path, a logged model, a version."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from kilter.core.errors import InvalidInput, NotFound
from kilter.loop.remote import Kilter
from kilter.loop.versions.deploy import Tell, deploy_to, release
from kilter.loop.versions.deployments import Deployed
from kilter.loop.versions.optimizing import parts_of
from kilter.packaging.examples import read_table
from kilter.packaging.mlmodel.files import Files, clean, is_mlmodel, on_disk
from kilter.packaging.mlmodel.reading import Found, classes_of, read_mlmodel
from kilter.packaging.records import LabelKind
from kilter.registry.elsewhere import lies_elsewhere, refuse_reading
from kilter.tracking.records import Artifact

SCHEMES = ("runs:/", "models:/", "mlflow-artifacts:/")
_FORMS = "runs:/RUN/PATH, models:/m-ID, models:/NAME/VERSION, models:/NAME@ALIAS, or a folder"
_HOPS = 4
"""A version's source may be another version; so far it is followed."""


class _Bundle(NamedTuple):
    """A version that is packaged already.

    Args:
        digest: The bundle's.
        reference: The version.
    """

    digest: str
    reference: str


def names_mlmodel(reference: str) -> bool:
    """Say whether a text names a model of MLflow: by one of its URIs, or as a folder or an archive on this machine."""
    return reference.startswith(SCHEMES) or is_mlmodel(Path(reference))


def deploy_mlmodel(
    kilter: Kilter,
    reference: str,
    *,
    name: str,
    example: str | os.PathLike[str] | None = None,
    label: LabelKind | None = None,
    fallback: float | None = None,
    optimize: bool = False,
    by: str = "",
    tell: Tell | None = None,
) -> Deployed:
    """Let an endpoint answer with a model in MLflow's form.

    Args:
        kilter: The store or the server; its runs and logged models are meant by the URIs.
        reference: A folder with an ``MLmodel`` file or an archive of one, ``runs:/RUN/PATH``, ``models:/m-ID``,
            ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        name: The endpoint's name.
        example: A file of rows, in place of the model's own input example.
        label: What it answers with; found from the model if not said.
        fallback: The constant that answers when no model can.
        optimize: Keep the fastest form that agrees.
        by: Who.
        tell: Takes a line about each step.

    Raises:
        NotFound: When there is no such model.
        InvalidInput: When it can't be read without running it, or can't be packaged.
        Conflict: When a loop of that name decides about the endpoint.
    """
    found = _resolved(kilter, reference)
    if isinstance(found, _Bundle):
        parts = parts_of(kilter, found.digest)
        return release(kilter, name, parts, by=by, parent=found.reference, fallback=fallback)
    read = read_mlmodel(found, None if example is None else read_table(os.fspath(example)))
    for line in read.notes:
        (tell or _silent)(line)
    return _deployed(kilter, read, name, label, fallback, optimize, by, tell)


def _deployed(
    kilter: Kilter,
    read: Found,
    name: str,
    label: LabelKind | None,
    fallback: float | None,
    optimize: bool,
    by: str,
    tell: Tell | None,
) -> Deployed:
    return deploy_to(
        kilter,
        read.model,
        name=name,
        example=read.example,
        label=label,
        outputs=classes_of(read.outputs, label),
        fallback=fallback,
        optimize=optimize,
        by=by,
        tell=tell,
    )


def _resolved(kilter: Kilter, reference: str, hops: int = _HOPS) -> Files | _Bundle:
    """Return the files that a reference names, or the bundle of a version that has one.

    Raises:
        InvalidInput: When it is none of the forms.
        NotFound: When there is no such thing.
    """
    if not reference.startswith(SCHEMES):
        return on_disk(Path(reference))
    scheme, _, rest = reference.partition(":")
    path = rest.strip("/")
    if not hops or rest.startswith("//") or not path:
        raise InvalidInput(f"{reference[:200]!r} names no model", where="model", allowed=_FORMS)
    if scheme == "runs":
        run, _, below = path.partition("/")
        return _of_run(kilter, run, clean(below) if below else "", reference)
    if scheme == "mlflow-artifacts":
        return _of_proxy(kilter, path, reference, hops)
    first, slash, version = path.partition("/")
    if not slash and "@" not in first:
        return _of_logged(kilter, first, reference)
    model, _, alias = path.partition("@") if not slash else (first, "", version)
    return _of_version(kilter, model, alias, reference, hops)


def _of_run(kilter: Kilter, run: str, path: str, where: str) -> Files:
    """Return the files below a run's path; of the logged model of that name, where newer clients leave them."""
    found = kilter.runs.get(run)
    files = _below(found.artifacts, path, lambda name: kilter.runs.artifact(run, name), where)
    if files.sizes:
        return files
    page = kilter.runs.logged_models([found.experiment_number], f"source_run_id = '{run}'")
    named = [model.id for model in page.models if path in {model.name, ""}]
    if not named:
        raise NotFound(f"run {run} has no files at {path!r}, and no logged model of that name", where="runs",
                       fix="see the run's artifacts: kilter runs get")  # fmt: skip
    return _of_logged(kilter, named[0], where)


def _of_logged(kilter: Kilter, model: str, where: str) -> Files:
    if kilter.runs.logged_model(model).status == "FAILED":
        raise InvalidInput("the model's upload failed", where=where, fix="log it again")
    return _below(kilter.runs.model_files(model), "", lambda name: kilter.runs.model_file(model, name), where)


def _of_proxy(kilter: Kilter, path: str, where: str, hops: int) -> Files | _Bundle:
    """Return what an address of the artifact proxy names."""
    parts = clean(path).split("/")
    if parts[0] == "models" and len(parts) == 3:
        return _of_version(kilter, parts[1], parts[2], where, hops)
    if len(parts) == 4 and parts[1] == "models" and parts[3] == "artifacts":
        return _of_logged(kilter, parts[2], where)
    if len(parts) > 2 and parts[2] == "artifacts":
        return _of_run(kilter, parts[1], "/".join(parts[3:]), where)
    raise InvalidInput(f"{where[:200]!r} names no model", where="model", allowed=_FORMS)


def _of_version(kilter: Kilter, model: str, version: str, where: str, hops: int) -> Files | _Bundle:
    """Return what a registered version is: the bundle that a loop made, or the files that a client registered."""
    found = kilter.models.registered_version(model, version)
    if found.owner != "loop":
        if lies_elsewhere(found.location):
            raise refuse_reading(found.reference, found.location)
        source = f"models:/{found.logged_model}" if found.logged_model else str(found.location)
        if not source.startswith(SCHEMES):
            raise InvalidInput("the version's files are not in this store", where=where, allowed="; ".join(SCHEMES),
                               fix="download them: mlflow artifacts download, then deploy the folder")  # fmt: skip
        return _resolved(kilter, source, hops - 1)
    kept = kilter.models.get(model, found.version)
    return _Bundle(kept.bundle, kept.reference)


def _below(found: Sequence[Artifact], folder: str, read: Callable[[str], bytes], where: str) -> Files:
    below = f"{folder}/" if folder else ""
    sizes = {file.name[len(below) :]: file.size for file in found if file.name.startswith(below)}
    return Files(sizes, lambda name: read(below + name), where)


def _silent(_line: str) -> None:
    """Say nothing."""
