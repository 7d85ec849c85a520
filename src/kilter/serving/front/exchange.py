"""What a protocol hands in, and what it gets back: a call and its answer, or an explanation in place of one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import msgspec

from kilter.core.errors import KilterError
from kilter.packaging.records import Signature
from kilter.serving.answering.admission import PLAIN, Terms
from kilter.serving.recording.predictions import prediction_id
from kilter.serving.records import PredictionBatch, common
from kilter.serving.telemetry.tracing import Context


class Answer(msgspec.Struct, eq=False):
    """The answer to one request.

    Args:
        front: The front's name.
        position: The position of the record that holds it.
        start: The request's first row in the record.
        rows: How many rows it has.
        batch: The record.
        signature: What the version that was asked takes and gives; None for the constant alone.
    """

    front: str
    position: int
    start: int
    rows: int
    batch: PredictionBatch
    signature: Signature | None

    @property
    def width(self) -> int:
        """How many outputs a row has."""
        return self.batch.width

    @property
    def values(self) -> Sequence[float]:
        """The outputs, row-major: rows x ``width``."""
        held, width = self.batch.values, self.batch.width
        if len(held) == self.rows * width:
            return held
        return held[self.start * width : (self.start + self.rows) * width]

    @property
    def versions(self) -> Sequence[int]:
        """Per row the version that answered; 0 for the constant."""
        return self.batch.versions[self.start : self.start + self.rows]

    @property
    def arms(self) -> Sequence[str]:
        """Per row who answered."""
        return self.batch.arms[self.start : self.start + self.rows]

    @property
    def version(self) -> str:
        """The version that answered, as text; empty when several did."""
        one = common(self.batch.versions, self.start, self.rows)
        return "" if one is None else str(one)

    def id(self, row: int) -> str:
        """Return the id of a row's prediction."""
        return prediction_id(self.front, self.position, self.start + row)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        signature = self.signature
        return signature.outputs if signature is not None and len(signature.outputs) == self.width else ("value",)


class Explanation:
    """What each input adds to the answers.

    Args:
        version: Whose answers.
        signature: What it takes and gives.
        values: float64, rows x outputs x (columns + 1), the last of them what no column adds.
    """

    __slots__ = ("signature", "values", "version")

    def __init__(self, version: int, signature: Signature, values: bytes) -> None:
        self.version = version
        self.signature = signature
        self.values = array("d", values)


class Call(msgspec.Struct, eq=False):
    """Who asks, how, and where the answer goes.

    Args:
        arrived: When the request arrived, on the loop's clock.
        answer: Takes the answer.
        fail: Takes the error instead.
        version: The one version that is to answer; None lets the router decide.
        route: The key by which the request is routed as a whole; empty leaves that to its rows.
        client: Who asks, as the reception knows the caller.
        agent: The caller's User-Agent.
        protocol: The protocol that it speaks.
        context: The request's place in a trace, or None.
        key: Its Idempotency-Key, or empty.
        body: The fingerprint of its body, when it has such a key.
        terms: How urgent it is, and how long it may take.
    """

    arrived: float
    answer: Callable[[Answer], None]
    fail: Callable[[KilterError], None]
    version: int | None = None
    route: str = ""
    client: str = ""
    agent: bytes = b""
    protocol: str = ""
    context: Context | None = None
    key: str = ""
    body: bytes = b""
    terms: Terms = PLAIN
