"""A container's folder: what to install, the model, and a start command that serves exactly this model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kilter.core.digests import canonical_json, digest
from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.bundle import Parts
from kilter.packaging.export.folder import as_json
from kilter.packaging.export.requirements import pinned, python_of, read_lock, requirements
from kilter.packaging.export.wheel import wheel
from kilter.packaging.loading import OWNERS_ONLY
from kilter.packaging.records import Manifest
from kilter.packaging.trust import require_trust

ENDPOINT = "endpoint.json"
TRUSTED = "trusted"
HOME = "/opt/kilter"
STORE = "/var/lib/kilter"
USER = 10001
PORT = 8080
MODULE = "kilter.loop.versions.exported"

_DOCKERFILE = """\
# {title}
# Build: docker build --tag {name}:v{version} .
# Run:   docker run --publish 8080:8080 --env KILTER_TOKEN {name}:v{version}
ARG BASE=python:{python}-slim
FROM ${{BASE}}
{system}WORKDIR {home}
COPY requirements.txt {wheel} ./
RUN pip install --no-cache-dir --no-deps{hashed} --requirement requirements.txt \\
 && pip install --no-cache-dir --no-deps --no-index ./{wheel} \\
 && useradd --uid {user} --no-create-home --shell /usr/sbin/nologin kilter \\
 && install --directory --owner={user} --group={user} {store}
COPY model ./model
USER {user}
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 KILTER_STORE={store}
VOLUME ["{store}"]
EXPOSE {port}
# SageMaker runs an image with the argument serve.
ENTRYPOINT ["python", "-m", "{module}", "{home}/model"]
CMD ["serve"]
"""

_OPENMP = """\
# LightGBM's library needs the system's OpenMP.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
"""


class Exposed(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that serves one bundle.

    Args:
        name: The endpoint's name.
        version: The version's number, as its registry has it.
        bundle: The bundle's digest.
        fallback: The constant that answers when no model can; None without.
        schema: Version of this record.
    """

    name: str
    version: int
    bundle: str
    fallback: float | None = None
    schema: int = 1


def model_files(parts: Parts, endpoint: Exposed) -> dict[str, bytes]:
    """Return a bundle's files, and the endpoint that serves it.

    Raises:
        Forbidden: When the model is code or an address that this user has not packaged on this machine.
        InvalidInput: When the model looks features up, which live in the store that they are written to.
    """
    if parts.manifest.signature.views:
        raise InvalidInput(
            "the model looks features up, and the store that they are in is not part of a container",
            where="export",
            allowed="models whose inputs all come with the request",
            fix="run `kilter serve` on the store itself",
        )
    files = {ENDPOINT: as_json(endpoint), "bundle.json": canonical_json(parts.manifest), "model.bin": parts.model,
             "example.bin": parts.example}  # fmt: skip
    if parts.manifest.flavor in OWNERS_ONLY:  # whoever trusts it here may hand it on
        require_trust(parts.model, "a model of the format " + parts.manifest.flavor)
        files[TRUSTED] = f"{parts.manifest.model.digest}\n".encode()
    return files | ({"explainer.bin": parts.explainer} if parts.explainer else {})


def read_model(folder: Path) -> tuple[Exposed, Parts]:
    """Return what :func:`model_files` wrote, its digests verified.

    Raises:
        Damaged: When a file is missing or is not the one that was written.
    """
    try:
        endpoint = msgspec.json.decode((folder / ENDPOINT).read_bytes(), type=Exposed)
        said = (folder / "bundle.json").read_bytes()
        manifest = msgspec.json.decode(said, type=Manifest)
        data, example = (folder / "model.bin").read_bytes(), (folder / "example.bin").read_bytes()
        explainer = (folder / "explainer.bin").read_bytes() if manifest.explainer is not None else b""
    except (OSError, msgspec.MsgspecError) as error:
        raise Damaged("the folder is not a model that was exported", where=str(folder)) from error
    wanted = [endpoint.bundle, manifest.model.digest, manifest.example.digest]
    wanted += [manifest.explainer.file.digest] if manifest.explainer is not None else []
    given = [digest(one) for one in (said, data, example, *([explainer] if manifest.explainer is not None else []))]
    if given != wanted:
        raise Damaged("a file is not the one that the manifest names", where=str(folder))
    return endpoint, Parts(manifest, data, example, explainer)


def container_files(parts: Parts, endpoint: Exposed, title: str, lock: Path | None = None) -> dict[str, bytes]:
    """Return the files of a container's folder.

    Args:
        parts: The bundle.
        endpoint: What serves it.
        title: What to call it in comments.
        lock: A lock file whose hashes are taken over; without one there are versions alone.

    Raises:
        Forbidden: When the model is code that this user has not packaged on this machine.
        InvalidInput: When the model can't be served alone, or the lock file lacks what it needs.
    """
    name, data = wheel()
    wanted = pinned(parts.manifest)
    explainer = parts.manifest.explainer
    flavors = {parts.manifest.flavor, explainer.flavor if explainer is not None else ""}
    dockerfile = _DOCKERFILE.format(
        title=title,
        name=endpoint.name,
        version=endpoint.version,
        python=python_of(parts.manifest),
        system=_OPENMP if "lightgbm-text" in flavors else "",
        wheel=name,
        hashed=" --require-hashes" if lock is not None else "",
        home=HOME,
        store=STORE,
        user=USER,
        port=PORT,
        module=MODULE,
    )
    return {
        "Dockerfile": dockerfile.encode(),
        "requirements.txt": requirements(wanted, read_lock(lock) if lock is not None else None).encode(),
        name: data,
        **{f"model/{path}": held for path, held in model_files(parts, endpoint).items()},
    }
