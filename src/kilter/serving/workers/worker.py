"""The process of one loaded version: ``python -m kilter.serving.workers.worker FD``.

It gets the model's bytes over its socket, so it needs neither the store nor its credentials; it loads them, warms itself on
the example rows, says that it is ready, and then answers matrices until the socket ends: each is one batch, and one call of the
model. It imports only the library of its one model.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys

import msgspec

from kilter.core.errors import InvalidInput, KilterError
from kilter.packaging.loading import load_model
from kilter.packaging.native import Buffer, Explains, ModelSpec, NativeModel
from kilter.serving.workers.frames import (
    EXPLAIN,
    FAILED,
    HELLO,
    LENGTHS,
    READY,
    REFUSED,
    ROWS,
    VALUES,
    Incoming,
    frame,
    own,
)
from kilter.serving.workers.memory import keep_freed

log = logging.getLogger("kilter.serving")

_READ = 1 << 20
_WARM_ROUNDS = 3


class Loaded:
    """A model that has been sent, loaded and warmed.

    Args:
        payload: The payload of a HELLO.
        count: How many example rows it brings.

    Raises:
        KilterError: When the model can't be loaded.
    """

    def __init__(self, payload: bytes, count: int) -> None:
        spec_size, model_size, example_size = LENGTHS.unpack_from(payload)
        start = LENGTHS.size
        self._spec = msgspec.json.decode(payload[start : start + spec_size], type=ModelSpec)
        start += spec_size
        self._model = load_model(self._spec, payload[start : start + model_size])
        start += model_size
        example = payload[start : start + example_size]
        self._explainer_bytes = payload[start + example_size :]
        self._explainer: NativeModel | None = None if self._spec.explainer else self._model
        columns, width = self._spec.columns, 8 * self._spec.columns
        for _ in range(_WARM_ROUNDS if count else 0):
            self._model.predict(example, count, columns)
            self._model.predict(example[:width], 1, columns)

    def answer(self, kind: int, ticket: int, count: int, payload: Buffer) -> bytes:
        """Return the frame that answers one of ``ROWS`` or ``EXPLAIN``."""
        rows = own(payload, count * self._spec.columns)
        try:
            values = self._explained(rows, count) if kind == EXPLAIN else self._predicted(rows, count)
        except KilterError as error:
            return frame(FAILED if error.retryable else REFUSED, ticket, count, str(error).encode())
        except Exception:  # the edge of the process: rows that a library can't take must not end it for all others
            log.exception("the model could not take %d rows", count)
            return frame(REFUSED, ticket, count, b"the model could not take the rows")
        return frame(VALUES, ticket, count, values)

    def _predicted(self, payload: Buffer, count: int) -> bytes:
        return self._model.predict(payload, count, self._spec.columns)

    def _explained(self, payload: Buffer, count: int) -> bytes:
        if self._explainer is None and self._spec.explainer is not None:  # few are ever asked for: loaded by the first
            self._explainer, self._explainer_bytes = load_model(self._spec.explainer, self._explainer_bytes), b""
        explainer: object = self._explainer
        if not isinstance(explainer, Explains):
            raise InvalidInput(f"a model of the format {self._spec.flavor} can't be explained", where="explain")
        return explainer.contributions(payload, count, self._spec.columns)


def serve(connection: socket.socket) -> None:
    """Load the model that the other side sends, then answer until it hangs up."""
    incoming = Incoming(_READ)
    model: Loaded | None = None
    while True:
        size = connection.recv_into(incoming.room())
        if not size:
            return
        for kind, ticket, count, payload in incoming.took(size):
            if kind in {ROWS, EXPLAIN} and model is not None:
                connection.sendall(model.answer(kind, ticket, count, payload))
            elif kind == HELLO:
                try:
                    model = Loaded(bytes(payload), count)
                except KilterError as error:
                    connection.sendall(frame(REFUSED, ticket, 0, str(error).encode()))
                    return
                payload.release()  # a model may be large: what it came in is not kept beside it
                connection.sendall(frame(READY, ticket, 0, b""))


def main() -> None:
    """Serve on the descriptor named on the command line."""
    keep_freed()
    # A stop of the whole process group lets the front drain first: it hangs up when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        connection.setblocking(True)
        try:
            serve(connection)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main()
