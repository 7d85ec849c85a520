import asyncio
import json

import pytest
import uvloop

from kilter.serving.front.http import Connection, Limits

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


class Application:
    """Answers with the path; ``/later`` when it is told to."""

    def __init__(self, **limits):
        self.limits = Limits(**limits)
        self.draining = False
        self.connections = set()
        self.later = []
        self.seen = []

    def handle(self, request):
        self.seen.append(request)
        if request.path == b"/later":
            self.later.append(request)
        else:
            request.reply.send(200, request.path + b"|" + request.body)


def talk(application, *chunks, sweep=0.0, release=False):
    """Send chunks, half-close, and return everything that comes back."""

    async def go():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(application, loop.time), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0.01)
        if sweep:
            for connection in tuple(application.connections):
                connection.sweep(loop.time() + sweep)
        if release:
            for request in reversed(application.later):
                request.reply.send(200, b"late")
        if not sweep:
            writer.write_eof()
        data = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        server.close()
        return data

    return uvloop.run(go())


def statuses(data):
    return [int(part.split(b" ", 1)[0]) for part in data.split(b"HTTP/1.1 ")[1:]]


def test_keep_alive_and_pipelining_keep_the_order():
    application = Application()
    later = GET.replace(b"/a", b"/later")
    data = talk(application, later + GET + later + GET, release=True)
    assert statuses(data) == [200] * 4
    assert [body.split(b"\r\n\r\n")[1] for body in data.split(b"HTTP/1.1 ")[1:]] == [b"late", b"/a|", b"late", b"/a|"]


def test_a_request_may_come_byte_by_byte():
    request = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
    assert talk(Application(), *[request[i : i + 1] for i in range(len(request))]).endswith(b"/a|abc")


def test_chunked_bodies_are_read():
    data = talk(
        Application(),
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    assert data.endswith(b"/a|abcde")


def test_a_client_that_asks_is_told_to_go_on():
    data = talk(
        Application(), b"POST /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n", b"a"
    )
    assert statuses(data) == [100, 200]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /a HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\ncontent-length: 101\r\n\r\n", 413),
        (b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n", 413),
        (b"GET /a HTTP/1.1\r\nx: " + b"y" * 2000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 2000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /a HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 400),
    ],
)
def test_what_is_refused_closes_the_connection_and_echoes_nothing(request_bytes, status):
    data = talk(Application(header=1000, body=100), request_bytes)
    assert statuses(data)[-1] == status
    head, _, body = data[data.rindex(b"HTTP/1.1") :].partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status
    assert b"yyy" not in body
    assert b"nonsense" not in body


def test_requests_before_a_refused_one_are_answered_first():
    assert statuses(talk(Application(), GET + GET + b"nonsense\r\n\r\n")) == [200, 200, 400]


def test_a_slow_request_and_an_idle_connection_are_closed():
    assert statuses(talk(Application(read=5), b"POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\na", sweep=6)) == [408]
    assert talk(Application(idle=5), b"", sweep=6) == b""


def test_a_draining_server_closes_after_its_answer():
    application = Application()
    application.draining = True
    assert b"connection: close" in talk(application, GET + GET)
    assert statuses(talk(application, GET + GET)) == [200]


def test_one_connection_may_not_pipeline_without_bound():
    application = Application(pipelined=4)
    later = GET.replace(b"/a", b"/later")
    waiting = []

    async def go():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(application, loop.time), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        for _ in range(12):
            writer.write(later)
            await writer.drain()
            await asyncio.sleep(0.005)
        waiting.append(len(application.later))
        answered = 0
        while answered < 12:
            for request in application.later[answered:]:
                request.reply.send(200, b"late")
                answered += 1
            await asyncio.sleep(0.01)
        data = await reader.readuntil(b"late")
        writer.close()
        server.close()
        return data

    assert statuses(uvloop.run(go())) == [200]
    assert waiting == [4]


def test_too_many_connections():
    assert statuses(talk(Application(connections=0), GET)) == [503]


def post(body, *, path=b"/b", head=b""):
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (path, head, len(body), body)


def test_a_head_that_comes_again_is_taken_as_it_was_and_nothing_else_is():
    chunked = b"POST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    chunks = [
        post(b"one"),
        post(b"two"),  # the same head
        post(b"a\r\n\r\nb"),  # another length
        post(b"c\r\n\r\nd"),
        post(b"x", path=b"/c"),  # another path
        post(b"y", path=b"/c", head=b"a: b\r\n"),
        post(b"y", path=b"/c", head=b"a: c\r\n"),
        post(b"y", path=b"/c") + post(b"z", path=b"/c"),  # two at once
        post(b"12345"),
        post(b"67890")[:-2],  # the same head, and not all of its body
        b"90",
        post(b"")[:-10],
        post(b"")[-10:],
        chunked,
        chunked,
        GET,
        GET,
        post(b"abc"),
        post(b"end", head=b"connection: close\r\n"),
        post(b"end", head=b"connection: close\r\n"),  # nobody reads any more
    ]
    application = Application()
    data = talk(application, *chunks)
    seen = [(one.method, one.path, one.body, one.headers.get(b"a")) for one in application.seen]
    expected = [
        (b"/b", b"one"), (b"/b", b"two"), (b"/b", b"a\r\n\r\nb"), (b"/b", b"c\r\n\r\nd"), (b"/c", b"x"), (b"/c", b"y"),
        (b"/c", b"y"), (b"/c", b"y"), (b"/c", b"z"), (b"/b", b"12345"), (b"/b", b"67890"), (b"/b", b""), (b"/b", b"abc"),
        (b"/b", b"abc"), (b"/a", b""), (b"/a", b""), (b"/b", b"abc"), (b"/b", b"end"),
    ]  # fmt: skip
    assert [(path, body) for _, path, body, _ in seen] == expected
    assert [value for *_, value in seen[4:8]] == [None, b"b", b"c", None]
    assert {method for method, path, *_ in seen if path != b"/a"} == {b"POST"}
    assert statuses(data) == [200] * len(expected)
    assert [part.partition(b"\r\n\r\n")[2] for part in data.split(b"HTTP/1.1 ")[1:]] == [
        path + b"|" + body for path, body in expected
    ]


def test_requests_with_one_head_are_answered_in_order_whenever_they_are_ready():
    application = Application(pipelined=2)
    data = talk(application, *[post(b"%d" % number, path=b"/later") for number in range(2)], release=True)
    assert [one.body for one in application.seen] == [b"0", b"1"]
    assert statuses(data) == [200, 200]
