"""The entrance: finds the command, imports its module alone, and turns errors into messages and exit codes."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kilter.core.errors import KilterError

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "A model's life": {
        "init": ("init", "write a working project from a template"),
        "plan": ("life", "show what applying a file would change"),
        "apply": ("life", "make it so"),
        "status": ("life", "where every loop stands"),
        "deploy": ("deploy", "let an endpoint answer with a model file, without a loop"),
        "optimize": ("optimize", "the fastest form of a version that gives the same answers"),
        "bench": ("bench", "what a version carries on this machine, and how many a load needs"),
        "why": ("life", "the whole chain of evidence behind a version"),
        "pause": ("life", "stop a loop; what is in flight goes back to the champion"),
        "resume": ("life", "let a loop go on"),
        "retrain": ("life", "ask for a challenger now"),
        "approve": ("life", "let a version that waits for it take traffic"),
        "promote": ("promote", "end the bake of a version; with --to, bring it to another environment"),
        "tune": ("tune", "search for better parameters: of a loop, or of any command"),
        "rollback": ("life", "take the release in flight, or the champion, back"),
        "freeze": ("freeze", "hold releases where they are"),
        "unfreeze": ("freeze", "let releases go on"),
        "drill": ("drill", "rehearse a rollback on the live endpoint, and time it"),
        "experiment": ("experiment", "compare versions on an endpoint: start, status, stop"),
    },
    "Processes": {
        "up": ("processes", "run server, endpoints and controller together"),
        "server": ("processes", "run the server alone"),
        "serve": ("processes", "run the front of the endpoints alone"),
        "controller": ("processes", "run the controller alone"),
        "link": ("processes", "print a link that opens the page of a running server"),
        "mcp": ("mcp", "offer all reads to an agent, over stdio"),
    },
    "Models elsewhere": {
        "batch": ("batch", "predictions for files, tables and queries, in bounded memory"),
        "stream": ("stream", "score what flows through a broker, each message once"),
        "export": ("export", "a version as source code, a container, or what a platform needs around it"),
    },
    "Rooms": {
        "data": ("data", "tables, their rows and versions"),
        "runs": ("runs", "experiments, runs and their metrics"),
        "import": ("imports", "the runs of MLflow, Weights & Biases, Comet, Neptune or TensorBoard"),
        "traces": ("traces", "what applications on language models did: list, show, follow, delete"),
        "sync": ("sync", "send what runs have logged while their store was away"),
        "reproduce": ("reproduce", "which input of a run differs now; with --run, run it again and compare"),
        "from-notebook": ("from_notebook", "a notebook as a module with tests"),
        "models": ("models", "models, versions and lineage"),
        "endpoints": ("endpoints", "what is served, by which fronts, and what was answered"),
        "people": ("people", "who works with the store, with which roles and tokens"),
        "keys": ("keys", "who may call the endpoints: create, list, revoke"),
        "log": ("log", "the logs on disk: size, readers, retention, archive"),
        "lineage": ("lineage", "what the journal says about lineage, as OpenLineage"),
        "journal": ("journal", "what happened: list, follow, verify"),
        "doctor": ("doctor", "look at the installation and the store"),
    },
}

_OPTIONS = """\
  --store DIR-or-URL   the store (default: KILTER_STORE, else the environment's, else .kilter),
                       or the http:// address of a server
  --env NAME           an environment of kilter.toml (default: dev)
  --home DIR           the local folder of a store that is a database
  --json               one JSON document on standard output, errors too
  --help, --version    also after a command
"""

_WITH_VALUE = frozenset({"--store", "--env", "--home"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 ok, 1 failed, 2 usage, 3 gate said no, 4 approval needed, 5 conflict."""
    # Most of what a command allocates are modules, which stay: to look for cycles after each 700 objects costs a quarter of the start.
    gc.set_threshold(20_000, 10, 10)
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = _split(given)
    if command is None:
        if "--version" in given:
            return _print(_version())
        if "--help" in given or "-h" in given or not given:
            return _print(usage()) or (0 if given else 2)
    try:
        return _run(command, rest)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def usage() -> str:
    """Return the help of ``kilter`` itself."""
    lines = [
        "Usage: kilter [OPTIONS] COMMAND ...",
        "",
        "The whole life of a model in one Python file, kept going by one process.",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<13} {text}" for name, (_, text) in commands.items()]
    return "\n".join([*lines, "", "Options:", _OPTIONS])


def _run(command: str | None, rest: list[str]) -> int:
    from kilter.core.errors import KilterError  # noqa: PLC0415 - help comes before this import

    try:
        from kilter.cli.arguments import parse  # noqa: PLC0415

        name, module = _module_of(command)
        options = parse(name, importlib.import_module(f"kilter.cli.{module}").build, rest)
        if options is not None:
            options.run(options)
    except KilterError as error:
        _report(error, rest)
        return error.exit_code
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if "--trace" in rest:
            raise
        said = f"{type(error).__name__}: {error}"
        _report(KilterError(f"unexpected: {said}", fix="run it again with --trace and report what you see"), rest)
        return 1
    return 0


def _module_of(command: str | None) -> tuple[str, str]:
    """Return the command with the module that has it.

    Raises:
        InvalidInput: When there is no such command.
    """
    from kilter.core.errors import InvalidInput  # noqa: PLC0415

    modules = {name: module for commands in GROUPS.values() for name, (module, _) in commands.items()}
    if command is None:
        raise InvalidInput("no command was given", where="kilter", fix="see `kilter --help`")
    if command not in modules:
        import difflib  # noqa: PLC0415

        near = difflib.get_close_matches(command, modules, n=1)
        fix = f"did you mean `kilter {near[0]}`?" if near else "see `kilter --help`"
        raise InvalidInput(f"there is no command {command!r}", where="kilter", fix=fix)
    return command, modules[command]


def _report(error: KilterError, rest: list[str]) -> None:
    if "--json" in rest:
        import msgspec  # noqa: PLC0415

        sys.stdout.write(msgspec.json.encode(error.problem()).decode() + "\n")
        return
    from kilter.cli.output import say_error  # noqa: PLC0415

    say_error(error)


def _split(given: list[str]) -> tuple[str | None, list[str]]:
    """Return the command and everything else; options may stand before it and after it."""
    position = 0
    while position < len(given) and given[position].startswith("-"):
        position += 2 if given[position] in _WITH_VALUE else 1
    if position >= len(given):
        return None, given
    return given[position], given[:position] + given[position + 1 :]


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415

    return f"kilter {version('kilter')}"


def _print(text: str) -> int:
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
