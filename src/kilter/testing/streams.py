"""The contract of streams: what is read is committed with a note, and what was written is found behind a mark.

Beside it, brokers to test with: librdkafka's own mock of a Kafka cluster, and servers that are started where their program is.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import pytest

from kilter.engines.streams.port import Message, Outgoing, Sink, Source

_PORTS = {"redis-server": 6379, "nats-server": 4222}


@contextmanager
def kafka_cluster() -> Iterator[str]:
    """Give the address of librdkafka's mock cluster of one broker, in this process; skip the test without the library.

    It keeps notes beside offsets and groups as Kafka does; a topic has four partitions and is made when it is asked for.
    """
    library = pytest.importorskip("confluent_kafka")
    producer = library.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    del producer


@contextmanager
def broker(program: Literal["redis-server", "nats-server"], folder: Path) -> Iterator[str]:
    """Start a server and give its address, or that of one at its usual place; skip the test when there is neither.

    Args:
        program: The server.
        folder: An empty folder for its files.
    """
    pytest.importorskip(program.partition("-")[0])
    path = shutil.which(program)
    if path is None:
        usual = ("127.0.0.1", _PORTS[program])
        try:
            socket.create_connection(usual, 1).close()
        except OSError:
            pytest.skip(f"{program} is not installed, and nothing answers at {usual[0]}:{usual[1]}")
        yield f"{usual[0]}:{usual[1]}"
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        "redis-server": ["--port", str(port), "--save", "", "--bind", "127.0.0.1"],
        "nats-server": ["-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder)],
    }[program]
    process = subprocess.Popen(  # noqa: S603 - a program of the path, with arguments of our own
        [path, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end, f"{program} did not start"
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Streams(Protocol):
    """An engine with two empty streams, ``in`` and ``out``."""

    def source(self, stream: str, group: str, mark: Callable[[], str]) -> Source:
        """Open a stream to read."""
        ...

    def sink(self, stream: str) -> Sink:
        """Open a stream to write."""
        ...


def take(source: Source, count: int, seconds: float = 30.0) -> tuple[list[Message], list[str]]:
    """Return the next ``count`` messages, and the notes that came before them."""
    messages: list[Message] = []
    notes: list[str] = []
    end = time.monotonic() + seconds
    while len(messages) < count:
        taken = source.take(count - len(messages), 0.2)
        messages += taken.messages
        notes += taken.notes
        if time.monotonic() > end:
            raise AssertionError(f"{len(messages)} of {count} messages came")
    return messages, notes


def begin(source: Source, seconds: float = 30.0) -> list[str]:
    """Take until the notes are there, and nothing else."""
    end = time.monotonic() + seconds
    while True:
        taken = source.take(1, 0.2)
        assert not taken.messages
        if taken.notes:
            return list(taken.notes)
        if time.monotonic() > end:
            return []


def outgoing(count: int, first: int = 0) -> list[Outgoing]:
    """Return some messages."""
    return [Outgoing(f"g/in/{n}", b"key %d" % (n % 7), b'{"n": %d}' % n) for n in range(first, first + count)]


class StreamContract:
    """What every stream does; a subclass gives the fixture ``streams``."""

    @pytest.fixture
    def written(self, streams: Streams) -> Iterator[Sink]:
        """The stream ``in``, with a hundred messages."""
        sink = streams.sink("in")
        sink.send(outgoing(100))
        sink.flush()
        yield sink
        sink.close()

    def test_all_that_was_written_is_read(self, streams: Streams, written: Sink) -> None:
        """Keys and values come as they were written, under ids of their own."""
        del written
        source = streams.source("in", "g", lambda: "begin")
        messages, _ = take(source, 100)
        assert sorted(one.value for one in messages) == sorted(one.value for one in outgoing(100))
        assert sorted(one.key for one in messages) == sorted(one.key for one in outgoing(100))
        assert len({one.id for one in messages}) == 100
        assert source.take(10, 0.0).messages == []
        source.close()

    def test_messages_of_a_key_keep_their_order(self, streams: Streams, written: Sink) -> None:
        """Whatever the parts of a stream are, a key's messages lie in one."""
        del written
        source = streams.source("in", "g", lambda: "")
        messages, _ = take(source, 100)
        for key in {one.key for one in messages}:
            numbers = [int(one.value[6:-1]) for one in messages if one.key == key]
            assert numbers == sorted(numbers)
        source.close()

    def test_what_was_not_committed_is_read_again_and_what_was_is_not(self, streams: Streams, written: Sink) -> None:
        """The next reader begins at the last commit and gets its note."""
        del written
        source = streams.source("in", "g", lambda: "begin")
        first, _ = take(source, 30)
        source.commit("after 30")
        lost, _ = take(source, 20)
        source.close()
        source = streams.source("in", "g", lambda: "never asked")
        rest, notes = take(source, 70)
        assert set(notes) <= {"begin", "after 30"}
        assert "after 30" in notes
        assert {one.id for one in lost} <= {one.id for one in rest}
        assert {one.id for one in first} | {one.id for one in rest} == {one.id for one in first + rest}
        assert len({one.id for one in first + rest}) == 100
        source.close()

    def test_a_group_that_begins_notes_the_mark_before_its_first_message(self, streams: Streams, written: Sink) -> None:
        """A reader that dies before its first commit has a successor that knows where to look."""
        del written
        source = streams.source("in", "g", lambda: "begin")
        take(source, 10)
        source.close()
        source = streams.source("in", "g", lambda: "later")
        messages, notes = take(source, 100)
        assert set(notes) == {"begin"}
        assert len(messages) == 100
        source.close()

    def test_a_commit_can_leave_the_note_as_it_is(self, streams: Streams, written: Sink) -> None:
        """Messages are done with, and the next reader is told what the last one was."""
        del written
        source = streams.source("in", "g", lambda: "begin")
        take(source, 30)
        source.commit(None)
        source.close()
        source = streams.source("in", "g", lambda: "later")
        messages, notes = take(source, 70)
        assert set(notes) == {"begin"}
        assert len(messages) == 70
        source.close()

    def test_a_reader_knows_what_it_waits_for(self, streams: Streams, written: Sink) -> None:
        """What was taken and not committed is awaited by the next reader until it has come; strange messages are not."""
        del written
        source = streams.source("in", "g", lambda: "begin")
        first, _ = take(source, 30)
        source.commit("")
        lost, _ = take(source, 20)
        source.close()
        source = streams.source("in", "g", str)
        early: list[Message] = []  # an engine may give messages together with the notes
        notes: tuple[str, ...] = ()
        end = time.monotonic() + 30
        while not notes:
            taken = source.take(1, 0.2)
            early, notes = early + taken.messages, taken.notes
            assert time.monotonic() < end, "no note came"
        assert not any(source.awaits(one.id) for one in [*first, *early])
        came = {one.id for one in early}
        assert all(source.awaits(one.id) for one in lost if one.id not in came)
        rest, _ = take(source, 70 - len(early))
        assert {one.id for one in lost} <= {one.id for one in rest} | came
        source.take(1, 0.0)
        assert not any(source.awaits(one.id) for one in rest)
        assert not source.awaits("other/0/1")
        source.close()

    def test_groups_do_not_disturb_each_other(self, streams: Streams, written: Sink) -> None:
        """Each group reads every message."""
        del written
        one, other = streams.source("in", "one", str), streams.source("in", "other", str)
        take(one, 100)
        one.commit("")
        assert len(take(other, 100)[0]) == 100
        one.close()
        other.close()

    def test_what_was_written_is_found_behind_a_mark(self, streams: Streams) -> None:
        """A mark divides what was sent before it from what is sent after it; an empty one lies before everything."""
        sink = streams.sink("out")
        assert list(sink.since("")) == []
        sink.send(outgoing(5))
        sink.flush()
        mark = sink.mark()
        sink.send(outgoing(7, 5))
        sink.flush()
        assert sorted(sink.since(mark)) == sorted(one.id for one in outgoing(7, 5))
        assert len(list(sink.since(""))) == 12
        assert list(sink.since(sink.mark())) == []
        sink.close()
        again = streams.sink("out")
        assert sorted(again.since(mark)) == sorted(one.id for one in outgoing(7, 5))
        assert list(again.since(again.mark())) == []
        again.close()

    def test_dead_letters_and_empty_messages_are_written(self, streams: Streams) -> None:
        """A reason goes beside the value, and comes with it; an empty value is a value."""
        sink = streams.sink("out")
        reason = "at: the value is of the wrong type (allowed: an RFC 3339 time, or seconds since 1970; naïve)"
        sink.send([Outgoing("a", b"", b"", reason), Outgoing("b", b"k", b"\x00\xff")])
        sink.flush()
        assert sorted(sink.since("")) == ["a", "b"]
        sink.close()
        source = streams.source("out", "g", str)
        assert sorted((one.key, one.value, one.reason) for one in take(source, 2)[0]) == [
            (b"", b"", reason),
            (b"k", b"\x00\xff", ""),
        ]
        source.close()

    def test_the_lag_falls(self, streams: Streams, written: Sink) -> None:
        """Messages that wait are counted."""
        del written
        source = streams.source("in", "g", str)
        take(source, 100)
        source.commit("")
        assert source.lag() == 0
        source.close()
