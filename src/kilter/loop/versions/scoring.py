"""What every way of scoring without an endpoint begins with: the version that a name says, and where its features are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kilter.engines.online.store import OnlineStore
from kilter.features.online import OnlineFeatures
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import Parts
from kilter.registry.records import ModelVersion

if TYPE_CHECKING:
    from kilter.serving.answering.group import Lookup


def version_of(workspace: Workspace, model: str) -> ModelVersion:
    """Return the version that ``MODEL`` (its champion), ``MODEL@v7`` or ``MODEL@champion`` names.

    Raises:
        NotFound: When there is none.
    """
    name, _, version = model.partition("@")
    number = version.removeprefix("v")
    return workspace.models.get(name, int(number) if number.isdecimal() else version or "champion")


def lookup(workspace: Workspace, parts: Parts) -> Lookup | None:
    """Return what looks a model's features up; None when it has none, or the store serves none."""
    folder = workspace.store.folder / "online"
    if not parts.manifest.signature.views or not folder.is_dir():
        return None
    from kilter.serving.front.process import lookup_of  # noqa: PLC0415 - a model without features needs no front

    return lookup_of(OnlineFeatures(OnlineStore.open(folder, readonly=True)))
