"""Versions whose files lie outside this store: which places are taken, and what is said to whoever wants their bytes."""

from __future__ import annotations

import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.registry.elsewhere import check_elsewhere, lies_elsewhere
from kilter.registry.rules import check_source
from kilter.registry.service import ModelService
from kilter.registry.together import Upload

PLACES = (
    "s3://my.bucket-1/path/to/model",
    "s3://bucket//twice/ä b",
    "s3://bucket/a%20b+c",
    "S3://bucket/path",
    "gs://bucket/path/model.pkl",
    "wasbs://models@account.blob.core.windows.net/churn",
    "abfss://models@account.dfs.core.windows.net/churn/1",
    "abfss://models@account.dfs.core.usgovcloudapi.net/churn",
    "abfss://team@onelake.dfs.fabric.microsoft.com/lake.Lakehouse/Files/churn",
    "hdfs://namenode:8020/models/churn",
    "hdfs:///models/churn",
    "dbfs:/databricks/mlflow-registry/1/models/churn",
)

REFUSED = (
    "s3:",
    "s3://",
    "s3://bucket",
    "s3://bucket/",
    "s3:///key",
    "s3:bucket/key",
    "s3:/bucket/key",
    "s3://bucket/../other",
    "s3://bucket/a/..",
    "s3://bucket/./a",
    "s3://bucket/%2e%2e/a",
    "s3://bucket/%2E%2E/a",
    "s3://bucket/%252e%252e/a",
    "s3://bucket/..%2fa",
    "s3://bucket/a%5c..%5cb",
    "s3://bucket\\@evil/a",
    "s3://bucket/a?versionId=1",
    "s3://bucket/a#part",
    "s3://bucket?x",
    "s3://bucket/a\x00b",
    "s3://bucket/a%00b",
    "s3://bucket/a\nb",
    "s3://buc\tket/a",
    "s3://bucket/a%0ab",
    "s3://bucket/\u202egpj.exe",
    " s3://bucket/a",
    "s3://bucket /a",
    "s3://key:secret@bucket/a",
    "s3://key@bucket/a",
    "s3://bucket:80/a",
    "s3://[::1]/a",
    "s3://[bad/a",
    "gs://user@bucket/a",
    "wasbs://models@account.blob.core.windows.net.evil.example/churn",
    "wasbs://models@evil.example/churn",
    "wasbs://models:secret@account.blob.core.windows.net/churn",
    "wasb://models@account.blob.core.windows.net/churn",
    "abfss://models@evil.example/churn",
    "abfss://models@account.dfs.core.windows.net:444/churn",
    "abfss://models@a@account.dfs.core.windows.net/churn",
    "hdfs://user:secret@namenode/models",
    "hdfs://namenode",
    "hdfs://namenode:port/models",
    "dbfs://host/models",
    "dbfs:/",
    "dbfs:models",
    "s3://bucket/" + "a%25" * 8 + "2e" + "x" * 8_000,
    "s3://bucket/%" + "25" * 20 + "2e%2e/a",
)

OTHERS = (
    "file:///etc/passwd",
    "/etc/passwd",
    "http://h/x",
    "https://h/x",
    "ftp://h/x",
    "sftp://h/x",
    "r2://b@h/x",
    "s3x://b/x",
)


@pytest.fixture
def models(database: Database, clock: ManualClock) -> ModelService:
    return ModelService(database, clock)


@pytest.mark.parametrize("place", PLACES)
def test_places_that_are_kept_as_they_are_said(place: str) -> None:
    assert lies_elsewhere(place)
    assert check_elsewhere(place) == check_source(place) == place


@pytest.mark.parametrize("place", [*REFUSED, *OTHERS])
def test_places_that_are_refused(place: str) -> None:
    with pytest.raises(InvalidInput):
        check_source(place)


def test_every_operation_checks_the_place(models: ModelService) -> None:
    models.create("m")
    for place in (*REFUSED, *OTHERS):
        for source, location in ((place, ""), ("s3://bucket/good", place)):
            with pytest.raises(InvalidInput):
                models.add_version("m", source, location=location)
    with pytest.raises(InvalidInput):
        models.publish("m", Upload(source="s3://key:secret@bucket/a", location="s3://bucket/a"), "ana")
    assert models.registered("m").latest == ()
    for place in PLACES:
        made = models.add_version("m", place)
        assert (made.source, made.location, made.status) == (place, place, "READY")
    assert [one.source for one in models.search_versions(f"source_path = '{PLACES[0]}'").versions] == [PLACES[0]]


def test_who_wants_the_bytes_is_told_where_they_are(models: ModelService) -> None:
    models.create("m")
    models.add_version("m", "s3://bucket/a", tags={"k": "v"})
    models.add_version("m", "runs:/r/model")
    models.assign_alias("m", "best", 1)
    models.assign_alias("m", "champion", 1)
    for wanted in (1, "v1", "best", "champion"):
        for ask in (models.get, models.lineage, models.history):
            with pytest.raises(InvalidInput, match=r"m@v1 lie elsewhere: 's3://bucket/a'.*kilter deploy FOLDER"):
                ask("m", wanted)
    with pytest.raises(NotFound, match="registered by a client"):
        models.get("m", 2)
    with pytest.raises(NotFound, match="registered by a client"):
        models.get("m", 9)
    with pytest.raises(InvalidInput, match="is not a version"):
        models.get("m", "worst")


def test_a_reference_is_a_version_like_any_other(models: ModelService) -> None:
    models.create("m")
    models.add_version("m", "gs://bucket/a", run="run-of-another-server")
    assert models.assign_alias("m", "best", 1).aliases == ("best",)
    assert models.set_stage("m", 1, "Production").stage == "Production"
    assert models.set_approval("m", 1, "approved", "ana").approval == "approved"
    models.tag("m", {"k": "v"}, 1)
    assert models.registered_version("m", "best").tags == {"k": "v"}
    models.delete_version("m", 1)
    assert models.registered("m").latest == ()
