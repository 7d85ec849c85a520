"""Kilter's own: ``POST /predict/{endpoint}`` with rows as typed JSON objects.

``{"rows": [{column: value}]}`` is answered with the id, value, version and arm of each row. ``openapi.py`` writes the schema of
both, from each model's signature.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from kilter.core.errors import InvalidInput
from kilter.serving.answering.rows import Given, RowReader, made_up
from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import HttpError, Request
from kilter.serving.front.intake import Intake, version_of
from kilter.serving.protocols.calls import call_of, decode, media_type, quoted, send
from kilter.serving.protocols.routes import Route


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a prediction request."""

    rows: list[dict[str, str | int | float | bool | None]]


_BODY = msgspec.json.Decoder(Body)
_FORM = '{"rows": [{column: value}]}'


class Predict:
    """The protocol.

    Args:
        intake: Where requests go.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> list[Route]:
        """Return its routes."""
        return [
            Route(b"POST", "/predict/{endpoint}", self.predict),
            Route(b"POST", "/predict/{endpoint}/versions/{version}", self.predict),
        ]

    def predict(self, request: Request, name: str, version: str = "") -> None:
        """Answer rows."""
        intake = self._intake
        endpoint = intake.endpoint(name)
        pinned = version_of(version) if version else None

        def read(reader: RowReader | None, now: datetime) -> Given:
            if media_type(request) != b"application/json":
                raise HttpError(415, "the body is not declared as JSON", allowed="content-type: application/json")
            rows = decode(_BODY, request.body, _FORM).rows
            intake.check_rows(len(rows))
            return given_rows(rows, reader, now)

        def answer(found: Answer) -> None:
            send(request, found, render(found))

        intake.take(endpoint, call_of(request, answer, version=pinned), read)


def given_rows(
    rows: list[dict[str, str | int | float | bool | None]], reader: RowReader | None, now: datetime
) -> Given:
    """Return rows as a model reads them; as they are, when there is only a constant that will not read them.

    Raises:
        InvalidInput: When a column is absent or of the wrong type.
    """
    if reader is None:
        return Given(len(rows), made_up(len(rows))[1], [now] * len(rows), None, b"", objects=rows)
    return reader.read(rows, now)


def render(answer: Answer) -> bytes:
    """Return the answer as JSON; several outputs go by their names."""
    front, position, start, width = answer.front, answer.position, answer.start, answer.width
    values = answer.values
    if width == 1:
        said = [f'"value":{value!r}' for value in values]
    else:
        names = [quoted(name) for name in answer.names]
        if len(names) != width:
            raise InvalidInput("the answer has other outputs than the model's signature", where="signature.outputs")
        said = [
            '"values":{' + ",".join([f"{n}:{v!r}" for n, v in zip(names, values[at : at + width], strict=True)]) + "}"
            for at in range(0, len(values), width)
        ]
    rows = ",".join(
        [
            f'{{"id":"{front}-{position:x}-{row:x}",{value},"version":{version},"arm":"{arm}"}}'
            for row, (value, version, arm) in enumerate(zip(said, answer.versions, answer.arms, strict=True), start)
        ]
    )
    return f'{{"model":"{answer.batch.loop}","predictions":[{rows}]}}'.encode()
