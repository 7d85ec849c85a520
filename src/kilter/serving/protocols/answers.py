"""Answers in the forms that protocols share: JSON lists, CSV and NumPy."""

from __future__ import annotations

import io
from typing import Final

import numpy as np

from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import JSON, Request
from kilter.serving.protocols.bodies import CSV, NPY
from kilter.serving.protocols.calls import send

_TEXT: Final = b"text/csv; charset=utf-8"


def listed(answer: Answer) -> str:
    """Return the answers as a JSON list: a number per row, or a list where there are several outputs."""
    values, width = answer.values, answer.width
    if width == 1:
        return f"[{','.join(map(repr, values))}]"
    rows = [",".join(map(repr, values[at : at + width])) for at in range(0, len(values), width)]
    return f"[{','.join([f'[{row}]' for row in rows])}]"


def respond(request: Request, answer: Answer, wrap: str = '{{"predictions":{0}}}', headers: bytes = b"") -> None:
    """Answer in the form that the client accepts, JSON unless it asks for CSV or NumPy.

    Args:
        request: What is answered.
        answer: The answer.
        wrap: The JSON around the list; ``{0}`` is its place.
        headers: More header lines, each ending in CRLF.
    """
    accepts = request.headers.get(b"accept", b"").partition(b",")[0].partition(b";")[0].strip().lower()
    if accepts == CSV:
        send(request, answer, _csv(answer), _TEXT, headers)
    elif accepts in NPY:
        send(request, answer, _npy(answer), accepts, headers)
    else:
        send(request, answer, wrap.format(listed(answer)).encode(), JSON, headers)


def _csv(answer: Answer) -> bytes:
    values, width = answer.values, answer.width
    lines = [",".join(map(repr, values[at : at + width])) for at in range(0, len(values), width)]
    return "\n".join([*lines, ""]).encode()


def _npy(answer: Answer) -> bytes:
    held = np.array(answer.values, dtype="<f8").reshape(answer.rows, answer.width)
    stream = io.BytesIO()
    np.save(stream, held[:, 0] if answer.width == 1 else held, allow_pickle=False)
    return stream.getvalue()
