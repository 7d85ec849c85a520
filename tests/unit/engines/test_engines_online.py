"""The online store: one transaction per put, readers elsewhere, maps that grow."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core.errors import Conflict, Damaged, InvalidInput, Unavailable
from kilter.engines.online.store import OnlineStore


@pytest.fixture
def store(tmp_path):
    store = OnlineStore.open(tmp_path / "online")
    yield store
    store.close()


def test_values_come_back_in_the_order_of_the_keys(store):
    store.put([(b"a", b"1"), (b"b", b""), (b"c", b"3")])
    assert store.get([b"c", b"nothing", b"b", b"a", b"a"]) == [b"3", None, b"", b"1", b"1"]
    assert store.get([]) == []
    store.put([(b"a", b"4"), (b"a", b"5")])
    store.put([], without=[b"c", b"nothing"])
    assert store.get([b"a", b"c"]) == [b"5", None]
    store.put([])


def test_a_put_is_all_or_nothing(store):
    for items in ([(b"a", b"1"), (b"", b"2")], [(b"a", b"1"), (b"k" * 512, b"2")]):
        with pytest.raises(InvalidInput, match="1 to 511"):
            store.put(items)
    assert store.get([b"a"]) == [None]
    store.put([(b"k" * 511, b"fits")])
    assert store.get([b"k" * 511]) == [b"fits"]


def test_a_reader_reads_only(store, tmp_path):
    reader = OnlineStore.open(tmp_path / "online", readonly=True)
    store.put([(b"a", b"1")])
    assert reader.get([b"a"]) == [b"1"]
    for act in (lambda: reader.put([(b"a", b"2")]), lambda: reader.put([], without=[b"a"])):
        with pytest.raises(Conflict, match="reading only"):
            act()
    reader.close()
    reader.close()
    assert store.get([b"a"]) == [b"1"]
    with pytest.raises(Conflict, match="closed"):
        reader.get([b"a"])


def test_what_was_put_is_there_after_reopening(tmp_path):
    for number in range(3):
        store = OnlineStore.open(tmp_path / "online")
        store.put([(b"%d" % number, b"x")])
        assert store.get([b"%d" % place for place in range(number + 1)]) == [b"x"] * (number + 1)
        store.close()


def test_the_map_grows_while_others_read(tmp_path):
    store = OnlineStore.open(tmp_path / "online", map_bytes=1 << 20)
    store.put([(b"key", b"value")])
    stop, errors = threading.Event(), []

    def read():
        while not stop.is_set():
            if store.get([b"key"]) != [b"value"]:
                errors.append("the value has changed")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(12):
        store.put([(b"%d:%d" % (number, place), bytes(1000)) for place in range(200)])
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.get([b"11:199"]) == [bytes(1000)]
    assert (tmp_path / "online" / "data.mdb").stat().st_size > 2_000_000
    store.close()


READER = """
import sys
from kilter.engines.online.store import OnlineStore
store = OnlineStore.open(sys.argv[1], readonly=True, map_bytes=1 << 20)
for line in sys.stdin:
    value = store.get([line.strip().encode()])[0]
    print("nothing" if value is None else len(value), flush=True)
"""


def test_a_reader_in_another_process_follows_a_growing_map(tmp_path):
    store = OnlineStore.open(tmp_path / "online", map_bytes=1 << 20)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "online")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(key):
        reader.stdin.write(f"{key}\n")
        reader.stdin.flush()
        return reader.stdout.readline().strip()

    assert ask("a") == "nothing"
    store.put([(b"a", b"xyz")])
    assert ask("a") == "3"
    for number in range(10):
        store.put([(b"big%d" % number, bytes(1_000_000))])
    assert ask("big9") == "1000000"
    reader.stdin.close()
    assert reader.wait(30) == 0
    reader.stdout.close()
    store.close()


WRITER = """
import os, sys
from kilter.engines.online.store import OnlineStore
store = OnlineStore.open(sys.argv[1])
number = int(sys.argv[2])
while True:
    number += 1
    store.put([(b"%d" % place, b"%d" % number) for place in range(50)])
    os.write(1, b"%d\\n" % number)
"""


@pytest.mark.crash
def test_kill_9_of_the_writer_leaves_whole_puts(tmp_path):
    store = OnlineStore.open(tmp_path / "online", readonly=True)
    number = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "online"), str(number)], stdout=subprocess.PIPE
        )
        lines = [writer.stdout.readline() for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.read().split(b"\n")
        writer.wait()
        writer.stdout.close()
        acknowledged = max(int(line) for line in lines if line.strip())
        values = set(store.get([b"%d" % place for place in range(50)]))
        assert len(values) == 1
        number = int(values.pop())
        assert number >= acknowledged
    store.close()


def test_files_of_another_kind_are_damage(tmp_path):
    (tmp_path / "online").mkdir()
    (tmp_path / "online" / "data.mdb").write_bytes(b"a picture of a cat" * 1000)
    with pytest.raises(Damaged, match="no online store"):
        OnlineStore.open(tmp_path / "online")
    assert (tmp_path / "online" / "data.mdb").read_bytes() == b"a picture of a cat" * 1000


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "online").write_text("")
    with pytest.raises(Unavailable):
        OnlineStore.open(tmp_path / "online")


@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.binary(max_size=4)), max_size=6),
            st.lists(st.binary(min_size=1, max_size=3), max_size=4).map(tuple),
        ),
        max_size=12,
    )
)
@settings(max_examples=30, deadline=None)
def test_it_is_a_map(steps, tmp_path_factory):
    store = OnlineStore.open(tmp_path_factory.mktemp("map"), map_bytes=1 << 20)
    expected: dict[bytes, bytes] = {}
    for step in steps:
        if isinstance(step, tuple):
            store.put([], without=step)
            for key in step:
                expected.pop(key, None)
        else:
            store.put(step)
            expected.update(step)
    keys = [bytes([letter]) for letter in range(256)] + list(expected)
    assert store.get(keys) == [expected.get(key) for key in keys]
    store.close()


def test_what_a_power_cut_may_have_torn_is_thrown_away(tmp_path):
    store = OnlineStore.open(tmp_path / "online")
    store.put([(b"a", b"1")])
    store.close()
    (tmp_path / "online" / "boot").write_text("another-start-of-the-machine")
    again = OnlineStore.open(tmp_path / "online")
    assert again.get([b"a"]) == [None]
    again.put([(b"a", b"2")])
    again.close()
    assert OnlineStore.open(tmp_path / "online").get([b"a"]) == [b"2"]
