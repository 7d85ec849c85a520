"""W3C trace context: what is taken, and what begins anew. Cases of the specification's own test suite."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.serving.telemetry.tracing import begin, parse

TRACE, SPAN = b"12345678901234567890123456789012", b"1234567890123456"
GOOD = b"00-" + TRACE + b"-" + SPAN + b"-01"


@pytest.mark.parametrize(
    ("parent", "trace"),
    [
        (GOOD, TRACE),
        (b" " + GOOD + b"\t", TRACE),
        (b"cc-" + TRACE + b"-" + SPAN + b"-01", TRACE),  # a later version is read as far as it is known
        (b"cc-" + TRACE + b"-" + SPAN + b"-01-what-the-future-brings", TRACE),
        (b"00-" + TRACE + b"-" + SPAN + b"-ff", TRACE),
        (b"cc-" + TRACE + b"-" + SPAN + b"-01.what", None),
        (GOOD + b"-", None),
        (GOOD + b".", None),
        (b"ff-" + TRACE + b"-" + SPAN + b"-01", None),
        (b"00-" + b"0" * 32 + b"-" + SPAN + b"-01", None),
        (b"00-" + TRACE + b"-" + b"0" * 16 + b"-01", None),
        (b"00-" + TRACE[:-1] + b"-" + SPAN + b"-01", None),
        (b"00-" + TRACE[:-1] + b"A-" + SPAN + b"-01", None),
        (b"00-" + TRACE + b"-" + SPAN + b"-1", None),
        (b"0-" + TRACE + b"-" + SPAN + b"-01", None),
        (b"", None),
        (None, None),
    ],
)
def test_what_is_whole_is_taken_and_the_rest_begins_anew(parent, trace):
    found = parse(parent)
    assert (found.trace.encode() if found else None) == trace


def test_the_flag_says_whether_it_is_sampled():
    assert parse(GOOD).sampled
    assert not parse(GOOD[:-2] + b"00").sampled
    assert parse(GOOD[:-2] + b"03").sampled  # other flags are passed over


def test_an_answer_carries_the_own_span():
    found = parse(GOOD, b"a=1")
    line = found.header()
    assert line == b"traceparent: 00-%b-%b-01\r\ntracestate: a=1\r\n" % (TRACE, found.span.encode())
    assert found.parent.encode() == SPAN != found.span.encode()


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (b"foo=1,bar=2", b"foo=1,bar=2"),
        (b"foo=1 \t , \t bar=2, \t", b"foo=1,bar=2"),
        (b"fw529a3039@dt=FfG,a-_*/=x", b"fw529a3039@dt=FfG,a-_*/=x"),
        (b"0t@v=1", b"0t@v=1"),
        (b"foo=1,foo=1", b""),
        (b"foo =1", b""),
        (b"FOO=1", b""),
        (b"foo.bar=1", b""),
        (b"foo@=1", b""),
        (b"@foo=1", b""),
        (b"foo@@bar=1", b""),
        (b"foo=", b""),
        (b"foo=a=b", b""),
        (b"foo", b""),
        (b"foo=\x00", b""),
        (b"foo=1\r\nset-cookie: a=b", b""),
        (",".join(f"bar{n:02d}=1" for n in range(32)).encode(), ",".join(f"bar{n:02d}=1" for n in range(32)).encode()),
        (",".join(f"bar{n:02d}=1" for n in range(33)).encode(), b""),
        (b"a=" + b"x" * 600, b""),
    ],
)
def test_a_broken_state_is_dropped_whole(state, kept):
    assert parse(GOOD, state).state == kept


def test_a_trace_that_begins_here_is_one_that_others_take():
    own = begin(sampled=True)
    found = parse(own.header().partition(b": ")[2].strip())
    assert (found.trace, found.parent, found.sampled) == (own.trace, own.span, True)


@given(st.binary(max_size=120), st.binary(max_size=600))
def test_no_bytes_break_it_or_leak_into_the_header(parent, state):
    for given_parent in (parent, GOOD):
        found = parse(given_parent, state)
        if found is not None:
            assert found.header().count(b"\r\n") == 1 + bool(found.state)
            assert found.header().endswith(b"\r\n")
