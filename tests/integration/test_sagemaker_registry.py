"""boto3's own client, unmodified, on the registry: model package groups, model packages and their approval."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from kilter.core.digests import digest
from kilter.loop.workspace import Workspace, connect
from kilter.testing.server import RunningServer

VIEWER = "viewer-of-the-test"
OPERATOR = "operator-of-the-test"
OWNER = "owner-of-the-test-0123456789"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("sagemaker") / "store"
    with Workspace.open(str(store)) as workspace:
        workspace.models.register(
            "flight", digest(b"b"), run="r", spec=digest(b"s"), data_digest=digest(b"d"), trigger="decay"
        )
    with RunningServer(store, KILTER_TOKEN=OWNER, KILTER_VIEWER_TOKEN=VIEWER, KILTER_EDITOR_TOKEN=OPERATOR) as running:
        yield running.url, OWNER


def client_of(server: tuple[str, str], secret: str) -> Any:
    boto3 = pytest.importorskip("boto3")
    return boto3.client(
        "sagemaker",
        endpoint_url=server[0],
        region_name="eu-west-1",
        aws_access_key_id="kilter",
        aws_secret_access_key=secret,
    )


@pytest.fixture
def client(server):
    client = client_of(server, server[1])
    yield client
    client.close()


def code_of(act: Any) -> str:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        act()
    return str(caught.value.response["Error"]["Code"])


def test_packages_are_registered_approved_listed_and_described(client, server):
    made = client.create_model_package_group(
        ModelPackageGroupName="fraud", ModelPackageGroupDescription="cards", Tags=[{"Key": "team", "Value": "ops"}]
    )
    assert made["ModelPackageGroupArn"].endswith(":model-package-group/fraud")
    inference = {
        "Containers": [{"Image": "123.dkr.ecr/x:1", "ModelDataUrl": "s3://bucket/model.tar.gz"}],
        "SupportedContentTypes": ["text/csv"],
        "SupportedResponseMIMETypes": ["text/csv"],
    }
    arns = [
        client.create_model_package(
            ModelPackageGroupName="fraud",
            ModelPackageDescription=f"d{place}",
            ModelApprovalStatus="PendingManualApproval",
            InferenceSpecification=inference,
            CustomerMetadataProperties={"n": str(place)},
        )["ModelPackageArn"]
        for place in range(3)
    ]
    assert [arn.rpartition("fraud/")[2] for arn in arns] == ["1", "2", "3"]
    client.update_model_package(
        ModelPackageArn=arns[1], ModelApprovalStatus="Approved", ApprovalDescription="looked at it"
    )
    client.update_model_package(
        ModelPackageArn=arns[0], CustomerMetadataProperties={"m": "x"}, CustomerMetadataPropertiesToRemove=["n"]
    )
    found = client.describe_model_package(ModelPackageName=arns[1])
    assert (found["ModelApprovalStatus"], found["ApprovalDescription"]) == ("Approved", "looked at it")
    assert (found["ModelPackageVersion"], found["ModelPackageStatus"]) == (2, "Completed")
    assert found["InferenceSpecification"] == inference
    assert found["CustomerMetadataProperties"] == {"n": "1"}
    assert client.describe_model_package(ModelPackageName=arns[0])["CustomerMetadataProperties"] == {"m": "x"}
    listed = client.list_model_packages(ModelPackageGroupName="fraud")["ModelPackageSummaryList"]
    assert [one["ModelPackageVersion"] for one in listed] == [3, 2, 1]
    approved = client.list_model_packages(ModelPackageGroupName="fraud", ModelApprovalStatus="Approved")
    assert [one["ModelPackageArn"] for one in approved["ModelPackageSummaryList"]] == [arns[1]]
    pages = client.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName="fraud", PaginationConfig={"PageSize": 2}
    )
    assert [one["ModelPackageVersion"] for page in pages for one in page["ModelPackageSummaryList"]] == [3, 2, 1]
    groups = client.list_model_package_groups(NameContains="rau")["ModelPackageGroupSummaryList"]
    assert [one["ModelPackageGroupName"] for one in groups] == ["fraud"]
    described = client.describe_model_package_group(ModelPackageGroupName="fraud")
    assert described["ModelPackageGroupDescription"] == "cards"
    # the same by our own operations
    with closing(connect(*server)) as kilter:
        assert kilter.models.registered("fraud").tags == {"team": "ops"}
        changes = kilter.models.changes("fraud", 2)
    assert [(one.sentence(), one.by, one.reason) for one in changes][-1] == (
        "approval: pending -> approved",
        "admin (SageMaker client)",
        "looked at it",
    )
    assert code_of(lambda: client.delete_model_package_group(ModelPackageGroupName="fraud")) == "ConflictException"
    for arn in arns:
        client.delete_model_package(ModelPackageName=arn)
    client.delete_model_package_group(ModelPackageGroupName="fraud")
    assert code_of(lambda: client.describe_model_package_group(ModelPackageGroupName="fraud")) == "ResourceNotFound"


def test_what_cant_be_is_said_in_amazons_codes(client):
    client.create_model_package_group(ModelPackageGroupName="group")
    for act, code in (
        (lambda: client.create_model_package_group(ModelPackageGroupName="group"), "ConflictException"),
        (lambda: client.create_model_package_group(ModelPackageGroupName="a_b/c"), "ValidationException"),
        (lambda: client.create_model_package(ModelPackageGroupName="none"), "ResourceNotFound"),
        (lambda: client.describe_model_package(ModelPackageName="group/7"), "ResourceNotFound"),
        (lambda: client.describe_model_package(ModelPackageName="../etc"), "ResourceNotFound"),
        (lambda: client.list_model_packages(ModelPackageGroupName="none"), "ResourceNotFound"),
        (lambda: client.list_model_packages(ModelPackageGroupName="group", NextToken="x"), "ValidationException"),
        (lambda: client.list_model_package_groups(NameContains="%' or 'a"), "ValidationException"),
        (client.list_training_jobs, "ValidationException"),
        (lambda: client.create_model_package(ModelPackageGroupName="flight"), "ConflictException"),
        (lambda: client.delete_model_package(ModelPackageName="flight/1"), "ConflictException"),
    ):
        assert code_of(act) == code
    client.delete_model_package_group(ModelPackageGroupName="group")


def test_a_loops_version_is_approved_where_it_waits_for_that(client):
    found = client.describe_model_package(ModelPackageName="flight/1")
    assert found["CustomerMetadataProperties"] == {"kilter.stage": "candidate"}
    assert found["ModelApprovalStatus"] == "PendingManualApproval"
    arn = found["ModelPackageArn"]
    # it has no loop here that waits: nothing is approved behind a loop's back
    assert code_of(lambda: client.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")) in {
        "ResourceNotFound",
        "ConflictException",
    }
    rejecting = lambda: client.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Rejected")  # noqa: E731
    assert code_of(rejecting) == "ConflictException"


def test_the_secret_key_is_a_token_with_its_role(server):
    from botocore.exceptions import ClientError

    viewer, operator = client_of(server, VIEWER), client_of(server, OPERATOR)
    viewer.list_model_package_groups()
    denied = "AccessDeniedException"
    assert code_of(lambda: viewer.create_model_package_group(ModelPackageGroupName="x")) == denied
    operator.create_model_package_group(ModelPackageGroupName="roles")
    arn = operator.create_model_package(ModelPackageGroupName="roles")["ModelPackageArn"]
    assert code_of(lambda: operator.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")) == denied
    for secret in ("wrong", "", VIEWER + "x"):
        stranger = client_of(server, secret or "x")
        with pytest.raises(ClientError) as caught:
            stranger.list_model_package_groups()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 401
        stranger.close()
    viewer.close()
    operator.close()


def test_what_is_not_signed_is_refused(server):
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=10)
    kind = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "SageMaker.ListModelPackageGroups"}
    for headers, status in (
        (kind, 401),
        ({**kind, "authorization": "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request"}, 401),
        ({**kind, "authorization": f"Bearer {server[1]}"}, 401),
        ({**kind, "content-type": "application/json"}, 415),
        ({**kind, "content-encoding": "gzip"}, 415),
        ({**kind, "origin": "https://evil.example"}, 403),
    ):
        connection.request("POST", "/", body=json.dumps({}), headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, headers
    connection.close()
