"""A registered version as Vertex AI's ``Model`` shows it, and what of a ``Model`` is kept as tags."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput
from kilter.registry.records import RegisteredModel, RegisteredVersion
from kilter.registry.rules import PACKAGE, PLACEHOLDERS
from kilter.registry.together import DEFAULT, state_of
from kilter.server.google.names import Place, camel
from kilter.server.mlflow.sources import location

STAGE = "kilter-stage"
"""The label that says where a loop's version stands; nobody else may set it."""
DISPLAY = "vertex.displayName"
ARTIFACT = "vertex.artifactUri"
"""Where versions that were uploaded before places elsewhere were sources keep theirs."""
_TAG = "vertex."
_LONGEST = 64
_LONGEST_NAME = 128


class _Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """A part of a model that is kept as it came."""


class Variable(_Part):
    """``EnvVar``."""

    name: str
    value: str = ""


class Port(_Part):
    """``Port``."""

    container_port: int


class Exec(_Part):
    """``Probe.ExecAction``."""

    command: list[str] = []


class Header(_Part):
    """``Probe.HttpHeader``."""

    name: str = ""
    value: str = ""


class Get(_Part):
    """``Probe.HttpGetAction``."""

    path: str = ""
    port: int = 0
    host: str = ""
    scheme: str = ""
    http_headers: list[Header] = []


class Socket(_Part):
    """``Probe.TcpSocketAction``."""

    port: int = 0
    host: str = ""


class Call(_Part):
    """``Probe.GrpcAction``."""

    port: int = 0
    service: str = ""


class Probe(_Part):
    """``Probe``."""

    exec: Exec | None = None
    http_get: Get | None = None
    tcp_socket: Socket | None = None
    grpc: Call | None = None
    period_seconds: int = 0
    timeout_seconds: int = 0
    failure_threshold: int = 0
    success_threshold: int = 0
    initial_delay_seconds: int = 0


class ContainerSpec(_Part):
    """``ModelContainerSpec``."""

    image_uri: str
    command: list[str] = []
    args: list[str] = []
    env: list[Variable] = []
    ports: list[Port] = []
    grpc_ports: list[Port] = []
    predict_route: str = ""
    health_route: str = ""
    invoke_route_prefix: str = ""
    deployment_timeout: str = ""
    shared_memory_size_mb: str = ""
    startup_probe: Probe | None = None
    health_probe: Probe | None = None
    liveness_probe: Probe | None = None


class Schemata(_Part):
    """``PredictSchemata``."""

    instance_schema_uri: str = ""
    parameters_schema_uri: str = ""
    prediction_schema_uri: str = ""


_KEPT: dict[str, type] = {"containerSpec": ContainerSpec, "predictSchemata": Schemata, "metadataSchemaUri": str}


def kept_of(said: dict[str, Any]) -> dict[str, str]:
    """Return the parts of a model that are kept, as tags of its version.

    Raises:
        InvalidInput: When one isn't what it should be.
    """
    found: dict[str, str] = {}
    for part, kind in _KEPT.items():
        if said.get(part) is not None:
            try:
                given: Any = msgspec.convert(_spelt(said[part]), kind)
            except (msgspec.ValidationError, RecursionError) as error:
                raise InvalidInput(f"it can't be read: {error}"[:300], where=f"model.{part}") from error
            found[f"{_TAG}{part}"] = msgspec.json.encode(given).decode()
    return found


def name_of(model: RegisteredModel) -> str:
    """Return a model's display name, which is its name until somebody gives it another."""
    return model.tags.get(DISPLAY) or model.name


def labels_of(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags that are labels by Google's rule; the others are not shown, and not touched."""
    return {name: value for name, value in tags.items() if is_label(name, value) and name != STAGE}


def is_label(name: str, value: str) -> bool:
    """Say whether a tag can be a label."""
    written = all(part.isalnum() or part in "_-" for part in name + value)
    return 0 < len(name) <= _LONGEST and len(value) <= _LONGEST and written and (name + value).lower() == name + value


def check_labels(said: object, state: str = "") -> dict[str, str]:
    """Return labels that can be set.

    Args:
        said: What was sent.
        state: Where the version stands, if a loop made it.

    Raises:
        InvalidInput: When they are no labels, or say otherwise where a version stands.
    """
    if not isinstance(said, dict):
        raise InvalidInput("it is not an object", where="model.labels", allowed="texts by name")
    for name, value in said.items():
        if not isinstance(value, str) or not is_label(name, value):
            raise InvalidInput(
                f"{name[:70]!r} with {str(value)[:70]!r} is no label",
                where="model.labels",
                allowed=f"{_LONGEST} lower-case letters, digits, underscores and hyphens",
            )
    if said.get(STAGE, state) != state:
        raise InvalidInput(f"{STAGE} is said by the loop", where="model.labels", fix="leave it as it is")
    return {name: value for name, value in said.items() if name != STAGE}


def check_display(name: str) -> str:
    """Return a display name.

    Raises:
        InvalidInput: When it can be none.
    """
    if not name.strip() or len(name) > _LONGEST_NAME or "\x00" in name:
        raise InvalidInput(
            f"{name[:60]!r} is no display name", where="model.displayName", allowed=f"1 to {_LONGEST_NAME} characters"
        )
    return name


def shown(
    place: Place, model: RegisteredModel, version: RegisteredVersion, standing: int, *, versioned: bool = False
) -> dict[str, Any]:
    """Return a version as Vertex AI shows it.

    Args:
        place: The project and the location that were asked for.
        model: The model.
        version: The version.
        standing: The version that stands for the model.
        versioned: Whether the version is part of the name.
    """
    own = [alias for alias in version.aliases if alias != DEFAULT]
    labels = labels_of(model.tags) | labels_of(version.tags) | ({STAGE: version.state} if version.state else {})
    found = {
        "name": place.model(model.name, version.version if versioned else None),
        "versionId": str(version.version),
        "versionAliases": [*([DEFAULT] if version.version == standing else []), *own],
        "versionCreateTime": time_of(version.created_at),
        "versionUpdateTime": time_of(version.changed_at),
        "displayName": name_of(model),
        "description": model.description,
        "versionDescription": version.description,
        "createTime": time_of(model.created_at),
        "updateTime": time_of(model.changed_at),
        "etag": f"{state_of(model)}-{state_of(version)}",
        "labels": labels,
        "artifactUri": version.tags.get(ARTIFACT) or _location(version),
    }
    for part, kind in _KEPT.items():
        kept = version.tags.get(f"{_TAG}{part}")
        with suppress(msgspec.MsgspecError, RecursionError):  # a tag that somebody else wrote isn't shown
            if kept is not None:
                found[part] = msgspec.to_builtins(msgspec.json.decode(kept, type=kind))
    return {name: value for name, value in found.items() if value not in ("", {}, [])}


def _location(version: RegisteredVersion) -> str:
    place = location(version)
    return "" if place == PACKAGE or place in PLACEHOLDERS else place


def time_of(at: datetime) -> str:
    """Return a moment as Google writes it."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _spelt(value: object) -> object:
    """Return an object with its fields as JSON has them; none of the parts that are kept has free names in it."""
    if isinstance(value, dict):
        return {
            camel(str(name)): str(one) if camel(str(name)) == "sharedMemorySizeMb" and type(one) is int else _spelt(one)
            for name, one in value.items()
        }
    return [_spelt(one) for one in value] if isinstance(value, list) else value
