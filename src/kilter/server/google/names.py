"""Names of resources: ``projects/P/locations/L/models/M@VERSION``. Every project and every location is the one registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kilter.core.errors import InvalidInput

PREFIXES = ("/v1/projects/", "/ui/projects/")
"""Below these paths Google's words are spoken; its client asks for operations below the second."""

_PLACE = re.compile(
    r"projects/(?P<project>[A-Za-z0-9][\w.:-]{0,99})/locations/(?P<location>[a-z0-9-]{1,63})(?P<rest>(?:/.*|\Z))"
)
_MODEL = re.compile(r"/models/(?P<model>[^/:]+)(?::(?P<verb>[A-Za-z]+))?\Z")
_OPERATION = re.compile(r"(?:/models/(?P<model>[^/:]+))?/operations/(?P<number>\d{1,18})\Z")
_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}\Z")
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]\Z")
_VERSION = re.compile(r"[\w-]+\Z")

QUERY = frozenset({"filter", "pageSize", "pageToken", "orderBy", "readMask", "updateMask"})
_PASSED_OVER = frozenset({"alt", "$alt", "prettyPrint", "$prettyPrint", "$.xgafv", "$userProject", "quotaUser"})


@dataclass(frozen=True)
class Place:
    """A project and a location.

    Args:
        project: The project.
        location: The location.
    """

    project: str
    location: str

    @property
    def name(self) -> str:
        """As it stands in front of a resource's name."""
        return f"projects/{self.project}/locations/{self.location}"

    def model(self, model: str, version: int | None = None) -> str:
        """Return the name of a model, or of one of its versions."""
        return f"{self.name}/models/{model}{'' if version is None else f'@{version}'}"

    def operation(self, model: str, number: int) -> str:
        """Return the name of an operation."""
        return f"{self.model(model)}/operations/{number}"


@dataclass(frozen=True)
class Route:
    """What a path names.

    Args:
        place: The project and the location.
        kind: ``models``, ``model``, ``operation``, or nothing known.
        model: The model as it was written, with its version.
        verb: What stands behind the colon.
        operation: The operation's number.
    """

    place: Place
    kind: str
    model: str = ""
    verb: str = ""
    operation: int = 0


def route_of(path: str) -> Route:
    """Return what a path names; the path is without percent signs already.

    Raises:
        InvalidInput: When it names no location of a project.
    """
    place, rest = _place_of(path[path.index("projects/") :], "path")
    if rest in {"/models", "/models:upload"}:
        return Route(place, "models", verb=rest.partition(":")[2])
    if found := _MODEL.match(rest):
        return Route(place, "model", found["model"], found["verb"] or "")
    if found := _OPERATION.match(rest):
        return Route(place, "operation", found["model"] or "", operation=int(found["number"]))
    return Route(place, "")


def model_of(name: str, where: str) -> str:
    """Return the model that a whole name in a body names, as it is written there.

    Raises:
        InvalidInput: When it is no model's name.
    """
    _, rest = _place_of(name, where)
    found = _MODEL.match(rest)
    if found is None or found["verb"]:
        raise InvalidInput(
            f"{name[:200]!r} is not a model's name", where=where, allowed="projects/P/locations/L/models/M"
        )
    return found["model"]


def split(text: str) -> tuple[str, str]:
    """Return a model and its version, which is empty when there is none."""
    model, at, version = text.rpartition("@")
    return (model, version) if at and model and _VERSION.match(version) else (text, "")


def check_id(text: str) -> str:
    """Return the id of a new model.

    Raises:
        InvalidInput: When it can't be one.
    """
    if not _ID.match(text):
        raise InvalidInput(
            f"{text[:80]!r} is not a model's id", where="modelId", allowed="63 characters of [a-z0-9_-], a letter first"
        )
    return text


def fits_id(text: str) -> bool:
    """Say whether a text can be a model's id."""
    return _ID.match(text) is not None


def check_alias(text: str) -> str:
    """Return an alias that may be given to a version.

    Raises:
        InvalidInput: When it can't be one.
    """
    if not _ALIAS.match(text):
        raise InvalidInput(
            f"{text[:80]!r} is not an alias", where="versionAliases", allowed="[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]"
        )
    return text


def query_of(pairs: list[tuple[str, str]]) -> Mapping[str, str]:
    """Return what stands behind a path's question mark, by its name in JSON.

    Raises:
        InvalidInput: When a name is not known, or there twice.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        known = camel(name)
        if name in _PASSED_OVER:
            if name.endswith("alt") and value.partition(";")[0] != "json":
                raise InvalidInput(f"{value[:40]!r} is not spoken here", where=name, allowed="json")
        elif known not in QUERY:
            raise InvalidInput(f"{name[:60]!r} is not known", where="query", allowed=", ".join(sorted(QUERY)))
        elif known in found:
            raise InvalidInput("it is there twice", where=known)
        else:
            found[known] = value
    return found


def camel(name: str) -> str:
    """Return a field's name as JSON has it: both spellings are taken, as Google's own server does."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _place_of(name: str, where: str) -> tuple[Place, str]:
    found = _PLACE.match(name)
    if found is None:
        raise InvalidInput(
            f"{name[:200]!r} names no location of a project", where=where, allowed="projects/PROJECT/locations/LOCATION"
        )
    return Place(found["project"], found["location"]), found["rest"]
