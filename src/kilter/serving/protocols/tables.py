"""Requests whose body is a table, whatever protocol frames it: read, asked, answered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import Request
from kilter.serving.front.intake import Intake
from kilter.serving.protocols.bodies import Check, json_body, table
from kilter.serving.protocols.calls import call_of, media_type

Form = Callable[[Any, RowReader | None, datetime, Check], Given]
"""Reads a JSON body."""


def ask(
    intake: Intake,
    endpoint: Endpoint,
    request: Request,
    form: Form,
    answer: Callable[[Answer], None],
    *,
    version: int | None = None,
    route: str = "",
    keys: str = "",
) -> None:
    """Ask an endpoint for the rows of a body.

    Args:
        intake: Where requests go.
        endpoint: Who is asked.
        request: The request.
        form: Reads the body when it is JSON.
        answer: Takes the answer.
        version: The one version that is to answer, or None.
        route: The routing key that the protocol carries; empty for none.
        keys: What the rows' keys are called when they have none of their own; empty to make them up.

    Raises:
        KilterError: When the request is refused at once.
    """

    def read(reader: RowReader | None, now: datetime) -> Given:
        found = table(media_type(request), request.body, reader, now, intake.check_rows)
        if found is None:
            found = form(json_body(request.body), reader, now, intake.check_rows)
        if keys and found.route:
            found.route = keys
            found.keys = [keys] if found.count == 1 else [f"{keys}-{row:x}" for row in range(found.count)]
        return found

    intake.take(endpoint, call_of(request, answer, version=version, route=route), read)
