"""``kilter init``: a working project from a template."""

from __future__ import annotations

import argparse
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say
from kilter.core.errors import Conflict, InvalidInput, Unavailable


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = "Write a working project. Nothing that is there already is changed."
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where (default: here)")
    parser.add_argument("--template", default=None, help="which one; --list shows them")
    parser.add_argument("--list", action="store_true", help="list the templates")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    known = templates()
    if options.list:
        answer(sorted(known), as_json=options.json, show=lambda: say("\n".join(sorted(known)) or "none is shipped"))
        return
    name = options.template or next(iter(sorted(known)), "")
    if name not in known:
        raise InvalidInput(
            f"there is no template {name!r}", where="--template", allowed=", ".join(sorted(known)) or "none"
        )
    written = write(known[name], options.folder)
    result = {"template": name, "folder": str(options.folder), "files": written}

    def show() -> None:
        for file in written:
            say(f"  {options.folder / file}")
        say("next: kilter up   (and, beside it: kilter plan FILE, kilter apply FILE)")

    answer(result, as_json=options.json, show=show)


def templates() -> dict[str, Traversable]:
    """Return the templates that are shipped, by name."""
    root = resources.files("kilter.cli") / "templates"
    if not root.is_dir():
        return {}
    return {entry.name: entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(("_", "."))}


def write(template: Traversable, folder: Path) -> list[str]:
    """Copy a template's files into a folder and return their names.

    Raises:
        Conflict: When one of them is there already; nothing is written then.
        Unavailable: When the folder can't be written.
    """
    files = dict(_files(template, ""))
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise Conflict(f"{', '.join(there)} would be overwritten", where=str(folder), fix="choose an empty folder")
    try:
        for name, entry in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(entry.read_bytes())
    except OSError as error:
        raise Unavailable(f"the folder can't be written: {error.strerror}", where=str(folder)) from None
    return sorted(files)


def _files(entry: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for child in entry.iterdir():
        if child.name in {"__pycache__", "__init__.py"}:
            continue
        name = f"{prefix}{child.name}"
        found += _files(child, f"{name}/") if child.is_dir() else [(name, child)]
    return found
