"""A writer and a remover are killed at any moment: what is kept is whole and in order, and what is gone has expired."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from kilter.core.errors import Expired
from kilter.engines.streams.log import Log

WRITER = """
import os, sys
from kilter.engines.streams.log import Log

log = Log.open(sys.argv[1], segment_bytes=4_000)
number = int(sys.argv[2])
while True:
    position = log.append(b"%d:" % number + bytes(number % 900))
    os.write(1, b"%d %d\\n" % (number, position))
    number += 1
"""

REMOVER = """
import sys
from kilter.engines.streams.log import Log

log = Log.open(sys.argv[1], readonly=True)
while True:
    closed = [one.number for one in log.segments() if one.closed]
    if len(closed) > 1:
        log.remove(closed[-2])
"""


@pytest.mark.crash
def test_kill_9_while_segments_are_removed_loses_nothing_that_is_kept(tmp_path):
    rng = random.Random(11)
    acknowledged: dict[int, int] = {}
    number = 0
    removed = 0
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        remover = subprocess.Popen([sys.executable, "-c", REMOVER, str(tmp_path)])
        time.sleep(rng.uniform(0.1, 0.25))
        for process in rng.sample((writer, remover), 2):
            os.kill(process.pid, signal.SIGKILL)
        rest = writer.stdout.read()
        writer.wait()
        remover.wait()
        writer.stdout.close()
        for line in (first + rest).split(b"\n")[:-1]:
            told, position = map(int, line.split())
            acknowledged[told] = position
        reader = Log.open(tmp_path, readonly=True)
        found = {int(payload.partition(b":")[0]): position for position, payload in reader.read()}
        assert sorted(found) == list(range(min(found), max(found) + 1))
        assert all(found[told] == position for told, position in acknowledged.items() if told in found)
        assert max(found) >= max(acknowledged)
        begin = reader.begin()
        assert min(found.values()) > begin.removed
        for told in rng.sample(sorted(acknowledged), 20):
            if told not in found:
                with pytest.raises(Expired):
                    reader.get(acknowledged[told])
        removed = begin.segment
        number = max(found) + 1
    assert removed > 20
    Log.open(tmp_path).close()
    assert min(int(path.stem) for path in tmp_path.glob("*.log")) == removed
