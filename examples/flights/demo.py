"""The demo: ten months of real flights through a loop that keeps itself in kilter.

Starts ``kilter up`` on a fresh store with a simulated clock, trains on January and February, and replays what follows through
real HTTP: passengers ask one hour before departure, labels arrive when planes land. Then it lets the loop do its work, and gives it
two bad days: the worker that serves the champion is killed, and a hotfix goes out that was built on hours and is fed minutes.

    python -m examples.flights.demo [--fast] [--json] [--no-browser]
"""

from __future__ import annotations

import time

# ruff: noqa: E402 - what is imported below belongs to the time that the demo takes
BEGAN = time.perf_counter()

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

from examples.flights import airline
from examples.flights.replay import Hour, Stream, Switch, Traffic
from examples.flights.report import Summary, show, summarise
from examples.flights.stage import Stage, ending

from kilter.core.errors import KilterError, Unavailable
from kilter.loop.backtest import Outcome
from kilter.loop.declaration.spec import load
from kilter.loop.remote import Kilter
from kilter.loop.status import LoopStatus

LOOP = "flight-delay"
FILE = Path(__file__).with_name("flight_delay.py")
START = datetime(2013, 3, 1, tzinfo=UTC)
END = datetime(2014, 1, 1, tzinfo=UTC)
FAST_END = datetime(2013, 6, 1, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]

HOTFIX_BY = datetime(2013, 5, 24, tzinfo=UTC)
"""A rushed hotfix goes out right after the first promotion, and then at the latest: it wants the delay in hours, and leaves out the
shadow, the fairness and the speed that hold it up."""

KILL_AT = datetime(2013, 3, 20, 15, tzinfo=UTC)
"""The worker that serves the champion is killed in the middle of its requests."""

OWNER_DELAY = timedelta(days=3)
"""How long the owner takes to look at a loop that paused itself."""


class Demo:
    """One performance.

    Args:
        stage: Where it plays.
        end: When the replay ends.
        tell: Prints a line for people.
        patience: Seconds during which unanswered requests are sent again; 0 counts them as failed at once.
    """

    def __init__(self, stage: Stage, end: datetime, tell: Say, patience: float = 0.0) -> None:
        self.stage = stage
        self.declared = load(
            FILE
        ).loop  # not imported: LightGBM, which this process never uses, takes longer than all else
        self.table = self.declared.inputs[0].table
        self.start = START
        self.end = end
        self.tell = tell
        self.patience = patience
        self.minutes_for_hours = Switch()
        self.traffic = Traffic("127.0.0.1", stage.serve_port, LOOP, patience)
        self.kilter: Kilter
        self.kill_recovery: float | None = None
        self.hotfix_since: datetime | None = None
        self._hotfix_done = False
        self._killed = False
        self._in_canary = False
        self._promoted = False
        self._paused_since: datetime | None = None
        self._seen = 0

    # ------------------------------------------------------------ setting the stage

    def prepare(self, now: datetime) -> None:
        """Load what is known at the beginning into a fresh store, while everything starts."""
        with self.stage.embedded() as workspace:
            self.stage.launch()
            workspace.data.declare(self.table)
            history = airline.airline().history(now)
            workspace.data.ingest("flights", history)
            self.tell.line(now, f"ingested {history.height:,} flights of January and February")

    def open(self) -> None:
        """Start everything, apply the declaration, and wait for the first champion."""
        self.kilter = self.stage.start()
        planned = self._patiently(lambda: self.kilter.loops.apply(FILE.read_text(), FILE.name, by="demo"))
        self.tell.line(self.stage.clock.now(), f"applied {FILE.name}: declaration {planned.digest[:12]}")
        self.settle(START, lambda status: status.summary.champion is not None)

    # ------------------------------------------------------------ the replay

    def play(self, start: datetime) -> None:
        """Replay until the end."""
        stream = Stream(airline.airline().flights)
        for hour in stream.hours(start, self.end, minutes_for_hours=self.minutes_for_hours):
            self.stage.clock.set(hour.end)
            if hour.parts:
                self._send(hour)
            self._ask(hour.asked, hour.end)
            self._act(hour.end)
        self._look(self.settle(self.end))

    def _send(self, hour: Hour) -> None:
        self._patiently(
            lambda: self.kilter.data.append("flights", hour.parts, request_id=f"rows {hour.end:%Y-%m-%dT%H}")
        )

    def _ask(self, rows: list[dict[str, object]], now: datetime) -> None:
        key = f"ask {now:%Y-%m-%dT%H}"
        if not self._killed and now >= KILL_AT and rows:
            self._killed = True
            self._kill_champion(rows, key)
            return
        self.traffic.ask(rows, key)

    def _act(self, now: datetime) -> None:
        """Do what the script says for this hour, and wait for the controller where it has something to decide."""
        delicate = self._in_canary or (self.hotfix_since is not None and not self._hotfix_done)
        if now.hour % (6 if delicate else 24) == 0:
            # A quiet controller may be a day behind, while nobody would see the difference.
            status = self.settle(now - timedelta(days=0 if delicate else 1))
            self._look(status if status.summary.work in {"idle", "shadow"} else self.settle(now))

    def _look(self, status: LoopStatus) -> None:
        """See where the loop stands, and play the people who would react."""
        summary = status.summary
        idle = summary.work == "idle" and summary.paused is None
        if self.hotfix_since is None and idle and (self._promoted or status.now >= HOTFIX_BY):
            self._ship_hotfix(status.now)
        self._in_canary = summary.work in {"canary", "promoting", "rolling_back"}
        if self.hotfix_since is not None and not self._hotfix_done:
            self._follow_hotfix(status, idle=idle)
        if summary.paused is None:
            self._paused_since = None
        elif self._paused_since is None:
            self._paused_since = status.now
        elif status.now - self._paused_since >= OWNER_DELAY:
            self._patiently(lambda: self.kilter.loops.resume(LOOP, by="owner"))
            self.tell.line(status.now, "the owner has looked, and lets the loop go on")
        self._narrate()

    def _follow_hotfix(self, status: LoopStatus, *, idle: bool) -> None:
        """Break the producer while the hotfix is in its canary, and put everything right when it was taken back."""
        if status.summary.work == "canary" and not self.minutes_for_hours.on:
            self.minutes_for_hours.on = True
            self.tell.line(status.now, "a producer begins to send minutes where the hotfix was built on hours")
        elif self.minutes_for_hours.on and idle:
            self.minutes_for_hours.on = False
            self._hotfix_done = True
            self._patiently(lambda: self.kilter.loops.apply(FILE.read_text(), FILE.name, by="demo"))
            self.tell.line(status.now, "the declaration from before the hotfix is applied again")
        elif idle and self.hotfix_since is not None and status.now - self.hotfix_since >= timedelta(days=1):
            self.hotfix_since = status.now
            self._patiently(lambda: self.kilter.loops.retrain(LOOP, by="somebody in a hurry"))
            self.tell.line(status.now, "the gates refused the hotfix; it is tried again")

    def _narrate(self) -> None:
        for event in self.kilter.loops.timeline(LOOP, after=self._seen, limit=500):
            self._seen = event.seq
            self._promoted = self._promoted or (event.kind == "Promote" and event.data.get("previous") is not None)
            self.tell.event(event)

    # ------------------------------------------------------------ two bad days

    def _ship_hotfix(self, now: datetime) -> None:
        """Apply a change that a reviewer in a hurry might let through."""
        text = FILE.read_text().replace('delay_3h=mean("dep_delay", "3h")', 'delay_3h=mean("dep_delay_h", "3h")')
        text = re.sub(r"gates=\[.*?\n    \]", "gates=[beats_champion(log_loss, margin=0.02)]", text, flags=re.DOTALL)
        hotfix = text.replace('release=[Shadow(bake="14d"), Canary(', "release=[Canary(")
        planned = self._patiently(lambda: self.kilter.loops.apply(hotfix, FILE.name, by="somebody in a hurry"))
        self.hotfix_since = now
        self.tell.line(now, f"a hotfix is applied: {len(planned.changes)} changes, no shadow")

    def _kill_champion(self, rows: list[dict[str, object]], key: str) -> None:
        """Kill the champion's worker while requests are under way."""
        pid = self._champion_pid()
        began = time.perf_counter()
        threads = [
            threading.Thread(target=self.traffic.ask, args=(rows[part::4], f"{key}/{part}")) for part in range(4)
        ]
        for thread in threads:
            thread.start()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        self.kill_recovery = time.perf_counter() - began
        self.tell.line(
            self.stage.clock.now(),
            f"killed the champion's worker under load; every request was answered within {self.kill_recovery * 1000:.0f} ms",
        )

    def _champion_pid(self) -> int | None:
        champion = self.kilter.loops.status(LOOP).summary.champion
        pids = [pid for one in self.traffic.workers() if one["version"] == champion for pid in one["pids"]]
        return int(pids[0]) if pids else None

    # ------------------------------------------------------------ waiting

    def settle(self, moment: datetime, until: Callable[[LoopStatus], bool] = lambda _: True) -> LoopStatus:
        """Wait until the controller has done all there was to do at a moment, and return where the loop stands."""
        deadline = time.monotonic() + 180
        pause = 0.005
        while time.monotonic() < deadline:
            status = self._patiently(lambda: self.kilter.loops.status(LOOP))
            if status.settled_at is not None and status.settled_at >= moment and until(status):
                return status
            time.sleep(pause)
            pause = min(pause * 1.3, 0.05)
        raise SystemExit(
            f"the controller did not settle at {moment:%Y-%m-%d %H:%M}; see {self.stage.store.folder / 'run'}"
        )

    def _patiently(self, call):  # noqa: ANN001, ANN202 - a closure of any type
        """Call the server; while things are being killed around us, again until it answers."""
        deadline = time.monotonic() + max(self.patience, 0.0)
        while True:
            try:
                return call()
            except Unavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)


class Say:
    """Tells people what happens, one line each."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def line(self, at: datetime, text: str) -> None:
        if not self._quiet:
            sys.stdout.write(f"{at:%d %b %H:%M}  {text}\n")
            sys.stdout.flush()

    def event(self, event) -> None:  # noqa: ANN001
        text = show(event)
        if text:
            self.line(event.at, text)


class Controls:
    """The other policies, computed beside the replay."""

    def __init__(self, end: datetime, out: Path) -> None:
        self._out = out
        command = [sys.executable, "-m", "examples.flights.policies", "--end", end.isoformat(), "--out", str(out)]
        with out.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)  # what is left of two cores is enough for it

    def outcomes(self) -> tuple[Outcome, ...]:
        if code := self._process.wait():
            words = self._out.with_suffix(".log").read_text(errors="replace")[-2000:]
            raise SystemExit(f"the other policies ended with {code}:\n{words}")
        return msgspec.json.decode(self._out.read_bytes(), type=tuple[Outcome, ...])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def stopping(controls: Controls) -> Iterator[Controls]:
    try:
        yield controls
    finally:
        controls.stop()


def perform(options: argparse.Namespace) -> tuple[Summary, Stage]:
    """Play the demo and return what came of it; the stage is still up."""
    end = options.until or (FAST_END if options.fast else END)
    tell = Say(quiet=options.json)
    stage = Stage(options.store, options.home, START, options.port)
    demo = Demo(stage, end, tell, options.patience)
    try:
        with stopping(Controls(end, stage.store.folder / "policies.json")) as controls:
            demo.prepare(START)
            demo.open()
            tell.line(START, f"the page: {stage.link()}")
            if not options.no_browser and not options.json and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
                webbrowser.open(stage.link())
            demo.play(START)
            summary = summarise(demo, controls.outcomes(), time.perf_counter() - BEGAN)
    except BaseException:
        stage.stop()
        raise
    return summary, stage


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="March to May only")
    parser.add_argument("--json", action="store_true", help="print one JSON object and end")
    parser.add_argument("--no-browser", action="store_true", help="open no browser, and end after the summary")
    parser.add_argument("--store", default=str(ROOT / ".kilter" / "demo"), help="a folder, or the URL of a store")
    parser.add_argument("--home", help="the local folder of a store that is elsewhere")
    parser.add_argument("--port", type=int, default=0, help="the page's port (default: a free one)")
    parser.add_argument(
        "--until", type=lambda text: datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
    )
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to repeat unanswered requests")
    options = parser.parse_args()
    try:
        summary, stage = perform(options)
    except KilterError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
    with ending(stage):
        if options.json:
            sys.stdout.write(json.dumps(msgspec.to_builtins(summary)) + "\n")
            return
        sys.stdout.write(summary.text())
        if options.no_browser:
            return
        sys.stdout.write(f"\nThe page stays open at {stage.link()} until Ctrl-C.\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            while stage.running():
                time.sleep(0.5)


if __name__ == "__main__":
    main()
