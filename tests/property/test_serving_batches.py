"""Whatever comes, whenever workers take, answer, refuse or die: every question is told once, and gets its own rows."""

import math
from array import array

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kilter.serving.answering.batching import Backlog, Batch, Question


class Batching(RuleBasedStateMachine):
    """Callers, a backlog, and workers that echo the rows they are given."""

    def __init__(self):
        super().__init__()
        self.backlog = Backlog()
        self.flying = []
        self.asked = {}
        self.told = {}
        self.now = 0.0

    @rule(
        rows=st.integers(1, 40),
        urgency=st.integers(0, 7),
        wait=st.one_of(st.just(math.inf), st.floats(0, 60)),
        alone=st.booleans(),
    )
    def ask(self, rows, urgency, wait, alone):
        name = len(self.asked)
        self.asked[name] = [float(name * 1000 + row) for row in range(rows)]

        def done(values, outcome):
            assert name not in self.told
            self.told[name] = (outcome, array("d", values).tolist() if values is not None else None)

        payload = array("d", self.asked[name]).tobytes()
        self.backlog.add(Question(payload, rows, done, urgency, self.now + wait, alone=alone))

    @rule(most=st.integers(1, 16))
    def take(self, most):
        urgent = next((one.urgency for one in self.backlog if one.open), None)
        batch = self.backlog.take(most, self.now)
        assert batch.rows <= most
        if batch.slices:
            assert batch.slices[0].question.urgency == urgent
            assert len(batch.slices) == 1 or not any(one.question.alone for one in batch.slices)
            self.send(batch)

    def send(self, batch):
        self.flying.append((batch, b"".join(batch.parts())))

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 5))
    def answer(self, which):
        batch, sent = self.flying.pop(which % len(self.flying))
        batch.answer(sent)

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 5))
    def die(self, which):
        batch, _ = self.flying.pop(which % len(self.flying))
        batch.fail("died")

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 5))
    def refuse(self, which):
        batch, _ = self.flying.pop(which % len(self.flying))
        middle = len(batch.slices) // 2
        if not middle:
            batch.fail("refused")
            return
        for part in (batch.slices[:middle], batch.slices[middle:]):  # as a pool does, until the culprit stands alone
            half = Batch(part, self.now)
            if half.slices:
                self.send(half)

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds):
        self.now += seconds
        for question in self.backlog.late(self.now):
            assert question.due <= self.now
            question.close(None, "late")

    @rule(rows=st.integers(1, 50), urgency=st.integers(0, 7))
    def shed(self, rows, urgency):
        for question in self.backlog.shed(rows, urgency):
            assert question.urgency > urgency
            question.close(None, "shed")

    @invariant()
    def nobody_gets_the_rows_of_another(self):
        for name, (outcome, values) in self.told.items():
            assert values == (self.asked[name] if outcome == "answered" else None)

    def teardown(self):
        while self.flying:
            self.answer(0)
        while self.backlog.rows:
            self.take(7)
            while self.flying:
                self.answer(0)
        assert self.told.keys() == self.asked.keys()
        self.nobody_gets_the_rows_of_another()


TestBatching = Batching.TestCase
