"""One user's file, unchanged, on SQLite with a folder and on PostgreSQL with S3: the same life to the last digest."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import msgspec
import polars as pl
import pytest
from examples.flights.airline import Airline, airline, rows
from examples.flights.flight_delay import flights

from kilter.cli.main import main
from kilter.engines.location import locate
from kilter.loop.store import Store
from kilter.serving.recording.predictions import PredictionLog, shadows_to_frame

FILE = Path(__file__).parents[2] / "examples" / "flights" / "flight_delay.py"
LOOP = "flight-delay"
DAY = timedelta(days=1)

MARCH = datetime(2013, 3, 1, tzinfo=UTC)
UNPROVEN = datetime(2013, 3, 15, tzinfo=UTC)  # a fortnight of new rows proves nothing yet
PROVEN = datetime(2013, 4, 8, tzinfo=UTC)  # another month does


@pytest.fixture
def remote_store(postgres_url: str, s3_url: str) -> str:
    """The URL of a store in PostgreSQL and S3, as a user would give it."""
    return f"{postgres_url}&objects={quote(s3_url, safe='')}"


@pytest.mark.slow
def test_the_same_file_lives_the_same_life_on_both(house, tmp_path, remote_store, capsys):
    year = airline()
    embedded = _life(house(tmp_path / "store"), year, capsys)
    remote = _life(house(remote_store, tmp_path / "home"), year, capsys)
    for what, found in embedded.items():
        assert remote[what] == found, what
    # The life was a rich one: the first champion, one that could not prove itself, and one that went all the way.
    stages = {version: [mark["stage"] for mark in marks] for version, marks in embedded["stages"].items()}
    assert stages[1][-1] == "retired"
    assert stages[2][-1] == "inconclusive"
    assert [stage for stage in stages[3] if stage != "candidate"] == ["gated", "shadow", "champion"]
    assert {one["shadow_version"] for one in embedded["shadows"]} == {3}
    assert len(embedded["answers"]) > 50


def _life(house, year: Airline, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Live through the spring of 2013 and tell everything that must not depend on the store."""
    told: dict[str, object] = {}
    kilter = house.workspace
    kilter.data.declare(flights)
    kilter.data.ingest("flights", year.history(MARCH))
    house.work()
    house.serve()
    told["applied"] = kilter.loops.apply(FILE.read_text(), FILE.name, by="test")
    house.settle(LOOP, lambda status: status.summary.champion == 1)
    for moment, work in ((UNPROVEN, "idle"), (PROVEN, "shadow")):
        house.clock.set(moment)
        kilter.data.ingest("flights", year.history(moment))
        house.settle(LOOP)
        kilter.loops.retrain(LOOP, by="test")
        house.settle(
            LOOP,
            lambda status, work=work: status.summary.work == work and status.summary.confirmed and not _busy(status),
        )
    # A day under the shadow: passengers ask, planes leave and land, and the next day is judged.
    asked = rows(year.scheduled(PROVEN, PROVEN + DAY / 12))
    answer = house.post(LOOP, asked)
    assert answer.status_code == 200, answer.text
    told["answers"] = [{k: v for k, v in one.items() if k != "id"} for one in answer.json()["predictions"]]
    records = [kilter.endpoints.prediction(one["id"]) for one in answer.json()["predictions"]]
    told["records"] = [msgspec.structs.replace(one, id="") for one in records]
    for frame in (year.departed(PROVEN, PROVEN + DAY), year.arrived(PROVEN, PROVEN + DAY)):
        timed = frame.join(year.flights.select("flight_id", "sched_dep"), on="flight_id")
        kilter.data.append("flights", rows(timed))
    told["shadows"] = house.until(lambda: _shadows(house, len(asked)))
    house.clock.set(PROVEN + DAY)
    house.settle(LOOP)
    kilter.loops.promote(LOOP, 3, by="test")
    house.settle(LOOP, lambda status: status.summary.champion == 3 and status.summary.confirmed)

    versions = {one.version: one for one in kilter.models.versions(LOOP)}
    told["lineage"] = {n: msgspec.structs.replace(one.lineage, run="") for n, one in versions.items()}
    told["bundles"] = {n: one.bundle for n, one in versions.items()}
    told["runs"] = {n: _run(kilter.runs.get(one.lineage.run)) for n, one in versions.items()}
    histories = {n: kilter.models.history(LOOP, n) for n in versions}
    told["stages"] = {n: _same(one.stages) for n, one in histories.items()}
    told["evidence"] = {n: _same(one.evidence) for n, one in histories.items()}
    told["status"] = _same(kilter.loops.status(LOOP).summary)
    told["journal"] = [_same(event) for event in kilter.journal_log.events(limit=1000)]
    assert kilter.journal_log.verify().ok
    told["table"] = kilter.data.version("flights")
    # What the command line says, in a folder's words and in a URL's.
    for number in versions:
        told[f"why v{number}"] = _said(capsys, house.arguments("why", f"{LOOP}@v{number}"))
    told["planned"] = _said(capsys, house.arguments("plan", str(FILE)))
    return told


def _busy(status) -> bool:
    return status.summary.work in {"training", "gating"}


def _shadows(house, number: int) -> list[dict[str, object]]:
    log = PredictionLog.open(house.workspace.prediction_logs())
    found = shadows_to_frame(log.read(), loop=LOOP)
    log.close()
    return found.drop("id").to_dicts() if found.height >= number else []


def _run(run) -> object:
    metrics = [_same(metric) for metric in run.metrics if metric.name != "cpu_seconds"]
    return run.params, metrics, run.data_digest, run.feature_digest, run.code_digest, run.spec, run.status


def _said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> object:
    assert main([*arguments, "--json"]) == 0
    return _masked(json.loads(capsys.readouterr().out))


_TIMED = re.compile(r"faster_than\(20ms\): (\w+) \([^)]*\)")
_OWN = ((re.compile(r"run_[a-z0-9]+"), "run_*"), (re.compile(r"[\d.]+ CPU seconds"), "* CPU seconds"), (_TIMED, r"\1"))


def _same(value: object) -> object:
    return _masked(msgspec.to_builtins(value))


def _masked(value: object) -> object:
    """Return a document without what belongs to one run on one machine: ids, times taken, and the chain over them."""
    if isinstance(value, dict):
        if str(value.get("name", "")).startswith("faster_than"):
            return {"name": value["name"], "verdict": value["verdict"]}
        chained = {"digest", "previous"} if "kind" in value else set()
        dropped = {"cpu_seconds", "budget_left", *chained}
        return {name: _masked(item) for name, item in value.items() if name not in dropped}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    if isinstance(value, str):
        for pattern, word in _OWN:
            value = pattern.sub(word, value)
    return value


def test_the_command_line_takes_a_database_and_a_bucket(tmp_path, remote_store, capsys):
    where = ["--store", remote_store, "--home", str(tmp_path / "home"), "--json"]

    def said(*command: str) -> dict[str, object]:
        assert main([*command, *where]) == 0
        return json.loads(capsys.readouterr().out)

    planned = said("plan", str(FILE))
    assert (planned["loop"], planned["applied"], len(planned["changes"])) == (LOOP, "", 1)
    assert said("apply", str(FILE))["digest"] == planned["digest"]
    assert said("plan", str(FILE))["changes"] == []
    status = said("status", LOOP)
    assert (status["spec"], status["environment"]) == (planned["digest"], "dev")
    assert status["summary"]["work"] == "training"
    assert said("journal", "verify")["ok"]
    # The same file on a folder has the same digest.
    where[:] = ["--store", str(tmp_path / "store"), "--json"]
    assert said("plan", str(FILE))["digest"] == planned["digest"]


def test_options_of_the_bucket_may_stand_unquoted(tmp_path, postgres_url, s3_url):
    """``...?objects=s3://bucket/prefix?endpoint=URL&region=NAME`` is how people write it."""
    given = f"{s3_url}&region=eu-west-1"
    plain, quoted = (
        Store.parse(f"{postgres_url}&objects={objects}", str(tmp_path)) for objects in (given, quote(given, safe=""))
    )
    assert plain.database == quoted.database
    for one, two in ((plain.objects, quoted.objects), (plain.tables, quoted.tables)):
        assert locate(one) == locate(two)
    place = locate(plain.objects)
    assert (place.prefix, place.region) == ("store/objects", "eu-west-1")


def test_each_database_has_a_home_of_its_own(monkeypatch):
    """Two servers may both have a database of one name: their logs must not mix."""
    monkeypatch.delenv("KILTER_HOME", raising=False)
    urls = [f"postgresql://{host}/kilter?objects=/srv" for host in ("one", "two", "user:secret@one")]
    homes = [Store.parse(url).home for url in urls]
    assert homes[0] == homes[2] != homes[1]


def test_a_frame_has_one_digest_whatever_the_order_and_the_engine(house, tmp_path, remote_store):
    kept = airline().flights.head(2_000)
    found = set()
    for store, order in ((house(tmp_path / "store"), False), (house(remote_store, tmp_path / "home"), True)):
        store.workspace.data.declare(flights)
        given = kept.sample(fraction=1.0, shuffle=True, seed=1) if order else kept
        for part in given.iter_slices(700):
            store.workspace.data.ingest("flights", part)
        version = store.workspace.data.version("flights")
        found.add((version.rows, version.digest))
        assert isinstance(store.workspace.data.frame("flights"), pl.DataFrame)
    assert len(found) == 1
