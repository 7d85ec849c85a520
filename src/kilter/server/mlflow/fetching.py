"""Files by what they belong to instead of where they lie, as MLflow's own pages ask for them."""

from __future__ import annotations

from urllib.parse import parse_qs

from kilter.core.errors import NotFound
from kilter.llm.service import TraceService
from kilter.registry.elsewhere import FIX, lies_elsewhere
from kilter.registry.service import ModelService
from kilter.server.edge import Scope
from kilter.server.mlflow.artifacts import relative
from kilter.server.mlflow.fields import missing
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.sources import location
from kilter.server.mlflow.trace_files import DATA
from kilter.server.problems import WrongMethod
from kilter.tracking.service import RunService

_RUN = "/get-artifact"
_VERSION = "/model-versions/get-artifact"
_TRACE = frozenset({"/api/2.0/mlflow/get-trace-artifact", "/api/3.0/mlflow/get-trace-artifact"})
_LOGGED = "/api/2.0/mlflow/logged-models/"
_FILES = "/artifacts/files"
_LOCATION = "mlflow-artifacts:/"


def is_fetched(path: str) -> bool:
    """Say whether a file is asked for at this path."""
    return path in {_RUN, _VERSION} or path in _TRACE or (path.startswith(_LOGGED) and path.endswith(_FILES))


class Fetching:
    """Finds where a file lies.

    Args:
        runs: The tracking's operations.
        models: The registry's, where there is one.
        traces: The traces', where there are any.
    """

    def __init__(self, runs: RunService, models: ModelService | None, traces: TraceService | None) -> None:
        self._runs = runs
        self._models = models
        self._traces = traces

    def place(self, scope: Scope) -> str:
        """Return the path below the artifacts' proxy of the file that a request asks for.

        Raises:
            Refused: When it isn't said which, or there is no such run, version, model or trace.
        """
        if scope["method"] not in {"GET", "HEAD"}:
            raise WrongMethod("the path doesn't know this method", where="method", allowed="GET, HEAD")
        asked = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        path: str = scope["path"]
        if path in _TRACE:
            trace, name = asked.get("request_id"), asked.get("path")
            if not trace:
                raise Refused("BAD_REQUEST", 'Request must include the "request_id" query parameter.')
            return f"{self._of_trace(trace)}/{f'attachments/{_name(name)}' if name else DATA}"
        if path == _RUN:
            run = asked.get("run_id") or asked.get("run_uuid") or ""
            return f"{self._of_run(run)}/{_name(asked.get('path'))}"
        if path == _VERSION:
            return f"{self._of_version(asked.get('name', ''), asked.get('version', ''))}/{_name(asked.get('path'))}"
        model, file = path[len(_LOGGED) : -len(_FILES)], asked.get("artifact_file_path")
        if not file:
            raise Refused("BAD_REQUEST", 'Request must include the "artifact_file_path" query parameter.')
        try:
            return f"{self._runs.logged_model(model).experiment_number}/models/{model}/artifacts/{_name(file)}"
        except NotFound:
            raise Refused(MISSING, f"Logged model with ID '{model}' not found.") from None

    def _of_run(self, run: str) -> str:
        try:
            return f"{self._runs.get(run).experiment_number}/{run}/artifacts"
        except NotFound:
            raise Refused(MISSING, f"Run with id={run} not found") from None

    def _of_trace(self, trace: str) -> str:
        unknown = Refused(MISSING, f"Trace with ID '{trace}' not found.")
        if self._traces is None:
            raise unknown
        try:
            return f"{self._traces.info(trace).experiment}/traces/{trace}/artifacts"
        except NotFound:
            raise unknown from None

    def _of_version(self, name: str, version: str) -> str:
        unknown = Refused(MISSING, f"Model Version (name={name}, version={version}) not found")
        if self._models is None:
            raise unknown
        try:
            at = location(self._models.registered_version(name, version))
        except NotFound:
            raise unknown from None
        if at.startswith("runs:/"):
            run, _, folder = at.removeprefix("runs:/").partition("/")
            return f"{self._of_run(run)}/{folder}".rstrip("/")
        if lies_elsewhere(at):
            raise Refused(INVALID, f"The files of (name={name}, version={version}) lie elsewhere, and this server doesn't read them: "
                          f"'{at[:500]}'. Read them with your own client, or bring them: {FIX}.")  # fmt: skip
        if not at.startswith(_LOCATION):
            raise unknown
        return at.removeprefix(_LOCATION).strip("/")


def _name(path: str | None) -> str:
    """Return a file's path, which has to be there."""
    name = relative(path or "")
    if not name:
        raise missing("path")
    return name
