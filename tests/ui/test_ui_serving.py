"""The pages of endpoints and of a release, during a real canary: a store, a server, and a front that answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest

from kilter.core.access import new_secret
from kilter.core.clock import SystemClock
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.clock import SharedClock
from kilter.evaluation.declare import log_loss
from kilter.loop.workspace import Store, Workspace
from kilter.packaging.bundle import fetch, package
from kilter.packaging.constant import Constant
from kilter.release.declare import Agreement, Canary, Errors, Latency, Shadow
from kilter.release.records import Arm
from kilter.server.access import Sessions
from kilter.server.ui.pages import Pages

from .conftest import CARRIERS, DECLARATION, DESTINATIONS, LOOP, START, Site, Story, serve

pytestmark = [pytest.mark.ui, pytest.mark.xdist_group("ui")]

DAYS = 65
"""On that day the second version has answered half of the traffic for two days."""
COLUMNS = ("hour", "weekday", "distance", "carrier", "dest", "delay_3h", "departures_3h")
GUARDED = Canary(steps=(5, 25, 50), bake="2d", guards=(Errors(), Latency("50ms"), Agreement()))


class Served(Story):
    """The story with bundles that a front can load, and with guards on its canary."""

    def __init__(self, workspace: Workspace, clock: SharedClock, *, rows: int = 120) -> None:
        self.made: dict[int, str] = {}
        super().__init__(workspace, clock, rows=rows)
        self.steps = [Shadow(bake="14d"), GUARDED]

    def bundle(self, version: int) -> str:
        if version not in self.made:
            import lightgbm

            frame = pl.concat([self.world.day(day) for day in range(3 * version, 3 * version + 3)])
            inputs = frame.select(pl.col(f"x_{name}").alias(name) for name in COLUMNS)
            encoding = Encoding.fit(inputs, COLUMNS)
            rows = encoding.rows(inputs.to_dicts())
            model = lightgbm.LGBMClassifier(n_estimators=8, num_leaves=7, n_jobs=1, verbosity=-1)
            model.fit(rows, frame["label"].to_numpy())
            table = Table("flights", "flight_id", "sched_dep")
            self.made[version] = package(model, encoding, rows, [], self.workspace.objects, table=table).digest
        return self.made[version]

    def _watch(self, champion, now) -> None:
        if self.number > DAYS - 12:  # what the pages show
            super()._watch(champion, now)

    def _judge_canary(self, version, now) -> None:
        recent = self._recent(self.started or START).with_columns(latency_us=pl.lit(4_000))
        self.workspace.releases.judge_canary(
            LOOP, version, GUARDED, log_loss, recent, since=self.started, at=now, predictions=recent
        )


def flight(number: int, **columns: object) -> dict[str, object]:
    """Return a row as the endpoint takes it."""
    return {
        "flight_id": f"F{number}",
        "sched_dep": "2013-05-05T12:00:00Z",
        "hour": 5 + number % 18,
        "weekday": number % 7,
        "distance": 300 + 7 * number,
        "carrier": CARRIERS[number % len(CARRIERS)],
        "dest": DESTINATIONS[number % len(DESTINATIONS)],
        "delay_3h": number % 40,
        "departures_3h": 50,
        **columns,
    }


class Running(Site):
    """The served store with its front, and the key that opens the endpoint."""

    key: str = ""
    client: httpx.Client

    def ask(self, *numbers: int, version: int | None = None) -> list[dict]:
        place = "" if version is None else f"/versions/{version}"
        return self.post(f"/predict/{LOOP}{place}", *(flight(one) for one in numbers))

    def post(self, path: str, *rows: dict[str, object]) -> list[dict]:
        answer = self.client.post(path, json={"rows": rows})
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"]


def make_canary(folder: Path) -> tuple[Running, list[subprocess.Popen[bytes]]]:
    """Make a store in the midst of a canary, and start its server and its front; the caller ends them."""
    pytest.importorskip("lightgbm")
    clock = SharedClock(folder / "clock")
    clock.set(START)
    story = Served(Workspace.open(folder, clock), clock)
    story.play(DAYS)
    encoding = Encoding(("x0", "x1"), ("numeric", "numeric"), {})
    for value in (0.25, 0.75):
        made = package(Constant(value), encoding, np.zeros((1, 2)), [], story.workspace.objects, table=None)
        story.workspace.deployments.deploy("churn", fetch(made.digest, story.workspace.objects))
    arms = (Arm(name="today", version=2), Arm(name="before", version=1))
    story.workspace.experiments.start("churn", "which-column", arms, "errors")
    key, digest = new_secret("kk_")
    story.workspace.keys.create("billing", digest, [LOOP, "churn"])
    command = [sys.executable, "-m", "kilter.cli.main", "serve", "--store", str(folder), "--port", "0"]
    with (folder / "front.log").open("wb") as log:
        front = subprocess.Popen([*command, "--clock", f"file:{folder / 'clock'}"], stdout=log, stderr=log)
    server, url = serve(folder)
    running = Running(url, folder, story)
    running.key = key
    endpoints, run = story.workspace.endpoints, Store.parse(folder).run
    deadline = time.monotonic() + 60
    while not (living := run.living("serve")) or any(
        {one.applied for one in endpoints.status(name)} != {endpoints.plan(name).generation} for name in (LOOP, "churn")
    ):
        assert front.poll() is None, (folder / "front.log").read_text()
        assert time.monotonic() < deadline, endpoints.status(LOOP)
        time.sleep(0.05)
    headers = {"authorization": f"Bearer {key}", "user-agent": "python-requests/2.32"}
    running.client = httpx.Client(base_url=living.url, headers=headers, timeout=20)
    now = clock.now()
    for minute in range(50):
        clock.set(now + timedelta(minutes=minute))
        running.ask(*range(4 * minute, 4 * minute + 2 + minute % 3))
    running.ask(900, version=1)
    running.post("/predict/churn", *({"x0": number, "x1": 1.0} for number in range(40)))
    return running, [front, server]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("canary") / "store"
    folder.mkdir()
    running, processes = make_canary(folder)
    yield running
    running.client.close()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(20)
    running.story.workspace.close()


class Watched:
    """A page with everything that went wrong on it."""

    def __init__(self, page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", lambda said: self.errors.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))


@pytest.fixture
def look(canary, browser) -> Iterator:
    """Open pages: as whoever reads, or as the owner; at any width."""
    contexts = []

    def open_(path: str, *, owner: bool = False, width: int = 1440, **options) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        watched = Watched(context.new_page())
        token = Store.parse(canary.folder).run.token()
        key = f"?key={Sessions(token, SystemClock()).link()}" if owner else ""
        watched.page.goto(f"{canary.url}{path}{key}")
        watched.page.wait_for_selector("main *")
        return watched

    yield open_
    for context in contexts:
        context.close()


def test_the_endpoint_during_a_canary(look) -> None:
    watched = look("/endpoints")
    page = watched.page
    rows = page.locator(".endpoints tbody tr")
    assert rows.count() == 2
    assert "experiment" in rows.nth(0).inner_text()
    assert "50 %" in rows.nth(1).inner_text()
    page.click("text=flight-delay")
    page.wait_for_selector("k-minutes svg .bar")
    assert page.locator("k-minutes").count() == 2
    assert page.locator("k-minutes svg .bar.challenger").count() > 10
    who = page.inner_text("#part-who")
    assert "v2 answers 50 % of the traffic beside v1" in who
    assert "serves plan" in who
    page.wait_for_selector("#part-callers :text('python-requests')")  # a front tells its counts every few seconds
    callers = page.inner_text("#part-callers")
    assert "billing" in callers
    assert "a key is needed" in callers
    page.wait_for_selector("k-live[state=live]")
    page.click(".spans a:text('7d')")
    page.wait_for_selector(".spans a[aria-current]:text('7d')")
    assert "per 2 hours" in page.inner_text("#part-flow")
    assert watched.errors == []


def test_the_release_in_flight(look, canary) -> None:
    workspace = canary.story.workspace
    watched = look(f"/loops/{LOOP}/release", owner=True)
    page = watched.page
    page.wait_for_selector("k-lines svg .band.challenger", state="attached")
    assert page.locator("#part-outcomes k-lines").count() == 2
    assert "v2 answers 50 % of the traffic beside v1" in page.inner_text("#part-release")
    assert "the last bake ends with the verdict" in page.inner_text("#part-clock")
    evidence = workspace.releases.evidence(LOOP, 2)
    assert page.locator("#part-guards .guard").count() == 1 + len(evidence.guards) == 4
    shown = Pages(workspace).part_data(LOOP, "guards")
    assert [one.threshold for one in shown.guards] == pytest.approx([20.0] * 4)
    for bar, name in zip(shown.guards[0].bars, ("best_e_rollback", "best_e_promote"), strict=True):
        best = max(1.0, evidence.canary.detail[name])
        assert bar.fill == pytest.approx(100 * np.log(best) / np.log(20), abs=0.1)
        assert not bar.reached
    # Every button asks first, and nothing has happened when one says no.
    for verb, said in (
        ("promote", "Promote v2 now?"),
        ("rollback", "Abort the release of v2?"),
        ("pause", "Pause the loop?"),
    ):
        page.click(f"[data-act={verb}]")
        assert page.inner_text("#ask-title") == said
        page.click("#ask button[value=no]")
    assert workspace.loops.status(LOOP).summary.work == "canary"
    page.evaluate("window.notReloaded = true")
    page.click("[data-act=freeze]")
    page.fill("#ask-reason", "looking at it")
    page.click("#ask-yes")
    page.wait_for_selector(".held:has-text('looking at it')")
    assert "looking at it" in workspace.loops.status(LOOP).summary.frozen
    workspace.loops.unfreeze(LOOP, by="the-test")  # from elsewhere: the stream brings it here
    page.wait_for_selector("[data-act=freeze]")
    assert page.evaluate("window.notReloaded")
    assert watched.errors == []


def test_trying_an_endpoint(look, canary) -> None:
    watched = look(f"/endpoints/{LOOP}", owner=True)
    page = watched.page
    assert page.locator("form.try select[name=carrier] option").count() == len(CARRIERS) + 1
    assert page.input_value("form.try [name=distance]") != ""
    page.fill("form.try [name=distance]", "far")
    page.click("form.try button")
    page.wait_for_selector("[data-field=distance] .field-error:not(:empty)")
    assert page.locator("[data-field=distance] [aria-invalid]").count() == 1
    page.fill("form.try [name=distance]", "812")
    page.click("form.try button")
    page.wait_for_selector(".tried-bad:has-text('key')")  # the front asks for one
    page.fill("[data-key]", canary.key)
    page.fill("form.try [name=sched_dep]", "soon")
    page.click("form.try button")
    page.wait_for_selector("[data-field=sched_dep] .field-error:not(:empty)")
    page.fill("form.try [name=sched_dep]", "2013-05-05T14:00:00Z")
    page.select_option("[data-version]", "1")
    page.check("[data-explain]")
    page.click("form.try button")
    page.wait_for_selector(".tried .push")
    told = page.inner_text(".tried")
    assert "v1, direct" in told
    assert page.locator(".tried .why tr").count() == len(COLUMNS)
    page.click(".tried .answer-by a")
    page.wait_for_selector(".saw")
    assert "812" in page.inner_text(".saw")
    assert "billing" in page.inner_text("main")
    assert watched.errors == []


def test_finding_requests(look, canary) -> None:
    (asked,) = canary.ask(77)
    watched = look(f"/endpoints/{LOOP}/requests")
    page = watched.page
    assert page.locator("#results tbody tr").count() == 50
    first = page.locator("#results tbody tr").first.inner_text()
    page.click("a[rel=next]")
    page.wait_for_url("**before=**")
    assert page.locator("#results tbody tr").first.inner_text() != first
    page.fill("[name=row]", "F77")
    page.fill("[name=version]", str(asked["version"]))
    page.click(".finder-go button")
    page.wait_for_url("**row=F77**")
    assert asked["id"] in page.inner_text("#results")
    page.fill("[name=since]", "yesterday")
    page.click(".finder-go button")
    page.wait_for_selector(".finder .field-error")
    page.goto(f"{canary.url}/endpoints/{LOOP}/requests?id={asked['id']}")
    assert page.locator("#results tbody tr").count() == 1
    page.goto(f"{canary.url}/endpoints/churn/requests?id={asked['id']}")
    assert "another endpoint" in page.inner_text("#results")
    assert watched.errors == []


def test_an_experiment(look) -> None:
    watched = look("/endpoints/churn")
    page = watched.page
    assert "The arms of which-column share the traffic" in page.inner_text("#part-who")
    page.click("#part-who .button")
    page.wait_for_selector("text=Against the control")
    text = page.inner_text("main")
    assert "today against before, by errors" in text
    assert page.locator(".answers tbody tr").count() == 2
    assert watched.errors == []


def test_a_phone_shows_them_without_sideways_scrolling(look, canary) -> None:
    paths = ["/endpoints", f"/endpoints/{LOOP}", f"/loops/{LOOP}/release", f"/endpoints/{LOOP}/requests"]
    watched = look("/endpoints/churn/experiments/which-column", width=390, is_mobile=True, color_scheme="dark")
    for path in paths:
        watched.page.goto(f"{canary.url}{path}")
        watched.page.wait_for_selector("main *")
        watched.page.wait_for_timeout(200)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390, path
    buttons = watched.page.locator("[data-act]")
    assert all(buttons.nth(number).is_disabled() for number in range(buttons.count()))
    assert watched.errors == []


def test_the_pages_as_data_and_their_door(canary) -> None:
    with httpx.Client(base_url=canary.url) as client:
        cards = client.get("/endpoints.json").json()
        assert {one["name"]: one["loop"] for one in cards} == {LOOP: True, "churn": False}
        whole = client.get(f"/endpoints/{LOOP}.json?span=24h").json()
        assert whole["parts"]["flow"]["span"] == "24h"
        assert canary.key not in str(whole)
        assert "digest" not in str(whole["parts"]["callers"])
        for part, said in whole["parts"].items():
            found = client.get(f"/endpoints/{LOOP}/parts/{part}.json?span=24h").json()
            assert found.keys() == said.keys()
        found = client.get(f"/endpoints/{LOOP}/requests.json?version=2").json()
        assert {one["version"] for one in found["found"]} == {2}
        for path, status in (
            ("/endpoints/nobody", 404),
            (f"/endpoints/{LOOP}/parts/nothing", 404),
            (f"/endpoints/{LOOP}?span=3w", 400),
            (f"/endpoints/{LOOP}/requests/main-7-0", 404),
            (f"/endpoints/{LOOP}/experiments/none", 404),
        ):
            assert client.get(path).status_code in {status, 422 if status == 400 else status}, path
        # Whoever only reads can ask nothing, and neither can another site.
        asked = {"row": {}, "key": canary.key}
        assert client.post(f"/endpoints/{LOOP}/try", json=asked).status_code == 401
        token = {"authorization": f"Bearer {Store.parse(canary.folder).run.token()}"}
        foreign = token | {"origin": "http://evil.example"}
        assert client.post(f"/endpoints/{LOOP}/try", json=asked, headers=foreign).status_code == 403
        answer = client.post(f"/endpoints/{LOOP}/try", json=asked, headers=token)
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] in {1, 2}
        wrong = client.post(f"/endpoints/{LOOP}/try", json=asked | {"row": {"hour": "noon"}}, headers=token)
        assert (wrong.status_code, wrong.json()["where"]) == (422, "hour")


def test_an_empty_store_has_no_endpoint_and_no_release(tmp_path) -> None:
    clock = SharedClock(tmp_path / "clock")
    clock.set(START)
    with Workspace.open(tmp_path / "store", clock) as workspace:
        pages = Pages(workspace)
        assert "kilter deploy" in pages.endpoints.index()
        workspace.loops.apply(DECLARATION.read_text(), "flight_delay.py", by="ops")
        assert "No release yet" in pages.release(LOOP, acts=True)
