"""Telling a store what one record says; each can be told again without harm."""

from __future__ import annotations

from pathlib import Path

from kilter.core.errors import NotFound, Unavailable
from kilter.tracking.sdk.buffer import FILES
from kilter.tracking.sdk.records import Data, File, Finish, Model, Params, Points, Record, Start, Tags
from kilter.tracking.service import RunService
from kilter.tracking.transfer import send_file


class Shipping:
    """Tells a store what a buffer holds.

    Args:
        service: The runs of the store.
        start: Which run the buffer is of.
        folder: The buffer.
    """

    def __init__(self, service: RunService, start: Start, folder: Path) -> None:
        self._service = service
        self._start = start
        self._folder = folder

    def begin(self) -> None:
        """Start the run, or make one that is resumed go on.

        Raises:
            KilterError: When the store refuses, or can't be reached.
        """
        start = self._start
        if start.resumed and self._goes_on():
            if start.tags:
                self._service.log_tags(start.run, start.tags)
            if start.params:
                self._service.log_batch(start.run, params=start.params, key=f"{self._folder.name}-params")
            return
        self._service.start(
            start.experiment,
            start.name,
            dict(start.params),
            start.tags,
            data_digest=start.data_digest,
            code_digest=start.code_digest,
            environment=start.environment,
            seed=start.seed,
            started_at=start.at,
            id=start.run,
        )

    def _goes_on(self) -> bool:
        """Make a run that is resumed go on; False when the store has none of that id, which is then started under it."""
        try:
            self._service.change(self._start.run, status="RUNNING")
        except NotFound:
            return False
        return True

    def tell(self, record: Record, key: str) -> None:
        """Tell the store what a record says.

        Args:
            record: The record.
            key: Its key.

        Raises:
            KilterError: When the store refuses, or can't be reached.
        """
        service, run = self._service, self._start.run
        own = f"{self._folder.name.removeprefix(run)}-{key}"
        match record:
            case Points(names=names, counts=counts, data=data):
                service.log_columns(run, names, counts, data, own)
            case Params(values=values):
                service.log_batch(run, params=values, key=own)
            case Tags(values=values):
                service.log_batch(run, tags=values, key=own)
            case File():
                self._file(record)
            case Data(dataset=dataset):
                service.log_inputs(run, [dataset])
            case Model():
                service.log_run_model(
                    run, record.name, record.path, record.type, record.step, record.params, record.tags
                )
            case Finish(status=status, reason=reason, at=at):
                service.finish(run, status, reason, at)
            case Start():
                self.begin()

    def told(self, record: Record) -> None:
        """Let go of what a record kept on the disk."""
        if isinstance(record, File):
            (self._folder / FILES / record.copy).unlink(missing_ok=True)

    def alive(self) -> None:
        """Say that the run is alive."""
        self._service.heartbeat(self._start.run)

    def _file(self, record: File) -> None:
        path = self._folder / FILES / record.copy
        run, service = self._start.run, self._service
        try:
            send_file(service, path, run, record.name)
        except FileNotFoundError:
            # It was sent, and its copy removed, by a process that died before it could note so.
            if not any(kept.digest == record.digest for kept in service.get(run).artifacts):
                raise NotFound(f"the copy of {record.name!r} has gone", where=str(path)) from None
        except OSError as error:
            raise Unavailable(
                f"the copy of {record.name!r} can't be read ({error.strerror})", where=str(path)
            ) from error
