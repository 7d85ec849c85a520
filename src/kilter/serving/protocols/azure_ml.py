"""Azure Machine Learning's online endpoints: ``POST /score``, in the forms that its scoring servers take.

``input_data`` (MLflow models), ``data`` (the classic server), and ``Inputs`` (AutoML) are answered in kind. ``GET /`` says that the
server lives; the deployment's header ``azureml-model-deployment`` names who answers, as a version or ``champion``, ``challenger``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from kilter.core.errors import InvalidInput
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import Request
from kilter.serving.front.intake import Intake, labelled, version_of
from kilter.serving.protocols.answers import respond
from kilter.serving.protocols.bodies import Check, columns, instances, split
from kilter.serving.protocols.calls import said
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.tables import ask

_DEPLOYMENT: Final = b"azureml-model-deployment"
_FORMS: Final = '{"input_data": {"columns", "data"}}, {"data": [...]}, or {"Inputs": {"data": [...]}}'


def shape(status: int, problem: dict[str, object]) -> tuple[int, object]:
    """Say an error as Azure's APIs do."""
    status = 400 if status == 422 else status
    return status, {"error": {"code": str(problem["title"]), "message": said(problem)}, **problem}


class AzureML:
    """The protocol.

    Args:
        intake: Where requests go.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> list[Route]:
        """Return its routes."""
        return [Route(b"POST", "/score", self.score, shape)]

    def score(self, request: Request) -> None:
        """Answer a table."""
        endpoint = self._intake.only()
        name = request.headers.get(_DEPLOYMENT, b"").decode("latin-1")
        version: int | None = None
        if name:
            number = name.removeprefix("v")
            version = version_of(number) if number.isdigit() else labelled(endpoint, name)
        wrap = "{0}"

        def form(body: Any, reader: RowReader | None, now: datetime, check: Check) -> Given:
            nonlocal wrap
            given, wrap = _rows(body, reader, now, check)
            return given

        def answer(found: Answer) -> None:
            respond(request, found, wrap)

        ask(self._intake, endpoint, request, form, answer, version=version)


def _rows(body: Any, reader: RowReader | None, now: datetime, check: Check) -> tuple[Given, str]:
    """Return the rows of a body, and what the answers stand in."""
    if type(body) is not dict:
        raise InvalidInput("the body is no object", where="body", allowed=_FORMS)
    if "input_data" in body:
        value = body["input_data"]
        if type(value) is dict and "data" in value:
            return split(value, "input_data", reader, now, check), "{0}"
        if type(value) is dict:
            return columns(value, "input_data", reader, now, check), "{0}"
        return instances(value, "input_data", reader, now, check), "{0}"
    if "data" in body:
        return instances(body["data"], "data", reader, now, check), "{0}"
    inner = body.get("Inputs")
    if type(inner) is dict and "data" in inner:
        return instances(inner["data"], "Inputs.data", reader, now, check), '{{"Results":{0}}}'
    raise InvalidInput("the body has no rows", where="body", allowed=_FORMS)
