"""``kilter reproduce``: which input of a run differs here and now; with ``--run``, run it again and compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.life import split_version
from kilter.cli.output import answer, say, table
from kilter.cli.target import connected, store_name
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.loop.remote import Kilter
    from kilter.tracking.records import Run
    from kilter.tracking.reproduction import Reproduction
    from kilter.tracking.sdk.recording import Recorded


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.add_argument("run_id", metavar="RUN", help="a run's id, or MODEL@v7 for the run that made a version")
    parser.add_argument(
        "--run", dest="again", action="store_true", help="run it again, in a clean worktree of its commit, and compare"
    )
    parser.add_argument(
        "--repository", type=Path, default=Path(), metavar="DIR", help="a clone that has the commit (default: here)"
    )
    parser.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    from kilter.tracking.reproduction import marked, reproduction  # noqa: PLC0415 - after the arguments were checked
    from kilter.tracking.rerun import run_again  # noqa: PLC0415
    from kilter.tracking.sdk.places import store_place  # noqa: PLC0415

    with connected(options) as kilter:
        run = kilter.runs.get(_identity(kilter, options.run_id))
        if options.again:
            recorded = _recorded(kilter, run)
            if recorded is None:
                raise InvalidInput(
                    f"nobody recorded how run {run.id} was made",
                    where="reproduce",
                    allowed="runs of kilter.run() that were not started with record=False",
                )
            place = store_place(store_name(options))
            token = run_again(kilter.runs, run, recorded, place, options.repository.absolute())
            found = reproduction(kilter.runs, run, marked(kilter.runs, run.id, token))
        else:
            found = _look(kilter, run, options.repository.absolute())
    answer(found, as_json=options.json, show=lambda: _show(found))
    if found.verdict in {"different", "inputs differ"}:
        raise SystemExit(1)


def _look(kilter: Kilter, run: Run, repository: Path) -> Reproduction:
    """Compare what the run was made with and what is here, without running anything."""
    from kilter.tracking.reproduction import Reproduction, differences, here, made_with  # noqa: PLC0415 - see above
    from kilter.tracking.sdk.recording import Recorded, code_of, hardware, numeric_settings  # noqa: PLC0415

    was = made_with(kilter.runs, run)
    code, _ = code_of(repository)
    source: Path | None = None
    if was.recorded is not None:
        script = next((word for word in was.recorded.command[1:] if word.endswith(".py")), "")
        folder = repository / was.recorded.code.folder if was.recorded.code is not None else repository
        source = folder / script if script and (folder / script).is_file() else None
    now = Recorded(
        code=code,
        hardware=hardware(),
        settings=numeric_settings(),
        seeds={} if was.recorded is None else was.recorded.seeds,
    )
    changed, unknown = differences(was, here(run, now, source), ran=False)
    return Reproduction(
        run=run.id, verdict="inputs differ" if changed else "same inputs", differences=changed, unknown=unknown
    )


def _identity(kilter: Kilter, given: str) -> str:
    if "@" not in given:
        return given
    model, version = split_version(given)
    found = kilter.models.get(model, version).lineage.run
    if not found:
        raise InvalidInput(f"{given} names no run that made it", where="reproduce")
    return found


def _recorded(kilter: Kilter, run: Run) -> Recorded | None:
    from kilter.tracking.reproduction import made_with  # noqa: PLC0415 - see above

    return made_with(kilter.runs, run).recorded


def _show(found: Reproduction) -> None:
    say(
        f"{found.run}: {found.verdict}"
        + (f" ({found.compared} results compared with {found.again})" if found.again else "")
    )
    if found.results:
        say()
        table(("result", "name", "was", "now"), ((one.kind, one.name, one.was, one.now) for one in found.results))
    if found.differences:
        say()
        table(("input", "name", "was", "now"), ((one.input, one.name, one.was, one.now) for one in found.differences))
    if found.unknown:
        say()
        say(f"not known, so not compared: {', '.join(found.unknown)}")
