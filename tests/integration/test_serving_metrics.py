"""What a front tells of itself: read by the real Prometheus, under our names and those of other servers."""

import json
import shutil
import socket
import subprocess
import time

import httpx
import pytest

from kilter.serving.records import TrafficPlan
from kilter.serving.telemetry.metrics import EndpointMetrics, Gauges, newest
from kilter.testing.front import RunningFront

AT = "2013-03-01T10:00:00Z"

CONFIG = """
global: {{scrape_interval: 200ms}}
scrape_configs:
  - job_name: front
    authorization: {{credentials: s3cret}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def row(key, **columns):
    return {"id": str(key), "at": AT, "x": 1.0, **columns}


@pytest.fixture
def front(tmp_path):
    with RunningFront(tmp_path, token="s3cret") as running:
        running.plan(TrafficPlan(loop="one", champion=1, bundles={1: running.constant(0.1)}))
        running.start()
        running.client.headers["authorization"] = "Bearer s3cret"
        for number in range(5):
            assert running.predict("one", [row(number), row(-number)]).status_code == 200
        assert running.predict("one", [{"id": "no"}]).status_code == 422
        yield running


def samples(text):
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"}


def test_the_names_that_dashboards_of_other_servers_look_for(front):
    found = samples(front.client.get("/metrics").text)
    mine = '{model="one",version="1"}'
    assert found[f"nv_inference_request_success{mine}"] == 5
    assert found[f"nv_inference_count{mine}"] == 10
    assert 1 <= found[f"nv_inference_exec_count{mine}"] <= 5
    assert found[f"nv_inference_request_duration_us{mine}"] > 0
    assert found['nv_inference_request_failure{model="one",version="1",reason="OTHER"}'] == 1
    assert found['nv_inference_request_failure{model="one",version="1",reason="BACKEND"}'] == 0
    assert found[f"model_infer_request_success_total{mine}"] == 5
    assert found[f"model_infer_request_failure_total{mine}"] == 1
    assert found[f"model_infer_request_duration_count{mine}"] == 5
    assert found['request_predict_seconds_count{model_name="one"}'] == 5
    assert found['request_predict_seconds_bucket{model_name="one",le="+Inf"}'] == 5
    assert found["process_resident_memory_bytes"] > 1e6
    assert found['kilter_serving_requests_total{loop="one",status="200"}'] == 5


def test_versions_of_long_ago_are_told_together():
    assert newest(range(1, 100), [3, 99], most=2) == {0, 3, 99, 98, 97}
    metrics = EndpointMetrics()
    metrics.observe(0.002)
    gauges = Gauges()
    gauges.histogram(metrics, "one")
    assert b'kilter_serving_latency_seconds_bucket{loop="one",le="0.0025"} 1' in gauges.text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_promtool_finds_fault_with_the_names_of_others_only(front):
    text = front.client.get("/metrics").content
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    faults = [line for line in (checked.stdout + checked.stderr).decode().splitlines() if line.strip()]
    assert [line for line in faults if not line.startswith("nv_inference_")] == []


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_prometheus_scrapes_a_front(front, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=front.client.base_url.port))
    log = (tmp_path / "prometheus.log").open("wb")
    prometheus = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        wanted = {
            'sum(kilter_serving_requests_total{loop="one",status="200"})': 5.0,
            'nv_inference_count{model="one"}': 10.0,
            'histogram_quantile(1, sum by (le) (request_predict_seconds_bucket{model_name="one"})) > bool 0': 1.0,
            'up{job="front"}': 1.0,
        }
        end = time.monotonic() + 60
        found: dict[str, float] = {}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            while time.monotonic() < end and found != wanted:
                assert prometheus.poll() is None, (tmp_path / "prometheus.log").read_text()
                found = {query: _ask(client, query) for query in wanted}
                time.sleep(0.05)
            assert found == wanted
            targets = json.loads(client.get("/api/v1/targets").content)["data"]["activeTargets"]
        assert [target["lastError"] for target in targets] == [""]
    finally:
        prometheus.terminate()
        prometheus.wait(20)
        log.close()


def _ask(client, query):
    try:
        result = client.get("/api/v1/query", params={"query": query}).json()["data"]["result"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return float(result[0]["value"][1]) if result else None
