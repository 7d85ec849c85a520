"""A device: which release runs, and how it becomes the next one.

The signature is verified before anything that it signs is believed, every file before it is kept; files that did not change are
taken from the release that runs. The new release answers its self test in a process of its own before it runs. What runs is one
small file, replaced in one step: a device that loses its power at any moment has the old release or the new one, each whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from .model import EdgeModel
from .release import RELEASE, SIGNATURE, EdgeError, File, Refused, Release, check_file, check_folder, verified
from .sources import Folder, Source
from .state import read_json, sync_folder, write_bytes, write_json

_PATIENCE = 120
_STATE = "state.json"
_KEYS = "keys"


class Update(NamedTuple):
    """What an update did.

    Args:
        changed: Whether another release runs now.
        version: The version that runs.
        sequence: The number of its release.
        fetched: Bytes of files that were downloaded.
        kept: Bytes of files that were there already.
    """

    changed: bool
    version: int
    sequence: int
    fetched: int = 0
    kept: int = 0


class Device:
    """A folder with the release that runs, the one before, and the keys that this device trusts.

    Args:
        root: The folder; only this device writes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def install(self, source: Source, model: str, key: bytes) -> Update:
        """Trust a key, and take the first release.

        Args:
            source: Where it comes from.
            model: The model's name.
            key: The public key, PEM, that signs its releases.

        Raises:
            EdgeError: When something is installed already.
            Refused: When the release is not signed by that key, or fails.
        """
        with self._alone():
            if state := self.state():
                raise EdgeError(
                    f"the model {state['model']} is installed already: update it, or begin with another folder"
                )
            release, data, signature = self._offered(source, model, [key])
            done = self._take(source, release, data, signature, {})
            write_bytes(self.root / _KEYS / "release.pub", key)
            self._swap(release, {"model": model})
        return done

    def update(self, source: Source, *, allow_downgrade: bool = False) -> Update:
        """Ask for the newest release, and run it when it is newer, signed, whole, and passes its self test.

        Args:
            source: Where it comes from.
            allow_downgrade: Take a release with a lower number as well, and one that failed before.

        Raises:
            Refused: When the release must not run; what runs goes on.
            Unreachable: When the server does not answer; what runs goes on.
        """
        with self._alone():
            state = self._installed()
            release, data, signature = self._offered(source, state["model"], self.keys())
            if release.digest == state["current"]:
                return Update(False, release.version, release.sequence)
            if not allow_downgrade:
                _refuse_older(release, state)
            done = self._take(source, release, data, signature, state)
            self._swap(release, state)
            return done

    def open(self) -> EdgeModel:
        """Return the model that runs, after its self test; when it fails, the release before runs again.

        Raises:
            EdgeError: When nothing is installed, or no release passes.
        """
        with suppress(EdgeError):  # what runs is there while an update is under way: nobody has to wait for that
            return self._tested(self._installed()["current"])
        with self._alone():
            state = self._installed()
            try:
                return self._tested(state["current"])
            except EdgeError as error:
                if not state.get("previous"):
                    raise
                found = self._tested(state["previous"])
                self._go_back(state, str(error))
                return found

    def go_back(self, reason: str = "asked to") -> None:
        """Run the release before again; the one that runs is not taken again unless a downgrade is allowed.

        Raises:
            EdgeError: When there is none.
        """
        with self._alone():
            self._go_back(self._installed(), reason)

    def state(self) -> dict[str, Any]:
        """Return what the device knows: model, releases, the highest number, and what was refused with the reason."""
        return read_json(self.root / _STATE)

    def keys(self) -> list[bytes]:
        """Return the public keys that this device trusts: put a second one there before the first is replaced."""
        return [path.read_bytes() for path in sorted((self.root / _KEYS).glob("*.pub"))]

    def folder(self, release: str) -> Path:
        """Return the folder of a release."""
        return self.root / "releases" / release

    # ------------------------------------------------------------ steps

    def _installed(self) -> dict[str, Any]:
        state = self.state()
        if not state:
            raise EdgeError("nothing is installed")
        return state

    def _offered(self, source: Source, model: str, keys: list[bytes]) -> tuple[Release, bytes, bytes]:
        data, signature = source.latest(model)
        release = verified(data, signature, keys)
        if release.model != model:
            raise Refused(f"the release is of the model {release.model!r}, this device has {model!r}")
        return release, data, signature

    def _take(self, source: Source, release: Release, data: bytes, signature: bytes, state: dict[str, Any]) -> Update:
        """Lay a release beside the one that runs, and let it answer its self test."""
        final = self.folder(release.digest)
        aside = final.with_name(f".{release.digest}")
        shutil.rmtree(aside, ignore_errors=True)  # of an update that was cut short
        fetched = kept = 0
        here = self._held(state)
        try:
            for file in release.files:
                found = self._from(here.get(file.sha256), file)
                kept += 0 if found is None else file.size
                if found is None:
                    found = check_file(file, source.file(release.model, release.digest, file))
                    fetched += file.size
                write_bytes(aside / file.path, found)
            write_bytes(aside / RELEASE, data)
            write_bytes(aside / SIGNATURE, signature)
            try:
                _self_test(aside)
            except Refused as error:
                self._note_refused(release.digest, str(error))
                raise
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            sync_folder(final.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return Update(True, release.version, release.sequence, fetched, kept)

    def _held(self, state: dict[str, Any]) -> dict[str, Path]:
        """Return the files of the releases that are here, by what their release says of them."""
        found: dict[str, Path] = {}
        for name in (state.get("previous"), state.get("current")):
            if name:
                folder = self.folder(name)
                listed = read_json(folder / RELEASE).get("files", [])
                found.update({one["sha256"]: folder / one["path"] for one in listed})
        return found

    def _from(self, path: Path | None, file: File) -> bytes | None:
        """Return a file that is here, when its bytes are still those that are wanted."""
        if path is None:
            return None
        try:
            return check_file(file, path.read_bytes())
        except (OSError, Refused):
            return None

    def _swap(self, release: Release, state: dict[str, Any]) -> None:
        before = state.get("current")
        after = {
            **state,
            "current": release.digest,
            "previous": before if before != release.digest else state.get("previous"),
            "version": release.version,
            "sequence": release.sequence,
            "refused": {name: why for name, why in state.get("refused", {}).items() if name != release.digest},
        }
        write_json(self.root / _STATE, after)
        self._sweep(after)

    def _go_back(self, state: dict[str, Any], reason: str) -> None:
        if not state.get("previous"):
            raise EdgeError("there is no release before this one")
        current, previous = state["current"], state["previous"]
        said = read_json(self.folder(previous) / RELEASE)
        refused = {**state.get("refused", {}), current: reason}
        # the number stays: what was refused, and all that is older, is not taken again
        write_json(
            self.root / _STATE,
            {**state, "current": previous, "previous": None, "version": said["version"], "refused": refused},
        )

    def _note_refused(self, release: str, reason: str) -> None:
        state = self.state()
        if state:
            write_json(self.root / _STATE, {**state, "refused": {**state.get("refused", {}), release: reason}})

    def _tested(self, name: str) -> EdgeModel:
        folder = self.folder(name)
        check_folder(verified(*Folder(folder).latest(""), self.keys()), folder)
        model = EdgeModel(folder)
        model.self_test()
        return model

    def _sweep(self, state: dict[str, Any]) -> None:
        kept = {state["current"], state.get("previous")}
        for path in (self.root / "releases").iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time change what runs."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EdgeError(f"{self.root} can't be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _refuse_older(release: Release, state: dict[str, Any]) -> None:
    if release.digest in state.get("refused", {}):
        raise Refused(f"release {release.sequence} was refused before: {state['refused'][release.digest]}")
    if release.sequence <= state["sequence"]:
        raise Refused(
            f"release {release.sequence} (v{release.version}) is not newer than release {state['sequence']}, which this device "
            "has had; allow the downgrade if that is meant"
        )


def _self_test(folder: Path) -> None:
    """Let a release answer its example rows in a process of its own: one that crashes takes nothing with it.

    Raises:
        Refused: When it does not.
    """
    package = __package__ or ""
    path = str(Path(__file__).resolve().parents[len(package.split("."))])
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", package, "selftest", str(folder)]
    try:
        run = subprocess.run(  # noqa: S603 - this very runtime
            command, env=settings, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"the self test took longer than {_PATIENCE} s") from error
    if run.returncode:
        said = run.stderr.strip().splitlines()[-1:] or [f"exit code {run.returncode}"]
        raise Refused(f"the self test failed: {said[0][:300]}")
