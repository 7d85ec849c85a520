"""A store with five months of a loop's life in it, made through the real services, and a server with its pages.

``python tests/ui/conftest.py FOLDER [UNTIL]`` makes the same store for looking at the pages by hand.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kilter.core.digests import digest_json
from kilter.core.evidence import Finding, Interval, worst
from kilter.engines.clock import SharedClock
from kilter.evaluation.declare import log_loss
from kilter.loop.declaration.spec import load_source
from kilter.loop.records import (
    Actions,
    AlarmCleared,
    AlarmRaised,
    CanaryJudged,
    Events,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    Promote,
    RetrainRequested,
    RollBack,
    SetTraffic,
    ShadowJudged,
    StartTraining,
    Tick,
    TrafficSet,
    TrainingFinished,
)
from kilter.loop.store import Store
from kilter.loop.summary import traffic_of
from kilter.loop.workspace import Workspace
from kilter.monitoring.profile import ReferenceProfile
from kilter.monitoring.reference import reference_profile
from kilter.registry.records import Lineage
from kilter.release.declare import Canary, Shadow
from kilter.serving.records import TrafficPlan

LOOP = "flight-delay"
START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DECLARATION = Path(__file__).parents[2] / "examples" / "flights" / "flight_delay.py"
CARRIERS = ("UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX")
DESTINATIONS = ("ATL", "ORD", "LAX", "BOS", "MCO", "CLT", "SFO", "FLL", "MIA", "DCA")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Model:
    """What a version has learned: the coefficients of the days that it was trained on."""

    base: float
    slope: float
    broken: bool = False

    def values(self, frame: pl.DataFrame) -> np.ndarray:
        delay = frame["x_delay_3h"].to_numpy() * (60.0 if self.broken else 1.0)
        score = self.base + 0.09 * (frame["x_hour"].to_numpy() - 13) + self.slope * (delay - 10) / 12
        return 1 / (1 + np.exp(-np.clip(score, -4, 4)))


def base_of(day: float) -> float:
    """Lateness over the year: calm in March, bad in late spring and in July, calm in autumn."""
    return -1.15 + 0.75 * np.exp(-(((day - 64) / 16) ** 2)) + 1.0 * np.exp(-(((day - 128) / 22) ** 2))


def slope_of(day: float) -> float:
    return 0.35 + 0.45 / (1 + np.exp(-(day - 50) / 8))


class World:
    """Flights of every day, and what was really late."""

    def __init__(self, rows: int = 260) -> None:
        self.rows = rows
        self._frames: dict[int, pl.DataFrame] = {}

    def day(self, number: int) -> pl.DataFrame:
        if number not in self._frames:
            self._frames[number] = self._make(number)
        return self._frames[number]

    def _make(self, number: int) -> pl.DataFrame:
        rng = np.random.default_rng(7000 + number)
        n = self.rows
        hour = rng.integers(5, 23, n).astype(float)
        shift = base_of(number) - base_of(0)
        delay = np.maximum(rng.gamma(1.6, 6 + 5 * max(shift, 0), n) - 2, -6)
        storm = 0.45 * rng.normal()
        score = base_of(number) + storm + 0.09 * (hour - 13) + slope_of(number) * (delay - 10) / 12
        late = (rng.uniform(size=n) < 1 / (1 + np.exp(-score))).astype(float)
        minutes = np.sort(rng.uniform(5 * 60, 23 * 60, n))
        at = [START + DAY * number + timedelta(minutes=float(minute)) for minute in minutes]
        summer = 0.04 * max(0, number - 60)
        weights = np.array([18, 16, 16, 14, 10, 8, 6, 6 + summer, 4, 2 + summer])
        return pl.DataFrame(
            {
                "id": [f"main-{number:x}-{row:x}" for row in range(n)],
                "key": [f"{number}-{row}" for row in range(n)],
                "at": at,
                "label": late,
                "label_at": [moment + timedelta(hours=5) for moment in at],
                "x_hour": hour,
                "x_weekday": np.full(n, float((START + DAY * number).weekday())),
                "x_distance": np.round(rng.gamma(2.2, 480, n) + 90),
                "x_carrier": rng.choice(CARRIERS, n, p=weights / weights.sum()),
                "x_dest": rng.choice(DESTINATIONS, n),
                "x_delay_3h": np.round(delay, 1),
                "x_departures_3h": np.round(rng.normal(55 + 6 * np.sin(number / 20), 9, n)),
            }
        ).with_columns(pl.col("at", "label_at").cast(pl.Datetime("us", "UTC")))

    def model(self, number: int, days: int = 60, *, broken: bool = False) -> Model:
        span = range(number - days, number)
        return Model(
            float(np.mean([base_of(day) for day in span])), float(np.mean([slope_of(day) for day in span])), broken
        )

    def reference(self, model: Model, number: int) -> ReferenceProfile:
        training = pl.concat([self.day(day) for day in range(number - 30, number - 7)])
        holdout = pl.concat([self.day(day) for day in range(number - 7, number)])
        inputs = training.select(pl.col("^x_.*$").name.map(lambda name: name.removeprefix("x_")))
        return reference_profile(
            inputs,
            training["at"].dt.replace_time_zone(None).to_numpy(),
            training["label"].to_numpy(),
            holdout_times=holdout["at"].dt.replace_time_zone(None).to_numpy(),
            holdout_values=model.values(holdout),
            holdout_labels=holdout["label"].to_numpy(),
        )


class Story:
    """Plays the parts of the controller and of the front, by the day; every decision is ``decide``'s own."""

    def __init__(self, workspace: Workspace, clock: SharedClock, *, rows: int = 260) -> None:
        self.workspace = workspace
        self.clock = clock
        self.world = World(rows)
        self.models: dict[int, Model] = {}
        self.references: dict[int, ReferenceProfile] = {}
        self.frames: list[pl.DataFrame] = []
        self.monitors = load_source(DECLARATION.read_text(), "flight_delay.py").loop.monitors
        self.alarms: set[str] = set()
        self.steps = [Shadow(bake="14d"), Canary(steps=(5, 25, 50), bake="2d")]
        self.started: datetime | None = None
        self.break_next = False
        self.number = 0
        clock.set(START)
        workspace.loops.apply(DECLARATION.read_text(), "flight_delay.py", by="ops")
        for entry in workspace.loops.ledger.row(LOOP).state.pending:
            self._do(entry.action, START)

    # ------------------------------------------------------------ days

    def play(self, days: int) -> None:
        for _ in range(days):
            self.live_day()

    def live_day(self) -> None:
        frame = self._answered(self.world.day(self.number))
        self.frames = [*self.frames[-44:], frame]
        self.number += 1
        now = START + DAY * self.number
        self.clock.set(now)
        state = self.workspace.loops.ledger.row(LOOP).state
        if state.champion is not None:
            self._watch(state.champion, now)
        if state.release is not None and state.release.work == "canary" and state.release.version is not None:
            self._judge_canary(state.release.version, now)
        self.feed(Tick(at=now))
        self.workspace.loops.ledger.settle(LOOP, now)

    def _answered(self, frame: pl.DataFrame) -> pl.DataFrame:
        plan = self.workspace.endpoints.plan(LOOP)
        assert plan.champion is not None
        n = frame.height
        rng = np.random.default_rng(99_000 + self.number)
        taken = rng.uniform(size=n) < (plan.share / 100 if plan.mode == "canary" else 0.0)
        value = self.models[plan.champion].values(frame)
        version = np.full(n, plan.champion)
        shadow = [None] * n
        shadow_value: list[float | None] = [None] * n
        if plan.challenger is not None:
            other = self.models[plan.challenger].values(frame)
            if plan.mode == "canary":
                value = np.where(taken, other, value)
                version = np.where(taken, plan.challenger, version)
            else:
                shadow, shadow_value = [plan.challenger] * n, other.tolist()
        return frame.with_columns(
            time=pl.col("at"),
            value=pl.Series(value),
            version=pl.Series(version, dtype=pl.Int64),
            arm=pl.Series(["challenger" if one else "champion" for one in taken]),
            share=pl.lit(float(plan.share)),
            shadow_version=pl.Series(shadow, dtype=pl.Int64),
            shadow_value=pl.Series(shadow_value, dtype=pl.Float64),
        )

    def _recent(self, since: datetime) -> pl.DataFrame:
        return pl.concat(self.frames).filter(pl.col("at") >= since)

    def _watch(self, champion: int, now: datetime) -> None:
        window = self._recent(now - 14 * DAY)
        found = self.workspace.monitors.evaluate(LOOP, self.monitors, champion, self.references[champion], window, now)
        for judged in found:
            if judged.raised and judged.monitor not in self.alarms:
                self.alarms.add(judged.monitor)
                self.feed(AlarmRaised(at=now, monitor=judged.monitor, version=champion, finding=judged.finding))
            elif judged.finding.verdict == "pass" and judged.monitor in self.alarms:
                self.alarms.discard(judged.monitor)
                self.feed(AlarmCleared(at=now, monitor=judged.monitor, version=champion, finding=judged.finding))

    def _judge_canary(self, version: int, now: datetime) -> None:
        assert isinstance(self.steps[1], Canary)
        finding = self.workspace.releases.judge_canary(
            LOOP, version, self.steps[1], log_loss, self._recent(self.started or START), since=self.started, at=now
        )
        if finding.verdict != "inconclusive":
            self.feed(CanaryJudged(at=now, version=version, verdict=finding.verdict, finding=finding))

    def bundle(self, version: int) -> str:
        """Name a version's bundle; nobody loads it, unless a front is to serve this story."""
        return digest_json({"bundle": version})

    # ------------------------------------------------------------ answers

    def feed(self, event: Events) -> None:
        _, actions = self.workspace.loops.ledger.feed(LOOP, event)
        for action in actions:
            self._do(action, event.at)

    def _do(self, action: Actions, at: datetime) -> None:
        match action:
            case StartTraining():
                self._train(action, at)
            case JudgeGates():
                findings = gate_findings(action.version, action.champion)
                with self.workspace.database.transaction() as connection:
                    self.workspace.models.add_evidence(connection, LOOP, action.version, "gates", findings, at)
                verdict = worst(findings)
                self.feed(
                    GatesJudged(at=at, action=action.id, version=action.version, verdict=verdict, findings=findings)
                )
            case JudgeShadow():
                assert isinstance(self.steps[0], Shadow)
                finding = self.workspace.releases.judge_shadow(
                    LOOP, action.version, self.steps[0], log_loss, self._recent(action.since), look=action.look, at=at
                )
                self.feed(
                    ShadowJudged(
                        at=at, action=action.id, version=action.version, verdict=finding.verdict, finding=finding
                    )
                )
            case SetTraffic() | Promote() | RollBack():
                self._route(action, at)
            case _:
                pass

    def _train(self, action: StartTraining, at: datetime) -> None:
        number = len(self.models) + 1
        model = self.world.model(self.number, broken=self.break_next)
        self.break_next = False
        self.models[number] = model
        self.references[number] = self.world.reference(model, self.number)
        lineage = Lineage(
            run=f"run-{number:04d}",
            spec=action.spec,
            data_digest=digest_json({"rows": number}),
            feature_digest=digest_json({"views": 1}),
            code_digest=digest_json({"code": 1}),
            environment=digest_json({"lock": 1}),
            params={"trees": 80, "leaves": 31},
            seed=0,
        )
        with self.workspace.database.transaction() as connection:
            made = self.workspace.models.register_in(
                connection, LOOP, self.bundle(number), lineage, action.trigger, at=at, key=action.id
            )
        self.feed(
            TrainingFinished(
                at=at + timedelta(minutes=2), action=action.id, version=made.version, run=lineage.run, cpu_seconds=0.71
            )
        )

    def _route(self, action: SetTraffic | Promote | RollBack, at: datetime) -> None:
        wanted = traffic_of(action)
        named = {wanted.champion, *wanted.warm} | ({wanted.challenger} if wanted.challenger else set())
        plan = TrafficPlan(
            loop=LOOP,
            champion=wanted.champion,
            challenger=wanted.challenger,
            mode=wanted.mode,
            share=wanted.share,
            warm=wanted.warm,
            bundles={version: self.bundle(version) for version in named},
            fallback=0.22,
        )
        if wanted.mode == "canary" and wanted.share == self.steps[1].steps[0]:  # type: ignore[union-attr]
            self.started = at
        if isinstance(action, Promote):
            self.alarms.clear()
        with self.workspace.database.transaction() as connection:
            generation = self.workspace.endpoints.set_plan(plan, connection)
            self.workspace.models.set_alias(connection, LOOP, "champion", wanted.champion, at)
            self.workspace.models.set_alias(connection, LOOP, "challenger", wanted.challenger, at)
        self.workspace.endpoints.report(LOOP, "main", generation, generation)
        self.feed(TrafficSet(at=at + timedelta(seconds=1), action=action.id))


def gate_findings(version: int, champion: int | None) -> tuple[Finding, ...]:
    """What gates say: every third challenger can't prove that it is better."""
    weak = version % 4 == 3
    rng = np.random.default_rng(version)
    gain = -0.021 - 0.004 * rng.uniform() if not weak else -0.0061
    width = 0.0088 if not weak else 0.0152
    found = [
        Finding("at_least(auc, 0.65)", "pass", Interval(0.713, 0.704, 0.722, 0.9), ">= 0.65", 11_482,
                "statistic on the holdout, days resampled whole (Politis and Romano 1992)"),
        Finding("fair(carrier, recall, 0.15)", "pass", Interval(0.094, 0.061, 0.121, 0.9), "< 0.15 gap", 11_482,
                "largest gap between groups with enough rows, days resampled whole", {"groups": 10, "widest": "EV"}),
        Finding("faster_than(p99 20 ms)", "pass", Interval(0.0031, 0.0028, 0.0037, 0.95), "< 0.02 s", 2_000,
                "p99 of single rows, order statistic"),
    ]  # fmt: skip
    if champion is not None:
        first = Finding(
            "beats_champion(log_loss)",
            "fail" if weak else "pass",
            Interval(gain, gain - width, gain + width, 0.9),
            "< 0",
            11_482,
            "paired difference on the same rows, days resampled whole (Politis and Romano 1992)",
            {"champion": 0.5312, "challenger": round(0.5312 + gain, 4), "days": 7},
        )
        found.insert(0, first)
    return tuple(found)


def make_store(folder: Path, days: int = 133, *, rows: int = 260) -> Story:
    """Make the store; the caller closes ``story.workspace``."""
    clock = SharedClock(folder / "clock")
    clock.set(START)
    workspace = Workspace.open(folder, clock)
    story = Story(workspace, clock, rows=rows)
    story.play(days)
    return story


def request_broken(story: Story) -> None:
    """Ask for a challenger that takes minutes for hours."""
    story.break_next = True
    story.feed(RetrainRequested(at=START + DAY * story.number, by="ops"))


@dataclass
class Site:
    """A served store.

    Args:
        url: The server's address.
        folder: The store.
        story: Goes on writing into it.
    """

    url: str
    folder: Path
    story: Story

    def link(self) -> str:
        """Return a one-time link that opens an owner's session."""
        found = subprocess.run(
            [sys.executable, "-m", "kilter.cli.main", "link", "--store", str(self.folder)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        (link,) = re.findall(r"http://\S+key=\S+", found.stdout)
        return str(link)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The store of the story, served by ``kilter server``."""
    folder = tmp_path_factory.mktemp("ui") / "store"
    story = make_store(folder, days=72, rows=120)
    process, url = serve(folder)
    yield Site(url, folder, story)
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    story.workspace.close()


def serve(folder: Path, port: int = 0) -> tuple[subprocess.Popen[bytes], str]:
    """Start ``kilter server`` on a store and return it with its address."""
    command = [sys.executable, "-m", "kilter.cli.main", "server", "--store", str(folder), "--port", str(port)]
    command += ["--clock", f"file:{folder / 'clock'}"]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    run = Store.parse(folder).run
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        living = run.living("server")
        if living:
            return process, living.url
        time.sleep(0.1)
    process.kill()
    raise AssertionError((folder / "server.log").read_text())


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """A real Chromium, or a skip.

    It keeps an event loop in this thread, so it must be gone before another module's tests run theirs.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    until = date.fromisoformat(sys.argv[2]) if len(sys.argv) > 2 else date(2013, 7, 12)
    began = time.perf_counter()
    made = make_store(target, (until - START.date()).days)
    for mark in made.workspace.models.versions(LOOP):
        print(mark.reference, mark.stage, mark.at.date(), mark.trigger, "|", mark.reason[:90])
    print(made.workspace.loops.status(LOOP).summary, f"{time.perf_counter() - began:.1f} s")
    made.workspace.close()
