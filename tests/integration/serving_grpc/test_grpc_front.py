"""What a caller of a front's gRPC port sees when workers die, time runs out, too much is asked, or the front ends."""

import os
import signal
import struct
import threading

import grpc
import httpx
import pytest

from kilter.serving.front.process import FrontConfig
from kilter.serving.grpc.inference import _CLASSES
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

PATH = "/inference.GRPCInferenceService/ModelInfer"
INFER, INFERRED = _CLASSES["ModelInferRequest"], _CLASSES["ModelInferResponse"]


class Caller:
    """Asks one endpoint over one channel."""

    def __init__(self, address, **metadata):
        self.channel = grpc.insecure_channel(address)
        self.metadata = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        self._infer = self.channel.unary_unary(PATH, INFER.SerializeToString, INFERRED.FromString)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.channel.close()

    def ask(self, loop, rows=1, timeout=20.0):
        request = INFER(model_name=loop, raw_input_contents=[struct.pack("<d", 1.0) * rows])
        request.inputs.add(name="x", datatype="FP64", shape=[rows, 1])
        return self._infer.future(request, timeout=timeout, metadata=self.metadata)

    def status(self, *question, **terms):
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(*question, **terms).result()
        return caught.value.code().name


def address(front):
    import json
    from pathlib import Path

    return f"127.0.0.1:{json.loads(Path(front.config.announce).read_text())['grpc_port']}"


def value(response):
    return struct.unpack_from("<d", response.raw_output_contents[0])[0]


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    settings = {"waiting_rows": 100, "stall": 20.0, "deadline": 20.0}
    with RunningFront(tmp_path_factory.mktemp("grpc-front"), grpc_port=0, **settings) as running:
        running.plan(TrafficPlan(loop="late", champion=1, bundles={1: running.constant(0.5)}, fallback=0.9))
        running.plan(TrafficPlan(loop="other", champion=1, bundles={1: running.constant(0.5)}, fallback=0.9))
        yield running.start()


@pytest.fixture
def caller(front):
    with Caller(address(front)) as opened:
        yield opened


@pytest.fixture
def stopped(front):
    """Workers that don't answer for a while."""
    workers = [front.pids(loop, 1)[0] for loop in ("late", "other")]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    yield
    for worker in workers:
        os.kill(worker, signal.SIGCONT)


def test_an_answer_is_on_record_and_counted_as_any_other(front, caller):
    before = front.metric("requests_total", loop="late", status="200")
    found = caller.ask("late", rows=3).result()
    prediction = front.endpoints.prediction(found.parameters["prediction"].string_param)
    assert (prediction.loop, prediction.value, prediction.inputs) == ("late", 0.5, {"x": 1.0})
    assert front.metric("requests_total", loop="late", status="200") == before + 1


def test_time_runs_out_at_the_front_and_the_next_call_is_answered(front, caller, stopped):
    assert caller.status("late", timeout=0.2) == "DEADLINE_EXCEEDED"
    given_up = caller.ask("late")
    front.until(lambda: front.metric("waiting_rows", loop="late") >= 1)
    given_up.cancel()
    assert httpx.get(f"{front.client.base_url}/livez").status_code == 200


def test_what_does_not_fit_is_refused_at_once_and_what_was_taken_is_answered(front, caller, stopped):
    taken = [caller.ask("late", rows=40)]
    front.until(lambda: front.metric("waiting_rows", loop="late") >= 40)
    assert caller.status("late", rows=20) == "RESOURCE_EXHAUSTED"
    taken.append(caller.ask("other", rows=40))
    front.until(lambda: front.metric("waiting_rows", loop="other") >= 40)
    assert caller.status("other", rows=50) == "UNAVAILABLE"
    for loop in ("late", "other"):
        os.kill(front.pids(loop, 1)[0], signal.SIGCONT)
    assert [value(one.result()) for one in taken] == [0.5, 0.5]


@pytest.mark.crash
def test_killed_workers_fail_no_call(front):
    failed, answers, stopping = [], [], threading.Event()

    def ask():
        with Caller(address(front)) as caller:
            while not stopping.is_set():
                try:
                    answers.append(value(caller.ask("late").result()))
                except grpc.RpcError as error:
                    failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before = len(answers)
        os.kill(front.pids("late", 1)[0], signal.SIGKILL)
        front.until(lambda before=before: len(answers) > before + 20)
        front.until(lambda: front.models("late")["versions"][0]["ready"])
    stopping.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert set(answers) <= {0.5, 0.9}


@pytest.mark.crash
def test_a_front_that_is_told_to_end_answers_what_it_has_taken(tmp_path):
    with RunningFront(tmp_path, grpc_port=0) as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: front.constant(0.5)}, fallback=0.9))
        front.start()
        lost, answered = [], []

        def ask():
            with Caller(address(front)) as caller:
                while True:
                    try:
                        answered.append(value(caller.ask("late").result()))
                    except grpc.RpcError as error:
                        if "refused" not in error.details() and "failed to connect" not in error.details().lower():
                            lost.append((error.code(), error.details()))
                        return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        front.until(lambda: len(answered) > 100)
        assert front.stop() == 0
        for thread in threads:
            thread.join()
        assert lost == []
        assert set(answered) == {0.5}


def test_the_token_of_the_front_is_asked_for(tmp_path):
    with RunningFront(tmp_path, grpc_port=0, token="secret") as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: front.constant(0.5)}))
        front.start()
        with Caller(address(front)) as nobody, Caller(address(front), authorization="Bearer secret") as owner:
            assert nobody.status("late") == "UNAUTHENTICATED"
            assert value(owner.ask("late").result()) == 0.5
            live = nobody.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"") == b"\x08\x01"


def test_a_port_that_is_taken_is_told(front, tmp_path):
    taken = int(address(front).rpartition(":")[2])
    with RunningFront(tmp_path, grpc_port=taken) as second, pytest.raises(AssertionError, match="ended with 5"):
        second.start()
    assert FrontConfig(database="", objects="", logs="").grpc_port is None
