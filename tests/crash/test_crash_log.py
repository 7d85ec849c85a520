"""A writer that is killed loses nothing that append had returned for, and a reader beside it sees no half record."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from kilter.engines.streams.log import Log

WRITER = """
import os, sys, zlib
from kilter.engines.streams.log import Log

log = Log.open(sys.argv[1], segment_bytes=20_000)
number = int(sys.argv[2])
while True:
    payload = b"%d:" % number + os.urandom(number % 3000)
    payload += b":%d" % zlib.crc32(payload)
    position = log.append(payload)
    os.write(1, b"%d %d\\n" % (number, position))
    number += 1
"""


def checked(payload):
    import zlib

    body, _, checksum = payload.rpartition(b":")
    assert zlib.crc32(body) == int(checksum)
    return int(body.split(b":", 1)[0])


@pytest.mark.crash
def test_kill_9_loses_no_record_that_was_acknowledged(tmp_path):
    rng = random.Random(7)
    acknowledged: dict[int, int] = {}
    reader = Log.open(tmp_path, readonly=True)
    seen, numbers = -1, []
    next_number = 0
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(next_number)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        until = time.monotonic() + rng.uniform(0.01, 0.12)
        while time.monotonic() < until:
            for position, payload in reader.read(after=seen):
                numbers.append(checked(payload))
                seen = position
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read()
        writer.wait()
        writer.stdout.close()
        for line in (first + rest).split(b"\n")[:-1]:
            number, position = line.split()
            acknowledged[int(number)] = int(position)
        for position, payload in reader.read(after=seen):
            numbers.append(checked(payload))
            seen = position
        next_number = numbers[-1] + 1
    assert numbers == list(range(len(numbers)))
    assert set(acknowledged) <= set(numbers)
    log = Log.open(tmp_path)
    found = {position: checked(payload) for position, payload in log.read()}
    assert all(found[position] == number for number, position in acknowledged.items())
    assert len(acknowledged) > 100
