"""Thousands of schedules of crashes, duplicates, delays and people: no invariant breaks in any of them."""

import pytest

from kilter.loop.simulation.simulator import simulate

CHUNK = 320
CHUNKS = 32  # 10,240 schedules


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_invariant_breaks(chunk: int) -> None:
    marks: set[str] = set()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        trace = simulate(seed)
        assert trace.violation is None, trace.text()
        marks |= set(trace.marks)
    assert len(marks) == 9, "each chunk of schedules reaches every stage"
