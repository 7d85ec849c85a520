"""Runs of Weights & Biases that were made offline: ``wandb/offline-run-*`` folders, or folders that hold them.

What a run logged is a metric where it is a number or a truth, and kept as a file where it is media or anything else: nothing that
was logged is lost for want of a number. System metrics are named ``system/...``; the console is ``output.log``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kilter.core.errors import Damaged, InvalidInput, KilterError
from kilter.tracking.history.memory import Spool, small_file
from kilter.tracking.history.names import flat, text
from kilter.tracking.history.places import Places, opener
from kilter.tracking.history.records import (
    Broken,
    DataSeen,
    Ended,
    FileSeen,
    LeftOut,
    Measured,
    Piece,
    RunSeen,
    Said,
)
from kilter.tracking.history.wandb_log import records
from kilter.tracking.records import DatasetInput, MetricPoint, spelled

_CHUNK = 2000
_MOST_TEXT = 1000
_OWN = frozenset({"_step", "_timestamp", "_runtime", "_wandb"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTERNAL = {"telemetry", "header", "footer", "final", "request", "output_logger", "preempting", None}


class WandbSource:
    """Offline runs below a folder.

    Args:
        place: A run's folder, a ``wandb`` folder, a ``.wandb`` file, or a folder above.
        files: A further folder that files may come from: artifacts are staged outside of the run.
    """

    kind = "wandb"

    def __init__(self, place: Path, files: Path | None = None) -> None:
        if not place.exists():
            raise InvalidInput("there is no such folder", where=str(place))
        self._logs = _logs(place)
        self._files = files
        if not self._logs:
            raise InvalidInput(
                "there is no run of Weights & Biases",
                where=str(place),
                allowed="a folder with offline-run-*/run-*.wandb",
            )

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield nothing: a project has no tags of its own."""
        return iter(())

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield the runs, by their folders' names, which begin with the time."""
        for log in self._logs:
            try:
                yield self._seen(log)
            except (KilterError, OSError) as error:
                yield Broken(str(log), str(error))

    def _seen(self, log: Path) -> RunSeen:
        for record, _ in records(log):
            if record.WhichOneof("kind") != "run":
                continue
            run = record.run
            size = log.stat().st_size
            tags = {"wandb.group": run.run_group, "wandb.job_type": run.job_type, "wandb.sweep": run.sweep_id}
            return RunSeen(
                origin="/".join(part for part in (run.entity, run.project, run.run_id) if part),
                experiment=run.project or "uncategorized",
                name=run.display_name or run.run_id,
                started_at=_moment(run.start_time),
                version=f"{size}-{_digest_of_files(log.parent)}",
                work=size,
                tags={name: value for name, value in tags.items() if value},
                at=log,
            )
        raise Damaged("the log names no run", where=log.name)

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces, in the order of its log; settings come when the last word about them is said."""
        with Spool() as spool:
            yield from _Reading(run, Places.of(run.at.parent, self._files), spool).pieces()

    def close(self) -> None:
        """Nothing is held."""


def _logs(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = {
        path.resolve(): path
        for path in (
            *place.glob("run-*.wandb"),
            *place.glob("*run-*/run-*.wandb"),
            *place.glob("wandb/*run-*/run-*.wandb"),
        )
        if not path.parent.is_symlink()
    }
    if not found:
        found = {path.resolve(): path for path in place.glob("**/run-*.wandb") if not path.parent.is_symlink()}
    return sorted(found.values(), key=lambda path: (path.parent.name, path.name))


def _digest_of_files(folder: Path) -> str:
    """Return a word that changes when a file is added to a run's folder, or grows."""
    files = [path.stat() for path in sorted((folder / "files").rglob("*")) if path.is_file()]
    return f"{len(files)}-{sum(found.st_size for found in files)}"


class _Reading:
    """One run's log on its way."""

    def __init__(self, run: RunSeen, places: Places, spool: Spool) -> None:
        self._run = run
        self._log: Path = run.at
        self._files = self._log.parent / "files"
        self._places = places
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._said = Said()
        self._points: list[MetricPoint] = []
        self._read_to = 0
        self._last = run.started_at
        self._exit: int | None = None
        self._runtime = 0
        self._spool = spool
        self._has_console = (self._files / "output.log").is_file()

    def pieces(self) -> Iterator[Piece]:
        """Yield them."""
        by_kind: dict[str | None, Callable[[Any], Iterator[Piece]]] = {
            "history": self._history,
            "stats": self._stats,
            "artifact": self._artifact,
            "use_artifact": self._used,
            "alert": self._alert,
            "metric": self._metric,
        }
        for record, end in records(self._log):
            kind = record.WhichOneof("kind")
            if kind in by_kind:
                yield from by_kind[kind](getattr(record, kind))
                if len(self._points) >= _CHUNK:
                    yield self._measured(end)
            elif kind not in _INTERNAL:
                self._note(kind, record)
                if kind == "tbrecord":
                    yield LeftOut("TensorBoard folder that the run synced (import it by itself)")
        if self._points:
            yield self._measured(self._read_to)
        yield from self._end()

    def _measured(self, end: int) -> Measured:
        points, self._points = self._points, []
        work, self._read_to = end - self._read_to, end
        return Measured(points, work)

    def _note(self, kind: str | None, record: Any) -> None:
        if kind == "run":
            self._about(record.run)
        elif kind == "config":
            _update(self._config, record.config)
        elif kind == "summary":
            _update(self._summary, record.summary)
        elif kind == "exit":
            self._exit, self._runtime = record.exit.exit_code, record.exit.runtime
        elif kind == "environment":
            self._environment(record.environment)
        elif kind in {"output", "output_raw"} and not self._has_console:
            line = getattr(record, kind).line
            self._spool.text("output.log", line if line.endswith("\n") else f"{line}\n")

    def _about(self, run: Any) -> None:
        _update(self._config, run.config)
        _update(self._summary, run.summary)
        said = {
            "wandb.entity": run.entity,
            "wandb.run": run.run_id,
            "wandb.group": run.run_group,
            "wandb.job_type": run.job_type,
            "wandb.sweep": run.sweep_id,
            "wandb.host": run.host,
            "mlflow.note.content": run.notes,
            "mlflow.source.git.commit": run.git.commit,
            "mlflow.source.git.repoURL": run.git.remote_url,
            "wandb.fork": f"{run.branch_point.run}?{run.branch_point.value:g}" if run.branch_point.run else "",
        }
        said |= {f"wandb.tag.{tag}": "true" for tag in run.tags}
        self._tags |= {name: value for name, value in said.items() if value}
        self._said = Said(name=run.display_name or run.run_id)

    def _environment(self, found: Any) -> None:
        said = {
            "mlflow.user": found.username,
            "mlflow.source.name": found.program,
            "mlflow.source.git.commit": found.git.commit,
            "mlflow.source.git.repoURL": found.git.remote_url,
            "wandb.python": found.python,
            "wandb.os": found.os,
            "wandb.executable": found.executable,
            "wandb.args": json.dumps(list(found.args)) if found.args else "",
            "wandb.cpu_count": str(found.cpu_count or ""),
            "wandb.gpu": found.gpu_type,
            "wandb.gpu_count": str(found.gpu_count or ""),
            "wandb.cuda": found.cuda_version,
        }
        self._tags |= {name: value for name, value in said.items() if value}

    # ------------------------------------------------------------ what was logged

    def _history(self, history: Any) -> Iterator[Piece]:
        at, step = self._last, history.step.num
        values: list[tuple[str, Any]] = []
        nested: dict[str, Any] = {}
        for item in history.item:
            path = item.nested_key
            name = item.key or path[0]
            if len(path) > 1:
                _place(nested, list(path), _value(item))
            elif name == "_timestamp":
                at = _EPOCH + timedelta(microseconds=round(float(_value(item)) * 1e6))
            elif name == "_step":
                step = int(history.step.num or _value(item))
            elif name not in _OWN:
                values.append((name, _value(item)))
        self._last = at
        for name, value in (*values, *nested.items()):
            if isinstance(value, bool | int | float):
                self._points.append(MetricPoint(name=name, value=spelled(float(value)), step=step, at=at))
            elif name not in _OWN:
                yield from self._other(name, value, step, at)

    def _other(self, name: str, value: Any, step: int, at: datetime) -> Iterator[Piece]:
        """Yield what was logged and is no number: nested numbers are metrics, media and texts are files."""
        if isinstance(value, dict) and "_type" not in value:
            for inner, one in value.items():
                if isinstance(one, bool | int | float):
                    self._points.append(
                        MetricPoint(name=f"{name}.{inner}", value=spelled(float(one)), step=step, at=at)
                    )
                else:
                    yield from self._other(f"{name}.{inner}", one, step, at)
            return
        if value is None:
            yield LeftOut("null that was logged as a value")
            return
        said = {"step": step, "at": at.isoformat(), "value": value}
        self._spool.line(f"logged/{name}.jsonl", json.dumps(said))

    def _stats(self, stats: Any) -> Iterator[Piece]:
        at = _moment(stats.timestamp)
        step = int((at - self._run.started_at).total_seconds())
        for item in stats.item:
            value = _value(item)
            if isinstance(value, bool | int | float):
                self._points.append(
                    MetricPoint(name=f"system/{item.key}", value=spelled(float(value)), step=step, at=at)
                )
            else:
                yield LeftOut("system metric that is no number")

    def _metric(self, metric: Any) -> Iterator[Piece]:
        if metric.step_metric:
            self._tags[f"wandb.step_metric.{metric.name or metric.glob_name}"] = metric.step_metric
        return iter(())

    def _alert(self, alert: Any) -> Iterator[Piece]:
        said = {"title": alert.title, "text": alert.text, "level": alert.level}
        self._spool.line("logged/alerts.jsonl", json.dumps(said))
        return iter(())

    def _used(self, used: Any) -> Iterator[Piece]:
        yield DataSeen([DatasetInput(name=text(used.name or used.id)[:500], digest=used.id[:60], source_type="wandb")])

    def _artifact(self, artifact: Any) -> Iterator[Piece]:
        about = {
            "type": artifact.type,
            "name": artifact.name,
            "digest": artifact.digest,
            "description": artifact.description,
            "aliases": list(artifact.aliases),
            "metadata": _json(artifact.metadata) if artifact.metadata else None,
            "references": [entry.ref for entry in artifact.manifest.contents if entry.ref],
        }
        folder = f"artifacts/{artifact.type or 'artifact'}/{artifact.name}"
        yield small_file(f"{folder}/artifact.json", json.dumps(about, indent=1).encode())
        for entry in artifact.manifest.contents:
            if entry.ref and not entry.local_path:
                yield LeftOut("artifact's reference to a file elsewhere (its address is in artifact.json)")
                continue
            real = self._places.file(Path(entry.local_path)) if entry.local_path else None
            if real is None:
                yield LeftOut("artifact's file outside of the run's folder (give its folder with --files)")
            else:
                yield FileSeen(f"{folder}/{entry.path}", opener(real))
        if artifact.manifest.manifest_file_path and not artifact.manifest.contents:
            yield LeftOut("artifact whose list of files is a file of its own")

    # ------------------------------------------------------------ the end

    def _end(self) -> Iterator[Piece]:
        config = {name: value for name, value in self._config.items() if name != "_wandb"}
        best = {
            name: json.dumps(value) if not isinstance(value, str) else value
            for name, value in flat({key: one for key, one in self._summary.items() if _is_plain(key, one)}).items()
        }
        summary = {f"wandb.summary.{name}": value[:_MOST_TEXT] for name, value in best.items()}
        yield Said(params=flat(config), tags=self._tags | summary, name=self._said.name)
        yield from self._spool.files()
        if self._files.is_dir():
            yield from self._places.files(self._files)
        ended = max(self._last, self._run.started_at + timedelta(seconds=self._runtime))
        if self._exit is None:  # its process may still write
            yield Ended("RUNNING")
        else:
            yield Ended("FINISHED" if self._exit == 0 else "FAILED", ended)


def _is_plain(name: str, value: Any) -> bool:
    """Say whether a summary's value is more than a picture of a file that is kept anyway."""
    return name not in _OWN and not (isinstance(value, dict) and "_type" in value)


def _value(item: Any) -> Any:
    """Return an item's value; numbers, which most are, are read without a parser."""
    if said := item.value_json:
        try:
            return float(said)
        except ValueError:
            return _json(said)
    kind = item.WhichOneof("value") if hasattr(item, "json") else None
    if kind is None or kind == "none":
        return None
    found = getattr(item, kind)
    return _json(found) if kind == "json" else found


def _json(said: str) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return said


def _place(target: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value where a path of keys leads."""
    for part in path[:-1]:
        inner = target.get(part)
        if not isinstance(inner, dict):
            inner = target[part] = {}
        target = inner
    target[path[-1]] = value


def _update(target: dict[str, Any], update: Any) -> None:
    for item in update.update:
        _place(target, list(item.nested_key) or [item.key], _json(item.value_json) if item.value_json else None)
    for item in update.remove:
        path = list(item.nested_key) or [item.key]
        if len(path) == 1:
            target.pop(path[0], None)


def _moment(found: Any) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=found.seconds, microseconds=found.nanos // 1000)
    except OverflowError:
        raise Damaged("a time is out of range", where="wandb") from None
