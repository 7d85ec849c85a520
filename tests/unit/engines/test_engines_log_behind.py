"""A log's segment is brought to the disk while it grows, and a disk that fails meanwhile is not passed over."""

import ctypes
import mmap
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


def _resident(path):
    """Return which share of a file's pages is in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as memory:
        held = (ctypes.c_char * size).from_buffer(memory)
        failed = libc.mincore(ctypes.byref(held), ctypes.c_size_t(size), pages)
        del held
    return sum(page & 1 for page in pages) / len(pages) if not failed else None


def _forgets(folder):
    """Say whether a file's pages can be told to leave here: they can't where the file is nothing but pages."""
    if not hasattr(os, "posix_fadvise"):
        return False
    path = folder / "probe"
    path.write_bytes(MEGABYTE)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found = _resident(path)
    path.unlink()
    return found == 0


def test_only_the_newest_segments_stay_in_memory(tmp_path):
    if not _forgets(tmp_path):
        pytest.skip("this file system keeps its files in memory")
    log = Log.open(tmp_path / "log", segment_bytes=2 << 20)
    known = [log.append(MEGABYTE[: (1 << 20) - 12]) for _ in range(12)]
    log.close()
    segments = sorted((tmp_path / "log").glob("*.log"))
    assert [round(_resident(path), 1) for path in segments] == [0, 0, 0, 1, 1, 1]
    assert [position for position, _ in Log.open(tmp_path / "log", readonly=True).read()] == known


def test_a_segment_that_was_removed_meanwhile_is_no_error(tmp_path):
    follower = Behind()
    for number in range(4):
        follower.begin(tmp_path / f"{number}.log")
    follower.close()
