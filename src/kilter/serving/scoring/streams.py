"""Scoring streams: a batch of messages in, one call of the model, a message out for each, and then the commit.

Each turn takes what is there, answers it, writes the answers and the dead letters, waits until they are safe, and only then
commits. A process that is killed between two of these steps takes the same messages again. It finds out which of them were
answered, because the commit's note says where to look (``engines/streams/port.py``), and which were recorded, because the record
holds their ids: such an answer is sent again as it was. So nothing is lost, and nothing is there twice.

A message is a JSON object: a row. One that can't be used goes to the dead letters with the reason, as it came.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from kilter.core.clock import Clock
from kilter.core.errors import Expired, InvalidInput, KilterError, NotFound
from kilter.engines.streams.port import Message, Outgoing, Sink, Source
from kilter.serving.answering.rows import RowReader, moment
from kilter.serving.recording.predictions import PredictionLog, prediction_id
from kilter.serving.records import Arm, Item, PredictionBatch, Record
from kilter.serving.scoring.model import Scorer

if TYPE_CHECKING:
    from kilter.serving.answering.group import Lookup

_ROW = msgspec.json.Decoder(dict[str, Any])
_ENCODE = msgspec.json.Encoder().encode


class Answering(NamedTuple):
    """A version that answers.

    Args:
        model: The model's name.
        version: Its number.
        arm: ``champion``, or ``direct`` when the version was named.
        scorer: The loaded model.
        reader: Reads rows for it.
        lookup: Looks features up; None when it has none.
    """

    model: str
    version: int
    arm: Arm
    scorer: Scorer
    reader: RowReader
    lookup: Lookup | None


class Turn(NamedTuple):
    """What a turn did.

    Args:
        taken: Messages that came.
        answered: Of them, those that got an answer now.
        dead: Those that can't be used.
        skipped: Those that had been answered before a kill.
        waiting: Messages that had not been read then, as far as that is known; None when nobody looked.
    """

    taken: int
    answered: int
    dead: int
    skipped: int
    waiting: int | None = None


class _Note(msgspec.Struct, frozen=True, array_like=True):
    """What stands beside a commit: the marks of the answers, of the dead letters and of a front's prediction log."""

    answers: str
    dead: str
    front: str
    log: int


class _Row(NamedTuple):
    """A message that was read as a row."""

    message: Message
    id: str
    row: dict[str, Any]
    key: str
    time: datetime


class StreamScorer:
    """Answers the messages of a stream.

    Args:
        answering: Returns the version that answers now.
        group: Who reads; part of every answer's id.
        answers: Where the answers go.
        dead: Where messages go that can't be used.
        clock: The time of records.
        log: Where predictions are recorded; None to record none.
        others: Opens the prediction log of another front, to read: that of a member whose messages are this one's now. None when it is
            not on this machine.
        batch: Messages per turn at most: it bounds the memory.
    """

    def __init__(
        self,
        answering: Callable[[], Answering],
        group: str,
        answers: Sink,
        dead: Sink,
        clock: Clock,
        *,
        log: PredictionLog | None,
        others: Callable[[str], PredictionLog | None] = lambda _front: None,
        batch: int = 4_000,
    ) -> None:
        self._answering = answering
        self._group = group
        self._answers = answers
        self._dead = dead
        self._clock = clock
        self._log = log
        self._others = others
        self._batch = batch
        self._known: set[str] = set()
        self._recorded: dict[str, tuple[str, int, tuple[float, ...]]] = {}

    def mark(self) -> str:
        """Return the note of a commit: nothing that is written from now on lies before it."""
        front, end = ("", -1) if self._log is None else (self._log.front, self._log.end())
        return _ENCODE(_Note(self._answers.mark(), self._dead.mark(), front, end)).decode()

    def turn(self, source: Source, wait: float) -> Turn:
        """Answer the next messages.

        Args:
            source: The stream.
            wait: How long to wait for the first, in seconds.

        Raises:
            Unavailable: When a stream can't be reached; nothing of the turn is committed then.
            Conflict: When another process has taken over.
            InvalidInput: When the group's commits were not made by a scorer.
        """
        taken = source.take(self._batch, wait)
        for note in dict.fromkeys(taken.notes):
            self._recall(note)
        if not taken.messages:
            return Turn(0, 0, 0, 0)
        left = [(one, f"{self._group}/{one.id}") for one in taken.messages]
        if self._known:
            left = [(one, name) for one, name in left if name not in self._known]
            self._known.difference_update([f"{self._group}/{one.id}" for one in taken.messages])
        letters = self._answer(left) if left else []
        self._answers.flush()
        self._dead.flush()
        source.commit(None if self._still_to_come(source) else self.mark())
        return Turn(len(taken.messages), len(left) - len(letters), len(letters), len(taken.messages) - len(left))

    def _still_to_come(self, source: Source) -> bool:
        """Return whether messages that were answered or recorded before a kill have yet to come by.

        Until then the mark must not move: a second kill would else hide them from the next life.
        """
        start = len(self._group) + 1
        if self._known:
            self._known = {name for name in self._known if source.awaits(name[start:])}
        if self._recorded:
            self._recorded = {name: made for name, made in self._recorded.items() if source.awaits(name[start:])}
        return bool(self._known or self._recorded)

    def _recall(self, text: str) -> None:
        """Find out what was made of messages behind a commit already."""
        front = "" if self._log is None else self._log.front
        try:
            note = msgspec.json.decode(text, type=_Note) if text else _Note("", "", front, -1)
        except msgspec.MsgspecError as error:
            raise InvalidInput(
                "the group's commits are another program's", where=self._group, fix="choose another --group"
            ) from error
        prefix = f"{self._group}/"
        for sink, mark in ((self._answers, note.answers), (self._dead, note.dead)):
            self._known.update(one for one in sink.since(mark) if one.startswith(prefix))
        if self._log is None or not note.front:
            return
        if note.front == self._log.front:
            self._remember(self._log, note.log, prefix)
        elif (other := self._others(note.front)) is not None:
            with closing(other):
                self._remember(other, note.log, prefix)

    def _remember(self, log: PredictionLog, after: int, prefix: str) -> None:
        """Find out which predictions were recorded behind a position."""
        for position, record in _kept(log, after):
            if not isinstance(record, PredictionBatch):
                continue
            width = record.width
            for row, item in enumerate(record.requests):
                if not item.key.startswith(prefix):
                    continue
                values = tuple(record.values[row * width : (row + 1) * width])
                made = prediction_id(log.front, position, row)
                self._recorded[item.key] = (made, record.versions[row], values)

    def _answer(self, messages: Sequence[tuple[Message, str]]) -> list[Outgoing]:
        """Send the answers and the dead letters to messages; return the latter."""
        began = time.monotonic()
        answering = self._answering()
        letters: list[Outgoing] = []
        rows: list[_Row] = []
        vectors: list[list[float]] = []
        now = self._clock.now()
        for message, name in messages:
            try:
                row, vector = _read(message, answering.reader)
                key, moment_of = _identity(message, row, answering.reader, now)
            except InvalidInput as error:
                letters.append(_letter(message, name, error))
                continue
            rows.append(_Row(message, name, row, key, moment_of))
            vectors.append(vector)
        if rows:
            rows, values, matrix = self._predict(answering, rows, vectors, letters)
            self._send(answering, rows, values, matrix, now, began)
        if letters:
            self._dead.send(letters)
        return letters

    def _predict(
        self, answering: Answering, rows: list[_Row], vectors: list[list[float]], letters: list[Outgoing]
    ) -> tuple[list[_Row], np.ndarray, np.ndarray]:
        """Return the answers to rows, with one call for all; rows that the model refuses become dead letters."""
        matrix = np.asarray(vectors, dtype=np.float64)
        _look_up(answering, rows, matrix)
        try:
            values = answering.scorer.predict(matrix)
            wrong = {
                int(row): "the model's answer is not finite" for row in np.flatnonzero(~np.isfinite(values).all(axis=1))
            }
        except InvalidInput:
            values, wrong = _one_by_one(answering.scorer, matrix)
        if wrong:
            letters += [
                Outgoing(rows[place].id, rows[place].message.key, rows[place].message.value, reason)
                for place, reason in sorted(wrong.items())
            ]
            keep = [place for place in range(len(rows)) if place not in wrong]
            return [rows[place] for place in keep], values[keep], matrix[keep]
        return rows, values, matrix

    def _send(
        self,
        answering: Answering,
        rows: list[_Row],
        values: np.ndarray,
        matrix: np.ndarray,
        now: datetime,
        began: float,
    ) -> None:
        answers = [tuple(one) for one in values.tolist()]
        made = [(one.message.id, answering.version) for one in rows]
        fresh = [place for place, one in enumerate(rows) if one.id not in self._recorded]
        if self._log is not None and fresh:
            position = self._log.append(_record(answering, rows, answers, matrix, fresh, now, began))
            front = self._log.front
            for number, place in enumerate(fresh):
                made[place] = (prediction_id(front, position, number), answering.version)
        if len(fresh) < len(rows):  # recorded before a kill, and not sent: the answer is the one on record
            for place, one in enumerate(rows):
                known = self._recorded.pop(one.id, None)
                if known is not None:
                    made[place], answers[place] = known[:2], known[2]
        outputs = answering.scorer.manifest.signature.outputs
        model = answering.model
        self._answers.send(
            [
                Outgoing(
                    one.id,
                    one.message.key,
                    _ENCODE(
                        {
                            "id": name,
                            "key": one.key,
                            "prediction": answer[0] if len(answer) == 1 else dict(zip(outputs, answer, strict=False)),
                            "model": model,
                            "version": version,
                        }
                    ),
                )
                for one, (name, version), answer in zip(rows, made, answers, strict=True)
            ]
        )


def follow(
    scorer: StreamScorer, source: Source, stopping: Callable[[], bool], *, drain: bool = False, wait: float = 0.5
) -> Iterator[Turn]:
    """Answer a stream's messages until told to stop.

    Args:
        scorer: What answers.
        source: The stream.
        stopping: Says whether to stop; asked between two turns.
        drain: Stop when nothing is left to read.
        wait: How long a turn waits for messages, in seconds.

    Yields:
        What each turn did.
    """
    began = False
    while not stopping():
        turn = scorer.turn(source, wait)
        yield turn
        if drain and began and not turn.taken and source.lag() == 0:
            return
        began = True


def _kept(log: PredictionLog, after: int) -> Iterator[tuple[int, Record]]:
    """Yield the records behind a position; all that are kept when those next to it were removed for their age."""
    try:
        yield from log.read(after)
    except (Expired, NotFound):
        yield from log.read()


def _read(message: Message, reader: RowReader) -> tuple[dict[str, Any], list[float]]:
    try:
        row = _ROW.decode(message.value)
    except msgspec.MsgspecError as error:
        raise InvalidInput("the message is no row", allowed="a JSON object of columns and values") from error
    return row, reader.vector(row, 0)


def _identity(message: Message, row: dict[str, Any], reader: RowReader, now: datetime) -> tuple[str, datetime]:
    """Return a row's key and time; where its model has none, the message's own and the present."""
    if reader.key and reader.time:
        return reader.identity(row, 0)
    key = row.get(reader.key) if reader.key else None
    when = row.get(reader.time) if reader.time else None
    named = str(key) if isinstance(key, str | int) else message.key.decode("utf-8", "replace") or message.id
    return named, now if when is None else moment(when, 0, reader.time)


def _look_up(answering: Answering, rows: Sequence[_Row], matrix: np.ndarray) -> None:
    for inputs in answering.reader.views:
        assert answering.lookup is not None  # noqa: S101 - a model without its features is refused when it is loaded
        entity = inputs.view.entity
        whose = [None if (value := one.row.get(entity)) is None else str(value) for one in rows]
        found = answering.lookup(inputs.view, whose, [one.time for one in rows])
        for pick, place in zip(inputs.pick, inputs.places, strict=True):
            matrix[:, place] = found[:, pick]


def _one_by_one(scorer: Scorer, matrix: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Ask row by row: one that the model refuses must not take the others with it."""
    wrong: dict[int, str] = {}
    answers = np.full((len(matrix), scorer.spec.outputs), math.nan)
    for row in range(len(matrix)):
        try:
            answers[row] = scorer.predict(matrix[row : row + 1])[0]
            if not np.isfinite(answers[row]).all():
                wrong[row] = "the model's answer is not finite"
        except InvalidInput as error:
            wrong[row] = error.message
    return answers, wrong


def _record(
    answering: Answering,
    rows: Sequence[_Row],
    answers: Sequence[tuple[float, ...]],
    matrix: np.ndarray,
    fresh: Sequence[int],
    now: datetime,
    began: float,
) -> PredictionBatch:
    chosen = [rows[place] for place in fresh]
    reader = answering.reader
    text = {name: [one.row.get(name) for one in chosen] for name in reader.categorical}
    return PredictionBatch(
        at=now,
        loop=answering.model,
        generation=0,
        share=0,
        keys=[one.key for one in chosen],
        times=[one.time for one in chosen],
        arms=[answering.arm] * len(chosen),
        versions=[answering.version] * len(chosen),
        values=[value for place in fresh for value in answers[place]],
        inputs=text,
        requests=[Item(1, one.id) for one in chosen],
        latency_us=int((time.monotonic() - began) * 1e6),
        width=answering.scorer.spec.outputs,
        columns=reader.names,
        matrix=matrix[list(fresh)].tobytes(),
    )


def _letter(message: Message, name: str, error: KilterError) -> Outgoing:
    where = error.where.removeprefix("rows[0].")
    allowed = f" (allowed: {error.allowed})" if error.allowed else ""
    return Outgoing(
        name, message.key, message.value, f"{where}: {error.message}{allowed}" if where else error.message + allowed
    )
