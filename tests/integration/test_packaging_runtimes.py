"""Functions, upstreams, PyTorch programs and ONNX graphs as models, and what is refused."""

from __future__ import annotations

import asyncio
import http.server
import io
import json
import threading
import zipfile

import numpy as np
import pytest

import kilter
from kilter.core.digests import digest
from kilter.core.errors import Damaged, Forbidden, InvalidInput, Unavailable
from kilter.loop.versions.deploy import packaged
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import Runtime, load
from kilter.packaging.files import read_model
from kilter.packaging.loading import load_model
from kilter.packaging.native import ModelSpec
from kilter.packaging.upstream import Upstream
from kilter.serving.settings import Settings
from kilter.serving.workers.pool import Pool

WEIGHTS = (1.0, 2.0, 3.0)


def scored(rows):
    """Score by hand."""
    return rows @ np.array(WEIGHTS)


def two(rows):
    return np.stack([rows[:, 0], rows[:, 1]], axis=1)


def of_frame(frame):
    return frame["a"] * frame["kind"].map({"x": 1.0, "y": 10.0})


def failing(rows):
    if len(rows) == 1:
        raise ValueError(f"a secret: {rows}")
    return rows[:, 0]


@pytest.fixture(autouse=True)
def trusted(tmp_path, monkeypatch):
    """A file of trusted digests of the test's own."""
    monkeypatch.setenv("KILTER_TRUST", str(tmp_path / "trusted"))
    return tmp_path / "trusted"


@pytest.fixture
def rows():
    return np.random.default_rng(3).normal(size=(20, 3))


# ---------------------------------------------------------------- functions


def test_a_function_is_a_model(rows, tmp_path, trusted):
    deployed = kilter.deploy(scored, name="score", example=rows, store=tmp_path)
    with Workspace.open(tmp_path) as workspace:
        runtime = load(deployed.bundle, workspace.objects)
    np.testing.assert_array_equal(runtime.predict(rows), scored(rows))
    assert runtime.manifest.signature.label == "regression"
    assert oct(trusted.stat().st_mode)[-3:] == "600"
    source = packaged(scored, rows).model.decode()
    assert "WEIGHTS" in source  # what it uses comes along,
    assert "pytest" not in source  # and nothing else
    assert Runtime.of(packaged(two, rows)).predict(rows).shape == (20, 2)


def test_a_function_of_a_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "kind": ["x", "y", "x"]})
    runtime = Runtime.of(packaged(of_frame, frame))
    assert runtime.predict(np.array([[5.0, 1.0], [5.0, 0.0]])).tolist() == [50.0, 5.0]


def test_a_function_that_was_not_packaged_here_is_not_run(rows, tmp_path, trusted):
    parts = packaged(scored, rows)
    trusted.unlink()
    with pytest.raises(Forbidden, match="not packaged by this user"):
        Runtime.of(parts)
    trusted.write_text(digest(parts.model))
    trusted.chmod(0o666)
    with pytest.raises(Forbidden, match="others can write"):
        Runtime.of(parts)
    with Workspace.open(tmp_path) as workspace:
        pieces = (workspace.deployments.keep(parts.model),)
        with pytest.raises(Forbidden, match="owner"):
            workspace.deployments.release("score", parts.manifest, pieces, parts.example)


def test_functions_that_cannot_stand_alone_are_refused(rows):
    def inner(matrix):
        return matrix @ np.array(WEIGHTS)

    with pytest.raises(InvalidInput, match="top level"):
        packaged(inner, rows)
    with pytest.raises(InvalidInput, match="has no source"):
        packaged(eval("lambda rows: rows[:, 0]"), rows)  # noqa: S307 - a function without source


def test_what_a_function_raises_does_not_tell_the_rows(rows):
    runtime = Runtime.of(packaged(failing, rows))
    with pytest.raises(InvalidInput, match="the function raised ValueError") as caught:
        runtime.predict(rows[:1])
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- upstreams


class Upstreams(http.server.ThreadingHTTPServer):
    """A model server of three lines, for what goes wrong; the protocol's own servers are asked elsewhere."""

    def __init__(self):
        self.calls = []
        self.say = None
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request, client_address):
        """Stay quiet: callers that hang up are part of the test."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._send(200, {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, dict(self.headers), asked))
        if self.server.say is not None:
            return self.server.say(self)
        tensor = asked["inputs"][0]
        values = np.array(tensor["data"]).reshape(tensor["shape"])
        answer = {"name": "y", "datatype": "FP64", "shape": [len(values)], "data": values.sum(axis=1).tolist()}
        return self._send(200, {"outputs": [answer]})

    def _send(self, status, value, body=None):
        data = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def upstream():
    with Upstreams() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remote(server, **settings):
    return Upstream(url=f"http://127.0.0.1:{server.server_address[1]}", model="m", **settings)


def test_an_upstream_answers(upstream, rows, monkeypatch):
    monkeypatch.setenv("UPSTREAM_TOKEN", "t0ken")
    parts = packaged(remote(upstream, version="3", token="env:UPSTREAM_TOKEN"), rows)
    assert b"t0ken" not in parts.model
    runtime = Runtime.of(parts)
    np.testing.assert_allclose(runtime.predict(rows), rows.sum(axis=1), atol=1e-6)
    path, headers, asked = upstream.calls[-1]
    assert path == "/v2/models/m/versions/3/infer"
    assert headers["Authorization"] == "Bearer t0ken"
    assert asked["inputs"][0] | {"data": []} == {"name": "x", "shape": [20, 3], "datatype": "FP32", "data": []}


def test_an_upstream_that_fails_is_asked_once(upstream, rows):
    runtime = Runtime.of(packaged(remote(upstream, timeout=0.2), rows))
    hung = threading.Event()

    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not hung.wait(0.05):
            handler.wfile.write(b" ")

    def broken(handler):
        handler.close_connection = True
        handler.connection.close()

    cases = {
        "did not answer in time": trickle,
        "did not answer": broken,
        "answered with 503": lambda handler: handler._send(503, {}),
        "can't be read": lambda handler: handler._send(200, {"outputs": [{"data": ["a"]}]}),
        "too long|HTTPException": lambda handler: handler._send(200, None, b" " * (3 << 20)),
    }
    for message, say in cases.items():
        upstream.say, before = say, len(upstream.calls)
        with pytest.raises(Unavailable, match=message):
            runtime.predict(rows)
        assert len(upstream.calls) == before + 1
    hung.set()
    upstream.say = lambda handler: handler._send(400, {"error": "no"})
    with pytest.raises(InvalidInput, match="refused the rows with 400"):
        runtime.predict(rows)
    upstream.say = None
    np.testing.assert_allclose(runtime.predict(rows), rows.sum(axis=1), atol=1e-6)


def test_a_batch_that_an_upstream_could_not_answer_is_not_asked_again_in_parts(upstream, rows):
    parts = packaged(remote(upstream), rows)

    async def ask():
        pool = Pool(Settings(), lambda: None)
        await pool.start(parts, 30)
        upstream.say, before = (lambda handler: handler._send(503, {})), len(upstream.calls)
        done = [asyncio.get_running_loop().create_future() for _ in range(6)]
        for one in done:
            pool.ask(rows.tobytes(), 20, lambda _, outcome, f=one: f.set_result(outcome))
        outcomes = await asyncio.gather(*done)
        await pool.stop()
        return outcomes, len(upstream.calls) - before

    outcomes, calls = asyncio.run(ask())
    assert outcomes == ["refused"] * 6
    assert calls <= 3  # the first went alone, the others as a batch or two


@pytest.mark.parametrize(
    "settings",
    [{"url": "ftp://h", "model": "m"}, {"url": "http://u:p@h", "model": "m"}, {"url": "http://h", "model": ""},
     {"url": "http://h", "model": "m", "timeout": 0}, {"url": "http://h", "model": "m", "token": "t0ken"}],
)  # fmt: skip
def test_upstreams_that_cannot_be_are_refused(settings, rows):
    with pytest.raises(InvalidInput, match="upstream"):
        packaged(Upstream(**settings), rows)


def test_an_upstream_that_is_not_there(rows):
    with pytest.raises(Unavailable, match="did not answer"):
        packaged(Upstream(url="http://127.0.0.1:9", model="m"), rows)


# ---------------------------------------------------------------- PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def network(torch):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2), torch.nn.Softmax(dim=-1))


def test_a_module_is_exported(torch, rows, tmp_path):
    module = network(torch)
    deployed = kilter.deploy(
        module, name="net", example=rows, label="multiclass", outputs=("no", "yes"), store=tmp_path
    )
    with Workspace.open(tmp_path) as workspace:
        runtime = load(deployed.bundle, workspace.objects)
    assert runtime.manifest.signature.outputs == ("no", "yes")
    expected = module(torch.tensor(rows, dtype=torch.float32)).detach().numpy()
    for count in (1, 2, 20):
        np.testing.assert_allclose(runtime.predict(rows[:count]), expected[:count], atol=1e-6)
    assert packaged(module, rows, label="multiclass").model == packaged(module, rows, label="multiclass").model


def test_a_module_that_takes_pictures(torch):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 1))
    pictures = np.random.default_rng(0).normal(size=(3, 1, 8, 8))
    parts = packaged(module, pictures)
    assert parts.manifest.signature.shape == (1, 8, 8)
    expected = module(torch.tensor(pictures, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(Runtime.of(parts).predict(pictures.reshape(3, 64)), expected[:, 0], atol=1e-5)


def saved(torch, module, dynamic=True):
    written = io.BytesIO()
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=shapes), written)
    return written.getvalue()


def changed(data, name, change):
    """Return an archive with one file changed."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(result, "w") as written:
        root = given.namelist()[0].partition("/")[0]
        files = {one: given.read(one) for one in given.namelist()}
        files[f"{root}/{name}"] = change(files.get(f"{root}/{name}", b""))
        for one, content in files.items():
            written.writestr(one, content)
    return result.getvalue()


def test_a_pt2_file(torch, tmp_path, rows):
    (tmp_path / "m.pt2").write_bytes(saved(torch, network(torch)))
    parts = packaged(model := read_model(tmp_path / "m.pt2"), model.example)
    expected = network(torch)(torch.tensor(rows, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(Runtime.of(parts).predict(rows), expected, atol=1e-6)
    (tmp_path / "m.pt2").write_bytes(saved(torch, network(torch), dynamic=False))
    with pytest.raises(InvalidInput, match="exactly 2 rows"):
        read_model(tmp_path / "m.pt2")


def test_an_archive_with_code_in_it_runs_nothing(torch, tmp_path):
    ran = tmp_path / "ran"
    data = saved(torch, network(torch))
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"

    def graph(change):
        def written(content):
            value = json.loads(content)
            change(value)
            return json.dumps(value).encode()

        return written

    def operator(value):
        value["graph_module"]["graph"]["nodes"][0]["target"] = "torch.serialization.os.system"

    def shape(value):
        next(iter(value["graph_module"]["graph"]["tensor_values"].values()))["sizes"][0] = {
            "as_expr": {"expr_str": code, "hint": {"as_int": 2}}
        }

    def constraint(value):
        value["range_constraints"] = {code: {"min_val": 0, "max_val": 9}}

    def pickled(content):
        value = json.loads(content)
        next(iter(value["config"].values()))["use_pickle"] = True
        return json.dumps(value).encode()

    def custom(content):
        return json.dumps({"config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
                                            "tensor_meta": None}}}).encode()  # fmt: skip

    weights, constants = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
    model = "models/model.json"
    for name, change in (
        (model, graph(operator)),
        (model, graph(shape)),
        (model, graph(constraint)),
        (weights, pickled),
        (constants, custom),
        ("data/constants/opaque_obj_0", lambda _: b"cos\nsystem\n"),
        ("data/aotinductor/model/x.so", lambda _: b""),
    ):
        (tmp_path / "m.pt2").write_bytes(changed(data, name, change))
        with pytest.raises(InvalidInput, match="the archive holds"):
            read_model(tmp_path / "m.pt2")
        with pytest.raises(InvalidInput, match="the archive holds"):  # nor in a worker
            load_model(ModelSpec(flavor="torch-export", columns=3, outputs=2), changed(data, name, change))
    # sample inputs are pickled, and are not looked at
    (tmp_path / "m.pt2").write_bytes(changed(data, "data/sample_inputs/model.pt", lambda _: b"cos\nsystem\n"))
    assert read_model(tmp_path / "m.pt2").flavor == "torch-export"
    assert not ran.exists()


# ---------------------------------------------------------------- ONNX


def test_onnx_files(tmp_path, rows):
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.linear_model import LinearRegression, LogisticRegression

    y = (rows[:, 0] > 0).astype(int)
    for model, label in ((LogisticRegression().fit(rows, y), "binary"), (LinearRegression().fit(rows, y), "regression"),
                         (LogisticRegression().fit(rows, np.arange(20) % 3), "multiclass")):  # fmt: skip
        graph = skl2onnx.to_onnx(model, rows[:1].astype(np.float32))  # with a ZipMap, as everybody has it
        (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
        file = read_model(tmp_path / "m.onnx")
        parts = packaged(file, rows)
        assert parts.manifest.signature.label == label
        runtime = Runtime.of(parts)
        expected = model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows)
        np.testing.assert_allclose(runtime.predict(rows), expected[:, 1] if label == "binary" else expected, atol=1e-5)
        with pytest.raises(InvalidInput, match="the model has 3 inputs, its signature 4"):
            packaged(file, np.zeros((2, 4)))


@pytest.mark.parametrize("ending", [".onnx", ".ubj", ".json", ".txt", ".skops", ".pt2"])
@pytest.mark.parametrize(
    "content",
    [b"", b"nothing", bytes(range(96, 160)), b"PK\x03\x04" + b"\x00" * 40],
    ids=["empty", "words", "bytes", "archive"],
)
def test_files_that_are_something_else(tmp_path, ending, content):
    if ending == ".pt2":
        pytest.importorskip("torch")
    (tmp_path / f"m{ending}").write_bytes(content)
    with pytest.raises(Damaged):
        read_model(tmp_path / f"m{ending}")
