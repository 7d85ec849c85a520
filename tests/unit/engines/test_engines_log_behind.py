"""A log's segment is brought to the disk while it grows, and a disk that fails meanwhile is not passed over."""

import ctypes
import mmap
import os
import threading
from pathlib import Path

import pytest

from kilter.core.errors import Damaged, Unavailable
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
        log._behind._running.exception()
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


def test_the_writer_goes_on_while_a_segment_is_brought_to_the_disk_and_waits_for_the_one_before(tmp_path, monkeypatch):
    reached, go = threading.Event(), threading.Event()
    real = behind._end

    def slow(what):
        reached.set()
        assert go.wait(30)
        real(what)

    monkeypatch.setattr(behind, "_end", slow)
    log = Log.open(tmp_path, segment_bytes=2 << 20)
    known = [log.append(MEGABYTE) for _ in range(2)]  # the second is in the next segment: nobody waited
    assert reached.wait(30)
    assert known[1] >> 32 == 1
    writer = threading.Thread(target=lambda: known.append(log.append(MEGABYTE)))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()  # the first segment isn't on the disk yet
    go.set()
    writer.join(30)
    log.sync()
    log.close()
    assert [position for position, _ in Log.open(tmp_path, readonly=True).read()] == known
    assert [position >> 32 for position in known] == [0, 1, 2]


def test_an_end_that_failed_is_said_at_the_next_one_and_once(tmp_path, monkeypatch):
    log = Log.open(tmp_path, segment_bytes=2 << 20)
    with monkeypatch.context() as patched:
        patched.setattr(behind, "sync_folder", lambda _folder: os.fsync(1 << 20))
        known = [log.append(MEGABYTE) for _ in range(2)]
        log._behind._ending.exception()
    with pytest.raises(Unavailable):
        log.append(MEGABYTE)
    assert not (tmp_path / "00000002.log").exists()
    known.append(log.append(MEGABYTE))
    log.close()
    assert [position for position, _ in Log.open(tmp_path, readonly=True).read()] == known


@pytest.mark.parametrize("left", [5, 500])
def test_a_power_cut_may_take_the_ends_of_the_two_newest_segments(tmp_path, left):
    log = Log.open(tmp_path, segment_bytes=2_000)
    known = [log.append(bytes(900)) for _ in range(6)]  # two in each
    log.close()
    os.truncate(tmp_path / "00000001.log", 912 + left)
    os.truncate(tmp_path / "00000002.log", 912 + left)
    log = Log.open(tmp_path, segment_bytes=2_000)
    known = [known[0], known[1], known[2], known[4]]
    assert [position for position, _ in log.read()] == known
    assert log.end() == known[-1]
    known.append(log.append(b"more"))
    log.close()
    assert [position for position, _ in Log.open(tmp_path, readonly=True).read(known[1])] == known[2:]


def test_what_was_on_the_disk_long_ago_and_is_torn_now_is_damage(tmp_path):
    log = Log.open(tmp_path, segment_bytes=2_000)
    for _ in range(6):
        log.append(bytes(900))
    log.close()
    os.truncate(tmp_path / "00000000.log", 1_000)
    with pytest.raises(Damaged):
        list(Log.open(tmp_path).read())


def test_who_reads_can_bring_to_the_disk_what_a_dying_writer_left_in_memory(tmp_path, monkeypatch):
    log = Log.open(tmp_path, segment_bytes=2_000)
    for _ in range(4):
        log.append(bytes(900))
    log.close()
    asked, real = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (asked.append(os.fstat(file).st_ino), real(file)))
    Log.open(tmp_path, readonly=True).sync()
    both = [(tmp_path / name).stat().st_ino for name in ("00000000.log", "00000001.log")]
    assert asked == both
    asked.clear()
    Log.open(tmp_path).close()  # the next writer takes nothing for safe that its predecessor had not brought there
    assert asked == both
