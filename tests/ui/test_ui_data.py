"""What the pages say, asked without a browser."""

from __future__ import annotations

import hashlib
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest

from kilter.core.clock import ManualClock
from kilter.core.evidence import Finding, Interval
from kilter.loop.workspace import Workspace
from kilter.server.ui import words
from kilter.server.ui.assets import Assets
from kilter.server.ui.pages import PARTS, Pages
from kilter.server.ui.quality import trailing

pytestmark = pytest.mark.xdist_group("ui")

LOOP = "flight-delay"
STATIC = Path(__file__).parents[2] / "src" / "kilter" / "server" / "ui" / "static"


@pytest.fixture(scope="module")
def client(site):
    with httpx.Client(base_url=site.url) as client:
        yield client


def test_every_page_has_its_data_as_json(client) -> None:
    whole = client.get(f"/loops/{LOOP}.json").json()
    assert set(whole["parts"]) == set(PARTS)
    assert whole["simulated"] is True
    assert whole["loop"]["name"] == LOOP
    for part in PARTS:
        assert client.get(f"/loops/{LOOP}/parts/{part}.json").json() == whole["parts"][part]
        assert client.get(f"/loops/{LOOP}/parts/{part}").headers["content-type"].startswith("text/html")
    assert [one["name"] for one in client.get("/loops.json").json()] == [LOOP]
    assert client.get(f"/loops/{LOOP}/versions/v1.json").json()["version"] == f"{LOOP}@v1"
    heat = whole["parts"]["drift"]
    found = client.get(f"/loops/{LOOP}/drift/{heat['features'][0]}/{heat['days'][-1]}.json").json()
    assert sum(bar[1] for bar in found["bars"]) == pytest.approx(1, abs=1e-3)
    newest = whole["parts"]["timeline"]
    if newest["older"]:
        older = client.get(f"/loops/{LOOP}/timeline/{newest['older']}.json").json()
        first = min(entry["seq"] for group in newest["groups"] for entry in group["entries"])
        assert all(entry["seq"] < first for group in older["groups"] for entry in group["entries"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/loops/nobody", 404),
        (f"/loops/{LOOP}/parts/nothing", 404),
        (f"/loops/{LOOP}/versions/v999", 404),
        (f"/loops/{LOOP}/drift/prediction/yesterday", 422),
        (f"/loops/{LOOP}/drift/nothing/2013-03-05", 404),
        (f"/loops/{LOOP}/timeline/then", 422),
        ("/static/older/kilter.css", 404),
    ],
)
def test_what_is_not_there_is_said(client, path, status) -> None:
    asked = client.get(path)
    assert asked.status_code in {status, 400 if status == 422 else status}
    assert asked.headers["content-type"] == "application/problem+json"
    shown = client.get(path, headers={"accept": "text/html"})
    assert shown.status_code == asked.status_code
    assert "All loops" in shown.text


def test_nothing_inline_and_nothing_foreign(client) -> None:
    answer = client.get(f"/loops/{LOOP}")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert " style=" not in answer.text
    assert "<script>" not in answer.text
    assert "http://" not in answer.text.replace("http://www.w3.org", "")
    assert "https://" not in answer.text


def test_names_of_users_are_text_not_markup(site) -> None:
    pages = Pages(site.story.workspace)
    (alarm,) = list(pages.part_data(LOOP, "alarms"))[:1] or pytest.skip("no alarm")
    evil = msgspec.structs.replace(alarm, monitor='<img src=x onerror="alert(1)">')
    text = pages._render("parts/alarms.html", part=[evil], name=LOOP)
    assert "<img" not in text


def test_a_look_costs_little(site) -> None:
    pages = Pages(site.story.workspace)
    pages.pulse(LOOP)
    for name in PARTS:
        began = time.process_time()
        pages.part(LOOP, name, acts=False)
        assert time.process_time() - began < 0.030, name


def test_the_pulse_changes_with_what_it_is_about(site) -> None:
    pages = Pages(site.story.workspace)
    assert set(pages.pulse(LOOP).parts) == set(PARTS)
    assert pages.pulse(LOOP).parts == pages.pulse(LOOP).parts


def test_javascript_stays_small_and_vendored_files_are_what_they_were() -> None:
    scripts = list(STATIC.rglob("*.js"))
    assert sum(path.stat().st_size for path in scripts) < 300_000
    for path in scripts:
        if path.parent.name != "vendor":
            assert len(path.read_text().splitlines()) < 400, path.name
    vendored = tomllib.loads((STATIC / "vendor" / "VENDOR.toml").read_text())["file"]
    assert {one["name"] for one in vendored} == {path.name for path in (STATIC / "vendor").glob("*.js")}
    for one in vendored:
        assert hashlib.sha256((STATIC / "vendor" / one["name"]).read_bytes()).hexdigest() == one["sha256"]
        assert (STATIC / "vendor" / one["licence_file"]).exists()


def test_files_are_found_by_name_only() -> None:
    assets = Assets()
    assert "js/kilter.js" in assets.names()
    with pytest.raises(Exception, match="no such file"):
        assets.get("../../../../etc/passwd")


def test_an_empty_store_says_what_to_do_next(tmp_path) -> None:
    with Workspace.open(tmp_path / "store", ManualClock(datetime(2013, 3, 1, tzinfo=UTC))) as workspace:
        assert "kilter apply" in Pages(workspace).index()


def test_the_band_of_a_week_is_that_of_its_days() -> None:
    days = [(datetime(2013, 3, day, tzinfo=UTC).date(), 100 * value, 100.0) for day, value in
            zip(range(1, 8), (0.5, 0.6, 0.55, 0.45, 0.5, 0.6, 0.65), strict=True)]  # fmt: skip
    last = trailing(days)[-1]
    assert last.value == pytest.approx(0.55, abs=1e-5)
    # Student's t of seven equal days: mean ± 2.447 s / sqrt(7).
    assert last.high - last.value == pytest.approx(2.447 * 0.0707107 / 7**0.5, rel=1e-3)
    assert trailing(days)[0].low is None


@pytest.mark.parametrize(
    ("allowed", "bounds"), [("< 0", 1), ("|gap| <= 0.06", 2), ("< +10% worse than on the holdout", 1), ("as before", 0)]
)
def test_a_bound_is_read_from_its_words(allowed, bounds) -> None:
    finding = Finding("gate", "pass", Interval(0.02, -0.01, None, 0.9), allowed, 10, "rule")
    band = words.band(finding)
    assert band is not None
    assert len(band.bounds) == bounds
    assert band.high == 100.0


def test_numbers_are_written_for_people() -> None:
    assert [words.number(value) for value in (None, 0, -0.02097, 12345.6)] == [
        "\N{EN DASH}",
        "0",
        "\N{MINUS SIGN}0.02097",
        "12,346",
    ]
