"""The words of serving: the plan of an endpoint, what was answered, and how the endpoint is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar, overload

import msgspec

T = TypeVar("T")
Mode = Literal["solo", "shadow", "canary", "split"]
Arm = Literal["champion", "challenger", "fallback", "direct"]
Scalar = float | int | str | bool | None

CONSTANT = 0
"""The version of an answer that no model gave: the endpoint's constant."""


class TrafficPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint is to do.

    Args:
        loop: The endpoint's name.
        champion: The version that answers; None lets the constant answer everything.
        challenger: The version under proof, or None.
        mode: ``solo``, ``shadow`` (the challenger scores copies), ``canary`` (it answers a share) or ``split`` (the arms
            of an experiment answer).
        share: The challenger's share of traffic in per cent; 0 unless ``canary``.
        warm: Versions that stay loaded without traffic; they answer when the champion can't.
        bundles: The bundle's digest of every version named above.
        fallback: The constant that answers when no model can, or None.
        spec: Digest of the declaration behind this plan.
        generation: Counts the plans of the endpoint; given by ``set_plan``.
        split: In mode ``split`` the share of each arm's version, above 0 and together 1; the champion is one of them.
        experiment: What the split is for: each experiment deals the keys anew.
        rehearsed: A version whose return is rehearsed: the plan is taken up once it has answered a row.
    """

    loop: str
    champion: int | None
    challenger: int | None = None
    mode: Mode = "solo"
    share: int = 0
    warm: tuple[int, ...] = ()
    bundles: dict[int, str] = {}
    fallback: float | None = None
    spec: str = ""
    generation: int = 0
    split: dict[int, float] = {}
    experiment: str = ""
    rehearsed: int | None = None

    def versions(self) -> tuple[int, ...]:
        """Return the versions that have to be loaded, the champion first, each once."""
        named = (self.champion, self.challenger if self.mode != "solo" else None, *self.split, *self.warm)
        return tuple(dict.fromkeys(version for version in named if version is not None))


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a front has followed the plan.

    Args:
        loop: The endpoint.
        front: The front's name.
        generation: The plan's generation.
        applied: The generation that the front serves; 0 before the first.
        error: Why the plan could not be applied, or empty.
        updated_at: When the front wrote this.
    """

    loop: str
    front: str
    generation: int
    applied: int
    error: str
    updated_at: datetime


class Item(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One request's part of a batch.

    Args:
        rows: How many rows it has.
        key: Its Idempotency-Key, or empty.
        body: The first eight bytes of the BLAKE3 digest of its body, when it has such a key; else empty.
        client: Who asked, as the door knows the caller; or empty.
        trace: The trace that the request belongs to, or empty.
        route: The key by which all its rows were routed together; empty when each was routed by its own.
    """

    rows: int
    key: str = ""
    body: bytes = b""
    client: str = ""
    trace: str = ""
    route: str = ""


Run = tuple[str, int]
"""What made-up keys begin with, and how many they are."""


class _Listed(Sequence[T]):
    """A column that is listed when somebody looks at it; until then only its length is known."""

    __slots__ = ("_count", "_list")

    _count: int
    _list: list[T] | None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        return self._all()[place]

    def __iter__(self) -> Iterator[T]:
        return iter(self._all())

    def _all(self) -> list[T]:
        if self._list is None:
            self._list = self._listed()
        return self._list

    def _listed(self) -> list[T]:
        raise NotImplementedError


class Keys(_Listed[str]):
    """Keys of rows, of which those that were made up are put together when somebody looks at them.

    Args:
        runs: In order, keys as they are, and runs of made-up ones: ``(stem, 3)`` stands for ``stem-0``, ``stem-1``, ``stem-2``.
    """

    __slots__ = ("runs",)

    def __init__(self, runs: Sequence[str | Run]) -> None:
        self._list = None
        if len(runs) == 1 and type(runs[0]) is tuple:
            self._count = runs[0][1]
        else:
            self._count = sum([1 if type(run) is str else int(run[1]) for run in runs])
        self.runs = runs

    def _listed(self) -> list[str]:
        found: list[str] = []
        for run in self.runs:
            if isinstance(run, str):
                found.append(run)
            else:
                stem, count = run
                found += [f"{stem}-{row:x}" for row in range(count)]
        return found


class Runs(_Listed[T]):
    """Values of rows that are alike for many rows in a row.

    Args:
        runs: In order, each value, and how many rows have it.
    """

    __slots__ = ("runs",)

    def __init__(self, runs: Sequence[tuple[T, int]]) -> None:
        self._list = None
        self._count = runs[0][1] if len(runs) == 1 else sum([count for _, count in runs])
        self.runs = runs

    @property
    def alike(self) -> bool:
        """Whether it is one value for all rows."""
        return len(self.runs) == 1

    def _listed(self) -> list[T]:
        found: list[T] = []
        for value, count in self.runs:
            found += [value] * count
        return found


def alike(value: T, rows: int) -> Sequence[T]:
    """Return a column in which every row has one value."""
    return [value] if rows == 1 else Runs([(value, rows)])


def common(column: Sequence[T], start: int = 0, rows: int | None = None) -> T | None:
    """Return the value that rows of a column have in common; None when they have several.

    Args:
        column: The column.
        start: The first of the rows.
        rows: How many; None for all from there on.
    """
    if isinstance(column, Runs) and column.alike:
        one: T = column.runs[0][0]
        return one
    part: Sequence[T] = column[start:] if rows is None else column[start : start + rows]
    first = part[0]
    return first if len(part) == 1 or part.count(first) == len(part) else None


class PredictionBatch(msgspec.Struct, frozen=True, kw_only=True, tag="p", omit_defaults=True):
    """The predictions of one turn of the event loop, by column; one record of the log.

    Args:
        at: When they were answered, on the front's clock.
        loop: The endpoint.
        generation: The plan under which they were routed.
        share: The challenger's share in per cent at that time: the propensity of the arm ``challenger``.
        keys: Per row the value of the table's key column, as text; made up where there is none.
        times: Per row the value of the table's time column; the time of asking where there is none.
        arms: Per row: ``champion`` or ``challenger`` when the version that the row was routed to gave the answer, ``direct``
            when the caller named the version, else ``fallback``.
        versions: Per row the version that gave the answer; 0 for the constant.
        values: The answers, row-major: rows x ``width``.
        inputs: Per input what the answering model saw (before encoding); null also where it has no such input. It goes before
            a column of the same name in ``matrix``.
        requests: The requests that the rows came in, in order.
        latency_us: From the arrival of the first request to this record, in microseconds.
        took_us: Per version that answered rows meant for it, until it had, where several versions share the traffic.
        split: The arms' shares of an experiment at that time: the propensity of each version.
        experiment: The experiment.
        width: How many numbers an answer has.
        columns: The names of the matrix's columns.
        matrix: What the answering model saw as numbers: row-major little-endian float64, rows x columns; NaN where missing.
        single: The matrix is float32, as it was sent.
        sampled: The rows that ``inputs`` and ``matrix`` hold, when the endpoint records a share of them; None for all rows.
    """

    at: datetime
    loop: str
    generation: int
    share: int
    keys: Sequence[str]
    times: Sequence[datetime]
    arms: Sequence[Arm]
    versions: Sequence[int]
    values: Sequence[float]
    inputs: dict[str, list[Scalar]]
    requests: list[Item]
    latency_us: int
    width: int = 1
    columns: tuple[str, ...] = ()
    matrix: bytes = b""
    single: bool = False
    took_us: dict[int, int] = {}
    split: dict[int, float] = {}
    experiment: str = ""
    sampled: list[int] | None = None


class ShadowBatch(msgspec.Struct, frozen=True, kw_only=True, tag="s"):
    """What a shadow answered for the rows of a batch; never seen by a user.

    Args:
        at: When it was scored.
        loop: The endpoint.
        position: The log position of the batch whose rows were copied.
        rows: Which of its rows.
        version: The shadow.
        values: Its answers, row-major.
        inputs: What it saw in the inputs that the batch doesn't hold for the answering model.
    """

    at: datetime
    loop: str
    position: int
    rows: list[int]
    version: int
    values: list[float]
    inputs: dict[str, list[Scalar]] = {}
    width: int = 1


Record = PredictionBatch | ShadowBatch


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded prediction.

    Args:
        id: Its id.
        loop: The endpoint.
        at: When it was answered.
        key: The row's key.
        time: The row's time.
        arm: Who was meant to answer and did, ``direct`` when the caller named the version, or ``fallback``.
        version: The version that answered; 0 for the constant.
        value: The answer; of several outputs the first.
        share: The challenger's share in per cent at that time.
        generation: The plan's generation.
        inputs: What the model saw.
        values: The answer, all its outputs.
        client: Who asked, or empty.
        trace: The trace that the request belongs to, or empty.
    """

    id: str
    loop: str
    at: datetime
    key: str
    time: datetime
    arm: Arm
    version: int
    value: float
    share: int
    generation: int
    inputs: dict[str, Any]
    values: tuple[float, ...] = ()
    client: str = ""
    trace: str = ""
