"""Tuned values written into the text of a declaration, as a person would: the defaults change, nothing else does."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from typing import Any

from kilter.core.errors import InvalidInput


def with_values(text: str, kind: str, loop: str, values: Mapping[str, Any], *, where: str = "file") -> str:
    """Return a file's text with other parameters.

    What ``Loop(params=Params(trees=100))`` says itself is changed there, because it goes before the class's defaults.

    Args:
        text: The file's text.
        kind: The name of the parameters' class.
        loop: The loop's name.
        values: The new values by field.
        where: What to call the file in messages.

    Raises:
        InvalidInput: When a value is not written as a literal in a place that can be found.
    """
    tree = ast.parse(text)
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind), None)
    if found is None:
        raise InvalidInput(f"class {kind} is not at the top level", where=where, fix="write the values yourself")
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    names = [node.target.id for node in fields if isinstance(node.target, ast.Name)]
    given = _given(tree, kind, loop, names)
    defaults = {name: node.value for name, node in zip(names, fields, strict=True)}
    edits: list[tuple[int, int, str]] = []
    starts = _starts(text)
    for name, value in values.items():
        node = given.get(name) or defaults.get(name)
        if node is None:
            raise InvalidInput(
                f"{kind}.{name} has no default that could be changed",
                where=where,
                fix=f"write {name} = {value!r} yourself",
            )
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or node.col_offset)
        edits.append((begin, end, repr(value)))
    data = text.encode()
    for begin, end, said in sorted(edits, reverse=True):
        if ast.unparse(ast.parse(data[begin:end].decode(), mode="eval")) != said:
            data = data[:begin] + said.encode() + data[end:]
    return data.decode()


def patch(before: str, after: str, file: str) -> str:
    """Return the difference of two texts of a file, as ``git apply`` and ``patch -p1`` read it."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{file}", f"b/{file}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _given(tree: ast.Module, kind: str, loop: str, names: list[str]) -> dict[str, ast.expr]:
    """Return what a loop's own ``params=Params(...)`` says, by field."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not _keyword(node, "params"):
            continue
        said = _keyword(node, "name")
        if isinstance(said, ast.Constant) and said.value != loop:
            continue
        params = _keyword(node, "params")
        if isinstance(params, ast.Call) and isinstance(params.func, ast.Name) and params.func.id == kind:
            found = dict(zip(names, params.args, strict=False))
            return found | {one.arg: one.value for one in params.keywords if one.arg}
    return {}


def _keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((one.value for one in node.keywords if one.arg == name), None)


def _starts(text: str) -> list[int]:
    """Return where each line begins, in bytes: that is what positions of the parser count."""
    found = [0]
    for line in text.encode().splitlines(keepends=True):
        found.append(found[-1] + len(line))
    return found
