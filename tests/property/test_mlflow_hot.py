"""The hot calls of MLflow's wire, the short way and the long way: the same answers, byte for byte, and the same rows behind them."""

from __future__ import annotations

import asyncio
import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter.core.clock import ManualClock
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.operations.identity import Identity
from kilter.server.edge import IDENTITY
from kilter.server.mlflow.face import Rooms, Wire
from kilter.server.mlflow.hot import LARGEST
from kilter.server.pool import Pool
from kilter.server.targets import Targets
from kilter.tracking.service import RunService

API = "/api/2.0/mlflow"
CALLS = ("log-metric", "log-parameter", "set-tag", "log-batch")


class Wires:
    """MLflow's wire on a store of its own.

    Args:
        folder: Where the store lies.
    """

    def __init__(self, folder) -> None:
        self.database = Database.open(f"sqlite:///{folder}/kilter.db")
        self.database.migrate()
        clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.runs = RunService(self.database, ObjectStore.open(str(folder / "objects")), clock, clock)
        self.pool = Pool()
        self.wire = Wire(Rooms(self.runs), self.pool, Targets({"runs": self.runs}))
        self.short = 0
        written = self.wire.hot.groups.act

        def counted(asked) -> list[bool]:
            done = written(asked)
            self.short += sum(done)
            return done

        self.wire.hot.groups.act = counted

    def close(self) -> None:
        self.wire.close()
        self.pool.close()
        self.database.close()

    def post(self, call: str, body: bytes, *, long: bool = False, role: str = "editor") -> tuple[int, bytes]:
        """Return status and body of an answer; a query that nobody knows makes a call go the long way."""
        return asyncio.run(self._post(call, body, b"long=1" if long else b"", role))

    def together(self, call: str, bodies: list[bytes]) -> list[tuple[int, bytes]]:
        """Return the answers of calls that come at once."""

        async def go():
            return await asyncio.gather(*(self._post(call, body, b"", "editor") for body in bodies))

        return list(asyncio.run(go()))

    async def _post(self, call: str, body: bytes, query: bytes, role: str) -> tuple[int, bytes]:
        said: list[dict] = []

        async def receive() -> dict:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message) -> None:
            said.append(message)

        path = f"{API}/runs/{call}"
        scope = {"type": "http", "method": "POST", "path": path, "query_string": query, "headers": []}
        await self.wire({**scope, IDENTITY: Identity(role=role)}, receive, send)
        return said[0]["status"], said[1]["body"]

    def state(self, run: str):
        """Return what a run has, as it can be compared."""
        found = self.runs.get(run)
        curves = {metric.name: self.runs.metric_points(run, metric.name) for metric in found.metrics}
        return found.params, found.tags, found.metrics, curves, found.status


@pytest.fixture(scope="module")
def wires(tmp_path_factory):
    found = Wires(tmp_path_factory.mktemp("hot"))
    yield found
    found.close()


KEYS = st.sampled_from(
    [
        "m",
        "loss/valid",
        "a b",
        "",
        "/x",
        "../x",
        "a/../b",
        "<>",
        "é",
        "k" * 250,
        "k" * 251,
        "a\n",
        ".",
        "p",
        "mlflow.runName",
    ]
)
ODD = st.sampled_from(
    [
        None,
        True,
        1,
        1.5,
        "",
        "1",
        "x",
        [],
        {},
        -1,
        2**63 - 1,
        2**63,
        -(2**63),
        -(2**63) - 1,
        10**400,
        1e300,
        "NaN",
        "-Infinity",
        1.0,
    ]
)
VALUES = st.one_of(st.floats(), st.integers(-(2**70), 2**70), ODD)
TIMES = st.one_of(
    st.integers(0, 4_102_444_800_000), st.sampled_from([0, 253_402_300_799_999, 253_402_300_800_000, "5", 7.0]), ODD
)
STEPS = st.one_of(st.integers(-5, 50), ODD)
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["x" * 6001, "x" * 8001]), ODD)


def fields(required: dict, optional: dict | None = None):
    """Return objects that mostly have what they need, and sometimes what nobody knows."""
    some = {**(optional or {}), "unknown": ODD, "runUuid": st.just("x")}
    return st.one_of(
        st.fixed_dictionaries(required),
        st.fixed_dictionaries(required, optional=some),
        st.fixed_dictionaries({}, optional={**required, **some}),
    )


METRIC = {"key": KEYS, "value": VALUES, "timestamp": TIMES, "step": STEPS}
SAID = {"key": KEYS, "value": TEXTS}
RUN = st.sampled_from(["RUN"] * 6 + ["run_nowhere", "", "GONE", None, 5])
BODIES = {
    "log-metric": fields({"run_id": RUN, **METRIC}, {"run_uuid": RUN, "model_id": st.just(""), "dataset_name": TEXTS}),
    "log-parameter": fields({"run_id": RUN, **SAID}, {"run_uuid": RUN}),
    "set-tag": fields({"run_id": RUN, **SAID}, {"run_uuid": RUN}),
    "log-batch": fields(
        {"run_id": RUN},
        {
            "metrics": st.one_of(st.lists(fields(METRIC), max_size=5), ODD),
            "params": st.one_of(st.lists(fields(SAID), max_size=3), ODD),
            "tags": st.one_of(st.lists(fields(SAID), max_size=3), ODD),
        },
    ),
}


def said(value: object, run: str, gone: str) -> bytes:
    text = json.dumps(value).replace('"RUN"', f'"{run}"').replace('"GONE"', f'"{gone}"')
    return text.encode()


@pytest.mark.parametrize("call", CALLS)
def test_both_ways_answer_alike_and_leave_the_same(wires, call):
    gone = wires.runs.start("x").id
    wires.runs.delete(gone)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(BODIES[call], st.booleans())
    def same(body, before) -> None:
        short, long = wires.runs.start("x").id, wires.runs.start("x").id
        if before:
            for run in (short, long):
                wires.runs.log_params(run, {"p": "before", "m": "x"})
        one, two = wires.post(call, said(body, short, gone)), wires.post(call, said(body, long, gone), long=True)
        assert (one[0], one[1].replace(short.encode(), b"RUN")) == (two[0], two[1].replace(long.encode(), b"RUN"))
        first, second = wires.state(short), wires.state(long)
        assert repr(first) == repr(second)
        assert wires.post(call, said(body, short, gone)) == one  # again
        assert repr(wires.state(short)) == repr(first)

    before = wires.short
    same()
    assert wires.short > before + 20  # the short way was gone


RAW = [
    b"{", b"null", b"[]", b"5", b'"x"', b"{}", b'{"run_id":"RUN"', b'{"run_id":"RUN"}x', b"\xff\xfe", b'{"run_id":"\xff"}',
    b'{"run_id":"RUN","key":"\\ud800","value":"x"}', b'{"run_id":"RUN","key":"a\\u0000b","value":1,"timestamp":1}',
    b'{"run_id":"RUN","key":"m","value":1e999,"timestamp":1}', b'{"run_id":"RUN","key":"m","value":NaN,"timestamp":1}',
    b'{"run_id":"RUN","key":"a","key":"b","value":1,"timestamp":1}', b'{"run_id":"RUN","key":"m","value":1,"timestamp":01}',
    b'{"run_id":"RUN","metrics":' + b"[" * 100 + b"]" * 100 + b"}", b'{"run_id":"RUN","x":' + b'{"x":' * 70 + b"1" + b"}" * 71,
    b'{"run_id":"RUN","metrics":[' + b",".join([b'{"key":"m","value":1,"timestamp":1}'] * 1001) + b"]}",
    b'{"run_id":"RUN","params":[' + b",".join(b'{"key":"p%d","value":"1"}' % one for one in range(101)) + b"]}",
    b'{"run_id":"RUN","tags":[' + b",".join(b'{"key":"p%d","value":"1"}' % one for one in range(101)) + b"]}",
    b'{"run_id":"RUN","params":[{"key":"p","value":"1"},{"key":"p","value":"1"}]}',
    b'{"run_id":"RUN","key":"p","value":"' + b"x" * LARGEST + b'"}',
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_plain_json_is_refused_alike(wires, call):
    for raw in RAW:
        run = wires.runs.start("x").id
        body = raw.replace(b"RUN", run.encode())
        one, two = wires.post(call, body), wires.post(call, body, long=True)
        assert one == two, raw[:100]


@pytest.mark.parametrize("call", CALLS)
def test_a_viewer_is_refused_alike_and_writes_nothing(wires, call):
    run = wires.runs.start("x").id
    body = json.dumps({"run_id": run, "key": "k", "value": "1", "timestamp": 1}).encode()
    before = wires.state(run)
    one, two = wires.post(call, body, role="viewer"), wires.post(call, body, role="viewer", long=True)
    assert one == two
    assert one[0] == 403
    assert wires.state(run) == before


def test_of_calls_that_come_at_once_only_the_wrong_ones_are_refused_and_in_their_own_words(wires):
    run, gone = wires.runs.start("x").id, wires.runs.start("x").id
    wires.runs.delete(gone)
    wires.runs.log_params(run, {"p": "1"})
    wrong = {
        3: {
            "run_id": run,
            "params": [{"key": "p", "value": "2"}],
            "metrics": [{"key": "m", "value": 1, "timestamp": 3, "step": 3}],
        },
        7: {"run_id": "run_nowhere", "metrics": []},
        11: {"run_id": gone, "tags": [{"key": "t", "value": "x"}]},
        15: {"run_id": run, "metrics": [{"key": "<>", "value": 1, "timestamp": 1}]},
    }
    bodies = [
        json.dumps(
            wrong.get(one, {"run_id": run, "metrics": [{"key": "m", "value": one / 7, "timestamp": one, "step": one}]})
        ).encode()
        for one in range(40)
    ]
    found = wires.together("log-batch", bodies)
    for place, (status, body) in enumerate(found):
        if place in wrong:
            assert (status, body) == wires.post("log-batch", bodies[place], long=True)
            assert status in {400, 404}
        else:
            assert (status, body) == (200, b"{}")
    points = wires.runs.metric_points(run, "m")
    assert [point.step for point in points] == [one for one in range(40) if one not in wrong]
    assert all(math.isclose(point.number, point.step / 7) for point in points)
