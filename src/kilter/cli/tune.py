"""``kilter tune``: search for better parameters of a loop, or of any command, and look at what was found."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, plain, progress, say, table
from kilter.cli.target import connected, store_name
from kilter.core.durations import parse_duration
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.loop.tuning.conduct import Budget
    from kilter.loop.tuning.records import StudyReport, StudySummary, TrialRecord
    from kilter.loop.tuning.study import Study

_TEXT = """\
Search for better parameters.

  kilter tune flight_delay.py       the parameters of the loop that the file declares
  kilter tune sweep.yaml            any command, as a W&B sweep file describes it
  kilter tune show STUDY            what a study found, also while it goes on
  kilter tune list                  all studies

The same call goes on where it was left, however it ended; several at once share the trials.
"""
_SHOWN = 10


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = _TEXT
    add = parser.add_argument
    add("target", metavar="TARGET", help="FILE.py, FILE.py:NAME, FILE.yaml, `show` or `list`")
    add("name", nargs="?", metavar="STUDY", help="with `show`: the study, or the id of its run")
    add("--trials", type=int, metavar="N", help="trials of the study in all (default: as declared, else 50)")
    add("--metric", action="append", default=[], metavar="NAME", help="what is improved; again for several goals")
    add("--sampler", choices=("tpe", "cma-es", "random", "grid"), help="how the next trial is chosen (default: tpe)")
    add(
        "--pruner",
        choices=("none", "asha", "hyperband", "median"),
        help="which trials are stopped early (default: none)",
    )
    add("--folds", type=int, metavar="N", help="stretches of validation rows before the holdout (default: 3)")
    add(
        "--at",
        metavar="TIME",
        help="the moment at which the search looks at the rows (default: the newest known label)",
    )
    add("--workers", type=int, default=1, metavar="N", help="trials at once, each in a process of its own (default: 1)")
    add("--seconds", metavar="TIME", help="begin no trial after so long: 600, 10m, 2h")
    add("--cpu", metavar="TIME", help="begin no trial after so much CPU time of all trials: 30m")
    add("--seed", type=int, help="of the search")
    add("--study", default="", metavar="NAME", help="the study's name (default: made from what is searched)")
    add(
        "--write",
        nargs="?",
        const="",
        metavar="PLACE",
        help="write the best values into the file; or to PLACE: a .patch or a .json file",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    match options.target:
        case "list":
            _list(options)
        case "show":
            _show(options)
        case _:
            _tune(options)


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.studies.list()
    answer(found, as_json=options.json, show=lambda: _show_all(found))


def _show(options: argparse.Namespace) -> None:
    if not options.name:
        raise InvalidInput("no study was named", where="STUDY", fix="see `kilter tune list`")
    with connected(options) as kilter:
        found = kilter.studies.get(options.name)
    answer(found, as_json=options.json, show=lambda: _show_study(found))


def _tune(options: argparse.Namespace) -> None:
    if options.name is not None:
        raise InvalidInput(f"{options.name!r} was given as well", where="STUDY", fix="name the study with --study")
    if options.workers < 1:
        raise InvalidInput(f"{options.workers}", where="--workers", allowed="1 or more")
    file = options.target.rpartition(":")[0] or options.target
    suffix = Path(options.target).suffix
    if suffix in {".yaml", ".yml", ".json"}:
        _sweep(options)
    elif suffix == ".py" or file.endswith(".py"):
        _loop(options)
    else:
        raise InvalidInput(
            f"{options.target!r} can't be searched",
            where="TARGET",
            allowed="FILE.py, FILE.py:NAME, FILE.yaml, show STUDY, or list",
        )


def _loop(options: argparse.Namespace) -> None:
    name = store_name(options)
    if name.startswith(("http://", "https://")):
        raise InvalidInput("a loop is tuned where its rows are", where="--store", fix="give the store itself")
    from kilter.loop.declaration.spec import load  # noqa: PLC0415 - the help needs none of this
    from kilter.loop.tuning.defaults import patch  # noqa: PLC0415
    from kilter.loop.tuning.loops import Wishes, study_of, tune_loop, tuned_text  # noqa: PLC0415
    from kilter.loop.workspace import Workspace  # noqa: PLC0415

    file, mark, wanted = options.target.rpartition(":")
    path, loop = (Path(file), wanted) if mark and file.endswith(".py") else (Path(options.target), None)
    declared = load(path, loop)
    wishes = Wishes(
        metrics=tuple(options.metric),
        sampler=options.sampler,
        pruner=options.pruner,
        folds=options.folds,
        seed=options.seed,
        study=options.study,
        at=None if options.at is None else _moment(options.at),
    )
    with Workspace.open(name, home=options.home) as workspace, _ended_kindly():
        spec = study_of(declared, workspace, wishes)
        said = declared.loop.tune
        budget = _budget(options, 50 if said is None else said.trials)
        with _watching(options, budget) as (told, opened):
            found = tune_loop(declared, workspace, spec, budget, workers=options.workers, told=told, opened=opened)
    after = tuned_text(declared.text, found, where=str(path)) if found.best_values else declared.text
    difference = patch(declared.text, after, path.name)
    if options.write is not None:
        _write(options.write, path, after, difference, found)

    def show() -> None:
        _show_study(found)
        if difference and options.write is None:
            say("\nto use these values (kilter tune ... --write does it):\n")
            say(difference.rstrip("\n"))

    answer(found, as_json=options.json, show=show)


def _sweep(options: argparse.Namespace) -> None:
    from kilter.loop.tuning.opening import opened_runs  # noqa: PLC0415
    from kilter.loop.tuning.searching import search  # noqa: PLC0415
    from kilter.loop.tuning.sweeps import load_sweep  # noqa: PLC0415
    from kilter.loop.tuning.work import Pool  # noqa: PLC0415

    for flag, given in (("--metric", options.metric), ("--sampler", options.sampler), ("--pruner", options.pruner),
                        ("--folds", options.folds), ("--at", options.at), ("--write", options.write)):  # fmt: skip
        if given:
            raise InvalidInput("the sweep file says that", where=flag, fix="change the file")
    path = Path(options.target)
    sweep = load_sweep(path, options.study, options.seed or 0)
    store = store_name(options)
    budget = _budget(options, sweep.trials or 50)
    with ExitStack() as stack:
        runs = stack.enter_context(opened_runs(store, options.home))
        stack.enter_context(_ended_kindly())
        told, opened = stack.enter_context(_watching(options, budget))
        detail = {**sweep.spec.detail, "folder": str(Path.cwd())}

        def said(study: Study) -> None:
            opened(study)
            if sweep.said:
                study.runs.log_tags(study.parent.id, sweep.said)

        found = search(
            runs,
            sweep.spec,
            sweep.experiment,
            budget,
            lambda study: Pool(
                study,
                "kilter.loop.tuning.workers:command",
                detail,
                store=store,
                home=options.home,
                workers=options.workers,
            ),
            told,
            said,
        )
    answer(found, as_json=options.json, show=lambda: _show_study(found))


def _budget(options: argparse.Namespace, trials: int) -> Budget:
    from kilter.loop.tuning.conduct import Budget  # noqa: PLC0415

    return Budget(
        trials=trials if options.trials is None else options.trials,
        seconds=_seconds(options.seconds, "--seconds"),
        cpu=_seconds(options.cpu, "--cpu"),
    )


def _seconds(text: str | None, flag: str) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return parse_duration(text, where=flag).total_seconds()


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no time", where="--at", allowed="2013-06-01, or 2013-06-01T12:00:00Z"
        ) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


@contextmanager
def _watching(
    options: argparse.Namespace, budget: Budget
) -> Iterator[tuple[Callable[[TrialRecord], None], Callable[[Study], None]]]:
    """Show how far a search is, the trials of earlier calls and of other processes included."""
    with ExitStack() as stack:
        shown: list[Callable[[int], None]] = []
        seen = {"done": 0}
        study: list[Study] = []

        def opened(found: Study) -> None:
            study.append(found)
            found.refresh()
            if not options.json:
                sys.stderr.write(f"study {found.spec.name}: run {found.parent.id} in {found.parent.experiment}\n")
            shown.append(stack.enter_context(progress("trials", found.most(budget.trials), quiet=options.json)))
            count()

        def count() -> None:
            done = sum(one.state in {"complete", "pruned", "failed"} for one in study[0].trials.values())
            if done > seen["done"]:
                shown[0](done - seen["done"])
                seen["done"] = done

        yield lambda _trial: count(), opened


@contextmanager
def _ended_kindly() -> Iterator[None]:
    """Take SIGTERM like Ctrl-C: what runs is marked, and the next call goes on."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(place: str, path: Path, after: str, difference: str, found: StudyReport) -> None:
    """Write the best values where the user says: into the file, as a patch, or as JSON."""
    if not found.best_values:
        raise InvalidInput("there is no best trial to write", where="--write", fix="run more trials, for one metric")
    if not place:
        if difference:
            path.write_text(after, encoding="utf-8")
        sys.stderr.write(f"{path}: {'changed' if difference else 'has these values already'}\n")
        return
    import msgspec  # noqa: PLC0415

    target = Path(place)
    if target.suffix in {".patch", ".diff"}:
        target.write_text(difference, encoding="utf-8")
    elif target.suffix == ".json":
        target.write_bytes(msgspec.json.format(msgspec.json.encode(found.best_values)) + b"\n")
    else:
        raise InvalidInput(f"{place!r} was given", where="--write", allowed="nothing, FILE.patch or FILE.json")
    sys.stderr.write(f"{target}: written\n")


def _show_all(found: tuple[StudySummary, ...]) -> None:
    table(
        ("study", "of", "experiment", "status", "started", "run"),
        ((one.name, one.kind, one.experiment, one.status, one.started_at, one.run) for one in found),
        empty="no study yet: `kilter tune FILE`",
    )


def _show_study(found: StudyReport) -> None:
    spec = found.spec
    goals = ", ".join(f"{goal.direction} {goal.metric}" for goal in spec.goals)
    counts = ", ".join(
        f"{found.count(state)} {state}"
        for state in ("complete", "pruned", "failed", "interrupted", "running")
        if found.count(state)
    )
    say(f"{found.name} ({found.status}): {plain(goals)}, by {spec.sampler}; {counts or 'no trial yet'}; "
        f"{found.cpu_seconds:,.1f} CPU seconds")  # fmt: skip
    if "at" in spec.detail:
        say(
            f"judged on {spec.detail['folds']} stretches before the gates' holdout, of the rows until {spec.detail['at'][:16]}"
        )
    order = sorted(
        (one for one in found.trials if one.values is not None),
        key=lambda one: (spec.goals[0].sign * float((one.values or (0.0,))[0]), one.number),
    )
    chosen = order[:_SHOWN] if len(spec.goals) == 1 else [one for one in order if one.number in found.front]
    names = [one.name for one in spec.space]
    if chosen:
        table(
            ("trial", *(goal.metric for goal in spec.goals), *names),
            (
                (one.number, *(float(value) for value in one.values or ()), *(one.params.get(name) for name in names))
                for one in chosen
            ),
        )
    if found.comparison is not None:
        one = found.comparison
        way = f": {one.difference}" if one.difference is not None else ""
        say(f"best {plain(one.best)} against {plain(one.declared)} as declared, on the same rows{way}")
        say("the best was chosen on these rows, so they flatter it: the gates judge on rows that no trial has seen")
    if found.importance:
        say("what decides: " + ", ".join(f"{plain(name)} {share:.0%}" for name, share in found.importance.items()))
    failed = next((one for one in reversed(found.trials) if one.state == "failed"), None)
    if failed is not None:
        say(f"trial {failed.number} failed: {plain(failed.reason)}")
