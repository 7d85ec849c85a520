"""A search whose processes are killed with ``kill -9`` at random moments: no finished trial is lost or run again, the budget holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kilter.core.errors import NotFound
from kilter.loop.tuning.study import KILLED, TRIAL, every, find, trial_of
from kilter.loop.workspace import Workspace

pytest.importorskip("optuna")
pytestmark = [pytest.mark.crash, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("tuned_script.py")
TRIALS = 12
KILLS = int(os.environ.get("KILTER_KILLS", "5"))


def begin(store: Path, workers: int, sleep: float = 0.03) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TUNED_LOG": str(store / "log.txt"), "TUNED_SLEEP": str(sleep), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(store), str(TRIALS), str(workers)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def lines(store: Path) -> list[str]:
    log = store / "log.txt"
    return log.read_text().splitlines() if log.exists() else []


def wait_for_more(store: Path, before: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while len(lines(store)) <= before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_kills_lose_no_finished_trial_and_repeat_none(tmp_path: Path, workers: int) -> None:
    chance = random.Random(workers)
    finished: dict[int, str] = {}
    with Workspace.open(tmp_path) as workspace:  # the schema is made once, not in each of the processes that are killed
        runs = workspace.runs
        kills = 0
        for _ in range(KILLS):
            process = begin(tmp_path, workers, sleep=0.01)
            wait_for_more(tmp_path, len(lines(tmp_path)), process)
            time.sleep(chance.random() * 0.15)
            below = children(process.pid)
            if below and chance.random() < 0.5:  # a worker alone: the search itself goes on
                os.kill(chance.choice(below), signal.SIGKILL)
                time.sleep(chance.random() * 0.1)
            if process.poll() is None:
                kills += 1
                process.kill()
            process.wait()
            try:
                parent = find(runs, "killed")
            except NotFound:  # killed before the study was there
                continue
            now = {
                int(run.tags[TRIAL]): run.id
                for run in every(runs, parent)
                if run.status == "FINISHED" and TRIAL in run.tags
            }
            assert finished.items() <= now.items()  # what was finished is, in the very same run
            finished = now
        assert kills >= KILLS // 5
        last = begin(tmp_path, workers)
        assert last.wait(60) == 0
        parent = find(runs, "killed")
        goals = workspace.studies.get("killed").spec.goals
        trials = [(run, trial_of(run, goals)) for run in every(runs, parent)]
        by_number: dict[int, list[str]] = {}
        for run, one in trials:
            assert one is not None
            by_number.setdefault(one.number, []).append(run.status)
            if run.status == "INTERRUPTED":
                assert run.reason == KILLED
        assert set(by_number) == set(range(TRIALS))  # the budget is met, and not exceeded
        for statuses in by_number.values():
            assert statuses.count("FINISHED") <= 1
            assert statuses.count("INTERRUPTED") <= 2  # begun again at most once
            assert len(statuses) == statuses.count("FINISHED") + statuses.count("INTERRUPTED")
            assert "FINISHED" in statuses or statuses.count("INTERRUPTED") == 2
        assert {run.status for run, _ in trials} <= {"FINISHED", "INTERRUPTED"}  # none is left RUNNING
        assert runs.get(parent.id).status == "FINISHED"
        assert (
            finished.items()
            <= {one.number: run.id for run, one in trials if one is not None and run.status == "FINISHED"}.items()
        )
    again = Counter(line.split()[1] for line in lines(tmp_path) if line.startswith("begin"))
    assert max(again.values()) <= 2
    values: dict[str, set[str]] = {}
    for line in lines(tmp_path):
        values.setdefault(line.split()[1], set()).add(line.split()[2])
    assert all(len(found) == 1 for found in values.values())  # a trial that is begun again tries the same


def test_a_worker_that_is_killed_costs_its_trial_one_more_attempt(tmp_path: Path) -> None:
    with Workspace.open(tmp_path) as workspace:
        process = begin(tmp_path, 2, sleep=0.1)
        wait_for_more(tmp_path, 1, process)
        pid = int(lines(tmp_path)[0].split()[3])
        os.kill(pid, signal.SIGKILL)
        assert process.wait(90) == 0
        found = workspace.studies.get("killed")
        assert [one.state for one in found.trials] == ["complete"] * TRIALS
        assert sum(one.attempt for one in found.trials) == 1


def test_a_second_process_joins_and_ctrl_c_marks_what_runs(tmp_path: Path) -> None:
    with Workspace.open(tmp_path) as workspace:
        first, second = begin(tmp_path, 1, sleep=0.5), begin(tmp_path, 1, sleep=0.5)
        until = time.monotonic() + 60
        while len({line.split()[3] for line in lines(tmp_path)}) < 2 and time.monotonic() < until:
            time.sleep(0.01)  # both are at work
        first.send_signal(signal.SIGINT)
        assert first.wait(60) != 0
        stopped = [one for one in workspace.studies.get("killed").trials if one.state == "interrupted"]
        assert len(stopped) <= 1
        assert second.wait(90) == 0
        found = workspace.studies.get("killed")
        assert [one.state for one in found.trials] == ["complete"] * TRIALS
        assert found.status == "FINISHED"
    workers = {line.split()[3] for line in lines(tmp_path) if line.startswith("begin")}
    assert len(workers) == 2
