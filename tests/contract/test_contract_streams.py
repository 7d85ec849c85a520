"""The contract of streams over the workspace's own log, Kafka (librdkafka's mock cluster), Redis and NATS JetStream."""

import secrets
import time

import pytest

from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.streams.log import Log
from kilter.engines.streams.places import open_sink, open_source, place_of
from kilter.testing.streams import StreamContract, begin, broker, kafka_cluster, outgoing, take


class Addressed:
    """Streams by their addresses."""

    def __init__(self, address, folder, options=""):
        self.address, self.folder, self.options = address, folder, options

    def source(self, stream, group, mark):
        return open_source(place_of(self.address.format(stream) + self.options, "--from"), group, mark, self.folder)

    def sink(self, stream):
        return open_sink(place_of(self.address.format(stream), "--to"), self.folder)


class TestLog(StreamContract):
    @pytest.fixture
    def streams(self, tmp_path):
        return Addressed("log:{}", tmp_path)

    def test_a_group_has_one_reader_and_a_stream_one_writer(self, streams):
        source, sink = streams.source("in", "g", str), streams.sink("in")
        with pytest.raises(Conflict, match="reads for that group"):
            streams.source("in", "g", str)
        with pytest.raises(Conflict, match="another writer"):
            streams.sink("in")
        source.close()
        sink.close()
        streams.source("in", "g", str).close()

    def test_plain_records_are_messages(self, streams, tmp_path):
        log = Log.open(tmp_path / "in")
        log.append(b'{"a": 1}')
        log.append(b"")
        log.close()
        source = streams.source("in", "g", str)
        assert [one.value for one in take(source, 2)[0]] == [b'{"a": 1}', b""]
        source.close()

    def test_names_stay_in_their_folder(self, streams):
        for name in ("../x", "a/b", "", ".cursors"):
            with pytest.raises(InvalidInput):
                streams.source(name, "g", str)


@pytest.fixture(scope="module")
def kafka():
    with kafka_cluster() as address:
        yield address


class TestKafka(StreamContract):
    @pytest.fixture
    def streams(self, kafka, tmp_path):
        return Addressed(f"kafka://{kafka}/{secrets.token_hex(4)}-{{}}", tmp_path, "?partitions=all")

    def test_members_of_a_group_share_the_partitions(self, kafka, tmp_path):
        """One reads all, another comes: each goes on at the last commits of its share, with their notes."""
        (tmp_path / "quick.properties").write_text("heartbeat.interval.ms=100\n")
        address = f"kafka://{kafka}/{secrets.token_hex(4)}-{{}}"
        streams = Addressed(address, tmp_path, f"?session=4&config={tmp_path}/quick.properties")
        sink = streams.sink("in")
        sink.send(outgoing(40))
        sink.flush()
        one = streams.source("in", "members", lambda: "begin")
        assert one.lag() == 40, "also before it is told its share"
        first, _ = take(one, 40)
        one.commit("first")
        alone = Addressed(address, tmp_path, "?partitions=all")
        over_their_heads = alone.source("in", "members", str)
        with pytest.raises(Conflict, match="members of that group"):
            over_their_heads.commit("mine")
        over_their_heads.close()
        other = streams.source("in", "members", lambda: "begin")
        notes = []
        end = time.monotonic() + 30
        while not notes:
            one.take(100, 0.05)
            notes += other.take(100, 0.05).notes
            assert time.monotonic() < end
        sink.send(outgoing(60, 40))
        sink.flush()
        shares = ([], [])
        while sum(map(len, shares)) < 60:
            for member, share in zip((one, other), shares, strict=True):
                share.extend(member.take(100, 0.05).messages)
            assert time.monotonic() < end
        assert set(notes) == {"first"}
        ids = [message.id for message in (*first, *shares[0], *shares[1])]
        assert len(ids) == len(set(ids)) == 100
        assert all(shares)
        for member in (one, other):
            member.commit("second")
            member.close()
        sink.close()

    def test_settings_come_from_a_file(self, kafka, tmp_path):
        (tmp_path / "kafka.properties").write_text("# ours\nclient.id = scorer\n")
        place = place_of(f"kafka://{kafka}/x?partitions=all&config={tmp_path}/kafka.properties", "--from")
        open_source(place, "g", str, tmp_path).close()
        (tmp_path / "kafka.properties").write_text("group.id=other\n")
        with pytest.raises(InvalidInput, match="no setting of yours"):
            open_source(place, "g", str, tmp_path)

    def test_a_note_has_a_bound(self, streams):
        sink = streams.sink("in")
        sink.send(outgoing(1))
        sink.flush()
        source = streams.source("in", "g", str)
        take(source, 1)
        with pytest.raises(InvalidInput, match="a note of"):
            source.commit("x" * 5000)
        source.close()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with broker("redis-server", tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    with broker("nats-server", tmp_path_factory.mktemp("nats")) as address:
        yield address


class TestRedis(StreamContract):
    @pytest.fixture
    def streams(self, redis_server, tmp_path):
        return Addressed(f"redis://{redis_server}/{secrets.token_hex(4)}-{{}}", tmp_path)

    def test_messages_of_a_silent_member_are_taken_over(self, redis_server, tmp_path):
        address = f"redis://{redis_server}/{secrets.token_hex(4)}-{{}}"
        sink = Addressed(address, tmp_path).sink("in")
        sink.send(outgoing(10))
        sink.flush()
        dead = Addressed(address, tmp_path, "?consumer=a").source("in", "g", lambda: "of a")
        first, _ = take(dead, 10)
        dead.close()
        heir = Addressed(address, tmp_path, "?consumer=b&claim=0.01").source("in", "g", lambda: "of b")
        begin(heir)
        time.sleep(0.02)
        messages, notes = take(heir, 10)
        assert sorted(one.id for one in messages) == sorted(one.id for one in first)
        assert "of a" in notes
        heir.commit("done")
        assert heir.lag() == 0
        heir.close()
        sink.close()

    def test_what_was_inherited_is_known_until_the_heirs_mark_moves(self, redis_server, tmp_path):
        """The heir dies as well, before its first commit: its next life looks where the first one would have looked."""
        address = f"redis://{redis_server}/{secrets.token_hex(4)}-{{}}"
        sink = Addressed(address, tmp_path).sink("in")
        sink.send(outgoing(10))
        sink.flush()
        dead = Addressed(address, tmp_path, "?consumer=a").source("in", "g", lambda: "of a")
        take(dead, 10)
        dead.close()
        heirs = Addressed(address, tmp_path, "?consumer=b&claim=0.01")
        heir = heirs.source("in", "g", lambda: "of b")
        begin(heir)
        time.sleep(0.02)
        take(heir, 10)
        heir.close()
        heir = heirs.source("in", "g", str)
        _, notes = take(heir, 10)
        assert set(notes) == {"of a", "of b"}
        heir.commit("done")
        heir.close()
        heir = heirs.source("in", "g", str)
        assert begin(heir) == ["done"]
        heir.close()
        sink.close()

    def test_the_first_of_two_readers_of_a_name_finds_out(self, streams):
        sink = streams.sink("in")
        sink.send(outgoing(3))
        sink.flush()
        one = streams.source("in", "g", str)
        take(one, 3)
        other = streams.source("in", "g", str)
        take(other, 3)
        with pytest.raises(Conflict, match="under that member's name"):
            one.commit("late")
        other.commit("done")
        for stream in (one, other, sink):
            stream.close()


class TestJetStream(StreamContract):
    @pytest.fixture
    def streams(self, nats_server, tmp_path):
        return Addressed(f"nats://{nats_server}/{secrets.token_hex(4)}.{{}}", tmp_path)

    def test_the_first_of_two_readers_finds_out(self, streams):
        sink = streams.sink("in")
        sink.send(outgoing(3))
        sink.flush()
        sink.send(outgoing(3))  # the server leaves out what it has already
        sink.flush()
        one = streams.source("in", "g", str)
        assert len(take(one, 3)[0]) == 3
        other = streams.source("in", "g", str)
        with pytest.raises(Conflict, match="another process reads"):
            one.commit("late")
        assert len(take(other, 3)[0]) == 3
        other.commit("done")
        for stream in (one, other, sink):
            stream.close()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("amqp://h/q", "names no stream"),
        ("kafka://h:1/", "names no stream"),
        ("log:", "names no stream"),
        ("kafka://user:secret@h:1/topic", "credentials"),
    ],
)
def test_addresses_that_name_no_stream(url, word):
    with pytest.raises(InvalidInput, match=word) as caught:
        place_of(url, "--from")
    assert "secret" not in str(caught.value)


def test_an_option_that_an_engine_has_not_is_refused(tmp_path):
    for url in (
        "kafka://127.0.0.1:1/t?sart=latest",
        "redis://127.0.0.1:1/t?partitions=all",
        "nats://127.0.0.1:1/t?db=1",
    ):
        with pytest.raises(InvalidInput, match="has no option"):
            open_source(place_of(url, "--from"), "g", str, tmp_path)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/t", "nats://127.0.0.1:1/t"])
def test_a_server_that_is_not_there_is_unavailable(url, tmp_path):
    with pytest.raises(Unavailable):
        open_sink(place_of(url, "--to"), tmp_path)
