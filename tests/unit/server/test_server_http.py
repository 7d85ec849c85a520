from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
import time
from collections.abc import Callable

import pytest
import uvloop

from kilter.core.errors import Conflict, InvalidInput
from kilter.server.http import Limits
from kilter.server.listening import Listener, tls_of
from kilter.server.ports import free_port

PLAIN = Limits(head=2048, buffered=1000, discarded=300_000, pipelined=2, connections=4, idle=75.0)


class Echo:
    """An application that does what a path says, and notes what came."""

    def __init__(self) -> None:
        self.scopes: list[dict] = []
        self.said: list[str] = []
        self.came, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:  # noqa: C901, PLR0912 - a line or two for each path
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                self.said.append(message["type"])
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        self.scopes.append(scope)
        self.came.set()
        path = scope["path"]
        if path == "/early":  # answers before the body is read
            await self.answer(send, 413, b"too much")
            return
        if path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        if path == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.said.append("cancelled")
                raise
        if path == "/events":
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
            )
            await send({"type": "http.response.body", "body": b": begin\n\n", "more_body": True})
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.said.append("cancelled")
                raise
        if path == "/slow":  # a long answer, whose reader is waited for
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"y" * 65536, "more_body": True})
            await send({"type": "http.response.body", "body": b"end"})
            return
        if path == "/wait":
            await self.go.wait()
        if path == "/fails":
            raise ZeroDivisionError("secret-of-the-inside")
        if path == "/breaks":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ZeroDivisionError("secret-of-the-inside")
        if path == "/split":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b=c")]})
            await send({"type": "http.response.body", "body": b""})
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.said.append("disconnect")
                return
            body += message.get("body", b"")
            more = message["more_body"]
        await self.answer(send, 200, body)

    async def answer(self, send, status: int, body: bytes) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def served(limits: Limits = PLAIN):
    app, port = Echo(), free_port("127.0.0.1", 0)
    listener = Listener(app, limits)
    await listener.start("127.0.0.1", port)
    serving = asyncio.create_task(listener.serve())
    try:
        yield app, port, listener
    finally:
        listener.stop()
        await serving
    assert app.said[0] == "lifespan.startup"
    assert app.said[-1] == "lifespan.shutdown"


async def told(port: int, *parts: bytes, until_end: bool = True) -> bytes:
    """Send parts of bytes and return all that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        if until_end:
            answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        answer += await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return answer


def request(path: bytes, body: bytes = b"", *headers: bytes, method: bytes = b"POST", close: bool = True) -> bytes:
    lines = [b"Host: x", *headers, *([b"Connection: close"] if close else [])]
    lines += [b"Content-Length: %d" % len(body)] if body else []
    return b"%b %b HTTP/1.1\r\n%b\r\n\r\n%b" % (method, path, b"\r\n".join(lines), body)


def test_a_request_comes_through_and_its_answer_back():
    async def go():
        async with served() as (app, port, _):
            answer = await told(port, request(b"/a%20b/%C3%A9?x=1&y=%20#z", b"hello", b"X-Odd: 1"))
            return app.scopes[0], answer

    scope, answer = asyncio.run(go())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"hello"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ndate: " in head
    assert b"\r\nconnection: close" in head
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b/é", b"/a%20b/%C3%A9")
    assert (scope["query_string"], scope["http_version"], scope["scheme"]) == (b"x=1&y=%20", "1.1", "http")
    assert (b"x-odd", b"1") in scope["headers"]
    assert scope["client"][0] == "127.0.0.1"


def test_bodies_come_in_parts_in_chunks_and_byte_by_byte():
    big = bytes(range(256)) * 2000

    async def go():
        async with served() as (_, port, _):
            whole = await told(port, request(b"/", big))
            chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
            single = await told(port, *(chunked[place : place + 7] for place in range(0, len(chunked), 7)))
            return whole, single

    whole, single = asyncio.run(go())
    assert whole.partition(b"\r\n\r\n")[2] == big
    assert single.endswith(b"\r\n\r\nhello!")


def test_requests_of_a_connection_are_answered_in_order():
    async def go():
        async with served() as (_, port, _):
            many = [request(b"/", b"%03d" % number, close=number == 19) for number in range(20)]
            return await told(port, b"".join(many))

    answer = asyncio.run(go())
    assert [part[:3] for part in answer.split(b"\r\n\r\n")[1:]] == [b"%03d" % number for number in range(20)]


def test_a_body_larger_than_what_is_kept_does_not_hold_up_what_follows():
    async def go():
        async with served() as (_, port, _):
            first, second = request(b"/", b"x" * 200_000, close=False), request(b"/", b"after")
            return await told(port, first, second)

    assert asyncio.run(go()).endswith(b"\r\n\r\nafter")


def test_answers_without_a_length_are_chunked_and_a_head_has_no_body():
    async def go():
        async with served() as (_, port, _):
            return (
                await told(port, request(b"/stream", method=b"GET")),
                await told(port, b"GET /stream HTTP/1.0\r\nHost: x\r\n\r\n"),
                await told(port, request(b"/", method=b"HEAD")),
            )

    modern, old, head = asyncio.run(go())
    assert b"transfer-encoding: chunked" in modern
    assert modern.endswith(b"\r\n\r\n4\r\npart\r\n4\r\npart\r\n4\r\npart\r\n0\r\n\r\n")
    assert b"transfer-encoding" not in old
    assert old.endswith(b"\r\n\r\npartpartpart")
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header: 1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            200,
        ),  # an offer that is passed over
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 4000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"x" * 600_000, 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_http_refuses_is_refused_and_the_connection_ends(sent, status):
    async def go():
        async with served() as (app, port, _):
            return await told(port, sent), app.said

    answer, said = asyncio.run(go())
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer
    assert said == ["lifespan.startup", "lifespan.shutdown"] or "disconnect" in said


def test_a_body_that_breaks_off_is_no_body():
    async def go():
        async with served() as (app, port, _):
            await told(port, request(b"/", b"x" * 100)[:-50], until_end=False)
            bad = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n"
            await told(port, bad)
            await asyncio.sleep(0.05)
            return app.said[1:]

    assert asyncio.run(go()) == ["disconnect", "disconnect"]


def test_an_early_answer_is_seen_and_the_rest_of_the_body_forgotten():
    async def go():
        async with served() as (app, port, _):
            first = request(b"/early", b"x" * 100_000, close=False)
            answer = await told(port, first[:50_000], first[50_000:] + request(b"/", b"next"))
            endless = request(b"/early", b"x" * 900_000, close=False)
            with contextlib.suppress(ConnectionError):
                await told(port, endless[:1000], *[endless[1000:]] * 2)
            return answer, len(app.scopes)

    answer, requests = asyncio.run(go())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"\r\n\r\nnext")
    assert requests == 3


def test_whoever_expects_to_be_asked_for_the_body_is_asked():
    async def go():
        async with served() as (_, port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            asked = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"ok")
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(2)
            writer.close()
            return asked, head, body

    asked, head, body = asyncio.run(go())
    assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b"ok"


def test_what_fails_says_nothing_and_a_half_answer_is_not_taken_as_whole(caplog):
    caplog.set_level(logging.CRITICAL, "kilter.server")

    async def go():
        async with served() as (_, port, _):
            return [
                await told(port, request(path, method=b"GET", close=False))
                for path in (b"/fails", b"/breaks", b"/split")
            ]

    fails, breaks, split = asyncio.run(go())
    assert fails.startswith(b"HTTP/1.1 500 ")
    assert breaks.endswith(b"\r\n\r\nhalf")  # fewer than it promised, and the connection ended
    assert b"set-cookie" not in split
    assert b"secret" not in fails + breaks + split


def test_an_answer_to_nobody_ends_and_a_slow_reader_holds_it_up():
    async def go():
        async with served() as (app, port, listener):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
            writer.write(request(b"/endless", method=b"GET"))
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.1)
            (connection,) = listener.connections
            assert connection.transport.get_write_buffer_size() < 1_000_000  # what isn't read isn't made
            writer.close()
            for _ in range(100):
                await asyncio.sleep(0.02)
                if "cancelled" in app.said:
                    break
            return app.said

    assert "cancelled" in asyncio.run(go())


def half_closed(app: Echo, port: int, sent: bytes, go: bool) -> Callable[[], bytes]:
    """Return what sends bytes over a socket, ends its own side, and reads until the server ends the other one."""

    def run() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            if go:
                time.sleep(0.1)  # the end of the client's side is there long before the answer is
                app.loop.call_soon_threadsafe(app.go.set)
            answer = b""
            while part := client.recv(65536):
                answer += part
            return answer

    return run


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_client_that_has_ended_its_side_gets_its_answers_whole(loop):
    """A request is whole when it is whole, also when its client says that nothing more will come."""

    async def go():
        async with served() as (app, port, listener):
            app.loop = asyncio.get_running_loop()

            async def tell(sent: bytes, *, go: bool = False) -> bytes:
                return await asyncio.to_thread(half_closed(app, port, sent, go))

            ask = functools.partial(request, close=False)
            found = [
                await tell(ask(b"/wait", b"hello"), go=True),
                await tell(ask(b"/stream")),
                await tell(ask(b"/slow")),
                await tell(ask(b"/", b"one") + ask(b"/stream") + ask(b"/", b"two")),
                await tell(ask(b"/", b"one") + ask(b"/", b"x" * 100)[:-50]),
                await tell(ask(b"/", b"x" * 100)[:-50]),
                await tell(b"GET / HTTP/1.1\r\nHos"),
                await tell(b""),
            ]
            for _ in range(100):
                if not listener.connections:
                    break
                await asyncio.sleep(0.02)
            return found, app.said, len(listener.connections)

    with asyncio.Runner(loop_factory=loop) as runner:
        found, said, left = runner.run(go())
    waited, stream, slow, several, torn, *nothing = found
    assert waited.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in waited
    assert waited.endswith(b"\r\n\r\nhello")
    assert stream.endswith(b"\r\n\r\n" + b"4\r\npart\r\n" * 3 + b"0\r\n\r\n")
    assert slow.endswith(b"\r\n3\r\nend\r\n0\r\n\r\n")
    assert slow.count(b"y") == 64 * 65536
    assert several.count(b"HTTP/1.1 200 OK") == 3
    assert several.index(b"one") < several.index(b"part") < several.index(b"two")
    assert several.count(b"connection: close") <= 1
    assert torn.endswith(b"one")  # the one that was cut off is not answered
    assert torn.count(b"HTTP/1.1") == 1
    assert nothing == [b"", b"", b""]
    assert left == 0
    assert said.count("disconnect") in {1, 2}  # whether the one behind another had begun


def test_a_stream_of_events_ends_with_its_readers_side():
    async def go():
        async with served() as (app, port, listener):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(b"/events", method=b"GET"))
            await reader.readuntil(b": begin\n\n")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 10) in {b"", b"\r\n"}
            writer.close()
            return app.said[1:], len(listener.connections)

    assert asyncio.run(go()) == (["cancelled"], 0)


def test_there_are_so_many_connections_and_silent_ones_are_closed():
    async def go():
        async with served() as (_, port, listener):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            await asyncio.sleep(0.05)
            refused = await told(port, b"")
            held[0][1].write(b"GET / HTTP/1.1\r\nHos")  # a head that does not end
            held[1][1].write(request(b"/", b"whole")[:-2])  # a body that does not
            await asyncio.sleep(0.05)
            now = asyncio.get_running_loop().time()
            for later in (1.0, 60.0, 130.0):
                for connection in tuple(listener.connections):
                    connection.sweep(now + later)
                await asyncio.sleep(0.02)
            ends = [await asyncio.wait_for(reader.read(), 5) for reader, _ in (held[0], held[2], held[3])]
            with contextlib.suppress(ConnectionError):
                assert not await asyncio.wait_for(held[1][0].read(), 5)
            for _, writer in held:
                writer.close()
            return refused, ends, len(listener.connections)

    refused, ends, left = asyncio.run(go())
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert ends[0].startswith(b"HTTP/1.1 408 ")
    assert ends[1:] == [b"", b""]
    assert left == 0


def test_when_the_server_ends_what_is_under_way_is_answered():
    async def go():
        async with served() as (app, port, listener):
            asked = asyncio.create_task(told(port, request(b"/wait", b"late", close=False)))
            await app.came.wait()
            listener.stop()
            await asyncio.sleep(0.05)
            with pytest.raises(OSError, match=r"refused|Connect"):
                await asyncio.open_connection("127.0.0.1", port)
            app.go.set()
            return await asked

    answer = asyncio.run(go())
    assert b"connection: close" in answer
    assert answer.endswith(b"\r\n\r\nlate")


def test_an_address_that_is_taken_and_files_that_are_no_certificate_are_said(tmp_path):
    async def go():
        async with served() as (_, port, _):
            with pytest.raises(Conflict, match="can't listen"):
                await Listener(Echo()).start("127.0.0.1", port)

    asyncio.run(go())
    (tmp_path / "cert.pem").write_text("none")
    with pytest.raises(InvalidInput, match="TLS can't use"):
        tls_of(tmp_path / "cert.pem", None)
    assert ssl.HAS_TLSv1_3
