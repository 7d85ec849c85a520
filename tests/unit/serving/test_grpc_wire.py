"""The wire of gRPC, by grpcio's own client and by frames written by hand: parts, limits, deadlines, streams, the end."""

import asyncio
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter.core.clock import SystemClock
from kilter.core.errors import InvalidInput, NotFound
from kilter.serving.access.reception import Reception
from kilter.serving.front.http import Limits
from kilter.serving.grpc.calls import Method, seconds_of
from kilter.serving.grpc.connection import STREAMS
from kilter.serving.grpc.server import GrpcServer
from kilter.serving.grpc.status import CallError

LIMITS = Limits(body=2 << 20)


class Echo:
    """A server of a few methods, on an event loop in a thread."""

    def __init__(self, **settings):
        self.loop = asyncio.new_event_loop()
        self.waiting = []
        self.seen = 0
        methods = {
            "/t.E/Echo": Method(self._echo),
            "/t.E/Wait": Method(self._wait),
            "/t.E/Fail": Method(self._fail),
            "/t.E/Break": Method(self._break),
            "/t.E/Stream": Method(
                self._stream, lambda message: b"<%b>" % message, lambda error, _: str(error).encode()
            ),
            "/t.E/Held": Method(self._wait, lambda message: message, lambda error, _: str(error).encode()),
        }
        reception = Reception(settings.get("token"), SystemClock(), self.loop.time)
        self.server = GrpcServer(methods, LIMITS, host="127.0.0.1", reception=reception)
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self.run(self.server.start(0))
        return self

    def __exit__(self, *error):
        self.call(self.server.close)
        self.call(lambda: None)
        self.until(lambda: not self.server.connections)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, awaitable):
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(10)

    def call(self, function):
        async def called():
            return function()

        return self.run(called())

    def until(self, condition):
        end = time.monotonic() + 10
        while not self.call(condition):
            assert time.monotonic() < end, "the condition did not come true in time"
            time.sleep(0.005)

    def release(self):
        """Answer what waits."""

        def all_of_it():
            waiting, self.waiting = self.waiting, []
            for turn, message in waiting:
                turn.answer(message)

        self.call(all_of_it)

    def _echo(self, turn, message):
        turn.answer(message)

    def _wait(self, turn, message):
        self.seen += 1
        self.waiting.append((turn, message))

    def _stream(self, turn, message):
        if message == b"bad":
            raise InvalidInput("that is bad", where="message")
        self.loop.call_later(float(message), turn.answer, message)

    def _fail(self, *_):
        raise InvalidInput("50 % of it is naïve", where="message")

    def _break(self, *_):
        raise ZeroDivisionError


@pytest.fixture(scope="module")
def echo():
    with Echo() as running:
        yield running


@pytest.fixture
def channel(echo):
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{echo.server.port}", options) as open_channel:
        yield open_channel


def unary(channel, name):
    return channel.unary_unary(f"/t.E/{name}")


def status(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def answer_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("size", [0, 1, 16_384, 70_000, 2 << 20])
def test_messages_of_all_sizes_come_back(channel, size):
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert unary(channel, "Echo")(message) == message


def test_a_message_that_is_too_large_is_refused_and_the_connection_goes_on(channel):
    code, text = status(lambda: unary(channel, "Echo")(bytes((2 << 20) + 1)))
    assert code == "RESOURCE_EXHAUSTED"
    assert "2097152 bytes" in text
    assert unary(channel, "Echo")(b"next") == b"next"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_read_up_to_the_limit_of_plain_ones(channel, compression):
    assert unary(channel, "Echo")(b"a" * 50_000, compression=compression) == b"a" * 50_000
    code, _ = status(lambda: unary(channel, "Echo")(bytes(3 << 20), compression=compression))
    assert code == "RESOURCE_EXHAUSTED"


def test_errors_carry_their_code_and_their_text(channel):
    assert status(lambda: unary(channel, "Fail")(b"")) == ("INVALID_ARGUMENT", "message: 50 % of it is naïve")
    assert status(lambda: unary(channel, "Nothing")(b""))[0] == "UNIMPLEMENTED"


def test_a_mistake_of_ours_is_an_answer_without_its_text(channel, caplog):
    assert status(lambda: unary(channel, "Break")(b"")) == ("INTERNAL", "the server made a mistake")
    assert "ZeroDivisionError" in caplog.text


# ---------------------------------------------------------------- time


def test_a_deadline_ends_the_call_and_a_late_answer_is_dropped(echo, channel):
    assert status(lambda: unary(channel, "Wait")(b"", timeout=0.05))[0] == "DEADLINE_EXCEEDED"
    echo.until(lambda: not any(turn.open for turn, _ in echo.waiting))
    echo.release()
    assert unary(channel, "Echo")(b"next") == b"next"


def test_a_call_that_is_given_up_is_forgotten(echo, channel):
    future = unary(channel, "Wait").future(b"")
    echo.until(lambda: echo.waiting)
    future.cancel()
    echo.until(lambda: not echo.server.busy)
    echo.release()


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"1S", 1.0), (b"250m", 0.25), (b"2H", 7200.0), (b"99999999H", 86_400.0)]
)
def test_timeouts_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"-1S", b"123456789S", b"1s", b"1.5S"])
def test_what_is_no_timeout_is_refused(text):
    with pytest.raises(CallError, match="no timeout"):
        seconds_of(text)


def test_more_calls_than_a_connection_may_have_wait_at_the_client(echo, channel):
    futures = [unary(channel, "Wait").future(b"%d" % number) for number in range(STREAMS + 50)]
    echo.until(lambda: len(echo.waiting) == STREAMS)
    assert echo.call(lambda: sum(one.waiting for one in echo.server.connections)) == STREAMS
    echo.release()
    echo.until(lambda: len(echo.waiting) == 50)
    echo.release()
    assert [future.result() for future in futures] == [b"%d" % number for number in range(STREAMS + 50)]


# ---------------------------------------------------------------- streams


def test_a_stream_is_answered_in_order_and_survives_a_bad_request(channel):
    answers = channel.stream_stream("/t.E/Stream")(iter([b"0.1", b"bad", b"0.02", b"0"]))
    assert list(answers) == [b"<0.1>", b"message: that is bad", b"<0.02>", b"<0>"]


def test_a_stream_that_asks_faster_than_it_is_answered_is_not_read(echo, channel):
    count, message = 500, bytes(50_000)
    before = echo.seen
    answers = channel.stream_stream("/t.E/Held")(iter([message] * count))
    echo.until(lambda: len(echo.waiting) == 64)
    assert echo.call(lambda: max(one._held for one in echo.server.connections)) <= 3 << 20
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: [len(one) for one in answers])
        while not found.done():
            echo.release()
        assert found.result() == [len(message)] * count
    assert echo.seen - before == count


# ---------------------------------------------------------------- frames by hand


class Raw:
    """An HTTP/2 connection of which every frame is ours."""

    def __init__(self, port, window=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({4: window})
        self.send()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def send(self, data=b""):
        self.socket.sendall(self.h2.data_to_send() + data)

    def ask(self, stream, path=b"/t.E/Echo", message=b"hi", *, end=True, **headers):
        named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": path,
            b":authority": b"localhost",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
            **named,
        }
        self.h2.send_headers(stream, list(fields.items()))
        if message is not None:
            self.h2.send_data(stream, b"\0" + struct.pack(">I", len(message)) + message, end_stream=end)
        self.send()

    def events(self, until):
        """Return events up to one of a kind."""
        found = []
        while not any(isinstance(event, until) for event in found):
            data = self.socket.recv(65_536)
            if not data:
                break
            found += self.h2.receive_data(data)
            self.send()
        return found

    def ending(self, kind=7):
        """Read until the server hangs up, and return the code of its last GOAWAY, or of another kind of frame."""
        with self.socket.makefile("rb") as file:
            data = file.read()
        code = None
        while data:
            size = int.from_bytes(data[:3], "big")
            if data[3] == kind:
                code = int.from_bytes(data[9 : 9 + size][-4:] if kind == 3 else data[13:17], "big")
            data = data[9 + size :]
        return code


def headers_of(events, kind):
    return {name: value for event in events if isinstance(event, kind) for name, value in event.headers}


@pytest.fixture
def raw(echo):
    with Raw(echo.server.port) as connection:
        yield connection


def still_answers(echo):
    with Raw(echo.server.port) as connection:
        connection.ask(1)
        events = connection.events(StreamEnded)
        assert headers_of(events, TrailersReceived) == {b"grpc-status": b"0"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [({"content_type": b"application/json"}, b"415"), ({"content_type": b"application/grpc+json"}, b"415")],
)
def test_what_is_not_grpc_is_refused_as_http_does(raw, headers, expected):
    raw.ask(1, **headers)
    assert headers_of(raw.events(StreamEnded), ResponseReceived)[b":status"] == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"grpc_timeout": b"soon"}, b"3"),
        ({"grpc_encoding": b"gzip"}, b"0"),  # allowed: the message itself is not flagged
    ],
)
def test_heads_are_judged_before_messages(raw, headers, expected):
    raw.ask(1, **headers)
    events = raw.events(StreamEnded)
    found = headers_of(events, (ResponseReceived, TrailersReceived))
    assert found[b"grpc-status"] == expected


def test_another_authority_is_refused_on_loopback(echo):
    with grpc.insecure_channel(
        f"127.0.0.1:{echo.server.port}", [("grpc.default_authority", "evil.example")]
    ) as channel:
        assert status(lambda: unary(channel, "Echo")(b""))[0] == "PERMISSION_DENIED"


def test_the_token_is_asked_for():
    with Echo(token="secret") as echo, grpc.insecure_channel(f"127.0.0.1:{echo.server.port}") as channel:
        assert status(lambda: unary(channel, "Echo")(b""))[0] == "UNAUTHENTICATED"
        wrong = (("authorization", "Bearer other"),)
        assert status(lambda: unary(channel, "Echo")(b"", metadata=wrong))[0] == "UNAUTHENTICATED"
        assert unary(channel, "Echo")(b"in", metadata=(("authorization", "Bearer secret"),)) == b"in"


@pytest.mark.parametrize("message", [b"", b"\0\0\0\0\5hi", b"\0\0\0\0\1a\0\0\0\0\1b", b"\1\0\0\0\1a", b"\0\0\0"])
def test_a_call_with_no_cut_or_two_messages_fails_alone(raw, echo, message):
    raw.h2.send_headers(1, [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t.E/Echo"),
                            (b":authority", b"localhost"), (b"content-type", b"application/grpc")])  # fmt: skip
    raw.h2.send_data(1, message, end_stream=True)
    raw.send()
    found = headers_of(raw.events(StreamEnded), ResponseReceived)
    assert found[b"grpc-status"] in {b"12", b"13"}
    raw.ask(3)
    assert headers_of(raw.events(TrailersReceived), TrailersReceived) == {b"grpc-status": b"0"}


def test_an_answer_waits_for_a_client_that_has_no_room(echo):
    with Raw(echo.server.port, window=10) as raw:
        raw.ask(1, message=b"x" * 100)
        events = raw.events(DataReceived)
        raw.h2.increment_flow_control_window(500, 1)
        raw.send()
        events += raw.events(StreamEnded)
        data = b"".join(event.data for event in events if isinstance(event, DataReceived))
        assert data == b"\0\0\0\0\x64" + b"x" * 100
        assert headers_of(events, TrailersReceived) == {b"grpc-status": b"0"}


def test_a_client_that_never_has_room_is_given_up(echo):
    with Raw(echo.server.port, window=0) as raw:
        raw.ask(1)
        raw.events(ResponseReceived)
        for _ in range(2):
            echo.call(lambda: echo.server.sweep(echo.loop.time() + LIMITS.idle + 1))
        assert raw.ending(kind=3) == ErrorCodes.CANCEL
    echo.until(lambda: not echo.server.busy)


def test_a_request_that_does_not_arrive_is_given_up(echo):
    with Raw(echo.server.port) as raw:
        raw.ask(1, message=b"half", end=False)
        echo.until(lambda: echo.server.busy)
        echo.call(lambda: echo.server.sweep(echo.loop.time() + LIMITS.read + 1))
        assert headers_of(raw.events(StreamEnded), ResponseReceived)[b"grpc-status"] == b"4"


def test_a_silent_connection_is_closed(echo, raw):
    raw.ask(1)
    raw.events(StreamEnded)
    for _ in range(2):
        echo.call(lambda: echo.server.sweep(echo.loop.time() + LIMITS.idle + 1))
    assert raw.ending() == ErrorCodes.NO_ERROR


def _pings(connection):
    for _ in range(1_100):
        connection.h2.ping(b"12345678")


def _resets(connection):
    for number in range(1_100):
        connection.h2.send_headers(2 * number + 1, [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t.E/Wait"),
                                   (b":authority", b"localhost"), (b"content-type", b"application/grpc")])  # fmt: skip
        connection.h2.reset_stream(2 * number + 1)


def _settings(connection):
    for _ in range(1_100):
        connection.h2.update_settings({4: 65_535})


@pytest.mark.parametrize("flood", [_pings, _resets, _settings])
def test_floods_of_frames_that_ask_for_nothing_end_the_connection(echo, raw, flood):
    flood(raw)
    raw.send()
    assert raw.ending() == ErrorCodes.ENHANCE_YOUR_CALM
    still_answers(echo)


def test_headers_that_are_too_large_end_the_connection(echo, raw):
    block = hpack.Encoder().encode([(b"x-%d" % number, b"y" * 100) for number in range(300)])
    raw.send(len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block)
    assert raw.ending() == ErrorCodes.ENHANCE_YOUR_CALM
    still_answers(echo)


def test_calls_beyond_the_limit_are_refused_one_by_one_until_the_client_knows_it(echo):
    with socket.create_connection(("127.0.0.1", echo.server.port), timeout=10) as connection:
        client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        client.initiate_connection()
        for number in range(STREAMS + 3):
            client.send_headers(2 * number + 1, [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t.E/Wait"),
                                (b":authority", b"localhost"), (b"content-type", b"application/grpc")])  # fmt: skip
        connection.sendall(client.data_to_send())
        refused = []
        while len(refused) < 3:
            events = client.receive_data(connection.recv(65_536))
            refused += [event.stream_id for event in events if isinstance(event, StreamReset)]
        assert refused == [2 * number + 1 for number in range(STREAMS, STREAMS + 3)]
    echo.until(lambda: not echo.server.busy)
    echo.release()


frames = st.builds(
    lambda kind, flags, stream, payload: len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload,
    st.integers(0, 12), st.integers(0, 255), st.sampled_from([0, 1, 1, 2, 3, 5, 2**31 - 1, 2**31]), st.binary(max_size=60),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.booleans(), sent=st.lists(frames, max_size=8), tail=st.binary(max_size=30))
def test_no_frames_break_the_server(echo, caplog, before, sent, tail):
    caplog.clear()
    with Raw(echo.server.port) as raw:
        if before:
            raw.ask(1, end=False)
        try:
            raw.send(b"".join(sent) + tail)
            raw.socket.shutdown(socket.SHUT_WR)
            with raw.socket.makefile("rb") as file:
                file.read()
        except ConnectionError:
            pass  # hung up on while we were still sending
    assert "a connection failed" not in caplog.text
    still_answers(echo)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_no_bytes_break_the_server(echo, caplog, data):
    caplog.clear()
    with socket.create_connection(("127.0.0.1", echo.server.port), timeout=10) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
        except ConnectionError:
            pass
    assert "a connection failed" not in caplog.text
    still_answers(echo)


# ---------------------------------------------------------------- the end


def test_a_drain_answers_what_was_begun_and_closes():
    with Echo() as echo, grpc.insecure_channel(f"127.0.0.1:{echo.server.port}") as channel:
        future = unary(channel, "Wait").future(b"last")
        stream = channel.stream_stream("/t.E/Held")(iter([b"one", b"two"]))
        echo.until(lambda: len(echo.waiting) == 3)
        echo.call(echo.server.drain)
        # A call that was sent before the client has heard of it is still answered.
        deadline = time.monotonic() + 5
        while (found := answer_of(lambda: unary(channel, "Echo")(b"", timeout=5))) == "OK":
            assert time.monotonic() < deadline
        assert found == "UNAVAILABLE"
        echo.release()
        assert future.result(5) == b"last"
        assert list(stream) == [b"one", b"two"]
        echo.until(lambda: not echo.server.connections)


def test_a_goodbye_from_the_client_ends_the_connection(echo, raw):
    raw.ask(1, path=b"/t.E/Wait")
    echo.until(lambda: echo.waiting)
    raw.h2.close_connection()
    raw.send()
    assert raw.socket.recv(65_536) is not None
    echo.until(lambda: not any(turn.open for turn, _ in echo.waiting))
    echo.release()


def test_an_error_of_the_tree_has_a_code():
    from kilter.serving.grpc.status import Code, code_of

    assert code_of(NotFound("x")) is Code.NOT_FOUND
    assert code_of(CallError(Code.ABORTED, "x")) is Code.ABORTED
