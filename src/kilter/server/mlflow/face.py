"""The table of MLflow's calls, and how one is answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from kilter.core.errors import Forbidden
from kilter.operations.table import ROLES, Role
from kilter.server.api import body_of, read_object
from kilter.server.edge import REQUEST, ROLE, Receive, Scope, Send
from kilter.server.mlflow.artifacts import PROXY, Artifacts
from kilter.server.mlflow.experiments import Experiments
from kilter.server.mlflow.fields import Fields, Query
from kilter.server.mlflow.models import Models
from kilter.server.mlflow.problems import Refused, answer_of
from kilter.server.mlflow.runs import Runs
from kilter.server.pool import Pool
from kilter.server.problems import WrongMethod, known
from kilter.tracking.service import RunService

VERSION = "3.18.0"
"""The version of MLflow whose wire this is: clients ask for it, to know what they may call."""

Call = Callable[..., dict[str, Any]]

_API = "/api/2.0/mlflow"
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_READING = frozenset({"/experiments/search", "/runs/search", "/logged-models/search"})
"""What is posted and yet only read."""


class Table:
    """MLflow's calls by path and method; a part of a path in braces is an argument.

    Args:
        calls: ``{path: {method: call}}``.
    """

    def __init__(self, calls: Mapping[str, Mapping[str, Call]]) -> None:
        self._plain = {path: methods for path, methods in calls.items() if "{" not in path}
        self._parts = [(tuple(path.split("/")), methods) for path, methods in calls.items() if "{" in path]

    def find(self, path: str) -> tuple[Mapping[str, Call], tuple[str, ...]]:
        """Return the calls of a path by method, and the arguments that are in the path.

        Raises:
            Refused: When there is nothing at this path.
        """
        plain = self._plain.get(path)
        if plain is not None:
            return plain, ()
        parts = path.split("/")
        for wanted, methods in self._parts:
            if len(wanted) == len(parts) and all(
                one == part or (one.startswith("{") and part) for one, part in zip(wanted, parts, strict=True)
            ):
                found = tuple(part for one, part in zip(wanted, parts, strict=True) if one.startswith("{"))
                return methods, found
        raise Refused("ENDPOINT_NOT_FOUND", f"There is nothing at {_API}{path[:200]}")


def table(runs: RunService, artifacts: Artifacts) -> Table:
    """Return the table of MLflow's calls."""
    about = Experiments(runs)
    of, models = Runs(runs, about), Models(runs, about)
    return Table(
        {
            "/experiments/create": {"POST": about.create},
            "/experiments/get": {"GET": about.get},
            "/experiments/get-by-name": {"GET": about.get_by_name},
            "/experiments/search": {"GET": about.search, "POST": about.search},
            "/experiments/update": {"POST": about.update},
            "/experiments/delete": {"POST": about.delete},
            "/experiments/restore": {"POST": about.restore},
            "/experiments/set-experiment-tag": {"POST": about.set_tag},
            "/experiments/delete-experiment-tag": {"POST": about.delete_tag},
            "/runs/create": {"POST": of.create},
            "/runs/get": {"GET": of.get},
            "/runs/update": {"POST": of.update},
            "/runs/delete": {"POST": of.delete},
            "/runs/restore": {"POST": of.restore},
            "/runs/search": {"POST": of.search},
            "/runs/log-metric": {"POST": of.log_metric},
            "/runs/log-parameter": {"POST": of.log_parameter},
            "/runs/log-batch": {"POST": of.log_batch},
            "/runs/log-inputs": {"POST": of.log_inputs},
            "/runs/outputs": {"POST": of.log_outputs},
            "/runs/log-model": {"POST": of.log_model},
            "/runs/set-tag": {"POST": of.set_tag},
            "/runs/delete-tag": {"POST": of.delete_tag},
            "/metrics/get-history": {"GET": of.history},
            "/metrics/get-history-bulk-interval": {"GET": of.sampled},
            "/artifacts/list": {"GET": artifacts.of_run},
            "/logged-models": {"POST": models.create},
            "/logged-models/search": {"POST": models.search},
            "/logged-models/{id}": {"GET": models.get, "PATCH": models.finalize, "DELETE": models.delete},
            "/logged-models/{id}/params": {"POST": models.log_params},
            "/logged-models/{id}/tags": {"PATCH": models.set_tags},
            "/logged-models/{id}/tags/{key}": {"DELETE": models.delete_tag},
            "/logged-models/{id}/artifacts/directories": {"GET": models.files},
        }
    )


_INFO = {
    "store_type": "SqlStore",
    "workspaces_enabled": False,
    "trace_archival_enabled": False,
    "multipart_uploads_enabled": False,
    "multipart_downloads_enabled": False,
    "presigned_upload_run_id_supported": False,
    "presigned_upload_model_id_supported": False,
    "features_enabled": {"gateway": False},
}


class Wire:
    """The ASGI application that speaks MLflow's wire.

    Args:
        runs: The room's operations.
        pool: Where they run.
    """

    def __init__(self, runs: RunService, pool: Pool) -> None:
        self._pool = pool
        self._artifacts = Artifacts(runs, pool)
        self._table = table(runs, self._artifacts)
        self._fixed = {
            "/version": (VERSION.encode(), _TEXT),
            "/health": (b"OK", _TEXT),
            "/api/3.0/mlflow/server-info": (msgspec.json.encode(_INFO), _JSON),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call; its errors are MLflow's."""
        try:
            path, method = scope["path"], scope["method"]
            _check_role(scope, path, _needs(path, method))
            if path == PROXY or path.startswith(f"{PROXY}/"):
                await self._artifacts.answer(scope, path[len(PROXY) :], receive, send)
            elif path in self._fixed:
                body, kind = self._fixed[path]
                await reply(send, 200, body if method != "HEAD" else b"", [kind])
            else:
                await self._call(scope, path, receive, send)
        except Exception as error:  # noqa: BLE001 - whatever happens is answered in this wire's own words
            status, body = answer_of(known(error, str(scope.get(REQUEST, ""))))
            await reply(send, status, body, [_JSON])

    async def _call(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        method = scope["method"]
        methods, parts = self._table.find(path.removeprefix(_API) if path.startswith(f"{_API}/") else "")
        call = methods.get(method)
        if call is None:
            raise WrongMethod("the path doesn't know this method", where="method", allowed=", ".join(methods))
        given = _query(scope["query_string"])
        fields = Fields(given if method == "GET" else {**given, **read_object(await body_of(cast("Any", receive)))})
        body = await self._pool.run(lambda: msgspec.json.encode(call(fields, *parts)))
        await reply(send, 200, body, [_JSON])


def _needs(path: str, method: str) -> Role:
    return "viewer" if method in {"GET", "HEAD"} or path.removeprefix(_API) in _READING else "operator"


def _check_role(scope: Scope, path: str, needed: Role) -> None:
    if ROLES.index(scope.get(ROLE, "viewer")) < ROLES.index(needed):
        raise Forbidden("the token's role doesn't allow this call", where=path, allowed=needed)


async def reply(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Send a whole answer."""
    fields = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _query(text: bytes) -> dict[str, Query]:
    found: defaultdict[str, Query] = defaultdict(Query)
    for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=200):
        found[name].append(value)
    return found
