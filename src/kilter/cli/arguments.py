"""Reading a command's arguments; what is wrong with them is an error like any other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from kilter.core.errors import InvalidInput

Run = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """A parser that raises ``InvalidInput`` instead of ending the process, so that ``--json`` holds for its errors, too."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        Raises:
            InvalidInput: Always.
        """
        raise InvalidInput(message, where=self.prog, fix=f"see `{self.prog} --help`")


def common() -> Parser:
    """Return the options that every command takes, before and after its verb."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("everywhere")
    group.add_argument("--store", metavar="DIR-or-URL", help="the store, or the http:// address of a server")
    group.add_argument("--env", metavar="NAME", help="an environment of kilter.toml")
    group.add_argument("--home", metavar="DIR", help="the local folder of a store that is a database")
    group.add_argument("--json", action="store_true", help="one JSON document on standard output, errors too")
    group.add_argument("--trace", action="store_true", help="show where an unexpected error comes from")
    return parser


def parse(command: str, build: Callable[[Parser, str], None], rest: list[str]) -> argparse.Namespace | None:
    """Return the options of a command, with ``run`` among them, or None when its help was printed.

    Args:
        command: The command's name.
        build: Adds its arguments to a parser.
        rest: What was given.

    Raises:
        InvalidInput: When the arguments can't be used.
    """
    parser = Parser(prog=f"kilter {command}", parents=[common()], formatter_class=argparse.RawDescriptionHelpFormatter)
    build(parser, command)
    try:
        options = parser.parse_args(rest)
    except SystemExit:  # argparse has printed the help
        sys.stdout.flush()
        return None
    for name in ("store", "env", "home"):
        if not hasattr(options, name):
            setattr(options, name, None)
    for name in ("json", "trace"):
        if not hasattr(options, name):
            setattr(options, name, False)
    return options


def verbs(parser: Parser) -> Callable[[str, str, Run], Parser]:
    """Return a function that adds a verb to a noun: its name, its help, and what it runs."""
    added = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)

    def add(name: str, text: str, run: Run) -> Parser:
        verb: Parser = added.add_parser(name, help=text, description=text, parents=[common()])
        verb.set_defaults(run=run)
        return verb

    return add
