"""Large files over MLflow's wire and our own: in parts, by ranges, cut off and gone on with, shared between versions."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilter.core.digests import digest
from kilter.loop.workspace import connect
from kilter.testing.server import RunningServer
from kilter.tracking.transfer import fetch_file, send_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow.*"),
    # the client leaves its kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

MIB = 1 << 20
PROXY = "/api/2.0/mlflow-artifacts"
TOKEN = "owner-of-the-test-0123456789abcdef"


class Server(RunningServer):
    """A server that can be asked."""

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        host, port = self.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Content-Type": "application/json", **given})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("files") / "store")
    found.start()
    yield found
    found.stop()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def new_run(server: Server) -> str:
    _, _, body = server.ask("POST", "/api/2.0/mlflow/runs/create", b'{"experiment_id": "0"}')
    return str(json.loads(body)["run"]["info"]["run_id"])


def test_ranges_and_conditions(server):
    run, data = new_run(server), noise(9 * MIB)
    path = f"{PROXY}/artifacts/0/{run}/artifacts/m/weights.bin"
    assert server.ask("PUT", path, data)[0] == 200
    status, headers, body = server.ask("GET", path)
    assert (status, body == data, headers["etag"]) == (200, True, f'"{digest(data)}"')
    assert (headers["accept-ranges"], headers["content-disposition"]) == ("bytes", "attachment; filename=weights.bin")
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        (f"bytes={5 * MIB}-{5 * MIB + 99}", 5 * MIB, 5 * MIB + 100),
        (f"bytes={8 * MIB}-", 8 * MIB, len(data)),
        ("bytes=-10", len(data) - 10, len(data)),
        (f"bytes=5-{10 * len(data)}", 5, len(data)),
    ):
        status, headers, body = server.ask("GET", path, Range=asked)
        assert (status, body == data[start:end]) == (206, True), asked
        assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    for asked in (f"bytes={len(data)}-", f"bytes={10 * len(data)}-{11 * len(data)}", "bytes=-0"):
        status, headers, body = server.ask("GET", path, Range=asked)
        assert (status, headers["content-range"], body) == (416, f"bytes */{len(data)}", b"")
    for asked in ("bytes=5-2", "lines=1-2", "bytes=a-b", "bytes=0-1,5-6", "bytes=" + "9" * 40 + "-"):
        assert server.ask("GET", path, Range=asked)[::2] == (200, data), asked  # what can't be read is left aside
    assert server.ask("GET", path, If_None_Match=f'"other", "{digest(data)}"')[::2] == (304, b"")
    assert server.ask("GET", path, If_None_Match='"other"')[0] == 200
    assert server.ask("GET", path, Range="bytes=0-0", If_Range='"other"')[0] == 200
    status, headers, body = server.ask("HEAD", path)
    assert (status, headers["content-length"], body) == (200, str(len(data)), b"")
    assert server.ask("PUT", f"{path}.empty", b"")[0] == 200
    assert server.ask("GET", f"{path}.empty")[::2] == (200, b"")


def test_a_client_sends_a_file_in_parts(server, tmp_path, monkeypatch):
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(MIB))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * MIB))
    monkeypatch.setenv("MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE", str(5 * MIB))
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri(server.url)
    client = mlflow.MlflowClient(server.url)
    run, file = new_run(server), tmp_path / "package.bin"
    file.write_bytes(noise(23 * MIB, 3))
    staging = server.store / "objects" / "staging"
    before = set(staging.rglob("*"))
    client.log_artifact(run, str(file), "model")
    left = [one.name for one in set(staging.rglob("*")) - before if one.is_file()]
    assert left == ["about"]  # its parts are gone
    back = client.download_artifacts(run, "model/package.bin", str(tmp_path / "."))
    assert Path(back).read_bytes() == noise(23 * MIB, 3)
    with connect(server.url, server.token) as kilter:
        assert [(one.name, one.size) for one in kilter.runs.get(run).artifacts] == [("model/package.bin", 23 * MIB)]


def test_uploads_in_parts_hold_to_their_rules(server):
    run = new_run(server)
    place = f"0/{run}/artifacts/model"

    def post(act: str, at: str = place, **body: Any) -> tuple[int, dict[str, Any]]:
        status, _, answer = server.ask("POST", f"{PROXY}/mpu/{act}/{at}", json.dumps(body).encode())
        assert b"Traceback" not in answer
        return status, json.loads(answer)

    status, made = post("create", path="/somewhere/on/the/client/f.bin", num_parts=3)
    assert status == 200
    upload = made["upload_id"]
    parts = [noise(6 * MIB, seed) for seed in range(3)]
    tags = []
    for credential, part in reversed(list(zip(made["credentials"], parts, strict=True))):
        path = credential["url"].removeprefix(server.url)
        status, headers, _ = server.ask("PUT", path, part)
        assert status == 200
        tags.insert(0, {"part_number": credential["part_number"], "etag": headers["etag"]})
    with connect(server.url, server.token) as kilter:
        assert not kilter.runs.get(run).artifacts  # nothing is seen before it is whole
    for wrong in (
        [],
        tags[::-1],
        [*tags, {"part_number": 4, "etag": ""}],
        [tags[0], tags[0]],
        [{"part_number": 1, "etag": "other"}, *tags[1:]],
        [{"part_number": "x"}],
        "no",
    ):
        assert post("complete", path="f.bin", upload_id=upload, parts=wrong)[0] == 400, wrong
    assert post("complete", path="g.bin", upload_id=upload, parts=tags)[0] == 400
    assert post("complete", path="f.bin", upload_id="0" * 32, parts=tags)[0] == 404
    assert post("complete", path="f.bin", upload_id="../../x", parts=tags)[0] == 404
    assert post("complete", path="f.bin", upload_id=upload, parts=tags) == (200, {})
    assert post("complete", path="f.bin", upload_id=upload, parts=tags) == (200, {})  # the answer was lost: once more
    assert server.ask("GET", f"{PROXY}/artifacts/{place}/f.bin")[2] == b"".join(parts)
    assert server.ask("PUT", f"{PROXY}/mpu/part/{upload}/1", b"late")[0] == 400
    _, made = post("create", path="h.bin", num_parts=1)
    assert server.ask("PUT", f"{PROXY}/mpu/part/{made['upload_id']}/1", b"x")[0] == 200
    assert post("abort", path="h.bin", upload_id=made["upload_id"]) == (200, {})
    assert server.ask("PUT", f"{PROXY}/mpu/part/{made['upload_id']}/1", b"x")[0] == 404
    for number in ("0", "10001", "-1", "x", "1/../2", "99999999"):
        assert 400 <= server.ask("PUT", f"{PROXY}/mpu/part/{upload}/{number}", b"x")[0] < 500, number
    for body in (
        {"path": "f", "num_parts": 0},
        {"path": "f", "num_parts": 10_001},
        {},
        {"path": "f", "num_parts": "x"},
    ):
        assert post("create", **body)[0] == 400, body
    assert post("create", at="0/none/artifacts", path="f", num_parts=1)[0] == 404
    for at in ("../../etc", "0/x", f"0/{run}/artifacts/../../../x"):
        assert post("create", at=at, path="f", num_parts=1)[0] == 400, at
    _, made = post("create", path="..", num_parts=1)
    assert "upload_id" not in made
    assert server.ask("GET", f"{PROXY}/mpu/create/{place}")[0] == 405
    assert post("nothing", path="f")[0] == 404


def test_parts_need_the_token_where_calls_do(tmp_path):
    server = Server(tmp_path / "store", KILTER_TOKEN=TOKEN)
    server.start()
    try:
        token = f"Bearer {TOKEN}"
        status, _, body = server.ask(
            "POST", "/api/2.0/mlflow/runs/create", b'{"experiment_id": "0"}', Authorization=token
        )
        run = json.loads(body)["run"]["info"]["run_id"]
        path = f"{PROXY}/mpu/create/0/{run}/artifacts"
        assert server.ask("POST", path, b'{"path": "f", "num_parts": 1}')[0] == 401
        _, _, body = server.ask("POST", path, b'{"path": "f", "num_parts": 1}', Authorization=token)
        [credential] = json.loads(body)["credentials"]
        part = credential["url"].removeprefix(server.url)
        assert server.ask("PUT", part, b"x")[0] == 401
        status, _, _ = server.ask("PUT", part, b"x", **credential["headers"])
        assert status == 200
    finally:
        server.stop()


@pytest.mark.slow
def test_an_upload_goes_on_where_the_server_was_killed(tmp_path):
    with Server(tmp_path / "store") as server, connect(server.url, server.token) as kilter:
        runs = kilter.runs
        run, file = runs.start("large").id, tmp_path / "weights.bin"
        first = noise(60 * MIB, 7)
        file.write_bytes(first)

        class Cut(Exception):
            pass

        def until_half(done: int, _sent: int) -> None:
            if done > len(first) / 2:
                raise Cut

        with pytest.raises(Cut):
            send_file(runs, file, run, "model/weights.bin", progress=until_half)
        server.kill()
        server.start()
        assert not runs.get(run).artifacts
        told: list[tuple[int, int]] = []
        entry = send_file(runs, file, run, "model/weights.bin", progress=lambda *said: told.append(said))
        assert told[-1][0] == len(first)
        assert told[-1][1] < len(first) * 0.6  # the first half was there
        assert entry.digest == digest(first)
        second = b"a longer header" + first[3:]
        file.write_bytes(second)
        told.clear()
        later = send_file(runs, file, run, "model/second.bin", progress=lambda *said: told.append(said))
        assert told[-1][1] <= 8 * MIB  # only what changed
        half = tmp_path / f"back.bin.{later.digest[:16]}.part"
        half.write_bytes(second[: 20 * MIB])  # as an earlier attempt leaves it
        asked: list[int] = []
        fetch_file(runs, tmp_path / "back.bin", later, run, progress=lambda done, _: asked.append(done))
        assert (tmp_path / "back.bin").read_bytes() == second
        assert len(asked) == 11  # pieces of 4 MiB, of the rest alone
        # a body that breaks off leaves nothing either
        host, port = server.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.putrequest("PUT", f"{PROXY}/artifacts/0/{run}/artifacts/torn.bin")
        connection.putheader("Content-Length", str(40 * MIB))
        connection.endheaders()
        connection.send(noise(20 * MIB, 9))
        connection.close()
        time.sleep(1)
        assert {one.name for one in runs.get(run).artifacts} == {"model/weights.bin", "model/second.bin"}
        assert server.ask("GET", f"{PROXY}/artifacts/0/{run}/artifacts/torn.bin")[0] == 404
