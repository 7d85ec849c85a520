"""The log against a list: whatever is appended is read, however the file was torn."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kilter.core.errors import Conflict, Damaged
from kilter.engines.streams.log import Log

payloads = st.one_of(st.binary(max_size=60), st.sampled_from([b"", b"KLG1", b"KLG1\0\0\0\0\0\0\0\0", b"\0" * 40]))


class LogMachine(RuleBasedStateMachine):
    """One writer that comes and goes and a reader that stays, over segments of a few records."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.known: list[tuple[int, bytes]] = []
        self.reader = Log.open(self.folder, readonly=True)
        self.seen = -1
        self.read: list[tuple[int, bytes]] = []

    @initialize(segment=st.integers(30, 200))
    def start(self, segment):
        self.segment = segment
        self.writer = Log.open(self.folder, segment_bytes=segment)

    @rule(payload=payloads)
    def append(self, payload):
        position = self.writer.append(payload)
        assert not self.known or position > self.known[-1][0]
        self.known.append((position, payload))

    @rule(cut=st.integers(1, 71), flip=st.booleans())
    def die_in_the_middle_of_an_append(self, cut, flip):
        """A record is written in part, and then the writer's process ends."""
        position = self.writer.append(b"torn" * 15)
        self.writer.close()
        path = self.folder / f"{position >> 32:08d}.log"
        data = bytearray(path.read_bytes())
        del data[len(data) - cut :]
        if flip and len(data) > (position & 0xFFFFFFFF) + 12:
            data[-1] ^= 1
        path.write_bytes(data)
        self.writer = Log.open(self.folder, segment_bytes=self.segment)

    @rule()
    def reopen(self):
        self.writer.close()
        self.writer = Log.open(self.folder, segment_bytes=self.segment)

    @rule(limit=st.one_of(st.none(), st.integers(0, 3)))
    def read_on(self, limit):
        for position, payload in self.reader.read(after=self.seen, limit=limit):
            self.read.append((position, payload))
            self.seen = position
        assert self.read == self.known[: len(self.read)]

    @invariant()
    def holds_exactly_what_was_appended(self):
        if hasattr(self, "writer"):
            assert list(self.writer.read()) == self.known
            last = self.known[-1][0] if self.known else -1
            assert self.writer.end() == last
            assert self.reader.end() == last
            for position, payload in self.known[-2:]:
                assert self.reader.get(position) == payload

    def teardown(self):
        if hasattr(self, "writer"):
            self.writer.close()
        shutil.rmtree(self.folder)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(records=st.lists(payloads, min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_file_cut_at_any_byte_keeps_the_whole_records(records):
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        with_all = Log.open(whole)
        positions = [with_all.append(record) for record in records]
        with_all.close()
        data = (whole / "00000000.log").read_bytes()
        ends = [*positions[1:], len(data)]
        for cut in range(len(data) + 1):
            torn = Path(name, "torn")
            torn.mkdir(exist_ok=True)
            (torn / "00000000.log").write_bytes(data[:cut])
            expected = [
                pair for pair, end in zip(zip(positions, records, strict=True), ends, strict=True) if end <= cut
            ]
            assert list(Log.open(torn, readonly=True).read()) == expected
            log = Log.open(torn)
            assert list(log.read()) == expected
            added = log.append(b"after")
            assert list(log.read()) == [*expected, (added, b"after")]
            log.close()


@given(data=st.data(), records=st.lists(payloads, min_size=2, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_byte_flipped_before_the_last_record_is_damage_and_changes_nothing(data, records):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = Log.open(folder)
        positions = [log.append(record) for record in records]
        log.close()
        path = folder / "00000000.log"
        content = bytearray(path.read_bytes())
        offset = data.draw(st.integers(0, positions[-1] - 1))
        content[offset] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(Damaged, match="is not the last one"):
            list(Log.open(folder, readonly=True).read())
        with pytest.raises(Damaged, match="nothing was changed"):
            Log.open(folder)
        assert path.read_bytes() == content


def test_zeros_after_a_power_cut_are_no_records(tmp_path):
    log = Log.open(tmp_path)
    position = log.append(b"whole")
    log.close()
    with (tmp_path / "00000000.log").open("ab") as file:
        file.write(b"\0" * 4096)
    log = Log.open(tmp_path)
    assert list(log.read()) == [(position, b"whole")]
    assert log.append(b"next") == position + 12 + 5


def test_one_writer_at_a_time(tmp_path):
    log = Log.open(tmp_path)
    with pytest.raises(Conflict, match="another writer"):
        Log.open(tmp_path)
    reader = Log.open(tmp_path, readonly=True)
    with pytest.raises(Conflict, match="for reading"):
        reader.append(b"no")
    log.close()
    log.close()
    with pytest.raises(Conflict, match="closed"):
        log.append(b"no")
    Log.open(tmp_path).close()
