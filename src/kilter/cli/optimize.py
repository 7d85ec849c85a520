"""``kilter optimize MODEL``: the faster forms of a version, compared on real rows, in one table."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say, table
from kilter.cli.target import connected, who

if TYPE_CHECKING:
    from kilter.loop.versions.optimizing import Optimized


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = (
        "Try a version as it is, as an ONNX graph, folded into one dot product and with 8-bit weights. Each form is compared "
        "on the version's example rows and on rows of the prediction log, and timed. Nothing changes without --apply."
    )
    parser.add_argument("model", metavar="MODEL[@VERSION]", help="churn, churn@v3 or churn@champion")
    parser.add_argument("--tolerance", type=float, default=1e-5, metavar="NUMBER",
                        help="how far an answer may differ (default: 1e-5)")  # fmt: skip
    parser.add_argument("--rows", type=int, choices=(1, 128), default=1, help="what is to be fast (default: 1)")
    parser.add_argument("--apply", action="store_true", help="make the next version of the fastest form that agrees")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kilter.loop.versions.optimizing import optimize  # noqa: PLC0415 - numpy and the rooms, after the arguments were checked

    def tell(line: str) -> None:
        if not options.json:
            sys.stderr.write(f"{line}\n")

    with connected(options) as kilter:
        found = optimize(
            kilter,
            options.model,
            tolerance=options.tolerance,
            rows=options.rows,
            apply=options.apply,
            by=who(),
            tell=tell,
        )
    answer(found, as_json=options.json, show=lambda: _show(found))


def _show(found: Optimized) -> None:
    say(
        f"{found.model}@v{found.version}: compared on {found.example_rows} example rows and {found.real_rows} rows of the "
        f"prediction log, tolerance {found.tolerance:g}"
    )
    columns = ("form", "runtime", "bytes", "difference", "1 row", "128 rows", "")
    table(
        columns,
        [
            (form.name, "", "", "", "", "", form.note)
            if form.note
            else (
                form.name,
                form.flavor,
                form.size,
                f"{form.difference:.2g}",
                f"{form.one_us:.1f} us",
                f"{form.batch_us:.1f} us",
                "kept" if form.name == found.kept else ("" if form.agrees else "differs"),
            )
            for form in found.forms
        ],
    )
    if found.applied is not None:
        say(f"deployed as {found.applied}")
    elif found.kept == "native":
        say("the version stays as it is: nothing that agrees is clearly faster")
    else:
        say(f"run it again with --apply to make the next version of the {found.kept} form")
