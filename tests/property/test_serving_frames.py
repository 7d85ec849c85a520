"""Frames come out of a worker's buffer as they went in, however the socket cuts them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kilter.serving.workers.frames import Incoming, Reader, frame, framed, own, wide

FRAMES = st.lists(
    st.tuples(st.integers(1, 7), st.integers(0, 9), st.integers(0, 9), st.binary(max_size=300)), max_size=12
)


@given(FRAMES, st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(16, 400))
def test_frames_are_found_however_they_are_cut(frames, cuts, size):
    stream = b"".join(frame(*one) for one in frames)
    incoming, reader = Incoming(size), Reader()
    looked_at, copied = [], []
    start, turn = 0, 0
    while start < len(stream):
        room = incoming.room()
        assert len(room) > 0
        piece = stream[start : start + min(cuts[turn % len(cuts)], len(room))]
        room[: len(piece)] = piece
        del room
        looked_at += [(kind, ticket, rows, bytes(payload)) for kind, ticket, rows, payload in incoming.took(len(piece))]
        copied += list(reader.feed(piece))
        start, turn = start + len(piece), turn + 1
    assert looked_at == copied == frames


def test_a_long_frame_leaves_no_long_buffer():
    incoming, model = Incoming(64), frame(1, 0, 0, bytes(5000))
    found = []
    for start in range(0, len(model), 40):
        piece = model[start : start + 40]
        incoming.room()[: len(piece)] = piece
        found += [len(payload) for *_, payload in incoming.took(len(piece))]
    assert found == [5000]
    assert len(incoming.room()) == 64


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_a_frame_in_parts_is_the_frame(parts):
    assert b"".join(framed(3, 7, 2, parts)) == frame(3, 7, 2, b"".join(parts))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_a_matrix_is_widened_into_memory_of_its_own(values):
    single = bytearray(np.array(values, dtype="<f4").tobytes())
    expected = np.array(values, dtype="<f8").tobytes()
    whole = bytearray(expected)
    found, same = own(memoryview(single), len(values)), own(memoryview(whole), len(values))
    single[:] = bytes(len(single))  # the next frame comes
    whole[:] = bytes(len(whole))
    assert bytes(found) == bytes(same) == expected
    assert wide(np.array(values, dtype="<f4").view(np.uint8).data, len(values)) == expected
