"""What the platforms are told fits their own schemas: read and written by their clients without a loss."""

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

import kilter
from kilter.cli.main import main
from kilter.testing.server import RunningServer

pytest.importorskip("lightgbm")
import lightgbm

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    rows = np.random.default_rng(1).normal(size=(40, 3))
    model = lightgbm.LGBMClassifier(n_estimators=1, verbose=-1, n_jobs=1).fit(rows, rows[:, 1] > 0)
    kilter.deploy(model, name="late-flights", example=rows, store=store)
    return store


@pytest.fixture
def exported(store, tmp_path):
    def export(target: str, *more: str) -> Path:
        out = tmp_path / target
        assert (
            main(["export", "late-flights", "--target", target, "--out", str(out), "--store", str(store), *more]) == 0
        )
        assert (out / "container" / "Dockerfile").is_file()
        return out

    return export


def read(file: Path):
    return json.loads(file.read_text())


def unchanged(client, given, kind):
    """Check that the platform's own model takes a document, and gives it back whole: no field that it doesn't know."""
    held = client.deserialize(json.dumps(given), kind, "application/json")
    assert client.sanitize_for_serialization(held) == given
    return held


def test_kubernetes_takes_the_manifests(exported):
    kubernetes = pytest.importorskip("kubernetes.client")
    out = exported(
        "kubernetes", "--image", "models/late:2", "--replicas", "3:9", "--memory", "2Gi", "--namespace", "ml"
    )
    listed = read(out / "kubernetes.json")
    assert (listed["apiVersion"], listed["kind"]) == ("v1", "List")
    client = kubernetes.ApiClient()
    kinds = {"Deployment": "V1Deployment", "Service": "V1Service", "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
             "PodDisruptionBudget": "V1PodDisruptionBudget"}  # fmt: skip
    held = {item["kind"]: unchanged(client, item, kinds[item["kind"]]) for item in listed["items"]}
    assert set(held) == set(kinds)
    deployment, service, scaler, budget = (held[kind] for kind in kinds)
    assert {one.metadata.namespace for one in held.values()} == {"ml"}
    labels = deployment.spec.template.metadata.labels
    for selector in (deployment.spec.selector.match_labels, service.spec.selector, budget.spec.selector.match_labels):
        assert selector.items() <= labels.items()
    assert scaler.spec.scale_target_ref.name == deployment.metadata.name == "late-flights"
    assert (scaler.spec.min_replicas, scaler.spec.max_replicas, budget.spec.max_unavailable) == (3, 9, 1)
    assert deployment.spec.replicas is None  # the autoscaler's
    pod = deployment.spec.template.spec
    assert pod.security_context.run_as_non_root
    assert pod.automount_service_account_token is False
    (container,) = pod.containers
    assert container.image == "models/late:2"
    assert container.security_context.read_only_root_filesystem
    assert container.security_context.allow_privilege_escalation is False
    assert container.resources.limits == {"memory": "2Gi"}
    assert container.readiness_probe.http_get.path == "/v2/health/ready"
    assert container.liveness_probe.http_get.path == "/v2/health/live"
    assert {one.name for one in container.volume_mounts} == {one.name for one in pod.volumes}
    (token,) = (one for one in container.env if one.name == "KILTER_TOKEN")
    assert (token.value, token.value_from.secret_key_ref.name) == (None, "late-flights-token")


def test_kserve_takes_the_inference_service(exported):
    kubernetes = pytest.importorskip("kubernetes.client")
    models = pytest.importorskip("kserve.models")
    out = exported("kserve", "--canary", "10")
    given = read(out / "inferenceservice.json")
    assert (given["apiVersion"], given["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = given["spec"]["predictor"]
    assert (predictor["canaryTrafficPercent"], predictor["minReplicas"], predictor["maxReplicas"]) == (10, 2, 6)
    known = models.V1beta1PredictorSpec.attribute_map
    assert predictor.keys() <= set(known.values())
    types = {known[name]: kind for name, kind in models.V1beta1PredictorSpec.openapi_types.items()}
    client = kubernetes.ApiClient()
    for name in ("containers", "volumes"):
        kind = types[name].removeprefix("list[").removesuffix("]")
        assert kind in {"V1Container", "V1Volume"}
        for one in predictor[name]:
            unchanged(client, one, kind)
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container"
    assert container["securityContext"]["runAsNonRoot"] is True


def test_sagemaker_takes_the_requests(exported):
    pytest.importorskip("botocore")
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    out = exported("sagemaker", "--instance", "ml.m5.large")
    model = ServiceModel(Loader().load_service_model("sagemaker", "service-2"))
    for operation, file in (("CreateModel", "create-model"), ("CreateEndpointConfig", "create-endpoint-config"),
                            ("CreateEndpoint", "create-endpoint")):  # fmt: skip
        given = read(out / f"{file}.json")
        report = ParamValidator().validate(given, model.operation_model(operation).input_shape)
        assert not report.has_errors(), report.generate_report()
        _check_words(given, model.operation_model(operation).input_shape)
    (variant,) = read(out / "create-endpoint-config.json")["ProductionVariants"]
    assert variant["ModelName"] == read(out / "create-model.json")["ModelName"]


def _check_words(value, shape):
    """Check words against their patterns and lists, which botocore leaves to the service."""

    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if name in value:
                _check_words(value[name], member)
    elif shape.type_name == "list":
        for one in value:
            _check_words(one, shape.member)
    elif shape.type_name == "string":
        assert not shape.enum or value in shape.enum, (shape.name, value)
        pattern = shape.metadata.get("pattern")
        assert pattern is None or re.fullmatch(pattern, value), (shape.name, value)


def test_vertex_is_told_routes_that_the_container_speaks(exported):
    out = exported("vertex")
    spec = read(out / "upload-model.json")["model"]["containerSpec"]
    # v1.ModelContainerSpec
    assert spec.keys() <= {"imageUri", "command", "args", "env", "ports", "predictRoute", "healthRoute", "healthProbe"}
    assert (spec["predictRoute"], spec["healthRoute"]) == ("/v1/models/late-flights:predict", "/v2/health/ready")
    deployed = read(out / "deploy-model.json")["deployedModel"]
    resources = deployed["dedicatedResources"]
    assert resources.keys() == {"machineSpec", "minReplicaCount", "maxReplicaCount"}
    assert 1 <= resources["minReplicaCount"] <= resources["maxReplicaCount"]


def test_a_registry_that_speaks_as_vertex_takes_what_is_exported(exported, tmp_path):
    body = (exported("vertex") / "upload-model.json").read_bytes()
    (alias,) = json.loads(body)["model"]["versionAliases"]
    assert re.fullmatch("[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]", alias)  # what v1.Model says of them
    place = "/v1/projects/p/locations/l"
    with RunningServer(tmp_path / "registry") as server, httpx.Client(base_url=server.url) as client:
        uploaded = client.post(f"{place}/models:upload", content=body, headers=JSON)
        assert uploaded.status_code == 200, uploaded.text
        name = uploaded.json()["response"]["model"].rpartition("/")[2]
        kept = client.get(f"{place}/models/{name}@{alias}").json()
    assert kept["versionAliases"] == ["default", alias]
    assert kept["containerSpec"] == json.loads(body)["model"]["containerSpec"]


def test_azure_is_told_in_yaml(exported):
    yaml = pytest.importorskip("yaml")
    out = exported("azure")
    endpoint, deployment = (yaml.safe_load((out / f"{name}.yml").read_text()) for name in ("endpoint", "deployment"))
    assert deployment["endpoint_name"] == endpoint["name"] == "late-flights"
    assert endpoint["traffic"] == {deployment["name"]: 100}
    routes = deployment["environment"]["inference_config"]
    assert {name: route["path"] for name, route in routes.items()} == {
        "liveness_route": "/v2/health/live",
        "readiness_route": "/v2/health/ready",
        "scoring_route": "/score",
    }
    assert {route["port"] for route in routes.values()} == {8080}
