"""The words of devices."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from kilter.serving.records import Scalar

Whole = Annotated[int, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,48}$")]
LogName = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}$")]
PIECE = 4 << 20
"""How much of a file is sent at once, in bytes."""


class OfferedFile(msgspec.Struct, frozen=True):
    """A file of a published release.

    Args:
        path: Below the bundle's folder.
        size: In bytes.
        sha256: SHA-256 of its bytes.
        pieces: The digests of its pieces in the object store, in order.
    """

    path: str
    size: int
    sha256: str
    pieces: tuple[str, ...]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A signed release in a store.

    Args:
        model: The model's name.
        version: The version.
        sequence: The release's number.
        release: The bytes that were signed.
        signature: Their Ed25519 signature.
        digest: SHA-256 of the bytes that were signed; names the release.
        files: Its files.
    """

    model: str
    version: int
    sequence: int
    release: bytes
    signature: bytes
    digest: str
    files: tuple[OfferedFile, ...]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is offered: the release of the champion.

    Args:
        model: The model's name.
        version: The champion.
        release: The bytes that were signed.
        signature: Their signature.
    """

    model: str
    version: int
    release: bytes
    signature: bytes


class EnrolledDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device whose uploads are taken.

    Args:
        name: Its name.
        public_key: Its Ed25519 key, PEM.
        at: When it was enrolled, UTC.
        seen_at: When its last upload came, UTC; None before the first.
        version: The version that made its last record; 0 before the first.
        dropped: How many records had to make room on the device before they were uploaded.
    """

    name: str
    public_key: str
    at: datetime
    seen_at: datetime | None = None
    version: int = 0
    dropped: int = 0


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a device answered in one call.

    Args:
        n: The record's number in the device's log.
        at: When, on the device's clock.
        model: The model.
        version: The version that answered.
        keys: Per row its key.
        times: Per row its time.
        values: The answers, row-major: rows x ``width``.
        width: How many numbers an answer has.
        inputs: What the model saw, by column.
        latency_us: How long it took, in microseconds.
    """

    n: Whole
    at: datetime
    model: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    keys: list[str]
    times: list[datetime]
    values: list[float]
    width: Annotated[int, msgspec.Meta(ge=1)]
    inputs: dict[str, list[Scalar]]
    latency_us: Whole = 0


class DeviceBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What a device sends at once.

    Args:
        device: Its name.
        log: Its log's own name.
        dropped: How many records had to make room on the device, ever.
        records: The records, in order.
    """

    device: Name
    log: LogName
    dropped: Whole = 0
    records: list[DeviceRecord] = []


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an upload.

    Args:
        mark: The number of the last record that the store has; -1 for none.
        taken: Records that are new.
        known: Records that it had already.
    """

    mark: int
    taken: int
    known: int
