"""Worker processes: answers, errors, limits, deaths."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.compute.processes import Compute

JOBS = """
import os, signal, subprocess, sys, threading, time

def echo(data):
    return data

def pid(data):
    return b"%d" % os.getpid()

def fail(data):
    raise ValueError("no such column: carrier")

def leave(data):
    sys.exit(3)

def vanish(data):
    os._exit(7)

def kill(data):
    os.kill(os.getpid(), signal.SIGKILL)

def wrong(data):
    return "text"

def speak(data):
    print("a job's own words")
    return b""

def burn(data):
    end = time.process_time() + float(data)
    while time.process_time() < end:
        pass
    return b"burnt"

def burn_in_threads(data):
    def work():
        sum(number * number for number in range(10**9))
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return b""

def burn_without_the_timer(data):
    signal.setitimer(signal.ITIMER_PROF, 0)
    return burn(data)

def hold_the_lock(data):
    open(data.decode(), "w").write(str(os.getpid()))
    return b"%d" % len(str(7 ** 40_000_000))

def sleep(data):
    open(data.decode(), "w").write(str(os.getpid()))
    time.sleep(600)
    return b""

def burn_in_a_child(data):
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass"], check=True)
    return b""
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A module of jobs that only this test knows."""
    (tmp_path / "compute_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "compute_jobs"


@pytest.fixture
def compute(jobs):
    with Compute(1) as compute:
        yield compute


def wait_for(path: Path) -> int:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.01)
    raise AssertionError(f"{path} was not written")


def gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_answers_and_stays_warm(compute):
    data = os.urandom(3_000_000)
    assert compute.submit("compute_jobs:echo", data).result(60).payload == data
    pids = {compute.submit("compute_jobs:pid", b"").result(60).payload for _ in range(3)}
    assert len(pids) == 1
    assert pids != {b"%d" % os.getpid()}


def test_jobs_run_side_by_side(jobs, tmp_path):
    with Compute(2) as compute:
        first = compute.submit("compute_jobs:sleep", str(tmp_path / "pid").encode())
        assert compute.submit("compute_jobs:echo", b"x").result(60).payload == b"x"
        assert not first.done()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("compute_jobs:fail", "ValueError: no such column: carrier"),
        ("compute_jobs:leave", "SystemExit"),
        ("compute_jobs:nothing", "AttributeError"),
        ("no_such_module:run", "ModuleNotFoundError"),
        ("compute_jobs:wrong", "returned str, not bytes"),
        ("compute_jobs:vanish", "exited with status 7"),
        ("compute_jobs:kill", "killed by SIGKILL"),
    ],
)
def test_a_job_that_fails_is_an_outcome_and_the_next_one_works(compute, target, words):
    outcome = compute.submit(target, b"").result(60)
    assert outcome.payload is None
    assert words in (outcome.error or "")
    assert compute.submit("compute_jobs:echo", b"next").result(60).payload == b"next"


def test_kill_9_of_the_worker_is_an_outcome(compute, tmp_path):
    job = compute.submit("compute_jobs:sleep", str(tmp_path / "pid").encode())
    os.kill(wait_for(tmp_path / "pid"), signal.SIGKILL)
    outcome = job.result(60)
    assert "killed by SIGKILL" in (outcome.error or "")
    assert outcome.lost


def test_a_worker_killed_while_idle_costs_no_job(compute):
    for _ in range(5):
        pid = int(compute.submit("compute_jobs:pid", b"").result(60).payload or b"")
        os.kill(pid, signal.SIGKILL)
        assert compute.submit("compute_jobs:echo", b"x").result(60).payload == b"x"


def test_cpu_seconds_are_counted_for_the_job_alone(compute):
    compute.submit("compute_jobs:burn", b"0.4").result(60)
    outcome = compute.submit("compute_jobs:burn", b"0.1").result(60)
    assert 0.09 < outcome.cpu_seconds < 0.3
    assert compute.submit("compute_jobs:burn_in_a_child", b"").result(60).cpu_seconds > 0.25


def test_a_limit_holds_although_the_worker_is_warm(compute):
    """The limit counts from the job's begin: CPU used before does not matter, and the limit ends with the job."""
    compute.submit("compute_jobs:burn", b"0.5").result(60)
    assert compute.submit("compute_jobs:burn", b"0.2", cpu_limit=0.4).result(60).payload == b"burnt"
    assert compute.submit("compute_jobs:burn", b"0.5").result(60).payload == b"burnt"


@pytest.mark.parametrize("target", ["compute_jobs:burn", "compute_jobs:burn_in_threads"])
def test_a_runaway_job_is_ended(compute, target):
    outcome = compute.submit(target, b"1000", cpu_limit=0.3).result(60)
    assert outcome.error == "the job was ended after its limit of 0.3 CPU seconds"
    assert not outcome.lost
    # The kernel's timer counts in ticks of the scheduler, which are coarse on a busy machine.
    assert 0.1 < outcome.cpu_seconds < 1.5
    assert compute.submit("compute_jobs:echo", b"next").result(60).payload == b"next"


@pytest.mark.slow
def test_a_runaway_job_that_stops_the_timer_is_ended_as_well(compute):
    outcome = compute.submit("compute_jobs:burn_without_the_timer", b"1000", cpu_limit=0.1).result(60)
    assert outcome.error == "the job was ended after its limit of 0.1 CPU seconds"
    assert outcome.cpu_seconds < 4


def test_a_job_can_be_cancelled(compute, tmp_path):
    job = compute.submit("compute_jobs:sleep", str(tmp_path / "pid").encode())
    pid = wait_for(tmp_path / "pid")
    compute.cancel(job)
    assert "SIGKILL" in (job.result(60).error or "")
    assert gone(pid)
    compute.cancel(job)
    assert compute.submit("compute_jobs:echo", b"next").result(60).payload == b"next"


def test_closing_ends_the_running_and_the_waiting(jobs, tmp_path):
    compute = Compute(1)
    running = compute.submit("compute_jobs:sleep", str(tmp_path / "pid").encode())
    waiting = compute.submit("compute_jobs:echo", b"")
    pid = wait_for(tmp_path / "pid")
    compute.close()
    compute.close()
    assert "SIGTERM" in (running.result(10).error or "")
    assert "closed" in (waiting.result(10).error or "")
    assert gone(pid)
    with pytest.raises(Conflict, match="closed"):
        compute.submit("compute_jobs:echo", b"")


def test_waiting_has_an_end(compute, tmp_path):
    job = compute.submit("compute_jobs:sleep", str(tmp_path / "pid").encode())
    with pytest.raises(Unavailable, match="not ended yet"):
        job.result(0.05)
    assert not job.done()


def test_nonsense_is_refused(compute):
    for target in ("", "module", "module:", "../x:y", "a:b:c", "a:b()"):
        with pytest.raises(InvalidInput, match="names no function"):
            compute.submit(target, b"")
    with pytest.raises(InvalidInput, match="more than 0"):
        compute.submit("compute_jobs:echo", b"", cpu_limit=0)
    with pytest.raises(InvalidInput, match="1 or more"):
        Compute(0)


PARENT = """
import sys, time
from kilter.engines.compute.processes import Compute

sys.path.insert(0, sys.argv[1])
compute = Compute(1)
job = compute.submit(sys.argv[2], sys.argv[3].encode())
print("going", flush=True)
time.sleep(600)
"""


@pytest.mark.crash
@pytest.mark.parametrize("target", ["compute_jobs:sleep", "compute_jobs:hold_the_lock"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_their_parent(jobs, tmp_path, target, number):
    """Even one that holds the interpreter's lock in C code for long."""
    file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), target, str(file)], stdout=subprocess.PIPE)
    worker = wait_for(file)
    parent.send_signal(number)
    parent.wait(30)
    parent.stdout.close()
    assert gone(worker)


def test_what_a_job_prints_stays_out_of_the_parents_output(jobs, tmp_path):
    code = textwrap.dedent("""
        import sys
        from kilter.engines.compute.processes import Compute
        sys.path.insert(0, sys.argv[1])
        with Compute(1) as compute:
            assert compute.submit("compute_jobs:speak", b"").result(60).error is None
        print("the parent's")
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "the parent's\n"
    assert "own words" in done.stderr
