"""The contract of streams over every engine.

Kafka is librdkafka's mock cluster, Kinesis is moto's server, and Pub/Sub is the real client on a server in this process.
"""

import json
import random
import secrets
import time

import pytest

from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.streams import places
from kilter.engines.streams.log import Log
from kilter.engines.streams.places import open_sink, open_source, place_of
from kilter.engines.streams.port import Outgoing
from kilter.testing.streams import StreamContract, begin, broker, kafka_cluster, outgoing, take

from . import brokers, pubsub_emulator


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


@pytest.fixture(scope="module")
def rabbitmq_server():
    with brokers.rabbitmq() as address:
        yield address


class TestRabbitMQ(StreamContract):
    @pytest.fixture
    def streams(self, rabbitmq_server, tmp_path):
        with brokers.queues(rabbitmq_server) as prefix:
            yield Addressed(f"rabbitmq://{rabbitmq_server}/{prefix}-{{}}", tmp_path)

    def test_a_group_has_one_reader(self, streams):
        one = streams.source("in", "g", str)
        with pytest.raises(Conflict, match="another process reads"):
            streams.source("in", "g", str)
        one.close()
        streams.source("in", "g", str).close()

    def test_a_cut_line_commits_nothing_and_the_next_reader_goes_on(self, rabbitmq_server, streams, tmp_path):
        """The lock goes with the connection; what was not committed comes again, with the note."""
        sink = streams.sink("in")
        sink.send(outgoing(20))
        sink.flush()
        name = streams.address.split("/")[3]
        with brokers.line(rabbitmq_server) as (address, cut):
            source = Addressed(f"amqp://{address}/{name}", tmp_path).source("in", "g", lambda: "begin")
            first, _ = take(source, 5)
            source.commit("after 5")
            take(source, 5)
            cut()
            with pytest.raises(Unavailable, match="RabbitMQ"):
                source.commit("never")
            with pytest.raises(Unavailable, match="RabbitMQ"):
                source.take(100, 0.1)
            source.close()
        source = streams.source("in", "g", str)
        rest, notes = take(source, 15)
        assert notes == ["after 5"]
        assert len({one.id for one in [*first, *rest]}) == 20
        source.close()
        sink.close()

    def test_a_cursor_of_one_that_lost_the_group_does_not_count(self, streams):
        """Should its connection have lived on elsewhere, what it commits is left out by whoever reads next."""
        sink = streams.sink("in")
        sink.send(outgoing(20))
        sink.flush()
        source = streams.source("in", "g", lambda: "begin")
        take(source, 5)
        source.commit("after 5")
        source._token, token = "somebody else", source._token
        source.commit("not of the group's reader")
        source._token = token
        source.close()
        source = streams.source("in", "g", str)
        assert begin(source) == ["after 5"]
        source.close()
        sink.close()

    def test_a_queue_that_forgets_is_refused_and_a_stream_of_other_settings_is_not(self, rabbitmq_server, streams):
        name = streams.address.split("/")[3]
        for kind in ("classic", "quorum"):
            brokers.declare(rabbitmq_server, name.format("in"), {"x-queue-type": kind})
            with pytest.raises(InvalidInput, match="no stream"):
                streams.source("in", "g", str)
            with pytest.raises(InvalidInput, match="no stream"):
                streams.sink("in")
        brokers.declare(rabbitmq_server, name.format("in"), {"x-queue-type": "stream", "x-max-age": "7D"})
        sink = streams.sink("in")
        sink.send(outgoing(3))
        sink.flush()
        source = streams.source("in", "g", str)
        assert len(take(source, 3)[0]) == 3
        source.close()
        sink.close()

    def test_a_group_can_begin_at_the_latest(self, streams):
        sink = streams.sink("in")
        sink.send(outgoing(5))
        sink.flush()
        streams.options = "?start=latest"
        source = streams.source("in", "g", str)
        sink.send(outgoing(3, 5))
        sink.flush()
        assert [one.value for one in take(source, 3)[0]] == [one.value for one in outgoing(3, 5)]
        source.close()
        sink.close()

    def test_a_file_of_credentials(self, streams, tmp_path):
        (tmp_path / "secret").write_text("guest:guest\n")
        streams.options = f"?credentials={tmp_path}/secret"
        streams.source("in", "g", str).close()
        (tmp_path / "secret").write_text("guest:wrong\n")
        with pytest.raises(Unavailable) as caught:
            streams.source("in", "g", str)
        assert "wrong" not in str(caught.value)
        (tmp_path / "secret").write_text("guest\n")
        with pytest.raises(InvalidInput, match="not understood"):
            streams.source("in", "g", str)


class TestKinesis(StreamContract):
    @pytest.fixture
    def address(self, s3_server, monkeypatch):
        """Of streams on moto's server, which speaks Kinesis and DynamoDB as well."""
        for name, value in brokers.AWS.items():
            monkeypatch.setenv(name, value)
        with brokers.shards(s3_server) as prefix:
            yield f"kinesis://{brokers.REGION}/{prefix}-{{}}?endpoint={s3_server}"

    @pytest.fixture
    def streams(self, address, tmp_path):
        return Addressed(address, tmp_path)

    def test_the_first_of_two_readers_finds_out(self, streams):
        sink = streams.sink("in")
        sink.send(outgoing(3))
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

    def test_what_was_refused_is_written_again_and_in_order(self, streams, monkeypatch):
        """Of each call the service takes some records and refuses others."""
        from moto.kinesis.models import KinesisBackend

        whole, chance, refused = KinesisBackend.put_records, random.Random(1), []

        def some(self, stream_arn, stream_name, records):
            taken = [chance.random() < 0.6 for _ in records]
            kept = [one for one, is_taken in zip(records, taken, strict=True) if is_taken]
            refused.append(len(records) - len(kept))
            answers = iter(whole(self, stream_arn, stream_name, kept)["Records"])
            told = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "too much"}
            return {
                "FailedRecordCount": refused[-1],
                "Records": [next(answers) if is_taken else told for is_taken in taken],
            }

        monkeypatch.setattr(KinesisBackend, "put_records", some)
        sink = streams.sink("in")
        sink.send(outgoing(28))
        sink.flush()
        assert sum(refused) > 5
        source = streams.source("in", "g", str)
        messages, _ = take(source, 28)
        assert sorted(one.value for one in messages) == sorted(one.value for one in outgoing(28))
        for key in {one.key for one in messages}:
            numbers = [int(one.value[6:-1]) for one in messages if one.key == key]
            assert numbers == sorted(numbers)
        assert source.take(10, 0.3).messages == []
        source.close()
        sink.close()

    def test_shards_are_split_and_merged_while_a_group_reads(self, address, streams, s3_server):
        """The shards that came of others are read behind them, by a later reader as well; each message once."""
        name = address.split("/")[3].partition("?")[0].format("in")
        client = brokers.kinesis(s3_server)
        with brokers.resharding():
            sink = streams.sink("in")
            mark = sink.mark()
            sink.send(outgoing(40))
            sink.flush()
            source = streams.source("in", "g", lambda: "begin")
            first, _ = take(source, 10)
            source.commit("after 10")
            source.close()
            middle = str(1 << 126)
            client.split_shard(StreamName=name, ShardToSplit="shardId-000000000000", NewStartingHashKey=middle)
            sink.send(outgoing(40, 40))
            sink.flush()
            client.merge_shards(StreamName=name, ShardToMerge="shardId-000000000003",
                                AdjacentShardToMerge="shardId-000000000001")  # fmt: skip
            sink.send(outgoing(40, 80))
            sink.flush()
            source = streams.source("in", "g", str)
            assert source.lag() == 110
            rest, _ = take(source, 110)
            source.commit("done")
            assert source.lag() == 0
            source.close()
            again = streams.source("in", "g", str)
            assert take(again, 0)[0] == []
            assert again.take(10, 0.0).notes == ("done",)
            assert again.take(10, 0.3).messages == []
            again.close()
        messages = [*first, *rest]
        assert len({one.id for one in messages}) == 120
        for key in {one.key for one in messages}:
            numbers = [int(one.value[6:-1]) for one in messages if one.key == key]
            assert numbers == sorted(numbers)
        assert sorted(sink.since(mark)) == sorted(one.id for one in outgoing(120))
        sink.close()
        client.close()

    def test_a_group_can_begin_at_the_latest(self, streams):
        sink = streams.sink("in")
        sink.send(outgoing(5))
        sink.flush()
        time.sleep(1.1)  # its clock is told in whole seconds
        streams.options = "&start=latest"
        source = streams.source("in", "g", str)
        sink.send(outgoing(3, 5))
        sink.flush()
        assert sorted(one.value for one in take(source, 3)[0]) == [one.value for one in outgoing(3, 5)]
        source.close()
        sink.close()

    def test_records_of_others_are_messages(self, address, streams, s3_server):
        name = address.split("/")[3].partition("?")[0].format("in")
        client = brokers.kinesis(s3_server)
        client.put_record(StreamName=name, Data=b'{"a": 1}', PartitionKey="k")
        client.close()
        source = streams.source("in", "g", str)
        (message,) = take(source, 1)[0]
        assert message[1:] == (b"k", b'{"a": 1}', "")
        source.close()

    def test_an_answer_is_the_data_of_a_cloud_event(self, address, streams, s3_server):
        """Whoever reads without this library finds the message, its id and its reason under the standard's names."""
        sink = streams.sink("out")
        sink.send([Outgoing("g/in/1", b"k", b'{"a": 1.50}'), Outgoing("g/in/2", b"", b"no json", "not a row")])
        sink.flush()
        sink.close()
        client = brokers.kinesis(s3_server)
        name = address.split("/")[3].partition("?")[0].format("out")
        found = []
        for shard in client.list_shards(StreamName=name)["Shards"]:
            begin = client.get_shard_iterator(
                StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )
            records = client.get_records(ShardIterator=begin["ShardIterator"])["Records"]
            found += [json.loads(one["Data"]) for one in records]
        client.close()
        one, other = sorted(found, key=lambda event: event["id"])
        assert one == {"specversion": "1.0", "type": "kilter.message", "source": "kilter", "id": "g/in/1",
                       "partitionkey": "k", "data": {"a": 1.5}}  # fmt: skip
        assert (other["data_base64"], other["reason"]) == ("bm8ganNvbg==", "not a row")

    def test_a_stream_that_is_not_there(self, streams):
        with pytest.raises(Unavailable, match="no such stream"):
            streams.sink("elsewhere")


@pytest.fixture(scope="module")
def pubsub_server():
    with pubsub_emulator.pubsub() as (emulator, address):
        yield emulator, address


class TestPubSub(StreamContract):
    @pytest.fixture
    def streams(self, pubsub_server, monkeypatch, tmp_path):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server[1])
        return Addressed(f"pubsub://tests/t{secrets.token_hex(4)}-{{}}?settle=0.4", tmp_path)

    def test_what_was_written_is_found_behind_a_mark(self, streams):
        """A writer's own messages are divided exactly; those of others from a few seconds before a mark are found as well."""
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
        mark = again.mark()
        again.send(outgoing(3, 12))
        again.flush()
        assert set(again.since(mark)) >= {one.id for one in outgoing(3, 12)}
        again.close()

    def test_a_group_has_one_reader_on_a_machine(self, streams):
        streams.sink("in").close()
        one = streams.source("in", "g", str)
        with pytest.raises(Conflict, match="another process reads"):
            streams.source("in", "g", str)
        one.close()
        streams.source("in", "g", str).close()

    def test_a_group_can_begin_at_the_latest(self, streams):
        sink = streams.sink("in")
        sink.send(outgoing(5))
        sink.flush()
        streams.options = "&start=latest"
        source = streams.source("in", "g", str)
        sink.send(outgoing(3, 5))
        sink.flush()
        assert sorted(one.value for one in take(source, 3)[0]) == [one.value for one in outgoing(3, 5)]
        source.close()
        sink.close()

    def test_who_lost_its_leases_finds_out_and_the_note_stays(self, streams, pubsub_server):
        """A reader stood still for too long: its messages come again, and whoever gets them looks where it would have looked."""
        sink = streams.sink("in")
        sink.send(outgoing(20))
        sink.flush()
        source = streams.source("in", "g", lambda: "begin")
        first, _ = take(source, 20)
        pubsub_server[0].expire()
        with pytest.raises(Conflict, match="lease"):
            source.commit("late")
        source.close()
        pubsub_server[0].expire()  # what the first one was handed again before it closed
        source = streams.source("in", "g", str)
        assert begin(source) == ["begin"]
        again, _ = take(source, 20)
        assert {one.id for one in again} == {one.id for one in first}
        source.commit("done")
        assert source.lag() == 0
        source.close()
        sink.close()

    def test_a_topic_that_retains_nothing_is_no_target(self, streams, pubsub_server):
        from google.pubsub_v1 import types

        name = streams.address.split("/")[3].partition("?")[0].format("out")
        pubsub_server[0].create_topic(types.Topic(name=f"projects/tests/topics/{name}"), None)
        with pytest.raises(InvalidInput, match="retains no messages"):
            streams.sink("out")

    def test_a_subscription_that_forgets_is_refused(self, streams, pubsub_server):
        from google.pubsub_v1 import types

        streams.sink("in").close()
        name = streams.address.split("/")[3].partition("?")[0].format("in")
        plain = types.Subscription(
            name=f"projects/tests/subscriptions/kilter-g-{name}", topic=f"projects/tests/topics/{name}"
        )
        pubsub_server[0].create_subscription(plain, None)
        with pytest.raises(InvalidInput, match="exactly-once"):
            streams.source("in", "g", str)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://h/q", "names no stream"),
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


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("rabbitmq://127.0.0.1:1/t?db=1", "aio_pika"),
        ("kinesis://eu-west-1/t?partitions=all", "boto3"),
        ("pubsub://project/t?db=1", "google.cloud.pubsub_v1"),
    ],
)
def test_an_option_that_an_engine_of_an_extra_has_not_is_refused(url, package, tmp_path):
    pytest.importorskip(package)
    with pytest.raises(InvalidInput, match="has no option"):
        open_source(place_of(url, "--from"), "g", str, tmp_path)
    with pytest.raises(InvalidInput, match="has no option"):
        open_sink(place_of(url, "--to"), tmp_path)


@pytest.mark.parametrize("scheme", ["rabbitmq", "kinesis", "pubsub"])
def test_an_extra_that_is_missing_is_named(scheme, tmp_path, monkeypatch):
    """Also where not even the package is there that it lies in."""

    def missing(name):
        if "." in name:
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(places, "find_spec", missing)
    with pytest.raises(Unavailable, match="not installed") as caught:
        open_sink(place_of(f"{scheme}://here/there", "--to"), tmp_path)
    assert caught.value.fix == f"pip install kilter[{scheme}]"


def test_two_words_for_one_engine():
    assert place_of("amqp://h:1/q?vhost=v", "--from") == place_of("rabbitmq://h:1/q?vhost=v", "--from")


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/t", "nats://127.0.0.1:1/t", "rabbitmq://127.0.0.1:1/t", "pubsub://project/t"]
)
def test_a_server_that_is_not_there_is_unavailable(url, tmp_path, monkeypatch):
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    with pytest.raises(Unavailable):
        open_sink(place_of(url, "--to"), tmp_path)
