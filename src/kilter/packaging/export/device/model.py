"""A bundle's graph, asked with records or with rows of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .release import EdgeError, Refused

_TYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class EdgeModel:
    """A bundle, loaded.

    Args:
        folder: The bundle.
        graph: ``int8``, ``float``, or empty for the smallest that is there.

    Raises:
        EdgeError: When there is no such graph, or it can't be loaded.
    """

    def __init__(self, folder: Path, graph: str = "") -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - the other parts of the runtime do without
        except ImportError as error:
            raise EdgeError("ONNX Runtime is not installed: pip install onnxruntime") from error
        self.folder = folder
        try:
            self.about = json.loads((folder / "graphs.json").read_bytes())
            self._vector = json.loads((folder / "test_vector.json").read_bytes())
            self._graph = _chosen(self.about["graphs"], graph)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            data = (folder / self._graph["file"]).read_bytes()
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except (OSError, ValueError, KeyError) as error:
            raise EdgeError(f"the bundle can't be read: {error}") from error
        except Exception as error:  # the runtime has a class for each way in which bytes are no graph
            raise EdgeError(f"the graph can't be loaded: {str(error)[:200]}") from error
        self.columns: tuple[str, ...] = tuple(self.about["columns"])
        self.outputs: tuple[str, ...] = tuple(self.about["outputs"])
        self._codes = {
            name: {text: float(code) for code, text in enumerate(known)}
            for name, known in self.about["categories"].items()
        }
        self._output = _output(self._graph["outputs"], self.about["answers"])

    def encode(self, row: Mapping[str, Any]) -> list[float]:
        """Return a record as numbers in the order of the columns, NaN where a value is missing or a category unknown.

        Raises:
            EdgeError: When a value is neither a number, a boolean, text of a category, nor None.
        """
        found = []
        for name in self.columns:
            value = row.get(name)
            codes = self._codes.get(name)
            if value is None:
                found.append(math.nan)
            elif codes is not None:
                found.append(codes.get(value, math.nan) if isinstance(value, str) else math.nan)
            elif isinstance(value, (int, float)):
                found.append(float(value))
            else:
                raise EdgeError(f"input {name} is a {type(value).__name__}, expected a number")
        return found

    def answer(self, matrix: Any) -> Any:
        """Return the answers to rows of numbers, (rows, outputs) float64.

        Args:
            matrix: (rows, columns); NaN where a value is missing, the code of a category.

        Raises:
            EdgeError: When the graph refuses them.
        """
        held = np.asarray(matrix, dtype=np.float64).reshape(-1, len(self.columns))
        if not len(held):
            return np.empty((0, len(self.outputs)))
        try:
            found = np.asarray(self._session.run([self._output], self._feed(held))[0]).reshape(len(held), -1)
        except Exception as error:  # as above; the runtime's message may hold values of the rows
            raise EdgeError("the graph refused the rows: does it take missing values?") from error
        if self.about["answers"] == "probability" and found.shape[1] == 2:
            found = found[:, 1:]
        return found.astype(np.float64)

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
        """Return the answers to records: a list of outputs each.

        Raises:
            EdgeError: When a value can't be used, or an answer is not finite.
        """
        found = self.answer([self.encode(row) for row in rows])
        if not np.isfinite(found).all():
            raise EdgeError("the model's answer is not finite")
        answers: list[list[float]] = found.tolist()
        return answers

    def self_test(self) -> float:
        """Ask the graph about the rows that the model was packaged with, and return how far it is off.

        Raises:
            Refused: When it is further off than the bundle says.
        """
        rows = [[math.nan if value is None else value for value in row] for row in self._vector["rows"]]
        wanted = np.array(self._vector["answers"], dtype=np.float64)
        found = self.answer(rows).reshape(wanted.shape)
        apart = np.where(found == wanted, 0.0, np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted)))
        worst = float(np.where(np.isnan(apart), np.inf, apart).max())
        # a processor without 8-bit instructions of its own rounds otherwise than the one that the bundle was made on
        allowed = self._graph["tolerance"] * (2.0 if ".int8." in self._graph["file"] else 1.0)
        if worst > allowed:
            raise Refused(f"the graph is off by {worst:.3g}, the bundle allows {allowed:g}")
        return worst

    def _feed(self, matrix: Any) -> dict[str, Any]:
        inputs = self._graph["inputs"]
        if len(inputs) == 1 and inputs[0]["type"] in _TYPES:
            shape = self.about["shape"] or [len(self.columns)]
            return {inputs[0]["name"]: matrix.astype(_TYPES[inputs[0]["type"]]).reshape(len(matrix), *shape)}
        found = {}
        for one in inputs:
            column = matrix[:, self.columns.index(one["name"])]
            if one["type"] in _TYPES:
                found[one["name"]] = column.astype(_TYPES[one["type"]])[:, None]
            else:
                texts = np.array([*self.about["categories"].get(one["name"], ()), ""], dtype=object)
                found[one["name"]] = texts[np.where(np.isnan(column), -1, column).astype(np.intp)][:, None]
        return found


def _chosen(graphs: Sequence[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    small = [one for one in graphs if ".int8." in one["file"]]
    whole = [one for one in graphs if ".int8." not in one["file"]]
    found = {"": small or whole, "int8": small, "float": whole}.get(wanted, [])
    if not found:
        raise EdgeError(f"the bundle has no graph of the kind {wanted!r}")
    return found[0]


def _output(outputs: Sequence[Mapping[str, Any]], answers: str) -> str:
    """Return the output that is answered: the probabilities of a classifier, else the first of numbers."""
    numbers = [str(one["name"]) for one in outputs if one["type"] in _TYPES]
    floats = [
        str(one["name"]) for one in outputs if one["type"] in {"tensor(float)", "tensor(double)", "tensor(float16)"}
    ]
    named = [name for name in floats if "prob" in name.lower()]
    if answers != "value" and floats:
        return (named or floats)[-1]
    return (floats or numbers)[0]
