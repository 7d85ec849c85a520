"""Brokers that the tests of streams talk to, and what they leave there taken away again."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import threading
from collections import OrderedDict
from contextlib import contextmanager

import pytest

AWS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
REGION = "eu-west-1"
RABBITMQ = os.environ.get("KILTER_TEST_RABBITMQ", "127.0.0.1:5672")


@contextmanager
def rabbitmq():
    """Give the address of the RabbitMQ server at its usual place, or skip the test."""
    aio_pika = pytest.importorskip("aio_pika")

    async def look():
        connection = await aio_pika.connect(f"amqp://guest:guest@{RABBITMQ}/", timeout=5)
        await connection.close()

    try:
        asyncio.run(look())
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError) as error:
        pytest.skip(f"no RabbitMQ answers at {RABBITMQ}: {error}")
    yield RABBITMQ


@contextmanager
def queues(server, streams=("in", "out", "out-dead"), groups=("g", "one", "other", "half", "watch", "reader")):
    """Give a prefix for the names of streams, and delete these and their groups' cursors at the end."""
    import aio_pika

    prefix = f"t{secrets.token_hex(4)}"
    yield prefix

    async def delete():
        async with await aio_pika.connect(f"amqp://guest:guest@{server}/", timeout=5) as connection:
            channel = await connection.channel()
            for stream in streams:
                await channel.queue_delete(f"{prefix}-{stream}")
                for group in groups:
                    await channel.queue_delete(f"kilter.cursor.{prefix}-{stream}.{group}")

    asyncio.run(delete())


def declare(server, queue, arguments):
    """Make a queue, in the place of one that is there."""
    import aio_pika

    async def make():
        async with await aio_pika.connect(f"amqp://guest:guest@{server}/", timeout=5) as connection:
            channel = await connection.channel()
            await channel.queue_delete(queue)
            await channel.declare_queue(queue, durable=True, arguments=arguments)

    asyncio.run(make())


@contextmanager
def line(server):
    """Give the address of a line to a server, and what cuts it."""
    host, _, port = server.partition(":")
    listening = socket.create_server(("127.0.0.1", 0))
    ends = []

    def carry(given, wanted):
        with contextlib.suppress(OSError):
            while found := given.recv(65536):
                wanted.sendall(found)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                here, _ = listening.accept()
                there = socket.create_connection((host, int(port)))
                ends.extend((here, there))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    def cut():
        for one in (listening, *ends):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", cut
    finally:
        cut()


def kinesis(endpoint, service="kinesis"):
    """Return a client of moto's server."""
    boto3 = pytest.importorskip("boto3")
    return boto3.client(service, region_name=REGION, endpoint_url=endpoint, aws_access_key_id="testing",
                        aws_secret_access_key="testing")  # fmt: skip


@contextmanager
def shards(endpoint, count=2, streams=("in", "out")):
    """Give a prefix for the names of streams of some shards, and delete them at the end."""
    client = kinesis(endpoint)
    prefix = f"t{secrets.token_hex(4)}"
    for stream in streams:
        client.create_stream(StreamName=f"{prefix}-{stream}", ShardCount=count)
    yield prefix
    for stream in streams:
        client.delete_stream(StreamName=f"{prefix}-{stream}")
    client.close()


@contextmanager
def resharding():
    """Let moto's shards be split and merged as Kinesis does it: records stay where they are, and a closed shard has an end."""
    from moto.kinesis import utils
    from moto.kinesis.models import KinesisBackend, Stream

    def for_key(self, partition_key, explicit_hash_key):
        place = int(hashlib.md5(partition_key.encode(), usedforsecurity=False).hexdigest(), 16)
        return next(
            one for one in self.shards.values() if one.is_open and one.starting_hash <= place <= one.ending_hash
        )

    def closing(change):
        def changed(self, *shards):
            kept = {name: self.shards[name].records for name in shards if name in self.shards}
            for name in kept:
                self.shards[name].records = OrderedDict()
            change(self, *shards)
            for name, records in kept.items():
                self.shards[name].records = records

        return changed

    read = KinesisBackend.get_records

    def get_records(self, stream_arn, shard_iterator, limit):
        following, records, behind = read(self, stream_arn, shard_iterator, limit)
        name, shard, last = utils.decompose_shard_iterator(following)
        shard = self.describe_stream(stream_arn=None, stream_name=name).get_shard(shard)
        is_over = not shard.is_open and int(last) >= shard.get_max_sequence_number()
        return None if is_over else following, records, behind

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "get_shard_for_key", for_key)
        patch.setattr(Stream, "split_shard", closing(Stream.split_shard))
        patch.setattr(Stream, "merge_shards", closing(Stream.merge_shards))
        patch.setattr(KinesisBackend, "get_records", get_records)
        yield
