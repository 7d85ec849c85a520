"""A stream scorer is killed again and again: every message has one answer or one dead letter, every answer one record.

``KILTER_KILLS=100 pytest tests/crash/test_stream_killed.py`` kills more often; each time messages come while nobody reads.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.streams.log import Log
from kilter.engines.streams.places import open_sink, open_source, place_of
from kilter.engines.streams.port import Outgoing
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant
from kilter.serving.recording.predictions import PredictionLog
from kilter.testing.streams import broker, kafka_cluster

from ..contract import brokers, pubsub_emulator  # noqa: TID252 - the same brokers

KILLS = int(os.environ.get("KILTER_KILLS", "1"))
PER_LIFE = 1_500

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120 + 20 * KILLS)]

_SLOW = ["kinesis to pubsub", "pubsub to kinesis"]
ENGINES = ["log to kafka", "kafka to redis", "redis to nats", "nats to log", "log to rabbitmq", "rabbitmq to log",
           *(pytest.param(one, marks=pytest.mark.slow) for one in _SLOW)]  # fmt: skip
"""Every engine is read once and written once."""


@pytest.fixture
def kafka():
    with kafka_cluster() as address:
        yield f"kafka://{address}/{{}}"


@pytest.fixture
def redis(tmp_path_factory):
    with broker("redis-server", tmp_path_factory.mktemp("redis")) as address:
        yield f"redis://{address}/{{}}"


@pytest.fixture
def nats(tmp_path_factory):
    with broker("nats-server", tmp_path_factory.mktemp("nats")) as address:
        yield f"nats://{address}/{{}}"


@pytest.fixture
def rabbitmq():
    with brokers.rabbitmq() as address, brokers.queues(address) as prefix:
        yield f"rabbitmq://{address}/{prefix}-{{}}"


@pytest.fixture
def kinesis(s3_server, monkeypatch):
    for name, value in brokers.AWS.items():
        monkeypatch.setenv(name, value)
    with brokers.shards(s3_server, streams=("in", "out", "out-dead")) as prefix:
        yield f"kinesis://{brokers.REGION}/{prefix}-{{}}?endpoint={s3_server}"


@pytest.fixture
def pubsub(monkeypatch):
    with pubsub_emulator.pubsub() as (_, address):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
        yield "pubsub://tests/{}?settle=1"


@pytest.mark.parametrize("engines", ENGINES)
def test_killed_again_and_again(engines, tmp_path, request):
    given, _, wanted = engines.partition(" to ")
    pattern, target = ("log:{}" if one == "log" else request.getfixturevalue(one) for one in (given, wanted))
    workspace = Workspace.open(tmp_path)
    folder = tmp_path / "log" / "streams"
    bundle = package(
        Constant(0.5),
        Encoding(("x",), ("numeric",), {}),
        np.zeros((1, 1)),
        [],
        workspace.objects,
        table=Table("t", "id", "at"),
    )
    workspace.models.register("half", bundle.digest, "run", "spec", "data", "test")
    source = pattern.format("in") + {"kafka": "?partitions=all", "pubsub": "&lease=10"}.get(given, "")
    arguments = [sys.executable, "-m", "kilter.cli.main", "stream", "half@v1", "--store", str(tmp_path), "--from", source,
                 "--to", target.format("out"), "--batch", "40"]  # fmt: skip
    chance = random.Random(engines)
    sent = itertools.count()

    def feed(count):
        sink = open_sink(place_of(pattern.format("in"), "--to"), folder)
        rows = [{"id": f"m{next(sent)}", "at": 0, "x": 1.0} for _ in range(count)]
        for row in rows[::97]:
            del row["x"]  # a dead letter
        sink.send([Outgoing("", row["id"].encode(), json.dumps(row).encode()) for row in rows])
        sink.flush()
        sink.close()

    feed(PER_LIFE)
    open_sink(place_of(target.format("out"), "--to"), folder).close()
    answered, close = _counter(place_of(target.format("out"), "--to"), folder)
    for _ in range(KILLS):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        goal = answered() + chance.randrange(1, PER_LIFE - 100)
        end = time.monotonic() + 60
        while (now := answered()) < goal:
            assert process.poll() is None, "the scorer ended"
            assert time.monotonic() < end, f"{now} of {goal}"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        feed(PER_LIFE)
    close()
    subprocess.run([*arguments, "--batch", "1000", "--drain"], check=True, stdout=subprocess.DEVNULL)
    total = next(sent)
    made = [json.loads(one.value)["key"] for one in _messages(place_of(target.format("out"), "--to"), folder)]
    dead = _messages(place_of(target.format("out-dead"), "--to"), folder)
    assert sorted(made + [json.loads(one.value)["id"] for one in dead]) == sorted(f"m{n}" for n in range(total))
    assert len(dead) == sum(len(range(0, PER_LIFE, 97)) for _ in range(KILLS + 1))
    assert {one.reason for one in dead} == {"x: the column is missing"}
    log = PredictionLog.open(workspace.prediction_logs(), "stream_half")
    assert sorted(key for _, record in log.read() for key in record.keys) == sorted(made)
    log.close()
    workspace.close()


def _counter(place, folder):
    """Return what counts the messages of a stream, and what ends it."""
    if place.scheme == "log":
        log = Log.open(folder / place.name, readonly=True)
        counted, last = 0, -1

        def count():
            nonlocal counted, last
            for position, _ in log.read(last):
                counted, last = counted + 1, position
            return counted

        return count, log.close
    source = _reader(place, "watch", folder)
    if place.scheme not in {"kinesis", "pubsub"}:
        return source.lag, source.close
    come = 0

    def taken():  # their lag is counted up to a bound
        nonlocal come
        come += len(source.take(10_000, 0.0).messages)
        return come

    return taken, source.close


def _messages(place, folder):
    source = _reader(place, "reader", folder)
    found, idle = [], 0
    while idle < 2:
        taken = source.take(10_000, 0.1)
        found += taken.messages
        idle = 0 if taken.messages or source.lag() else idle + 1
    source.close()
    return found


def _reader(place, group, folder):
    options = {"partitions": "all"} if place.scheme == "kafka" else {}
    return open_source(place._replace(options=place.options | options), group, str, folder)
