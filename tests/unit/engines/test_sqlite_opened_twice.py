"""A store that one process opens twice stays whole beside another process."""

from __future__ import annotations

import subprocess
import sys

import sqlalchemy as sa

from kilter.engines.sql.database import Database

OTHER = """
import sys
from kilter.engines.sql.database import Database
database = Database.open(sys.argv[1])
with database.reading() as connection:
    connection.exec_driver_sql("SELECT count(*) FROM things").scalar()
database.close()
"""


def test_another_process_that_comes_and_goes_takes_nothing_away(tmp_path):
    url = f"sqlite:///{tmp_path / 'kilter.db'}"
    first = Database.open(url)
    with first.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE things (id INTEGER PRIMARY KEY)")
    # The second opening must not open the file beside SQLite: closing it would drop the locks of the first (POSIX).
    second = Database.open(url)
    with second.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM things")).scalar() == 0
    second.close()
    for count in range(1, 4):
        subprocess.run([sys.executable, "-c", OTHER, url], check=True)
        with first.transaction() as connection:
            connection.exec_driver_sql("INSERT INTO things DEFAULT VALUES")
        with first.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM things").scalar() == count
        assert (tmp_path / "kilter.db-wal").exists()
    first.close()
