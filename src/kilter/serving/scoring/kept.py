"""A batch's predictions into the online store, so that they are there at once when an entity asks."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

import polars as pl

from kilter.core.errors import InvalidInput
from kilter.engines.files.writing import NOWHERE, THE_END, Job
from kilter.features.answers import Answer, Answers, plain

_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")


class AnswersOutput:
    """Parts that go into a collection of the online store; an entity has its newest answer there.

    Args:
        answers: The collections.
        name: Which.
        job: The job.
        key: The column that names the entity.
        now: Tells the time.

    Raises:
        InvalidInput: When the name can't be one, or there is no key.
    """

    def __init__(self, answers: Answers, name: str, job: Job, key: str, now: Callable[[], datetime]) -> None:
        if not _NAME.match(name):
            raise InvalidInput(
                f"{name!r} is no name", where="output", allowed="up to 64 letters, digits, dots, hyphens, underscores"
            )
        if not key:
            raise InvalidInput(
                "the model's rows have no key, by which answers are looked up", where="output", fix="give --key COLUMN"
            )
        self._answers = answers
        self._name = name
        self._job = job
        self._key = key
        self._now = now

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there."""
        return self._answers.last(self._job.digest) or NOWHERE

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Keep a part's answers, and note that they are there, in one transaction."""
        if self._key not in frame.columns:
            raise InvalidInput(
                f"the rows have no column {self._key!r}", where="output", allowed=", ".join(frame.columns), fix="keep it: --keep"
            )  # fmt: skip
        at, model = self._now(), self._job.about.get("kilter.model", "")
        names = [name for name in frame.columns if name != self._key]
        keys = frame[self._key].to_list()
        answers = {
            plain(key): Answer(model, at, {name: plain(value) for name, value in zip(names, values, strict=True)})
            for key, values in zip(keys, frame.select(names).iter_rows(), strict=True)
        }
        self._answers.put(self._name, answers, job=self._job.digest, place=(piece, number))

    def finish(self) -> None:
        """Note that the job is done."""
        self._answers.put(self._name, {}, job=self._job.digest, place=THE_END)
