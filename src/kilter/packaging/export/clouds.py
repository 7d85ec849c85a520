"""What SageMaker, Vertex AI and Azure ML want to know about the container.

They let only their own callers through and hand no token on to the container, which is told so in ``KILTER_GUARDED_BY``.
Places that differ per account (roles, buckets, projects) are left as ``REPLACE_...``.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping

from kilter.packaging.export.container import PORT, Exposed
from kilter.packaging.export.folder import as_json
from kilter.packaging.export.kubernetes import image_of
from kilter.packaging.export.platform import LIVE, READY, Sizing, cluster_name

_AZURE = "https://azuremlschemas.azureedge.net/latest"


def sagemaker_files(endpoint: Exposed, sizing: Sizing, model: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return ``model.tar.gz`` and the requests that make a model, an endpoint's configuration and the endpoint.

    Args:
        endpoint: What is served.
        sizing: How.
        model: The model's files; the image serves them when SageMaker has laid them below ``/opt/ml/model``.
    """
    name = cluster_name(endpoint.name)
    versioned = f"{name}-v{endpoint.version}"
    create = {
        "ModelName": versioned,
        "ExecutionRoleArn": "arn:aws:iam::000000000000:role/REPLACE_ROLE",
        "PrimaryContainer": {
            "Image": image_of(endpoint, sizing),
            "ModelDataUrl": "s3://REPLACE_BUCKET/model.tar.gz",
            "Environment": {"KILTER_GUARDED_BY": "sagemaker"},
        },
    }
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": versioned,
        "InitialInstanceCount": sizing.replicas,
        "InstanceType": sizing.instance or "ml.c6i.large",
        "InitialVariantWeight": 1.0,
    }
    return {
        "model.tar.gz": _archive(model),
        "create-model.json": as_json(create),
        "create-endpoint-config.json": as_json({"EndpointConfigName": versioned, "ProductionVariants": [variant]}),
        "create-endpoint.json": as_json({"EndpointName": name, "EndpointConfigName": versioned}),
    }


def vertex_files(endpoint: Exposed, sizing: Sizing) -> dict[str, bytes]:
    """Return the bodies of Vertex AI's ``models.upload`` and ``endpoints.deployModel``.

    Args:
        endpoint: What is served.
        sizing: How.
    """
    upload = {
        "model": {
            "displayName": endpoint.name,
            # "v7" would name a version itself, which Kilter's registry refuses as an alias, under Vertex AI's words too
            "versionAliases": [f"version-{endpoint.version}"],
            "labels": {"managed-by": "kilter"},
            "containerSpec": {
                "imageUri": image_of(endpoint, sizing),
                "args": ["serve"],
                "env": [{"name": "KILTER_GUARDED_BY", "value": "vertex"}],
                "ports": [{"containerPort": PORT}],
                "predictRoute": f"/v1/models/{endpoint.name}:predict",
                "healthRoute": READY,
            },
        }
    }
    deploy = {
        "deployedModel": {
            "model": "projects/REPLACE_PROJECT/locations/REPLACE_REGION/models/REPLACE_MODEL",
            "displayName": f"{endpoint.name}-v{endpoint.version}",
            "dedicatedResources": {
                "machineSpec": {"machineType": sizing.instance or "n2-standard-2"},
                "minReplicaCount": sizing.replicas,
                "maxReplicaCount": sizing.replicas_max,
            },
        },
        "trafficSplit": {"0": 100},
    }
    return {"upload-model.json": as_json(upload), "deploy-model.json": as_json(deploy)}


def azure_files(endpoint: Exposed, sizing: Sizing) -> dict[str, bytes]:
    """Return Azure ML's online endpoint and its deployment, in the form of its command line; JSON is YAML, too.

    Args:
        endpoint: What is served.
        sizing: How.
    """
    name = cluster_name(endpoint.name)
    colour = f"v{endpoint.version}"
    port = {"port": PORT}
    made = {
        "$schema": f"{_AZURE}/managedOnlineEndpoint.schema.json",
        "name": name,
        "auth_mode": "key",
        "traffic": {colour: 100},
    }
    deployment = {
        "$schema": f"{_AZURE}/managedOnlineDeployment.schema.json",
        "name": colour,
        "endpoint_name": name,
        "environment": {
            "image": image_of(endpoint, sizing),
            "inference_config": {
                "liveness_route": {"path": LIVE, **port},
                "readiness_route": {"path": READY, **port},
                "scoring_route": {"path": "/score", **port},
            },
        },
        "environment_variables": {"KILTER_GUARDED_BY": "azure-ml"},
        "instance_type": sizing.instance or "Standard_DS2_v2",
        "instance_count": sizing.replicas,
        "tags": {"kilter.bundle": endpoint.bundle},
    }
    return {"endpoint.yml": as_json(made), "deployment.yml": as_json(deployment)}


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Return a ``.tar.gz`` without times and owners."""
    held = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=held, mode="wb", mtime=0, filename="") as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return held.getvalue()
