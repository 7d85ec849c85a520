"""What of an endpoint's inputs is recorded: columns left out or hashed, and a share of the rows.

Ids, keys, times, arms, versions and values are always recorded, so labels join and verdicts stay what they are. Which rows keep
their inputs is drawn by a hash of their key, which nothing that happens later can depend on: what is counted on them is
unbiased. A hash is keyed with a secret of the endpoint: without it, few possible values would be found by trying all of them.
Source: BLAKE2 (RFC 7693) as a keyed hash; Bernoulli sampling by hash, Duffield & Grossglauser 2001.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, DeclarationError, InvalidInput
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.serving.records import PredictionBatch, Record, Scalar
from kilter.serving.tables import endpoint_recording

_RANGE = 1 << 64
_LONGEST = 200
_MOST = 1000


class Recording(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is recorded of an endpoint's inputs.

    Args:
        drop: Inputs that are not recorded.
        hash: Inputs of which a keyed hash is recorded: equal values can be told, and nothing else.
        sample: The share of rows whose inputs are recorded, above 0 up to 1.
    """

    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    sample: float = 1.0

    @property
    def everything(self) -> bool:
        """Whether all inputs of all rows are recorded as they are."""
        return not self.drop and not self.hash and self.sample >= 1.0


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A rule as the store has it, with the secret of its hashes."""

    rule: Recording
    secret: str


class EndpointRecording(msgspec.Struct, frozen=True, kw_only=True):
    """The rule of one endpoint.

    Args:
        loop: The endpoint.
        rule: What is recorded.
    """

    loop: str
    rule: Recording


Needed = Callable[[str], Mapping[str, Sequence[str]]]
"""Returns, per input of a loop, the names of its monitors that need it; nothing for an endpoint without a loop."""


def check_rule(rule: Recording, needed: Mapping[str, Sequence[str]], where: str) -> None:
    """Refuse a rule that can't be, or that takes away what a declared monitor looks at.

    Args:
        rule: The rule.
        needed: Per input the monitors that need it.
        where: What to call it in errors.

    Raises:
        InvalidInput: When it contradicts itself.
        Conflict: When a monitor would be blind.
    """
    if not (isinstance(rule.sample, float | int) and 0 < rule.sample <= 1):
        raise InvalidInput("that is no share", where=f"{where}.sample", allowed="above 0, up to 1")
    for field in ("drop", "hash"):
        names: tuple[str, ...] = getattr(rule, field)
        if len(names) > _MOST or any(not 1 <= len(name) <= _LONGEST for name in names):
            raise InvalidInput(
                "these are no names of columns",
                where=f"{where}.{field}",
                allowed=f"at most {_MOST} names of at most {_LONGEST} characters",
            )
    both = sorted(set(rule.drop) & set(rule.hash))
    if both:
        raise InvalidInput(f"{both[0]!r} can't be dropped and hashed", where=where, fix="choose one of the two")
    blind = _blind(rule, needed)
    if blind is not None:
        field, name, monitors = blind
        raise Conflict(
            f"the monitor {monitors[0]} of this loop looks at {name!r}, and could not any more",
            where=f"{where}.{field}",
            allowed="inputs that no monitor needs",
            fix=f"record {name!r} as it is, or take {', '.join(monitors)} out of the loop's monitors and apply it",
        )


def check_monitors(rule: Recording, needed: Mapping[str, Sequence[str]], where: str) -> None:
    """Refuse a declaration whose monitors need what is not recorded.

    Args:
        rule: The rule of its endpoint.
        needed: Per input the declared monitors that need it.
        where: The declaration.

    Raises:
        DeclarationError: When a monitor would be blind.
    """
    blind = _blind(rule, needed)
    if blind is not None:
        field, name, monitors = blind
        raise DeclarationError(
            f"the monitor {monitors[0]} needs {name!r}, of which the endpoint records {'nothing' if field == 'drop' else 'a hash'}",
            where=f"{where}: monitors",
            fix=f"leave {monitors[0]} out, or record {name!r} (`kilter endpoints record`)",
        )


def _blind(rule: Recording, needed: Mapping[str, Sequence[str]]) -> tuple[str, str, Sequence[str]] | None:
    for field in ("drop", "hash"):
        for name in getattr(rule, field):
            if needed.get(name):
                return field, name, needed[name]
    return None


class RecordingService:
    """What is recorded of the endpoints of a store.

    Args:
        database: The store's metadata.
        clock: The time.
        needed: What the monitors of a loop look at.
    """

    def __init__(self, database: Database, clock: Clock, needed: Needed = lambda _loop: {}) -> None:
        self._database = database
        self._clock = clock
        self._needed = needed

    @operation(writes=True, repeatable=True, role="admin")
    def set(self, loop: str, rule: Recording) -> EndpointRecording:
        """Say what is recorded of an endpoint's inputs from now on; fronts follow within a second.

        Args:
            loop: The endpoint.
            rule: The rule; an empty one records everything.

        Raises:
            InvalidInput: When the rule contradicts itself.
            Conflict: When a declared monitor needs an input that would not be recorded as it is.
        """
        check_rule(rule, self._needed(loop), loop)
        table = endpoint_recording
        with self._database.transaction() as connection:
            row = connection.execute(
                sa.select(table.c.rule).where(table.c.loop == loop).with_for_update()
            ).one_or_none()
            # The secret stays, so that hashes from before and after a change can be compared.
            secret = msgspec.convert(row.rule, _Stored).secret if row is not None else secrets.token_hex(32)
            values = {"rule": msgspec.to_builtins(_Stored(rule=rule, secret=secret)), "set_at": self._clock.now()}
            if row is None:
                connection.execute(sa.insert(table).values(loop=loop, **values))
            else:
                connection.execute(sa.update(table).where(table.c.loop == loop).values(**values))
        return EndpointRecording(loop=loop, rule=rule)

    @operation
    def get(self, loop: str) -> EndpointRecording:
        """Return what is recorded of an endpoint's inputs.

        Args:
            loop: The endpoint.
        """
        stored = self._all().get(loop)
        return EndpointRecording(loop=loop, rule=stored.rule if stored else Recording())

    @operation
    def all(self) -> list[EndpointRecording]:
        """Return the rules of all endpoints that have one, by name."""
        return [EndpointRecording(loop=loop, rule=stored.rule) for loop, stored in sorted(self._all().items())]

    def redactors(self) -> dict[str, Redactor]:
        """Return what a front applies, by endpoint."""
        return {loop: Redactor(one.rule, one.secret) for loop, one in self._all().items() if not one.rule.everything}

    def _all(self) -> dict[str, _Stored]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(endpoint_recording))
            return {row.loop: msgspec.convert(row.rule, _Stored) for row in rows}


class Redactor:
    """Applies a rule to records.

    Args:
        rule: The rule.
        secret: The secret of the endpoint.
    """

    __slots__ = ("_below", "_drop", "_hash", "_key", "rule", "secret")

    def __init__(self, rule: Recording, secret: str) -> None:
        self.rule = rule
        self.secret = secret
        self._key = bytes.fromhex(secret)[:64]
        self._drop = frozenset(rule.drop)
        self._hash = frozenset(rule.hash)
        self._below = int(rule.sample * _RANGE)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redactor) and (self.rule, self.secret) == (other.rule, other.secret)

    def __hash__(self) -> int:
        return hash((self.rule, self.secret))

    def record(self, record: Record) -> Record:
        """Return a record with what may be recorded of it."""
        if isinstance(record, PredictionBatch):
            return self._batch(record)
        # Whose keys they are is in the batch that was copied, so of a sample nothing is kept.
        inputs = self.inputs(record.inputs) if self.rule.sample >= 1.0 else {}
        return msgspec.structs.replace(record, inputs=inputs)

    def _batch(self, batch: PredictionBatch) -> PredictionBatch:
        inputs, columns, matrix = batch.inputs, batch.columns, batch.matrix
        named = self._drop | self._hash
        if named and (inputs or columns):
            moved: dict[str, list[Scalar]] = {}
            if not named.isdisjoint(columns):
                columns, matrix, moved = self._of_matrix(batch)
            inputs = self.inputs(inputs)
            inputs = {**{name: values for name, values in moved.items() if name not in batch.inputs}, **inputs}
        sampled: list[int] | None = None
        if self.rule.sample < 1.0:
            sampled = [row for row, key in enumerate(batch.keys) if self.keeps(key)]
            if len(sampled) == len(batch.keys):
                sampled = None
            else:
                inputs = {name: [values[row] for row in sampled] for name, values in inputs.items()} if sampled else {}
                if columns:
                    held = np.frombuffer(matrix, dtype=_dtype(batch)).reshape(-1, len(columns))
                    matrix = held[sampled].tobytes()
        return msgspec.structs.replace(batch, inputs=inputs, columns=columns, matrix=matrix, sampled=sampled)

    def inputs(self, inputs: Mapping[str, list[Scalar]]) -> dict[str, list[Scalar]]:
        """Return columns without those that are dropped, and hashes of those that are hashed."""
        return {
            name: self._hashes(name, values) if name in self._hash else values
            for name, values in inputs.items()
            if name not in self._drop
        }

    def keeps(self, key: str) -> bool:
        """Return whether the inputs of the rows of a key are recorded."""
        drawn = hashlib.blake2b(key.encode(), digest_size=8, key=self._key, person=b"sample").digest()
        return int.from_bytes(drawn, "little") < self._below

    def _of_matrix(self, batch: PredictionBatch) -> tuple[tuple[str, ...], bytes, dict[str, list[Scalar]]]:
        """Take the named columns out of a batch's matrix; return what is left, and the hashes."""
        columns = batch.columns
        held = np.frombuffer(batch.matrix, dtype=_dtype(batch)).reshape(-1, len(columns))
        stay = [place for place, name in enumerate(columns) if name not in self._drop and name not in self._hash]
        moved: dict[str, list[Scalar]] = {}
        for place, name in enumerate(columns):
            if name in self._hash:
                values = [None if math.isnan(value) else value for value in held[:, place].tolist()]
                moved[name] = self._hashes(name, values)
        return tuple(columns[place] for place in stay), held[:, stay].tobytes(), moved

    def _hashes(self, name: str, values: Sequence[Scalar]) -> list[Scalar]:
        # A column has its own hashes: equal values of two columns should not be seen to be equal.
        column = hashlib.blake2b(name.encode(), digest_size=16).digest()
        return [None if value is None else self._one(column, value) for value in values]

    def _one(self, column: bytes, value: Scalar) -> str:
        text = repr(float(value)) if isinstance(value, int | float) else str(value)
        return hashlib.blake2b(text.encode(), digest_size=8, key=self._key, salt=column).hexdigest()


def _dtype(batch: PredictionBatch) -> str:
    return "<f4" if batch.single else "<f8"
