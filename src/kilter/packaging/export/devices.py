"""A version for a browser or a small device, as a folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from kilter.core.digests import canonical_json, digest
from kilter.packaging.bundle import Parts
from kilter.packaging.compression import Limits, Score
from kilter.packaging.export.browser import browser_files
from kilter.packaging.export.folder import ExportManifest, write
from kilter.packaging.export.graph import TOLERANCE, graphs_of
from kilter.packaging.export.signing import signed_files

DeviceTarget = Literal["edge", "browser"]
Quantise = Literal["auto", "dynamic", "static", "best", "none"]

_METHODS: Mapping[Quantise, tuple[str, ...]] = {
    "auto": ("dynamic", "static"),
    "best": ("dynamic", "static"),
    "dynamic": ("dynamic",),
    "static": ("static",),
    "none": (),
}
_RUNTIME = "kilter_edge"


class Origin(msgspec.Struct, frozen=True):
    """Which version is exported.

    Args:
        model: The model's name.
        version: The version.
    """

    model: str
    version: int


class DeviceExport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written.

    Args:
        model: The model's name.
        version: The version.
        target: ``edge`` or ``browser``.
        folder: Where.
        files: The paths below it.
        size: How many bytes they have together.
        scores: What the 8-bit graphs cost that were tried.
        sequence: The number of the signed release; 0 when it is not signed.
    """

    model: str
    version: int
    target: DeviceTarget
    folder: str
    files: tuple[str, ...]
    size: int
    scores: tuple[Score, ...] = ()
    sequence: int = 0


def export_edge(
    parts: Parts,
    origin: Origin,
    folder: Path,
    *,
    quantise: Quantise = "auto",
    limits: Limits | None = None,
    key: Path | None = None,
    sequence: int = 0,
    force: bool = False,
) -> DeviceExport:
    """Write a version's graphs, and what a device needs to ask, update and record them.

    Args:
        parts: The bundle.
        origin: Which version it is.
        folder: Where the files go.
        quantise: ``auto`` adds an 8-bit graph when one passes the limits; a method, or ``best`` of both, asks for one; ``none``.
        limits: What an 8-bit graph may cost.
        key: The private key (PEM) that signs the release; None leaves it unsigned.
        sequence: The release's number: devices refuse one that is lower than theirs.
        force: Replace an earlier export.

    Raises:
        InvalidInput: When the model has no form in ONNX, or the key is none.
        GateRefused: When an 8-bit graph is asked for and none is within the limits.
        Conflict: When the folder holds something.
    """
    wanted = quantise not in {"auto", "none"}
    made = graphs_of(parts, origin.model, _METHODS[quantise], limits, wanted=wanted)
    files = {**made.files, **runtime_files_of_devices()}
    if key is not None:
        files |= signed_files(files, origin.model, origin.version, _bundle(parts), sequence, key)
    return _written(parts, origin, "edge", folder, files, made.scores, sequence if key else 0, force=force)


def export_browser(
    parts: Parts, origin: Origin, folder: Path, runtime: Mapping[str, bytes], *, force: bool = False
) -> DeviceExport:
    """Write a version as a folder that predicts in a browser without a network.

    Args:
        parts: The bundle.
        origin: Which version it is.
        folder: Where the files go.
        runtime: ONNX Runtime Web, from :func:`kilter.packaging.export.web_runtime.runtime_files`.
        force: Replace an earlier export.

    Raises:
        InvalidInput: When the model has no form in ONNX that a browser can run.
        Conflict: When the folder holds something.
    """
    title = f"{origin.model}@v{origin.version}, bundle {_bundle(parts)}"
    return _written(parts, origin, "browser", folder, browser_files(parts, origin.model, title, runtime), force=force)


def runtime_files_of_devices() -> dict[str, bytes]:
    """Return the runtime that goes along with a bundle: Python that needs NumPy, ONNX Runtime and, to verify, cryptography."""
    device = resources.files("kilter.packaging.export.device")
    found = (one for one in device.iterdir() if one.name.endswith(".py"))
    return {f"{_RUNTIME}/{one.name}": one.read_bytes() for one in sorted(found, key=lambda one: one.name)}


def _bundle(parts: Parts) -> str:
    """Return the digest of the manifest as this kilter writes it: an older one's has the same meaning under another."""
    return digest(canonical_json(parts.manifest))


def _written(
    parts: Parts,
    origin: Origin,
    target: DeviceTarget,
    folder: Path,
    files: Mapping[str, bytes],
    scores: tuple[Score, ...] = (),
    sequence: int = 0,
    *,
    force: bool,
) -> DeviceExport:
    signature = parts.manifest.signature
    manifest = ExportManifest(
        target=target,
        model=origin.model,
        version=origin.version,
        bundle=_bundle(parts),
        framework=parts.manifest.framework,
        inputs=signature.encoding.names,
        outputs=signature.outputs,
        label=signature.label,
        tolerance=TOLERANCE,
    )
    written = write(folder, files, manifest, force=force)
    return DeviceExport(
        model=origin.model,
        version=origin.version,
        target=target,
        folder=str(folder),
        files=tuple(one.path for one in written.files),
        size=sum(one.size for one in written.files),
        scores=scores,
        sequence=sequence,
    )
