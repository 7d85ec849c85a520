"""The page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from kilter.loop.records import RetrainRequested

pytestmark = [pytest.mark.ui, pytest.mark.xdist_group("ui")]

LOOP = "flight-delay"


class Watched:
    """A page with everything that went wrong on it."""

    def __init__(self, page, host: str) -> None:
        self.page = page
        self.host = host
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.loads = 0
        page.on("console", lambda said: self.errors.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._requested)
        page.on("framenavigated", self._loaded)

    def _requested(self, request) -> None:
        if not request.url.startswith((self.host, "data:")):
            self.foreign.append(request.url)

    def _loaded(self, _frame) -> None:
        self.loads += 1


@pytest.fixture
def open_page(site, browser) -> Iterator:
    contexts = []

    def open_(path: str = f"/loops/{LOOP}", *, wait: str = "k-loop", **options) -> Watched:
        context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
        contexts.append(context)
        watched = Watched(context.new_page(), site.url)
        watched.page.goto(path if path.startswith("http") else f"{site.url}{path}")
        watched.page.wait_for_selector(wait, state="attached")
        return watched

    yield open_
    for context in contexts:
        context.close()


def test_the_page_is_drawn_without_errors_and_without_anyone_else(open_page) -> None:
    watched = open_page("/", wait="k-lines")
    page = watched.page
    assert page.url.endswith(f"/loops/{LOOP}"), "with one loop the first page is that loop's"
    for drawn in ("k-loop svg .node", "k-lines svg .line", "k-heat canvas", "k-traffic svg .lane"):
        page.wait_for_selector(drawn, state="attached")
    assert page.locator("k-loop svg .node").count() == 8
    assert page.locator(".badge-sim").inner_text() == "simulated clock"
    assert watched.errors == []
    assert watched.foreign == []


def test_an_event_reaches_the_timeline_without_a_reload(open_page, site) -> None:
    watched = open_page()
    page = watched.page
    page.wait_for_selector("k-live[state=live]")
    page.evaluate("window.notReloaded = true")
    asked = page.locator(".entry[data-kind=RetrainRequested]")
    before = asked.count()
    workspace = site.story.workspace
    workspace.loops.ledger.feed(LOOP, RetrainRequested(at=workspace.clock.now(), by="the-test"))
    page.wait_for_function(
        "count => document.querySelectorAll('.entry[data-kind=RetrainRequested]').length > count", arg=before
    )
    assert "the-test" in asked.first.inner_text()
    assert page.evaluate("window.notReloaded")
    assert watched.loads == 1
    assert watched.errors == []


def test_a_day_of_the_drift_map_opens_its_distribution(open_page) -> None:
    watched = open_page()
    page = watched.page
    page.wait_for_selector("k-heat canvas", state="attached")
    heat = page.locator("k-heat")
    heat.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    # The page may still move under a mouse that was sent to a place on the screen: the place is said on the map itself.
    heat.click(position={"x": heat.bounding_box()["width"] * 0.8, "y": 12})
    page.wait_for_selector("#histogram k-hist svg .day", state="attached")
    first = page.locator("#histogram h2").inner_text()
    assert first == "prediction"
    heat.locator("canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.querySelector('#histogram h2').textContent !== name", arg=first)
    assert watched.errors == []


def test_dark_and_light(open_page) -> None:
    watched = open_page(color_scheme="dark")
    page = watched.page
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    light = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == light, "the choice is kept"
    assert watched.errors == []


def test_pausing_and_resuming(open_page, site) -> None:
    status = site.story.workspace.loops.status
    watched = open_page(site.link().replace("/?", f"/loops/{LOOP}?"))
    page = watched.page
    page.click("[data-act=pause]")
    page.fill("#ask-reason", "looking at it")
    page.click("#ask-yes")
    page.wait_for_selector("[data-act=resume]")
    assert "looking at it" in (status(LOOP).summary.paused or "")
    page.click("[data-act=resume]")
    page.click("#ask-yes")
    page.wait_for_selector("[data-act=pause]")
    assert status(LOOP).summary.paused is None
    assert watched.errors == []


def test_a_reader_without_a_session_can_only_look(open_page) -> None:
    page = open_page().page
    buttons = page.locator("[data-act]")
    assert buttons.count() > 0
    assert all(buttons.nth(number).is_disabled() for number in range(buttons.count()))


@pytest.mark.parametrize("path", [f"/loops/{LOOP}", f"/loops/{LOOP}/versions/v1", "/?all"])
def test_a_phone_needs_no_sideways_scrolling(open_page, path) -> None:
    watched = open_page(path, wait="main", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    watched.page.wait_for_timeout(400)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert watched.errors == []


def test_it_can_be_read_without_javascript(open_page) -> None:
    page = open_page(java_script_enabled=False).page
    text = page.inner_text("main")
    for word in ("Data", "Gates", "Monitoring", "Timeline", "Versions"):
        assert word in text
    assert page.locator(".versions tbody tr").count() > 0


def test_the_chain_behind_a_version(open_page) -> None:
    watched = open_page(f"/loops/{LOOP}/versions/v1", wait=".chain")
    text = watched.page.inner_text(".chain")
    assert "gates" in text
    assert watched.page.locator(".chain .interval").count() >= 3
    assert watched.errors == []


def test_still_means_still(open_page) -> None:
    page = open_page(reduced_motion="reduce").page
    page.wait_for_selector("k-loop svg .node", state="attached")
    assert page.locator("k-loop svg .pulse, k-loop svg .answers, k-traffic svg .flow").count() == 0


def test_the_clock_is_the_stores(open_page, site) -> None:
    page = open_page().page
    now: datetime = site.story.workspace.clock.now().astimezone(UTC)
    assert re.search(rf"{now.day} \w+ {now.year}", page.inner_text("k-clock"))
