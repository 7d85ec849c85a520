"""The server trims the logs by their rule: it is the one that writes the row log, and that is always there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kilter.core.errors import KilterError
from kilter.serving.recording.logs import LogService
from kilter.serving.recording.retention import Retention

log = logging.getLogger("kilter.server")

EVERY = 600.0


@contextmanager
def trimming(logs: Callable[[], LogService], keep: Retention, every: float = EVERY) -> Iterator[None]:
    """Trim the logs beside what runs inside, now and then.

    Args:
        logs: The logs of the store.
        keep: The rule; when it keeps everything, nothing is done.
        every: Seconds between two looks.
    """
    if keep.predictions.forever and keep.rows.forever:
        yield
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            try:
                found = logs().trim(keep)
            except KilterError as error:
                log.warning("the logs can't be trimmed: %s", error)
                continue
            except Exception:  # the server serves on
                log.exception("the logs could not be trimmed")
                continue
            for one in found:
                if one.error:
                    log.warning("%s can't be trimmed: %s", one.log, one.error)

    thread = threading.Thread(target=look, name="kilter-trimming", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30.0)
