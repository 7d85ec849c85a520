import math
from array import array

import pytest

from kilter.serving.answering.batching import NORMAL, Backlog, Batch, Pace, Question


class Told(list):
    """What questions were told: outcome, and the answers as numbers."""

    def ask(self, name, rows, urgency=NORMAL, due=math.inf, *, alone=False):
        payload = array("d", [float(name * 100 + row) for row in range(rows)]).tobytes()

        def done(values, outcome):
            self.append((name, outcome, array("d", values).tolist() if values is not None else None))

        return Question(payload, rows, done, urgency, due, alone=alone)


def names(batch):
    return [(array("d", bytes(one.matrix())).tolist()) for one in batch.slices]


def test_urgent_rows_go_first_then_in_order_up_to_the_bound():
    told, backlog = Told(), Backlog()
    for name, urgency in ((1, 3), (2, 7), (3, 0), (4, 3)):
        backlog.add(told.ask(name, 2, urgency))
    assert backlog.rows == 8
    assert backlog.ahead(3) == 6
    assert names(backlog.take(5, 0.0)) == [[300.0, 301.0], [100.0, 101.0], [400.0]]
    assert names(backlog.take(5, 0.0)) == [[401.0], [200.0, 201.0]]
    assert backlog.rows == 0
    assert backlog.take(5, 0.0).slices == []


def test_a_question_larger_than_the_bound_is_cut_and_put_together_again_in_any_order():
    told, backlog = Told(), Backlog()
    backlog.add(told.ask(1, 7))
    batches = [backlog.take(3, 0.0) for _ in range(3)]
    assert [batch.rows for batch in batches] == [3, 3, 1]
    for batch in reversed(batches):
        values = array("d", b"".join(batch.parts()))
        batch.answer(array("d", [x for value in values for x in (value, -value)]).tobytes())  # two outputs per row
    rows = [float(100 + row) for row in range(7)]
    assert told == [(1, "answered", [x for row in rows for x in (row, -row)])]


def test_when_a_slice_fails_the_question_is_told_once_and_its_rest_is_not_asked():
    told, backlog = Told(), Backlog()
    backlog.add(told.ask(1, 5))
    backlog.add(told.ask(2, 1))
    first, second = backlog.take(2, 0.0), backlog.take(2, 0.0)
    first.fail("died")
    second.answer(b"".join(second.parts()))
    assert names(backlog.take(2, 0.0)) == [[200.0]]
    assert told == [(1, "died", None)]
    assert backlog.rows == 0


def test_what_is_late_is_taken_out_and_what_a_worker_has_begun_is_finished():
    told, backlog = Told(), Backlog()
    backlog.add(told.ask(1, 4, due=1.0))
    backlog.take(2, 0.0)
    backlog.add(told.ask(2, 1, due=1.0))
    backlog.add(told.ask(3, 1, due=2.0))
    assert backlog.late(0.9) == []
    assert [question.rows for question in backlog.late(1.0)] == [1]
    assert backlog.rows == 3
    assert [len(backlog.late(now)) for now in (1.5, 2.0)] == [0, 1]
    assert names(backlog.take(9, 3.0)) == [[102.0, 103.0]]


def test_the_least_urgent_and_newest_give_way_first():
    told, backlog = Told(), Backlog()
    kept = [told.ask(1, 2, 3), told.ask(2, 2, 6), told.ask(3, 2, 7), told.ask(4, 2, 7)]
    for question in kept:
        backlog.add(question)
    assert backlog.shed(3, 3) == [kept[3], kept[2]]
    assert backlog.shed(3, 3) == [kept[1]]
    assert backlog.shed(1, 3) == []
    assert backlog.rows == 2


def test_rows_that_may_be_a_workers_death_share_no_batch():
    told, backlog = Told(), Backlog()
    backlog.add(told.ask(1, 1))
    backlog.add(told.ask(2, 1, alone=True))
    backlog.add(told.ask(3, 1))
    batches = [backlog.take(9, 0.0) for _ in range(3)]
    assert [names(batch) for batch in batches] == [[[100.0]], [[200.0]], [[300.0]]]
    assert [batch.alone for batch in batches] == [False, True, False]


def test_a_batch_gives_every_question_its_own_rows():
    told, backlog = Told(), Backlog()
    for name in (1, 2, 3):
        backlog.add(told.ask(name, name))
    batch = backlog.take(100, 0.0)
    batch.answer(b"".join(batch.parts()))
    assert told == [(name, "answered", [float(name * 100 + row) for row in range(name)]) for name in (1, 2, 3)]
    assert Batch([], 0.0).rows == 0


@pytest.mark.parametrize(("fixed", "each"), [(0.005, 0.0), (0.0, 0.001), (0.005, 0.0002), (0.1, 0.01)])
def test_the_pace_finds_what_a_batch_and_a_row_cost(fixed, each):
    pace = Pace(1024, 0.1)
    assert pace.seconds(1000) == 0.0
    for number in range(200):
        rows = 1 + number % 32
        pace.observe(rows, fixed + each * rows)
    assert pace.fixed == pytest.approx(fixed, abs=2e-3)
    assert pace.each == pytest.approx(each, abs=1e-4)
    assert pace.most == (1024 if each * 1024 <= 0.1 else pytest.approx(max(0.1 / each, 8), abs=1))
    assert pace.seconds(64) == pytest.approx(-(-64 // pace.most) * fixed + 64 * each, rel=0.2)


def test_batches_that_are_alike_say_nothing_about_a_row():
    pace = Pace(1024, 0.1)
    for _ in range(50):
        pace.observe(4, 0.02)
    assert (pace.fixed, pace.each, pace.most) == (pytest.approx(0.02), 0.0, 1024)


def test_float32_beside_float64_becomes_float64():
    backlog = Backlog()
    for code in "fdf":
        backlog.add(Question(array(code, [0.5, 1.25, -2.0, math.pi]).tobytes(), 2, lambda *_: None))
    narrow = array("f", [math.pi])[0]
    assert array("d", b"".join(backlog.take(6, 0.0).parts())).tolist() == [
        0.5,
        1.25,
        -2.0,
        narrow,
        0.5,
        1.25,
        -2.0,
        math.pi,
        0.5,
        1.25,
        -2.0,
        narrow,
    ]
    backlog.add(Question(array("f", [0.5, 1.25]).tobytes(), 1, lambda *_: None))
    backlog.add(Question(array("f", [2.5, 3.25]).tobytes(), 1, lambda *_: None))
    assert array("f", b"".join(backlog.take(6, 0.0).parts())).tolist() == [0.5, 1.25, 2.5, 3.25]


def test_while_a_row_s_cost_is_not_known_a_batch_is_no_longer_than_it_was_wont_to_be():
    pace = Pace(4096, 0.1)
    assert pace.most == 1024
    for _ in range(20):
        pace.observe(1, 0.02)  # a row, or the call?
    assert pace.most == 1024
    for rows in (1, 900, 30, 1000, 400) * 20:
        pace.observe(rows, 0.001 + 1e-6 * rows)
    assert pace.most == 4096
    assert Pace(7, 0.1).most == 7
