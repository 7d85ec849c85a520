"""The text of a user's file: what a function of it rests on, and where each part of a declaration stands."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator

from kilter.core.errors import DeclarationError


class Source:
    """A parsed file.

    Args:
        text: The file's text.
        filename: What to call it in messages.

    Raises:
        DeclarationError: When the text is not Python, with the line.
    """

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        try:
            self._tree = ast.parse(text, filename)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            message = getattr(error, "msg", None) or str(error)
            raise DeclarationError(
                f"this is not Python: {message}", where=f"{filename}:{line}", fix="correct the line"
            ) from error
        self._definitions = _definitions(self._tree)

    def defines(self, name: str) -> bool:
        """Say whether the file binds ``name`` at its top level."""
        return name in self._definitions

    def closure(self, *names: str) -> str:
        """Return the source of top-level names and of everything in the file that they use, in a normal form.

        Comments, docstrings, spacing and unrelated parts of the file don't appear in it, so that they don't change a
        digest; a changed helper function, constant or import does. The form is that of ``ast.unparse``.

        Args:
            names: Functions, classes or constants of the file.
        """
        lines: list[str] = []
        seen: set[ast.AST] = set()
        for name in sorted(self._used(*names)):  # by name, so that moving a function within the file changes nothing
            for node in self._definitions[name]:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    lines.append(_import_of(node, name))
                elif node not in seen:
                    seen.add(node)
                    lines.append(_normal(node))
        return "\n".join(lines)

    def unknown(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return what the closure of ``name`` reads and nothing binds, each with the names that it could have meant."""
        if "*" in self._definitions:
            return {}  # whatever ``from module import *`` may bind
        known = {*self._definitions, *dir(builtins), "__file__"}
        found: dict[str, tuple[str, ...]] = {}
        for definition in sorted(self._used(name)):
            for node in self._definitions[definition]:
                found |= {used: tuple(sorted(known | _bound_in(node))) for used in _free(node) - known}
        return found

    def _used(self, *names: str) -> set[str]:
        """Return top-level names, and everything at the top level that they use."""
        wanted: set[str] = set()
        todo = [name for name in names if name in self._definitions]
        while todo:
            name = todo.pop()
            if name in wanted:
                continue
            wanted.add(name)
            for node in self._definitions[name]:
                todo.extend(used for used in _names(node) if used in self._definitions and used not in wanted)
        return wanted

    def lines(self, loop: str) -> dict[str, int]:
        """Return the line of each field of the call ``Loop(name=<loop>, ...)``, and of the call itself under ``""``."""
        calls = [node for node in ast.walk(self._tree) if isinstance(node, ast.Call) and _called(node) == "Loop"]
        exact = [call for call in calls if _constant(call, "name") == loop]
        for call in exact or calls[:1]:
            found = {"": call.lineno}
            for keyword in call.keywords:
                if keyword.arg is not None:
                    found[keyword.arg] = keyword.value.lineno
                    if isinstance(keyword.value, ast.List | ast.Tuple):
                        found |= {f"{keyword.arg}[{i}]": item.lineno for i, item in enumerate(keyword.value.elts)}
            return found
        return {}


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Subscript):  # Loop[Params](...)
        function = function.value
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _constant(call: ast.Call, field: str) -> object:
    for keyword in call.keywords:
        if keyword.arg == field and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


def _definitions(tree: ast.Module) -> dict[str, list[ast.AST]]:
    """Return the statements that bind each top-level name; a name that is bound twice has two."""
    found: dict[str, list[ast.AST]] = {}
    for statement in tree.body:
        for name in _bound(statement):
            found.setdefault(name, []).append(statement)
    return found


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]
    else:  # an assignment, or a block such as ``if``, ``try``, ``with`` or ``for`` whose whole text counts
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.alias):
                yield node.asname or node.name.partition(".")[0]


def _names(node: ast.AST) -> set[str]:
    """Return the names of the file's top level that a statement reads or binds; an argument of the same name is another."""
    return _top_level(symtable.symtable(ast.unparse(node), "<statement>", "exec"))


def _top_level(table: symtable.SymbolTable) -> set[str]:
    everything = table.get_type() == "module"
    found = {symbol.get_name() for symbol in table.get_symbols() if everything or symbol.is_global()}
    return found.union(*(_top_level(child) for child in table.get_children()))


def _free(node: ast.AST) -> set[str]:
    """Return the names that a statement reads and doesn't bind anywhere in itself."""
    read = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    return read - _bound_in(node)


def _bound_in(node: ast.AST) -> set[str]:
    """Return the names that a statement binds anywhere in itself."""
    bound: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            if not isinstance(part.ctx, ast.Load):
                bound.add(part.id)
        elif isinstance(part, ast.arg):
            bound.add(part.arg)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(part.name)
        elif isinstance(part, ast.alias):
            bound.add(part.asname or part.name.partition(".")[0])
        elif isinstance(part, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and part.name:
            bound.add(part.name)
        elif isinstance(part, ast.MatchMapping) and part.rest:
            bound.add(part.rest)
    return bound


class _WithoutDocstrings(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> ast.AST:
        node = self.generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and isinstance(body, list) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:] or [ast.Pass()]
        return node


def _import_of(node: ast.Import | ast.ImportFrom, name: str) -> str:
    """Return the import of one name: a line may import twenty, and only those in use count."""
    aliases = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) == name]
    if isinstance(node, ast.Import):
        return ast.unparse(ast.Import(names=aliases))
    return ast.unparse(ast.ImportFrom(module=node.module, names=aliases, level=node.level))


def _normal(node: ast.AST) -> str:
    copy = ast.parse(ast.unparse(node))
    return ast.unparse(ast.fix_missing_locations(_WithoutDocstrings().visit(copy)))
