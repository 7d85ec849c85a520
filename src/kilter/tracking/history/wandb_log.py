"""The file of a run of Weights & Biases: a log of blocks in the manner of LevelDB, with a protobuf record in each piece.

The file begins with ``:W&B``, a magic number and a version. Blocks are 32 KiB; a record in them has a checksum (CRC-32 of its kind and
its bytes), a length and a kind: whole, first, middle or last. A file whose end was cut off is read up to there.
Source: wandb/sdk/internal/datastore.py and wandb/proto/wandb_internal.proto of the package wandb.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from kilter.core.errors import Damaged
from kilter.tracking.history.messages import classes, parsed

_START: Final = struct.Struct("<4sHB")
_HEADER: Final = struct.Struct("<IHB")
_BLOCK: Final = 32768
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_LONGEST: Final = 256 << 20

_ITEM = "key=1:string nested_key=2:string*"
_TIME = "seconds=1:int64 nanos=2:int32"
_MESSAGES: Final = {
    "Timestamp": _TIME,
    "HistoryItem": (
        f"{_ITEM} none=3:int32|value boolean=4:bool|value integer=5:sint64|value number=6:double|value text=7:string|value"
        " json=8:string|value value_json=16:string"
    ),
    "Item": f"{_ITEM} value_json=16:string",
    "Step": "num=1:int64",
    "History": "item=1:HistoryItem* step=2:Step",
    "Update": "update=1:Item* remove=2:Item*",
    "Stats": "stats_type=1:int32 timestamp=2:Timestamp item=3:Item*",
    "Output": "output_type=1:int32 timestamp=2:Timestamp line=3:string",
    "FilesItem": "path=1:string",
    "Files": "files=1:FilesItem*",
    "Entry": "path=1:string ref=3:string size=4:int64 local_path=6:string",
    "Manifest": "contents=4:Entry* manifest_file_path=5:string",
    "Artifact": (
        "type=4:string name=5:string digest=6:string description=7:string metadata=8:string aliases=11:string* manifest=12:Manifest"
    ),
    "Git": "remote_url=1:string commit=2:string",
    "Branch": "run=1:string value=2:double",
    "Run": (
        "run_id=1:string entity=2:string project=3:string config=4:Update summary=5:Update run_group=6:string job_type=7:string"
        " display_name=8:string notes=9:string tags=10:string* sweep_id=12:string host=13:string starting_step=14:int64"
        " start_time=17:Timestamp git=21:Git branch_point=23:Branch"
    ),
    "Exit": "exit_code=1:int32 runtime=2:int32",
    "Metric": "name=1:string glob_name=2:string step_metric=4:string",
    "Alert": "title=1:string text=2:string level=3:string",
    "Environment": (
        "os=1:string python=2:string args=5:string* program=6:string git=9:Git host=12:string username=13:string"
        " executable=14:string cpu_count=16:uint32 gpu_type=18:string gpu_count=19:uint32 cuda_version=25:string"
    ),
    "UseArtifact": "id=1:string type=2:string name=3:string",
    "Empty": "",
    "Record": (
        "num=1:int64 history=2:History|kind summary=3:Update|kind output=4:Output|kind config=5:Update|kind files=6:Files|kind"
        " stats=7:Stats|kind artifact=8:Artifact|kind tbrecord=9:Empty|kind alert=10:Alert|kind telemetry=11:Empty|kind"
        " metric=12:Metric|kind output_raw=13:Output|kind run=17:Run|kind exit=18:Exit|kind final=20:Empty|kind"
        " header=21:Empty|kind footer=22:Empty|kind preempting=23:Empty|kind use_artifact=25:UseArtifact|kind"
        " environment=26:Environment|kind output_logger=27:Empty|kind request=100:Empty|kind"
    ),
}


@cache
def _record() -> Any:
    return classes("kilter_wandb", _MESSAGES)["Record"]


def records(path: Path) -> Iterator[tuple[Any, int]]:
    """Yield a file's records, each with the place after it.

    Raises:
        Damaged: When the file is none, or a record in its middle is broken.
    """
    kind, where = _record(), path.name
    for data, end in _pieces(path):
        yield parsed(kind, data, f"{where} at byte {end:,}"), end


def _pieces(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes of records, each with the place after it."""
    gathered: list[bytes] = []
    length = 0
    for kind, data, end in _fragments(path):
        if kind in {_WHOLE, _FIRST}:
            gathered, length = [], 0
        gathered.append(data)
        length += len(data)
        if length > _LONGEST:
            raise Damaged("a record is too long", where=f"{path.name} at byte {end:,}")
        if kind in {_WHOLE, _LAST}:
            yield (data if kind == _WHOLE else b"".join(gathered)), end
            gathered, length = [], 0


def _fragments(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Yield what stands in the blocks: kind, bytes, and the place after them; what was cut off with its writer is the end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_START.size)
        if len(start) < _START.size or _START.unpack(start)[:2] != (b":W&B", 0xBEE1):
            raise Damaged("the file is no log of Weights & Biases", where=path.name)
        base = _START.size
        while block := file.read(_BLOCK - base % _BLOCK):
            at = 0
            while len(block) - at >= _HEADER.size:
                checksum, long, kind = _HEADER.unpack_from(block, at)
                begin, end = at + _HEADER.size, at + _HEADER.size + long
                data = block[begin:end]
                if kind not in _OF or len(data) < long or zlib.crc32(data, _OF[kind]) != checksum:
                    if base + end >= size:
                        return  # the last write did not reach the disk
                    raise Damaged("a record's checksum is wrong", where=f"{path.name} at byte {base + at:,}")
                yield kind, data, base + end
                at = end
            base += len(block)


_OF: Final = {kind: zlib.crc32(bytes([kind])) for kind in (_WHOLE, _FIRST, _MIDDLE, _LAST)}
"""The checksum begins with the record's kind."""
