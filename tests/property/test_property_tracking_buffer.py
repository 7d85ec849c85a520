"""A buffer that is cut at any byte gives its whole records, and no other."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core.clock import SystemClock
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.tracking.columns import columns_of
from kilter.tracking.sdk.buffer import Buffer
from kilter.tracking.sdk.records import Params, Points, Start, decoded
from kilter.tracking.sdk.sync import sync_buffer
from kilter.tracking.service import RunService


def buffer(folder, store, points):
    start = Start(run="run_" + "1" * 20, store=str(store), at=datetime(2026, 1, 1, tzinfo=UTC), process=1)
    problems: list[Exception] = []
    made = Buffer(folder, start, problems.append)
    for place, (name, value) in enumerate(points):
        made.waiting.append((name, value, place, 1_772_323_200_000_000_000))
        if place % 3 == 2:
            made.flush()
    made.put(Params(values={"end": 1}))
    made.close()
    made.shelf.close()
    assert problems == []
    return folder / "log" / "00000000.log"


def test_every_cut_keeps_the_whole_records_and_only_those(tmp_path):
    points = [("a", 0.5), ("b", 1.5), ("a", float("inf")), ("b", 2.0), ("a", 3.0)]
    file = buffer(tmp_path / "whole", tmp_path / "store", points)
    data = file.read_bytes()
    whole = [payload for _, payload in Log.open(file.parent, readonly=True).read()]
    ends = []
    for payload in whole:
        ends.append((ends[-1] if ends else 0) + 12 + len(payload))
    assert ends[-1] == len(data)
    cut = tmp_path / "cut"
    for length in range(len(data) + 1):
        folder = cut / str(length)
        folder.mkdir(parents=True)
        (folder / "00000000.log").write_bytes(data[:length])
        log = Log.open(folder)  # as the process that sends what is left
        found = [payload for _, payload in log.read()]
        log.append(b"next")
        log.close()
        assert found == whole[: sum(end <= length for end in ends)]


@settings(max_examples=8, deadline=None)
@given(
    points=st.lists(st.tuples(st.sampled_from(["a", "b/c", "d"]), st.floats(allow_nan=False)), max_size=60),
    cut=st.floats(0, 1),
)
def test_what_survives_a_cut_arrives_once_however_often_it_is_sent(tmp_path_factory, points, cut):
    place = tmp_path_factory.mktemp("cut")
    file = buffer(place / "buffer" / "one", place / "store", points)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * cut)])
    kept: dict[str, list[tuple[int, float]]] = {}
    log = Log.open(file.parent, readonly=True)
    for _, payload in log.read():
        record = decoded(payload)
        if isinstance(record, Points):
            steps, values, _ = columns_of(record.data, sum(record.counts))
            begin = 0
            for name, count in zip(record.names, record.counts, strict=True):
                kept.setdefault(name, []).extend(
                    zip(steps[begin : begin + count].tolist(), values[begin : begin + count].tolist(), strict=True)
                )
                begin += count
    copy = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    head = (file.parent.parent / "start").read_bytes()
    assert sync_buffer(file.parent.parent).state == "sent"
    file.parent.mkdir(parents=True)  # the process that sent it died before it could take it away
    for name, content in copy.items():
        (file.parent / name).write_bytes(content)
    (file.parent.parent / "start").write_bytes(head)
    assert sync_buffer(file.parent.parent).state == "sent"
    database = Database.open(f"sqlite:///{place / 'store' / 'kilter.db'}")
    runs = RunService(database, ObjectStore.open(str(place / "store" / "objects")), SystemClock())
    run = runs.get("run_" + "1" * 20)
    assert {metric.name for metric in run.metrics} == set(kept)
    for name, expected in kept.items():
        assert [(point.step, point.number) for point in runs.metrics(run.id, name)] == sorted(expected)
    database.close()
