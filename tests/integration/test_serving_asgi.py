"""A front behind somebody else's HTTP: the same door and the same answers, without a port of its own."""

import asyncio
import gzip
import json
import os
import signal
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest

from kilter.core.errors import Forbidden, Unavailable
from kilter.serving.front.http import Limits
from kilter.serving.ray.replica import Replica, ReplicaConfig
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

ROWS = {"rows": [{"id": "a", "at": "2013-03-01T00:00:00Z", "x": 1.0}]}
JSON = {"content-type": "application/json"}


@pytest.fixture
def store(tmp_path):
    """A store with a model that answers 0.25."""
    with RunningFront(tmp_path) as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: front.constant(0.25)}), wait=False)
        yield front


def replica_of(store, *, token=False, **settings):
    config = msgspec.structs.replace(store.config, announce="", guarded_by="token" if token else "", **settings)
    return Replica(msgspec.json.encode(ReplicaConfig(front=config, token=token)))


async def lived(application, phase):
    """Let an application live through a phase; return what it said."""
    asked, said = asyncio.Queue(), asyncio.Queue()
    await asked.put({"type": f"lifespan.{phase}"})
    task = asyncio.create_task(application({"type": "lifespan"}, asked.get, said.put))
    message = await said.get()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return message


async def until(client, status):
    while (await client.get("/readyz")).status_code != status:  # noqa: ASYNC110 - it is what a load balancer does
        await asyncio.sleep(0.002)


@asynccontextmanager
async def running(replica):
    """A replica that serves, and a client."""
    said = await lived(replica.application, "startup")
    assert said == {"type": "lifespan.startup.complete"}
    transport = httpx.ASGITransport(app=replica.application)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client
    finally:
        said = await lived(replica.application, "shutdown")
        assert said == {"type": "lifespan.shutdown.complete"}


def test_it_answers_and_records_as_a_front(store):
    async def story():
        async with running(replica_of(store)) as client:
            answer = await client.post("/predict/late", json=ROWS)
            (found,) = answer.json()["predictions"]
            assert found == {"id": "ray_0-0-0", "value": 0.25, "version": 1, "arm": "champion"}
            assert store.endpoints.prediction(found["id"]).key == "a"
            assert answer.headers["content-type"] == "application/json"
            packed = gzip.compress(json.dumps(ROWS).encode())
            headers = {**JSON, "content-encoding": "gzip"}
            assert (await client.post("/predict/late?x=1", content=packed, headers=headers)).status_code == 200
            unready = await client.get("/v2/models/late/versions/7/ready")
            assert unready.status_code == 404
            assert (await client.get("/readyz")).json() == {"ready": True}
            assert [one.front for one in store.endpoints.status("late")] == ["ray_0"]
        assert list(store.endpoints.status("late")) == []

    asyncio.run(story())


def test_every_replica_has_a_name_of_its_own(store):
    async def story():
        async with running(replica_of(store)) as first, running(replica_of(store)) as second:
            ids = [
                (await one.post("/predict/late", json=ROWS)).json()["predictions"][0]["id"] for one in (first, second)
            ]
            assert ids == ["ray_0-0-0", "ray_1-0-0"]
        async with running(replica_of(store)) as again:
            assert (await again.post("/predict/late", json=ROWS)).json()["predictions"][0]["id"] != ids[0]
            assert (await again.get("/models")).json()["front"] == "ray_0"

    asyncio.run(story())


def test_what_does_not_fit_or_does_not_come_is_refused(store):
    async def many():
        for _ in range(3):
            yield b" " * 500

    async def slow():
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async def story():
        async with running(replica_of(store, limits=Limits(body=1000, read=0.2))) as client:
            long = await client.post("/predict/late", content=b" " * 1001, headers=JSON)
            chunked = await client.post("/predict/late", content=many(), headers=JSON)
            assert long.status_code == chunked.status_code == 413
            assert long.headers["content-type"] == "application/problem+json"
            wrong = await client.post("/predict/late", content=b"{}", headers={**JSON, "content-length": "x"})
            assert wrong.status_code == 400
            late = await client.post("/predict/late", content=slow(), headers=JSON)
            assert late.status_code == 408
            other = await client.get("/models", headers={"host": "elsewhere.example"})
            assert other.status_code == 403

    asyncio.run(story())


def test_a_client_that_hangs_up_is_not_answered(store):
    said = []

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        said.append(message)

    async def story():
        replica = replica_of(store)
        async with running(replica):
            scope = {"type": "http", "method": "POST", "path": "/predict/late", "query_string": b"", "headers": []}
            await replica.application(scope, gone, send)
            assert said == []
            await replica.application({"type": "websocket"}, gone, send)
            assert said == [{"type": "websocket.close"}]

    asyncio.run(story())


def test_a_dead_champion_is_not_well(store):
    async def story():
        replica = replica_of(store)
        replica.check()  # nothing is served yet, so nothing is dead
        async with running(replica) as client:
            replica.check()
            (version,) = (await client.get("/models")).json()["endpoints"][0]["versions"]
            os.kill(version["pids"][0], signal.SIGKILL)
            await until(client, 503)
            with pytest.raises(Unavailable, match="late: the champion can't answer"):
                replica.check()
            await until(client, 200)
            replica.check()

    asyncio.run(story())


def test_the_token_is_the_machines_own(store, monkeypatch):
    monkeypatch.delenv("KILTER_TOKEN", raising=False)
    with pytest.raises(Forbidden, match="this machine does not know it"):
        replica_of(store, token=True)
    monkeypatch.setenv("KILTER_TOKEN", "a-token-of-this-machine")

    async def story():
        async with running(replica_of(store, token=True, host="0.0.0.0")) as client:  # noqa: S104
            assert (await client.post("/predict/late", json=ROWS)).status_code == 401
            known = {"authorization": "Bearer a-token-of-this-machine"}
            assert (await client.post("/predict/late", json=ROWS, headers=known)).status_code == 200

    asyncio.run(story())


def test_a_start_that_fails_says_why(store):
    async def story():
        replica = replica_of(store, settings=msgspec.structs.replace(store.config.settings, replicas=-1))
        said = await lived(replica.application, "startup")
        assert said["type"] == "lifespan.startup.failed"
        assert "settings.replicas" in said["message"]

    asyncio.run(story())
