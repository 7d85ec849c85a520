"""The rules of how many workers, which models stay, and which answers are kept."""

import os
from array import array

import pytest

from kilter.serving.answering.cache import Cache
from kilter.serving.records import TrafficPlan
from kilter.serving.rules import at_rest
from kilter.serving.workers.memory import Held, guessed, held_by, measurable, to_evict
from kilter.serving.workers.scaling import Seen, Trend, wanted


def follow(loads, least=1, most=8, step=0.05):
    """Return how many workers there were at the end of each second of a load, in busy workers."""
    workers, trend, now, found = least, Trend(), 0.0, []
    for load in loads:
        for _ in range(round(1 / step)):
            now += step
            workers, trend = wanted(Seen(workers, 0, min(load / workers, 1.0)), trend, least, most, now)
        found.append(workers)
    return found


def test_workers_follow_a_load_up_within_seconds_and_down_slowly():
    up = follow([6.0] * 8)
    assert up[0] == 1
    assert up[-1] == 8
    assert follow([6.0] * 8 + [0.2] * 20)[-1] == 8
    assert follow([6.0] * 8 + [0.2] * 400)[-1] == 1
    assert follow([100.0] * 20, most=3)[-1] == 3


@pytest.mark.parametrize("load", [0.1, 0.7, 0.9, 1.3, 2.2, 3.1, 4.9])
def test_under_a_steady_load_the_number_settles(load):
    assert len(set(follow([load] * 300)[60:])) == 1


def test_nothing_changes_while_a_worker_starts_and_limits_hold_at_once():
    assert wanted(Seen(2, 1, 1.0), Trend(high=0.0), 1, 8, 100.0) == (2, Trend())
    assert wanted(Seen(0, 0, 0.0), Trend(), 2, 8, 0.0)[0] == 2
    assert wanted(Seen(9, 0, 1.0), Trend(), 2, 8, 0.0)[0] == 8


def test_a_spike_shorter_than_a_second_starts_no_worker():
    workers, trend = wanted(Seen(1, 0, 1.0), Trend(), 1, 8, 0.0)
    workers, trend = wanted(Seen(workers, 0, 1.0), trend, 1, 8, 0.9)
    workers, trend = wanted(Seen(workers, 0, 0.3), trend, 1, 8, 0.95)
    assert wanted(Seen(workers, 0, 1.0), trend, 1, 8, 1.5)[0] == 1


def test_the_least_recently_used_model_goes_and_never_one_of_a_release():
    held = [Held("a", 40, 1.0, True), Held("b", 30, 3.0, False), Held("c", 20, 2.0, False), Held("d", 10, 9.9, False)]
    assert to_evict(held, 0, 100, 10.0, 1.0) == ((), True)
    assert to_evict(held, 10, 100, 10.0, 1.0) == (("c",), True)
    assert to_evict(held, 25, 100, 10.0, 1.0) == (("c", "b"), True)
    assert to_evict(held, 55, 100, 10.0, 1.0) == (("c", "b"), False)
    assert to_evict(held, 55, 100, 10.0, 0.0) == (("c", "b", "d"), True)
    assert to_evict(held, 100, 100, 10.0, 0.0) == (("c", "b", "d"), False)


def test_only_an_endpoint_at_rest_may_sleep():
    assert at_rest(TrafficPlan(loop="late", champion=1))
    assert not at_rest(TrafficPlan(loop="late", champion=2, warm=(1,)))
    assert not at_rest(TrafficPlan(loop="late", champion=1, challenger=2, mode="shadow"))
    assert not at_rest(TrafficPlan(loop="late", champion=1, challenger=2, mode="canary", share=5))


@pytest.mark.skipif(not measurable(), reason="there is no /proc")
def test_what_a_process_holds_is_read_from_the_kernel():
    assert 1 << 20 < held_by(os.getpid()) < 64 << 30
    assert held_by(2**22 + 1) == 0
    assert guessed(1 << 20, 2) == 2 * guessed(1 << 20, 1) > 2 << 20


class Model:
    """Answers each row of two numbers with its sum and difference, and counts."""

    def __init__(self):
        self.asked = []

    def __call__(self, payload, rows, done):
        held = array("d", payload)
        self.asked.append(rows)
        pairs = [(held[2 * row], held[2 * row + 1]) for row in range(rows)]
        done(array("d", [x for a, b in pairs for x in (a + b, a - b)]).tobytes(), "answered")


def asked(cache, model, rows, digest="one"):
    found = []
    payload = array("d", [x for row in rows for x in row]).tobytes()
    cache.ask(digest, payload, len(rows), lambda values, outcome: found.append((values, outcome)), model)
    ((values, outcome),) = found
    return array("d", values).tolist() if values is not None else outcome


def test_only_rows_that_are_not_known_are_asked_for():
    cache, model = Cache(1 << 20), Model()
    assert asked(cache, model, [(1, 2), (3, 4)]) == [3, -1, 7, -1]
    assert asked(cache, model, [(5, 1), (3, 4), (1, 2), (5, 1)]) == [6, 4, 7, -1, 3, -1, 6, 4]
    assert model.asked == [2, 2]
    assert asked(cache, model, [(1, 2)]) == [3, -1]
    assert (model.asked, cache.hits, cache.misses, len(cache)) == ([2, 2], 3, 4, 3)


def test_another_version_knows_nothing_and_a_failure_is_not_kept():
    cache, model = Cache(1 << 20), Model()
    asked(cache, model, [(1, 2)])
    asked(cache, model, [(1, 2)], "two")
    assert model.asked == [1, 1]
    assert asked(cache, lambda _payload, _rows, done: done(None, "died"), [(8, 8)]) == "died"
    assert asked(cache, model, [(8, 8)]) == [16, 0]


def test_what_was_not_used_for_longest_is_dropped_at_the_bound():
    cache, model = Cache(3 * (16 + 16 + 250)), Model()
    for row in ((1, 1), (2, 2), (3, 3), (1, 1), (4, 4)):
        asked(cache, model, [row])
    assert (len(cache), cache.bytes) == (3, cache.most)
    model.asked.clear()
    asked(cache, model, [(1, 1), (3, 3), (4, 4)])
    assert model.asked == []
    asked(cache, model, [(2, 2)])
    assert model.asked == [1]
    tiny = Cache(10)
    asked(tiny, model, [(1, 1)])
    assert (len(tiny), tiny.bytes) == (0, 0)
