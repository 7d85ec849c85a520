"""What the platforms' files have in common: names, sizes, probes."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput
from kilter.packaging.export.container import PORT, STORE, USER

LIVE, READY = "/v2/health/live", "/v2/health/ready"
_QUANTITY = re.compile(r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
_IMAGE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
_NAMESPACE = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """How an exported endpoint is run.

    Args:
        image: The image that was built from the container's folder; ``NAME:vN`` when empty.
        namespace: Where in a cluster.
        replicas: At least.
        replicas_max: At most.
        cpu: Per replica, in cores.
        memory: Per replica.
        canary: KServe's share of traffic for this version in per cent; None for all of it.
        instance: The platform's kind of machine; its usual one when empty.
    """

    image: str = ""
    namespace: str = "default"
    replicas: int = 2
    replicas_max: int = 6
    cpu: str = "1"
    memory: str = "1Gi"
    canary: int | None = None
    instance: str = ""


def check_sizing(sizing: Sizing) -> None:
    """Refuse what no platform would take.

    Raises:
        InvalidInput: It names the option.
    """
    if sizing.image and not _IMAGE.match(sizing.image):
        raise InvalidInput(f"{sizing.image!r} is no image", where="--image", allowed="NAME:TAG or NAME@DIGEST")
    if not _NAMESPACE.match(sizing.namespace):
        raise InvalidInput(f"{sizing.namespace!r} is no namespace", where="--namespace",
                           allowed="1 to 63 of a-z, 0-9 and -")  # fmt: skip
    if not 1 <= sizing.replicas <= sizing.replicas_max:
        raise InvalidInput(f"{sizing.replicas} to {sizing.replicas_max} replicas", where="--replicas",
                           allowed="N or N:M, 1 <= N <= M")  # fmt: skip
    for option, value in (("--cpu", sizing.cpu), ("--memory", sizing.memory)):
        if not _QUANTITY.match(value):
            raise InvalidInput(f"{value!r} is no quantity", where=option, allowed="1, 500m, 2Gi")
    if sizing.canary is not None and not 0 <= sizing.canary <= 100:
        raise InvalidInput(f"{sizing.canary} %", where="--canary", allowed="0 to 100")


def cluster_name(model: str) -> str:
    """Return a model's name as Kubernetes takes it.

    Raises:
        InvalidInput: When it is too long.
    """
    if not _NAMESPACE.match(model) or len(model) > 50:
        raise InvalidInput(
            f"{model!r} can't be a name in a cluster", where="model", allowed="at most 50 of a-z, 0-9, -"
        )
    return model


def pod_container(image: str, secret: str, sizing: Sizing) -> dict[str, Any]:
    """Return a pod's container: without rights, on a file system that can't be written but for the store and ``/tmp``."""
    amount = {"cpu": sizing.cpu, "memory": sizing.memory}
    return {
        "image": image,
        "args": ["serve"],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "env": [
            {"name": "KILTER_PORT", "value": str(PORT)},
            {"name": "KILTER_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}},
        ],
        "resources": {"requests": amount, "limits": {"memory": sizing.memory}},
        # A version is loaded and warmed before it is ready, however long that takes.
        "startupProbe": _probe(LIVE, period=2, failures=60),
        "livenessProbe": _probe(LIVE, period=10, failures=3),
        "readinessProbe": _probe(READY, period=2, failures=2),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "store", "mountPath": STORE}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }


def pod_security() -> dict[str, Any]:
    """Return what a pod runs as."""
    return {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"}}  # fmt: skip


def pod_volumes() -> list[dict[str, Any]]:
    """Return what a pod may write: the store with its prediction log, and ``/tmp``."""
    return [
        {"name": "store", "emptyDir": {"sizeLimit": "10Gi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
    ]


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": period, "timeoutSeconds": 2,
            "failureThreshold": failures}  # fmt: skip
