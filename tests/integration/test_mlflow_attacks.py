"""The published attacks on tracking servers, against the wire: refused with a 4xx and a reason, no traceback, no file outside touched."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilter.testing.server import RunningServer

PROXY = "/api/2.0/mlflow-artifacts"
API = "/api/2.0/mlflow"
SECRET = b"the secret outside of the store"

CLIMBS = (
    "../../../../outside.txt",
    "..%2f..%2f..%2foutside.txt",
    "%2e%2e/%2e%2e/outside.txt",
    "%2e%2e%2f%2e%2e%2foutside.txt",
    "%252e%252e%252foutside.txt",
    "..%252f..%252foutside.txt",
    "a/../../../../../outside.txt",
    "..\\..\\outside.txt",
    "..%5c..%5coutside.txt",
    "%5c%5chost%5cshare%5cx",
    "C:%5cWindows%5cwin.ini",
    "C:/Windows/win.ini",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "a%00.txt",
    "..%00/outside.txt",
    "..;/outside.txt/../../x",
    "%c0%ae%c0%ae/outside.txt",
    "..%c0%af..%c0%afoutside.txt",
    "%ff%fe",
    "....//....//..//outside.txt",
    "./../../outside.txt",
    "..",
    ".",
    "n" * 5000,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("attacks")
    (folder / "outside.txt").write_bytes(SECRET)
    return folder / "store"


@pytest.fixture(scope="module")
def port(store) -> Iterator[int]:
    with RunningServer(store, PYTHONWARNINGS="default") as running:
        yield running.port
    # whatever was sent, the server never failed in a way that nobody meant
    assert b"Traceback" not in running.log.read_bytes()


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        given = {"Content-Type": "application/json", **(headers or {})}
        for name, value in {**given, **({} if body is None else {"Content-Length": str(len(body))})}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def call(port: int, path: str, **body: object) -> tuple[int, bytes]:
    return ask(port, "POST", f"{API}/{path}", json.dumps(body).encode())


@pytest.fixture(scope="module")
def run(port) -> str:
    status, body = call(port, "runs/create", experiment_id="0")
    assert status == 200
    return str(json.loads(body)["run"]["info"]["run_id"])


def files_of(store: Path) -> set[str]:
    """Return the files around the store, which nobody may touch."""
    return {file.name for file in store.parent.iterdir()}


@pytest.mark.parametrize("path", CLIMBS)
def test_paths_that_climb_or_hide_are_refused(port, run, store, path):
    before = files_of(store)
    for method, place in (
        ("GET", f"artifacts/0/{run}/artifacts/{path}"),
        ("PUT", f"artifacts/0/{run}/artifacts/{path}"),
        ("DELETE", f"artifacts/0/{run}/artifacts/{path}"),
        ("GET", f"artifacts/{path}"),
        ("PUT", f"artifacts/{path}"),
        ("GET", f"presigned/0/{run}/artifacts/{path}"),
        ("POST", f"mpu/create/0/{run}/artifacts/{path}"),
    ):
        body = b'{"path": "f", "num_parts": 1}' if method == "POST" else b"planted" if method == "PUT" else None
        try:
            status, answer = ask(port, method, f"{PROXY}/{place}", body)
        except http.client.InvalidURL:
            continue
        harmless = method in {"PUT", "POST", "DELETE"} and status == 200
        assert 400 <= status < 500 or harmless, (method, place, status)
        assert SECRET not in answer
        assert b"Traceback" not in answer
        if 400 <= status < 500 and method != "HEAD":
            assert json.loads(answer).get("message") or json.loads(answer).get("detail")
    for folder in ("artifacts/list", "artifacts/list2"):
        status, answer = ask(port, "GET", f"{API}/{folder}?run_id={run}&path={path.replace('%', '%25')}")
        assert status in {200, 400, 404}
        assert SECRET not in answer
    assert files_of(store) == before
    assert (store.parent / "outside.txt").read_bytes() == SECRET


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..\\x", "/etc/x", "a\0b", "", "."])
def test_the_file_of_an_upload_in_parts_cannot_climb(port, run, store, name):
    before = files_of(store)
    status, _ = ask(
        port,
        "POST",
        f"{PROXY}/mpu/create/0/{run}/artifacts/deep",
        json.dumps({"path": name, "num_parts": 1}).encode(),
    )
    # its folder is the client's own and is left away; what remains is a name, or is refused
    assert status == 200 or 400 <= status < 500
    if status == 200:
        assert "\\" not in name
    assert files_of(store) == before


def test_a_link_in_the_store_is_never_followed_out(port, run, store):
    path = f"{PROXY}/artifacts/0/{run}/artifacts/link.txt"
    assert ask(port, "PUT", path, b"linked content")[0] == 200
    [file] = [one for one in (store / "objects").rglob("*") if one.is_file() and one.read_bytes() == b"linked content"]
    file.unlink()
    file.symlink_to(store.parent / "outside.txt")
    status, answer = ask(port, "GET", path)
    assert status >= 400
    assert SECRET not in answer
    file.unlink()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "evil.example@127.0.0.1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Authorization": "Bearer ' OR '1'='1"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/vnd.bentoml+pickle"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_foreign_names_pages_tokens_and_media_are_refused(port, headers):
    for path in (f"{API}/runs/create", f"{PROXY}/mpu/create/0/x/artifacts"):
        status, answer = ask(port, "POST", path, b"{}", headers)
        assert status in {400, 401, 403, 415}, (headers, status)
        assert b"evil" not in answer  # nothing of what was sent comes back


def test_bodies_that_are_too_deep_too_large_or_no_json(port, run):
    for body in (
        b'{"run_id":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"run_id":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"[" * 100_000,
        b'{"run_id": "x", "metrics": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b"{",
        b"\xff\xfe{}",
        b"null",
        b"5",
        b'"text"',
        b"{'run_id': 1}",
        b'{"a": 1}garbage',
        b'{"run_id": "\xed\xa0\x80"}',
    ):
        for path in ("runs/log-batch", "runs/log-metric", "runs/search", "experiments/create"):
            status, answer = ask(port, "POST", f"{API}/{path}", body)
            assert 400 <= status < 500, (body[:30], path, status)
            assert json.loads(answer)["error_code"]
            assert len(answer) < 4000  # what was sent does not come back
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(
            f"POST {API}/runs/create HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {10**15}\r\n\r\n".encode()
        )
        assert b" 413 " in raw.recv(1000)
    for value in ("1e999", "-1e400", '"x"', "null", "true", "[]", "{}", "NaN", "Infinity"):
        given = f'{{"run_id": "{run}", "key": "odd", "value": {value}, "timestamp": 1}}'.encode()
        assert ask(port, "POST", f"{API}/runs/log-metric", given)[0] == 400, value
    for step in ("9223372036854775808", "-9223372036854775809", "1.5", "1e30", '"x"'):
        given = f'{{"run_id": "{run}", "key": "odd", "value": 1, "timestamp": 1, "step": {step}}}'.encode()
        assert ask(port, "POST", f"{API}/runs/log-metric", given)[0] == 400, step
    _, answer = ask(port, "GET", f"{API}/metrics/get-history?run_id={run}&metric_key=odd")
    assert json.loads(answer).get("metrics", []) == []


def test_huge_names_are_refused_and_html_is_kept_as_text(port, run):
    huge = "n" * 100_000
    for path, body in (
        ("experiments/create", {"name": huge}),
        ("runs/log-metric", {"run_id": run, "key": huge, "value": 1.0, "timestamp": 1}),
        ("runs/log-parameter", {"run_id": run, "key": huge, "value": "x"}),
        ("runs/set-tag", {"run_id": run, "key": huge, "value": "x"}),
        ("runs/log-metric", {"run_id": huge, "key": "m", "value": 1.0, "timestamp": 1}),
        ("runs/search", {"experiment_ids": ["0"], "filter": huge}),
        ("runs/search", {"experiment_ids": ["0"], "order_by": [huge]}),
        ("runs/search", {"experiment_ids": [huge]}),
        ("runs/search", {"experiment_ids": ["0"], "page_token": huge}),
    ):
        status, answer = call(port, path, **body)
        assert 400 <= status < 500, (path, status)
        assert b"Traceback" not in answer
    html = "<img src=x onerror=alert(1)>"
    status, answer = call(port, "experiments/create", name=html)
    assert status == 200
    number = json.loads(answer)["experiment_id"]
    assert (
        json.loads(ask(port, "GET", f"{API}/experiments/get?experiment_id={number}")[1])["experiment"]["name"] == html
    )
    path = f"{PROXY}/artifacts/0/{run}/artifacts/page.html"
    assert ask(port, "PUT", path, b"<script>alert(1)</script>")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    answer_ = connection.getresponse()
    assert (
        answer_.getheader("Content-Disposition") == "attachment; filename=page.html"
    )  # never shown as a page of this server
    assert answer_.getheader("X-Content-Type-Options") == "nosniff"
    assert "default-src 'self'" in str(answer_.getheader("Content-Security-Policy"))
    answer_.read()
    connection.close()


@pytest.mark.parametrize(
    "text",
    [
        "tags.a = 'x' OR 1=1",
        "tags.a = 'x'; DROP TABLE runs",
        "attributes.run_name = '' UNION SELECT 1",
        "metrics.`x'; --` > 0 or 1=1",
        "params.x LIKE '%' ESCAPE '\\'--",
    ],
)
def test_filters_are_no_sql(port, run, text):
    status, answer = call(port, "runs/search", experiment_ids=["0"], filter=text)
    assert status == 400
    assert json.loads(answer)["error_code"] == "INVALID_PARAMETER_VALUE"
    assert call(port, "runs/search", experiment_ids=["0"])[0] == 200


def test_only_known_methods_and_paths(port):
    for method, path in (
        ("TRACE", f"{API}/runs/get"),
        ("CONNECT", f"{API}/runs/get"),
        ("PATCH", f"{API}/runs/create"),
        ("DELETE", f"{API}/runs/search"),
        ("PUT", f"{API}/runs/create"),
        ("POST", f"{API}/runs/../runs/create/"),
        ("POST", f"{API}//runs/create"),
        ("GET", "/api/2.0/mlflow/get-artifact?path=../../x"),
        ("GET", "/get-artifact?path=../../x&run_uuid=x"),
        ("GET", "/model-versions/get-artifact?path=../../x"),
        ("POST", "/graphql"),
        ("POST", "/ajax-api/3.0/jobs"),
    ):
        status, _ = ask(port, method, path, b"{}" if method in {"POST", "PUT", "PATCH"} else None)
        assert 400 <= status < 500, (method, path, status)
