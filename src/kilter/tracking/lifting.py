"""A notebook as a module that can be imported and tested: what it defines, and what it does in a function of its own."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput

_MAGIC = re.compile(r"^\s*[%!?]|^\s*\S+\?\s*$")
_NAME = re.compile(r"\W+")


class Hidden(msgspec.Struct, frozen=True, kw_only=True):
    """A function that uses what a cell left behind: the reason why it works in the notebook and nowhere else.

    Args:
        function: The function.
        names: What it uses.
    """

    function: str
    names: tuple[str, ...]


class Lifted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a notebook.

    Args:
        name: The module's name.
        module: The module's source.
        tests: The source of its tests.
        functions: What it defines.
        hidden: Functions that use variables of the notebook.
        skipped: Lines that are no Python: magics and shell commands.
    """

    name: str
    module: str
    tests: str
    functions: tuple[str, ...]
    hidden: tuple[Hidden, ...]
    skipped: tuple[str, ...]


def lift(notebook: bytes, name: str) -> Lifted:
    """Return a notebook as a module, with tests.

    Imports, functions, classes and constants stand at the top; everything else becomes ``main()``, a tracked run.

    Args:
        notebook: The file.
        name: What to call the module.

    Raises:
        InvalidInput: When it is no notebook, or a cell is no Python.
    """
    module_name = _NAME.sub("_", name).strip("_").lower() or "notebook"
    if module_name[0].isdigit():
        module_name = f"notebook_{module_name}"
    skipped: list[str] = []
    parsed = [_parsed(place, cell, skipped) for place, cell in enumerate(_cells(notebook), 1)]
    statements = [statement for tree in parsed for statement in tree.body]
    imports = _once(ast.unparse(one) for one in statements if isinstance(one, ast.Import | ast.ImportFrom))
    constants = [one for one in statements if _is_constant(one)]
    defined = {
        one.name: one for one in statements if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    rest = [one for one in statements if not _at_top(one, constants)]
    known = {*dir(builtins), *defined, *_bound(constants)}
    known |= _bound(one for one in statements if isinstance(one, ast.Import | ast.ImportFrom))
    hidden = [
        Hidden(function=function, names=names) for function, body in defined.items() if (names := _free(body, known))
    ]
    future = [line for line in imports if line.startswith("from __future__")]
    plain = [line for line in imports if not line.startswith("from __future__")]
    body = "\n".join(ast.unparse(one) for one in rest)
    parts = [
        f'"""Lifted from the notebook {name!r}."""',
        *(["\n".join(future)] if future else []),
        "\n".join(_once([*plain, "import kilter"])),
        *(["\n".join(ast.unparse(one) for one in constants)] if constants else []),
        *(f"\n{ast.unparse(one)}" for one in defined.values()),
        f"\n{_main(name, body)}",
        '\nif __name__ == "__main__":\n    main()\n',
    ]
    return Lifted(
        name=module_name,
        module="\n\n".join(parts),
        tests=_tests(module_name, list(defined), hidden),
        functions=tuple(defined),
        hidden=tuple(hidden),
        skipped=tuple(skipped),
    )


def _cells(notebook: bytes) -> list[str]:
    try:
        content = msgspec.json.decode(notebook)
        cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        return [cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"]) for cell in cells]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"the file is no notebook ({type(error).__name__})", where="notebook", allowed="an .ipynb file of format 4"
        ) from None


def _parsed(place: int, cell: str, skipped: list[str]) -> ast.Module:
    if cell.lstrip().startswith("%%"):
        skipped.append(cell.strip().splitlines()[0])
        return ast.Module(body=[], type_ignores=[])
    lines = []
    for line in cell.splitlines():
        if _MAGIC.match(line):
            skipped.append(line.strip())
        else:
            lines.append(line)
    try:
        return ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"cell {place} is no Python: {error}", where="notebook", fix="mend or empty that cell"
        ) from None


def _is_constant(statement: ast.stmt) -> bool:
    """Say whether a statement gives a fixed value to a name in capitals."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    target = statement.targets[0]
    if not isinstance(target, ast.Name) or not target.id.isupper():
        return False
    try:
        ast.literal_eval(statement.value)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _at_top(statement: ast.stmt, constants: Sequence[ast.stmt]) -> bool:
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return isinstance(statement, kinds) or statement in constants


def _bound(statements: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements give values to."""
    found: set[str] = set()
    for statement in statements:
        for node in ast.walk(statement):
            match node:
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                    found.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.alias(name=name, asname=called):
                    found.add((called or name).partition(".")[0])
    return found


def _free(body: ast.AST, known: set[str]) -> tuple[str, ...]:
    own = _bound([body])
    used = {node.id for node in ast.walk(body) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return tuple(sorted(used - own - known))


def _main(name: str, body: str) -> str:
    lines = [f"        {line}" if line else "" for line in (body or "pass").splitlines()]
    head = [
        "def main() -> None:",
        '    """Do what the notebook did, as a tracked run."""',
        f"    with kilter.run({name!r}):",
    ]
    return "\n".join([*head, *lines])


def _tests(module: str, functions: Sequence[str], hidden: Sequence[Hidden]) -> str:
    reasons = {one.function: f"uses variables of the notebook: {', '.join(one.names)}" for one in hidden}
    lines = [
        f'"""Tests of {module}: it can be imported without doing anything, and each function stands on its own."""',
        "",
        "import subprocess",
        "import sys",
        "",
        "import pytest",
        "",
        f"import {module}",
        "",
        "",
        "def test_importing_it_prints_nothing():",
        f'    done = subprocess.run([sys.executable, "-c", "import {module}"], capture_output=True, text=True)',
        '    assert (done.returncode, done.stdout) == (0, ""), done.stderr',
    ]
    for function in functions:
        lines += ["", ""]
        if function in reasons:
            lines.append(f"@pytest.mark.xfail(reason={reasons[function]!r}, strict=True)")
        lines += [
            f"def test_{function}_stands_on_its_own():",
            f"    missing = _missing({module}.{function})",
            "    assert missing == set()",
        ]
    lines += [
        "",
        "",
        "def _missing(thing):",
        '    """Return the names that a function or a class uses and nobody gives it."""',
        "    import builtins, types",
        "",
        "    waiting = [v.__code__ for v in (vars(thing).values() if isinstance(thing, type) else [thing]) if hasattr(v, '__code__')]",
        "    found = set()",
        "    while waiting:",
        "        code = waiting.pop()",
        "        import dis",
        "",
        "        found |= {i.argval for i in dis.get_instructions(code) if i.opname in ('LOAD_GLOBAL', 'LOAD_NAME')}",
        "        waiting += [c for c in code.co_consts if isinstance(c, types.CodeType)]",
        f"    return {{n for n in found if not hasattr({module}, n) and not hasattr(builtins, n)}}",
        "",
    ]
    return "\n".join(lines)


def _once(lines: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(lines))
