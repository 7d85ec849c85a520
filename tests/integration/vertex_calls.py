"""What a user of Vertex AI's model registry does, with Google's own client; run by an interpreter that has it.

Usage: ``python vertex_calls.py URL TOKEN SCENARIO``. The last line that is printed is what was found, as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError
from google.cloud import aiplatform, aiplatform_v1
from google.oauth2.credentials import Credentials
from google.protobuf.field_mask_pb2 import FieldMask

PARENT = "projects/team-7/locations/europe-west4"
CONTAINER = {
    "image_uri": "europe-docker.pkg.dev/team-7/serve/kilter:1",
    "args": ["serve"],
    "env": [{"name": "A", "value": "b"}],
    "ports": [{"container_port": 8080}],
    "predict_route": "/v1/models/churn:predict",
    "health_route": "/readyz",
    "shared_memory_size_mb": 64,
    "startup_probe": {"exec_": {"command": ["true"]}, "period_seconds": 3},
}


def credentials(token: str) -> Any:
    return Credentials(token=token) if token else AnonymousCredentials()


def service(url: str, token: str) -> Any:
    """The generated client: plain http is a matter of its endpoint."""
    options = ClientOptions(api_endpoint=url)
    return aiplatform_v1.ModelServiceClient(transport="rest", client_options=options, credentials=credentials(token))


def refused(act: Any) -> list[Any]:
    """The status and the code that the client got."""
    try:
        act()
    except exceptions.GoogleAPICallError as error:
        body = error.response.json()["error"]
        return [int(error.code), body["status"]]
    except RefreshError:  # it was answered 401, and wants a newer token than it has
        return ["refresh"]
    return ["nothing"]


def name(model: str) -> str:
    return f"{PARENT}/models/{model}"


def versions_and_aliases(url: str, token: str) -> dict[str, Any]:
    client = service(url, token)
    found: dict[str, Any] = {}
    model = {
        "display_name": "churn",
        "description": "who leaves",
        "labels": {"team": "ops"},
        "artifact_uri": "gs://bucket/churn/1",
        "container_spec": CONTAINER,
    }
    operation = client.upload_model(parent=PARENT, model=model)
    found["done at once"] = operation.done()
    answer = operation.result()
    found["uploaded"] = [answer.model, answer.model_version_id]
    found["asked again"] = client.get_operation({"name": operation.operation.name}).done
    second = {
        "display_name": "churn",
        "version_aliases": ["golden"],
        "version_description": "more trees",
        "labels": {"trees": "900"},
    }
    request = aiplatform_v1.UploadModelRequest(parent=PARENT, parent_model=name("churn"), model=second)
    found["second"] = client.upload_model(request).result().model_version_id
    one = client.get_model(name=name("churn"))
    found["default"] = [one.name, one.version_id, list(one.version_aliases), one.display_name, one.description]
    found["kept"] = one.container_spec == aiplatform_v1.ModelContainerSpec(CONTAINER) and one.artifact_uri
    found["times"] = bool(one.create_time <= one.version_create_time <= one.update_time and one.etag)
    golden = client.get_model(name=name("churn@golden"))
    found["golden"] = [golden.name, golden.version_id, list(golden.version_aliases), dict(golden.labels)]
    found["versions"] = [
        [each.name.rpartition("/")[2], list(each.version_aliases)]
        for each in client.list_model_versions(name=name("churn"))
    ]
    merged = client.merge_version_aliases(name=name("churn@2"), version_aliases=["default", "blue", "-golden"])
    found["merged"] = sorted(merged.version_aliases)
    found["moved"] = [
        client.get_model(name=name("churn")).version_id,
        list(client.get_model(name=name("churn@1")).version_aliases),
    ]
    both = client.merge_version_aliases(name=name("churn@2"), version_aliases=["green", "-green", "-none"])
    found["both"] = sorted(both.version_aliases)
    stale = client.get_model(name=name("churn"))
    new = {"name": name("churn"), "display_name": "Churn", "description": "who left", "labels": {"team": "ml"}}
    changed = client.update_model(model=new, update_mask=FieldMask(paths=["display_name", "description", "labels"]))
    found["updated"] = [changed.display_name, changed.description, dict(changed.labels), changed.name]
    version = {"name": name("churn@1"), "version_description": "the first", "labels": {"kind": "old"}}
    described = client.update_model(model=version, update_mask=FieldMask(paths=["version_description", "labels"]))
    found["version updated"] = [described.version_description, dict(described.labels), described.name]
    stale.description = "late"
    found["refused"] = {
        "stale": refused(lambda: client.update_model(model=stale, update_mask=FieldMask(paths=["description"]))),
        "mixed": refused(lambda: client.update_model(model=version, update_mask=FieldMask(paths=["description"]))),
        "default taken": refused(
            lambda: client.merge_version_aliases(name=name("churn@2"), version_aliases=["-default"])
        ),
        "default deleted": refused(lambda: client.delete_model_version(name=name("churn@2"))),
        "none": refused(lambda: client.get_model(name=name("none"))),
        "no version": refused(lambda: client.get_model(name=name("churn@9"))),
        "no alias": refused(lambda: client.get_model(name=name("churn@red"))),
        "taken": refused(
            lambda: client.upload_model(
                aiplatform_v1.UploadModelRequest(parent=PARENT, model_id="churn", model={"display_name": "x"})
            )
        ),
        "file": refused(
            lambda: client.upload_model(
                parent=PARENT, model={"display_name": "x", "artifact_uri": "file:///etc/passwd"}
            )
        ),
        "copy": refused(lambda: client.copy_model(parent=PARENT, source_model=name("churn"))),
    }
    found["description"] = client.get_model(name=name("churn")).description
    client.delete_model_version(name=name("churn@1")).result()
    found["last"] = refused(lambda: client.delete_model_version(name=name("churn@2")))
    client.delete_model(name=name("churn")).result()
    found["gone"] = refused(lambda: client.get_model(name=name("churn")))
    return found


def pages(url: str, token: str) -> dict[str, Any]:
    client = service(url, token)
    for place in range(5):
        request = aiplatform_v1.UploadModelRequest(
            parent=PARENT,
            model_id=f"page-{place}",
            model={"display_name": f"Page {4 - place}", "labels": {"even": str(place % 2 == 0).lower()}},
        )
        client.upload_model(request).result()
    for _ in range(4):
        request = aiplatform_v1.UploadModelRequest(
            parent=PARENT, parent_model=name("page-0"), model={"display_name": "x", "labels": {"more": "yes"}}
        )
        client.upload_model(request).result()

    def listed(**asked: Any) -> list[str]:
        found = client.list_models(aiplatform_v1.ListModelsRequest(parent=PARENT, **asked))
        return [model.name.rpartition("/")[2] for page in found.pages for model in page.models]

    def versions(**asked: Any) -> list[str]:
        found = client.list_model_versions(aiplatform_v1.ListModelVersionsRequest(name=name("page-0"), **asked))
        return [model.version_id for page in found.pages for model in page.models]

    first = next(iter(client.list_models(aiplatform_v1.ListModelsRequest(parent=PARENT, page_size=2)).pages))
    masked = client.list_models(
        aiplatform_v1.ListModelsRequest(parent=PARENT, filter="model=page-3", read_mask={"paths": ["display_name"]})
    )
    return {
        "all": [model for model in listed(page_size=2) if model.startswith("page-")],
        "first": len(first.models),
        "by name": listed(filter="labels.even:* AND labels.even=true", order_by="display_name", page_size=2),
        "display": listed(filter='display_name="Page 3"'),
        "other": [m for m in listed(filter='display_name!="Page 3"', order_by="create_time") if "page" in m],
        "model": listed(filter="model=page-3"),
        "label": listed(filter='labels.even="false"', order_by="create_time desc"),
        "none": listed(filter='displayName="none" AND labels:even'),
        "versions": versions(page_size=2),
        "oldest": versions(order_by="create_time", page_size=3),
        "labelled": versions(filter="labels.more=yes", page_size=3),
        "masked": [[model.display_name, model.name] for model in masked],
        "bad filter": refused(lambda: listed(filter="labels.even >")),
        "bad order": refused(lambda: listed(order_by="colour")),
        "bad token": refused(lambda: listed(page_token="x")),
    }


def high_level(url: str, token: str) -> dict[str, Any]:
    """What ``google.cloud.aiplatform`` does on top of it."""
    aiplatform.init(
        project="team-7",
        location="europe-west4",
        api_endpoint=url,
        api_transport="rest",
        credentials=credentials(token),
    )
    found: dict[str, Any] = {}
    upload = aiplatform.Model.upload
    model = upload(display_name="fraud", serving_container_image_uri="image:1", artifact_uri="gs://bucket/f/1")
    found["uploaded"] = [model.resource_name, model.version_id, list(model.version_aliases), model.uri]
    quiet = upload(
        serving_container_image_uri="image:2",
        parent_model="fraud",
        is_default_version=False,
        version_aliases=["canary"],
        version_description="second",
    )
    found["quiet"] = [quiet.version_id, list(quiet.version_aliases), quiet.versioned_resource_name]
    again = upload(display_name="fraud", serving_container_image_uri="image:1")
    found["same name"] = [again.display_name, again.name != "fraud", again.name.isdecimal()]
    listed = aiplatform.Model.list(filter='display_name="fraud"', order_by="create_time")
    found["listed"] = [[each.name == "fraud", each.version_id] for each in listed]
    registry = model.versioning_registry
    registry.add_version_aliases(["blue", "green"], "2")
    registry.remove_version_aliases(["canary", "green"], "2")
    found["info"] = [
        registry.get_version_info("blue").version_id,
        registry.get_version_info("2").version_description,
        sorted(registry.get_version_info("2").version_aliases),
    ]
    registry.add_version_aliases(["default"], "2")
    found["versions"] = [[info.version_id, sorted(info.version_aliases)] for info in registry.list_versions()]
    found["default"] = aiplatform.Model("fraud").version_id
    registry.update_version("1", version_description="first", labels={"kind": "old"})
    old = aiplatform.Model("fraud", version="1")
    found["old"] = [old.version_description, dict(old.labels)]
    old.update(display_name="Fraud of cards", description="cards", labels={"team": "ops"})
    found["updated"] = [old.display_name, old.description, dict(old.labels), old.version_id]
    registry.delete_version("1")
    found["left"] = [info.version_id for info in registry.list_versions()]
    model.delete()
    again.delete()
    found["gone"] = refused(lambda: aiplatform.Model("fraud"))
    return found


def of_a_loop(url: str, token: str) -> dict[str, Any]:
    client = service(url, token)
    flight = client.get_model(name=name("flight"))
    merge = client.merge_version_aliases
    found = {
        "champion": [flight.version_id, sorted(flight.version_aliases), flight.artifact_uri],
        "by alias": client.get_model(name=name("flight@champion")).version_id,
        "first": [list(client.get_model(name=name("flight@1")).version_aliases)],
        "refused": [
            refused(lambda alias=alias: merge(name=name("flight@1"), version_aliases=[alias]))
            for alias in ("champion", "default", "challenger", "-champion", "-default")
        ],
        "half": refused(lambda: merge(name=name("flight@1"), version_aliases=["mine", "champion"])),
        "nothing happened": [list(client.get_model(name=name("flight@1")).version_aliases)],
        "mine": list(merge(name=name("flight@1"), version_aliases=["mine"]).version_aliases),
        "upload": refused(
            lambda: client.upload_model(
                aiplatform_v1.UploadModelRequest(
                    parent=PARENT, parent_model=name("flight"), model={"display_name": "flight"}
                )
            )
        ),
        "delete version": refused(lambda: client.delete_model_version(name=name("flight@1"))),
        "delete": refused(lambda: client.delete_model(name=name("flight"))),
    }
    labelled = {"name": name("flight@2"), "labels": {"kilter-stage": "champion"}}
    found["stage"] = refused(lambda: client.update_model(model=labelled, update_mask=FieldMask(paths=["labels"])))
    described = client.update_model(
        model={"name": name("flight"), "description": "delays"}, update_mask=FieldMask(paths=["description"])
    )
    found["described"] = described.description
    merge(name=name("flight@1"), version_aliases=["-mine"])
    beside = client.upload_model(parent=PARENT, model={"display_name": "flight"}).result()
    found["beside"] = beside.model.rpartition("/")[2].isdecimal()
    client.delete_model(name=beside.model).result()
    return found


def role(url: str, token: str) -> dict[str, Any]:
    client = service(url, token)
    return {
        "list": refused(lambda: list(client.list_models(parent=PARENT))),
        "upload": refused(lambda: client.upload_model(parent=PARENT, model={"display_name": "role"}).result()),
        "alias": refused(lambda: client.merge_version_aliases(name=name("flight@1"), version_aliases=["-nobodys"])),
    }


if __name__ == "__main__":
    logging.disable(logging.INFO)
    scenarios = {each.__name__: each for each in (versions_and_aliases, pages, high_level, of_a_loop, role)}
    print(json.dumps(scenarios[sys.argv[3]](sys.argv[1], sys.argv[2])))
