"""From one environment to another: the same bytes, the same answers, under the other store's rules; never built again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from kilter.cli.main import main
from kilter.core.access import new_secret
from kilter.core.errors import ApprovalNeeded, Conflict, Damaged, Forbidden, GateRefused, InvalidInput, NotFound
from kilter.governance.service import PREFIX
from kilter.loop.promotion.records import Sender
from kilter.loop.promotion.sending import promote_to
from kilter.loop.remote import Kilter
from kilter.loop.versions.deploy import deploy_to
from kilter.loop.workspace import Workspace, connect
from kilter.operations.running import RunFolder, Running
from kilter.packaging.bundle import load
from kilter.registry.records import Lineage

DEV = Sender(store="dev", environment="dev")


@pytest.fixture(scope="module")
def trained(trained_shop):
    """A store in which a loop has trained its champion, rows, and what it answers to them."""
    asked = [
        {"visit": f"v{i}", "at": trained_shop.clock.now().isoformat(), "price": (i + 0.5) / 40, "hour": i % 24}
        for i in range(40)
    ]
    answers = [found["value"] for found in trained_shop.post("shop", asked).json()["predictions"]]
    return trained_shop, asked, answers


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kilter.cli.main", *arguments], env={**os.environ, **(environment or {})}
    )


def wait_for(folder: RunFolder, process: subprocess.Popen[bytes]) -> Running:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (found := folder.read("server")) is not None and found.pid == process.pid:
            return found
        time.sleep(0.05)
    raise AssertionError("the server did not start")


def told_by(*command: str) -> dict[str, Any]:
    """Return what a command answers, run as its users do: in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "kilter.cli.main", *command, "--json"], capture_output=True, check=False
    )
    assert run.returncode == 0, (run.stdout, run.stderr)
    return json.loads(run.stdout)


def end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(20)
    finally:
        process.kill()


def objects(store: Path) -> set[str]:
    return {path.name for path in (store / "objects").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_version_takes_the_rest_of_its_way_under_the_rules_of_the_other_store(
    trained, house, tmp_path, shop, monkeypatch
):
    dev, asked, answers = trained
    prod = house(tmp_path / "prod", now=dev.clock.now())
    longer = shop.replace('Shadow(bake="1d")', 'Shadow(bake="2d")')  # another declaration, of the same inputs and label
    prod.workspace.loops.apply(longer, "shop.py", env="prod", by="test")
    (tmp_path / "kilter.toml").write_text(f'[env.dev]\nstore = "{dev.target}"\n[env.prod]\nstore = "{prod.target}"\n')
    monkeypatch.chdir(tmp_path)

    # What would happen, and nothing does.
    before = prod.workspace.journal.events(limit=1000)
    tried = told_by("promote", "shop@1", "--to", "prod", "--dry-run")
    assert (tried["dry_run"], tried["known"], tried["version"], tried["place"]) == (True, False, "", "loop")
    assert tried["sent"] == tried["size"] > 0
    assert prod.workspace.journal.events(limit=1000) == before
    assert prod.workspace.models.models() == ()

    told = told_by("promote", "shop@1", "--to", "prod")
    there = dev.workspace.models.get("shop", 1)
    here = prod.workspace.models.get("shop", 1)
    assert (told["version"], told["known"], told["sent"]) == ("shop@v1", False, told["size"])
    assert told["bundle"] == here.bundle == there.bundle
    kept = here.lineage
    assert (kept.run, kept.data_digest, kept.environment, kept.profile) == (
        there.lineage.run,
        there.lineage.data_digest,
        there.lineage.environment,
        there.lineage.profile,
    )
    assert kept.spec == prod.workspace.loops.spec("shop").digest != there.lineage.spec == kept.origin.spec
    assert (kept.origin.version, kept.origin.environment, kept.origin.store) == ("shop@v1", "dev", dev.target)
    gates = prod.workspace.models.history("shop", 1).evidence
    assert gates == tuple(one for one in dev.workspace.models.history("shop", 1).evidence if one.kind == "gates") != ()
    noted = prod.workspace.journal.events(limit=1000)
    arrived = next(event for event in noted if event.kind == "VersionPromoted")
    assert (arrived.subject, arrived.data["origin"]["version"]) == ("shop@v1", "shop@v1")
    assert prod.workspace.journal.verify().ok

    # A second time nothing is sent, made or noted.
    again = told_by("promote", "shop@v1", "--to", "prod")
    assert (again["known"], again["version"], again["sent"]) == (True, "shop@v1", 0)
    assert prod.workspace.journal.events(limit=1000) == noted

    # It waits behind the training that the declaration asked for; that fails without rows, and the version goes on.
    prod.work()
    prod.serve()
    prod.settle("shop", lambda status: status.summary.work == "approval")
    assert prod.workspace.models.get("shop", 1).stage == "gated"
    with pytest.raises(Conflict):
        prod.workspace.loops.promote("shop", 1, "somebody")
    prod.workspace.loops.approve("shop", 1, "owner")
    prod.settle("shop", lambda status: status.summary.champion == 1 and status.summary.confirmed)
    served = prod.post("shop", asked).json()["predictions"]
    assert [found["value"] for found in served] == answers  # to the bit

    # The chain behind an answer reaches across.
    why = told_by(*prod.arguments("why", served[0]["id"]))
    assert why["lineage"]["origin"]["version"] == "shop@v1"
    assert "promoted from shop@v1 of dev" in why["trigger"]
    (link,) = [link for link in why["chain"] if link["step"] == "arrival"]
    assert "from shop@v1 of dev, where it was champion" in link["title"]
    assert link["findings"][0]["verdict"] == "pass"


def test_a_store_without_the_loop_has_a_model_that_can_be_deployed(trained, tmp_path, capsys):
    dev, asked, answers = trained
    with Workspace.open(tmp_path / "prod") as prod:
        found = promote_to(dev.workspace, prod, "shop", "champion", sender=DEV, by="anna")
        assert (found.place, found.version, found.known) == ("model", "shop@v1", False)
        assert "kilter deploy models:/shop/1" in found.next
        assert prod.models.get("shop", 1).stage == "gated"
        assert prod.models.get("shop", 1).lineage.origin.by == "anna"
        runtime = load(found.bundle, prod.objects)
        matrix = np.array([[row[name] for name in runtime.encoding.names] for row in asked], dtype="<f8")
        assert runtime.predict(matrix).tolist() == answers
    assert (
        main(["deploy", "models:/shop/1", "--name", "shop-answers", "--store", str(tmp_path / "prod"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["bundle"] == found.bundle
    # From there it goes on to a third store, with the same origin's evidence.
    with Workspace.open(tmp_path / "prod") as prod, Workspace.open(tmp_path / "third") as third:
        on = promote_to(prod, third, "shop", 1, sender=Sender(store="prod", environment="prod"))
        assert on.bundle == found.bundle
        with pytest.raises(Conflict, match="the store that it would be promoted to"):
            promote_to(prod, prod, "shop", 1, sender=DEV)


def test_what_did_not_pass_or_was_not_approved_stays_where_it_is(trained, tmp_path, shop):
    dev = trained[0].workspace
    with Workspace.open(tmp_path / "source") as source, Workspace.open(tmp_path / "prod") as prod:
        dossier = dev.promotions.dossier("shop", 1)
        for part in dossier.parts:
            source.objects.put(dev.objects.get(part.digest))
        lineage = Lineage(run="run_1", spec=dossier.lineage.spec, data_digest="d" * 64)
        with source.database.transaction() as connection:
            source.models.register_in(connection, "shop", dossier.bundle, lineage, "test")
        with pytest.raises(GateRefused, match="shop@v1 is candidate: test"):
            promote_to(source, prod, "shop", 1, sender=DEV)
        with source.database.transaction() as connection:
            source.models.mark(connection, "shop", 1, "gated", "all gates passed")
        with pytest.raises(GateRefused, match="no gate was judged"):
            promote_to(source, prod, "shop", 1, sender=DEV)
        with source.database.transaction() as connection:
            source.models.add_evidence(connection, "shop", 1, "gates", dossier.gates[-1].findings)
        source.loops.apply(shop.replace("retrain=", 'approve={"dev": "owner"},\n    retrain='), "shop.py", by="test")
        with pytest.raises(ApprovalNeeded, match="asks for its owner's approval") as refused:
            promote_to(source, prod, "shop", 1, sender=DEV)
        assert refused.value.fix == "`kilter approve shop@v1`"
        source.models.approve("shop", 1, "owner")
        assert promote_to(source, prod, "shop", 1, sender=DEV).version == "shop@v1"
        assert prod.models.get("shop", 1).lineage.origin.approvals[0].startswith("owner on ")
        for stage in ("rejected", "rolled_back", "inconclusive"):
            with source.database.transaction() as connection:
                source.models.mark(connection, "shop", 1, stage, "worse")
            with pytest.raises(GateRefused, match=f"{stage}: worse"):
                promote_to(source, prod, "shop", 1, sender=DEV)
        with pytest.raises(NotFound):
            promote_to(source, prod, "shop", 9, sender=DEV)


def test_a_model_without_a_loop_has_to_be_approved_by_somebody(tmp_path):
    sklearn = pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(1).random((80, 3))
    model = sklearn.LogisticRegression().fit(x, x[:, 0] > 0.5)
    with Workspace.open(tmp_path / "dev") as dev, Workspace.open(tmp_path / "prod") as prod:
        made = deploy_to(dev, model, name="churn", example=x)
        with pytest.raises(ApprovalNeeded, match="no loop proved it") as refused:
            promote_to(dev, prod, "churn", 1, sender=DEV)
        assert refused.value.fix == "`kilter models approve-state churn@v1 approved`"
        dev.models.approve("churn", 1, "anna", "looked at it")
        assert promote_to(dev, prod, "churn", 1, sender=DEV).bundle == made.bundle
        (said,) = prod.models.get("churn", 1).lineage.origin.approvals
        assert said.startswith("anna on ")


def test_a_loop_refuses_what_it_can_not_feed_before_anything_is_sent(trained, tmp_path, shop):
    dev = trained[0].workspace
    others = {
        'columns("price", "hour")': ('columns("price")', "it needs the inputs hour"),
        'pl.col("spent") > 0': ('pl.col("spent") > 1', "another label"),
        'Table("visits", key="visit", time="at")': ('Table("calls", key="visit", time="at")', "of the table 'visits'"),
    }
    for number, (old, (new, said)) in enumerate(others.items()):
        with Workspace.open(tmp_path / str(number)) as prod:
            prod.loops.apply(shop.replace(old, new), "shop.py", by="test")
            before = objects(tmp_path / str(number))
            with pytest.raises(Conflict, match=said):
                promote_to(dev, prod, "shop", 1, sender=DEV)
            assert objects(tmp_path / str(number)) == before
            assert prod.models.models() == ()


def test_bytes_that_are_not_those_of_their_digest_are_refused(trained, tmp_path):
    dev = trained[0].workspace
    dossier = dev.promotions.dossier("shop", 1)
    with Workspace.open(tmp_path / "source") as source, Workspace.open(tmp_path / "prod") as prod:
        assert promote_to(dev, source, "shop", 1, sender=DEV).version == "shop@v1"
        model = dossier.manifest.model
        file = tmp_path / "source" / "objects" / model.digest[:2] / model.digest[2:]
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(Damaged):
            promote_to(source, prod, "shop", 1, sender=DEV)
        assert prod.models.models() == ()
        # A sender that lies about pieces, about a file, or names none at all.
        piece = prod.promotions.put("shop", b"something else")
        with pytest.raises(InvalidInput, match="another digest"):
            prod.promotions.assemble("shop", model.digest, [piece])
        with pytest.raises(NotFound):
            prod.promotions.receive("shop", dossier, DEV)
        file.write_bytes(good)
        assert promote_to(source, prod, "shop", 1, sender=DEV).known is False
        # What was damaged after it arrived is sent again.
        arrived = tmp_path / "prod" / "objects" / model.digest[:2] / model.digest[2:]
        arrived.write_bytes(b"x" * len(good))
        assert promote_to(source, prod, "shop", 1, sender=DEV).known is True
        assert arrived.read_bytes() == good


@pytest.mark.slow
def test_a_server_takes_it_from_those_who_may(trained, tmp_path):
    dev = trained[0].workspace
    store = tmp_path / "prod"
    process = start(
        "server", "--store", str(store), "--port", "0", environment={"KILTER_VIEWER_TOKEN": "viewer-of-this-test"}
    )
    try:
        running = wait_for(RunFolder(store / "run"), process)
        opened = []

        def by(token: str) -> Kilter:
            opened.append(connect(running.url, token))
            return opened[-1]

        admin = by(RunFolder(store / "run").token())
        tokens = {}
        for name, role in (("vera", "viewer"), ("ed", "editor"), ("ada", "approver")):
            admin.people.add(name, role)
            tokens[name], digest = new_secret(PREFIX)
            admin.people.token(digest, name)
        for name in ("vera", "ed"):
            with pytest.raises(Forbidden, match="approver"):
                promote_to(dev, by(tokens[name]), "shop", 1, sender=DEV, by="ada")
        assert admin.models.models() == ()
        ada = by(tokens["ada"])
        found = promote_to(dev, ada, "shop", 1, sender=DEV, by="somebody else")
        assert (found.version, found.sent) == ("shop@v1", found.size)
        kept = admin.models.get("shop", 1)
        assert (kept.bundle, kept.lineage.origin.by) == (dev.models.get("shop", 1).bundle, "ada")
        assert promote_to(dev, ada, "shop", 1, sender=DEV).known
        # And from a server into a folder: the reader needs to be an editor there.
        with Workspace.open(tmp_path / "third") as third:
            with pytest.raises(Forbidden):
                promote_to(by(tokens["vera"]), third, "shop", 1, sender=DEV)
            assert promote_to(by(tokens["ed"]), third, "shop", 1, sender=DEV).bundle == kept.bundle
        for one in opened:
            one.close()
    finally:
        assert end(process) == 0


@pytest.mark.slow
def test_into_postgresql_the_bytes_are_the_same(trained, tmp_path, postgres_url):
    dev = trained[0].workspace
    target = f"{postgres_url}&objects={tmp_path / 'bytes'}".replace("postgresql+psycopg", "postgresql")
    with Workspace.open(target, home=str(tmp_path / "home")) as prod:
        found = promote_to(dev, prod, "shop", 1, sender=DEV)
        assert found.bundle == dev.models.get("shop", 1).bundle == prod.models.get("shop", 1).bundle
        assert promote_to(dev, prod, "shop", 1, sender=DEV).known
        both = [threading.Thread(target=promote_to, args=(dev, prod, "shop", 1), kwargs={"sender": DEV}) for _ in "ab"]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert prod.models.models()[0].versions == 1


class Wire(ThreadingHTTPServer):
    """Stands before a server, counts the pieces that pass, and holds what comes after some."""

    daemon_threads = True

    def __init__(self, url: str, most: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.to, self.most, self.pieces, self.full = urlsplit(url), most, 0, threading.Event()
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """The client was killed."""


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/promotions/put"):
            self.server.pieces += 1
            if self.server.pieces > self.server.most:
                self.server.full.set()
                self.server.over.wait(60)
                return
        connection = HTTPConnection(self.server.to.hostname, self.server.to.port)
        self.close_connection = True
        headers = {**self.headers, "Host": self.server.to.netloc}
        connection.request("POST", self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path):
    lightgbm = pytest.importorskip("lightgbm")
    x = np.random.default_rng(1).random((6000, 8))
    model = lightgbm.LGBMClassifier(n_estimators=700, num_leaves=255, min_child_samples=2, n_jobs=2, verbose=-1)
    model.fit(x, np.random.default_rng(2).random(6000) > 0.5)
    dev, prod = tmp_path / "dev", tmp_path / "prod"
    with Workspace.open(dev) as source:
        deploy_to(source, model, name="churn", example=x[:50])
        source.models.approve("churn", 1, "anna")
        size = sum(part.size for part in source.promotions.dossier("churn", 1).parts)
    assert size > 12 << 20
    process = start("server", "--store", str(prod), "--port", "0")
    try:
        running = wait_for(RunFolder(prod / "run"), process)
        token = RunFolder(prod / "run").token()
        wire = Wire(running.url, most=6)
        environment = {**os.environ, "KILTER_TARGET_TOKEN": token}
        command = [sys.executable, "-m", "kilter.cli.main", "promote", "churn@1", "--store", str(dev), "--json", "--to"]
        first = subprocess.Popen([*command, f"http://127.0.0.1:{wire.server_port}"], env=environment)
        assert wire.full.wait(60)
        first.send_signal(signal.SIGKILL)
        first.wait(20)
        admin = connect(running.url, token)
        assert admin.models.models() == ()  # nothing half-there
        again = subprocess.run([*command, running.url], env=environment, capture_output=True, check=True)
        told = json.loads(again.stdout)
        assert told["version"] == "churn@v1"
        assert told["sent"] <= size - 4 * (1 << 20)  # what had arrived is not sent again
        assert admin.models.get("churn", 1).bundle == told["bundle"]
        once = subprocess.run([*command, running.url], env=environment, capture_output=True, check=True)
        assert (json.loads(once.stdout)["known"], json.loads(once.stdout)["sent"]) == (True, 0)
        admin.close()
        wire.over.set()
        wire.shutdown()
        wire.server_close()
    finally:
        assert end(process) == 0


def test_where_to_is_said_by_name_or_by_place(trained, tmp_path, monkeypatch, capsys):
    dev = trained[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KILTER_TARGET_TOKEN", raising=False)

    def refused(*arguments: str) -> str:
        assert main(["promote", "shop@1", "--store", dev.target, *arguments, "--json"]) in {1, 2}
        return json.loads(capsys.readouterr().out)["detail"]

    assert refused("--dry-run") == "there is nothing to try without another environment"
    assert refused("--to", "prod") == "no kilter.toml here or above says where 'prod' is"
    assert refused("--to", "live") == "'live' is no environment"
    assert refused("--to", "https://kilter.example.org") == "the server's token is not known"
    (tmp_path / "kilter.toml").write_text('[env.prod]\nstore = "https://kilter.example.org"\n')
    assert refused("--to", "prod") == "[env.prod] has a server and no token"
    (tmp_path / "kilter.toml").write_text('[env.prod]\nstore = "https://kilter.example.org"\ntoken = "abc"\n')
    assert refused("--to", "prod") == "a token is not written into the file"
    assert main(["promote", "shop@1", "--store", dev.target, "--to", "./prod", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "shop@v1"
