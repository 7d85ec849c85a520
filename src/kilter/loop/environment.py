"""Environments: what ``kilter.toml`` says about where a loop runs, and never about what it is."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from kilter.core.errors import DeclarationError, InvalidInput, NotFound
from kilter.core.words import did_you_mean
from kilter.loop.declaration.spec import BUDGET_ALLOWED, parse_budget
from kilter.loop.declare import ApprovalRule
from kilter.loop.declare import Environment as EnvironmentName
from kilter.release.freeze import parse as parse_window
from kilter.serving.recording.retention import Retention, check_keep, parse_size
from kilter.serving.settings import Settings, settings_of

FILENAME = "kilter.toml"

_REFERENCE = re.compile(r"^(env|file):(.+)$")
_SECRET_WORDS = re.compile(r"(password|secret|token|api_?key)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"^[a-z0-9+.\-]+://[^/@\s]*:[^/@\s]+@")
_FORBIDDEN = {
    "name": "the name",
    "inputs": "the data",
    "data": "the data",
    "tables": "the data",
    "features": "the data",
    "window": "the data",
    "label": "the label",
    "train": "the training",
    "params": "the training",
    "seed": "the training",
    "gates": "the gates",
    "release": "the release",
    "monitors": "the monitors",
}

REFERENCE_ALLOWED = '"env:NAME" or "file:PATH"'


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a loop runs in one environment.

    Args:
        name: ``dev``, ``staging`` or ``prod``.
        store: The folder or URL of the workspace, or the address of a server that is elsewhere.
        token: The token of that server, as a reference.
        metadata: URL of the metadata, when it lies elsewhere; may be a reference.
        objects: URL of the objects, when they lie elsewhere; may be a reference.
        host: Where the server listens.
        port: The server's port; 0 takes a free one.
        replicas: How many processes serve each version, at least.
        memory: What the models may hold in memory together, like ``"2 GB"``; none for no bound.
        serving: How endpoints are run: the fields of ``kilter.serving.settings.Settings``.
        endpoints: The same for single endpoints, by name.
        approve: The rule of approval here; the stricter of this and the declaration's holds.
        budget: CPU time per day here; the smaller of this and the declaration's holds.
        keep: How much of the logs is kept, by age and size: ``keep = { predictions = { age = "90d", size = "20 GB" } }``.
        freeze: Windows in which no release goes forward here, beside those of the declaration; see
            ``kilter.release.freeze``.
        folder: The folder of the file, against which relative paths are meant.
    """

    name: EnvironmentName
    store: str = ".kilter"
    token: str = ""
    metadata: str = ""
    objects: str = ""
    host: str = "127.0.0.1"
    port: int = 8700
    replicas: int = 1
    memory: str | None = None
    serving: dict[str, Any] = {}
    endpoints: dict[str, dict[str, Any]] = {}
    approve: ApprovalRule | None = None
    budget: str | None = None
    freeze: tuple[str, ...] = ()
    keep: Retention = Retention()
    folder: str = ""

    def settings(self) -> tuple[Settings, dict[str, Settings]]:
        """Return how endpoints are run, and how those that have settings of their own are.

        Raises:
            InvalidInput: When a setting can't be honoured.
        """
        base = settings_of(self.serving, Settings(replicas=self.replicas), "serving")
        return base, {name: settings_of(given, base, f"endpoints.{name}") for name, given in self.endpoints.items()}

    def url(self, field: str) -> str:
        """Return ``metadata``, ``objects`` or ``token`` with its reference resolved; empty when it isn't said."""
        given: str = getattr(self, field)
        return resolve(given, folder=self.folder) if _REFERENCE.match(given) else given


def load_environment(path: str | Path, name: EnvironmentName = "dev", *, base: Overlay | None = None) -> Overlay:
    """Read one environment of ``kilter.toml``.

    Args:
        path: The file, or the folder it is in; without a file the defaults hold.
        name: The environment.
        base: Values that hold where the file says nothing.

    Raises:
        DeclarationError: When the file can't be read, has a key that isn't known, or changes what a loop is.
    """
    if name not in get_args(EnvironmentName):
        raise InvalidInput(f"{name!r} is no environment", where="env", allowed=" or ".join(get_args(EnvironmentName)))
    file = Path(path) / FILENAME if Path(path).is_dir() else Path(path)
    base = msgspec.structs.replace(base or Overlay(name=name), name=name, folder=str(file.parent.absolute()))
    if not file.exists():
        return base
    given = _table(_parsed(file), file, name)
    for key in given:
        _check_key(key, file, name)
    for key, value in given.items():
        _check_value(key, value, file, name)
    try:
        overlay = msgspec.convert({**msgspec.structs.asdict(base), **given}, Overlay)
        overlay.settings()
        return overlay  # noqa: TRY300
    except InvalidInput as error:
        where = f"{file} [env.{name}] {error.where}"
        raise DeclarationError(error.message, where=where, allowed=error.allowed, fix=error.fix) from error
    except msgspec.ValidationError as error:
        raise DeclarationError(str(error), where=f"{file} [env.{name}]") from error


def resolve(reference: str, *, folder: str = "", variables: Mapping[str, str] | None = None) -> str:
    """Return what a reference leads to.

    Args:
        reference: ``env:NAME`` or ``file:PATH``.
        folder: What a relative path is meant against.
        variables: The environment variables; those of the process, if not said.

    Raises:
        InvalidInput: When it is no reference; the value itself is not repeated.
        NotFound: When it leads nowhere.
    """
    found = _REFERENCE.match(reference)
    if found is None:
        raise InvalidInput("this is not a reference", where="secret", allowed=REFERENCE_ALLOWED)
    kind, target = found.groups()
    if kind == "env":
        value = (os.environ if variables is None else variables).get(target)
        if not value:
            raise NotFound(f"the environment variable {target} is not set", where=reference, fix=f"export {target}=...")
        return value
    try:
        return (Path(folder) / target).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"the file can't be read: {error}", where=reference) from error


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DeclarationError(f"the file can't be read: {error}", where=str(file), fix="correct it") from error


def _table(parsed: dict[str, Any], file: Path, name: str) -> dict[str, Any]:
    environments = parsed.get("env", {})
    if not isinstance(environments, dict):
        raise DeclarationError("env is not a table", where=str(file), allowed="[env.dev], [env.staging], [env.prod]")
    for other in environments:
        if other not in get_args(EnvironmentName):
            allowed = get_args(EnvironmentName)
            raise DeclarationError(
                f"{other!r} is no environment",
                where=f"{file} [env.{other}]",
                allowed=" or ".join(allowed),
                fix=did_you_mean(other, allowed),
            )
    found = environments.get(name, {})
    if not isinstance(found, dict):
        raise DeclarationError("this is not a table", where=f"{file} [env.{name}]", allowed="keys and values")
    return found


def _check_key(key: str, file: Path, name: str) -> None:
    where = f"{file} [env.{name}] {key}"
    if key in _FORBIDDEN:
        raise DeclarationError(
            f"an environment may never change {_FORBIDDEN[key]}: what was proven in one would not be what runs in another",
            where=where,
            fix="change the declaration itself",
        )
    allowed = [field for field in Overlay.__struct_fields__ if field not in {"name", "folder"}]
    if key not in allowed:
        raise DeclarationError(
            "there is no such key", where=where, allowed=", ".join(allowed), fix=did_you_mean(key, allowed)
        )


def _check_keep(value: object, where: str) -> None:
    try:
        rule = msgspec.convert(value, Retention)
        check_keep(rule.predictions, f"{where}.predictions")
        check_keep(rule.rows, f"{where}.rows")
    except InvalidInput as error:
        raise DeclarationError(error.message, where=error.where, allowed=error.allowed) from error
    except msgspec.ValidationError as error:
        raise DeclarationError(str(error), where=where, allowed="predictions, rows, archive") from error


def _check_value(key: str, value: object, file: Path, name: str) -> None:
    where = f"{file} [env.{name}] {key}"
    if isinstance(value, str) and (_CREDENTIALS.match(value) or _SECRET_WORDS.search(value.partition("?")[2])):
        raise DeclarationError(
            "this URL holds a password",
            where=where,
            allowed=f"a URL without one, or {REFERENCE_ALLOWED}",
            fix="put the URL into an environment variable or a file, and consider the password known",
        )
    _check_token(key, value, where)
    if key == "budget":
        try:
            parse_budget(value if isinstance(value, str) else repr(value))
        except InvalidInput as error:
            raise DeclarationError(error.message, where=where, allowed=BUDGET_ALLOWED) from error
    if key == "keep":
        _check_keep(value, where)
    if key == "freeze":
        _check_freeze(value, where)
    if key == "memory" and isinstance(value, str):
        try:
            parse_size(value)
        except InvalidInput as error:
            raise DeclarationError(error.message, where=where, allowed=error.allowed) from error
    if key == "port" and not (isinstance(value, int) and 0 <= value <= 65535):
        raise DeclarationError(f"{value!r} is no port", where=where, allowed="0 to 65535")
    if key == "replicas" and not (isinstance(value, int) and 1 <= value <= 1024):
        raise DeclarationError(f"{value!r} is no number of processes", where=where, allowed="1 to 1024")


def _check_token(key: str, value: object, where: str) -> None:
    if key == "token" and not (isinstance(value, str) and _REFERENCE.match(value)):
        raise DeclarationError(
            "a token is not written into the file",
            where=where,
            allowed=REFERENCE_ALLOWED,
            fix="put it into an environment variable or a file, and consider it known",
        )


def _check_freeze(value: object, where: str) -> None:
    for window in value if isinstance(value, list) else [value]:
        try:
            parse_window(window if isinstance(window, str) else repr(window), where)
        except InvalidInput as error:
            raise DeclarationError(error.message, where=where, allowed=error.allowed) from error
