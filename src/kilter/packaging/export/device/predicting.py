"""Predictions on a device, recorded there, and their way to the store."""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from .recording import EdgeLog
from .release import RELEASE, EdgeError
from .sources import Server
from .state import read_json
from .updating import Device

CONTEXT = b"kilter-edge-upload-v1\n"
"""Stands before what a device signs, so that a signature is good for nothing else."""

_KEY = "device.pem"


class Uploaded(NamedTuple):
    """What an upload did.

    Args:
        sent: Records that the store has now and had not before.
        known: Records that it had already.
        left: Records that are still here.
        dropped: Records that had to make room before they were uploaded, ever.
    """

    sent: int
    known: int
    left: int
    dropped: int


class Predictor:
    """The release that runs, and the log.

    Args:
        device: The device.
        log: Where predictions are recorded; None records none.
    """

    def __init__(self, device: Device, log: EdgeLog | None = None) -> None:
        self._device, self._log = device, log
        self._load()

    def refresh(self) -> bool:
        """Load the release that runs now, when it is another one than that which is loaded; return whether it was.

        Raises:
            EdgeError: When no release passes its self test; the loaded one goes on.
        """
        if self._device.state()["current"] == self._release:
            return False
        self._load()
        return True

    def _load(self) -> None:
        self.model = self._device.open()
        said = read_json(self.model.folder / RELEASE)
        self._name, self._version, self._release = said["model"], said["version"], self.model.folder.name
        self._key, self._time = self.model.about["key"], self.model.about["time"]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
        """Return the answers to records, once they are in the log: a list of outputs each.

        Args:
            rows: Records by name; the columns of key and time of the model's table, where it has them, join labels to them later.

        Raises:
            EdgeError: When a value can't be used, or the log can't be written.
        """
        began = time.monotonic()
        answers = self.model.predict(rows)
        if self._log is not None and rows:
            now = datetime.now(UTC)
            self._log.append(
                {
                    "at": now.isoformat(),
                    "model": self._name,
                    "version": self._version,
                    "keys": [self._key_of(row) for row in rows],
                    "times": [self._time_of(row, now) for row in rows],
                    "width": len(answers[0]),
                    "values": [value for answer in answers for value in answer],
                    "inputs": {name: [row.get(name) for row in rows] for name in self.model.columns},
                    "latency_us": int((time.monotonic() - began) * 1e6),
                }
            )
        return answers

    def _key_of(self, row: Mapping[str, Any]) -> str:
        value = row.get(self._key) if self._key else None
        return str(value) if isinstance(value, (str, int)) else uuid.uuid4().hex

    def _time_of(self, row: Mapping[str, Any], now: datetime) -> str:
        value = row.get(self._time) if self._time else None
        if value is None:
            return now.isoformat()
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError as error:
            raise EdgeError(f"{self._time} is no time: {value!r}") from error
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()


def upload(root: Path, name: str, log: EdgeLog, server: Server) -> Uploaded:
    """Send what the log holds, in order; what the store has is removed here. Doing it again sends nothing twice.

    Args:
        root: The device's folder; its key signs what is sent.
        name: The device's name, as it was enrolled.
        log: The log.
        server: Where to send it.

    Raises:
        EdgeError: When the server refuses; all that it has not confirmed is still here.
        Unreachable: When it does not answer: the next time goes on from there.
    """
    sent = known = 0
    key = _private(root)
    while records := log.read():
        held = [{"n": number, **record} for number, record in records]
        said = {"device": name, "log": log.id, "dropped": log.dropped, "records": held}
        body = json.dumps(said, separators=(",", ":")).encode()
        signature = key.sign(CONTEXT + body)
        found = server.call("upload", {"batch": _text(body), "signature": _text(signature)})
        sent, known = sent + found["taken"], known + found["known"]
        if found["mark"] < records[-1][0]:
            raise EdgeError("the server did not confirm what was sent")
        log.acknowledge(found["mark"])
    return Uploaded(sent, known, log.waiting, log.dropped)


def device_key(root: Path) -> str:
    """Return the device's public key, PEM; the pair is made when there is none."""
    from cryptography.hazmat.primitives import serialization as written  # noqa: PLC0415 - as in release.py
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    path = root / _KEY
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(
            written.Encoding.PEM, written.PrivateFormat.PKCS8, written.NoEncryption()
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    public = _private(root).public_key()
    pem = public.public_bytes(written.Encoding.PEM, written.PublicFormat.SubjectPublicKeyInfo)
    return str(pem.decode())


def _private(root: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above

    try:
        return load_pem_private_key((root / _KEY).read_bytes(), None)
    except (OSError, ValueError) as error:
        raise EdgeError(f"the device has no key: {error}") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
