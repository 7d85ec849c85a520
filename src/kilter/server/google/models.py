"""The calls of Vertex AI's ``ModelService`` on the registry."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.registry.elsewhere import check_elsewhere, lies_elsewhere
from kilter.registry.records import RegisteredModel, RegisteredVersion
from kilter.registry.rules import PACKAGE
from kilter.registry.service import ModelService
from kilter.registry.together import Shown, Upload
from kilter.server.google import names, words
from kilter.server.google.asking import clauses, masked, order_of, ordered, page_of, size_of
from kilter.server.google.fields import Said, fields_of, object_of, text_of, texts_of
from kilter.server.google.names import Place, Route, camel
from kilter.server.google.operations import done, done_of
from kilter.server.mlflow.problems import MISSING, Refused
from kilter.server.mlflow.sources import Sources
from kilter.tracking.service import RunService

Query = Mapping[str, str]

_ORDER = {"displayName": "name", "createTime": "created", "updateTime": "changed"}
_VERSION_ORDER = {"createTime": "versionCreateTime", "updateTime": "versionUpdateTime"}
_GIVEN = frozenset(
    {"displayName", "description", "versionDescription", "versionAliases", "labels", "artifactUri"}
    | {"containerSpec", "predictSchemata", "metadataSchemaUri"}
)
_ANSWERED = frozenset(
    {
        "name",
        "versionId",
        "versionCreateTime",
        "versionUpdateTime",
        "createTime",
        "updateTime",
        "etag",
        "deployedModels",
    }
    | {"supportedExportFormats", "supportedDeploymentResourcesTypes", "supportedInputStorageFormats"}
    | {"supportedOutputStorageFormats", "trainingPipeline", "modelSourceInfo", "originalModelInfo"}
)
"""What only the server says; a client that sends back what it read sends it, too."""
_UPDATED = {"displayName": "model", "description": "model", "versionDescription": "version", "labels": ""}
_SCAN = 1000
_VERSIONS = 10_000


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Args:
        by: Their name, for the registry's history.
        host: The name by which this server was called.
        check: Refuses what they may not change, by its name.
    """

    by: str
    host: str
    check: Callable[[str], None]


class Models:
    """The calls.

    Args:
        models: The registry's operations.
        runs: The tracking's operations, for sources that are runs' files.
    """

    def __init__(self, models: ModelService, runs: RunService) -> None:
        self._models = models
        self._runs = runs
        self._sources = Sources(models, runs)

    # ------------------------------------------------------------ reading

    def every(self, route: Route, query: Query, _said: Said, _caller: Caller) -> dict[str, Any]:
        """``models.list``: each model by the version that stands for it."""
        asked = clauses(query.get("filter", ""), ("model", "displayName", "labels"))
        order = order_of(query.get("orderBy", ""), tuple(_ORDER))
        mask, size, place = masked(query), size_of(query), route.place
        if asked or "displayName" in dict(order):
            exact = {one.field: one.value for one in asked if one.operator == "="}
            found = self._shown(place, self._candidates(exact.get("model"), exact.get("displayName")))
            chosen = [model for name, model in found if all(one.holds(model, name) for one in asked)]
            page, token = page_of(ordered(chosen, order or (("createTime", True),)), query, "models")
        else:
            wanted = ", ".join(f"{'-' if down else ''}{_ORDER[field]}" for field, down in order) or "-created"
            some = self._models.search("", wanted, size, query.get("pageToken") or None)
            page, token = [model for _, model in self._shown(place, some.models)], some.cursor or ""
        return _paged([mask(model) for model in page], token)

    def get(self, route: Route, query: Query, _said: Said, _caller: Caller) -> dict[str, Any]:
        """``models.get``: a model by the version that is named, or by the one that stands for it."""
        one, version = self._found(route.model)
        return masked(query)(words.shown(route.place, *one, versioned=bool(version)))

    def versions(self, route: Route, query: Query, _said: Said, _caller: Caller) -> dict[str, Any]:
        """``models.listVersions``."""
        asked = clauses(query.get("filter", ""), ("labels",))
        order = order_of(query.get("orderBy", ""), tuple(_VERSION_ORDER))
        mask, size = masked(query), size_of(query)
        one, _ = self._found(route.model)
        model, place = one.model, route.place

        def as_shown(versions: tuple[RegisteredVersion, ...]) -> list[dict[str, Any]]:
            return [words.shown(place, model, version, one.standing, versioned=True) for version in versions]

        if asked:
            found = [
                each for each in as_shown(self._all_versions(model.name)) if all(it.holds(each, "") for it in asked)
            ]
            wanted = [(_VERSION_ORDER[field], down) for field, down in order]
            page, token = page_of(ordered(found, wanted), query, f"versions:{model.name}")
        else:
            text = ", ".join(f"{'-' if down else ''}{_ORDER[field]}" for field, down in order) or "-version_number"
            some = self._models.search_versions("", text, size, query.get("pageToken") or None, model.name)
            page, token = as_shown(some.versions), some.cursor or ""
        return _paged([mask(each) for each in page], token)

    def operation(self, route: Route, _query: Query, _said: Said, _caller: Caller) -> dict[str, Any]:
        """``operations.get``: an operation is a line of the registry's history, and done since it is there."""
        change = self._models.change(route.operation)
        found = done(route.place, change)
        if found is None or (route.model and route.model != change.model):
            raise NotFound(f"there is no operation {route.operation}", where="name")
        return found

    # ------------------------------------------------------------ writing

    def upload(self, route: Route, _query: Query, said: Said, caller: Caller) -> dict[str, Any]:
        """``models.upload``: a new model, or the next version of one."""
        asked = fields_of(said, {"parent", "parentModel", "modelId", "model", "serviceAccount"}, "body")
        model = fields_of(object_of(asked, "model"), _GIVEN | _ANSWERED, "model")
        parent = text_of(asked, "parentModel")
        display = text_of(model, "displayName")
        if not parent:
            words.check_display(display)
        labels = words.check_labels(model.get("labels") or {})
        made = self._upload(model, caller)
        if parent:
            name = self._found(names.model_of(parent, "parentModel"))[0].model.name
            caller.check(name)
            tags = {**made.tags, **labels}
            version, change = self._models.publish(name, msgspec.structs.replace(made, tags=tags), caller.by)
        else:
            version, change = self._publish_new(asked, display, text_of(model, "description"), made, labels, caller)
        return done_of(route.place, self._models.change(change), version.version)

    def update(self, route: Route, query: Query, said: Said, caller: Caller) -> dict[str, Any]:
        """``models.patch``."""
        model = fields_of(said, None, "model")
        mask = [camel(path.strip()) for path in query.get("updateMask", "").split(",") if path.strip()]
        if not mask:
            raise InvalidInput("nothing says what to update", where="updateMask", allowed=", ".join(_UPDATED))
        text = route.model.removesuffix("@-")
        one, version = self._found(text)
        for path in mask:
            if path not in _UPDATED:
                raise InvalidInput(f"{path[:60]!r} can't be updated", where="updateMask", allowed=", ".join(_UPDATED))
            if _UPDATED[path] not in {"", "version" if version else "model"}:
                raise Conflict(
                    f"{path} is not of a {'version' if version else 'model'}",
                    where="updateMask",
                    fix="name a version behind @ for its versionDescription, and none for what is the model's",
                )
        caller.check(one.model.name)
        about: RegisteredModel | RegisteredVersion = one.version if version else one.model
        tags, gone = self._retagged(model, mask, one, about)
        description = "versionDescription" if version else "description"
        self._models.revise(
            one.model.name,
            one.version.version if version else None,
            seen=_seen(text_of(model, "etag"), of_version=bool(version)),
            description=text_of(model, description) if description in mask else None,
            tags=tags,
            gone=gone,
            by=caller.by,
        )
        now = self._models.shown(one.model.name, one.version.version if version else None)
        return words.shown(route.place, *now, versioned=bool(version))

    def merge(self, route: Route, _query: Query, said: Said, caller: Caller) -> dict[str, Any]:
        """``models.mergeVersionAliases``: ``-`` in front takes an alias away; one that is given and taken stays as it is."""
        asked = fields_of(said, {"name", "versionAliases"}, "body")
        given = texts_of(asked, "versionAliases")
        if not given:
            raise InvalidInput("there is no alias", where="versionAliases", allowed="ALIAS, or -ALIAS to take it away")
        add = [names.check_alias(alias) for alias in given if not alias.startswith("-")]
        remove = [alias[1:] for alias in given if alias.startswith("-")]
        one, version = self._found(route.model)
        if not version:
            raise InvalidInput("no version is named", where="name", allowed="models/MODEL@VERSION")
        caller.check(one.model.name)
        self._models.merge_aliases(
            one.model.name,
            one.version.version,
            [alias for alias in dict.fromkeys(add) if alias not in remove],
            [alias for alias in dict.fromkeys(remove) if alias not in add],
            caller.by,
        )
        now = self._models.shown(one.model.name, one.version.version)
        return words.shown(route.place, *now, versioned=True)

    def delete(self, route: Route, _query: Query, _said: Said, caller: Caller) -> dict[str, Any]:
        """``models.delete``."""
        one, version = self._found(route.model)
        if version:
            raise InvalidInput("a version is named", where="name", allowed="models/MODEL, or :deleteVersion")
        caller.check(one.model.name)
        change = self._models.remove(one.model.name, caller.by)
        return done_of(route.place, self._models.change(change), 0)

    def delete_version(self, route: Route, _query: Query, _said: Said, caller: Caller) -> dict[str, Any]:
        """``models.deleteVersion``."""
        one, version = self._found(route.model)
        if not version:
            raise InvalidInput("no version is named", where="name", allowed="models/MODEL@VERSION")
        caller.check(one.model.name)
        change = self._models.remove_version(one.model.name, one.version.version, caller.by)
        return done_of(route.place, self._models.change(change), 0)

    # ------------------------------------------------------------ what they share

    def _found(self, text: str) -> tuple[Shown, str]:
        """Return what a path names, and the version as it was written; a model's own name may have an ``@``."""
        name, version = names.split(text)
        try:
            return self._models.shown(name, version or None), version
        except NotFound:
            if not version:
                raise
            try:
                return self._models.shown(text), ""
            except NotFound:
                pass
            raise

    def _shown(self, place: Place, models: tuple[RegisteredModel, ...]) -> list[tuple[str, dict[str, Any]]]:
        """Return models by the versions that stand for them; one without versions is not shown."""
        standing = self._models.standing(models)
        return [
            (model.name, words.shown(place, model, standing[model.name], standing[model.name].version))
            for model in models
            if model.name in standing
        ]

    def _candidates(self, name: str | None, display: str | None) -> tuple[RegisteredModel, ...]:
        """Return the models among which all are that a filter asks for."""
        if name is not None:
            try:
                return (self._models.registered(name),)
            except NotFound:
                return ()
        filters = [""]
        if display is not None and not set(display) & set("'\\"):
            filters = [f"name = '{display}'", f"tags.`{words.DISPLAY}` = '{display}'"]
        found: dict[str, RegisteredModel] = {}
        for text in filters:
            cursor: str | None = None
            while True:
                page = self._models.search(text, "name", _SCAN, cursor)
                found |= {model.name: model for model in page.models}
                cursor = page.cursor
                if cursor is None:
                    break
        return tuple(found.values())

    def _all_versions(self, model: str) -> tuple[RegisteredVersion, ...]:
        found: list[RegisteredVersion] = []
        cursor: str | None = None
        while True:
            page = self._models.search_versions("", "-version_number", _VERSIONS, cursor, model)
            found += page.versions
            cursor = page.cursor
            if cursor is None:
                return tuple(found)

    def _upload(self, model: Said, caller: Caller) -> Upload:
        """Return the version that a model says: its files in this server's store, or words about files elsewhere."""
        aliases = tuple(names.check_alias(alias) for alias in texts_of(model, "versionAliases"))
        tags, uri = words.kept_of(model), text_of(model, "artifactUri")
        description = text_of(model, "versionDescription")
        if not uri or lies_elsewhere(uri):
            place = _bucket(uri) if uri else PACKAGE
            return Upload(source=place, location=place, description=description, tags=tags, aliases=aliases)
        run, logged = _named_in(uri)
        try:
            if run is not None:
                self._runs.get(run)
            found = self._sources.checked(uri, run, logged, caller.host)
        except Refused as error:
            kind: type[NotFound | InvalidInput] = NotFound if error.mlflow_code == MISSING else InvalidInput
            raise kind(error.message, where="model.artifactUri") from error
        return Upload(
            source=found.source,
            location=found.location,
            run=found.run,
            logged_model=found.model,
            description=description,
            tags=tags,
            aliases=aliases,
        )

    def _publish_new(
        self, asked: Said, display: str, description: str, made: Upload, labels: dict[str, str], caller: Caller
    ) -> tuple[RegisteredVersion, int]:
        """Make a model under the id that is wanted; without one under its display name, or a number where that is none or taken."""
        wanted = text_of(asked, "modelId")
        if wanted:
            names.check_id(wanted)

        def publish(name: str) -> tuple[RegisteredVersion, int]:
            caller.check(name)
            tags = labels if name == display else {**labels, words.DISPLAY: display}
            return self._models.publish_new(name, made, caller.by, description, tags)

        if wanted:
            return publish(wanted)
        if names.fits_id(display):
            try:
                return publish(display)
            except Conflict:  # the name is taken: models may share a display name
                pass
        return publish(str(10**18 + secrets.randbelow(9 * 10**18)))

    def _retagged(
        self, model: Said, mask: list[str], one: Shown, about: RegisteredModel | RegisteredVersion
    ) -> tuple[dict[str, str], list[str]]:
        """Return the tags that an update sets, and those that it takes back."""
        tags: dict[str, str] = {}
        gone: list[str] = []
        if "labels" in mask:
            tags |= words.check_labels(model.get("labels") or {}, one.version.state)
            gone += [name for name in words.labels_of(about.tags) if name not in tags]
        if "displayName" in mask:
            display = words.check_display(text_of(model, "displayName"))
            if display == one.model.name:
                gone.append(words.DISPLAY)
            else:
                tags[words.DISPLAY] = display
        return tags, gone


def _paged(models: list[dict[str, Any]], token: str) -> dict[str, Any]:
    found: dict[str, Any] = {"models": models} if models else {}
    return {**found, "nextPageToken": token} if token else found


def _named_in(uri: str) -> tuple[str | None, str | None]:
    """Return the run and the logged model that a source names itself: in this API nothing else names them."""
    scheme, _, rest = uri.partition(":")
    parts = rest.strip("/").split("/")
    if scheme == "runs":
        return parts[0], None
    if scheme == "models":
        return None, parts[0] if len(parts) == 1 and parts[0].startswith("m-") else None
    if scheme == "mlflow-artifacts" and len(parts) > 2:
        return (None, parts[2]) if parts[1] == "models" else (parts[1], None)
    return None, None


def _bucket(uri: str) -> str:
    if not uri.startswith("gs://"):
        raise InvalidInput(
            f"{uri[:100]!r} is no place in a bucket", where="model.artifactUri", allowed="gs://BUCKET/PATH"
        )
    return check_elsewhere(uri, "model.artifactUri")


def _seen(etag: str, *, of_version: bool) -> str:
    """Return the part of an etag that an update must find unchanged; without an etag whatever is there is overwritten."""
    model, _, version = etag.partition("-")
    seen = version if of_version else model
    if etag and not seen:
        raise InvalidInput(f"{etag[:60]!r} is no etag of this server", where="model.etag", fix="send what was read")
    return seen
