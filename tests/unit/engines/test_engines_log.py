"""The log on a real disk: positions, missing files, failures of the disk."""

import os
import resource
import subprocess
import sys
import threading

import pytest

from kilter.core.errors import Damaged, InvalidInput, NotFound, Unavailable
from kilter.engines.streams.log import Log


def test_positions_rise_over_segments_and_survive_json(tmp_path):
    log = Log.open(tmp_path, segment_bytes=100)
    positions = [log.append(b"x" * 40) for _ in range(20)]
    assert positions == sorted(set(positions))
    assert len(list(tmp_path.glob("*.log"))) > 5
    assert positions[-1] < 2**53
    assert [p for p, _ in log.read(after=positions[7], limit=5)] == positions[8:13]


def test_a_record_larger_than_a_segment_has_its_own(tmp_path):
    log = Log.open(tmp_path, segment_bytes=100)
    big = os.urandom(5000)
    positions = [log.append(b"a"), log.append(big), log.append(b"b")]
    assert [payload for _, payload in log.read()] == [b"a", big, b"b"]
    assert [position >> 32 for position in positions] == [0, 1, 2]


def test_the_end_of_an_empty_newest_segment_is_the_last_record(tmp_path):
    log = Log.open(tmp_path, segment_bytes=50)
    last = [log.append(b"x" * 40) for _ in range(3)][-1]
    log.close()
    (tmp_path / "00000003.log").touch()
    assert Log.open(tmp_path, readonly=True).end() == last
    log = Log.open(tmp_path)
    assert log.end() == last
    assert log.append(b"next") == 3 << 32


@pytest.mark.parametrize("position", [-1, 1, 10_000, 5 << 32])
def test_no_record_at_a_place_in_between(tmp_path, position):
    log = Log.open(tmp_path)
    log.append(b"x" * 40)
    with pytest.raises(NotFound, match="no record"):
        log.get(position)


def test_a_broken_record_is_not_returned(tmp_path):
    log = Log.open(tmp_path)
    position = log.append(b"x" * 40)
    path = tmp_path / "00000000.log"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match="checksum"):
        Log.open(tmp_path, readonly=True).get(position)


def test_a_missing_segment_is_damage(tmp_path):
    log = Log.open(tmp_path, segment_bytes=50)
    for _ in range(4):
        log.append(b"x" * 40)
    log.close()
    (tmp_path / "00000001.log").unlink()
    with pytest.raises(Damaged, match="segment is missing"):
        Log.open(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "log").write_text("a file")
    with pytest.raises(Unavailable):
        Log.open(tmp_path / "log")


def test_threads_append_in_turn(tmp_path):
    log = Log.open(tmp_path, segment_bytes=4000)
    positions: list[list[int]] = [[] for _ in range(4)]

    def work(number):
        for count in range(200):
            positions[number].append(log.append(b"%d:%d" % (number, count)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = dict(log.read())
    assert len(read) == 800
    for number in range(4):
        assert [read[position] for position in positions[number]] == [b"%d:%d" % (number, n) for n in range(200)]


FULL = """
import resource, sys
from kilter.core.errors import Unavailable
from kilter.engines.streams.log import Log

log = Log.open(sys.argv[1])
known = [(log.append(b"x" * 100), b"x" * 100) for _ in range(10)]
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (11 * 112 + 50, hard))  # the next record fits, the one after half
known.append((log.append(b"y" * 100), b"y" * 100))
for _ in range(3):
    try:
        log.append(b"z" * 100)
    except Unavailable as error:
        assert "can't be written" in str(error), error
    else:
        raise SystemExit("a record was taken that does not fit")
    assert list(log.read()) == known
    assert log.end() == known[-1][0]
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
known.append((log.append(b"again"), b"again"))
assert list(log.read()) == known
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_disk_that_takes_half_a_record_takes_none(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_record_too_large_is_refused(tmp_path):
    class Huge(bytes):
        def __len__(self):
            return 2 << 30

    with pytest.raises(InvalidInput, match="1 GiB"):
        Log.open(tmp_path).append(Huge())


def test_syncing_each_record_is_a_choice(tmp_path):
    log = Log.open(tmp_path, fsync=True)
    position = log.append(b"safe")
    log.sync()
    assert log.get(position) == b"safe"
