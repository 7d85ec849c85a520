"""A house: a store with a controller in this process and a front in its own, under one simulated clock."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest

from kilter.engines.clock import SharedClock
from kilter.loop.controller import Controller
from kilter.loop.status import LoopStatus
from kilter.loop.store import Store
from kilter.loop.workspace import Workspace

_PATIENCE = 90.0


@pytest.fixture(autouse=True)
def _mlflow_forgets_its_servers() -> Iterator[None]:
    """MLflow keeps its addresses for the whole process, and hands them on to its children: the next test has another."""
    yield
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.is_tracking_uri_set():
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.pop("MLFLOW_REGISTRY_URI", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()  # the connections that it kept, while nobody else is blamed for them


class House:
    """Everything of a loop that answers, decides and works.

    Args:
        target: The store, as ``--store`` takes it.
        home: Its local folder, when it is elsewhere.
        now: The simulated time.
    """

    def __init__(self, target: str, home: str | None = None, now: datetime = datetime(2013, 3, 1, tzinfo=UTC)) -> None:
        self.target = target
        self.home = home
        self.store = Store.parse(target, home)
        self.store.folder.mkdir(parents=True, exist_ok=True)
        self.clock = SharedClock(self.store.folder / "clock")
        self.clock.set(now)
        self.workspace = Workspace.open(self.store, self.clock)
        self._stop = threading.Event()
        self._controller: threading.Thread | None = None
        self._error: BaseException | None = None
        self._front: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    # ------------------------------------------------------------ what runs

    def arguments(self, *command: str) -> list[str]:
        """Return a command of the command line on this store."""
        home = ["--home", self.home] if self.home else []
        return [*command, "--store", self.target, *home]

    def work(self) -> None:
        """Start the controller."""
        self._controller = threading.Thread(target=self._work, daemon=True)
        self._controller.start()

    def _work(self) -> None:
        try:
            Controller(self.workspace, pause=0.01).serve(self._stop)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._error = error

    def serve(self) -> None:
        """Start the front, and wait until it answers."""
        command = ["serve", "--port", "0", "--clock", f"file:{self.store.folder / 'clock'}"]
        self._front = subprocess.Popen([sys.executable, "-m", "kilter.cli.main", *self.arguments(*command)])
        running = self.until(lambda: self.store.run.living("serve"))
        self._client = httpx.Client(base_url=running.url, timeout=30)
        self.until(self._lives)

    def _lives(self) -> bool:
        with suppress(httpx.TransportError):
            return self._client.get("/livez").status_code == 200
        return False

    def close(self) -> None:
        """End everything."""
        self._stop.set()
        if self._controller is not None:
            self._controller.join(30)
        if self._front is not None:
            self._front.terminate()
            self._front.wait(30)
        if self._client is not None:
            self._client.close()
        self.workspace.close()

    # ------------------------------------------------------------ what is asked

    def post(self, loop: str, rows: list[dict[str, object]]) -> httpx.Response:
        """Ask for predictions."""
        return self._client.post(f"/predict/{loop}", json={"rows": rows})

    def until(self, found: Callable[[], object], seconds: float = _PATIENCE):
        """Wait for a condition, as long as everything lives, and return what it gave."""
        deadline = time.monotonic() + seconds
        while not (value := found()):
            if self._error is not None:
                raise AssertionError("the controller ended") from self._error
            if self._front is not None and self._front.poll() is not None:
                raise AssertionError(f"the front ended with {self._front.returncode}")
            if time.monotonic() > deadline:
                raise AssertionError("the condition did not come true in time")
            time.sleep(0.02)
        return value

    def settle(self, loop: str, until: Callable[[LoopStatus], object] = lambda _: True) -> LoopStatus:
        """Wait until the controller has nothing left to do at this moment, and a condition holds."""
        now = self.clock.now()

        def settled() -> LoopStatus | None:
            status = self.workspace.loops.status(loop)
            return status if status.settled_at is not None and status.settled_at >= now and until(status) else None

        return self.until(settled)


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    """Make houses that end with the test."""
    built: list[House] = []

    def build(target: str | Path, home: Path | None = None, **settings: datetime) -> House:
        built.append(House(str(target), None if home is None else str(home), **settings))
        return built[-1]

    yield build
    for one in reversed(built):
        one.close()


# ---------------------------------------------------------------- a small loop

SHOP = '''\
"""Who will buy?"""

import polars as pl
from lightgbm import LGBMClassifier

from kilter import Dataset, Label, Loop, Retrain, Shadow, Table, Window, beats_naive, decay, features, log_loss, mean

visits = Table("visits", key="visit", time="at")


def bought() -> pl.Expr:
    return pl.col("spent") > 0


def train(data: Dataset) -> LGBMClassifier:
    return LGBMClassifier(n_estimators=10, num_leaves=4, n_jobs=1, verbose=-1).fit(data.X, data.y)


worse = decay(log_loss, by=0.5)

loop = Loop(
    name="shop",
    owner="shop@example.org",
    inputs=[visits.columns("price", "hour")],
    label=Label(bought, known_at="paid_at"),
    train=train,
    data=Window(train="30d", holdout="7d"),
    gates=[beats_naive(log_loss)],
    release=[Shadow(bake="1d")],
    monitors=[worse],
    retrain=Retrain(on=(worse,), cooldown="1h"),
)
'''


def visits(
    end: datetime, days: int = 40, per_day: int = 40, *, buyers: bool = True, slope: float = 6.0
) -> pl.DataFrame:
    """Return visits of the days before a moment: the dearer, the fewer buy, and what they did is known an hour later.

    Args:
        end: The moment.
        days: How many days.
        per_day: How many visits a day.
        buyers: Whether anybody buys at all.
        slope: How much the price matters.
    """
    random = np.random.default_rng(7)
    count = days * per_day
    at = [end - timedelta(days=days) + timedelta(days=1) * (i + 0.5) / per_day for i in range(count)]
    price = random.random(count)
    buys = random.random(count) < 1 / (1 + np.exp(slope * (price - 0.5)))
    return pl.DataFrame(
        {
            "visit": [f"{moment:%m%d}-{i % per_day}" for i, moment in enumerate(at)],
            "at": at,
            "price": price,
            "hour": [moment.hour for moment in at],
            "spent": np.where(buys & buyers, price, 0.0),
            "paid_at": [moment + timedelta(hours=1) for moment in at],
        }
    ).with_columns(pl.col("at", "paid_at").cast(pl.Datetime("us", "UTC")))


@pytest.fixture
def shop() -> str:
    """The text of a small declaration."""
    return SHOP


@pytest.fixture
def visited() -> Callable[..., pl.DataFrame]:
    """Rows for it."""
    return visits


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in a folder where the small loop is applied and its rows are there; to be copied."""
    store = tmp_path_factory.mktemp("shop") / "store"
    house = House(str(store))
    house.workspace.loops.apply(SHOP, "shop.py", by="test")
    house.workspace.data.ingest("visits", visits(house.clock.now()))
    house.close()
    return store


@pytest.fixture(scope="module")
def trained_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house in which the small loop has trained its champion, and a front answers."""
    one = House(str(tmp_path_factory.mktemp("trained") / "store"))
    one.workspace.loops.apply(SHOP, "shop.py", by="test")
    one.workspace.data.ingest("visits", visits(one.clock.now()))
    one.work()
    one.serve()
    one.settle("shop", lambda status: status.summary.champion == 1 and status.summary.confirmed)
    yield one
    one.close()
