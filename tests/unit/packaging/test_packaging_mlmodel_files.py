"""A model's folder from anywhere: nothing outside of it is read, and what it holds is never run."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kilter.core.errors import Damaged, InvalidInput, KilterError, NotFound
from kilter.data.encoding import Encoding
from kilter.packaging.examples import Example
from kilter.packaging.mlmodel import boosters
from kilter.packaging.mlmodel.document import Column, Document, ExampleInfo
from kilter.packaging.mlmodel.files import Files, clean, is_mlmodel, on_disk
from kilter.packaging.mlmodel.reading import read_mlmodel
from kilter.packaging.mlmodel.rows import read_rows

MLMODEL = b"flavors: {sklearn: {pickled_model: model.skops, serialization_format: skops}}\n"


def held(**files: bytes) -> Files:
    named = {name.replace("__", ".") if "__" in name else name: data for name, data in files.items()}
    return Files({name: len(data) for name, data in named.items()}, named.__getitem__, "here")


# ---------------------------------------------------------------- paths, links and archives


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "..", "", "a\\..\\x", "C:/x", "file:x", "a\x00b", ".", "./"]
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    with pytest.raises(InvalidInput, match=r"path below the folder|names no file"):
        clean(path)


def test_a_plain_path_stays():
    assert clean("./a//b.txt") == "a/b.txt"


def test_a_link_is_refused(tmp_path):
    (tmp_path / "MLmodel").write_bytes(MLMODEL)
    (tmp_path / "model.skops").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="link"):
        on_disk(tmp_path)


def test_a_linked_folder_is_refused(tmp_path):
    (tmp_path / "MLmodel").write_bytes(MLMODEL)
    (tmp_path / "data").symlink_to("/etc")
    with pytest.raises(InvalidInput, match="link"):
        on_disk(tmp_path)


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_bytes(MLMODEL)
    (folder / "model.skops").write_bytes(b"x")
    files = on_disk(folder)
    (folder / "model.skops").unlink()
    (folder / "model.skops").symlink_to(secret)
    with pytest.raises(KilterError):
        files.read("model.skops")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "model.skops")
    with pytest.raises(InvalidInput, match="no plain file"):
        on_disk(tmp_path)


def archive_of(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz"])
def test_an_archive_is_read_without_unpacking(tmp_path, name):
    path = archive_of(tmp_path / name, {"folder/MLmodel": MLMODEL, "folder/a/b": b"12", "other": b"x"})
    files = on_disk(path)
    assert is_mlmodel(path)
    assert dict(files.sizes) == {"MLmodel": len(MLMODEL), "a/b": 2}
    assert (files.document(), files.read("a/b")) == (MLMODEL, b"12")
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz"])
@pytest.mark.parametrize("member", ["../escape", "/absolute", "a/../../escape"])
def test_an_archive_whose_names_climb_is_refused(tmp_path, name, member):
    with pytest.raises(InvalidInput, match="path below"):
        on_disk(archive_of(tmp_path / name, {"MLmodel": MLMODEL, member: b"x"}))


def test_an_archive_with_a_link_is_refused(tmp_path):
    with tarfile.open(tmp_path / "model.tar", "w") as file:
        entry = tarfile.TarInfo("model.skops")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(entry)
    with pytest.raises(InvalidInput, match="link"):
        on_disk(tmp_path / "model.tar")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        info = zipfile.ZipInfo("model.skops")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(InvalidInput, match="link"):
        on_disk(tmp_path / "model.zip")


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"PK\x03\x04" + b"\x00" * 40])
def test_an_archive_that_is_none_is_refused(tmp_path, data):
    for name in ("model.zip", "model.tgz"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Damaged, match="archive"):
            on_disk(tmp_path / name)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(NotFound):
        on_disk(tmp_path / "nothing")
    with pytest.raises(InvalidInput, match="no MLmodel file"):
        on_disk(tmp_path).document()
    with pytest.raises(NotFound, match=r"no file 'model\.skops'"):
        read_mlmodel(held(MLmodel=MLMODEL))


# ---------------------------------------------------------------- what would run code


class Bomb:
    """Tells when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle}", r"a pickle \(cloudpickle\)"),
        ("sklearn: {pickled_model: model.pkl}", "a pickle"),
        ("sklearn: {}", "a pickle"),
        ("sklearn: {pickled_model: model.skops, serialization_format: pickle}", "a pickle"),
        ("lightgbm: {data: model.pkl, model_class: lightgbm.sklearn.LGBMClassifier}", "a pickle"),
        ("sklearn: {pickled_model: model.skops}", "not a skops file"),
        ("lightgbm: {data: model.skops}", "no fitted LightGBM estimator"),
        ("xgboost: {data: model.xgb}", "own binary format"),
        ("pytorch: {model_data: data}", "the network is a pickle"),
        ("sklearn: {pickled_model: ../model.skops}", "path below"),
        ("sklearn: {pickled_model: /etc/passwd}", "path below"),
        ("sklearn: {pickled_model: 5}", "named by no text"),
        ("python_function: {loader_module: mlflow.pyfunc.model, python_model: python_model.pkl}", "Python model"),
        ("python_function: {loader_module: evil, code: code}", r"code of its own \(evil\)"),
        ("keras: {data: data}\n  python_function: {loader_module: mlflow.keras}", "none that are read"),
        ("spark: {model_data: x}", "none that are read"),
    ],
)
def test_nothing_of_a_folder_is_run(tmp_path, monkeypatch, settings, message):
    monkeypatch.setenv("BOMB", str(tmp_path / "it-ran"))
    bomb = pickle.dumps(Bomb())
    names = ("model.pkl", "model.skops", "python_model.pkl", "data/model.pth", "model.xgb", "code/evil.py")
    files = {"MLmodel": f"flavors:\n  {settings}\n".encode(), **dict.fromkeys(names, bomb)}
    with pytest.raises((InvalidInput, Damaged), match=message) as caught:
        read_mlmodel(Files({name: len(data) for name, data in files.items()}, files.__getitem__, "here"))
    assert not (tmp_path / "it-ran").exists()
    if isinstance(caught.value, InvalidInput):
        assert caught.value.where
        assert caught.value.allowed


def test_a_skops_file_that_names_strange_types_is_refused():
    sklearn = pytest.importorskip("sklearn.preprocessing")
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(sklearn.FunctionTransformer(os.system))
    with pytest.raises(InvalidInput, match="system"):
        read_mlmodel(held(MLmodel=MLMODEL, model__skops=data))


# ---------------------------------------------------------------- rows


def document(inputs: tuple[Column, ...] | None, kind: str = "dataframe") -> Document:
    return Document(flavors={"x": {}}, inputs=inputs, example=ExampleInfo(path="input_example__json", type=kind))


def rows_of(text: str, *columns: tuple[str, str], kind: str = "dataframe"):
    inputs = tuple(Column(name=name, type=type_) for name, type_ in columns) or None
    files = Files({"input_example__json": len(text)}, lambda _: text.encode(), "here")
    return read_rows(files, document(inputs, kind))


def test_an_example_is_read_in_its_forms():
    split = '{"columns": ["a", "c"], "data": [[1, "x"], [NaN, null]]}'
    for text in (split, '[{"a": 1, "c": "x"}, {"a": null}]', '{"a": [1, null], "c": ["x", null]}'):
        for columns in ((), (("a", "long"), ("c", "string"))):
            found = rows_of(text, *columns)
            assert found.texts == ("c",)
            assert found.values == ((1, None), ("x", None))
    frame = rows_of(split).polars({"c": ("y", "x")})
    assert frame.schema == pl.Schema({"a": pl.Float64, "c": pl.Enum(["y", "x"])})
    coded = rows_of(split).coded({"c": ("y", "x")})
    assert isinstance(coded, Example)
    assert coded.encoding == Encoding(("a", "c"), ("numeric", "categorical"), {"c": ("y", "x")})
    np.testing.assert_array_equal(coded.matrix, [[1.0, 1.0], [np.nan, np.nan]])


def test_an_array_is_a_tensor():
    np.testing.assert_array_equal(rows_of("[[1, 2], [3, 4]]", kind="ndarray").tensor, [[1, 2], [3, 4]])
    tensor = Document(
        flavors={"x": {}},
        inputs=(Column(type="tensor", shape=(-1, 2), dtype="float32"),),
        example=ExampleInfo(path="e", type="ndarray"),
    )
    files = Files({"e": 9}, lambda _: b"[[1, 2, 3]]", "here")
    with pytest.raises(InvalidInput, match=r"shape \(1, 3\)"):
        read_rows(files, tensor)
    np.testing.assert_array_equal(read_rows(files, tensor, np.ones((1, 2))).tensor, [[1, 1]])


def test_without_an_example_a_row_of_zeros_is_made_up():
    found = read_rows(held(), Document(flavors={"x": {}}, inputs=(Column(name="a", type="double"),)))
    assert (found.given, found.values) == (False, ((0.0,),))


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("{", (("a", "double"),), "no JSON"),
        ("[" * 100_000, (("a", "double"),), "no JSON"),
        ("5", (("a", "double"),), "no table"),
        ("[]", (("a", "double"),), "no table"),
        ('{"a": []}', (("a", "double"),), "no table"),
        ('{"columns": ["a"], "data": [[1, 2]]}', (("a", "double"),), "no table"),
        ('{"columns": ["a"], "data": [[{}]]}', (("a", "double"),), "holds a dict"),
        ('{"columns": ["a"], "data": [["5"]]}', (("a", "double"),), "holds a str"),
        ('{"a": [1]}', (("a", "datetime"),), "of the type datetime"),
        ('{"a": [1]}', (("a", "double"), ("a", "double")), "same name"),
        ("[[1], [1, 2]]", (), "no table"),
    ],
)  # fmt: skip
def test_rows_that_are_none_are_refused(text, columns, message):
    with pytest.raises(InvalidInput, match=message):
        rows_of(text, *columns).polars({})


# ---------------------------------------------------------------- what boosters say of themselves


def test_categories_that_do_not_belong_together_are_refused():
    class Booster:
        def __init__(self, known):
            self.pandas_categorical = known

    assert boosters.of_lightgbm(Booster([["a", "b"]]), ["c"]) == {"c": ("a", "b")}
    with pytest.raises(InvalidInput, match="1 columns of text, its signature has 2"):
        boosters.of_lightgbm(Booster([["a", "b"]]), ["c", "d"])
    with pytest.raises(InvalidInput, match="are no text"):
        boosters.of_lightgbm(Booster([[1, 2]]), ["c"])
    with pytest.raises(InvalidInput, match="how it codes 'd'"):
        boosters.check_texts(["c", "d"], {"c": ("a",)})


@pytest.mark.parametrize(
    "schema",
    [
        {},
        [],
        {"__module__": "os"},
        {"__module__": "lightgbm.sklearn", "content": 5},
        {
            "__module__": "lightgbm.sklearn",
            "content": {"content": {"_Booster": {"content": {"content": {"_handle": {"content": "5"}}}}}},
        },
    ],
)
def test_a_skops_file_without_a_booster_is_refused(schema):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("schema.json", json.dumps(schema))
    with pytest.raises(Damaged, match="no fitted LightGBM estimator"):
        boosters.inside_skops(data.getvalue())


def test_early_stopping_is_kept(tmp_path):
    lightgbm, skops = pytest.importorskip("lightgbm"), pytest.importorskip("skops.io")
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 3))
    y = (X[:, 0] + random.normal(size=300) > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=60, verbose=-1, n_jobs=1, learning_rate=0.5)
    model.fit(
        X[:200], y[:200], eval_X=(X[200:],), eval_y=(y[200:],), callbacks=[lightgbm.early_stopping(3, verbose=False)]
    )
    assert 0 < model.best_iteration_ < 60
    files = {"MLmodel": b"flavors: {lightgbm: {data: model.skops}}\n", "model.skops": skops.dumps(model)}
    found = read_mlmodel(Files({name: len(data) for name, data in files.items()}, files.__getitem__, "here"))
    from kilter.loop.versions.deploy import packaged
    from kilter.packaging.bundle import Runtime

    answers = Runtime.of(packaged(found.model, found.example)).predict(X)
    np.testing.assert_array_equal(answers, model.predict_proba(X)[:, 1])


# ---------------------------------------------------------------- weights beside a graph


def graph_beside(location: str, offset: str = "0", length: str = "16"):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", 1, [None, 4])], [info("y", 1, [None, 4])], initializer=[tensor]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()


def test_weights_beside_a_graph_are_taken_in():
    onnx = pytest.importorskip("onnx")
    from kilter.packaging.onnx_external import inlined

    weights = b"head" + np.arange(4, dtype="<f4").tobytes()
    whole = onnx.ModelProto.FromString(inlined(graph_beside("w.bin", "4"), {"w.bin": weights}.__getitem__))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(whole.graph.initializer[0]), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("location", "offset", "length", "message"),
    [
        ("../../etc/passwd", "0", "16", "path below"),
        ("/etc/passwd", "0", "16", "path below"),
        ("gone.bin", "0", "16", "no file"),
        ("w.bin", "8", "16", "beyond the end"),
        ("w.bin", "-4", "16", "no number"),
        ("w.bin", "0", "1e3", "no number"),
    ],
)
def test_weights_that_lie_elsewhere_are_refused(location, offset, length, message):
    pytest.importorskip("onnx")
    files = {
        "MLmodel": b"flavors: {onnx: {data: m/model.onnx}}\n",
        "m/model.onnx": graph_beside(location, offset, length),
        "m/w.bin": bytes(16),
    }
    with pytest.raises(KilterError, match=message):
        read_mlmodel(Files({name: len(data) for name, data in files.items()}, files.__getitem__, "here"))
