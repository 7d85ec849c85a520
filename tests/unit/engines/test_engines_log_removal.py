"""Removal of the oldest segments: positions stay, readers go on, and what is gone says so."""

import pytest

from kilter.core.errors import Conflict, Damaged, Expired, NotFound
from kilter.engines.streams.begin import Begin, read_begin
from kilter.engines.streams.log import Log


def filled(folder, records=20):
    log = Log.open(folder, segment_bytes=100)
    return log, [log.append(b"%d" % number * 40) for number in range(records)]


def test_removed_records_have_expired_and_the_others_keep_their_positions(tmp_path):
    log, positions = filled(tmp_path)
    before = dict(log.read())
    assert log.remove(3) > 0
    kept = [position for position in positions if position >> 32 > 3]
    assert dict(log.read()) == {position: before[position] for position in kept}
    assert log.get(kept[0]) == before[kept[0]]
    with pytest.raises(Expired, match="has expired"):
        log.get(positions[0])
    assert Expired.status == 410
    assert issubclass(Expired, NotFound)
    assert log.begin() == Begin(4, positions[len(positions) - len(kept) - 1])


def test_a_reader_that_had_read_what_was_removed_goes_on_and_others_are_told(tmp_path):
    log, positions = filled(tmp_path)
    log.remove(3)
    gone = [position for position in positions if position >> 32 <= 3]
    kept = [position for position in positions if position >> 32 > 3]
    assert [position for position, _ in log.read(after=gone[-1])] == kept
    with pytest.raises(Expired):
        list(log.read(after=gone[-2]))


def test_a_reader_overtaken_by_the_removal_is_told(tmp_path):
    log, positions = filled(tmp_path)
    reading = Log.open(tmp_path, readonly=True).read()
    assert next(reading)[0] == positions[0]
    log.remove(5)
    with pytest.raises(Expired):
        list(reading)


def test_the_writer_goes_on_after_removal_and_a_restart(tmp_path):
    log, positions = filled(tmp_path)
    log.remove(max(one.number for one in log.segments() if one.closed))
    log.close()
    again = Log.open(tmp_path, segment_bytes=100)
    assert again.end() == positions[-1]
    assert Log.open(tmp_path, readonly=True).end() == positions[-1]
    assert again.append(b"next") > positions[-1]


def test_the_end_stays_when_a_power_cut_empties_what_is_left(tmp_path):
    log, positions = filled(tmp_path, 3)
    log.remove(1)
    log.close()
    (tmp_path / "00000002.log").write_bytes(b"")
    assert Log.open(tmp_path, readonly=True).end() == positions[1]
    assert Log.open(tmp_path).end() == positions[1]


def test_a_segment_that_is_written_to_stays(tmp_path):
    log, _ = filled(tmp_path)
    newest = log.segments()[-1]
    assert not newest.closed
    with pytest.raises(Conflict, match="not closed"):
        log.remove(newest.number)
    (tmp_path / f"{newest.number + 1:08d}.log").touch()  # a writer died after it had begun the next one
    assert not log.segments()[-2].closed


def test_an_appended_record_may_begin_a_segment(tmp_path):
    log = Log.open(tmp_path)
    assert [log.append(b"a", fresh=True), log.append(b"b", fresh=True), log.append(b"c")] == [
        0,
        1 << 32,
        (1 << 32) + 13,
    ]
    assert [one.closed for one in log.segments()] == [True, False]


def test_a_removal_that_was_cut_short_is_finished(tmp_path):
    log, positions = filled(tmp_path)
    left = (tmp_path / "00000002.log").read_bytes()
    log.remove(3)
    log.close()
    (tmp_path / "00000002.log").write_bytes(left)  # as if the process had died before this unlink
    assert [position for position, _ in Log.open(tmp_path, readonly=True).read()] == positions[4:]
    Log.open(tmp_path).close()
    assert not (tmp_path / "00000002.log").exists()


def test_removing_twice_and_removing_less_changes_nothing(tmp_path):
    log, _ = filled(tmp_path)
    log.remove(3)
    assert log.remove(3) == 0
    assert log.remove(1) == 0
    assert log.begin().segment == 4


def test_a_segment_missing_behind_the_beginning_is_damage(tmp_path):
    log, _ = filled(tmp_path)
    log.remove(3)
    log.close()
    (tmp_path / "00000004.log").unlink()
    with pytest.raises(Damaged, match="missing"):
        Log.open(tmp_path)


def test_a_broken_segment_is_not_removed(tmp_path):
    log, _ = filled(tmp_path)
    path = tmp_path / "00000002.log"
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged):
        log.remove(2)
    assert log.begin() == Begin(0, -1)


def test_a_marker_that_says_nothing_is_damage(tmp_path):
    log, _ = filled(tmp_path)
    log.remove(3)
    (tmp_path / "begin").write_bytes(b"4")
    with pytest.raises(Damaged, match="marker"):
        read_begin(tmp_path)
