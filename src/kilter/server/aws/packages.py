"""Model package groups and model packages, as SageMaker calls registered models and their versions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from kilter.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from kilter.registry.records import ApprovalState, RegisteredModel, RegisteredVersion
from kilter.registry.rules import PACKAGE, STATE
from kilter.registry.service import ModelService

Said = dict[str, Any]

_ARN = "arn:aws:sagemaker:us-east-1:000000000000"
_GROUP = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}\Z")
_NAMED = re.compile(r"(?:arn:aws[\w-]*:sagemaker:[\w-]*:\d{12}:model-package/)?(?P<group>[^/]+)/(?P<version>\d{1,9})\Z")
_GROUPS = re.compile(r"(?:arn:aws[\w-]*:sagemaker:[\w-]*:\d{12}:model-package-group/)?(?P<group>[^/]+)\Z")
_STATES: dict[str, ApprovalState] = {"PendingManualApproval": "pending", "Approved": "approved", "Rejected": "rejected"}
_SHOWN = {state: name for name, state in _STATES.items()}
_KEPT = ("InferenceSpecification", "ModelMetrics", "MetadataProperties", "Domain", "Task", "SamplePayloadUrl")
_TAG = "sagemaker."
_PAGE = 100


class Approver(Protocol):
    """What lets a loop go on."""

    def approve(self, loop: str, version: int | str, by: str, comment: str = "") -> object:
        """Approve a version that waits for its owner."""
        ...


class Packages:
    """The calls.

    Args:
        models: The registry's operations.
        loops: Who approves a version that a loop made.
    """

    def __init__(self, models: ModelService, loops: Approver) -> None:
        self._models = models
        self._loops = loops

    def calls(self) -> dict[str, Callable[[Said, str], dict[str, Any]]]:
        """Return the calls by name; each takes what was said and the role of who says it."""
        return {
            "CreateModelPackageGroup": self._create_group,
            "DescribeModelPackageGroup": self._describe_group,
            "ListModelPackageGroups": self._list_groups,
            "DeleteModelPackageGroup": self._delete_group,
            "CreateModelPackage": self._create,
            "DescribeModelPackage": self._describe,
            "ListModelPackages": self._list,
            "UpdateModelPackage": self._update,
            "DeleteModelPackage": self._delete,
        }

    # ------------------------------------------------------------ groups

    def _create_group(self, said: Said, role: str) -> dict[str, Any]:
        name = _text(said, "ModelPackageGroupName", required=True)
        if not _GROUP.match(name):
            raise InvalidInput(
                f"{name[:70]!r} is not a group's name",
                where="ModelPackageGroupName",
                allowed="63 letters, digits and hyphens",
            )
        tags = {_text(one, "Key"): _text(one, "Value") for one in _objects(said, "Tags")}
        self._models.create(name, _text(said, "ModelPackageGroupDescription"), tags, by=_who(role))
        return {"ModelPackageGroupArn": _group_arn(name)}

    def _describe_group(self, said: Said, _role: str) -> dict[str, Any]:
        return _group(self._models.registered(_group_of(said)))

    def _list_groups(self, said: Said, _role: str) -> dict[str, Any]:
        contains = _text(said, "NameContains")
        if set(contains) & set("%_'\"`"):
            raise InvalidInput(f"{contains[:60]!r} can't be looked for", where="NameContains")
        order = {"Name": "name", "CreationTime": "created", "": "created"}.get(_text(said, "SortBy"), "created")
        page = self._models.search(
            f"name LIKE '%{contains}%'" if contains else "",
            f"{'-' if _text(said, 'SortOrder') == 'Descending' else ''}{order}",
            _limit(said),
            _text(said, "NextToken") or None,
        )
        found = {"ModelPackageGroupSummaryList": [_group(model) for model in page.models]}
        return found if page.cursor is None else {**found, "NextToken": page.cursor}

    def _delete_group(self, said: Said, role: str) -> dict[str, Any]:
        name = _group_of(said)
        if self._models.registered(name).latest:
            raise Conflict(f"{name!r} has versions", where="ModelPackageGroupName", fix="delete them first")
        self._models.delete(name, by=_who(role))
        return {}

    # ------------------------------------------------------------ packages

    def _create(self, said: Said, role: str) -> dict[str, Any]:
        name = _group_of(said)
        state = _state(said)
        if state not in {None, "pending"} and role not in {"approver", "admin"}:
            raise Forbidden("the key's role doesn't allow an approval", where="ModelApprovalStatus", allowed="approver")
        tags = {key: str(value) for key, value in _map(said, "CustomerMetadataProperties").items()}
        tags |= {
            f"{_TAG}{part}": msgspec.json.encode(said[part]).decode() for part in _KEPT if said.get(part) is not None
        }
        made = self._models.add_version(
            name,
            PACKAGE,
            description=_text(said, "ModelPackageDescription"),
            tags=tags,
            by=_who(role),
        )
        if state not in {None, "pending"}:
            self._models.set_approval(name, made.version, str(state), _who(role))
        return {"ModelPackageArn": _arn(made)}

    def _describe(self, said: Said, _role: str) -> dict[str, Any]:
        version = self._one(said, "ModelPackageName")
        found = _summary(version)
        for part in _KEPT:
            kept = version.tags.get(f"{_TAG}{part}")
            if kept is not None:
                found[part] = msgspec.json.decode(kept)
        own = {name: value for name, value in version.tags.items() if not name.startswith(_TAG)}
        own |= {STATE: version.state} if version.state else {}
        if own:
            found["CustomerMetadataProperties"] = own
        last = [one for one in self._models.changes(version.model, version.version) if one.what == "approval"]
        if last and last[-1].reason:
            found["ApprovalDescription"] = last[-1].reason
        return {
            **found,
            "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
            "LastModifiedTime": version.changed_at.timestamp(),
        }

    def _list(self, said: Said, _role: str) -> dict[str, Any]:
        name = _group_of(said)
        self._models.registered(name)
        state = _state(said)
        page = self._models.search_versions(
            f"approval = '{state}'" if state else "",
            f"{'' if _text(said, 'SortOrder') == 'Ascending' else '-'}version_number",
            _limit(said),
            _text(said, "NextToken") or None,
            name,
        )
        found = {"ModelPackageSummaryList": [_summary(version) for version in page.versions]}
        return found if page.cursor is None else {**found, "NextToken": page.cursor}

    def _update(self, said: Said, role: str) -> dict[str, Any]:
        version = self._one(said, "ModelPackageArn")
        state = _state(said)
        if state is not None:
            if role not in {"approver", "admin"}:
                raise Forbidden(
                    "the key's role doesn't allow an approval", where="ModelApprovalStatus", allowed="approver"
                )
            why = _text(said, "ApprovalDescription")
            if version.owner == "loop" and state == "approved":
                self._loops.approve(version.model, version.version, _who(role), why)
            else:
                self._models.set_approval(version.model, version.version, state, _who(role), why)
        tags = {key: str(value) for key, value in _map(said, "CustomerMetadataProperties").items()}
        if tags:
            self._models.tag(version.model, tags, version.version, by=_who(role))
        gone = said.get("CustomerMetadataPropertiesToRemove") or []
        for key in gone if isinstance(gone, list) else []:
            self._models.untag(version.model, str(key), version.version, by=_who(role))
        return {"ModelPackageArn": _arn(version)}

    def _delete(self, said: Said, role: str) -> dict[str, Any]:
        version = self._one(said, "ModelPackageName")
        self._models.delete_version(version.model, version.version, by=_who(role))
        return {}

    def _one(self, said: Said, field: str) -> RegisteredVersion:
        text = _text(said, field, required=True)
        found = _NAMED.match(text)
        if found is None:
            raise NotFound(f"{text[:200]!r} is no model package", where=field, allowed="its ARN")
        return self._models.registered_version(found["group"], int(found["version"]))


def _group(model: RegisteredModel) -> dict[str, Any]:
    return {
        "ModelPackageGroupName": model.name,
        "ModelPackageGroupArn": _group_arn(model.name),
        "ModelPackageGroupDescription": model.description,
        "CreationTime": model.created_at.timestamp(),
        "ModelPackageGroupStatus": "Completed",
        "CreatedBy": {},
    }


def _summary(version: RegisteredVersion) -> dict[str, Any]:
    return {
        "ModelPackageGroupName": version.model,
        "ModelPackageVersion": version.version,
        "ModelPackageArn": _arn(version),
        "ModelPackageDescription": version.description,
        "CreationTime": version.created_at.timestamp(),
        "ModelPackageStatus": "Completed",
        "ModelApprovalStatus": _SHOWN[version.approval],
    }


def _arn(version: RegisteredVersion) -> str:
    return f"{_ARN}:model-package/{version.model}/{version.version}"


def _group_arn(name: str) -> str:
    return f"{_ARN}:model-package-group/{name}"


def _group_of(said: Said) -> str:
    text = _text(said, "ModelPackageGroupName", required=True)
    found = _GROUPS.match(text)
    if found is None:
        raise NotFound(f"{text[:200]!r} is no model package group", where="ModelPackageGroupName")
    return found["group"]


def _state(said: Said) -> ApprovalState | None:
    name = _text(said, "ModelApprovalStatus")
    if name and name not in _STATES:
        raise InvalidInput(f"{name[:60]!r} is no status", where="ModelApprovalStatus", allowed=", ".join(_STATES))
    return _STATES.get(name)


def _limit(said: Said) -> int:
    limit = said.get("MaxResults", _PAGE)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= _PAGE:
        raise InvalidInput(f"{limit}", where="MaxResults", allowed=f"1 to {_PAGE}")
    return limit


def _text(said: Said, field: str, *, required: bool = False) -> str:
    value = said.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise InvalidInput(f"{str(value)[:60]!r} is not a text", where=field, allowed="a text")
    return value


def _map(said: Said, field: str) -> dict[str, Any]:
    value = said.get(field) or {}
    if not isinstance(value, dict):
        raise InvalidInput("it is not an object", where=field, allowed="an object")
    return value


def _objects(said: Said, field: str) -> list[dict[str, Any]]:
    value = said.get(field) or []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InvalidInput("it is not a list of objects", where=field, allowed="a list of objects")
    return value


def _who(role: str) -> str:
    return f"{role} (SageMaker client)"
