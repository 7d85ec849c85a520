"""What a caller of a front sees: answers, swaps, shadows, refusals, and the door."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import numpy as np
import polars as pl
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.features.declare import count, features, mean
from kilter.packaging.bundle import package
from kilter.serving.answering.router import Router
from kilter.serving.recording.predictions import PredictionLog, shadows_to_frame, to_frame
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

AT = "2013-03-01T10:00:00Z"


def row(key, **columns):
    return {"id": str(key), "at": AT, "x": 1.0, **columns}


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with RunningFront(tmp_path_factory.mktemp("front"), load_timeout=20.0) as running:
        running.one, running.two, running.other = (running.constant(v) for v in (0.1, 0.2, 0.3))
        running.plan(TrafficPlan(loop="solo", champion=1, bundles={1: running.one}, fallback=0.9))
        yield running.start()


def records(front):
    log = PredictionLog.open(front.folder / "log")
    found = list(log.read())
    log.close()
    return found


# ---------------------------------------------------------------- answers


def test_an_answer_and_its_record(front):
    answer = front.predict("solo", [row("a"), row("b", unknown=1, x=None)])
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == "solo"
    assert [(one["value"], one["version"], one["arm"]) for one in body["predictions"]] == [(0.1, 1, "champion")] * 2
    found = front.endpoints.prediction(body["predictions"][1]["id"])
    assert (found.key, found.value, found.inputs) == ("b", 0.1, {"x": None})
    assert found.time == datetime(2013, 3, 1, 10, tzinfo=UTC)


def test_readiness_models_and_metrics(front):
    assert front.client.get("/livez").json() == {"live": True}
    assert front.client.get("/readyz").status_code == 200
    described = front.models("solo")
    assert described["champion"] == 1
    assert described["versions"][0]["ready"]
    front.predict("solo", [row("a")])
    assert front.metric("requests_total", loop="solo", status="200") >= 1
    assert front.metric("latency_seconds_count", loop="solo") >= 1
    assert front.metric("generation", loop="solo") == 1


@pytest.mark.parametrize(
    ("content", "status", "where"),
    [
        (b"{", 400, ""),
        (b"\xff\xfe", 400, ""),
        (b"[]", 422, "body"),
        (b'{"rows": 5}', 422, "$.rows"),
        (b'{"rows": []}', 422, "rows"),
        (b'{"rows": [{"id": {"secret": 1}}]}', 422, "$.rows[0][...]"),
        (b'{"rows": [{"id": "a", "at": "2013-03-01T10:00:00Z"}]}', 422, "rows[0].x"),
        (b'{"rows": [{"id": "a", "at": "secret", "x": 1}]}', 422, "rows[0].at"),
        (b'{"rows": [{"id": "a", "at": 0, "x": "secret"}]}', 422, "rows[0].x"),
        (b'{"rows": [{"id": "a", "at": 0, "x": 1e999}]}', 422, None),
        (b'{"rows": [{"id": "a", "at": 0, "x": NaN}]}', 400, None),
        (b'{"rows": [{"at": 0, "x": 1}], "secret": 1}', 422, None),
        (b'{"rows": [' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"]}", None, None),
        (json.dumps({"rows": [{"id": "a", "at": 0, "x": 1}] * 10_001}).encode(), 413, None),
    ],
)
def test_bad_bodies_are_refused_with_the_place_and_without_the_value(front, content, status, where):
    answer = front.client.post("/predict/solo", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == (status or answer.status_code)
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert where is None or answer.json()["where"] == where
    assert "secret" not in answer.text
    assert len(answer.text) < 600


def test_wrong_paths_methods_and_types(front):
    client = front.client
    assert client.post("/predict/none", json={"rows": []}).status_code == 404
    assert client.get("/nothing").status_code == 404
    refused = client.get("/predict/solo")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert client.post("/predict/solo", content=b"{}").status_code == 415
    named = {"content-type": "application/json", "content-encoding": "br"}
    assert client.post("/predict/solo", content=b"{}", headers=named).status_code == 415
    not_gzip = {"content-type": "application/json", "content-encoding": "gzip"}
    assert client.post("/predict/solo", content=b"{}", headers=not_gzip).status_code == 400


def test_only_this_machines_names_and_no_foreign_pages(front):
    url = str(front.client.base_url)
    assert httpx.get(f"{url}/livez", headers={"host": "evil.example"}).status_code == 403
    for origin in ("http://evil.example", "null", "http://localhost.evil.example"):
        assert httpx.get(f"{url}/models", headers={"origin": origin}).status_code == 403
    assert httpx.get(f"{url}/models", headers={"origin": url.rstrip("/")}).status_code == 200


# ---------------------------------------------------------------- traffic


def test_a_canary_is_split_by_key_and_answered_by_its_own_model(front):
    plan = TrafficPlan(
        loop="canary",
        champion=1,
        challenger=2,
        mode="canary",
        share=25,
        bundles={1: front.one, 2: front.two},
        fallback=0.9,
    )
    front.plan(plan)
    keys = [f"k{number}" for number in range(400)]
    answers = front.predict("canary", [row(key) for key in keys]).json()["predictions"]
    router = Router("canary", 2, 25)
    assert [one["arm"] for one in answers] == [router.arm(key) for key in keys]
    assert {(one["arm"], one["value"], one["version"]) for one in answers} == {
        ("champion", 0.1, 1),
        ("challenger", 0.2, 2),
    }
    recorded = to_frame(records(front), loop="canary")
    assert recorded["share"].unique().to_list() == [25]
    assert recorded["key"].to_list() == keys
    before = {key for key, one in zip(keys, answers, strict=True) if one["arm"] == "challenger"}
    front.plan(msgspec.structs.replace(plan, share=50))
    after = front.predict("canary", [row(key) for key in keys]).json()["predictions"]
    assert before < {key for key, one in zip(keys, after, strict=True) if one["arm"] == "challenger"}


def test_a_shadow_scores_copies_and_nobody_sees_it(front):
    front.plan(
        TrafficPlan(
            loop="shadow", champion=1, challenger=2, mode="shadow", bundles={1: front.one, 2: front.two}, fallback=0.9
        )
    )
    answers = front.predict("shadow", [row("a"), row("b")]).json()["predictions"]
    assert {(one["arm"], one["value"]) for one in answers} == {("champion", 0.1)}
    front.until(lambda: front.metric("shadow_rows_total", loop="shadow") == 2)
    found = shadows_to_frame(records(front), loop="shadow")
    assert found["id"].to_list() == [one["id"] for one in answers]
    assert found["shadow_value"].to_list() == [0.2, 0.2]
    assert front.metric("shadow_dropped_total", loop="shadow") == 0


def test_a_challenger_that_needs_a_column_nobody_sends_leaves_the_row_to_the_champion(front):
    wide = front.constant(0.7, ("x", "y"))
    plan = TrafficPlan(loop="wide", champion=1, challenger=2, mode="canary", share=99, bundles={1: front.one, 2: wide})
    front.plan(plan)
    answers = front.predict("wide", [row(number) for number in range(50)]).json()["predictions"]
    assert {(one["arm"], one["version"]) for one in answers} <= {("champion", 1), ("fallback", 1)}
    with_it = front.predict("wide", [row(number, y=1) for number in range(50)]).json()["predictions"]
    assert ("challenger", 2) in {(one["arm"], one["version"]) for one in with_it}


def test_the_constant_answers_when_no_model_can(front):
    front.plan(TrafficPlan(loop="constant", champion=None, fallback=0.25))
    answer = front.predict("constant", [{"anything": 1}]).json()["predictions"][0]
    assert (answer["value"], answer["version"], answer["arm"]) == (0.25, 0, "fallback")


def test_a_model_that_refuses_a_row_leaves_it_to_the_constant(front):
    linear = pytest.importorskip("sklearn.linear_model")
    pytest.importorskip("skops")
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 1))
    model = linear.LogisticRegression().fit(X, (X[:, 0] > 0).astype(int))
    digest = package(
        model, Encoding(("x",), ("numeric",), {}), X, [], front.objects, table=Table("t", "id", "at")
    ).digest
    front.plan(TrafficPlan(loop="linear", champion=1, bundles={1: digest}, fallback=0.25))
    good, bad = (front.predict("linear", [row("a", x=x)]).json()["predictions"][0] for x in (1.0, None))
    assert (good["arm"], good["version"]) == ("champion", 1)
    assert (bad["arm"], bad["version"], bad["value"]) == ("fallback", 0, 0.25)


# ---------------------------------------------------------------- plans


def test_a_plan_that_cannot_be_loaded_changes_nothing_and_says_why(front):
    plan = TrafficPlan(loop="broken", champion=1, bundles={1: front.one}, fallback=0.9)
    first = front.plan(plan)
    wrong = msgspec.structs.replace(plan, champion=2, bundles={2: "0" * 64})
    second = front.plan(wrong, wait=False)
    front.until(lambda: front.endpoints.status("broken")[0].error)
    status = front.endpoints.status("broken")[0]
    assert (status.applied, status.generation) == (first, second)
    assert "no object" in status.error
    assert front.predict("broken", [row("a")]).json()["predictions"][0]["version"] == 1
    front.plan(msgspec.structs.replace(plan, champion=2, bundles={2: front.two}))
    assert front.endpoints.status("broken")[0].error == ""
    assert front.predict("broken", [row("a")]).json()["predictions"][0]["version"] == 2


def test_versions_are_swapped_under_load_without_a_failed_request(front):
    bundles = {1: front.one, 2: front.two, 3: front.other}
    front.plan(TrafficPlan(loop="swap", champion=1, bundles=bundles, fallback=0.9))
    stopping = threading.Event()
    seen, failed = [], []

    def ask():
        with httpx.Client(base_url=front.client.base_url) as client:
            number = 0
            while not stopping.is_set():
                number += 1
                answer = client.post("/predict/swap", json={"rows": [row(number), row(number)]})
                if answer.status_code != 200:
                    failed.append(answer.text)
                else:
                    seen.append({(one["version"], one["arm"], one["value"]) for one in answer.json()["predictions"]})

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    first = front.pids("swap", 1)[0]
    for champion in (2, 3, 1, 2, 3):
        front.plan(TrafficPlan(loop="swap", champion=champion, bundles=bundles, fallback=0.9))
        now = front.predict("swap", [row("now")]).json()["predictions"][0]
        assert (now["version"], now["arm"]) == (champion, "champion")
    stopping.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(seen) > 20
    assert all(len(one) == 1 for one in seen), "no answer mixes versions"
    assert {version for one in seen for version, _, _ in one} <= {1, 2, 3}
    front.until(lambda: not Path(f"/proc/{first}").exists(), 10)


# ---------------------------------------------------------------- repeated requests


def test_a_repeated_request_gets_the_same_answer_and_no_second_record(front):
    first = front.predict("solo", [row("i")], idempotency_key="k-1")
    before = len(records(front))
    again = front.predict("solo", [row("i")], idempotency_key="k-1")
    assert again.json() == first.json()
    assert len(records(front)) == before
    other = front.predict("solo", [row("j")], idempotency_key="k-1")
    assert (other.status_code, other.json()["where"]) == (422, "Idempotency-Key")
    assert front.predict("solo", [row("j")], idempotency_key="k" * 300).status_code == 422


# ---------------------------------------------------------------- features


def test_features_are_looked_up_as_of_the_rows_time(tmp_path):
    from kilter.engines.online.store import OnlineStore
    from kilter.features.online import OnlineFeatures

    lightgbm = pytest.importorskip("lightgbm")
    flights = Table("flights", key="id", time="at")
    view = features(flights, entity="origin", time="dep", lag="0s", delay_3h=mean("delay", "3h"), n_3h=count("3h"))
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "origin": ["EWR", "EWR", "JFK"],
            "dep": [datetime(2013, 3, 1, 9, minute, tzinfo=UTC) for minute in (0, 30, 45)],
            "delay": [10.0, 20.0, 60.0],
        }
    ).with_columns(pl.col("dep").cast(pl.Datetime("us", "UTC")))
    store = OnlineStore.open(tmp_path / "online")
    OnlineFeatures(store).backfill(view, frame, position=0, at=datetime(2013, 3, 1, 10, tzinfo=UTC))
    random = np.random.default_rng(0)
    X = random.normal(size=(500, 3)) * 30
    model = lightgbm.LGBMRegressor(n_estimators=20, verbosity=-1, n_jobs=1).fit(X, X[:, 1])
    with RunningFront(tmp_path, online=str(tmp_path / "online")) as running, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoding = Encoding(("x", "delay_3h", "n_3h"), ("numeric",) * 3, {})
        bundle = package(model, encoding, X, [view], running.objects, table=flights, label="regression")
        running.plan(TrafficPlan(loop="late", champion=1, bundles={1: bundle.digest}))
        running.start()
        asked = [row("q", origin="EWR"), row("r", origin="JFK"), row("s", origin="LGA"), row("t")]
        answers = running.predict("late", asked).json()["predictions"]
        seen = [running.endpoints.prediction(one["id"]).inputs for one in answers]
        assert [(one["delay_3h"], one["n_3h"]) for one in seen] == [(15.0, 2), (60.0, 1), (None, 0), (None, 0)]
        expected = model.predict(np.array([[1.0, 15, 2], [1, 60, 1], [1, np.nan, 0], [1, np.nan, 0]]))
        assert [one["value"] for one in answers] == pytest.approx(expected.tolist(), abs=1e-12)
    store.close()


# ---------------------------------------------------------------- starting and stopping


def test_a_front_that_cannot_start_says_why(front, tmp_path):
    def refused(**settings):
        config = msgspec.structs.replace(front.config, front="another", announce="", **settings)
        command = [sys.executable, "-m", "kilter.serving.front.process", msgspec.json.encode(config).decode()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr.splitlines()[-1]

    code, message = refused(port=front.client.base_url.port)
    assert code == 5
    assert "the port is in use" in message
    code, message = refused(host="0.0.0.0")  # noqa: S104 - that is what is refused
    assert code == 1
    assert "needs a token" in message
    code, message = refused(clock="sundial")
    assert "no clock" in message
    config = msgspec.structs.replace(front.config, announce="", port=0)
    command = [sys.executable, "-m", "kilter.serving.front.process", msgspec.json.encode(config).decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "another writer has the log open" in done.stderr


def test_every_route_but_the_probes_needs_the_token(tmp_path):
    with RunningFront(tmp_path, token="s3cret") as running:
        running.plan(TrafficPlan(loop="solo", champion=None, fallback=0.5))
        running.start()
        for path in ("/livez", "/readyz"):
            assert running.client.get(path).status_code == 200
        for method, path in (
            ("GET", "/models"),
            ("GET", "/metrics"),
            ("POST", "/predict/solo"),
            ("DELETE", "/models"),
            ("GET", "/x"),
        ):
            assert running.client.request(method, path).status_code == 401
            wrong = {"authorization": "Bearer wrong"}
            assert running.client.request(method, path, headers=wrong).status_code == 401
        right = {"authorization": "Bearer s3cret"}
        assert running.client.get("/models", headers=right).status_code == 200
        assert running.client.post("/predict/solo", json={"rows": [{}]}, headers=right).status_code == 200


def test_a_front_that_is_told_to_stop_answers_what_is_under_way(tmp_path):
    with RunningFront(tmp_path, stall=30.0, deadline=30.0) as running:
        running.plan(TrafficPlan(loop="solo", champion=1, bundles={1: running.constant(0.5)}))
        running.start()
        worker = running.pids("solo", 1)[0]
        os.kill(worker, signal.SIGSTOP)  # the answer can't come before it goes on
        answers = []
        asking = threading.Thread(target=lambda: answers.append(running.predict("solo", [row("a")])))
        asking.start()
        time.sleep(0.3)
        process = running.process
        process.terminate()
        time.sleep(0.3)
        assert process.poll() is None
        os.kill(worker, signal.SIGCONT)
        asking.join(10)
        assert answers[0].status_code == 200
        assert process.wait(10) == 0
        running.process = None
        running.until(lambda: not Path(f"/proc/{worker}").exists(), 5)
