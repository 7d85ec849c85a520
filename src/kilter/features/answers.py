"""Answers that were made in batches, kept where features are, so that they are there at once when an entity asks.

They lie in the online store under the name of their collection and the entity's key. A part of a batch and the note that it is
there are one transaction: what comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec
from blake3 import blake3

from kilter.core.errors import InvalidInput
from kilter.engines.online.store import OnlineStore
from kilter.operations.table import operation

Value = str | int | float | bool | None
_PLACE = msgspec.msgpack.Decoder(tuple[int, int])
_LONGEST = 400
_MOST = 10_000


class Answer(msgspec.Struct, frozen=True):
    """What a batch answered for an entity.

    Args:
        model: The version that answered.
        at: When the batch ran, UTC.
        values: The answer's columns.
    """

    model: str
    at: datetime
    values: dict[str, Value]


_ANSWER = msgspec.msgpack.Decoder(Answer)


class Answers:
    """Collections of answers in an online store.

    Args:
        store: The store; may be open for reading only, for lookups.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    def put(self, name: str, answers: Mapping[Value, Answer], *, job: str, place: tuple[int, int]) -> None:
        """Keep answers, and note how far their job is, in one transaction.

        Args:
            name: The collection.
            answers: By the entity's key; one that is there already is replaced.
            job: Digest of the job.
            place: The piece and the number of the part that these are.
        """
        items = [(_key(name, key), msgspec.msgpack.encode(answer)) for key, answer in answers.items()]
        self._store.put([*items, (_note(job), msgspec.msgpack.encode(place))])

    def last(self, job: str) -> tuple[int, int] | None:
        """Return the piece and the number of the last part of a job that is there."""
        found = self._store.get([_note(job)])[0]
        return None if found is None else _PLACE.decode(found)

    def lookup(self, name: str, keys: Sequence[Value]) -> list[Answer | None]:
        """Return the answer for each entity; None where there is none.

        Args:
            name: The collection.
            keys: The entities' keys.
        """
        found = self._store.get([_key(name, key) for key in keys])
        return [None if one is None else _ANSWER.decode(one) for one in found]


class Kept(msgspec.Struct, frozen=True):
    """An entity and its newest answer.

    Args:
        key: The entity's key.
        answer: The answer; None when no batch has answered for it.
    """

    key: str
    answer: Answer | None


class AnswerService:
    """Answers that batches left in the online store.

    Args:
        answers: The collections.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @operation
    def lookup(self, name: str, keys: list[str]) -> list[Kept]:
        """Return the newest answer for each of some entities, from memory.

        Args:
            name: The collection: what follows ``online:`` in a batch's output.
            keys: At most 10,000.
        """
        if len(keys) > _MOST:
            raise InvalidInput(f"{len(keys):,} keys", where="answers.lookup", allowed="at most 10,000")
        return [Kept(key, found) for key, found in zip(keys, self._answers.lookup(name, keys), strict=True)]


def plain(value: object) -> Value:
    """Return a column's value as it is kept: times as text."""
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise InvalidInput(f"a {type(value).__name__} can't be kept", where="answers", fix="keep other columns")


def _note(job: str) -> bytes:
    return b"\x00answers-job\x00" + bytes.fromhex(job)


def _key(name: str, key: Any) -> bytes:
    """Return an answer's place; a number and its text are one entity, as a request's path can't tell them apart."""
    if key is None:
        raise InvalidInput("an entity's key is null", where="answers", fix="leave such rows out")
    raw = str(key).encode()
    return b"\x00answers\x00" + name.encode() + b"\x00" + (raw if len(raw) <= _LONGEST else blake3(raw).digest())
