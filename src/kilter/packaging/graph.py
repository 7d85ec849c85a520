"""Several models and functions as one: a graph of steps, released, rolled back and recorded as a single version.

    Graph(
        Step("scaled", scale),                                     # a function of the rows
        Step("risk", risk_model, of="scaled"),                     # a fitted model
        Step("price", price_model, of=("rows", "scaled")),         # columns side by side
        Step("offer", combine, of=("risk", "price")),              # a function of two matrices
    )

A step takes ``rows``, the request's own, or what steps before it gave; so there is no cycle. The last step answers. All steps of a
version run in its one worker process, batch by batch, and each is packaged in its own format: what holds for a format alone (no
pickle, functions only where they are trusted) holds for it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from kilter.core.digests import digest
from kilter.core.errors import Damaged, InvalidInput
from kilter.data.encoding import Encoding, Kind
from kilter.packaging.bundle import Parts
from kilter.packaging.examples import Example
from kilter.packaging.formats import Matrix, ModelFile
from kilter.packaging.loading import load_model
from kilter.packaging.native import Buffer, ModelSpec, NativeModel, check_model, check_shape
from kilter.packaging.records import LabelKind

ROWS = "rows"
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
_MOST = 64
_LENGTH = 8


@dataclass(frozen=True)
class Step:
    """One step of a graph.

    Args:
        name: What later steps call what it gives: lower-case letters, digits and underscores.
        model: Whatever ``kilter.deploy`` takes, but another graph. A function gets one matrix (n, d) for each of its inputs; a
            model gets their columns side by side.
        of: The names of its inputs: ``"rows"``, or steps before it.
        label: What a model answers with, when it can't be told from the model.
    """

    name: str
    model: Any
    of: str | tuple[str, ...] = ROWS
    label: LabelKind | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return (self.of,) if isinstance(self.of, str) else tuple(self.of)


class Graph:
    """Steps, the last of which answers.

    Args:
        steps: In an order in which each comes after its inputs.

    Raises:
        InvalidInput: When two have the same name, one takes what is not there, or nobody takes what one gives.
    """

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        known, taken = {ROWS}, set[str]()
        if not 1 <= len(steps) <= _MOST:
            raise InvalidInput(f"{len(steps)} steps were given", where="graph", allowed=f"1 to {_MOST}")
        for step in steps:
            where = f"graph.{step.name}"
            if not _NAME.fullmatch(step.name) or step.name in known:
                raise InvalidInput(f"{step.name!r} can't be a step's name", where="graph",
                                   allowed="each name once: lower-case letters, digits, underscores; not 'rows'")  # fmt: skip
            missing = [name for name in step.inputs if name not in known]
            if missing or not step.inputs:
                raise InvalidInput(f"there is no step {', '.join(missing) or 'to take'} before it", where=where,
                                   allowed=", ".join(sorted(known)))  # fmt: skip
            if isinstance(step.model, Graph):
                raise InvalidInput("a step is a graph itself", where=where, fix="put its steps into this one")
            if len(set(step.inputs)) != len(step.inputs):
                raise InvalidInput("an input is named twice", where=where)
            known.add(step.name)
            taken |= set(step.inputs)
        unused = [step.name for step in steps[:-1] if step.name not in taken]
        if unused:
            raise InvalidInput(f"nobody takes what {', '.join(unused)} gives", where="graph",
                               fix="leave it out, or let a later step take it")  # fmt: skip


class _Part(msgspec.Struct, frozen=True):
    """A step as it is kept; its bytes lie behind the head, in the order of the steps."""

    name: str
    inputs: tuple[str, ...]
    spec: ModelSpec
    digest: str
    size: int


Package = Callable[[Step, Example, tuple[int, ...]], Parts]
"""Takes a step, rows of its inputs, and how many columns each of its inputs has."""


def as_model(graph: Graph, example: Example, package: Package) -> tuple[ModelFile, tuple[str, ...]]:
    """Package every step on what the steps before it give for the example.

    Args:
        graph: The steps.
        example: Rows of a request.
        package: Packages one step.

    Returns:
        The graph as a model that can be packaged, and the names of its outputs.

    Raises:
        InvalidInput: When a step can't be packaged; it is named.
    """
    values: dict[str, Matrix] = {ROWS: np.ascontiguousarray(example.matrix, dtype=np.float64)}
    kept: list[_Part] = []
    blobs: list[bytes] = []
    needs: list[str] = []
    parts: Parts
    for step in graph.steps:
        matrices = [values[name] for name in step.inputs]
        given = example
        if step.inputs != (ROWS,):
            names = tuple(_columns(step, example, matrices))
            matrix = np.ascontiguousarray(np.hstack(matrices))
            kinds: list[Kind] = ["numeric"] * len(names)
            given = Example(Encoding(names, tuple(kinds), {}), matrix, matrix, "")
        try:
            parts = package(step, given, tuple(matrix.shape[1] for matrix in matrices))
        except InvalidInput as error:
            raise InvalidInput(
                error.message, where=f"graph.{step.name}", allowed=error.allowed, fix=error.fix
            ) from error
        spec = parts.manifest.spec()
        kept.append(_Part(step.name, step.inputs, spec, digest(parts.model), len(parts.model)))
        blobs.append(parts.model)
        needs.append(parts.manifest.framework.partition("==")[0])
        model = load_model(spec, parts.model)
        values[step.name] = _answer(model, given.matrix)
    head = msgspec.json.encode(kept)
    data = b"".join((len(head).to_bytes(_LENGTH, "little"), head, *blobs))
    signature = parts.manifest.signature
    return ModelFile("graph", data, "numpy", signature.label, needs=tuple(needs)), signature.outputs


def _columns(step: Step, example: Example, matrices: list[Matrix]) -> list[str]:
    found: list[str] = []
    for name, matrix in zip(step.inputs, matrices, strict=True):
        found += example.encoding.names if name == ROWS else (f"{name}.{place}" for place in range(matrix.shape[1]))
    return found


class GraphModel:
    """A loaded graph.

    Args:
        spec: What goes in and out.
        data: Head and bytes, as :func:`as_model` wrote them.

    Raises:
        Damaged: When the bytes are no graph.
        Forbidden: When a step is a function or an upstream that is not trusted here.
        InvalidInput: When the last step has other outputs.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        self._spec = spec
        size = int.from_bytes(data[:_LENGTH], "little")
        place = _LENGTH + size
        try:
            kept = msgspec.json.decode(data[_LENGTH:place], type=list[_Part])
        except msgspec.MsgspecError as error:
            raise Damaged("the bytes are not a graph", where="model") from error
        self._steps: list[tuple[str, tuple[str, ...], NativeModel]] = []
        known = {ROWS}
        for part in kept:
            blob = data[place : place + part.size]
            place += part.size
            if digest(blob) != part.digest or not known.issuperset(part.inputs) or part.spec.flavor == "graph":
                raise Damaged("a step is not what the graph says", where=f"graph.{part.name}")
            known.add(part.name)
            self._steps.append((part.name, part.inputs, load_model(part.spec, blob)))
        if not kept or place != len(data):
            raise Damaged("the bytes are not a graph", where="model")
        check_model(spec, spec.columns, kept[-1].spec.outputs)

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        if not rows:
            return b""
        values: dict[str, Matrix] = {ROWS: np.frombuffer(data, dtype="<f8").reshape(rows, columns)}
        for name, inputs, model in self._steps:
            given = values[inputs[0]] if len(inputs) == 1 else np.hstack([values[one] for one in inputs])
            values[name] = _answer(model, given)
        return np.ascontiguousarray(values[name], dtype="<f8").tobytes()


def _answer(model: NativeModel, given: Matrix) -> Matrix:
    rows, columns = given.shape
    found = model.predict(np.ascontiguousarray(given, dtype="<f8").tobytes(), rows, columns)
    return np.frombuffer(found, dtype="<f8").reshape(rows, -1)
