"""The metadata store when things go wrong: each a specific message and no damage."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from kilter.core.errors import Conflict, Damaged, InvalidInput, Unavailable
from kilter.engines.sql.database import Database

THINGS = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kilter.db"


@pytest.fixture
def sqlite(path):
    database = Database.open(f"sqlite:///{path}", busy_seconds=0.2)
    with database.transaction() as connection:
        THINGS.create(connection)
    yield database
    database.close()


def add(database, number, text=""):
    with database.transaction() as connection:
        connection.execute(THINGS.insert().values(id=number, text=text))


def count(database):
    with database.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(THINGS)).scalar_one()


def test_every_commit_is_on_the_disk(sqlite):
    with sqlite.transaction() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1


def test_folders_are_made(tmp_path):
    Database.open(f"sqlite:///{tmp_path}/a/b/kilter.db").close()
    assert (tmp_path / "a/b/kilter.db").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not a URL"),
        ("kilter.db", "not a URL"),
        ("mysql://root@localhost/x", "'mysql' is no database"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "needs a file"),
    ],
)
def test_an_unknown_url_says_what_is_allowed(url, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        Database.open(url)
    assert "postgresql+psycopg://" in caught.value.allowed


def test_a_second_writer_waits_and_then_says_who_is_in_the_way(path, sqlite):
    other = Database.open(f"sqlite:///{path}", busy_seconds=0.2)
    with sqlite.transaction():
        assert count(other) == 0
        with pytest.raises(Unavailable, match="another process is writing") as caught, other.transaction():
            pass
    assert caught.value.retryable
    add(other, 1)
    other.close()


def test_a_writer_waits_for_its_turn(path, sqlite):
    other = Database.open(f"sqlite:///{path}", busy_seconds=30)
    begun, ended = threading.Event(), []

    def write():
        begun.set()
        add(other, 2)
        ended.append(2)

    with sqlite.transaction() as connection:
        thread = threading.Thread(target=write)
        thread.start()
        begun.wait()
        connection.execute(THINGS.insert().values(id=1))
        assert not ended
    thread.join()
    assert count(sqlite) == 2
    other.close()


def test_a_file_that_is_no_database_stays_as_it_is(path):
    path.write_bytes(b"a picture of a cat" * 1000)
    with pytest.raises(Damaged, match="no SQLite database"):
        Database.open(f"sqlite:///{path}")
    assert path.read_bytes() == b"a picture of a cat" * 1000
    assert [p.name for p in path.parent.iterdir()] == ["kilter.db"]


@pytest.mark.parametrize("keep", [20, 100, 4096 + 100, 8192 + 1])
def test_a_half_written_store_is_damaged_and_stays_as_it_is(path, sqlite, keep):
    for number in range(300):
        add(sqlite, number, "x" * 200)
    sqlite.close()
    content = path.read_bytes()
    assert len(content) > 40_000
    path.write_bytes(content[:keep])
    with pytest.raises(Damaged):
        count(Database.open(f"sqlite:///{path}"))
    assert path.read_bytes() == content[:keep]


def test_garbage_inside_the_store_is_damage(path, sqlite):
    for number in range(300):
        add(sqlite, number, "x" * 200)
    sqlite.close()
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 2000] = os.urandom(2000)
    path.write_bytes(content)
    with pytest.raises(Damaged, match="damaged"):
        count(Database.open(f"sqlite:///{path}"))


def test_a_full_disk_keeps_what_was_committed(path, sqlite):
    add(sqlite, 1)

    def fill():
        with sqlite.transaction() as connection:
            pages = connection.execute(sa.text("PRAGMA page_count")).scalar_one()
            connection.execute(sa.text(f"PRAGMA max_page_count={pages}"))
            connection.execute(THINGS.insert().values(id=2, text="x" * 100_000))

    with pytest.raises(Unavailable, match="the disk is full"):
        fill()
    assert count(sqlite) == 1
    with sqlite.transaction() as connection:
        connection.execute(sa.text("PRAGMA max_page_count=100000"))
        connection.execute(THINGS.insert().values(id=2, text="x" * 100_000))
    assert count(sqlite) == 2


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of one megabyte, if this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, check=False, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if made.returncode:
        pytest.skip(f"this user may not mount: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def test_a_real_full_disk(tiny_disk):
    database = Database.open(f"sqlite:///{tiny_disk}/kilter.db")
    with database.transaction() as connection:
        THINGS.create(connection)
    number = 0
    while True:
        try:
            add(database, number, "x" * 10_000)
        except Unavailable as error:
            assert "the disk is full" in error.message  # noqa: PT017 -- the loop needs to know when
            break
        number += 1
    assert number > 10
    assert count(database) == number
    database.close()


def test_a_read_only_folder(tiny_disk):
    url = f"sqlite:///{tiny_disk}/kilter.db"
    database = Database.open(url)
    with database.transaction() as connection:
        THINGS.create(connection)
    database.close()
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True, timeout=10)
    with pytest.raises(Unavailable, match=r"can't be (written|opened)"):
        add(Database.open(url), 1)
    with pytest.raises(Unavailable, match=r"can't be (written|opened)"):
        Database.open(f"sqlite:///{tiny_disk}/new.db")
    with pytest.raises(Unavailable, match="Read-only"):
        Database.open(f"sqlite:///{tiny_disk}/sub/new.db")


WRITER = """
import os, sys
import sqlalchemy as sa
from kilter.engines.sql.database import Database

database = Database.open(sys.argv[1])
number = int(sys.argv[2])
while True:
    with database.transaction() as connection:
        for part in range(3):
            connection.execute(sa.text("INSERT INTO thing (id, text) VALUES (:id, '')"), {"id": number * 3 + part})
    os.write(1, b"%d\\n" % number)
    number += 1
"""


@pytest.mark.crash
def test_kill_9_loses_and_tears_nothing(empty_url):
    database = Database.open(empty_url)
    with database.transaction() as connection:
        THINGS.create(connection)
    number, acknowledged = 0, 0
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, empty_url, str(number)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(10)]
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.read().split(b"\n")
        writer.wait()
        writer.stdout.close()
        acknowledged = max(int(line) for line in lines if line.strip())
        rows = count(database)
        assert rows % 3 == 0
        assert rows >= 3 * (acknowledged + 1)
        number = rows // 3
    with database.transaction() as connection:
        THINGS.drop(connection)
    database.close()


OPENER = """
import sys
from kilter.engines.sql.database import Database
Database.open(sys.argv[1]).close()
"""


@pytest.mark.slow
def test_processes_that_open_a_new_store_together(path):
    openers = [subprocess.Popen([sys.executable, "-c", OPENER, f"sqlite:///{path}"]) for _ in range(4)]
    assert [opener.wait(60) for opener in openers] == [0] * 4


def test_a_server_that_is_not_there():
    with pytest.raises(Unavailable, match="can't be reached") as caught:
        Database.open("postgresql+psycopg://kilter:secret@127.0.0.1:1/kilter")
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_there(postgres_server):
    url = sa.make_url(postgres_server).set(database="no_such_database").render_as_string(hide_password=False)
    with pytest.raises(Unavailable, match=r"no_such_database|no such database"):
        Database.open(url)


def test_a_postgresql_url_without_the_driver_is_understood(postgres_url):
    Database.open(postgres_url.replace("postgresql+psycopg://", "postgresql://")).close()


def test_a_lock_that_is_held_too_long_on_the_server(postgres_url):
    database = Database.open(postgres_url, busy_seconds=0.2)
    other = Database.open(postgres_url, busy_seconds=0.2)
    with database.transaction() as connection:
        THINGS.create(connection)
        connection.execute(THINGS.insert().values(id=1))
    with database.transaction() as connection:
        connection.execute(THINGS.update().values(text="a"))
        with pytest.raises(Unavailable, match="holds the lock"), other.transaction() as second:
            second.execute(THINGS.update().values(text="b"))
    database.close()
    other.close()


def test_a_server_that_ends_the_connection(postgres_url):
    database = Database.open(postgres_url)
    with pytest.raises(Unavailable) as caught, database.transaction() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert caught.value.retryable
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    database.close()


def test_a_newer_schema_is_refused(empty_url):
    database = Database.open(empty_url)
    with database.transaction() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('9999')"))
    database.close()
    with pytest.raises(Conflict, match="newer than this version of Kilter knows") as caught:
        Database.open(empty_url)
    assert "install the newer version" in caught.value.fix


def test_two_threads_have_two_transactions(sqlite):
    """The guard against a second transaction is the thread's own."""
    sqlite.close()
    entered = threading.Barrier(2, timeout=10)
    errors = []

    def write(number):
        try:
            entered.wait()
            add(sqlite, number)
        except Exception as error:  # noqa: BLE001 -- shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert count(sqlite) == 2


def test_another_program_sees_plain_sqlite(path, sqlite):
    add(sqlite, 1, "plain")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT text FROM thing").fetchall() == [("plain",)]
    connection.close()
