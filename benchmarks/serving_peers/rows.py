"""The models, the rows, and how each protocol writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

COLUMNS = 30
NAME = "bench"
Kind = Literal["trees", "linear"]


def fitted(kind: Kind) -> tuple[Any, np.ndarray]:
    """Return a model and rows as it was fitted on.

    Args:
        kind: ``trees``: XGBoost, 100 of depth 6. ``linear``: a logistic regression behind a scaler.
    """
    random = np.random.default_rng(0)
    X = random.normal(size=(5_000, COLUMNS)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] * X[:, 2] + random.normal(size=len(X)) > 0).astype(int)
    if kind == "trees":
        import xgboost

        return xgboost.XGBClassifier(n_estimators=100, max_depth=6, n_jobs=1).fit(X, y), X
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X = X.astype(np.float64)  # as scikit-learn computes from a notebook's rows
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y), X


def saved(kind: Kind, model: Any, folder: Path) -> Path:
    """Write a model as the peers load it."""
    if kind == "trees":
        path = folder / "model.json"
        model.save_model(path)
        return path
    import joblib

    path = folder / "model.joblib"
    joblib.dump(model, path)
    return path


def asked(rows: int) -> np.ndarray:
    """Return the rows of a request: float32, rounded so that JSON says the same."""
    data = np.random.default_rng(1).normal(size=(rows, COLUMNS))
    return np.round(data, 6).astype(np.float32)


@dataclass(frozen=True)
class Body:
    """What is sent."""

    content: bytes
    headers: dict[str, str]


def _numbers(rows: int) -> list[float]:
    return [round(float(value), 6) for value in asked(rows).ravel()]


def open_inference(rows: int, output: str = "") -> Body:
    """A request of the Open Inference Protocol in JSON."""
    tensor = {"name": "input", "shape": [rows, COLUMNS], "datatype": "FP32", "data": _numbers(rows)}
    request: dict[str, Any] = {"inputs": [tensor]}
    if output:
        request["outputs"] = [{"name": output}]
    return Body(json.dumps(request).encode(), {"Content-Type": "application/json"})


def binary(rows: int) -> Body:
    """The same with the binary tensor extension, also for the answer."""
    data = asked(rows).tobytes()
    tensor = {
        "name": "input",
        "shape": [rows, COLUMNS],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return Body(head + data, headers)


def raw(rows: int) -> Body:
    """The bytes of the matrix and nothing else."""
    return Body(asked(rows).tobytes(), {"Content-Type": "application/octet-stream"})


def nested(rows: int, field: str) -> Body:
    """A list per row under one name."""
    values = np.asarray(_numbers(rows)).reshape(rows, COLUMNS).tolist()
    return Body(json.dumps({field: values}).encode(), {"Content-Type": "application/json"})


def parquet(rows: int) -> Body:
    """A Parquet file."""
    import io

    import polars as pl

    file = io.BytesIO()
    pl.DataFrame(asked(rows), schema=[f"f{place}" for place in range(COLUMNS)]).write_parquet(file)
    return Body(file.getvalue(), {"Content-Type": "application/vnd.apache.parquet"})


def model_infer(rows: int, output: str = "") -> Body:
    """A ModelInferRequest with raw contents, framed as gRPC frames it."""
    from kilter.serving.grpc.inference import _CLASSES

    request = _CLASSES["ModelInferRequest"](model_name=NAME, raw_input_contents=[asked(rows).tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=[rows, COLUMNS])
    if output:
        request.outputs.add(name=output)
    content = request.SerializeToString()
    return Body(b"\0" + len(content).to_bytes(4, "big") + content, {"Content-Type": "application/grpc"})


# ------------------------------------------------------------ answers


def numbers(value: Any) -> list[float]:
    """Return all numbers in a JSON value, in order, except those of a shape."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() if key != "shape" for found in numbers(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in numbers(inner)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def of_json(answer: bytes, _headers: dict[str, str]) -> list[float]:
    """Read the numbers of a JSON answer."""
    return numbers(json.loads(answer))


def of_binary(answer: bytes, headers: dict[str, str]) -> list[float]:
    """Read an answer with the binary tensor extension."""
    size = int(headers["inference-header-content-length"])
    kind = json.loads(answer[:size])["outputs"][0]["datatype"]
    return [float(value) for value in np.frombuffer(answer[size:], np.float32 if kind == "FP32" else np.float64)]


def of_raw(answer: bytes, _headers: dict[str, str]) -> list[float]:
    """Read an answer that is the bytes of float32 numbers."""
    return [float(value) for value in np.frombuffer(answer, np.float32)]


def of_model_infer(message: bytes, _headers: dict[str, str]) -> list[float]:
    """Read a ModelInferResponse."""
    from kilter.serving.grpc.inference import _CLASSES

    answer = _CLASSES["ModelInferResponse"].FromString(message)
    output = answer.outputs[0]
    if answer.raw_output_contents:
        kind = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}[output.datatype]
        return [float(value) for value in np.frombuffer(answer.raw_output_contents[0], kind)]
    held = output.contents
    return [float(value) for value in (*held.fp32_contents, *held.fp64_contents, *held.int64_contents)]


def check(values: list[float], model: Any, rows: int) -> str:
    """Return what a server answers with: ``probability``, ``probabilities`` of both classes, or ``label``.

    Raises:
        ValueError: When they are not the model's answers.
    """
    expected = model.predict_proba(asked(rows))
    found = np.asarray(values)
    for said, right in (
        ("probability", expected[:, 1]),
        ("probabilities", expected.ravel()),
        ("label", expected.argmax(axis=1)),
    ):
        if found.shape == right.shape and np.allclose(found, right, atol=1e-4):
            return said
    raise ValueError(f"these are not the model's answers to {rows} rows: {found[:6]} ...")
