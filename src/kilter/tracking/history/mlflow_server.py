"""A running server of MLflow, asked over its REST interface: what it keeps elsewhere, it hands out itself.

Source: https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import base64
import http.client
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from kilter.core.digests import digest
from kilter.core.errors import Damaged, InvalidInput, KilterError, NotFound, Unauthorized, Unavailable
from kilter.tracking.history.mlflow import OWN, PARENT, ended, moment, number, stood_in
from kilter.tracking.history.records import (
    Broken,
    DataSeen,
    FileSeen,
    LeftOut,
    Measured,
    ModelRead,
    ModelSeen,
    Piece,
    RunSeen,
    Said,
)
from kilter.tracking.records import DatasetInput, LoggedStatus, MetricPoint, ModelMetric

_API = "/api/2.0/mlflow"
_PROXY = "mlflow-artifacts:"
_PAGE = 1000
_POINTS = 10_000
_ATTEMPTS = 4
_DEEPEST = 64
_WORK = 100  # what a run that isn't read yet is taken for


class ServerSource:
    """Runs of a server.

    Args:
        url: Its address.
    """

    kind = "mlflow"

    def __init__(self, url: str) -> None:
        self._calls = _Calls(url)
        asked = {"max_results": _PAGE, "view_type": "ALL"}
        found = list(self._calls.pages(f"{_API}/experiments/search", asked, "experiments"))
        self._names = {str(one["experiment_id"]): str(one["name"]) for one in found}
        self._tags = {str(one["name"]): _pairs(one.get("tags")) for one in found}

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the experiments with their tags."""
        yield from self._tags.items()

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield the runs, the oldest of an experiment first: parents begin before their children."""
        for number_, name in self._names.items():
            asked = {
                "experiment_ids": [number_],
                "run_view_type": "ALL",
                "max_results": _PAGE,
                "order_by": ["attributes.start_time ASC"],
            }
            for run in self._calls.pages(f"{_API}/runs/search", asked, "runs"):
                try:
                    yield self._seen(run, name)
                except (KilterError, KeyError, TypeError) as error:
                    yield Broken(str(run.get("info", {}).get("run_id", "?")), str(error))
        for path, key, what in (
            ("registered-models/search", "registered_models", "registered model"),
            ("model-versions/search", "model_versions", "registered model's version"),
        ):
            try:
                count = sum(1 for _ in self._calls.pages(f"{_API}/{path}", {"max_results": 200}, key, get=True))
            except KilterError:
                continue
            if count:
                yield LeftOut(f"{what} (its logged model and its run are here)", count)

    def _seen(self, run: dict[str, Any], experiment: str) -> RunSeen:
        info = run["info"]
        tags = _pairs(run.get("data", {}).get("tags"))
        going = info.get("status") in {"RUNNING", "SCHEDULED"}
        return RunSeen(
            origin=info["run_id"],
            experiment=experiment,
            name=info.get("run_name") or info["run_id"],
            started_at=moment(info.get("start_time")),
            version="" if going else digest(msgspec.json.encode(run, order="sorted"))[:32],
            work=_WORK,
            status=info.get("status", ""),
            tags={name: value for name, value in tags.items() if len(value) < 200},
        )

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces: words, metrics by name, data, models, files."""
        found = self._calls.get(f"{_API}/runs/get", {"run_id": run.origin})["run"]
        info, data = found["info"], found.get("data", {})
        tags = _pairs(data.get("tags"))
        yield Said(
            params=_pairs(data.get("params")),
            tags={name: value for name, value in tags.items() if name not in OWN},
            parent=tags.get(PARENT, ""),
        )
        for metric in sorted({one["key"] for one in data.get("metrics", ())}):
            yield from self._points(run.origin, metric)
        yield from self._inputs(found)
        yield from self._models(run.origin, str(info["experiment_id"]))
        yield from self._files(run.origin, str(info.get("artifact_uri") or ""))
        yield ended(info.get("status"), info.get("end_time"), deleted=info.get("lifecycle_stage") == "deleted")

    def close(self) -> None:
        """Close the connection."""
        self._calls.close()

    # ------------------------------------------------------------ parts

    def _points(self, run: str, metric: str) -> Iterator[Piece]:
        asked = {"run_id": run, "metric_key": metric, "max_results": _POINTS}
        points: list[MetricPoint] = []
        for one in self._calls.pages(f"{_API}/metrics/get-history", asked, "metrics", get=True):
            points.append(_point(one, metric))
            if len(points) >= _POINTS:
                yield Measured(points)
                yield from stood_in(points)
                points = []
        if points:
            yield Measured(points)
            yield from stood_in(points)

    def _inputs(self, run: dict[str, Any]) -> Iterator[Piece]:
        inputs = run.get("inputs") or {}
        found = []
        for one in inputs.get("dataset_inputs", ()):
            data = one.get("dataset", {})
            found.append(
                DatasetInput(
                    name=str(data.get("name", "")),
                    digest=str(data.get("digest", "")),
                    source_type=str(data.get("source_type") or ""),
                    source=str(data.get("source") or ""),
                    schema=str(data.get("schema") or ""),
                    profile=str(data.get("profile") or ""),
                    tags=_pairs(one.get("tags")),
                )
            )
        if found:
            yield DataSeen(found)
        for one in inputs.get("model_inputs", ()):
            yield ModelRead(str(one.get("model_id")))

    def _models(self, run: str, experiment: str) -> Iterator[Piece]:
        asked = {"experiment_ids": [experiment], "filter": f"source_run_id = '{run}'", "max_results": 50}
        try:
            models = list(self._calls.pages(f"{_API}/logged-models/search", asked, "models"))
        except NotFound:  # a server before MLflow 3
            return
        for model in models:
            info, data = model.get("info", {}), model.get("data", {})
            if info.get("source_run_id") != run:
                continue
            identity = str(info["model_id"])
            yield ModelSeen(
                origin=identity,
                name=str(info.get("name") or identity),
                type=str(info.get("model_type") or ""),
                status=_status(str(info.get("status", ""))),
                params=_pairs(data.get("params")),
                tags=_pairs(info.get("tags")),
                metrics=[
                    ModelMetric(
                        point=_point(one, str(one.get("key"))),
                        run=str(one.get("run_id") or ""),
                        dataset=str(one.get("dataset_name") or ""),
                        dataset_digest=str(one.get("dataset_digest") or ""),
                    )
                    for one in data.get("metrics", ())
                ],
                files=list(self._model_files(identity, str(info.get("artifact_uri") or ""))),
            )

    def _files(self, run: str, uri: str) -> Iterator[Piece]:
        folders = [""]
        while folders:
            folder = folders.pop()
            asked = {"run_id": run, **({"path": folder} if folder else {})}
            try:
                pages = self._calls.pages(f"{_API}/artifacts/list", asked, "files", get=True)
                for one in pages:
                    name = str(one.get("path", ""))
                    if not one.get("is_dir"):
                        yield FileSeen(name, self._calls.opener(_download(uri, name, {"path": name, "run_uuid": run})))
                    elif name.count("/") < _DEEPEST and name.startswith(folder) and name != folder:
                        folders.append(name)
            except (Damaged, InvalidInput, NotFound) as error:
                yield LeftOut(f"run's artifacts that the server can't list ({error.message[:80]})")
                return

    def _model_files(self, model: str, uri: str) -> Iterator[FileSeen]:
        folders = [""]
        route = f"{_API}/logged-models/{quote(model)}/artifacts/directories"
        while folders:
            folder = folders.pop()
            for one in self._calls.pages(
                route, {"artifact_directory_path": folder} if folder else {}, "files", get=True
            ):
                name = str(one.get("path", ""))
                if one.get("is_dir") and name.count("/") < _DEEPEST and name.startswith(folder) and name != folder:
                    folders.append(name)
                elif not one.get("is_dir"):
                    ajax = f"/ajax-api/2.0/mlflow/logged-models/{quote(model)}/artifacts/files"
                    asked = f"{ajax}?{urlencode({'artifact_file_path': name})}"
                    yield FileSeen(
                        name, self._calls.opener(_download(uri, name, {}) if uri.startswith(_PROXY) else asked)
                    )


def _download(uri: str, name: str, asked: dict[str, str]) -> str:
    """Return the path from which a server hands out a file: of its own store, or of one that it reaches."""
    if uri.startswith(_PROXY):
        root = urlsplit(uri).path.strip("/")
        return f"/api/2.0/mlflow-artifacts/artifacts/{quote(f'{root}/{name}')}"
    return f"/get-artifact?{urlencode(asked)}"


def _status(status: str) -> LoggedStatus:
    if "PENDING" in status:
        return "PENDING"
    return "FAILED" if "FAILED" in status else "READY"


def _pairs(found: Any) -> dict[str, str]:
    return {str(one["key"]): str(one.get("value", "")) for one in found or () if "key" in one}


def _point(one: dict[str, Any], name: str) -> MetricPoint:
    step = int(one.get("step") or 0)
    return MetricPoint(name=name, value=number(one.get("value", 0.0)), step=step, at=moment(one.get("timestamp")))


class _Calls:
    """Calls of a server on one kept connection."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        parts = urlsplit(self._url)
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            raise InvalidInput("the port isn't a number", where=url) from None
        self._base = parts.path
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._headers = {"Accept": "application/json"}
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            self._headers["Authorization"] = f"Bearer {token}"
        elif user := os.environ.get("MLFLOW_TRACKING_USERNAME") or parts.username:
            secret = os.environ.get("MLFLOW_TRACKING_PASSWORD") or parts.password or ""
            self._headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("GET", f"{path}?{urlencode(asked)}", None)

    def pages(self, path: str, asked: Mapping[str, Any], key: str, *, get: bool = False) -> Iterator[dict[str, Any]]:
        """Yield what a search finds, page by page."""
        token, last = "", None
        while True:
            more = {**asked, **({"page_token": token} if token else {})}
            found = self.get(path, more) if get else self._call("POST", path, msgspec.json.encode(more))
            yield from found.get(key) or ()
            token, last = str(found.get("next_page_token") or ""), token
            if not token or token == last:
                return

    def opener(self, path: str) -> _Download:
        return _Download(self, path)

    def download(self, path: str) -> BinaryIO:
        """Return a body that is read in pieces, on a connection of its own."""
        connection = self._kind(self._host, self._port, timeout=120)
        try:
            connection.request("GET", self._base + path, headers=self._headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._away(error) from None
        if answer.status != 200:
            text = answer.read(2000)
            connection.close()
            raise _refused(answer.status, text, path)
        return cast("BinaryIO", answer)

    def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {**self._headers, **({"Content-Type": "application/json"} if body else {})}
        for attempt in range(_ATTEMPTS):
            try:
                if self._connection is None:
                    self._connection = self._kind(self._host, self._port, timeout=120)
                self._connection.request(method, self._base + path, body, headers)
                answer = self._connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if attempt + 1 == _ATTEMPTS:
                    raise self._away(error) from None
                time.sleep(0.2 * 2**attempt)
                continue
            if answer.status == 200:
                return _object(content, path)
            if answer.status not in {429, 502, 503, 504} or attempt + 1 == _ATTEMPTS:
                raise _refused(answer.status, content, path)
            time.sleep(0.5 * 2**attempt)
        raise AssertionError  # the loop returns or raises

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"the server does not answer ({type(error).__name__})", where=f"{self._host}:{self._port or ''}"
        )


class _Download:
    """Opens a file of the server when it is asked to."""

    def __init__(self, calls: _Calls, path: str) -> None:
        self._calls = calls
        self._path = path

    def __call__(self) -> BinaryIO:
        return self._calls.download(self._path)


def _object(content: bytes, path: str) -> dict[str, Any]:
    import json  # noqa: PLC0415 - the one parser that takes a bare NaN, which older servers send

    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            raise Damaged("the answer is no JSON", where=path, fix="is it an MLflow server?") from None
    if not isinstance(found, dict):
        raise Damaged("the answer is no object", where=path)
    return found


def _refused(status: int, content: bytes, path: str) -> KilterError:
    try:
        said = str(msgspec.json.decode(content)["message"])[:300]
    except (msgspec.DecodeError, KeyError, TypeError):
        said = f"the server answered {status}"
    where = path.partition("?")[0]
    if status in {401, 403}:
        return Unauthorized(
            said, where=where, fix="set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD"
        )
    if status == 404:
        return NotFound(said, where=where)
    if status in {429, 502, 503, 504}:
        return Unavailable(said, where=where)
    return InvalidInput(said, where=where) if status < 500 else Damaged(said, where=where)
