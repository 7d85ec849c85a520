"""A bundle for browsers: a real Chromium without a network answers what the endpoint answers."""

import functools
import http.server
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import kilter
from kilter.cli.main import main
from kilter.core.errors import Damaged, InvalidInput, Unavailable
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import load
from kilter.packaging.export import web_runtime
from kilter.packaging.export.device.model import EdgeModel

pytest.importorskip("skl2onnx")
pytest.importorskip("onnxmltools")
pytest.importorskip("skops")
lightgbm = pytest.importorskip("lightgbm")
linear_model = pytest.importorskip("sklearn.linear_model")

CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
CITIES = ["Rome", 'Ber"lin', "</script>", "Köln"]


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """A folder with the pinned ONNX Runtime Web, from npm's cache, or a skip."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    try:
        files = web_runtime.runtime_files(offline=True)
    except Unavailable as error:
        pytest.skip(f"npm's cache does not hold it (npm cache add onnxruntime-web@{web_runtime.VERSION}): {error}")
    folder = tmp_path_factory.mktemp("runtime")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def page():
    """A tab of a real Chromium that reaches this machine alone, or a skip."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield browser.new_page()
        browser.close()


def served(page, folder):
    """Let a page load a folder's files without any network: requests are answered from the folder, and from nothing else."""
    asked = []

    def answer(route):
        path = route.request.url.partition("http://bundle.example/")[2] or "index.html"
        asked.append(route.request.url)
        kinds = {
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
            ".html": "text/html",
            ".json": "application/json",
        }
        file = folder / path
        if not route.request.url.startswith("http://bundle.example/") or not file.is_file():
            route.abort()
        else:
            route.fulfill(body=file.read_bytes(), content_type=kinds.get(file.suffix, "application/octet-stream"))

    page.context.set_offline(True)
    page.unroute_all()
    page.route("**/*", answer)
    page.goto("http://bundle.example/")
    page.wait_for_selector("body[data-state]", timeout=60_000)
    return asked


@pytest.fixture
def site(tmp_path):
    """A server of static files on this machine, as anybody would start it; the page that it shows does not exist yet."""
    handler = functools.partial(Quiet, directory=tmp_path / "page")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, *_):
        pass


def shown(page, site):
    """Load a page from a server on this machine."""
    page.context.set_offline(False)
    page.unroute_all()
    page.goto(site)
    page.wait_for_selector("body[data-state=ready]", timeout=60_000)


def visits(random):
    frame = pl.DataFrame(
        {
            "price": random.normal(size=300),
            "city": random.choice(CITIES, 300).tolist(),
            "hour": random.integers(0, 24, 300),
        }
    ).with_columns(pl.when(pl.int_range(pl.len()) % 7 > 0).then("price").alias("price"))
    codes = frame["city"].cast(pl.Enum(sorted(set(frame["city"])))).to_physical().to_numpy()
    matrix = np.column_stack([frame["price"].to_numpy(), codes, frame["hour"].to_numpy()]).astype(float)
    target = (np.nan_to_num(matrix[:, 0]) + (matrix[:, 2] > 11) - (codes == 2) + random.normal(size=300)) > 0.5
    return frame, matrix, target


@pytest.mark.ui
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_browser_without_a_network_answers_like_the_endpoint(tmp_path, runtime, page):
    frame, matrix, target = visits(np.random.default_rng(3))
    model = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "num_threads": 1},
        lightgbm.Dataset(matrix, target.astype(float), feature_name=frame.columns),
        10,
    )
    store, out = tmp_path / "store", tmp_path / "page"
    deployed = kilter.deploy(model, name="visits", example=frame.to_dicts(), store=store)
    arguments = ["export", "visits", "--target", "browser", "--out", str(out), "--store", str(store)]
    assert main([*arguments, "--runtime-from", str(runtime)]) == 0
    asked = served(page, out)
    assert page.locator("#state").inner_text() == "Ready: the answers to 32 example rows are the packaged model's."
    assert all(url.startswith("http://bundle.example/") for url in asked)
    records = [*frame.head(50).to_dicts(), {"city": "Atlantis", "price": 1, "hour": 3}, {}]
    found = page.evaluate("async (rows) => (await import('./visits.mjs')).predict(rows)", records)
    with Workspace.open(store) as workspace:
        loaded = load(deployed.bundle, workspace.objects)
        wanted = loaded.predict(loaded.encoding.rows(records))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert len(np.unique(wanted)) > 10
    assert page.evaluate("async () => (await import('./visits.mjs')).predict([])") == []
    page.fill("#price", "0.5")
    page.select_option("#city", label="</script>")
    page.fill("#hour", "23")
    page.click("button")
    page.wait_for_function("document.querySelector('output').textContent !== ''")
    shown = float(page.locator("output").inner_text().removeprefix("value: "))
    assert shown == pytest.approx(
        loaded.predict(loaded.encoding.rows([{"price": 0.5, "city": "</script>", "hour": 23}]))[0], abs=1e-5
    )


@pytest.mark.ui
def test_several_classes_are_answered_in_order(tmp_path, runtime, page, site):
    random = np.random.default_rng(4)
    X = random.normal(size=(200, 4))
    y = np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])
    model = linear_model.LogisticRegression().fit(X, y)
    store, out = tmp_path / "store", tmp_path / "page"
    kilter.deploy(model, name="grades", example=X, store=store)
    arguments = ["export", "grades", "--target", "browser", "--out", str(out), "--store", str(store)]
    assert main([*arguments, "--runtime-from", str(runtime)]) == 0
    shown(page, site)
    found = page.evaluate("async (rows) => (await import('./grades.mjs')).answer(rows)", X[:20].tolist())
    np.testing.assert_allclose(found, model.predict_proba(X[:20]), atol=1e-5)


@pytest.mark.ui
def test_a_pipeline_that_takes_text_gets_text(tmp_path, runtime, page, site):
    pandas = pytest.importorskip("pandas")
    compose = pytest.importorskip("sklearn.compose")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    random = np.random.default_rng(5)
    frame = pandas.DataFrame({"city": random.choice(["Rome", "Berlin"], 200), "price": random.normal(size=200)})
    known = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = compose.ColumnTransformer(
        [("city", known, ["city"]), ("price", preprocessing.StandardScaler(), ["price"])]
    )
    model = pipeline.make_pipeline(columns, linear_model.LogisticRegression())
    model.fit(frame, (frame["price"] + (frame["city"] == "Rome") > 0.4).astype(int))
    store, out = tmp_path / "store", tmp_path / "page"
    kilter.deploy(model, name="trips", example=frame, store=store)
    arguments = ["export", "trips", "--store", str(store), "--out"]
    assert main([*arguments, str(out), "--target", "browser", "--runtime-from", str(runtime)]) == 0
    shown(page, site)
    records = frame.head(30).to_dict("records")
    found = page.evaluate("async (rows) => (await import('./trips.mjs')).predict(rows)", records)
    wanted = model.predict_proba(frame.head(30))[:, 1]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert main([*arguments, str(tmp_path / "edge"), "--target", "edge"]) == 0
    device = EdgeModel(tmp_path / "edge")
    assert device.self_test() < 1e-5
    np.testing.assert_allclose(np.ravel(device.predict(records)), wanted, atol=1e-5)


def test_only_the_pinned_runtime_is_taken(tmp_path, runtime, capsys):
    assert set(web_runtime.runtime_files(runtime)) == set(web_runtime.FILES)
    other = tmp_path / "other"
    shutil.copytree(runtime, other)
    with (other / "ort.wasm.bundle.min.mjs").open("ab") as file:
        file.write(b"//")
    with pytest.raises(Damaged, match="is not that of onnxruntime-web@"):
        web_runtime.runtime_files(other)
    tarball = tmp_path / "other.tgz"
    with tarfile.open(tarball, "w:gz") as file:
        file.add(runtime, "package/dist")
    with pytest.raises(Damaged, match="integrity hash"):
        web_runtime.runtime_files(tarball)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(InvalidInput, match="--runtime-from"):
            web_runtime.runtime_files(nothing)


def test_without_npm_and_without_a_runtime_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"npm is not installed.*--runtime-from"):
        web_runtime.runtime_files()


def test_npm_that_has_nothing_says_so(monkeypatch, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    monkeypatch.setenv("npm_config_cache", str(tmp_path))
    with pytest.raises(Unavailable, match="npm can't get the package"):
        web_runtime.runtime_files(offline=True)
