"""The process of one loaded version: ``python -m kilter.serving.worker FD``.

It gets the model's bytes over its socket, so it needs neither the store nor its credentials; it loads them, warms itself on
the example rows, says that it is ready, and then answers matrices until the socket ends. Whatever has arrived while it was
busy is predicted as one batch. It imports only the library of its one model.
"""

from __future__ import annotations

import signal
import socket
import sys

import msgspec

from kilter.core.errors import KilterError
from kilter.packaging.loading import load_model
from kilter.packaging.native import ModelSpec, NativeModel
from kilter.serving.frames import HEAD, HELLO, LENGTHS, READY, REFUSED, ROWS, VALUES, Reader, frame

_READ = 1 << 20
_WARM_ROUNDS = 3


def serve(connection: socket.socket) -> None:
    """Load the model that the other side sends, then answer until it hangs up."""
    reader = Reader()
    model: NativeModel | None = None
    columns = 0
    # One buffer for all reads: a fresh one of this size would be mapped and unmapped by the kernel every time.
    buffer = memoryview(bytearray(_READ))
    while True:
        size = connection.recv_into(buffer)
        if not size:
            return
        data = bytes(buffer[:size])
        rows: list[tuple[int, int, bytes]] = []
        for kind, ticket, count, payload in reader.feed(data):
            if kind == ROWS:
                rows.append((ticket, count, payload))
            elif kind == HELLO:
                try:
                    model, columns = _load(payload, count)
                except KilterError as error:
                    connection.sendall(frame(REFUSED, ticket, 0, str(error).encode()))
                    return
                connection.sendall(frame(READY, ticket, 0, b""))
        if rows and model is not None:
            connection.sendall(_answer(model, rows, columns))


def _load(payload: bytes, count: int) -> tuple[NativeModel, int]:
    """Load a model from a HELLO and warm it on its ``count`` example rows."""
    spec_size, model_size, _ = LENGTHS.unpack_from(payload)
    start = LENGTHS.size
    spec = msgspec.json.decode(payload[start : start + spec_size], type=ModelSpec)
    start += spec_size
    model = load_model(spec, payload[start : start + model_size])
    example = payload[start + model_size :]
    width = 8 * spec.columns
    for _ in range(_WARM_ROUNDS if count else 0):
        model.predict(example, count, spec.columns)
        model.predict(example[:width], 1, spec.columns)
    return model, spec.columns


def _answer(model: NativeModel, rows: list[tuple[int, int, bytes]], columns: int) -> bytes:
    """Predict everything that has arrived as one batch; when that fails, one by one, so that only the culprit is refused."""
    if len(rows) == 1:
        ticket, count, payload = rows[0]
        return _alone(model, ticket, count, payload, columns)
    try:
        values = model.predict(b"".join(part for _, _, part in rows), sum(count for _, count, _ in rows), columns)
    except KilterError:
        return b"".join(_alone(model, ticket, count, part, columns) for ticket, count, part in rows)
    answers, start = [], 0
    for ticket, count, _ in rows:
        answers.append(HEAD.pack(8 * count, VALUES, ticket, count))
        answers.append(values[start : start + 8 * count])
        start += 8 * count
    return b"".join(answers)


def _alone(model: NativeModel, ticket: int, count: int, payload: bytes, columns: int) -> bytes:
    try:
        return frame(VALUES, ticket, count, model.predict(payload, count, columns))
    except KilterError as error:
        return frame(REFUSED, ticket, count, str(error).encode())


def main() -> None:
    """Serve on the descriptor named on the command line."""
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
