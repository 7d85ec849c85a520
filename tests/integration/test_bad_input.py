"""Bad input gets a message that names place, reason and remedy, and changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from kilter.cli.main import main
from kilter.core.errors import Damaged
from kilter.engines.streams.log import Log
from kilter.loop.declaration import sources
from kilter.loop.workspace import Workspace
from kilter.serving.front.http import Limits
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront


@pytest.fixture
def store(shop_template: Path, tmp_path: Path) -> Path:
    """A store with the small loop and its rows."""
    return Path(shutil.copytree(shop_template, tmp_path / "store"))


def content(store: Path) -> dict[str, object]:
    """Return everything that a store holds: the rows of each SQL table, and every file beside the database."""
    found: dict[str, object] = {}
    database = sqlite3.connect(f"file:{store / 'kilter.db'}?mode=ro", uri=True)
    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
        found[name] = database.execute(f'SELECT * FROM "{name}"').fetchall()
    database.close()
    for folder in ("objects", "tables", "log"):
        for path in sorted((store / folder).rglob("*")):
            if path.is_file() and path.suffix != ".lock":
                found[str(path.relative_to(store))] = path.read_bytes()
    return found


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    """Run a command; return its exit code and what it said."""
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------- declarations

INPUTS = 'inputs=[visits.columns("price", "hour")],'
LABEL = 'label=Label(bought, known_at="paid_at"),'

WRONG = {
    "not Python": (("Loop(", "Loop(("), "this is not Python", "shop.py:", ""),
    "a name that is nowhere": (
        ("return LGBMClassifier(", "return LGBMClasifier("), "'LGBMClasifier'", "train", "did you mean 'LGBMClassifier'",
    ),
    "several faults": (
        ('    owner="shop@example.org",\n', '    owner="",\n    fallback=7.0,\n    seed=-1,\n'),
        "(and 2 more)",
        "shop.py:",
        "",
    ),
    "an unknown column": ((INPUTS, INPUTS.replace('"price"', '"prise"')), "'prise'", "inputs[0]", "did you mean 'price'"),
    "an unknown column of the label": (
        ('pl.col("spent")', 'pl.col("spend")'), "'spend'", "label.expression", "did you mean 'spent'",
    ),
    "an unknown column of a view": (
        (INPUTS, 'inputs=[visits.columns("price"), features(visits, entity="visit", time="at", level=mean("prize", "1d"))],'),
        "'prize'", "inputs[1].level", "did you mean 'price'",
    ),
    "a label that is known at the prediction": ((LABEL, LABEL.replace("paid_at", "at")), "leaks", "label.known_at", ""),
    "a label among the inputs": (
        (INPUTS, INPUTS.replace('"hour"', '"spent"')), "not known when the prediction is made", "inputs[0]", "past rows",
    ),
    "its time among the inputs": (
        (INPUTS, INPUTS.replace('"hour"', '"paid_at"')), "not known when the prediction is made", "inputs[0]", "",
    ),
    "a view over the label as of the prediction": (
        (INPUTS, 'inputs=[visits.columns("price"), features(visits, entity="hour", time="at", level=mean("spent", "1d"))],'),
        "not known yet", "inputs[1].level", 'time="paid_at"',
    ),
    "a view over the label a little later": (
        (INPUTS, 'inputs=[visits.columns("price"), features(visits, entity="visit", time="sent_at", lag="10m", level=mean("spent", "1d"))],'),
        "leaks the label", "shop.py: features('visits'", "time='paid_at'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_declaration_that_cannot_work_is_told_and_not_applied(case, store, shop, visited, tmp_path, capsys, clock):
    (old, new), message, where, fix = WRONG[case]
    assert old in shop
    file = tmp_path / "shop.py"
    file.write_text(shop.replace(old, new, 1))
    if "sent_at" in new:
        with Workspace.open(store, clock) as workspace:
            rows = visited(clock.now())
            workspace.data.ingest("visits", rows.with_columns(sent_at=rows["at"]))
    before = content(store)
    for verb in ("plan", "apply"):
        code, said = told(capsys, verb, str(file), "--store", str(store))
        assert code == 2, said
        assert said["type"] == "kilter:declaration"
        assert message in said["detail"], said
        assert where in said["where"], said
        assert fix in said["fix"], said
    assert content(store) == before


def test_what_is_no_file_or_no_loop(store, tmp_path, capsys):
    before = content(store)
    for text, message in (("", "declares no loop"), ("x = 1 / 0", "ZeroDivisionError"), ("\x00", "not Python")):
        (tmp_path / "file.py").write_text(text)
        code, said = told(capsys, "apply", str(tmp_path / "file.py"), "--store", str(store))
        assert (code, message in said["detail"]) == (2, True), said
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'")
    for name in ("latin.py", "nothing.py", tmp_path.name):
        code, said = told(
            capsys, "apply", str(tmp_path / name if name.endswith(".py") else tmp_path), "--store", str(store)
        )
        assert (code, said["type"]) == (2, "kilter:invalid-input"), said
        assert name in said["where"]
    assert content(store) == before


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("line", "words", "where"),
    [
        ('{"visit": "x", "at": "2013-03-01T00:00:00Z", "price": NaN}', "", ""),
        (
            '{"visit": "x", "at": "2013-03-01T00:00:00Z", "price": "dear"}',
            "a column of kind float",
            "rows.jsonl: visits.rows[0].price",
        ),
        ('{"visit": "x", "at": "yesterday", "price": 1}', "yesterday", "visits.rows[1].at"),
        ('{"visit": "x", "at": "2013-03-01T00:00:00", "price": 1}', "2013-03-01T00:00:00", "visits.rows[1].at"),
        ('{"at": "2013-03-01T00:00:00Z", "price": 1}', "no 'visit'", "visits.rows[1].visit"),
        ('{"visit": "x", "at": null}', "null 'at'", "visits.rows[1].at"),
        ('{"visit": ["x"], "at": 0}', "", ""),
        ("visit,at", "", ""),
    ],
)
def test_rows_that_cannot_be_taken_are_named_and_none_is_taken(line, words, where, store, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"visit": "good", "at": "2013-03-01T00:00:00Z", "price": 0.5}\n' + line + "\n")
    before = content(store)
    code, said = told(capsys, "data", "append", "visits", str(file), "--store", str(store))
    assert (code, said["type"]) == (2, "kilter:invalid-input"), said
    assert words in said["detail"], said
    assert where in said["where"], said
    assert content(store) == before


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["empty", "one class", "a bug"])
def test_a_training_that_cannot_be_done_says_why_until_someone_looks(kind, house, tmp_path, shop, visited, capsys):
    one = house(tmp_path / "store")
    kilter = one.workspace
    now = one.clock.now()
    if kind == "a bug":
        shop = shop.replace("n_estimators=10", "n_estimators=10 + data.rows")
    reason = {
        "empty": "the training window 2013-01-23 00:00 to 2013-02-22 00:00 UTC (30d) has no rows",
        "one class": "has one class only: the label is False in all",
        "a bug": "train failed: AttributeError: 'Dataset' object has no attribute 'rows'",
    }[kind]
    kilter.data.declare(_table(shop))
    kilter.data.ingest("visits", visited(now - timedelta(days=300 * (kind == "empty")), buyers=kind != "one class"))
    kilter.loops.apply(shop, "shop.py", by="test")
    one.work()
    status = one.settle("shop", lambda status: status.summary.failures == 1)
    assert reason in status.failure
    assert status.summary.champion is None
    assert reason in told(capsys, *one.arguments("why", "shop"))[1]["detail"]
    assert main(one.arguments("status", "shop")) == 0
    assert reason in capsys.readouterr().out
    for failures in range(2, 10):
        one.clock.set(one.clock.now() + timedelta(hours=1))
        if kind == "empty":
            reason = "has no rows"  # the window moves on
        status = one.settle("shop", lambda status, wanted=failures: status.summary.failures == wanted)
        if status.summary.paused:
            break
    assert reason in status.summary.paused
    assert "trainings in a row failed" in status.summary.paused
    one.clock.set(one.clock.now() + timedelta(days=1))
    assert one.settle("shop").summary.failures == failures
    events = kilter.journal_log.events(limit=1000)
    failed = [event for event in events if event.kind == "TrainingFailed"]
    assert len(failed) == failures
    assert all(reason in event.data["reason"] for event in failed[1:])
    assert [event.kind for event in events].count("Notify") == 1
    assert kilter.journal_log.verify().ok
    assert kilter.models.models() == ()
    # Rows and a word are all that it takes.
    if kind != "a bug":
        kilter.data.ingest("visits", visited(one.clock.now(), days=45))
        kilter.loops.resume("shop", by="test")
        one.clock.set(one.clock.now() + timedelta(hours=2))
        one.until(lambda: kilter.loops.status("shop").summary.version == 1)
        status = kilter.loops.status("shop")
        assert (status.failure, status.summary.paused) == (None, None)


def _table(text: str):
    scope: dict[str, object] = {"__name__": "shop"}
    exec(text, scope)  # noqa: S102 - the declaration of these tests
    return scope["visits"]


# ---------------------------------------------------------------- stores


def damage_database(store: Path) -> None:
    path = store / "kilter.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_database(store: Path) -> None:
    (store / "kilter.db").write_bytes(b"<html>not found</html>" * 300)


def newer_schema(store: Path) -> None:
    database = sqlite3.connect(store / "kilter.db")
    with database:
        database.execute("UPDATE alembic_version SET version_num = 'v9999'")
    database.close()


BROKEN = {
    "half a database": (damage_database, "kilter:damaged", "damaged", 1),
    "no database": (replace_database, "kilter:damaged", "no SQLite database", 1),
    "a schema from the future": (newer_schema, "kilter:conflict", "newer than this version", 5),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_database_is_told_and_left_alone(case, store, tmp_path, shop, capsys):
    spoil, kind, message, exit_code = BROKEN[case]
    for name in ("kilter.db-wal", "kilter.db-shm"):
        (store / name).unlink(missing_ok=True)
    spoil(store)
    file = tmp_path / "shop.py"
    file.write_text(shop)
    before = (store / "kilter.db").read_bytes()
    commands = (
        ["status"], ["plan", str(file)], ["apply", str(file)], ["journal", "verify"], ["models", "list"],
        ["controller"], ["serve", "--port", "0"], ["server", "--port", "0"],
    )  # fmt: skip
    for command in commands:
        code, said = told(capsys, *command, "--store", str(store))
        assert (code, said["type"]) == (exit_code, kind), (command, said)
        assert message in said["detail"]
        assert "kilter.db" in said["where"]
        assert said["fix"]
    assert (store / "kilter.db").read_bytes() == before


def test_a_row_log_that_is_another_stores_takes_no_rows(store, tmp_path, visited, clock):
    """Its next position would lie before the tables' cursors: what is appended would count as taken in already."""
    shutil.move(store / "log", tmp_path / "elsewhere")
    with Workspace.open(store, clock) as workspace:
        with pytest.raises(Damaged, match="row log ends before what table 'visits' has taken"):
            workspace.data.append("visits", [{"visit": "new", "at": 0}])
        with pytest.raises(Damaged, match="row log ends before"):
            workspace.data.ingest("visits", visited(clock.now(), days=1))
    assert Log.open(store / "log" / "rows").end() == -1
    shutil.rmtree(store / "log")
    shutil.move(tmp_path / "elsewhere", store / "log")
    with Workspace.open(store, clock) as workspace:
        assert workspace.data.append("visits", [{"visit": "new", "at": 0}]).rows == 1
        assert workspace.data.frame("visits").filter(visit="new").height == 1


def test_a_torn_row_log_goes_on_after_the_last_whole_row(store, clock):
    with Workspace.open(store, clock) as workspace:
        for number in range(3):
            workspace.data.append("visits", [{"visit": f"new-{number}", "at": 0}])
    log = store / "log" / "rows" / "00000000.log"
    whole = log.read_bytes()
    log.write_bytes(whole[:-7])  # the last append never came to its end
    with Workspace.open(store, clock) as workspace:
        found = workspace.data.frame("visits")
        assert sorted(found["visit"].filter(found["visit"].str.starts_with("new"))) == ["new-0", "new-1"]
        workspace.data.append("visits", [{"visit": "new-3", "at": 0}])
        workspace.data.flush("visits")
        found = workspace.data.frame("visits")
        assert found["visit"].str.starts_with("new").sum() == 3
    # A record that is broken in the middle is no torn end: nothing is read past it, and nothing is cut off.
    spoiled = bytearray(log.read_bytes())
    spoiled[40] ^= 1
    log.write_bytes(spoiled)
    with Workspace.open(store, clock) as workspace, pytest.raises(Damaged, match="is broken"):
        workspace.data.append("visits", [{"visit": "new-4", "at": 0}])
    assert log.read_bytes() == bytes(spoiled)


def test_a_table_without_its_last_commit(store, visited, clock):
    """As if the files came from an older backup than the database: no rows are taken for the missing ones."""
    with Workspace.open(store, clock) as workspace:
        version = workspace.data.ingest("visits", visited(clock.now() + timedelta(days=5), days=5)).position
    last = max((store / "tables" / "visits" / "_delta_log").glob("*.json"))
    kept = last.read_bytes()
    last.unlink()
    before = content(store)
    with Workspace.open(store, clock) as workspace:
        with pytest.raises(Damaged, match="visits"):
            workspace.data.frame("visits")
        with pytest.raises(Damaged, match="visits"):
            workspace.data.ingest("visits", visited(clock.now(), days=1))
    assert content(store) == before
    last.write_bytes(kept)
    with Workspace.open(store, clock) as workspace:
        assert workspace.data.describe("visits").position == version


@pytest.mark.parametrize("kind", ["missing", "cut", "zeros"])
def test_a_table_with_a_spoiled_file(kind, store, visited, clock, capfd):
    (file,) = (store / "tables" / "visits").glob("*.parquet")
    whole = file.read_bytes()
    if kind == "missing":
        file.unlink()
    else:
        file.write_bytes(whole[: len(whole) // 2] + (bytes(len(whole) - len(whole) // 2) if kind == "zeros" else b""))
    before = content(store)
    with Workspace.open(store, clock) as workspace, pytest.raises(Damaged, match="one of the table's files is"):
        workspace.data.frame("visits")
    assert content(store) == before
    file.write_bytes(whole)
    with Workspace.open(store, clock) as workspace:
        assert workspace.data.frame("visits").height == visited(clock.now()).height
    capfd.readouterr()  # the reader of Parquet prints where it gave up


def test_a_lost_or_spoiled_text_comes_back_when_it_is_applied_again(store, capsys, shop, tmp_path, clock):
    """What needs it says so, and the rest goes on."""
    with Workspace.open(store, clock) as workspace:
        (digest,) = workspace.objects.digests()
    path = store / "objects" / digest[:2] / digest[2:]
    text = path.read_bytes()
    file = tmp_path / "shop.py"
    file.write_text(shop)
    for spoiled in (None, text[:-20], text.replace(b"price", b"prize")):
        if spoiled is None:
            path.unlink()
        else:
            path.write_bytes(spoiled)
        sources._LOADED.clear()  # as in a process that begins
        code, status = told(capsys, "status", "shop", "--store", str(store))
        assert code == 0
        with Workspace.open(store, clock) as workspace:
            with pytest.raises(Damaged, match=r"the text of shop.py as it was applied is lost: .*" + digest[:12]):
                sources.declaration(workspace.database, workspace.objects, status["spec"])
            assert told(capsys, "apply", str(file), "--store", str(store))[0] == 0
            assert sources.declaration(workspace.database, workspace.objects, status["spec"])


# ---------------------------------------------------------------- places


@pytest.fixture
def read_only(store):
    """The store on a read-only mount: permission bits alone do not bind a superuser."""
    for command in (["mount", "--bind", store, store], ["mount", "-o", "remount,ro,bind", store, store]):
        try:
            made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if made.returncode:
            subprocess.run(["umount", "-l", store], check=False, capture_output=True, timeout=10)
            pytest.skip(f"this user may not mount: {made.stderr.strip()}")
    yield store
    subprocess.run(["umount", "-l", store], check=True, timeout=10)


def test_a_read_only_store(read_only, tmp_path, shop, capsys):
    file = tmp_path / "shop.py"
    file.write_text(shop)
    commands = (
        ["apply", str(file)], ["pause", "shop"], ["retrain", "shop"],
        ["up", "--port", "0"], ["server", "--port", "0"], ["serve", "--port", "0"], ["controller"],
    )  # fmt: skip
    for command in commands:
        code, said = told(capsys, *command, "--store", str(read_only))
        assert (code, said["type"]) == (1, "kilter:unavailable"), (command, said)
        assert any(words in said["detail"] for words in ("can't be written", "can't be opened", "Read-only")), said
        assert said["fix"], said


def test_a_port_in_use(store, capsys):
    import socket

    before = content(store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for command in ("up", "server", "serve"):
            code, said = told(capsys, command, "--port", port, "--store", str(store))
            assert (code, said["type"], said["where"]) == (5, "kilter:conflict", "--port"), said
            assert port in said["detail"]
            assert said["fix"]
    assert content(store) == before


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("mysql://localhost/kilter", "kilter:invalid-input", "mysql:// is no store"),
        ("postgresql://localhost/kilter", "kilter:invalid-input", "no place for bytes"),
        ("postgresql://nobody@127.0.0.1:1/kilter?objects=/tmp/objects", "kilter:unavailable", "can't be reached"),
        ("postgresql://127.0.0.1/kilter?objects=/tmp/objects&nonsense=1", "kilter:invalid-input", "nonsense"),
        ("postgresql://127.0.0.1/kilter?objects=ftp://x/y", "kilter:invalid-input", "unknown scheme"),
        ("postgresql://127.0.0.1/kilter?objects=s3://key:secret@bucket/y", "kilter:invalid-input", "credentials"),
        ("http://127.0.0.1:1", "kilter:unavailable", "127.0.0.1:1"),
    ],
)
def test_a_store_that_is_none(target, kind, message, tmp_path, capsys):
    code, said = told(capsys, "status", "--store", target, "--home", str(tmp_path / "home"))
    assert (code, said["type"]) == (2 if kind == "kilter:invalid-input" else 1, kind), said
    assert message in said["detail"] + str(said["where"]), said
    assert "secret" not in json.dumps(said)


# ---------------------------------------------------------------- fronts


def test_a_front_that_will_not_come_back_is_named_and_can_be_forgotten(house, tmp_path, shop, visited, capsys):
    one = house(tmp_path / "store")
    kilter = one.workspace
    kilter.loops.apply(shop, "shop.py", by="test")
    kilter.data.ingest("visits", visited(one.clock.now()))
    kilter.endpoints.report("shop", "old", 0, 0)  # as one that was there before its machine was taken away
    one.work()
    one.serve()
    one.until(lambda: any(found.front == "main" and found.applied == 1 for found in kilter.endpoints.status("shop")))
    status = kilter.loops.status("shop")
    assert not status.summary.confirmed
    assert "endpoint" in status.summary.waiting
    assert main(one.arguments("endpoints", "status", "shop")) == 0
    assert "old" in capsys.readouterr().out
    assert told(capsys, *one.arguments("endpoints", "forget", "old")) == (0, {"front": "old", "endpoints": 1})
    one.settle("shop", lambda status: status.summary.champion == 1 and status.summary.confirmed)
    assert main(one.arguments("endpoints", "list")) == 0
    assert "shop" in capsys.readouterr().out


def test_a_torn_prediction_log_goes_on_and_a_broken_one_is_left_alone(tmp_path):
    row = {"id": "a", "at": "2013-03-01T10:00:00Z", "x": 1.0}
    with RunningFront(tmp_path) as front:
        front.plan(TrafficPlan(loop="solo", champion=None, fallback=0.5))
        front.start()
        first, second = (front.predict("solo", [row]).json()["predictions"][0] for _ in "12")
        front.stop(signal.SIGKILL)
        log = tmp_path / "log" / "main" / "00000000.log"
        whole = log.read_bytes()
        log.write_bytes(whole + whole[: len(whole) // 4])  # a record that was being written
        front.start()
        third = front.predict("solo", [row]).json()["predictions"][0]
        for one in (first, second, third):
            assert front.endpoints.prediction(one["id"]).value == one["value"]
        assert third["id"] not in {first["id"], second["id"]}
        front.stop()
        broken = bytearray(log.read_bytes())
        broken[30] ^= 1
        log.write_bytes(broken)
        command = [sys.executable, "-m", "kilter.serving.front.process", msgspec.json.encode(front.config).decode()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "is broken" in done.stderr
        assert str(log) in done.stderr
        assert log.read_bytes() == bytes(broken)


def log_end(folder: Path) -> int:
    log = PredictionLog.open(folder / "log")
    try:
        return log.end()
    finally:
        log.close()


def test_what_a_front_refuses_is_not_recorded(tmp_path):
    row = {"id": "a", "at": "2013-03-01T10:00:00Z", "x": 1.0}
    with RunningFront(tmp_path, token="the-token-of-the-test", limits=Limits(body=2_000)) as front:
        front.plan(TrafficPlan(loop="solo", champion=1, bundles={1: front.constant(0.5)}))
        front.start()
        right = {"authorization": "Bearer the-token-of-the-test", "content-type": "application/json"}

        def ask(body: str, **headers: str) -> tuple[int, str]:
            answer = front.client.post("/predict/solo", content=body, headers={**right, **headers})
            return answer.status_code, answer.json().get("detail", "")

        good = json.dumps({"rows": [row]})
        assert ask(good)[0] == 200
        end = log_end(tmp_path)
        for body, headers, status, words in (
            (good, {"authorization": "Bearer wrong"}, 401, "key or token"),
            (json.dumps({"rows": [row] * 100}), {}, 413, "too large"),
            (good.replace("1.0", "NaN"), {}, 400, "JSON"),
            (good.replace("1.0", "1e999"), {}, 422, "form"),
            (good.replace("1.0", '"one"'), {}, 422, "wrong type"),
        ):
            code, detail = ask(body, **headers)
            assert code == status, (body[:80], code, detail)
            assert words in detail
        assert log_end(tmp_path) == end
