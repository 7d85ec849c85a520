"""A stream scorer is killed again and again: every message has one answer, every answer one record."""

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
from kilter.engines.streams.places import open_sink, open_source, place_of
from kilter.engines.streams.port import Outgoing
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant
from kilter.serving.recording.predictions import PredictionLog

KILLS = int(os.environ.get("KILTER_KILLS", "3"))
PER_LIFE = 1_500

pytestmark = [pytest.mark.crash, pytest.mark.timeout(1200)]


@pytest.fixture
def kafka():
    producer = pytest.importorskip("confluent_kafka").Producer(
        {"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0}
    )
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    del producer


@pytest.mark.parametrize("engine", ["log", "kafka", "kafka to log"])
def test_killed_again_and_again(engine, tmp_path, request):
    address = "log:{}" if engine == "log" else f"kafka://{request.getfixturevalue('kafka')}/{{}}"
    target = "log:{}" if engine.endswith("log") else address
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
    options = "?partitions=all" if engine.startswith("kafka") else ""
    arguments = [sys.executable, "-m", "kilter.cli.main", "stream", "half@v1", "--store", str(tmp_path), "--from",
                 address.format("in") + options, "--to", target.format("out"), "--batch", "40"]  # fmt: skip
    chance = random.Random(engine)
    sent = itertools.count()

    def feed(count):
        sink = open_sink(place_of(address.format("in"), "--to"), folder)
        rows = [{"id": f"m{next(sent)}", "at": 0, "x": 1.0} for _ in range(count)]
        for row in rows[::97]:
            del row["x"]  # a dead letter
        sink.send([Outgoing("", row["id"].encode(), json.dumps(row).encode()) for row in rows])
        sink.flush()
        sink.close()

    feed(PER_LIFE)
    watched = place_of(target.format("out"), "--to")
    for _ in range(KILLS):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        answered = _answers(watched, folder)
        before = answered()
        goal = before + chance.randrange(1, PER_LIFE - 100)
        end = time.monotonic() + 60
        while answered() < goal:
            assert process.poll() is None, "the scorer ended"
            assert time.monotonic() < end, f"{answered()} of {goal}"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        feed(PER_LIFE)
    subprocess.run([*arguments, "--drain"], check=True, stdout=subprocess.DEVNULL)
    total = next(sent)
    made = _values(watched, folder)
    dead = _values(watched.sibling("-dead"), folder)
    keys = sorted([one["key"] for one in made] + [one["id"] for one in dead])
    assert keys == sorted(f"m{n}" for n in range(total))
    log = PredictionLog.open(workspace.prediction_logs(), "stream_half")
    recorded = [key for _, record in log.read() for key in record.keys]
    assert sorted(recorded) == sorted(one["key"] for one in made)
    log.close()
    workspace.close()


def _answers(place, folder):
    """Return a function that counts what was written so far."""
    if place.scheme == "log":
        from kilter.engines.streams.log import Log

        log = Log.open(folder / place.name, readonly=True)
        counted = [0, -1]

        def count():
            for position, _ in log.read(counted[1]):
                counted[0] += 1
                counted[1] = position
            return counted[0]

        return count
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": place.servers, "group.id": "watch", "log_level": 0})
    open_sink(place, folder).close()  # waits until the topic is there
    partitions = list(consumer.list_topics(place.name, timeout=10).topics[place.name].partitions)
    return lambda: sum(
        consumer.get_watermark_offsets(TopicPartition(place.name, one), timeout=10)[1] for one in partitions
    )


def _values(place, folder):
    options = {"partitions": "all"} if place.scheme == "kafka" else {}
    source = open_source(place._replace(options=options), "reader", str, folder)
    found = []
    while True:
        taken = source.take(10_000, 1.0)
        found += [json.loads(one.value) for one in taken.messages]
        if not taken.messages and source.lag() == 0:
            break
    source.close()
    return found
