"""Trace context in and out: which trace a request belongs to, and what is handed on.

What a client sends is taken only when it is whole and well-formed; anything else begins a new trace, or none, and is never an
error: tracing must not break what it watches. Source: W3C Trace Context (Recommendation of 23 November 2021), sections 3 and 4.
"""

from __future__ import annotations

import os
import re

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY = rb"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER = re.compile(rb"(?:" + _KEY + rb")=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MOST_MEMBERS = 32
_LONGEST_STATE = 512
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16
_SAMPLED = 1


class Context:
    """The place of one request in a trace.

    Args:
        trace: The trace: 32 hexadecimal digits.
        parent: The caller's span: 16 hexadecimal digits; empty when the trace begins here.
        span: The request's own span.
        sampled: Whether the caller, or this front for a trace that begins here, wants it recorded.
        state: What other systems handed along, as it came; may be empty.
    """

    __slots__ = ("parent", "sampled", "span", "state", "trace")

    def __init__(self, trace: str, parent: str, span: str, *, sampled: bool, state: bytes = b"") -> None:
        self.trace = trace
        self.parent = parent
        self.span = span
        self.sampled = sampled
        self.state = state

    def header(self) -> bytes:
        """Return the header lines that an answer carries, each ending in CRLF."""
        line = f"traceparent: 00-{self.trace}-{self.span}-{'01' if self.sampled else '00'}\r\n".encode()
        return line + b"tracestate: %b\r\n" % self.state if self.state else line


def parse(parent: bytes | None, state: bytes | None = None) -> Context | None:
    """Return the context that a caller sent, with a new span for the request; None when there is none that holds.

    Args:
        parent: The header ``traceparent``, or None.
        state: The header ``tracestate``, or None; without a good ``traceparent`` it counts for nothing.
    """
    if parent is None:
        return None
    found = _PARENT.fullmatch(parent.strip(b" \t"))
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    # Version 00 has exactly four fields; a later one may have more, and is read as far as it is known. ff is no version.
    if version == b"ff" or (version == b"00" and more) or trace == _NO_TRACE or span == _NO_SPAN:
        return None
    return Context(
        trace.decode(),
        span.decode(),
        os.urandom(8).hex(),
        sampled=bool(int(flags, 16) & _SAMPLED),
        state=_state(state) if state else b"",
    )


def begin(*, sampled: bool) -> Context:
    """Return the context of a trace that begins here."""
    return Context(os.urandom(16).hex(), "", os.urandom(8).hex(), sampled=sampled)


def _state(state: bytes) -> bytes:
    """Return a well-formed ``tracestate`` without empty members, else nothing; a broken one is dropped whole."""
    if len(state) > _LONGEST_STATE:
        return b""
    members = [member for part in state.split(b",") if (member := part.strip(b" \t"))]
    keys = [member.partition(b"=")[0] for member in members]
    if len(members) > _MOST_MEMBERS or len(set(keys)) < len(keys):
        return b""
    return b",".join(members) if all(map(_MEMBER.fullmatch, members)) else b""
