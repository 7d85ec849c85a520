"""The words of the endpoints' pages: what such a page shows, as data; each is also what the page's JSON says."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from kilter.serving.access.consumers import Consumer
from kilter.serving.records import EndpointStatus, Scalar

SpanName = Literal["1h", "24h", "7d"]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A version that an endpoint has loaded.

    Args:
        version: The version, or None for the constant.
        role: ``champion``, ``challenger``, ``shadow``, ``arm`` (of an experiment), ``warm`` or ``fallback``.
        share: Its planned share of the answers in per cent; a shadow's and a warm version's is 0.
        seen: Its share of the answers in the span that is shown, in per cent; None where nothing was answered.
        rows: Its answers in that span.
        since: When it was registered, or None.
        trigger: Why it was made.
        bundle: The first digits of its bundle's digest.
    """

    version: int | None
    role: Literal["champion", "challenger", "shadow", "arm", "warm", "fallback"]
    share: float
    seen: float | None
    rows: int
    since: datetime | None = None
    trigger: str = ""
    bundle: str = ""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A setting of an endpoint: its name, its value, and a word about it."""

    name: str
    value: str
    note: str = ""


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers.

    Args:
        headline: The same in one sentence.
        mode: How the endpoint serves.
        generation: Of its plan.
        fronts: How far each front has followed it.
        servers: The versions, the answering ones first.
        settings: What else the plan and the rules say.
        loop: A loop decides about it.
        experiment: The experiment that runs, or empty.
        release: A release is in flight.
    """

    headline: str
    mode: str
    generation: int
    fronts: tuple[EndpointStatus, ...]
    servers: tuple[Server, ...]
    settings: tuple[Fact, ...]
    loop: bool
    experiment: str = ""
    release: bool = False


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one kind: a bar's part per bin."""

    name: str
    role: str
    counts: tuple[int, ...]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line over the bins; None where nothing was asked."""

    name: str
    role: str
    values: tuple[float | None, ...]


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked lately, in bins of equal length.

    Args:
        span: How far back it goes.
        start: When the first bin begins.
        step: The length of a bin in seconds.
        complete_since: Before this moment the page has not read the log; None when it has read what is shown.
        requests: Requests in the span.
        rows: Rows that were answered.
        per_minute: Rows per minute, from the first answer in the span on.
        p50: Half of the requests were answered within so many milliseconds.
        p95: 95 of 100.
        p99: 99 of 100.
        fallbacks: Rows that another version than the meant one answered.
        constants: Rows that no model could answer: the constant did.
        layers: Rows by who answered.
        latency: The percentiles per bin, in milliseconds.
        newest: When the last one was answered, or None.
    """

    span: SpanName
    start: datetime
    step: int
    complete_since: datetime | None
    requests: int
    rows: int
    per_minute: float
    p50: float | None
    p95: float | None
    p99: float | None
    fallbacks: int
    constants: int
    layers: tuple[Layer, ...]
    latency: tuple[Line, ...]
    newest: datetime | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key that opens an endpoint, without anything that could be taken for the key."""

    name: str
    endpoints: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    state: Literal["holds", "expired", "revoked"]


class Callers(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls an endpoint, and who may.

    Args:
        consumers: Who has called, the latest first.
        keys: The keys that open it.
        locked: A key was given out once, so nobody is answered without one.
    """

    consumers: tuple[Consumer, ...]
    keys: tuple[Key, ...]
    locked: bool


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """An input of a form.

    Args:
        name: The column.
        kind: ``number``, ``choice`` (of known values), ``text``, ``time``.
        choices: The known values.
        role: ``key``, ``time``, ``input`` or ``entity``.
        note: What it is for.
        value: What it begins with.
    """

    name: str
    kind: Literal["number", "choice", "text", "time"]
    role: Literal["key", "time", "input", "entity"] = "input"
    choices: tuple[str, ...] = ()
    note: str = ""
    value: str = ""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of an endpoint is made of.

    Args:
        name: The endpoint.
        version: The version whose signature it is.
        fields: The inputs, in order.
        versions: The versions that can be asked by name.
        output: What the answer is.
        running: A front runs on this machine.
        problem: Why there is no form, or empty.
    """

    name: str
    version: int | None
    fields: tuple[Field, ...]
    versions: tuple[int, ...]
    output: str
    running: bool
    problem: str = ""


class EndpointCard(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint in the list."""

    name: str
    loop: bool
    mode: str
    champion: int | None
    challenger: int | None
    share: int
    generation: int
    applied: int
    error: str
    rows: int
    p95: float | None
    fallbacks: int
    newest: datetime | None
    activity: tuple[int, ...]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction in the result of a search."""

    id: str
    at: datetime
    key: str
    version: int
    arm: str
    value: float
    client: str
    latency_us: int


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for.

    Args:
        loop: The endpoint.
        id: A prediction's id, or empty.
        key: A row's key, or empty.
        version: The version that answered, or None; 0 is the constant.
        arm: Who answered, or empty.
        since: Not before this moment.
        until: Before this moment.
        before: Where the page before ended: a prediction's id per front.
    """

    loop: str
    id: str = ""
    key: str = ""
    version: int | None = None
    arm: str = ""
    since: datetime | None = None
    until: datetime | None = None
    before: tuple[str, ...] = ()


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A page of results, newest first.

    Args:
        found: The predictions.
        older: Where the next page begins; empty at the end.
        back_to: The search stopped here, because it had read enough for one page; None when it didn't.
        problem: What is wrong with the search, or empty.
        where: The field that is wrong.
    """

    found: tuple[Found, ...]
    older: tuple[str, ...] = ()
    back_to: datetime | None = None
    problem: str = ""
    where: str = ""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """What the model saw in one input."""

    name: str
    value: Scalar
