"""A log's segment is brought to the disk while it grows, and a disk that fails meanwhile is not passed over."""

import os
from pathlib import Path

import pytest

from kilter.core.errors import Unavailable
from kilter.engines.streams import behind
from kilter.engines.streams.behind import Behind
from kilter.engines.streams.log import Log

MEGABYTE = b"x" * (1 << 20)


def _open():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_the_disk_is_asked_each_step_and_not_for_every_record(tmp_path, monkeypatch):
    asked = []
    real = behind._sync
    monkeypatch.setattr(
        behind, "_sync", lambda descriptor: (asked.append(os.fstat(descriptor).st_size), real(descriptor))
    )
    log = Log.open(tmp_path)
    positions = []
    for _ in range(20):  # over the end of a segment
        positions.append(log.append(MEGABYTE))
        if log._behind._running is not None:
            log._behind._running.result()
    log.close()
    assert 3 <= len(asked) <= 5
    assert asked[0] >= 4 << 20
    assert [position for position, _ in Log.open(tmp_path, readonly=True).read()] == positions


def test_a_log_that_waits_for_the_disk_itself_is_not_followed(tmp_path):
    log = Log.open(tmp_path, fsync=True)
    for _ in range(5):
        log.append(MEGABYTE)
    assert log._behind._thread is None
    log.close()


def test_a_failure_is_said_when_the_segment_ends_and_once(tmp_path, monkeypatch):
    def failing(descriptor):
        os.close(descriptor)
        raise OSError(5, "Input/output error")

    log = Log.open(tmp_path, segment_bytes=8 << 20)
    with monkeypatch.context() as patched:
        patched.setattr(behind, "_sync", failing)
        known = [log.append(MEGABYTE) for _ in range(7)]  # each of them is written: the process may die now
    with pytest.raises(Unavailable):
        log.append(MEGABYTE)
    known.append(log.append(MEGABYTE))
    assert [position for position, _ in log.read()] == known
    assert known[-1] >> 32 == 1
    log.close()


def test_syncing_says_what_failed_before(tmp_path, monkeypatch):
    log = Log.open(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _descriptor: os.fsync(1 << 20))
        for _ in range(5):
            log.append(MEGABYTE)
        log._behind._running.exception()
    with pytest.raises(Unavailable):
        log.sync()
    log.sync()
    log.close()


def test_closing_leaves_no_thread_and_no_descriptor(tmp_path):
    follower = Behind(step=1)
    before = _open()
    with (tmp_path / "file").open("wb") as file:
        file.write(b"12")
        file.flush()
        follower.wrote(file.fileno(), 2)
    follower.close()
    follower.close()
    assert follower._thread is None
    assert _open() == before
