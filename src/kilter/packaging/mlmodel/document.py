"""The ``MLmodel`` file: YAML from anywhere, read with limits into what is needed of it."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from kilter.core.errors import InvalidInput

NAME = "MLmodel"
LARGEST = 1 << 20
_DEEPEST = 40
_NODES = 20_000


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of MLflow's signature.

    Args:
        name: What it is called; empty when it has no name.
        type: ``double``, ``float``, ``long``, ``integer``, ``boolean``, ``string``, ``tensor``, or another one of MLflow's.
        shape: Of a tensor; -1 for an axis of any length.
        dtype: Of a tensor, in NumPy's words.
    """

    name: str = ""
    type: str
    shape: tuple[int, ...] = ()
    dtype: str = ""


class ExampleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model's input example lies.

    Args:
        path: The file, below the folder.
        type: ``dataframe``, ``ndarray``, ``json_object`` or another one of MLflow's.
    """

    path: str
    type: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """An ``MLmodel`` file, as far as it is needed.

    Args:
        flavors: Per flavour its settings, as they are.
        inputs: The signature's inputs; None without one.
        example: The input example; None without one.
        mlflow_version: Which MLflow wrote it.
    """

    flavors: dict[str, dict[str, Any]]
    inputs: tuple[Column, ...] | None = None
    example: ExampleInfo | None = None
    mlflow_version: str = ""


def read_document(data: bytes) -> Document:
    """Read an ``MLmodel`` file.

    Args:
        data: Its bytes.

    Raises:
        InvalidInput: When it is too large, is no YAML of plain values, or doesn't say what a model has to.
    """
    if len(data) > LARGEST:
        raise InvalidInput(f"the file has {len(data):,} bytes", where=NAME, allowed=f"{LARGEST:,}")
    found = _plain(data)
    if not isinstance(found, dict):
        raise _unreadable("it is no mapping")
    flavors = found.get("flavors")
    if not isinstance(flavors, dict) or not flavors or not all(
        isinstance(name, str) and isinstance(settings, dict) and all(isinstance(key, str) for key in settings)
        for name, settings in flavors.items()
    ):  # fmt: skip
        raise _unreadable("it names no flavours")
    version = found.get("mlflow_version")
    return Document(
        flavors=flavors,
        inputs=_inputs(found.get("signature")),
        example=_example(found.get("saved_input_example_info")),
        mlflow_version=version if isinstance(version, str) else "",
    )


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
    """Plain values only, each written out: an alias is how a small file becomes a large value."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node.

        Raises:
            InvalidInput: When it is an alias, or there are too many, or too deep.
        """
        if self.check_event(yaml.AliasEvent):
            raise _unreadable("it holds an alias, which MLflow never writes")
        self._depth += 1
        self._count += 1
        if self._depth > _DEEPEST or self._count > _NODES:
            raise _unreadable(f"it is nested deeper than {_DEEPEST}, or holds more than {_NODES:,} values")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _plain(data: bytes) -> Any:
    try:
        text = data.decode("utf-8")
        if "\t" in text.partition("\n")[0] or text.count("[") + text.count("{") > _NODES:
            raise _unreadable("it holds more than a model's file does")
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader with narrower limits
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError) as error:
        # not UTF-8, no YAML, a date or a number that is none, a list as a key
        raise _unreadable("it is no YAML of plain values") from error


def _unreadable(why: str) -> InvalidInput:
    return InvalidInput(f"the file can't be read: {why}", where=NAME, allowed="what mlflow's save_model writes")


def _inputs(signature: Any) -> tuple[Column, ...] | None:
    """Return the inputs of a signature; they are JSON inside of the YAML."""
    if signature is None:
        return None
    text = signature.get("inputs") if isinstance(signature, dict) else signature
    if text is None:
        return None
    try:
        listed = msgspec.json.decode(text) if isinstance(text, str) else None
    except msgspec.DecodeError as error:
        raise _unreadable("the signature's inputs are no JSON") from error
    if not isinstance(listed, list):
        raise _unreadable("the signature's inputs are no list")
    return tuple(_column(one) for one in listed)


def _column(given: Any) -> Column:
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise _unreadable("the signature has an input without a type")
    name = given.get("name", "")
    tensor = given.get("tensor-spec") or {}
    if not isinstance(name, str) or not isinstance(tensor, dict):
        raise _unreadable("the signature has an input whose name is no text")
    shape, dtype = tensor.get("shape", []), tensor.get("dtype", "")
    axes = isinstance(shape, list) and all(type(axis) is int and axis >= -1 for axis in shape)
    if not (axes and isinstance(dtype, str)):
        raise _unreadable("the signature has a tensor without a shape")
    return Column(name=name, type=given["type"], shape=tuple(shape), dtype=dtype)


def _example(given: Any) -> ExampleInfo | None:
    if not isinstance(given, dict) or not isinstance(given.get("artifact_path"), str):
        return None
    kind = given.get("type")
    return ExampleInfo(path=given["artifact_path"], type=kind if isinstance(kind, str) else "")
