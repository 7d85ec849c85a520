"""The pages of experiments, runs, comparisons and models in a real browser: 2,000 runs, a curve of 100,000 points, hostile names."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa

from kilter.core.clock import SystemClock
from kilter.engines.clock import SharedClock
from kilter.loop.store import Store
from kilter.loop.workspace import Workspace
from kilter.server.access import Sessions
from kilter.server.ui.notes import NOTE
from kilter.tracking import tables
from kilter.tracking.projection import PARENT

from .conftest import serve

pytestmark = [pytest.mark.ui, pytest.mark.xdist_group("ui")]

RUNS = 2000
POINTS = 100_000
SPIKE = 44_321
START = datetime(2026, 3, 1, 8, tzinfo=UTC)
CLIENTS = "churn <b>'\"{{7*7}}"
EVIL = "<img src=x onerror=\"document.title='owned'\">'\"><script>document.title='owned'</script>{{7*7}}"


@dataclass
class Tracked:
    """A served store with runs in it.

    Args:
        url: The server's address.
        folder: The store.
        workspace: The same store, in this process.
        names: The ids of runs that the tests speak of.
    """

    url: str
    folder: Path
    workspace: Workspace
    names: dict[str, str] = field(default_factory=dict)


def fill(workspace: Workspace) -> None:
    """Write two thousand runs in one transaction: through the services it takes a minute, and it is not what is tested here."""
    chance = random.Random(3)
    rows: dict[str, list[dict[str, object]]] = {"runs": [], "params": [], "tags": [], "summaries": []}
    for number in range(RUNS):
        run, kind = f"run_{number:05d}", ("gbm", "mlp", "linear")[number % 3]
        rate, began = 10 ** chance.uniform(-4, -1), START + timedelta(minutes=number)
        loss = 0.2 + 0.05 * abs(math.log10(rate) + 2.3) + {"gbm": 0.0, "mlp": 0.02, "linear": 0.09}[kind]
        rows["runs"].append(
            {"id": run, "experiment": "flights", "name": f"{kind}-{number:04d}", "status": "FAILED" if number % 97 == 5 else "FINISHED",
             "started_at": began, "ended_at": began + timedelta(seconds=40 + number), "lease_until": began, "data_digest": "",
             "feature_digest": "", "code_digest": "", "environment": "", "seed": number, "spec": "", "reason": "", "patience": 120.0}
        )  # fmt: skip
        for name, value in (("model", kind), ("rate", rate), ("depth", number % 7), ("rows", 260_000)):
            shown = value if isinstance(value, int | float) else None
            rows["params"].append({"run": run, "name": name, "value": value, "number": shown})
        rows["tags"].append({"run": run, "name": "team", "value": "ops"})
        if number % 10 in {1, 2, 3}:
            rows["tags"].append({"run": run, "name": PARENT, "value": f"run_{number - number % 10:05d}"})
        for name, value in (("loss", loss), ("auc", 1 - loss)):
            rows["summaries"].append({"run": run, "name": name, "points": 1, "last": value, "last_step": 0, "least": value,
                                      "greatest": value, "last_at": began})  # fmt: skip
    with workspace.database.transaction() as connection:
        for name, found in rows.items():
            connection.execute(getattr(tables, name).insert(), found)


def curve(workspace: Workspace, run: str) -> None:
    """Write a hundred thousand points, with a spike of one step."""
    chance = random.Random(1)
    began = START
    found = [
        {"run": run, "name": "loss", "step": step, "at": began + timedelta(seconds=step / 20),
         "value": 9.0 if step == SPIKE else 2 * math.exp(-step / 30_000) + 0.3 + chance.gauss(0, 0.05)}
        for step in range(POINTS)
    ]  # fmt: skip
    with workspace.database.transaction() as connection:
        connection.execute(tables.metrics.insert(), found)
        last = found[-1]
        connection.execute(
            tables.summaries.insert().values(run=run, name="loss", points=POINTS, last=last["value"], last_step=last["step"],
                                             least=0.1, greatest=9.0, last_at=last["at"])
        )  # fmt: skip


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    folder = tmp_path_factory.mktemp("tracked") / "store"
    folder.mkdir()
    clock = SharedClock(folder / "clock")
    clock.set(START)
    workspace = Workspace.open(folder, clock)
    runs = workspace.runs
    flights = runs.create_experiment("flights", {NOTE: "## Late flights\nWarn **early**."})
    fill(workspace)
    long, other = (
        runs.start("long", name=name, params={"rate": rate}).id for name, rate in (("first", 0.1), ("second", 0.05))
    )
    curve(workspace, long)
    for run, rate in ((long, 1), (other, 2)):
        runs.log_artifact(run, "train.py", f"rate = {rate}\n".encode())
    runs.log_artifact(long, "tables/scores.csv", b"name,score\na,1\nb,2\n")
    hostile = runs.start(EVIL, name=EVIL, params={"p": EVIL}, tags={"team": EVIL, NOTE: EVIL, "mlflow.user": EVIL,
                                                                    "mlflow.source.git.commit": EVIL}).id  # fmt: skip
    second = runs.start(EVIL, name=EVIL, params={"p": "other"}, tags={"team": "x"}).id
    for run in (hostile, second):
        with workspace.database.transaction() as connection:  # names that logging refuses, as an import may bring them
            connection.execute(tables.params.insert().values(run=run, name=f"p{EVIL}", value=run, number=None))
            connection.execute(tables.tags.insert().values(run=run, name=f"t{EVIL}", value=EVIL))
            for name in (f"m{EVIL}", f"n{EVIL}"):
                connection.execute(tables.summaries.insert().values(run=run, name=name, points=3, last=1.0, last_step=2, least=0.0,
                                                                    greatest=2.0, last_at=START))  # fmt: skip
                points = [
                    {"run": run, "name": name, "step": step, "value": float(step), "at": START} for step in range(3)
                ]
                connection.execute(tables.metrics.insert(), points)
    runs.log_artifact(hostile, f"a {EVIL[:20]}.csv", f"{EVIL},b\n{EVIL},2\n".encode())
    runs.log_artifact(hostile, "page.html", b"<script>document.title='owned'</script>")
    runs.log_artifact(
        hostile,
        "p.svg",
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="document.title=\'owned\'"><rect width="9" height="9"/></svg>',
    )
    number = runs.experiment(EVIL).number
    runs.tag_experiment(number, {NOTE: f"{EVIL}\n\n[x](javascript:document.title='owned')", f"k{EVIL}"[:40]: EVIL})
    workspace.models.register("flights", "a" * 64, "run_00003", "s" * 64, "d" * 64, EVIL)
    workspace.models.register("flights", "b" * 64, "run_00006", "s" * 64, "e" * 64, "again", params={"rate": 0.1})
    with workspace.database.transaction() as connection:
        workspace.models.mark(connection, "flights", 1, "champion", EVIL, START)
        workspace.models.mark(connection, "flights", 2, "champion", "better", START + timedelta(days=3))
        workspace.models.set_alias(connection, "flights", "champion", 2)
    workspace.models.create(CLIENTS, f"{EVIL}\n\nWho *leaves*", tags={"team": EVIL})
    for place, run in enumerate((second, hostile), 1):
        workspace.models.add_version(
            CLIENTS, f"runs:/{run}/model", run=run, description=EVIL, tags={"n": str(place)}, user=EVIL
        )
    workspace.models.assign_alias(CLIENTS, "blue", 2, by=EVIL, reason=EVIL)
    workspace.models.set_stage(CLIENTS, 2, "Staging")
    process, url = serve(folder)
    yield Tracked(url, folder, workspace, {"long": long, "other": other, "hostile": hostile, "second": second,
                                          "number": str(number), "flights": str(flights.number)})  # fmt: skip
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    workspace.close()


class Watched:
    """A page with everything that went wrong on it."""

    def __init__(self, page, host: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.weight = 0
        page.on("console", lambda said: self.errors.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "request",
            lambda asked: self.errors.append(asked.url) if not asked.url.startswith((host, "data:")) else None,
        )


@pytest.fixture
def look(tracked: Tracked, browser) -> Iterator:
    """Open a page, as whoever reads or as the owner."""
    contexts = []

    def open_(path: str, *, wait: str = "main > *", owner: bool = False, width: int = 1440, **options) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        watched = Watched(context.new_page(), tracked.url)
        if owner:
            key = Sessions(Store.parse(tracked.folder).run.token(), SystemClock()).link()
            watched.page.goto(f"{tracked.url}/experiments?key={key}")
        watched.page.goto(f"{tracked.url}{path}")
        watched.page.wait_for_selector(wait)
        return watched

    yield open_
    for context in contexts:
        context.close()


LINE = "k-runs .line[id] .run-name"


def names(page) -> list[str]:
    """Return the runs in sight, from the top."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('k-runs .line[id]')].sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)"
        ".map(one => one.querySelector('.run-name')?.textContent)"
    )
    return found


def measured(name: str, value: float) -> None:
    """Say a figure: ``pytest -s`` shows them."""
    print(f"{name}: {value}")


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that the page's own policy keeps a browser from being asked to wait for."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.03)


def settled(page) -> None:
    page.wait_for_selector("k-runs:not([busy])")
    page.wait_for_timeout(120)


def test_two_thousand_runs_are_sorted_filtered_and_scrolled(look) -> None:
    watched = look("/experiments/flights", wait=LINE)
    page = watched.page
    assert "2,000 runs" in page.inner_text("[data-part=count]")
    assert names(page)[0] == "mlp-1999" or names(page)[0].endswith("-1999")
    assert page.locator("k-runs .line[id]").count() < 60, "only what is in sight exists"
    assert page.inner_text(".note strong") == "early"
    # Scrolling to the end asks for the last page only.
    began = time.perf_counter()
    page.evaluate("document.querySelector('[data-part=scroll]').scrollTop = 1e9")
    page.wait_for_selector(f"{LINE}:text-is('gbm-0000')")
    measured("scroll_ms", round(1000 * (time.perf_counter() - began)))
    # Sorted by a metric: the least at the end, the greatest first.
    began = time.perf_counter()
    page.click("k-runs .runs-head button:has-text('loss')")
    page.wait_for_url("**order=-metrics.loss**")
    settled(page)
    measured("sort_ms", round(1000 * (time.perf_counter() - began)))
    assert names(page)[0].startswith("linear")
    page.click("k-runs .runs-head button:has-text('loss')")
    page.wait_for_url("**order=metrics.loss**")
    settled(page)
    assert names(page)[0].startswith("gbm")
    # A filter that can't be read says where; one that can narrows the table, and is in the address.
    page.keyboard.press("/")
    page.keyboard.type("metrics.loss << 1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#filter-problem:has-text('character 15')")
    assert page.get_attribute("[data-part=filter]", "aria-invalid") == "true"
    page.fill("[data-part=filter]", "metrics.loss < 0.23 and params.model = 'mlp'")
    page.keyboard.press("Enter")
    page.wait_for_url("**filter=**")
    settled(page)
    assert all(name.startswith("mlp") for name in names(page))
    address = page.url
    first = names(page)
    page.goto(address)
    page.wait_for_selector(LINE)
    settled(page)
    assert names(page) == first, "the address is the whole state"
    assert watched.errors == []


def test_keys_select_and_compare(look) -> None:
    watched = look("/experiments/flights?order=-metrics.loss", wait=LINE)
    page = watched.page
    for key in ("j", "x", "j", "j", "x"):
        page.keyboard.press(key)
    page.wait_for_selector("text=2 selected")
    picked = [names(page)[0], names(page)[2]]
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    page.keyboard.press("b")
    page.wait_for_selector("k-runs .line.base:visible")
    assert page.locator("k-runs .line[id] .gap").count() > 10
    assert page.locator("k-runs .line[id] .cell.differs").count() > 10
    page.keyboard.press("c")
    page.wait_for_url("**/compare?runs=**")
    page.wait_for_selector("k-scatter")
    assert page.locator(".run-head").all_inner_texts() == picked
    page.go_back()
    page.wait_for_selector(LINE)
    assert "base=" in page.url
    assert watched.errors == []


def test_groups_trees_and_columns(look) -> None:
    watched = look("/experiments/flights?order=started", wait=LINE)
    page = watched.page
    page.select_option("[data-part=group]", "params.model")
    page.wait_for_selector("k-runs .line.group")
    assert page.locator("k-runs .line.group").count() == 3
    assert "667 runs" in page.inner_text("k-runs .line.group >> nth=0")
    page.click("k-runs .line.group >> nth=1")
    page.wait_for_selector(LINE)
    page.select_option("[data-part=group]", "")
    page.check("[data-part=tree]")
    page.wait_for_selector("text=1,400 runs at the top")
    assert page.inner_text("k-runs .line[id] .children >> nth=0") == "3"
    page.click("k-runs .twist[aria-expanded=false] >> nth=0")
    page.wait_for_selector("k-runs .twist[aria-expanded=true]")
    page.wait_for_selector("k-runs .indent", state="attached")
    assert sorted(names(page)[1:4]) == ["gbm-0003", "linear-0002", "mlp-0001"]
    page.click("[data-part=columns]")
    page.fill("[data-part=columns-search]", "row")
    page.check("[data-part=columns-all] input")
    page.wait_for_url("**params.rows**")
    assert page.locator("k-runs .runs-head:has-text('rows')").count() == 1
    page.click("[data-part=columns-shown] li >> nth=0 >> button[aria-label^='Pin']")
    page.wait_for_url("**pin=1**")
    page.click("[data-part=columns-shown] li:has-text('Duration') button[aria-label^='Take away']")
    assert page.locator("k-runs .runs-head:has-text('Duration')").count() == 0
    assert watched.errors == []


def test_many_are_tagged_deleted_and_brought_back(look, tracked: Tracked) -> None:
    watched = look("/experiments/flights?filter=" + "params.depth = 6 and name LIKE 'gbm-00%'", wait=LINE, owner=True)
    page = watched.page
    page.check("[data-all]")
    page.wait_for_selector("text=5 selected")
    page.click("[data-part=tag]")
    page.fill("[data-ask=name]", "seen")
    page.fill("[data-ask=value]", "yes")
    page.click("#bulk-ask button[value=yes]")
    page.wait_for_selector("text=5 runs tagged.")
    assert tracked.workspace.runs.rows("flights", filter="tags.seen = 'yes'").total == 5
    page.click("[data-part=delete]")
    page.click("#bulk-ask button[value=no]")
    assert tracked.workspace.runs.rows("flights", view="deleted").total == 0
    page.click("[data-part=delete]")
    page.click("#bulk-ask button[value=yes]")
    page.wait_for_selector("text=No run fits this filter.")
    page.select_option("[data-part=view]", "deleted")
    page.wait_for_selector("k-runs .line.deleted")
    page.check("[data-all]")
    page.click("[data-part=restore]")
    page.click("#bulk-ask button[value=yes]")
    page.wait_for_selector("text=No run fits this filter.")
    assert tracked.workspace.runs.rows("flights", view="deleted").total == 0
    before = tracked.workspace.runs.experiment("flights").tags[NOTE]
    page.click("[data-note]")
    page.fill("#note textarea", "# New\n*words*")
    page.click("#note button[value=yes]")
    page.wait_for_selector(".note em:text('words')")
    found = tracked.workspace.runs.experiment("flights")
    assert found.tags[NOTE] == "# New\n*words*"
    tracked.workspace.runs.tag_experiment(found.number, {NOTE: before})  # the tests come in any order
    assert watched.errors == []


def test_whoever_only_reads_changes_nothing(look) -> None:
    page = look("/experiments/flights", wait=LINE).page
    for part in ("tag", "delete", "restore"):
        assert page.locator(f"[data-part={part}]").is_disabled()
    assert page.locator("[data-note]").is_disabled()


def test_a_new_run_is_seen_without_loading_again(look, tracked: Tracked) -> None:
    runs = tracked.workspace.runs
    runs.start("live", name="before")
    watched = look("/experiments/live", wait=LINE)
    watched.page.evaluate("window.notReloaded = true")
    runs.start("live", name="after", started_at=START + timedelta(hours=1))
    watched.page.wait_for_selector(f"{LINE}:text-is('after')", timeout=12_000)
    assert watched.page.evaluate("window.notReloaded")
    assert watched.errors == []


def test_a_hundred_thousand_points_stay_fluid(look, tracked: Tracked) -> None:
    long = tracked.names["long"]
    watched = look(f"/compare?runs={long},{tracked.names['other']}", wait="k-curves canvas")
    page = watched.page
    told = page.inner_text("k-curves .told")
    assert "of 100,000 points" in told
    with httpx.Client(base_url=tracked.url) as client:
        began = time.perf_counter()
        found = client.get(f"/compare/curves.json?runs={long}&metric=loss&width=900").json()["lines"][0]
        measured("curve_ms", round(1000 * (time.perf_counter() - began)))
        assert len(found["x"]) <= 1804
        assert max(found["y"]) == 9.0
    # Dragging over the spike asks again, in finer steps, and the address says where one is.
    box = page.locator("k-curves .u-over").bounding_box()
    middle = box["x"] + box["width"] * SPIKE / POINTS
    page.mouse.move(middle - 20, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(middle + 20, box["y"] + 60, steps=4)
    began = time.perf_counter()
    page.mouse.up()
    page.wait_for_url("**from=**")
    until(lambda: page.inner_text("k-curves .told") != told)
    measured("zoom_ms", round(1000 * (time.perf_counter() - began)))
    page.click("[data-unzoom]")
    until(lambda: page.inner_text("k-curves .told") == told)
    # A frame while the pointer moves over the picture, the median of many.
    page.evaluate("""() => { window.frames_ = []; let last = performance.now();
        const beat = now => { window.frames_.push(now - last); last = now; if (window.frames_.length < 200) requestAnimationFrame(beat); };
        requestAnimationFrame(beat); }""")
    for step in range(40):
        page.mouse.move(box["x"] + 20 + step * (box["width"] - 40) / 40, box["y"] + 50)
    spans = sorted(page.evaluate("window.frames_.slice(2)"))
    measured("frame_ms", round(spans[len(spans) // 2], 1))
    page.locator("[data-set=smooth]").fill("0.9")
    page.wait_for_url("**smooth=0.9**")
    page.check("[data-set=log]")
    page.select_option("[data-set=x]", "relative")
    page.wait_for_url("**x=relative**")
    page.wait_for_selector("k-curves[x=relative][log][smooth='0.9'] canvas")
    page.locator("#changed").scroll_into_view_if_needed()
    page.wait_for_selector("#changed .d-cut", timeout=30_000)
    assert "rate = 1" in page.inner_text("#changed .d-cut")
    assert watched.errors == []


def test_many_runs_compared_by_their_params(look) -> None:
    watched = look("/compare?experiment=flights&filter=params.depth = 3&goal=loss", wait="#importance tbody tr")
    page = watched.page
    assert page.inner_text("#importance tbody tr >> nth=0 >> th") in {"model", "rate"}
    assert "Spearman" in page.inner_text("#importance")
    before = page.evaluate("document.querySelector('k-parallel').left")
    assert before == 286
    box = page.locator("k-parallel .hit >> nth=-1").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] * 0.7)
    page.mouse.down()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"], steps=3)
    page.mouse.up()
    page.wait_for_url("**brush=metrics.loss**")
    left = page.evaluate("document.querySelector('k-parallel').left")
    assert 0 < left < before
    page.goto(page.url)
    page.wait_for_selector("k-parallel .hit")
    until(lambda: page.evaluate("document.querySelector('k-parallel').left") == left)
    page.select_option("[data-pick=sx]", "params.rate")
    page.wait_for_url("**sx=params.rate**")
    assert page.locator("k-scatter circle").count() == 286
    assert watched.errors == []


def test_a_run_its_files_and_its_curves(look, tracked: Tracked) -> None:
    watched = look(f"/runs/{tracked.names['long']}", wait="k-curves canvas", color_scheme="dark")
    page = watched.page
    page.click("#part-files a:has-text('tables/')")
    page.click("#part-files a:has-text('scores.csv')")
    page.wait_for_selector(".preview tbody tr")
    assert page.locator(".preview tbody tr").count() == 2
    assert "file=tables" in page.url
    page.wait_for_selector("k-live[state=live]")
    tracked.workspace.runs.log_tags(tracked.names["long"], {"word": "seen-live"})
    page.wait_for_selector("#part-overview .tag:has-text('seen-live')")
    assert watched.errors == []


def test_names_that_attack(look, tracked: Tracked) -> None:
    one, two, number = tracked.names["hostile"], tracked.names["second"], tracked.names["number"]
    paths = {
        "/experiments": "table",
        f"/experiments/~{number}": LINE,
        f"/experiments/~{number}?group=params.p": "k-runs .line.group",
        f"/experiments/~{number}?base={one}&tree=1": "k-runs .line.base",
        f"/runs/{one}": "k-curves canvas",
        f"/runs/{one}?file=page.html": ".code.text",
        f"/runs/{one}?file=p.svg": ".picture",
        f"/compare?runs={one},{two}": "#importance *",
        f"/compare?experiment={httpx.QueryParams({'e': EVIL})['e'].replace('#', '%23').replace('&', '%26')}": "k-scatter",
        "/models": "table",
        "/models/flights": ".reigns",
        "/models/flights/1": ".reigns",
        "/models/flights/compare?left=1&right=2": ".sides",
        f"/models/{quote(CLIENTS)}": "#changes li",
        f"/models/{quote(CLIENTS)}/2": "#changes li",
        f"/models/{quote(CLIENTS)}/blue": "#changes li",
        f"/models/{quote(CLIENTS)}/compare?left=1&right=2": ".sides",
    }
    watched = look("/experiments")
    page = watched.page
    for path, wait in paths.items():
        page.goto(f"{tracked.url}{path}", wait_until="domcontentloaded")
        page.wait_for_selector(wait)
        if wait == LINE:
            page.click("[data-part=columns]")
        for place in page.locator("[data-fetch]").all():
            place.scroll_into_view_if_needed()
        assert page.title() != "owned", path
        assert page.locator("main img:not(.picture), main script").count() == 0, path
        assert page.locator("[onerror], [onload], [onmouseover], a[href^='javascript']").count() == 0, path
        assert "49" not in page.inner_text("h1"), path
        assert watched.errors == [], path
    with httpx.Client(base_url=tracked.url) as client:
        for file in ("page.html", "p.svg"):
            raw = client.get(f"/runs/{one}/raw", params={"file": file})
            assert raw.headers["content-disposition"].startswith("attachment")
            assert "sandbox" in raw.headers["content-security-policy"]
            assert raw.headers["content-type"] != "text/html"
            assert raw.headers["x-content-type-options"] == "nosniff"


def test_links_that_mlflow_prints(look, tracked: Tracked) -> None:
    watched = look(f"/#/experiments/{tracked.names['flights']}/runs/run_00007", wait="#part-overview")
    assert watched.page.url == f"{tracked.url}/runs/run_00007"
    watched.page.goto(f"{tracked.url}/#/experiments/{tracked.names['flights']}")
    watched.page.wait_for_url("**/experiments/~*")
    watched.page.wait_for_selector(LINE)
    watched.page.goto(f"{tracked.url}/#/models/flights/versions/2")
    watched.page.wait_for_url("**/models/flights/2")
    assert watched.errors == []


def test_models_say_who_was_champion_when(look) -> None:
    watched = look("/models/flights", wait=".reigns")
    page = watched.page
    assert page.locator("#champions li").count() == 2
    assert "3 d 0 h" in page.inner_text("#champions")
    page.click("text=Compare the two")
    page.wait_for_url("**/models/flights/compare?**")
    assert "0.1" in page.inner_text("main")
    page.goto(page.url.split("/compare")[0] + "/2")
    assert "again" in page.inner_text("main")
    assert watched.errors == []


def test_models_that_clients_registered(look, tracked: Tracked) -> None:
    watched = look("/models", wait="table")
    page = watched.page
    row = page.locator("tbody tr", has_text="churn")
    assert "v2 @blue" in row.inner_text().replace("\n", " ")
    row.locator("a[data-walk]").click()
    page.wait_for_selector("#changes li")
    assert page.inner_text(".note em") == "leaves"
    newest = page.locator(".versions tbody tr").first.inner_text()
    assert all(word in newest for word in ("v2", "@blue", "Staging", "n=2"))
    page.click("text=Compare the two")
    page.wait_for_selector(".sides")
    assert "tag n" in page.inner_text("main")
    page.goto(f"{tracked.url}/models/{quote(CLIENTS)}/2")
    made = page.locator(".card", has_text="Made of").inner_text()
    assert f"runs:/{tracked.names['hostile']}/model" in made
    page.goto(f"{tracked.url}/runs/{tracked.names['hostile']}")
    assert page.locator("#part-origin a[href^='/models/churn']").count() == 1
    assert watched.errors == []


def test_a_model_is_described_on_its_page(look, tracked: Tracked) -> None:
    watched = look(f"/models/{quote(CLIENTS)}/1", wait="#changes li", owner=True)
    page = watched.page
    page.click("[data-note]")
    page.fill("#note textarea", "The **first** one")
    page.click("#note button[value=yes]")
    page.wait_for_selector(".note strong:text('first')")
    assert tracked.workspace.models.registered_version(CLIENTS, 1).description == "The **first** one"
    assert "description" in page.inner_text("#changes")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_shows_them_without_sideways_scrolling(look, tracked: Tracked, scheme: str) -> None:
    long = tracked.names["long"]
    watched = look("/experiments", width=390, is_mobile=True, color_scheme=scheme)
    for path in ("/experiments/flights?select=run_00001", f"/runs/{long}", f"/compare?runs={long},{tracked.names['other']}",
                 "/models", "/models/flights", "/models/flights/1", "/models/flights/compare?left=1&right=2"):  # fmt: skip
        watched.page.goto(f"{tracked.url}{path}")
        watched.page.wait_for_selector("main > *", state="attached")
        watched.page.wait_for_timeout(150)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390, path
    assert watched.errors == []


def test_the_pages_as_data_and_their_weight(tracked: Tracked, browser) -> None:
    with httpx.Client(base_url=tracked.url) as client:
        for path in ("/experiments.json", "/experiments/flights.json", "/experiments/flights/rows.json?limit=5", "/runs/run_00001.json",
                     "/experiments/flights/groups.json?group=status", "/compare.json?runs=run_00001,run_00002", "/models.json",
                     "/compare/importance.json?experiment=flights&metric=loss", "/models/flights.json", "/models/flights/1.json",
                     "/models/flights/compare.json?left=1&right=2", "/compare/changed.json?left=run_00001&right=run_00002"):  # fmt: skip
            assert client.get(path).status_code == 200, path
        for path, status in (("/experiments/none", 404), ("/runs/none", 404), ("/compare", 422), ("/models/none", 404),
                             ("/models/flights/99", 404), ("/experiments/flights/rows.json?filter=x", 422),
                             ("/runs/run_00001/raw?file=../../kilter.db", 404), ("/runs/run_00001/parts/none", 404)):  # fmt: skip
            assert client.get(path).status_code == status, path
            assert client.get(path, headers={"accept": "text/html"}).headers["content-type"].startswith("text/html")
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
    page.goto(f"{tracked.url}/compare?runs=run_00001,run_00002")
    page.wait_for_selector("k-scatter svg")
    measured("page_bytes", sum(sizes))
    assert sum(sizes) < 420_000
    with tracked.workspace.database.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.runs)).scalar_one() >= RUNS
    context.close()
