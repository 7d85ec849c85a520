"""A running server: the same calls, results and errors as on the store itself, and what holds on a real socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime

import httpx
import pytest

from kilter.core.errors import Forbidden, InvalidInput, NotFound, Unauthorized, Unavailable
from kilter.data.declare import Table
from kilter.loop.workspace import Workspace, connect
from kilter.operations.client import Remote
from kilter.operations.running import RunFolder, Running
from kilter.operations.table import operation
from kilter.tracking.records import MetricPoint


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kilter.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )


def wait_for(folder: RunFolder, name: str, process: subprocess.Popen[bytes], seconds: float = 60.0) -> Running:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = folder.read(name)
        if found is not None and found.pid == process.pid:
            return found
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.05)
    raise AssertionError(f"{name} did not start")


def end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    return process.returncode


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("remote") / "store"
    process = start(
        "server", "--store", str(store), "--port", "0", environment={"KILTER_VIEWER_TOKEN": "viewer-of-the-test"}
    )
    folder = RunFolder(store / "run")
    running = wait_for(folder, "server", process)
    yield store, running, folder.token()
    assert end(process) == 0
    assert folder.read("server") is None


def test_the_same_calls_give_the_same_structs_and_errors(server):
    store, running, token = server
    remote = connect(running.url, token)
    run = remote.runs.start("flights", params={"trees": 80}, seed=7)
    remote.runs.log_metrics(run.id, [MetricPoint(name="auc", value=0.7, step=step) for step in range(3)])
    remote.runs.log_artifact(run.id, "a.bin", b"\x00\xff")
    remote.runs.finish(run.id)
    remote.data.declare(Table("flights", key="id", time="at"))
    remote.data.append("flights", [{"id": 1, "at": "2013-03-01T00:00:00Z", "delay": 3.5}])
    with Workspace.open(store) as local:
        assert remote.runs.get(run.id) == local.runs.get(run.id)
        assert remote.runs.list(limit=5) == local.runs.list(limit=5)
        assert remote.runs.list("flights", order="started") == local.runs.list("flights", order="started")
        assert remote.runs.metrics(run.id, "auc") == local.runs.metrics(run.id, "auc")
        assert remote.runs.artifact(run.id, "a.bin") == b"\x00\xff"
        assert remote.journal.events() == local.journal.events()
        assert remote.loops.list() == local.loops.list() == ()
        assert remote.data.tables() == local.data.tables()
        at = datetime(2030, 1, 1, tzinfo=UTC)
        assert remote.data.version("flights", at) == local.data.version("flights", at)
        assert isinstance(remote.runs, type(local.runs))

        for call in (
            lambda rooms: rooms.runs.get("run_none"),
            lambda rooms: rooms.runs.list(limit=-1),
            lambda rooms: rooms.loops.status("none"),
            lambda rooms: rooms.models.get("none", 1),
        ):
            with pytest.raises((NotFound, InvalidInput)) as there:
                call(remote)
            with pytest.raises(type(there.value)) as here:
                call(local)
            assert str(there.value) == str(here.value)
    remote.close()


def test_wrong_calls_of_a_stand_in(server):
    _, running, token = server
    remote = connect(running.url, token)
    with pytest.raises(InvalidInput, match="unknown argument 'limt'"):
        remote.runs.list(limt=3)
    with pytest.raises(TypeError, match="twice"):
        remote.runs.list("a", experiment="b")
    with pytest.raises(InvalidInput, match="not an operation"):
        remote.data.frame("flights")
    remote.close()


def test_tokens_and_roles_on_the_wire(server):
    _, running, token = server
    for wrong in ("wrong", token + "x"):
        with closing(connect(running.url, wrong)) as nobody, pytest.raises(Unauthorized):
            nobody.runs.list()
    with closing(connect(running.url, "viewer-of-the-test")) as viewer:
        assert viewer.loops.list() == ()
        with pytest.raises(Forbidden):
            viewer.runs.start("flights")
    with closing(connect("http://127.0.0.1:1", token)) as nowhere, pytest.raises(Unavailable):
        nowhere.runs.list()


class Counter:
    """What the lost-answer test calls."""

    @operation(writes=True)
    def start(self, experiment: str) -> dict:
        """Stand in for ``runs.start``."""
        raise NotImplementedError


def test_a_write_whose_answer_was_lost_is_done_once(server):
    """A proxy that cuts the first answer of every connection: the client tries again with its key."""
    store, running, token = server
    listener = socket.create_server(("127.0.0.1", 0))
    cut = []

    def relay() -> None:
        while True:
            try:
                inside, _ = listener.accept()
            except OSError:
                return
            request = inside.recv(1 << 20)
            while b"\r\n\r\n" not in request or len(request.partition(b"\r\n\r\n")[2]) < _length(request):
                request += inside.recv(1 << 20)
            answer = _forward(request, running.port)
            if len(cut) < 2:
                cut.append(answer)  # the server has answered, and the client never hears of it
            else:
                inside.sendall(answer)
            inside.close()

    threading.Thread(target=relay, daemon=True).start()
    through = Remote(f"http://127.0.0.1:{listener.getsockname()[1]}", token)
    made = through.service("runs", Counter).start("lost-answers")
    listener.close()
    through.close()
    assert len(cut) == 2
    with Workspace.open(store) as local:
        assert [run.id for run in local.runs.list("lost-answers").runs] == [made["id"]]


def _length(request: bytes) -> int:
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _forward(request: bytes, port: int) -> bytes:
    # The Host header names the proxy, which the server takes for itself: both are 127.0.0.1.
    with socket.create_connection(("127.0.0.1", port)) as outside:
        # The client keeps its connections without a word; the server is told to close, or its answer would end much later.
        outside.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        answer = b""
        while part := outside.recv(1 << 16):
            answer += part
        return answer


def test_the_stream_tells_events_and_goes_on_where_it_was(server):
    store, running, token = server
    headers = {"Authorization": f"Bearer {token}"}
    with Workspace.open(store) as local:
        journal, database = local.journal_log, local.database
        with database.transaction() as connection:
            first = journal.append(connection, "Happened", "streamed", {"line": "one\ntwo"})
        with httpx.Client(base_url=running.url, headers=headers, timeout=20, trust_env=False) as client:
            query = {"after": str(first.seq - 1), "subject": "streamed"}
            with client.stream("GET", "/api/v1/journal/stream", params=query) as answer:
                lines = answer.iter_lines()
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert _next_event(lines)["seq"] == first.seq
                with database.transaction() as connection:
                    second = journal.append(connection, "Happened", "streamed@v1", {})
                assert _next_event(lines)["seq"] == second.seq
            again = {"Last-Event-ID": str(first.seq)}
            with client.stream("GET", "/api/v1/journal/stream", params=query, headers=again) as answer:
                assert _next_event(answer.iter_lines())["seq"] == second.seq
            assert client.get("/api/v1/journal/stream", params={"after": "x"}).status_code == 422


def _next_event(lines):
    for line in lines:
        if line.startswith("data: "):
            return json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream has ended")


def test_a_half_sent_request_holds_nobody_up(server):
    _, running, token = server
    slow = socket.create_connection(("127.0.0.1", running.port))
    slow.sendall(b"POST /api/v1/runs/list HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n")
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    connection.request("GET", "/api/v1/runs/list", headers={"Authorization": f"Bearer {token}"})
    assert connection.getresponse().status == 200
    connection.close()
    slow.close()


def test_the_command_line_speaks_to_the_server_that_runs(server):
    store, running, _ = server
    found = start("doctor", "--store", str(store), "--json")
    out, _ = found.communicate(timeout=60)
    checks = {one["name"]: one for one in json.loads(out)}
    assert checks["server"]["found"].endswith(running.url)
    link = json.loads(start("link", "--store", str(store), "--json").communicate(timeout=60)[0])["link"]
    with httpx.Client(trust_env=False) as browser:
        answer = browser.get(link)
        assert answer.status_code == 303
        assert browser.get(f"{running.url}/api/v1/loops/list").json() == []
    runs = start(
        "--store", running.url, "runs", "list", "--json", environment={"KILTER_TOKEN": RunFolder(store / "run").token()}
    )
    assert "runs" in json.loads(runs.communicate(timeout=60)[0])


def test_tools_for_agents_through_the_real_client(server):
    mcp = pytest.importorskip("mcp")
    import asyncio

    from mcp.client.stdio import StdioServerParameters, stdio_client

    store, _, _ = server
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "kilter.cli.main", "mcp", "--store", str(store)], env=dict(os.environ)
    )

    async def talk():
        async with mcp.Client(stdio_client(parameters)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            listed = await client.call_tool("runs_list", {"limit": 3})
            wrong = await client.call_tool("runs_list", {"limit": "three"})
            unknown = await client.call_tool("runs_start", {"experiment": "x"})
            return tools, listed, wrong, unknown

    tools, listed, wrong, unknown = asyncio.run(talk())
    assert "loops_why" in tools
    assert not {"loops_apply", "loops_plan", "runs_start", "data_append", "models_approve"} & set(tools)
    assert tools["runs_list"].input_schema["properties"]["limit"]["type"] == "integer"
    assert len(json.loads(listed.content[0].text)["runs"]) <= 3
    assert wrong.is_error
    assert "$.limit" in wrong.content[0].text
    assert unknown.is_error
