"""The operations of devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from kilter.core.clock import Clock, utc
from kilter.core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.operations.table import operation
from kilter.packaging.export.device.predicting import CONTEXT
from kilter.serving.edge.publishing import Releases, write_whole
from kilter.serving.edge.records import DeviceBatch, DeviceRecord, EnrolledDevice, Name, Offer, Published, Taken
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.recording.redaction import Redactor
from kilter.serving.records import Item, PredictionBatch
from kilter.serving.service import EndpointService

_MOST_ROWS = 10_000
_BATCH: msgspec.json.Decoder[DeviceBatch] = msgspec.json.Decoder(DeviceBatch)


class DeviceService:
    """Gives devices their releases and takes their predictions.

    Args:
        endpoints: Who is champion.
        objects: Where the files of releases are.
        folder: Where releases and devices are noted.
        logs: The folder of the prediction logs: each log of a device is one of a front of its own there.
        redactors: What may be recorded, by endpoint.
        clock: The time.
    """

    def __init__(
        self,
        endpoints: EndpointService,
        objects: ObjectStore,
        folder: Path,
        logs: Path,
        redactors: Callable[[], Mapping[str, Redactor]],
        clock: Clock,
    ) -> None:
        self._endpoints = endpoints
        self._objects = objects
        self._folder = folder
        self._releases = Releases(folder, objects)
        self._logs = logs
        self._redactors = redactors
        self._clock = clock
        self._guard = threading.Lock()

    @operation(writes=True, repeatable=True)
    def keep(self, data: bytes) -> str:
        """Keep a piece of a release's file, four megabytes (all but the last); return the digest to name it by.

        Args:
            data: The piece.
        """
        return self._objects.put(data)

    @operation(writes=True, role="admin", repeatable=True)
    def publish(self, release: bytes, signature: bytes, pieces: dict[str, tuple[str, ...]]) -> Published:
        """Let devices get a signed release, once its version is the champion.

        Args:
            release: The bytes that were signed.
            signature: Their Ed25519 signature.
            pieces: Per file the digests of its pieces, as ``keep`` returned them.

        Raises:
            InvalidInput: When it is no release, or its files are others.
            Conflict: When devices may have had a later release.
        """
        return self._releases.put(release, signature, pieces)

    @operation
    def latest(self, model: str) -> Offer:
        """Return the newest release of a model's champion, as it was signed.

        Args:
            model: The model's name.

        Raises:
            NotFound: When there is no such endpoint, or its champion has no release for devices.
        """
        champion = self._endpoints.plan(model).champion
        if champion is None:
            raise NotFound("the endpoint has no champion", where="model")
        found = self._releases.newest(model, champion)
        return Offer(model=model, version=champion, release=found.release, signature=found.signature)

    @operation
    def file(self, model: str, release: str, path: str, start: int = 0) -> bytes:
        """Return four megabytes of a release's file, or what is left of it; nothing after its end.

        Args:
            model: The model's name.
            release: SHA-256 of the bytes that were signed.
            path: The file.
            start: The first byte.
        """
        return self._releases.piece(model, release, path, start)

    @operation(writes=True, role="admin", repeatable=True)
    def enrol(self, device: Name, public_key: str) -> EnrolledDevice:
        """Take the uploads of a device.

        Args:
            device: Its name: a-z, 0-9 and _, at most 48.
            public_key: Its Ed25519 key, PEM, as ``kilter_edge key`` prints it; enrolling again replaces it.

        Raises:
            InvalidInput: When that is no such key.
        """
        _verifier(public_key)
        made = EnrolledDevice(name=device, public_key=public_key, at=self._clock.now())
        with self._guard:
            write_whole(self._of(device), msgspec.json.encode(made))
        return made

    @operation
    def all(self) -> list[EnrolledDevice]:
        """Return the devices whose uploads are taken."""
        folder = self._folder / "devices"
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return [msgspec.json.decode(path.read_bytes(), type=EnrolledDevice) for path in paths]

    @operation(writes=True, role="admin", repeatable=True)
    def forget(self, device: Name) -> None:
        """Take no more uploads of a device; its predictions stay.

        Args:
            device: Its name.
        """
        with self._guard:
            self._of(device).unlink(missing_ok=True)

    @operation(writes=True, role="viewer", repeatable=True)
    def upload(self, batch: bytes, signature: bytes) -> Taken:
        """Take what a device recorded into the prediction log, each record once.

        The device's signature is what lets it in, so that it needs no token that may do more than read.

        Args:
            batch: A :class:`DeviceBatch` as JSON.
            signature: Its signature with the device's key.

        Raises:
            Forbidden: When no enrolled device signed it.
            InvalidInput: When a record can't be used; none is taken then.
            NotFound: When there is no endpoint of a record's model.
        """
        with self._guard:
            device, given = self._verified(batch, signature)
            for record in given.records:
                _check(record)
            for model in {record.model for record in given.records}:
                self._endpoints.plan(model)
            taken = self._take(f"edge_{given.device}_{given.log}", given)
            version = given.records[-1].version if given.records else device.version
            seen = msgspec.structs.replace(device, seen_at=self._clock.now(), version=version, dropped=given.dropped)
            write_whole(self._of(given.device), msgspec.json.encode(seen))
            return taken

    def _take(self, front: str, given: DeviceBatch) -> Taken:
        try:
            log = PredictionLog.open(self._logs, front, readonly=False)
        except Conflict as error:
            raise Unavailable("another process takes an upload of this device", where="upload") from error
        try:
            log.redactors = self._redactors()
            mark = before = _mark(log)
            for record in given.records:
                if record.n > mark:
                    log.append(self._batch(record, f"{front}/{record.n}"))
                    mark = record.n
        finally:
            log.close()
        taken = sum(record.n > before for record in given.records)
        return Taken(mark=mark, taken=taken, known=len(given.records) - taken)

    def _batch(self, record: DeviceRecord, key: str) -> PredictionBatch:
        rows = len(record.keys)
        return PredictionBatch(
            at=min(utc(record.at), self._clock.now()),  # a device's clock may be wrong, and the future is nobody's
            loop=record.model,
            generation=0,
            share=0,
            keys=record.keys,
            times=[utc(moment) for moment in record.times],
            arms=["champion"] * rows,
            versions=[record.version] * rows,
            values=record.values,
            inputs=record.inputs,
            requests=[Item(rows, key)],
            latency_us=record.latency_us,
            width=record.width,
        )

    def _verified(self, batch: bytes, signature: bytes) -> tuple[EnrolledDevice, DeviceBatch]:
        try:
            given = _BATCH.decode(batch)
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"the batch can't be read: {error}", where="batch") from error
        path = self._of(given.device)
        refusal = Forbidden("no enrolled device signed this", where="signature", fix="enrol the device's public key")
        if not path.is_file():
            raise refusal
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

        device = msgspec.json.decode(path.read_bytes(), type=EnrolledDevice)
        try:
            _verifier(device.public_key)(signature, CONTEXT + batch)
        except InvalidSignature:
            raise refusal from None
        return device, given

    def _of(self, device: str) -> Path:
        return self._folder / "devices" / f"{device}.json"


def _check(record: DeviceRecord) -> None:
    rows = len(record.keys)
    whole = len(record.times) == rows and len(record.values) == rows * record.width
    if not 0 < rows <= _MOST_ROWS or not whole or any(len(column) != rows for column in record.inputs.values()):
        raise InvalidInput("the record's columns are not equally long", where=f"records[n={record.n}]",
                           allowed=f"1 to {_MOST_ROWS} rows")  # fmt: skip


def _mark(log: PredictionLog) -> int:
    """Return the number of the last record that was taken; the log's own last record says it."""
    end = log.end()
    if end < 0:
        return -1
    last = log.get(end)
    assert isinstance(last, PredictionBatch)  # noqa: S101 - nothing else is written here
    return int(last.requests[0].key.rpartition("/")[2])


def _verifier(public_key: str) -> Callable[[bytes, bytes], None]:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable("cryptography is not installed", where="devices", fix="pip install kilter[edge]") from error
    try:
        key = load_pem_public_key(public_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput("that is no public key", where="public_key", allowed="an Ed25519 key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput("the key is of another kind", where="public_key", allowed="an Ed25519 key in PEM")
    return key.verify
