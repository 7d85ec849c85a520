"""Sending what processes left behind: theirs are the buffers that nobody writes to any more, or that nobody sends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kilter.core.errors import Conflict, KilterError
from kilter.engines.streams.log import Log
from kilter.tracking.sdk.buffer import read_sent, read_start, remove
from kilter.tracking.sdk.records import Finish, Start, decoded, encoded
from kilter.tracking.sdk.sender import Shipper, take
from kilter.tracking.sdk.shelf import Shelf

ENDED = "its process ended without a word"


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A buffer that holds something.

    Args:
        run: The run.
        experiment: What it belongs to.
        store: Where it is to be sent.
        folder: Where it lies.
        records: How many records wait.
        writing: Whether its process goes on.
    """

    run: str
    experiment: str
    store: str
    folder: str
    records: int
    writing: bool


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a buffer.

    Args:
        run: The run.
        store: Where it was sent.
        state: ``sent``: the store has everything, and the buffer is gone; ``going on``: its process goes on, and what was there was sent;
            ``busy``: somebody else sends it; ``waiting``: the store is away, or refuses the run.
        records: How many records were sent.
        refused: How many of them the store did not want; they are kept in ``refused.jsonl`` beside the buffers.
        problem: Why it waits.
    """

    run: str
    store: str
    state: str
    records: int = 0
    refused: int = 0
    problem: str = ""


def left(roots: Iterable[Path], runs: Iterable[str] = ()) -> list[tuple[Path, Left]]:
    """Return the buffers below some folders, those of a run's own process before those that joined it.

    Args:
        roots: The folders.
        runs: Only of these runs; of all, if none are named.
    """
    wanted = set(runs)
    found: list[tuple[Path, Left]] = []
    for root in dict.fromkeys(roots):
        if not root.is_dir():
            continue
        for folder in sorted(root.iterdir()):
            start = read_start(folder)
            if start is None or (wanted and start.run not in wanted):
                continue
            found.append((folder, _left(folder, start)))
    return sorted(found, key=lambda one: one[0].name)


def sync_buffer(
    folder: Path,
    *,
    store: str = "",
    told: Callable[[int], None] | None = None,
    complain: Callable[[Exception], None] | None = None,
) -> Synced:
    """Send what is in a buffer, and remove it when its process has ended and everything was sent.

    Two may do so at once: one of them sends, and if both did, each record would still arrive once.

    Args:
        folder: The buffer.
        store: Send it there instead of where its run was started.
        told: Called with 1 after each record.
        complain: Told of what the store refused.
    """
    start = read_start(folder)
    if start is None:
        return Synced(run=folder.name, store="", state="sent")
    if store:
        start = msgspec.structs.replace(start, store=store)
    lock = take(folder)
    if lock is None:
        return Synced(run=start.run, store=start.store, state="busy", problem="it is being sent")
    try:
        return _sync(folder, start, told, complain)
    finally:
        os.close(lock)


def _sync(
    folder: Path, start: Start, told: Callable[[int], None] | None, complain: Callable[[Exception], None] | None
) -> Synced:
    refusals: list[Exception] = []

    def refused(problem: Exception) -> None:
        refusals.append(problem)
        if complain is not None:
            complain(problem)

    def answer(state: str, problem: str = "") -> Synced:
        return Synced(
            run=start.run,
            store=start.store,
            state=state,
            records=shipper.count,
            refused=len(refusals),
            problem=problem,
        )

    try:
        log, writing = Log.open(folder / "log"), False
    except Conflict:
        log, writing = Log.open(folder / "log", readonly=True), True
    shelf = Shelf(log)
    shipper = Shipper(folder, start, shelf, refused)
    try:
        if not writing and not start.joined and not _finished(log):
            # Said in the log itself: however often this is cut short, the run ends so only once.
            log.append(encoded(Finish(status="INTERRUPTED", reason=ENDED, at=_last_moment(folder))))
        shipper.ship(told)
    except KilterError as error:
        return answer("waiting", str(error))
    finally:
        shipper.close()
        log.close()
    if writing:
        return answer("going on")
    remove(folder)
    return answer("sent")


def _finished(log: Log) -> bool:
    end = log.end()
    if end < 0:
        return False
    with suppress(KilterError):
        return isinstance(decoded(log.get(end)), Finish)
    return False


def _last_moment(folder: Path) -> datetime:
    """Return when a process wrote last: that is when the run ended, as far as anybody knows."""
    newest = max((path.stat().st_mtime for path in (folder / "log").glob("*.log")), default=folder.stat().st_mtime)
    return datetime.fromtimestamp(newest, UTC)


def _left(folder: Path, start: Start) -> Left:
    records, writing = 0, False
    try:
        log = Log.open(folder / "log", readonly=True)
        records = sum(1 for _ in log.read(read_sent(folder)))
        log.claim()
    except Conflict:
        writing = True
    except KilterError:
        records = max(records, 1)  # damaged: sending says what is wrong
    else:
        log.close()
    return Left(
        run=start.run,
        experiment=start.experiment,
        store=start.store,
        folder=str(folder),
        records=records,
        writing=writing,
    )
