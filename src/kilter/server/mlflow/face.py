"""The table of MLflow's calls, and how one is answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from kilter.llm.datasets import EvaluationDatasetService
from kilter.llm.scorers import ScorerService
from kilter.llm.service import TraceService
from kilter.operations.identity import Identity, asked_by
from kilter.operations.table import ROLES, Role
from kilter.registry.service import ModelService
from kilter.server.api import body_of, read_object
from kilter.server.edge import IDENTITY, REQUEST, Receive, Scope, Send
from kilter.server.mlflow.artifacts import PRESIGNED, PROXY, Artifacts, Broken
from kilter.server.mlflow.experiments import Experiments
from kilter.server.mlflow.exported import Exported
from kilter.server.mlflow.fetching import Fetching, is_fetched
from kilter.server.mlflow.fields import Fields, Query
from kilter.server.mlflow.histories import Histories
from kilter.server.mlflow.hot import LARGEST, Hot
from kilter.server.mlflow.llm import READING, calls_of_3, calls_of_scorers, traces_of_2
from kilter.server.mlflow.models import Models
from kilter.server.mlflow.multipart import MULTIPART
from kilter.server.mlflow.problems import INVALID, Refused, answer_of
from kilter.server.mlflow.runs import Runs
from kilter.server.mlflow.versions import registry_calls
from kilter.server.pool import Pool
from kilter.server.problems import WrongMethod, known
from kilter.server.targets import Targets
from kilter.tracking.service import RunService

VERSION = "3.18.0"
"""The version of MLflow whose wire this is: clients ask for it, to know what they may call."""

Call = Callable[..., dict[str, Any]]

_ANYBODY = Identity()
_ASKED = 2_000
_API = "/api/2.0/mlflow"
_API_3 = "/api/3.0/mlflow"
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_READING = frozenset(
    {
        "/experiments/search",
        "/experiments/search-datasets",
        "/runs/search",
        "/logged-models/search",
        "/registered-models/get-latest-versions",
    }
)
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


def table(
    runs: RunService, about: Experiments, of: Runs, artifacts: Artifacts, registry: ModelService | None = None
) -> Table:
    """Return the table of MLflow's calls; those about the registry, where there is one."""
    models, histories = Models(runs, about), Histories(runs)
    return Table(
        {
            "/experiments/create": {"POST": about.create},
            "/experiments/get": {"GET": about.get},
            "/experiments/get-by-name": {"GET": about.get_by_name},
            "/experiments/search": {"GET": about.search, "POST": about.search},
            "/experiments/update": {"POST": about.update},
            "/experiments/delete": {"POST": about.delete},
            "/experiments/restore": {"POST": about.restore},
            "/experiments/search-datasets": {"POST": about.search_datasets},
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
            "/metrics/get-history-bulk": {"GET": histories.bulk},
            "/metrics/get-history-bulk-interval": {"GET": histories.sampled},
            "/artifacts/list": {"GET": artifacts.of_run},
            "/logged-models": {"POST": models.create},
            "/logged-models/search": {"POST": models.search},
            "/logged-models/{id}": {"GET": models.get, "PATCH": models.finalize, "DELETE": models.delete},
            "/logged-models/{id}/params": {"POST": models.log_params},
            "/logged-models/{id}/tags": {"PATCH": models.set_tags},
            "/logged-models/{id}/tags/{key}": {"DELETE": models.delete_tag},
            "/logged-models/{id}/artifacts/directories": {"GET": models.files},
            **({} if registry is None else registry_calls(registry, runs)),
        }
    )


_INFO = {
    "store_type": "SqlStore",
    "workspaces_enabled": False,
    "trace_archival_enabled": False,
    "multipart_uploads_enabled": True,
    "multipart_downloads_enabled": False,
    "presigned_upload_run_id_supported": False,
    "presigned_upload_model_id_supported": False,
    "features_enabled": {"gateway": False},
}


@dataclass(frozen=True)
class Rooms:
    """The rooms that MLflow's wire speaks for.

    Args:
        runs: Experiments and runs.
        models: The registry.
        traces: Traces of applications on language models.
        datasets: Datasets that they are judged by.
        exported: Registered versions as MLflow models.
        scorers: Scorers that applications are judged by.
    """

    runs: RunService
    models: ModelService | None = None
    traces: TraceService | None = None
    datasets: EvaluationDatasetService | None = None
    exported: Exported | None = None
    scorers: ScorerService | None = None


class Wire:
    """The ASGI application that speaks MLflow's wire.

    Args:
        rooms: What it speaks for.
        pool: Where their operations run.
        targets: Finds what a call is about.

    Attributes:
        rooms: What it speaks for.
        hot: The calls that a training makes all the time.
    """

    def __init__(self, rooms: Rooms, pool: Pool, targets: Targets) -> None:
        runs, traces, datasets = rooms.runs, rooms.traces, rooms.datasets
        self.rooms = rooms
        self._pool = pool
        self._targets = targets
        self._artifacts = Artifacts(runs, pool, traces, rooms.exported)
        self._fetching = Fetching(runs, rooms.models, traces)
        about = Experiments(runs)
        of = Runs(runs, about)
        self._table = table(runs, about, of, self._artifacts, rooms.models)
        self._of_2 = Table(traces_of_2(runs, traces) if traces is not None else {})
        of_3 = calls_of_3(runs, traces, datasets) if traces is not None and datasets is not None else {}
        of_scorers = {} if rooms.scorers is None else calls_of_scorers(runs, rooms.scorers)
        self._of_3 = Table({**of_3, **of_scorers})
        self.hot = Hot(runs)
        self._fixed = {
            "/version": (VERSION.encode(), _TEXT),
            "/health": (b"OK", _TEXT),
            "/api/3.0/mlflow/server-info": (msgspec.json.encode(_INFO), _JSON),
        }

    def close(self) -> None:
        """End what it runs."""
        self.hot.groups.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call; its errors are MLflow's."""
        try:
            path, method = scope["path"], scope["method"]
            identity: Identity = scope.get(IDENTITY, _ANYBODY)
            needed = _needs(path, method)
            if ROLES.index(identity.best()) < ROLES.index(needed):
                identity.check(needed, (), path)
            if path == PROXY or path.startswith(f"{PROXY}/"):
                await self._check(identity, needed, path, lambda: self._targets.of_file(path[len(PROXY) :]))
                await self._artifacts.answer(scope, path[len(PROXY) :], receive, send)
            elif path.startswith(f"{MULTIPART}/"):
                if not path.startswith(
                    f"{MULTIPART}/part/"
                ):  # whoever may begin an upload has an address for its parts
                    await self._check(identity, needed, path, lambda: self._targets.of_file(_part_of(path)))
                found, headers = await self._artifacts.multipart.answer(scope, path[len(MULTIPART) :], receive)
                await reply(send, 200, msgspec.json.encode(found), [_JSON, *headers])
            elif path.startswith(f"{PRESIGNED}/"):
                answer = await self._artifacts.presigned(scope, path[len(PRESIGNED) :])
                await reply(send, 200, msgspec.json.encode(answer), [_JSON])
            elif is_fetched(path):
                place = await self._pool.run(lambda: self._fetching.place(scope))
                await self._check(identity, needed, path, lambda: self._targets.of_file(place))
                await self._artifacts.answer(scope, f"/{place}", receive, send)
            elif path in self._fixed:
                body, kind = self._fixed[path]
                await reply(send, 200, body if method != "HEAD" else b"", [kind])
            else:
                await self._call(scope, path, identity, receive, send)
        except Broken:
            raise
        except Exception as error:  # noqa: BLE001 - whatever happens is answered in this wire's own words
            status, body = answer_of(known(error, str(scope.get(REQUEST, ""))))
            await reply(send, status, body, [_JSON])

    async def _check(self, identity: Identity, needed: Role, path: str, names: Callable[[], tuple[str, ...]]) -> None:
        if ROLES.index(identity.role) < ROLES.index(needed):
            await self._pool.run(lambda: identity.check(needed, names(), path))

    async def _call(self, scope: Scope, path: str, identity: Identity, receive: Receive, send: Send) -> None:
        method = scope["method"]
        methods, parts = self._calls(path)
        call = methods.get(method)
        if call is None:
            raise WrongMethod("the path doesn't know this method", where="method", allowed=", ".join(methods))
        given = _query(scope["query_string"])
        content = b"" if method == "GET" else await body_of(cast("Any", receive))
        below = path.removeprefix(_API)
        needed = _needs(path, method)
        allowed = ROLES.index(identity.role) >= ROLES.index(needed)
        hot = self.hot.calls.get(below) if allowed and not given and 0 < len(content) <= LARGEST else None
        if hot is not None and await self.hot.groups.ask((hot, content)):
            await reply(send, 200, b"{}", [_JSON])
            return

        def answer() -> bytes:
            said = {**given, **read_object(content)}
            if not allowed:
                identity.check(needed, self._targets.of_wire(below, said, parts), path)
            with asked_by(identity):
                return msgspec.json.encode(call(Fields(said, by=_who(identity), host=_host(scope)), *parts))

        await reply(send, 200, await self._pool.run(answer), [_JSON])

    def _calls(self, path: str) -> tuple[Mapping[str, Call], tuple[str, ...]]:
        if path.startswith(f"{_API_3}/"):
            return self._of_3.find(path.removeprefix(_API_3))
        of_traces = path == f"{_API}/traces" or path.startswith(f"{_API}/traces/")
        return (self._of_2 if of_traces else self._table).find(
            path.removeprefix(_API) if path.startswith(f"{_API}/") else ""
        )


def _who(identity: Identity) -> str:
    """Return who calls, for the registry's history; of a token of the store, its role."""
    return identity.name or f"{identity.role} (MLflow client)"


def _host(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), "")


def _part_of(path: str) -> str:
    """Return which file an upload in parts is of: it stands behind the verb."""
    return path[len(MULTIPART) :].strip("/").partition("/")[2]


def _needs(path: str, method: str) -> Role:
    rest = path.removeprefix(_API_3).removeprefix(_API)
    return "viewer" if method in {"GET", "HEAD"} or rest in _READING or rest in READING else "editor"


async def reply(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Send a whole answer."""
    fields = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _query(text: bytes) -> dict[str, Query]:
    if not text:
        return {}
    found: defaultdict[str, Query] = defaultdict(Query)
    try:
        pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=_ASKED)
    except ValueError:
        raise Refused(INVALID, f"The query has more than {_ASKED} values.") from None
    for name, value in pairs:
        found[name].append(value)
    return found
