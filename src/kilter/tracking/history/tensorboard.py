"""TensorBoard's event files: a run for each folder that holds some.

Scalars are metrics; images, audio and texts are files; hyper-parameters are params. A histogram or a curve is kept as a file of what
was logged, point by point. A folder below another that only holds ``hparams`` of a session belongs to its parent's run as a child.
Source: tensorflow/core/util/event.proto, framework/summary.proto, tensorboard/plugins/hparams/plugin_data.proto.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from kilter.core.errors import Damaged, InvalidInput, KilterError
from kilter.tracking.history.memory import Spool, small_file
from kilter.tracking.history.messages import classes, parsed
from kilter.tracking.history.records import Broken, Ended, LeftOut, Measured, Piece, RunSeen, Said
from kilter.tracking.history.tfrecord import records
from kilter.tracking.records import MetricPoint, spelled

_CHUNK = 2000
_MOST_VALUES = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVENTS = "*tfevents*"
_TAG = "_hparams_/session_start_info", "_hparams_/session_end_info", "_hparams_/experiment"
_ENDINGS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"RIFF": "wav"}

_MESSAGES: Final = {
    "Dim": "size=1:int64",
    "Shape": "dim=2:Dim*",
    "Tensor": (
        "dtype=1:int32 tensor_shape=2:Shape tensor_content=4:bytes float_val=5:float* double_val=6:double* int_val=7:int32*"
        " string_val=8:bytes* int64_val=10:int64* bool_val=11:bool* half_val=13:int32*"
    ),
    "PluginData": "plugin_name=1:string content=2:bytes",
    "Metadata": "plugin_data=1:PluginData display_name=2:string summary_description=3:string",
    "Image": "height=1:int32 width=2:int32 encoded_image_string=4:bytes",
    "Audio": "sample_rate=1:float encoded_audio_string=4:bytes content_type=5:string",
    "Histogram": (
        "min=1:double max=2:double num=3:double sum=4:double sum_squares=5:double bucket_limit=6:double* bucket=7:double*"
    ),
    "Value": (
        "tag=1:string simple_value=2:float|value image=4:Image|value histo=5:Histogram|value audio=6:Audio|value"
        " tensor=8:Tensor|value metadata=9:Metadata"
    ),
    "Summary": "value=1:Value*",
    "Event": (
        "wall_time=1:double step=2:int64 file_version=3:string|what graph_def=4:bytes|what summary=5:Summary|what"
        " log_message=6:bytes|what session_log=7:bytes|what tagged_run_metadata=8:bytes|what meta_graph_def=9:bytes|what"
    ),
    "ProtobufValue": "null_value=1:int32|kind number_value=2:double|kind string_value=3:string|kind bool_value=4:bool|kind",
    "HparamsEntry": "key=1:string value=2:ProtobufValue",
    "SessionStart": "hparams=1:HparamsEntry* group_name=4:string start_time_secs=5:double",
    "SessionEnd": "status=1:int32 end_time_secs=2:double",
    "HparamsData": "version=1:int32 session_start_info=3:SessionStart|data session_end_info=4:SessionEnd|data",
}
_TYPES: Final[dict[int, str]] = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}


@cache
def _kinds() -> dict[str, Any]:
    return classes("kilter_tensorboard", _MESSAGES)


class TensorboardSource:
    """Event files below a folder.

    Args:
        folder: The folder that ``tensorboard --logdir`` is given.
    """

    kind = "tensorboard"

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InvalidInput("there is no such folder", where=str(folder))
        self._folder = folder
        found: dict[Path, list[Path]] = {}
        for path in sorted(folder.rglob(_EVENTS)):
            if path.is_file() and not path.is_symlink():
                found.setdefault(path.parent, []).append(path)
        self._runs = {parent: sorted(files, key=_written) for parent, files in sorted(found.items())}
        if not self._runs:
            raise InvalidInput("there is no event file of TensorBoard", where=str(folder), allowed="*tfevents*")

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield nothing: a folder has no tags."""
        return iter(())

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        """Yield the runs, by their folders."""
        root = self._folder.resolve().name or "tensorboard"
        for parent, files in self._runs.items():
            name = parent.relative_to(self._folder).as_posix()
            try:
                size = sum(path.stat().st_size for path in files)
                yield RunSeen(
                    origin=f"{root}/{name}" if name != "." else root,
                    experiment=root,
                    name=name if name != "." else root,
                    started_at=_first(files),
                    version=f"{len(files)}-{size}",
                    work=size,
                    at=files,
                )
            except (KilterError, OSError) as error:
                yield Broken(str(parent), str(error))

    def read(self, run: RunSeen) -> Iterator[Piece]:
        """Yield a run's pieces, its files in the order of their writing."""
        with Spool() as spool:
            yield from _Reading(run, spool).pieces()

    def close(self) -> None:
        """Nothing is held."""


def _written(path: Path) -> tuple[str, str]:
    """Return what files are put in order by: the second that is in their name."""
    return (next((part for part in path.name.split(".") if part.isdecimal() and len(part) >= 10), ""), path.name)


def _first(files: list[Path]) -> datetime:
    for path in files:
        for data, _ in records(path):
            return _moment(parsed(_kinds()["Event"], data, path.name).wall_time)
    return _EPOCH + timedelta(seconds=int(files[0].stat().st_mtime))


def _moment(seconds: float) -> datetime:
    if not math.isfinite(seconds):
        raise Damaged("a time is no number", where="event file")
    try:
        return _EPOCH + timedelta(microseconds=round(seconds * 1e6))
    except OverflowError:
        raise Damaged("a time is out of range", where="event file") from None


class _Reading:
    """One folder's events on their way."""

    def __init__(self, run: RunSeen, spool: Spool) -> None:
        self._run = run
        self._spool = spool
        self._plugins: dict[str, str] = {}
        self._points: list[MetricPoint] = []
        self._params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._last = run.started_at
        self._status = 0
        self._counts: dict[str, int] = {}

    def pieces(self) -> Iterator[Piece]:
        """Yield them."""
        kind = _kinds()["Event"]
        for path in self._run.at:
            read_to = 0
            for data, end in records(path):
                event = parsed(kind, data, f"{path.name} at byte {end:,}")
                what = event.WhichOneof("what")
                if what == "summary":
                    at = _moment(event.wall_time)
                    self._last = max(self._last, at)
                    for value in event.summary.value:
                        yield from self._value(value, event.step, at)
                elif what in {"graph_def", "meta_graph_def", "tagged_run_metadata"}:
                    yield LeftOut("TensorFlow graph")
                elif what == "log_message":
                    yield LeftOut("log message of TensorFlow")
                if len(self._points) >= _CHUNK:
                    points, self._points = self._points, []
                    yield Measured(points, end - read_to)
                    read_to = end
            if self._points:
                points, self._points = self._points, []
                yield Measured(points)
        yield Said(params=self._params, tags=self._tags)
        yield from self._spool.files()
        yield Ended("FAILED" if self._status == 2 else "FINISHED", self._last)

    def _value(self, value: Any, step: int, at: datetime) -> Iterator[Piece]:
        tag, plugin = value.tag, value.metadata.plugin_data.plugin_name
        if plugin:
            self._plugins[tag] = plugin
            if value.metadata.summary_description and f"tensorboard.description.{tag}" not in self._tags:
                self._tags[f"tensorboard.description.{tag}"] = value.metadata.summary_description[:5000]
        plugin = plugin or self._plugins.get(tag, "")
        match value.WhichOneof("value"):
            case "simple_value":
                self._scalar(tag, value.simple_value, step, at)
            case "image":
                yield self._media(tag, step, value.image.encoded_image_string, 0)
            case "audio":
                yield self._media(tag, step, value.audio.encoded_audio_string, 0)
            case "histo":
                found = value.histo
                about = {
                    "min": found.min, "max": found.max, "num": found.num, "sum": found.sum, "sum_squares": found.sum_squares,
                    "limits": list(found.bucket_limit), "counts": list(found.bucket),
                }  # fmt: skip
                self._spool.line(f"histograms/{tag}.jsonl", _line(step, at, about))
            case "tensor":
                yield from self._tensor(tag, plugin, value.tensor, step, at)
            case _ if plugin == "hparams":
                yield from self._hparams(tag, value.metadata.plugin_data.content)
            case _:
                yield LeftOut(f"value of the plug-in {plugin or 'of no name'}")

    def _scalar(self, tag: str, value: float, step: int, at: datetime) -> None:
        self._points.append(MetricPoint(name=tag, value=spelled(value), step=step, at=at))

    def _tensor(self, tag: str, plugin: str, tensor: Any, step: int, at: datetime) -> Iterator[Piece]:
        if plugin == "hparams" or tag in _TAG:
            return
        if tensor.dtype == 7:  # strings
            yield from self._strings(tag, plugin, list(tensor.string_val), step, at)
            return
        values = _array(tensor)
        if values is None:
            yield LeftOut(f"tensor of the plug-in {plugin or 'of no name'} that can't be read")
        elif plugin in {"scalars", ""} and values.size == 1:
            self._scalar(tag, float(values.reshape(-1)[0]), step, at)
        elif values.size <= _MOST_VALUES:
            folder = plugin or "tensors"
            shape = [list(values.shape), [spelled(float(one)) for one in values.reshape(-1)]]
            self._spool.line(f"{folder}/{tag}.jsonl", _line(step, at, {"shape": shape[0], "values": shape[1]}))
        else:
            yield LeftOut("tensor of more than a million values")

    def _strings(self, tag: str, plugin: str, values: list[bytes], step: int, at: datetime) -> Iterator[Piece]:
        if plugin == "images":
            for place, data in enumerate(values[2:]):  # the first two are width and height
                yield self._media(tag, step, data, place)
        elif plugin == "audio":
            for place, data in enumerate(values[::2]):  # each is followed by its label
                yield self._media(tag, step, data, place)
        else:
            texts = [one.decode("utf-8", "replace") for one in values]
            self._spool.line(f"{plugin or 'text'}/{tag.removesuffix('/text_summary')}.jsonl", _line(step, at, texts))

    def _media(self, tag: str, step: int, data: bytes, place: int) -> Piece:
        ending = next((ending for start, ending in _ENDINGS.items() if data.startswith(start)), "bin")
        base = f"media/{tag}/{step}" + (f"-{place}" if place else "")
        count = self._counts[base] = self._counts.get(base, 0) + 1
        return small_file(f"{base}{f'-{count}' if count > 1 else ''}.{ending}", data)

    def _hparams(self, tag: str, content: bytes) -> Iterator[Piece]:
        data = parsed(_kinds()["HparamsData"], content, "hparams")
        match data.WhichOneof("data"):
            case "session_start_info":
                for entry in data.session_start_info.hparams:
                    kind = entry.value.WhichOneof("kind")
                    self._params[entry.key] = None if kind in {None, "null_value"} else getattr(entry.value, kind)
                if data.session_start_info.group_name:
                    self._tags["tensorboard.group"] = data.session_start_info.group_name
            case "session_end_info":
                self._status = data.session_end_info.status
            case _:
                self._tags["tensorboard.hparams"] = "true"
                if tag != _TAG[2]:
                    yield LeftOut("part of the plug-in hparams")


def _array(tensor: Any) -> np.ndarray[Any, Any] | None:
    kind = _TYPES.get(tensor.dtype)
    if kind is None:
        return None
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    try:
        if tensor.tensor_content:
            return np.frombuffer(tensor.tensor_content, dtype=kind).reshape(shape)
        if tensor.dtype == 19:
            halves = np.array(list(tensor.half_val), dtype="<u2").view("<f2")
            return halves.reshape(shape) if math.prod(shape) == halves.size else halves
        for values in (tensor.float_val, tensor.double_val, tensor.int_val, tensor.int64_val, tensor.bool_val):
            if values:
                found = np.array(list(values), dtype=kind)
                wanted = math.prod(shape) if shape else found.size
                if found.size == 1 and 1 < wanted <= _MOST_VALUES:  # one value stands for all
                    found = np.repeat(found, wanted)
                return found.reshape(shape) if shape else found
    except (ValueError, OverflowError, struct.error):
        return None
    return np.zeros(shape, dtype=kind) if 0 < math.prod(shape) <= _MOST_VALUES and min(shape, default=1) > 0 else None


def _line(step: int, at: datetime, value: Any) -> str:
    return json.dumps({"step": step, "at": at.isoformat(), "value": value})
