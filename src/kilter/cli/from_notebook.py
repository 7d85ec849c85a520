"""``kilter from-notebook``: a notebook as a module that can be imported, with tests."""

from __future__ import annotations

import argparse
from pathlib import Path

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say
from kilter.core.errors import Conflict, InvalidInput
from kilter.tracking.lifting import Lifted, lift


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.add_argument("notebook", type=Path, metavar="FILE.ipynb")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(run=_lift)


def _lift(options: argparse.Namespace) -> None:
    try:
        content = options.notebook.read_bytes()
    except OSError as error:
        raise InvalidInput(f"it can't be read ({error.strerror})", where=str(options.notebook)) from None
    found = lift(content, options.notebook.stem)
    files = {options.output / f"{found.name}.py": found.module, options.output / f"test_{found.name}.py": found.tests}
    there = [str(path) for path in files if path.exists()]
    if there and not options.force:
        raise Conflict(
            f"{' and '.join(there)} would be replaced", where="--output", fix="choose another folder, or --force"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    answer(found, as_json=options.json, show=lambda: _show(found, list(files)))


def _show(found: Lifted, files: list[Path]) -> None:
    for path in files:
        say(str(path))
    say(f"{len(found.functions)} functions and classes; everything else is main(), as a tracked run")
    for one in found.hidden:
        say(f"{one.function} uses variables of the notebook: {', '.join(one.names)}: make them arguments")
    if found.skipped:
        say(f"left out, because it is no Python: {'; '.join(found.skipped)}")
