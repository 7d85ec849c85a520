"""Comet's offline archives: a zip with ``experiment.json``, ``messages.json`` (a message a line) and the files that were uploaded.

An archive is never unpacked: its members are read as they are asked for, by the names in its own directory. What a message says that
is neither metric, param nor file is kept as it was, in ``comet/TYPE.jsonl``.
Source: comet_ml/messages.py and comet_ml/offline.py of the package comet_ml.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from kilter.core.errors import Damaged, InvalidInput, KilterError
from kilter.tracking.history.memory import Spool
from kilter.tracking.history.names import flat
from kilter.tracking.history.records import Broken, Ended, FileSeen, LeftOut, Measured, Piece, RunSeen, Said
from kilter.tracking.records import MetricPoint, Number, spelled

_CHUNK = 2000
_LONGEST_LINE = 64 << 20
_MOST_BYTES = 64 << 30
_MOST_TIMES = 250
_SMALL = 64 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOLDERS = {
    "visualization": "images",
    "text-sample": "text",
    "histogram3d": "histograms",
    "audio": "audio",
    "video": "video",
    "confusion-matrix": "confusion-matrices",
    "curve": "curves",
    "embeddings": "embeddings",
    "source_code": "code",
    "notebook": "code",
    "dataframe": "dataframes",
    "dataframe-profile": "dataframes",
    "llm_data": "prompts",
    "git-patch": "code",
    "3d-points": "points",
}
_TEXTS = {
    "standard_output": ("output.log", "output"),
    "html": ("page.html", "html"),
    "htmlOverride": ("page.html", "html"),
    "graph": ("model_graph.txt", "graph"),
}
_UNNAMED = "auto-generated-in-the-backend"


class CometSource:
    """Offline archives.

    Args:
        place: An archive, or a folder of them.
    """

    kind = "comet"

    def __init__(self, place: Path) -> None:
        if place.is_dir():
            self._archives = sorted(path for path in place.rglob("*.zip") if not path.is_symlink())
        else:
            self._archives = [place] if place.is_file() else []
        if not self._archives:
            raise InvalidInput(
                "there is no offline archive of Comet", where=str(place), allowed="a .zip, or a folder of them"
            )

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield nothing: a project has no tags here."""
        return iter(())

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield an archive after the other; several of one experiment were resumed and are read one after the other."""
        found: dict[str, list[tuple[float, Path, dict[str, Any], int]]] = {}
        for path in self._archives:
            try:
                with _opened(path) as archive:
                    about = _about(archive, path)
                    work = archive.getinfo("messages.json").file_size
            except (KilterError, OSError, KeyError) as error:
                yield Broken(str(path), str(error))
                continue
            known = str(about.get("offline_id") or about.get("experiment_key") or path.stem)
            began = about.get("start_time")
            found.setdefault(known, []).append(
                (float(began) if isinstance(began, int | float) else 0.0, path, about, work)
            )
        for known, parts in sorted(found.items(), key=lambda one: one[1][0][0]):
            parts.sort(key=lambda part: (part[0], part[1].name))
            first = parts[0][2]
            project = "/".join(str(part) for part in (first.get("workspace"), first.get("project_name")) if part)
            sizes = sum(part[1].stat().st_size for part in parts)
            try:
                yield RunSeen(
                    origin=known,
                    experiment=project or "comet",
                    name=known,
                    started_at=_moment(first.get("start_time")),
                    version=f"{len(parts)}-{sizes}-{parts[-1][2].get('stop_time')}",
                    work=sum(part[3] for part in parts) + 1,
                    tags={str(tag): "true" for part in parts for tag in part[2].get("tags") or ()},
                    at=parts,
                )
            except Damaged as error:
                yield Broken(known, str(error))

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces, in the order of its messages."""
        with Spool() as spool:
            yield from _Reading(run, spool).pieces()

    def close(self) -> None:
        """Nothing is held."""


def _opened(path: Path) -> zipfile.ZipFile:
    """Open an archive, and refuse a bomb before anything is unpacked.

    Raises:
        Damaged: When it is no archive, or claims to hold absurdly much.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Damaged(f"the file is no zip archive: {error}", where=path.name) from None
    total, packed = sum(one.file_size for one in archive.infolist()), path.stat().st_size
    if total > _MOST_BYTES or (total > 1 << 28 and total > packed * _MOST_TIMES):
        archive.close()
        raise Damaged(
            f"the archive would unpack to {total:,} bytes", where=path.name, allowed=f"{_MOST_TIMES} times its size"
        )
    return archive


def _about(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    if not {"experiment.json", "messages.json"} <= set(archive.namelist()):
        raise Damaged(
            "the archive is none of Comet's", where=path.name, allowed="one with experiment.json and messages.json"
        )
    if archive.getinfo("experiment.json").file_size > _SMALL:
        raise Damaged("experiment.json is too long", where=path.name)
    found = _json(_unpacked(archive, "experiment.json", path), path.name)
    if not isinstance(found, dict):
        raise Damaged("experiment.json is no object", where=path.name)
    return found


def _unpacked(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Damaged(f"{name} can't be unpacked: {error}", where=path.name) from None


def _moment(milliseconds: Any) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=float(milliseconds or 0))
    except (ValueError, OverflowError, TypeError):
        raise Damaged(f"{str(milliseconds)[:40]!r} is no time", where="comet") from None


class _Reading:
    """One experiment's messages on their way."""

    def __init__(self, run: RunSeen, spool: Spool) -> None:
        self._run = run
        self._spool = spool
        self._points: list[MetricPoint] = []
        self._params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._name = ""
        self._taken: set[str] = set()
        self._last = run.started_at

    def pieces(self) -> Iterator[Piece]:
        """Yield them."""
        for _, path, about, _ in self._run.at:
            with _opened(path) as archive:
                members, done = set(archive.namelist()), 0
                for message, size in _messages(archive, path):
                    done += size
                    yield from self._message(message, archive, members)
                    if len(self._points) >= _CHUNK:
                        yield self._measured(done)
                        done = 0
                yield self._measured(done)
            self._tags |= {f"comet.tag.{tag}": "true" for tag in about.get("tags") or ()}
            if about.get("stop_time"):
                self._last = max(self._last, _moment(about["stop_time"]))
        ended = all(about.get("stop_time") for _, _, about, _ in self._run.at)
        self._tags |= {"comet.experiment": self._run.origin}
        yield Said(params=self._params, tags=self._tags, name=self._name)
        yield from self._spool.files()
        yield Ended("FINISHED" if ended else "INTERRUPTED", self._last)

    def _measured(self, work: int) -> Measured:
        points, self._points = self._points, []
        return Measured(points, work)

    def _message(self, message: dict[str, Any], archive: zipfile.ZipFile, members: set[str]) -> Iterator[Piece]:
        kind, payload = message.get("type"), message.get("payload")
        if not isinstance(payload, dict):
            yield LeftOut("message without a content")
            return
        if kind == "file_upload":
            yield from self._file(payload, archive, members)
        elif kind in {"remote_file", "remote_model"}:
            self._keep(kind, payload)
            yield LeftOut(f"reference to a file elsewhere (its address is in comet/{kind}.jsonl)")
        elif kind in _TEXTS:
            name, field = _TEXTS[kind]
            self._spool.text(name, str(payload.get(field, "")))
        else:
            self._note(str(kind), payload)

    def _note(self, kind: str, payload: dict[str, Any]) -> None:
        match kind:
            case "metric_msg":
                self._metric(payload)
            case "parameter_msg":
                self._param(payload)
            case "log_other" if payload.get("key") == "Name":
                self._name = str(payload.get("value"))
            case "log_other":
                value = payload.get("value")
                self._tags[f"comet.other.{payload.get('key')}"] = value if isinstance(value, str) else json.dumps(value)
            case "file_name":
                self._tags["mlflow.source.name"] = str(payload.get("file_name"))
            case "git_metadata":
                self._git(payload)
            case "system_details":
                self._system(payload)
            case _:
                self._keep(kind, payload)

    def _keep(self, kind: str, payload: dict[str, Any]) -> None:
        self._spool.line(f"comet/{kind}.jsonl", json.dumps(payload))

    def _metric(self, payload: dict[str, Any]) -> None:
        metric = payload.get("metric") or {}
        at = _moment(payload.get("local_timestamp"))
        self._last = max(self._last, at)
        context = payload.get("context")
        name = str(metric.get("metricName"))
        step = metric.get("step")
        if step is None:  # what the client measures by itself before the first step
            step = int((at - self._run.started_at).total_seconds())
        named = f"{context}_{name}" if context else name
        self._points.append(MetricPoint(name=named, value=_number(metric.get("metricValue")), step=_step(step), at=at))

    def _param(self, payload: dict[str, Any]) -> None:
        found = payload.get("param") or payload.get("params") or {}
        name = str(found.get("paramName")).replace("|", ".")  # Comet's own sign for what is nested
        value, step = found.get("paramValue"), found.get("step")
        if found.get("source") == "auto-logged" and name in {"curr_step", "curr_epoch"}:
            if name == "curr_epoch":  # it goes on with the steps: it is measured, not given
                at = _moment(payload.get("local_timestamp"))
                self._points.append(MetricPoint(name=name, value=_number(value), step=_step(step or 0), at=at))
            return
        self._params |= flat(value, name) or {name: None}

    def _git(self, payload: dict[str, Any]) -> None:
        found = payload.get("git_metadata") or payload
        said = {
            "mlflow.source.git.commit": found.get("parent") or found.get("commit"),
            "mlflow.source.git.branch": found.get("branch"),
            "mlflow.source.git.repoURL": found.get("origin"),
        }
        self._tags |= {name: str(value) for name, value in said.items() if value}
        self._keep("git_metadata", payload)

    def _system(self, payload: dict[str, Any]) -> None:
        said = {
            "mlflow.user": payload.get("user"),
            "comet.host": payload.get("hostname"),
            "comet.os": payload.get("os"),
            "comet.python": payload.get("python_version"),
        }
        self._tags |= {name: str(value) for name, value in said.items() if value}
        self._keep("system_details", payload)

    def _file(self, payload: dict[str, Any], archive: zipfile.ZipFile, members: set[str]) -> Iterator[Piece]:
        member = str(payload.get("file_path"))
        if member not in members:
            yield LeftOut("file that is not in the archive")
            return
        about = payload.get("additional_params") or {}
        kind = str(payload.get("upload_type") or "asset")
        given = str(about.get("figName") or about.get("fileName") or "")
        plain = given if given and given != _UNNAMED else str(about.get("assetId") or about.get("imageId") or member)
        ending = str(
            about.get("extension") or ("txt" if kind == "text-sample" else "json" if kind == "histogram3d" else "")
        )
        if ending and not plain.lower().endswith(f".{ending.lower()}"):
            plain = f"{plain}.{ending}"
        match kind:
            case "asset":
                name = plain
            case "model-element":
                name = f"models/{about.get('groupingName') or 'model'}/{plain}"
            case _:
                name = f"{_FOLDERS.get(kind, kind)}/{plain}"
        step = about.get("step")
        if name in self._taken and step is not None:  # the same thing at another step
            stem, dot, suffix = name.rpartition(".")
            name = f"{stem}-{step}.{suffix}" if dot else f"{name}-{step}"
        while name in self._taken:
            name = f"{about.get('assetId') or about.get('imageId') or member}/{name}"
        self._taken.add(name)
        if payload.get("metadata"):
            self._keep("file_metadata", {"file": name, "metadata": payload["metadata"]})
        yield FileSeen(name, _Member(archive, member))


class _Member:
    """Opens a member of an archive when it is asked to."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive = archive
        self._name = name

    def __call__(self) -> BinaryIO:
        try:
            return cast("BinaryIO", self._archive.open(self._name))
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
            raise Damaged(f"{self._name} can't be unpacked: {error}", where=str(self._archive.filename)) from None


def _messages(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    decoder = msgspec.json.Decoder()
    number = 0
    try:
        with archive.open("messages.json") as file:
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise Damaged("a message is too long", where=f"{path.name}, line {number:,}")
                if not line.strip():
                    continue
                try:
                    message = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    message = _json(line, f"{path.name}, line {number:,}")
                if not isinstance(message, dict):
                    raise Damaged("a message is no object", where=f"{path.name}, line {number:,}")
                yield message, len(line)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise Damaged(f"messages.json can't be unpacked: {error}", where=path.name) from None


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Damaged("a message is no JSON", where=where) from None


def _number(value: Any) -> Number:
    try:
        return spelled(float(value))
    except (ValueError, TypeError):
        raise Damaged(f"{str(value)[:40]!r} is no number", where="metric") from None


def _step(value: Any) -> int:
    try:
        return int(value)
    except (ValueError, TypeError, OverflowError):
        raise Damaged(f"{str(value)[:40]!r} is no step", where="metric") from None
