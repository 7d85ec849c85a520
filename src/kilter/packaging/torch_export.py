"""PyTorch programs as ``torch.export`` writes them, on one thread: a graph in JSON and plain tensors.

PyTorch's own reader unpickles what an archive asks it to, evaluates its shape expressions, and looks its operators up by any
dotted name. An archive is therefore written anew when it is packaged, and checked before every load: only tensors that are
plain bytes, only operators of ``aten`` and arithmetic, only shape expressions made of known words. Without the places in
the source that PyTorch notes, the same program is also the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.formats import Matrix, ModelFile
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape

_MODEL = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLES = "data/sample_inputs/model.pt"
_PLAIN = re.compile(
    r"^(data/(weights/weight|constants/tensor)_\d+|archive_format|archive_version|byteorder|\.data/version)$"
)
_TENSOR = re.compile(r"^(weight|tensor)_\d+$")
_OPERATOR = re.compile(
    r"^(torch\.ops\.(aten|prims)\.[a-zA-Z_0-9]+\.[a-zA-Z_0-9]+|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|"
    r"lt|le|gt|ge|and_|or_|not_)|math\.(ceil|floor|trunc)|torch\.sym_(int|float|max|min|not|ite))$"
)
_WORDS = frozenset(
    {"Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "TrueDiv", "IntTrueDiv", "Eq", "Ne",
     "Lt", "Le", "Gt", "Ge", "True", "False", "Identity", "int_oo", "Integer", "Add", "Mul"}
)  # fmt: skip
_EXPRESSION = re.compile(r"^[A-Za-z0-9_ +\-*/(),.<>]*$")
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_SIZE = re.compile(r"^(s|u|zuf|zf|f)\d+$")
_SYMBOL = re.compile(r"Symbol\('(s|u|zuf|zf|f)\d+'(, (positive|nonnegative|integer|real|finite)=(True|False))*\)")
_DOT = re.compile(r"\.(?!\d)")
_LARGEST_JSON = 64 << 20


class TorchModel:
    """An exported program.

    Args:
        spec: What goes in and out.
        data: The archive, as :func:`canonical` wrote it.

    Raises:
        Damaged: When the bytes are no such archive.
        InvalidInput: When it holds more than tensors and arithmetic.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        torch.set_num_threads(1)
        program = _load(data)
        self._kind = _input_of(program)
        self._module: Any = program.module()
        self._spec = spec

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        matrix = np.frombuffer(data, dtype="<f8").reshape(rows, *(self._spec.shape or (columns,)))
        try:
            with torch.inference_mode():
                found = self._module(torch.from_numpy(matrix.copy()).to(self._kind))
        except Exception as error:  # PyTorch has many ways to refuse; its message may hold values of the rows
            raise InvalidInput("the program refused the rows", where="predict") from error
        values = _first(found).to(torch.float64).reshape(rows, -1).numpy()
        if values.shape[1] == 2 and self._spec.output == "probability":
            values = values[:, 1:]
        check_model(self._spec, columns, values.shape[1])
        return np.ascontiguousarray(values, dtype="<f8").tobytes()


def export(module: Any, example: Any) -> ModelFile:
    """Return a module, or an exported program, as a model that can be packaged.

    Args:
        module: A ``torch.nn.Module`` with one tensor in, or an ``ExportedProgram`` whose first dimension is dynamic.
        example: Rows (n, ...).

    Raises:
        InvalidInput: When it can't be exported.
    """
    rows = np.asarray(example, dtype=np.float64)
    kind = next((value.dtype for value in module.state_dict().values() if value.is_floating_point()), torch.float32)
    program = module
    if not isinstance(module, torch.export.ExportedProgram):
        module.eval()
        several = torch.from_numpy(np.resize(rows, (max(len(rows), 2), *rows.shape[1:]))).to(kind)
        try:
            # a batch of one would be taken for the only size there is
            program = torch.export.export(module, (several,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        except Exception as error:  # its errors are many, and long
            raise InvalidInput(
                f"{type(module).__name__} can't be exported: {str(error).strip().partition(chr(10))[0][:300]}",
                where="model",
                fix="see torch.export: one tensor in, no control flow on values, the first dimension is the row",
            ) from error

    def predict(given: Any) -> Matrix:
        held = np.asarray(given, dtype=np.float64)
        runs = module.module() if isinstance(module, torch.export.ExportedProgram) else module
        with torch.inference_mode():
            found = _first(runs(torch.from_numpy(held).to(kind))).to(torch.float64)
        answers: Matrix = found.reshape(len(held), -1).numpy()
        return answers

    return ModelFile("torch-export", _written(program), "torch", predict=predict)


def read(data: bytes) -> ModelFile:
    """Return a ``.pt2`` file as a model that can be packaged.

    Raises:
        Damaged: When the bytes are no archive of an exported program.
        InvalidInput: When it holds more than tensors and arithmetic.
    """
    program = _load(clean := canonical(data))
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == _user_input(program))
    sizes = [int(size) if isinstance(size, int) else 0 for size in shape[1:]]
    if not isinstance(shape[0], torch.SymInt):
        raise InvalidInput(
            f"the program takes exactly {shape[0]} rows", where="model.pt2",
            fix="export it with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)",
        )  # fmt: skip
    return ModelFile("torch-export", clean, "torch", example=np.zeros((1, *sizes)))


def canonical(data: bytes) -> bytes:
    """Return an archive with what is needed to run it, and nothing else: no sample inputs, no places in a source.

    Raises:
        Damaged: When the bytes are no archive of an exported program.
        InvalidInput: When it holds more than tensors and arithmetic.
    """
    files = _files(data)
    graph = _json(files.get(_MODEL, b""))
    for node in _dictionaries(graph):
        if "target" in node and "metadata" in node:
            node["metadata"] = {}
    if isinstance(graph, dict):
        graph["guards_code"] = []
    files[_MODEL] = json.dumps(graph).encode()
    files[_SAMPLES] = b""
    files = {name: content for name, content in sorted(files.items()) if name != ".data/serialization_id"}
    _check(files)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return written.getvalue()


def _written(program: Any) -> bytes:
    written = io.BytesIO()
    torch.export.save(program, written)
    return canonical(written.getvalue())


def _load(data: bytes) -> Any:
    _check(_files(data))
    try:
        return torch.export.load(io.BytesIO(data))
    except Exception as error:  # as above
        raise Damaged("the bytes are not an exported program that can be run", where="model.pt2") from error


def _files(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
            if len(found) != len(archive.namelist()):  # which of two of one name is read is up to the reader
                raise Damaged("the archive holds a file twice", where="model.pt2")
            return found
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise Damaged("the bytes are not an archive", where="model.pt2") from error


def _check(files: dict[str, bytes]) -> None:
    """Refuse an archive that holds more than tensors and arithmetic."""
    for name, content in files.items():
        plain = name in {_MODEL, *_CONFIGS} or _PLAIN.fullmatch(name) or (name == _SAMPLES and not content)
        if not plain:
            raise _more(f"the file {name[:80]!r}")
    for name in _CONFIGS:
        for entry in _dictionaries(_json(files.get(name, b""))):
            if entry.get("use_pickle") or not _TENSOR.fullmatch(str(entry.get("path_name", "weight_0"))):
                raise _more("a pickled object")
    graph = _json(files.get(_MODEL, b""))
    if not isinstance(graph, dict) or graph.get("guards_code"):
        raise _more("code")
    ranges = graph.get("range_constraints") or {}
    if not isinstance(ranges, dict) or not all(_harmless(name) for name in ranges):
        raise _more("a shape that is an expression of unknown words")
    for node in _dictionaries(graph):
        _check_node(node)


def _check_node(node: dict[str, Any]) -> None:
    if "expr_str" in node and not _harmless(node["expr_str"]):
        raise _more("a shape that is an expression of unknown words")
    operators = [node["as_operator"]] if "as_operator" in node else []
    if "target" in node and "inputs" in node:
        operators.append(node["target"])
    for one in operators:
        if not isinstance(one, str) or not _OPERATOR.fullmatch(one):
            raise _more(f"the operator {str(one)[:80]!r}")
    if node.get("metadata") or any(key.startswith(("as_custom_obj", "as_opaque")) for key in node):
        raise _more("objects")


def _harmless(expression: object) -> bool:
    """Say whether PyTorch may evaluate an expression: numbers, sizes, and functions of them."""
    if not isinstance(expression, str):
        return False
    bare = _SYMBOL.sub("s0", expression)
    if not _EXPRESSION.fullmatch(bare) or _DOT.search(bare) or "**" in bare:
        return False
    return all(word in _WORDS or _SIZE.fullmatch(word) for word in _WORD.findall(bare))


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)


def _json(content: bytes) -> Any:
    if len(content) > _LARGEST_JSON:
        raise Damaged("the archive's graph is too large", where="model.pt2")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged("the archive's graph can't be read", where="model.pt2") from error


def _user_input(program: Any) -> str:
    names = program.graph_signature.user_inputs
    if len(names) != 1 or not isinstance(names[0], str):
        raise InvalidInput(f"the program takes {len(names)} inputs", where="model.pt2", allowed="one tensor")
    return names[0]


def _input_of(program: Any) -> torch.dtype:
    """Return the kind of numbers that a program takes."""
    name = _user_input(program)
    kind: torch.dtype = next(node.meta["val"].dtype for node in program.graph.nodes if node.name == name)
    return kind


def _first(found: Any) -> torch.Tensor:
    """Return the tensor that a program answers with, or the first of several."""
    while isinstance(found, list | tuple) and found:
        found = found[0]
    if not isinstance(found, torch.Tensor):
        raise InvalidInput(f"the program answers with a {type(found).__name__}", where="model", allowed="a tensor")
    return found


def _more(what: str) -> InvalidInput:
    return InvalidInput(
        f"the archive holds {what}",
        where="model.pt2",
        allowed="tensors, and operators of aten",
        fix="export the module itself, without custom operators or objects",
    )
