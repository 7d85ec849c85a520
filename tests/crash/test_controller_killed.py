"""The controller, killed before or after every single transaction of a loop's whole life, ends where an undisturbed one does.

A process that has imported everything forks one controller after the other. Each one kills itself at its n-th commit:
n is 1 as long as that leaves progress behind, and one more where it leaves none. Trainings run in the same process, so that
their transactions are cut as well. Nobody serves; that a plan is applied is said by the test.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

pytest.importorskip("lightgbm")

from kilter import Table
from kilter.engines.clock import SharedClock
from kilter.engines.sql.database import metadata
from kilter.loop.workspace import Workspace

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(900)]

NOW = datetime(2013, 3, 1, tzinfo=UTC)
LOOP = "shop"

DECLARATION = """\
import polars as pl
from lightgbm import LGBMClassifier

from kilter import Dataset, Label, Loop, Retrain, Shadow, Table, Window, beats_naive, features, log_loss, mean

visits = Table("visits", key="visit", time="at")
street = features(visits, entity="street", time="at", lag="1h", spent_3d=mean("price", "3d"))


def bought() -> pl.Expr:
    return pl.col("spent") > 0


def train(data: Dataset) -> LGBMClassifier:
    return LGBMClassifier(n_estimators=5, num_leaves=4, n_jobs=1, verbose=-1).fit(data.X, data.y)


loop = Loop(
    name="shop",
    owner="shop@example.org",
    inputs=[visits.columns("price"), street],
    label=Label(bought, known_at="paid_at"),
    train=train,
    data=Window(train="30d", holdout="7d"),
    gates=[beats_naive(log_loss)],
    release=[Shadow(bake="1d")],
    retrain=Retrain(cooldown="1h"),
)
"""

SCRIPT: tuple[tuple[float, str], ...] = (
    (0, "apply"),  # v1 is trained, gated and made champion
    (1, "retrain"),  # v2 goes into its shadow
    (26, ""),  # the first look at it shows nothing: nobody asks here
    (1, "promote"),  # its owner has seen enough
    (1, "rollback"),  # and has seen something else
    (2, "retrain"),  # v3 goes into its shadow
    (1, "pause"),  # and is taken back
    (30, "resume"),
)
"""Hours that pass, and what somebody then asks for."""

ZYGOTE = r'''
import json, os, signal, sys
from contextlib import contextmanager
from pathlib import Path

from kilter.core.errors import KilterError, NotFound
from kilter.engines.clock import SharedClock
from kilter.engines.compute.processes import Job, Outcome
from kilter.engines.compute.worker import Work
from kilter.engines.sql.database import Database
from kilter.loop import jobs
from kilter.loop.controller import LEASE, Controller
from kilter.loop.workspace import Workspace
import lightgbm, sklearn  # noqa: what every child would import

folder, declaration = sys.argv[1], Path(sys.argv[2]).read_text()
LOOP = "shop"


class Knife:
    """Ends the process at its n-th commit, when it is out."""

    def __init__(self, when, number):
        self.when, self.left, self.out = when, number, False
        transaction = Database.transaction

        @contextmanager
        def cut(database):
            with transaction(database) as connection:
                yield connection
                if self.out and self.when == "before":
                    self.count()
            if self.out and self.when == "after":
                self.count()

        Database.transaction = cut

    def count(self):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


class Here:
    """Runs jobs in this process, at once."""

    def submit(self, target, payload, cpu_limit=None):
        job = Job(Work(target, payload, cpu_limit))
        job.end(Outcome(getattr(jobs, target.partition(":")[2])(payload), None, 0.0))
        return job


def live(task):
    workspace = Workspace.open(folder, SharedClock(Path(folder) / "clock"))
    knife = Knife(task["when"], task["number"])
    controller = Controller(workspace)
    controller._compute.close()
    controller._compute = Here()
    controller._lease.acquire(LEASE, f"mark/{os.getpid()}", 10.0, heir_of="mark/")
    if task["ask"]:
        knife.out = task["ask"] in ("apply", "pause", "resume")
        ask(workspace.loops, task["ask"])
    for _ in range(200):
        knife.out = True
        busy = controller.step()
        knife.out = False
        serve(workspace)
        if not busy and not any(entry.not_before is None for entry in workspace.loops.ledger.row(LOOP).state.pending):
            return
    raise SystemExit("it never comes to rest")


def ask(loops, what):
    if what == "apply":
        loops.apply(declaration, "shop.py", by="test")
    elif what == "promote":
        loops.promote(LOOP, 2, by="test")
    else:
        getattr(loops, what)(LOOP, by="test")


def serve(workspace):
    """Say that the endpoint serves its plan."""
    try:
        generation = workspace.endpoints.plan(LOOP).generation
        if workspace.endpoints.applied(LOOP) == generation:
            return
    except NotFound:
        if not workspace.endpoints.plans():
            return
    workspace.endpoints.report(LOOP, "main", generation, generation)


for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
        code = 1
        try:
            live(task)
            code = 0
        except SystemExit as error:
            print(error, file=sys.stderr)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
'''


def visits(end: datetime) -> pl.DataFrame:
    random = np.random.default_rng(7)
    count = 1600
    at = [end - timedelta(days=40) + timedelta(minutes=36) * i for i in range(count)]
    price = random.random(count)
    buys = random.random(count) < 1 / (1 + np.exp(6 * (price - 0.5)))
    return pl.DataFrame(
        {
            "visit": [f"v{i}" for i in range(count)],
            "at": at,
            "street": [("high", "low")[i % 2] for i in range(count)],
            "price": price,
            "spent": np.where(buys, price, 0.0),
            "paid_at": [moment + timedelta(hours=1) for moment in at],
        }
    ).with_columns(pl.col("at", "paid_at").cast(pl.Datetime("us", "UTC")))


class Life:
    """A loop's life in a folder, with a controller that is killed again and again, or never."""

    def __init__(self, folder: Path, when: str | None) -> None:
        self.folder = folder
        self.when = when
        self.kills = 0
        folder.mkdir(parents=True)
        (folder / "shop.py").write_text(DECLARATION)
        (folder / "zygote.py").write_text(ZYGOTE)
        self.clock = SharedClock(folder / "clock")
        self.clock.set(NOW)
        with Workspace.open(folder, self.clock) as workspace:
            workspace.data.declare(Table("visits", key="visit", time="at"), ("paid_at",))
            workspace.data.ingest("visits", visits(NOW))
        self._zygote = subprocess.Popen(
            [sys.executable, str(folder / "zygote.py"), str(folder), str(folder / "shop.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(self) -> None:
        with self._zygote as zygote:
            for hours, request in SCRIPT:
                self.clock.set(self.clock.now() + timedelta(hours=hours))
                self._rest(zygote, request)
            zygote.stdin.close()

    def _rest(self, zygote: subprocess.Popen[str], request: str) -> None:
        """Let one controller after the other work until one of them has nothing left to do."""
        number, state = 1, self._state()
        while True:
            task = {"when": self.when or "never", "number": number, "ask": request}
            zygote.stdin.write(json.dumps(task) + "\n")
            zygote.stdin.flush()
            code = int(zygote.stdout.readline())
            if code == 0:
                return
            assert code == -9, code
            self.kills += 1
            assert self.kills < 2000
            before, state = state, self._state()
            number = 1 if state != before else number + 1
            if request not in {"apply", "pause", "resume"}:
                request = ""  # these were not cut, and have been taken in; the others may be asked for again

    def _state(self) -> object:
        """Return what progress would change: how many rows there are, what the loop remembers, how its runs stand."""
        with closing(sqlite3.connect(self.folder / "kilter.db")) as connection:
            counts = [
                connection.execute(f"SELECT count(*) FROM {table.name}").fetchone() for table in metadata.sorted_tables
            ]
            return counts + [
                connection.execute(query).fetchall()
                for query in (
                    "SELECT revision, settled_at FROM loops",
                    "SELECT generation FROM endpoint_plans",
                    "SELECT applied_generation FROM endpoint_status",
                    "SELECT id, status FROM runs",
                )
            ]


def dump(workspace: Workspace) -> dict[str, list[str]]:
    """Return every row of every table, but not the ids of runs, which no two stores have in common."""
    with workspace.database.reading() as connection:
        return {
            table.name: sorted(
                re.sub(r"run_\w+", "run", str(tuple(row))) for row in connection.execute(sa.select(table))
            )
            for table in metadata.sorted_tables
            if table.name != "lease"
        }


def told(workspace: Workspace) -> list[tuple[object, ...]]:
    """Return the journal without what no two runs have in common: ids of runs, and what a training cost."""
    found, after = [], 0
    while page := workspace.journal_log.events(after=after, limit=1000):
        after = page[-1].seq
        for event in page:
            data = {
                name: value for name, value in event.data.items() if name not in {"run", "cpu_seconds", "cpu_limit"}
            }
            said = re.sub(r"run_\w+", "run", json.dumps(data, sort_keys=True))
            found.append((event.kind, event.subject, event.at, said))
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    life = Life(tmp_path_factory.mktemp("undisturbed") / "store", None)
    life.play()
    return life


def test_an_undisturbed_life_has_everything_in_it(undisturbed):
    assert undisturbed.kills == 0
    with Workspace.open(undisturbed.folder, undisturbed.clock) as workspace:
        kinds = Counter(event[0] for event in told(workspace))
    wanted = {"StartTraining", "JudgeGates", "SetTraffic", "JudgeShadow", "Promote", "RollBack", "PauseRequested"}
    assert wanted <= kinds.keys()
    assert kinds["StartTraining"] >= 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit_the_controller_does_each_thing_once(tmp_path, undisturbed, when):
    life = Life(tmp_path / "store", when)
    life.play()
    assert life.kills > 40
    with (
        Workspace.open(undisturbed.folder, undisturbed.clock) as calm,
        Workspace.open(life.folder, life.clock) as killed,
    ):
        assert killed.journal_log.verify().ok
        assert told(killed) == told(calm)
        counted = {name: len(rows) for name, rows in dump(killed).items()}
        assert counted == {name: len(rows) for name, rows in dump(calm).items()}
        for name in ("model_stages", "model_aliases"):
            assert dump(killed)[name] == dump(calm)[name]
        assert killed.endpoints.plan(LOOP).generation == calm.endpoints.plan(LOOP).generation
        assert {run.status for run in killed.runs.list(LOOP).runs} == {"FINISHED"}
    print(f"{life.kills} kills {when} a commit")
