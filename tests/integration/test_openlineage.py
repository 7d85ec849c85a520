"""The journal in OpenLineage's words: whole runs, valid by the spec, told to a receiver that fails, in order, nothing lost."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kilter.core.errors import InvalidInput
from kilter.journal.tables import cursors
from kilter.loop.openlineage.shipping import Destination, Shipper, destination
from kilter.loop.promotion.records import Sender
from kilter.loop.promotion.sending import promote_to
from kilter.loop.records import ActionFailed, TrainingFailed
from kilter.loop.versions.deploy import deploy_to
from kilter.loop.workspace import Workspace
from kilter.operations.running import RunFolder

SPEC = os.environ.get("KILTER_TEST_OPENLINEAGE", "")
"""A folder with the spec's own JSON schemas (``spec/`` of OpenLineage's repository)."""

RECEIVER = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Receiver(BaseHTTPRequestHandler):
    failing = int(sys.argv[2])

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/api/v1/lineage" or self.headers.get("Authorization") != "Bearer secret-key":
            return self.answer(401)
        if Receiver.failing:
            Receiver.failing -= 1
            return self.answer(503)
        with open(sys.argv[1], "ab") as file:
            file.write(json.dumps([self.headers["Idempotency-Key"], json.loads(body)]).encode() + b"\\n")
        self.answer(201)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_): ...

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Receiver:
    """A receiver of lineage, in a process of its own."""

    def __init__(self, file: Path, failing: int = 0, port: int = 0) -> None:
        self.file = file
        command = [sys.executable, "-c", RECEIVER, str(file), str(failing), str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def told(self) -> list[tuple[str, dict]]:
        return [tuple(json.loads(line)) for line in self.file.read_bytes().splitlines()] if self.file.exists() else []

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def exported(workspace: Workspace, **more) -> list[dict]:
    found, after, more_comes = [], 0, True
    while more_comes:
        page = workspace.lineage.events(after, 7, **more)
        found += page.events
        after, more_comes = page.next, page.more
    return found


def from_the_beginning(store: Workspace) -> None:
    """Forget how far the journal was told."""
    with store.database.transaction() as connection:
        connection.execute(cursors.delete().where(cursors.c.reader == "openlineage"))


@pytest.fixture(scope="module")
def life(trained_shop, tmp_path_factory):
    """A store in which something of everything has happened."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    kilter = trained_shop.workspace
    kilter.data.flush("visits")
    rows = [[i % 7 / 7, i % 3 / 3] for i in range(60)]
    deploy_to(
        kilter, sklearn.LogisticRegression().fit(rows, [i % 2 for i in range(60)]), name="churn", example=rows[:9]
    )
    ledger = kilter.loops.ledger
    asked = kilter.journal_log.events(kind="StartTraining", limit=1)[0]
    # One that fails, and one that never ran: told as the ledger tells them.
    with kilter.database.transaction() as connection:
        for number, answer in (
            (901, TrainingFailed(at=asked.at, action="shop/901", reason="no rows", cpu_seconds=1.5)),
            (902, ActionFailed(at=asked.at, action="shop/902", reason="no machine", retryable=False)),
            (903, ActionFailed(at=asked.at, action="shop/903", reason="busy", retryable=True)),
        ):
            kilter.journal_log.append(connection, "StartTraining", "shop", {**asked.data, "id": f"shop/{number}"})
            ledger._write(connection, "shop", answer, ())
        for number, share in ((904, 5), (905, 25)):
            data = {
                "id": f"shop/{number}",
                "champion": 1,
                "challenger": None,
                "mode": "canary",
                "share": share,
                "warm": [],
            }
            kilter.journal_log.append(connection, "SetTraffic", "shop", data)
        batch = {
            "id": "shop/906",
            "batch": "nightly",
            "version": 1,
            "spec": asked.data["spec"],
            "slot": "2013-03-01T00:00:00Z",
        }
        kilter.journal_log.append(connection, "RunBatch", "shop@v1", batch)
        done = {
            "action": "shop/906",
            "batch": "nightly",
            "version": 1,
            "slot": batch["slot"],
            "rows": 40,
            "output": "out.parquet",
        }
        kilter.journal_log.append(connection, "BatchFinished", "shop@v1", done)
    return kilter


def test_every_kind_of_work_is_a_whole_run_with_its_datasets(life):
    events = exported(life)
    kinds = Counter((event["job"]["name"], event["eventType"]) for event in events)
    for job in ("shop.train", "shop.gates", "shop.release", "shop.batch.nightly", "churn.deploy", "visits.ingest"):
        assert kinds[job, "START"], job
        assert kinds[job, "COMPLETE"], job
    assert (kinds["shop.train", "FAIL"], kinds["shop.train", "ABORT"], kinds["shop.release", "ABORT"]) == (1, 1, 1)
    # A run begins once and ends at most once, with the same id.
    for state in ("START",), ("COMPLETE", "FAIL", "ABORT"):
        runs = [event["run"]["runId"] for event in events if event["eventType"] in state]
        assert len(set(runs)) == len(runs)
    begun = {event["run"]["runId"] for event in events if event["eventType"] == "START"}
    assert {event["run"]["runId"] for event in events} == begun

    # From the answer's model back to the data, the code and the run, across jobs.
    version, spec = life.models.get("shop", 1), life.loops.spec("shop")
    trained = next(e for e in events if e["job"]["name"] == "shop.train" and e["eventType"] == "COMPLETE")
    (table,), (model,) = trained["inputs"], trained["outputs"]
    assert (table["name"], model["name"]) == ("tables/visits", "models/shop")
    assert table["facets"]["version"]["datasetVersion"] == version.lineage.data_digest
    assert {"visit", "price", "spent"} <= {field["name"] for field in table["facets"]["schema"]["fields"]}
    assert model["facets"]["version"]["datasetVersion"] == version.bundle
    sources = model["facets"]["columnLineage"]["fields"]["prediction"]["inputFields"]
    assert [(one["name"], one["field"]) for one in sources] == [("tables/visits", "price"), ("tables/visits", "hour")]
    assert spec.train.source in trained["job"]["facets"]["sourceCode"]["sourceCode"]
    said = {tag["key"]: tag["value"] for tag in trained["run"]["facets"]["tags"]["tags"]}
    assert said["run"] == version.lineage.run
    assert said["code_digest"] == version.lineage.code_digest
    released = next(e for e in events if e["job"]["name"] == "shop.release" and e["eventType"] == "COMPLETE")
    assert released["inputs"] == [model]
    assert released["outputs"][0]["name"] == "endpoints/shop"
    for event in (released, next(e for e in events if e["job"]["name"] == "shop.batch.nightly")):
        assert event["run"]["facets"]["parent"]["run"]["runId"] == trained["run"]["runId"]
    judged = next(e for e in events if e["job"]["name"] == "shop.gates" and e["eventType"] == "COMPLETE")
    (assertion,) = judged["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert assertion["success"] is True
    failed = next(e for e in events if e["eventType"] == "FAIL")
    assert failed["run"]["facets"]["errorMessage"]["message"] == "no rows"

    # The same events whoever asks and in whichever pages; of one that begins in the middle, too.
    assert exported(life) == events
    page = life.lineage.events(0, 1000)
    assert list(page.events) == events
    middle = life.journal_log.events(kind="GatesJudged", limit=1)[0].seq
    rest = life.lineage.events(middle, 1000).events
    assert list(rest) == events[-len(rest) :]


def test_a_promotion_names_where_it_came_from(life, tmp_path):
    with Workspace.open(tmp_path / "prod") as prod:
        promote_to(life, prod, "shop", 1, sender=Sender(store="dev-store", environment="dev"))
        start, complete = exported(prod, namespace="prod")
    assert (start["eventType"], complete["eventType"], complete["job"]["name"]) == ("START", "COMPLETE", "shop.promote")
    (there,), (here,) = complete["inputs"], complete["outputs"]
    assert (there["namespace"], here["namespace"], there["name"]) == ("dev-store", "prod", here["name"])
    assert there["facets"]["version"]["datasetVersion"] == here["facets"]["version"]["datasetVersion"]


@pytest.mark.skipif(not SPEC, reason="KILTER_TEST_OPENLINEAGE names no folder with OpenLineage's schemas")
def test_every_event_and_facet_is_valid_by_the_specs_own_schemas(life):
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    documents = [json.loads(path.read_text()) for path in Path(SPEC).rglob("*.json") if "tests" not in path.parts]
    known = {one["$id"]: one for one in documents if "$id" in one}
    registry = referencing.Registry().with_resources(
        (name, referencing.Resource.from_contents(one)) for name, one in known.items()
    )

    def check(value: dict, schema: str) -> None:
        validator = jsonschema.Draft202012Validator(
            {"$ref": schema}, registry=registry, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        assert [error.message for error in validator.iter_errors(value)] == [], schema

    checked = Counter()
    for event in exported(life):
        check(event, event["schemaURL"])
        things = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
        for thing in things:
            for kind in ("facets", "inputFacets", "outputFacets"):
                for name, facet in thing.get(kind, {}).items():
                    schema = facet["_schemaURL"]
                    properties = known[schema.partition("#")[0]]["properties"]
                    assert properties[name]["$ref"] == f"#{schema.partition('#')[2]}", name
                    check(facet, schema)
                    checked[name] += 1
    assert len(checked) >= 14, checked


def test_the_clients_own_classes_take_every_event(life):
    pytest.importorskip("openlineage.client")
    from openlineage.client import event_v2, generated

    modules = [
        importlib.import_module(f"{generated.__name__}.{one.name}") for one in pkgutil.iter_modules(generated.__path__)
    ]
    classes = {
        kind._get_schema(): kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and hasattr(kind, "_get_schema")
    }

    def facets(thing: dict, kind: str) -> dict:
        return {
            name: classes[one["_schemaURL"]](**{key: value for key, value in one.items() if not key.startswith("_")})
            for name, one in thing.get(kind, {}).items()
        }

    for event in exported(life):
        event_v2.RunEvent(
            eventTime=event["eventTime"],
            producer=event["producer"],
            eventType=event_v2.RunState[event["eventType"]],
            run=event_v2.Run(runId=event["run"]["runId"], facets=facets(event["run"], "facets")),
            job=event_v2.Job(
                namespace=event["job"]["namespace"], name=event["job"]["name"], facets=facets(event["job"], "facets")
            ),
            inputs=[
                event_v2.InputDataset(
                    namespace=one["namespace"],
                    name=one["name"],
                    facets=facets(one, "facets"),
                    inputFacets=facets(one, "inputFacets"),
                )
                for one in event["inputs"]
            ],
            outputs=[
                event_v2.OutputDataset(
                    namespace=one["namespace"],
                    name=one["name"],
                    facets=facets(one, "facets"),
                    outputFacets=facets(one, "outputFacets"),
                )
                for one in event["outputs"]
            ],
        )


def test_a_receiver_that_fails_gets_everything_once_it_is_back(life, tmp_path, monkeypatch):
    monkeypatch.setattr("kilter.loop.openlineage.shipping.pause_after", lambda attempts: 0.01 * min(attempts, 3))
    wanted = exported(life)
    with Workspace.open(life.store, clock=life.clock) as store:
        from_the_beginning(store)
        receiver = Receiver(tmp_path / "told", failing=3)
        where = destination({"OPENLINEAGE_URL": receiver.url, "OPENLINEAGE_API_KEY": "secret-key"})
        try:
            first = Shipper(store.lineage, where)
            deadline = time.monotonic() + 60
            while len(receiver.told()) < 5 and time.monotonic() < deadline:
                first.round()
            # Another process has the lease, and tells; this one tells nothing beside it.
            assert Shipper(store.lineage, where).round() == 0
            # It goes down in the middle, and what it took stays taken.
            receiver.end()
            time.sleep(0.05)
            assert first.round() == 0
            first.stop()
            receiver = Receiver(tmp_path / "told", port=receiver.port)
            second = Shipper(store.lineage, where)
            while store.lineage.state().told < store.lineage.state().newest and time.monotonic() < deadline:
                second.round()
                time.sleep(0.01)
            second.stop()
            told = receiver.told()
            assert [event for _, event in dict(told_once(told)).values()] == wanted
            assert len({key for key, _ in told}) == len(wanted)
            # Told twice is said by the same key, and is the same.
            assert all(len({json.dumps(event) for key, event in told if key == one}) == 1 for one, _ in told)
        finally:
            receiver.end()


def told_once(told: list[tuple[str, dict]]) -> list[tuple[str, tuple[str, dict]]]:
    """Return what was told, each first telling alone, in order."""
    seen: dict[str, tuple[str, dict]] = {}
    for key, event in told:
        seen.setdefault(key, (key, event))
    return list(seen.items())


def test_what_will_never_be_taken_is_passed_over_and_a_wrong_token_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("kilter.loop.openlineage.shipping.pause_after", lambda _attempts: 0.0)
    sklearn = pytest.importorskip("sklearn.linear_model")
    rows = [[i % 7 / 7, i % 3 / 3] for i in range(60)]
    with Workspace.open(tmp_path / "store") as store:
        deploy_to(
            store, sklearn.LogisticRegression().fit(rows, [i % 2 for i in range(60)]), name="churn", example=rows[:9]
        )
        shipper = Shipper(store.lineage, Destination(url="http://127.0.0.1:1/api/v1/lineage"))
        for status, refused in ((401, 0), (503, 0), (422, 2)):
            monkeypatch.setattr(shipper, "_tell", lambda _body, _key, status=status: status)
            for _ in range(40):
                shipper.round()
            assert shipper.refused == refused
        assert store.lineage.state().told == store.lineage.state().newest
        shipper.stop()


@pytest.mark.slow
def test_a_killed_server_goes_on_where_it_was(life, tmp_path):
    sklearn = pytest.importorskip("sklearn.linear_model")
    store = tmp_path / "store"
    rows = [[i % 7 / 7, i % 3 / 3] for i in range(60)]
    model = sklearn.LogisticRegression().fit(rows, [i % 2 for i in range(60)])
    receiver = Receiver(tmp_path / "told")
    environment = {**os.environ, "OPENLINEAGE_URL": receiver.url, "OPENLINEAGE_API_KEY": "secret-key"}
    command = [sys.executable, "-m", "kilter.cli.main", "server", "--store", str(store), "--port", "0"]
    try:
        wanted = 0
        for _ in range(3):
            with Workspace.open(store) as workspace:
                for _ in range(6):
                    deploy_to(workspace, model, name="churn", example=rows[:9])
                    wanted += 2
            before = len(receiver.told())
            process = subprocess.Popen(command, env=environment)
            until(lambda before=before: len(receiver.told()) > before + 2)
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = subprocess.Popen(command, env=environment)
        until(lambda: len({key for key, _ in receiver.told()}) == wanted, 120)
        until(lambda: RunFolder(store / "run").living("server"))
        process.terminate()
        assert process.wait(30) == 0
        with Workspace.open(store) as workspace:
            assert [event for _, (_, event) in told_once(receiver.told())] == exported(workspace)
        assert RunFolder(store / "run").living("server") is None
    finally:
        receiver.end()


def until(found, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_into_a_file_and_on_the_command_line(life, tmp_path):
    wanted = exported(life)
    with Workspace.open(life.store, clock=life.clock) as store:
        from_the_beginning(store)
        file = tmp_path / "lineage.ndjson"
        file.write_bytes(b'{"torn')
        shipper = Shipper(store.lineage, destination({"OPENLINEAGE_URL": f"file:{file}"}))
        while shipper.round():
            pass
        shipper.stop()
        assert [json.loads(line) for line in file.read_bytes().splitlines()[1:]] == wanted
    command = [sys.executable, "-m", "kilter.cli.main", "lineage", "export", "--store", life.store.name]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    assert [json.loads(line) for line in said.splitlines()] == wanted
    subprocess.run([*command, "--output", str(tmp_path / "out")], check=True)
    assert (tmp_path / "out").read_bytes() == said


def test_where_lineage_goes_is_said_as_openlineages_clients_are_told():
    assert destination({}) is None
    assert destination({"OPENLINEAGE_URL": "http://marquez:5000", "OPENLINEAGE_DISABLED": "true"}) is None
    found = destination(
        {
            "OPENLINEAGE_URL": "http://marquez:5000/",
            "OPENLINEAGE_ENDPOINT": "/x/lineage",
            "OPENLINEAGE_API_KEY": "k",
            "OPENLINEAGE_NAMESPACE": "prod",
        }
    )
    assert found == Destination(url="http://marquez:5000/x/lineage", key="k", namespace="prod")
    assert (
        destination({"OPENLINEAGE_URL": "https://lineage.example.org"}).url
        == "https://lineage.example.org/api/v1/lineage"
    )
    for wrong in ("marquez:5000", "ftp://marquez", "http://", "http://user:pass@marquez", "file:"):
        with pytest.raises(InvalidInput, match="no place for lineage"):
            destination({"OPENLINEAGE_URL": wrong})
