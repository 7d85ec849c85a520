"""``kilter export``: a registered version as files that another machine or platform runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec

from kilter.core.digests import canonical_json, digest
from kilter.core.errors import InvalidInput, NotFound
from kilter.loop.remote import Kilter
from kilter.loop.versions.optimizing import parts_of
from kilter.packaging.bundle import Parts
from kilter.packaging.export.c_source import c_files
from kilter.packaging.export.clouds import azure_files, sagemaker_files, vertex_files
from kilter.packaging.export.container import Exposed, container_files, model_files
from kilter.packaging.export.folder import ExportManifest, write
from kilter.packaging.export.js_source import js_files
from kilter.packaging.export.kubernetes import kserve_files, kubernetes_files
from kilter.packaging.export.platform import Sizing, check_sizing
from kilter.packaging.export.source import code_of, test_vector
from kilter.packaging.mlmodel.writing import mlmodel_folder, whole
from kilter.registry.service import split_reference

Target = Literal["c", "js", "container", "kubernetes", "kserve", "sagemaker", "vertex", "azure", "mlflow"]
TARGETS: tuple[Target, ...] = get_args(Target)


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written.

    Args:
        model: The model's name.
        version: The version.
        target: For which platform.
        folder: Where.
        files: The paths below it.
        size: How many bytes they have together.
    """

    model: str
    version: int
    target: str
    folder: str
    files: tuple[str, ...]
    size: int


def export(
    kilter: Kilter,
    reference: str,
    target: Target,
    folder: Path,
    *,
    sizing: Sizing | None = None,
    lock: Path | None = None,
    force: bool = False,
) -> Exported:
    """Write a version for a platform.

    Args:
        kilter: The store or the server.
        reference: ``churn``, ``churn@v3`` or ``churn@champion``.
        target: For which platform.
        folder: Where the files go.
        sizing: How it is run there.
        lock: A lock file whose hashes a container's requirements take over.
        force: Replace an earlier export.

    Raises:
        NotFound: When there is no such version.
        InvalidInput: When the model can't be written for the target.
        Conflict: When the folder holds something.
    """
    sizing = sizing or Sizing()
    check_sizing(sizing)
    name, wanted = split_reference(reference)
    version = kilter.models.get(name, wanted)
    parts = parts_of(kilter, version.bundle)
    signature = parts.manifest.signature
    # The manifest as this kilter writes it: one that an older kilter wrote has the same meaning under another digest.
    bundle = digest(canonical_json(parts.manifest))
    title = f"{version.reference}, bundle {bundle}"
    tolerance = 0.0
    if target in {"c", "js"}:
        code = code_of(parts, name, title)
        tolerance = code.tolerance
        files = {**(c_files(code) if target == "c" else js_files(code)), "test_vector.json": test_vector(code)}
    elif target == "mlflow":
        files = whole(
            mlmodel_folder(
                parts.manifest, lambda: parts.model, lambda: parts.example, reference=version.reference, at=version.at
            )
        )
    else:
        endpoint = Exposed(name=name, version=version.version, bundle=bundle, fallback=_fallback(kilter, name))
        files = _platform(target, parts, endpoint, title, sizing, lock)
    manifest = ExportManifest(
        target=target,
        model=name,
        version=version.version,
        bundle=bundle,
        framework=parts.manifest.framework,
        inputs=signature.encoding.names,
        outputs=signature.outputs,
        label=signature.label,
        tolerance=tolerance,
    )
    written = write(folder, files, manifest, force=force)
    return Exported(
        model=name,
        version=version.version,
        target=target,
        folder=str(folder),
        files=tuple(entry.path for entry in written.files),
        size=sum(entry.size for entry in written.files),
    )


def _platform(
    target: Target, parts: Parts, endpoint: Exposed, title: str, sizing: Sizing, lock: Path | None
) -> dict[str, bytes]:
    """Return the container's folder, and beside it what the platform needs."""
    container = container_files(parts, endpoint, title, lock)
    match target:
        case "container":
            return container
        case "kubernetes":
            own = kubernetes_files(endpoint, sizing)
        case "kserve":
            own = kserve_files(endpoint, sizing)
        case "sagemaker":
            own = sagemaker_files(endpoint, sizing, model_files(parts, endpoint))
        case "vertex":
            own = vertex_files(endpoint, sizing)
        case "azure":
            own = azure_files(endpoint, sizing)
        case _:
            raise InvalidInput(f"{target!r} is no target", where="--target", allowed=", ".join(TARGETS))
    return {**own, **{f"container/{path}": data for path, data in container.items()}}


def _fallback(kilter: Kilter, name: str) -> float | None:
    try:
        return kilter.endpoints.plan(name).fallback
    except NotFound:  # a model that no endpoint answers with
        return None
