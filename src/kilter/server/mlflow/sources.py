"""Where a version's files may be: this server's own store, in what the request names, or an object store (mlflow/server/handlers.py of 3.18).

A client that could name any place would have others read it: a file of the server, another host, a folder beside the model. What
lies in an object store is a reference: it is given back as it was said, and clients read it with their own credentials.
"""

from __future__ import annotations

import posixpath
import re
from typing import NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from kilter.core.errors import InvalidInput, NotFound
from kilter.registry.elsewhere import ALLOWED, check_elsewhere, lies_elsewhere
from kilter.registry.records import RegisteredVersion
from kilter.registry.rules import PLACEHOLDERS, PROMPT, loops_location
from kilter.registry.service import ModelService
from kilter.server.mlflow.models import root
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.tracking.service import RunService

_ROUNDS = 8
_LOCAL = re.compile(r"[A-Za-z]?\Z")  # no scheme, or the letter of a drive
_HOSTS = frozenset({"ftp", "sftp", "viewfs", "http", "https", "r2", "b2"})
_STAGES = ("none", "staging", "production", "archived")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A source that was looked at.

    Args:
        source: As it is kept.
        location: Where the files can be read from.
        run: The run that made them.
        model: The logged model that they are.
    """

    source: str
    location: str
    run: str = ""
    model: str = ""


def location(version: RegisteredVersion) -> str:
    """Return where clients read a version's files from; of one that a loop made, from its bundle."""
    if version.owner == "loop":
        return loops_location(version.model, version.version)
    return version.location


def of_prompt(source: str) -> Source:
    """Return the source of a prompt, which has no files.

    Raises:
        Refused: When it names a place.
    """
    if source not in PLACEHOLDERS:
        raise Refused(INVALID, f"Invalid prompt source: '{source}'. Prompt sources must use an MLflow placeholder.")
    return Source(source=source, location=source)


class Sources:
    """What a new version's source may be.

    Args:
        models: The registry's operations.
        runs: The tracking's operations.
    """

    def __init__(self, models: ModelService, runs: RunService) -> None:
        self._models = models
        self._runs = runs

    def checked(self, source: str, run: str | None, model: str | None, host: str) -> Source:
        """Return a source that may be registered.

        Args:
            source: The URI.
            run: The run that the request names, or None when it names none.
            model: The logged model that it names, or None.
            host: The name by which this server was called.

        Raises:
            Refused: When it is a place that isn't this server's, or isn't in what the request names.
        """
        try:
            parts = urlsplit(source)
        except ValueError:
            raise Refused(INVALID, f"Invalid model version source: '{source}'.") from None
        if _LOCAL.match(parts.scheme) or parts.scheme == "file":
            _refuse_local(source, "model_id" if model else "run_id", "model" if model else "run")
        _refuse_climbing(source)
        if parts.query or parts.fragment:
            raise Refused(INVALID, f"Invalid model version source: '{source}'. It has a query or a fragment.")
        if parts.scheme == "models":
            return self._of_models(source, parts, run, model)
        if parts.scheme == "runs":
            return _of_runs(source, parts, run, model)
        if parts.scheme == "mlflow-artifacts":
            return self._of_artifacts(source, parts, run, model, host)
        if lies_elsewhere(source):
            return self._elsewhere(source, run, model)
        if parts.scheme in _HOSTS:
            _refuse_host(parts.scheme)
        raise Refused(
            INVALID,
            f"Invalid model version source: '{source}'. Give models:/m-ID, runs:/RUN/PATH or mlflow-artifacts:/PATH for files of "
            f"this server's store, or a place outside of it: {ALLOWED}.",
        )

    def _elsewhere(self, source: str, run: str | None, model: str | None) -> Source:
        """Return a source that is a reference to files outside this store; the run may be another server's."""
        try:
            check_elsewhere(source)
        except InvalidInput as error:
            raise Refused(
                INVALID, f"Invalid model version source: '{source[:500]}'. Allowed: {error.allowed}."
            ) from None
        if model:
            try:
                owner = self._runs.logged_model(model)
            except NotFound:
                raise Refused(MISSING, f"Logged model with ID '{model}' not found.") from None
            run = run or owner.run
        return Source(source=source, location=source, run=run or "", model=model or "")

    def _of_models(self, source: str, parts: SplitResult, run: str | None, model: str | None) -> Source:
        if parts.netloc:
            _refuse(source, "model_id")
        named = parts.path.lstrip("/").split("/")
        if not parts.path.startswith("/") or len(named) > 2 or not all(part.strip() for part in named):
            _refuse(source, "model_id")
        if len(named) == 2 or "@" in named[0]:
            return self._of_version(source, named, run, model)
        if not model or named[0] != model:
            _refuse(source, "model_id")
        try:
            found = self._runs.logged_model(model)
        except NotFound:
            _refuse(source, "model_id")
        return Source(source=source, location=root(found), run=run or found.run, model=model)

    def _of_version(self, source: str, named: list[str], run: str | None, model: str | None) -> Source:
        """Return the source of a copy: the version that it is a copy of."""
        name, wanted = named if len(named) == 2 else named[0].rsplit("@", 1)
        try:
            about = self._models.registered(name)
        except NotFound:
            raise Refused(MISSING, f"Registered Model with name={name} not found") from None
        if about.tags.get(PROMPT, "false").lower() == "true":
            raise Refused(
                INVALID,
                f"Invalid model version source: '{source}'. Prompt versions cannot be used as model version sources.",
            )
        found = self._version(name, wanted, alias=len(named) == 1)
        if (run is not None and run != found.run) or (model is not None and model != found.logged_model):
            raise Refused(
                INVALID,
                f"Invalid model version source: '{source}'. The run_id and model_id request parameters must match the "
                "referenced model version.",
            )
        return Source(
            source=f"models:/{name}/{found.version}",
            location=location(found),
            run=found.run,
            model=found.logged_model,
        )

    def _version(self, name: str, wanted: str, *, alias: bool) -> RegisteredVersion:
        try:
            if not alias and wanted.lower() in _STAGES:
                return self._models.latest(name, (wanted,))[0]
            return self._models.registered_version(name, wanted)
        except (NotFound, InvalidInput, IndexError):
            raise Refused(MISSING, f"Model Version (name={name}, version={wanted}) not found") from None

    def _of_artifacts(self, source: str, parts: SplitResult, run: str | None, model: str | None, host: str) -> Source:
        if parts.netloc and parts.netloc.lower() != host.lower():
            _refuse_host(parts.scheme)
        try:
            if model:
                owner = self._runs.logged_model(model)
                home, made_by = root(owner), run or owner.run
            elif run:
                home, made_by = f"mlflow-artifacts:/{self._runs.get(run).experiment_number}/{run}/artifacts", run
            else:
                _refuse(source, "run_id")
        except NotFound:
            _refuse(source, "model_id" if model else "run_id")
        within = urlsplit(home).path.strip("/").split("/")
        given = [_unquoted(part) for part in parts.path.split("/") if part]
        if given[: len(within)] != within:
            _refuse(source, "model_id" if model else "run_id")
        return Source(source=source, location=f"mlflow-artifacts:/{'/'.join(given)}", run=made_by, model=model or "")


def _of_runs(source: str, parts: SplitResult, run: str | None, model: str | None) -> Source:
    if model:
        _refuse(source, "model_id")
    named = parts.path.lstrip("/").partition("/")[0]
    if parts.netloc or not parts.path.startswith("/") or not run or named != run:
        _refuse(source, "run_id")
    return Source(source=source, location=source, run=run)


def _refuse(source: str, parameter: str) -> NoReturn:
    raise Refused(
        INVALID,
        f"Invalid model version source: '{source}'. The {parameter} request parameter must identify the resource that "
        "contains the source.",
    )


def _refuse_local(source: str, parameter: str, of: str) -> NoReturn:
    raise Refused(
        INVALID,
        f"Invalid model version source: '{source}'. To use a local path as a model version source, the {parameter} request "
        f"parameter has to be specified and the local path has to be contained within the artifact directory of the {of} "
        f"specified by the {parameter}.",
    )


def _refuse_climbing(source: str) -> None:
    path = _unquoted(urlsplit(_unquoted(source)).path)
    short = re.sub(r"/+", "/", path.rstrip("/"))
    if (
        "\x00" in path
        or "\\" in path
        or ".." in _unquoted(source).split("/")
        or (short and posixpath.normpath(short) != short)
    ):
        raise Refused(
            INVALID,
            f"Invalid model version source: '{source}'. If supplying a source as an http, https, local file path, ftp, "
            "objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references "
            "present. Please provide an absolute path.",
        )


def _refuse_host(scheme: str) -> NoReturn:
    raise Refused(
        INVALID,
        f"'source' cannot use the '{scheme}' scheme: the '{scheme}' scheme addresses a host other than the tracking server's "
        "configured artifact storage, so the server would connect to the host named in the URI.",
    )


def _unquoted(text: str) -> str:
    """Return a text with all its quoting undone, however often it was quoted."""
    for _ in range(_ROUNDS):
        plain = unquote(text)
        if plain == text:
            return text
        text = plain
    raise Refused(INVALID, "Invalid model version source: it is quoted too often.")
