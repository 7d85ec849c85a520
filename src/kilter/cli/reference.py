"""The reference that is made from the code: ``python -m kilter.cli.reference FOLDER`` (or ``make docs``)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kilter.cli.arguments import Parser, common
from kilter.cli.main import GROUPS, usage
from kilter.loop.remote import SERVICES
from kilter.operations.openapi import openapi
from kilter.operations.table import collect


def commands() -> str:
    """Return the help of every command as one Markdown page."""
    parts = [f"# The command line\n\n```text\n{usage()}\n```"]
    for group in GROUPS.values():
        for name, (module, _) in group.items():
            parser = Parser(prog=f"kilter {name}", parents=[common()])
            importlib.import_module(f"kilter.cli.{module}").build(parser, name)
            parts.append(f"## kilter {name}\n\n```text\n{parser.format_help().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write ``openapi.json`` and ``command-line.md`` into a folder."""
    folder = Path(arguments[0] if arguments else "build/docs")
    folder.mkdir(parents=True, exist_ok=True)
    document = msgspec.json.format(msgspec.json.encode(openapi(collect(SERVICES), version="1")), indent=2)
    (folder / "openapi.json").write_bytes(document + b"\n")
    (folder / "command-line.md").write_text(commands(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
