"""Plain Kubernetes manifests and KServe's InferenceService, as JSON, which every ``kubectl`` reads."""

from __future__ import annotations

from typing import Any

from kilter.packaging.export.container import PORT, USER, Exposed
from kilter.packaging.export.folder import as_json
from kilter.packaging.export.platform import Sizing, cluster_name, pod_container, pod_security, pod_volumes


def kubernetes_files(endpoint: Exposed, sizing: Sizing) -> dict[str, bytes]:
    """Return the manifests of a deployment with its service, autoscaling and disruption budget, in one list.

    Args:
        endpoint: What is served.
        sizing: How.

    Raises:
        InvalidInput: When the model's name can't be one in a cluster.
    """
    name = cluster_name(endpoint.name)
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "model"}
    selector = {"matchLabels": labels}
    pod = _pod(endpoint, sizing, name)
    # whoever still has the old list of addresses finds the replica answering
    pod["containers"][0]["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(endpoint, sizing, name),
        "spec": {
            "selector": selector,
            # a replica goes only when the next one is ready
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {**labels, "app.kubernetes.io/version": f"v{endpoint.version}"}},
                "spec": {
                    **pod,
                    "securityContext": pod_security(),
                    "terminationGracePeriodSeconds": 30,
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": selector,
                        }
                    ],
                },
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(endpoint, sizing, name),
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": PORT, "protocol": "TCP"}]},
    }
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(endpoint, sizing, name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": sizing.replicas,
            "maxReplicas": sizing.replicas_max,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
                }
            ],
        },
    }
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(endpoint, sizing, name),
        "spec": {"selector": selector, "maxUnavailable": 1},
    }
    items = [deployment, service, scaler, budget]
    return {"kubernetes.json": as_json({"apiVersion": "v1", "kind": "List", "items": items})}


def kserve_files(endpoint: Exposed, sizing: Sizing) -> dict[str, bytes]:
    """Return KServe's InferenceService: a custom predictor, with a canary's share if one is asked for.

    Args:
        endpoint: What is served.
        sizing: How.

    Raises:
        InvalidInput: When the model's name can't be one in a cluster.
    """
    name = cluster_name(endpoint.name)
    pod = _pod(endpoint, sizing, "kserve-container")
    # Knative takes what a pod runs as from the container alone.
    pod["containers"][0]["securityContext"] |= {"runAsNonRoot": True, "runAsUser": USER}
    predictor: dict[str, Any] = {"minReplicas": sizing.replicas, "maxReplicas": sizing.replicas_max, **pod}
    if sizing.canary is not None:
        predictor["canaryTrafficPercent"] = sizing.canary
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": _metadata(endpoint, sizing, name),
        "spec": {"predictor": predictor},
    }
    return {"inferenceservice.json": as_json(service)}


def image_of(endpoint: Exposed, sizing: Sizing) -> str:
    """Return the image's name."""
    return sizing.image or f"{endpoint.name}:v{endpoint.version}"


def _metadata(endpoint: Exposed, sizing: Sizing, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": sizing.namespace,
        "labels": {
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/version": f"v{endpoint.version}",
            "app.kubernetes.io/managed-by": "kilter",
        },
        "annotations": {"kilter/model": f"{endpoint.name}@v{endpoint.version}", "kilter/bundle": endpoint.bundle},
    }


def _pod(endpoint: Exposed, sizing: Sizing, container: str) -> dict[str, Any]:
    secret = f"{cluster_name(endpoint.name)}-token"
    return {
        "automountServiceAccountToken": False,
        "containers": [{"name": container, **pod_container(image_of(endpoint, sizing), secret, sizing)}],
        "volumes": pod_volumes(),
    }
