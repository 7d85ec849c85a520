"""The daily verbs of a loop: plan, apply, status, why, pause, resume, retrain, approve, rollback; and its status as text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, plain, say, table
from kilter.cli.target import connected, environment, environment_name, who
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.loop.declare import ApprovalRule
    from kilter.loop.remote import Kilter
    from kilter.loop.status import LoopStatus, Planned
    from kilter.loop.summary import BatchSummary
    from kilter.loop.why import Why

_TEXTS = {
    "plan": "Show what applying a file would change. Nothing is written.",
    "apply": "Make a declaration so: what is missing is trained, proven and released, and kept going from here on.",
    "status": "Where every loop stands, or one of them.",
    "why": "The whole chain behind a version: alarm, data, run, gates, shadow, canary, verdict.",
    "pause": "Stop a loop at once: nothing new starts, and a release in flight goes back to the champion.",
    "resume": "Let a paused loop go on.",
    "retrain": "Ask for a challenger now; it has to prove itself like any other.",
    "approve": "Approve a version that waits for its owner.",
    "rollback": "Take the release in flight back or, when there is none, the champion back to the one before.",
}


def build(parser: Parser, command: str) -> None:
    """Add the arguments of one of the verbs."""
    parser.description = _TEXTS[command]
    if command in {"plan", "apply"}:
        parser.add_argument("file", help="the Python file; FILE.py:NAME when it declares several loops")
    elif command == "status":
        parser.add_argument("loop", nargs="?", help="one loop")
    elif command == "why":
        parser.add_argument("target", help="LOOP@v7, LOOP@champion, LOOP for its champion, or the id of a prediction")
    elif command == "approve":
        parser.add_argument("version", help="LOOP@v7")
    else:
        parser.add_argument("loop", help="the loop's name")
    if command == "apply":
        parser.add_argument("--yes", action="store_true", help="do not ask on a terminal")
    if command in {"pause", "rollback"}:
        parser.add_argument("--reason", default="", help="why; it is kept in the journal")
    if command == "retrain":
        parser.add_argument("--tuned", metavar="STUDY", help="with the best values of a search; they are applied first")
    if command == "approve":
        parser.add_argument("--comment", default="", help="what to note beside the approval")
    parser.set_defaults(run=_RUNS[command])


def _plan(options: argparse.Namespace) -> None:
    path, name, source = _read(options.file)
    with connected(options) as kilter:
        found = kilter.loops.plan(source, str(path), name, environment_name(options.env), **_rules(options))
    answer(found, as_json=options.json, show=lambda: _show_plan(found))


class _Rules(TypedDict):
    approval: ApprovalRule | None
    budget: str | None
    freeze: tuple[str, ...]


def _rules(options: argparse.Namespace) -> _Rules:
    """Return what the environment's own table in ``kilter.toml`` says about approval, budget and freeze windows."""
    overlay = environment(options.env)
    return {
        "approval": None if overlay is None else overlay.approve,
        "budget": None if overlay is None else overlay.budget,
        "freeze": () if overlay is None else overlay.freeze,
    }


def _apply(options: argparse.Namespace) -> None:
    path, name, source = _read(options.file)
    wanted = environment_name(options.env)
    with connected(options) as kilter:
        expect = None
        if not (options.yes or options.json) and sys.stdin.isatty():
            planned = kilter.loops.plan(source, str(path), name, wanted, **_rules(options))
            _show_plan(planned)
            if planned.changes and input("apply? [y/N] ").strip().lower() not in {"y", "yes"}:
                say("nothing was applied")
                return
            expect = planned.applied
        found = kilter.loops.apply(source, str(path), name, wanted, who(), expect, **_rules(options))
    answer(found, as_json=options.json, show=lambda: say(f"applied {found.loop} ({found.digest[:12]}) in {wanted}"))


def _status(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        if options.loop:
            one = kilter.loops.status(options.loop)
            answer(one, as_json=options.json, show=lambda: _show_status(one))
        else:
            every = kilter.loops.list()
            answer(every, as_json=options.json, show=lambda: _show_statuses(every))


def _why(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.loops.why(options.target)
    answer(found, as_json=options.json, show=lambda: _show_why(found))


def _pause(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        told(options, kilter.loops.pause(options.loop, options.reason, who()))


def _resume(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        told(options, kilter.loops.resume(options.loop, who()))


def _retrain(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        if options.tuned and _apply_tuned(options, kilter):
            told(options, kilter.loops.status(options.loop))
            return
        told(options, kilter.loops.retrain(options.loop, who()))


def _apply_tuned(options: argparse.Namespace, kilter: Kilter) -> bool:
    """Apply what is applied now with the values that a search found; return whether that changes anything.

    A changed declaration is trained by itself, and everything that follows names the values that it was trained with.
    """
    from kilter.loop.tuning.loops import tuned_text  # noqa: PLC0415

    applied, found = kilter.loops.source(options.loop), kilter.studies.get(options.tuned)
    if found.spec.detail.get("loop") != options.loop:
        raise InvalidInput(
            f"{found.name!r} searched something else", where="--tuned", allowed=f"a study of {options.loop}"
        )
    text = tuned_text(applied.text, found, where=applied.filename)
    if text == applied.text:
        return False
    wanted = environment_name(kilter.loops.status(options.loop).environment)
    kilter.loops.apply(text, applied.filename, options.loop, wanted, who(), applied.digest, **_rules(options))
    sys.stderr.write(
        f"applied with the values of {found.name}; your own file has them after `kilter tune ... --write`\n"
    )
    return True


def _rollback(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        told(options, kilter.loops.rollback(options.loop, options.reason, who()))


def _approve(options: argparse.Namespace) -> None:
    loop, version = split_version(options.version)
    with connected(options) as kilter:
        told(options, kilter.loops.approve(loop, version, who(), options.comment))


_RUNS = {
    "plan": _plan,
    "apply": _apply,
    "status": _status,
    "why": _why,
    "pause": _pause,
    "resume": _resume,
    "retrain": _retrain,
    "approve": _approve,
    "rollback": _rollback,
}


def split_version(text: str) -> tuple[str, int | str]:
    """Return loop and version of ``flight-delay@v7`` or ``flight-delay@champion``.

    Raises:
        InvalidInput: When it names no version.
    """
    loop, mark, version = text.rpartition("@")
    if not (mark and loop and version):
        raise InvalidInput(f"{text!r} names no version", where="VERSION", allowed="LOOP@v7, or LOOP@champion")
    number = version.removeprefix("v")
    return loop, int(number) if number.isdecimal() else version


def _read(text: str) -> tuple[Path, str | None, str]:
    """Return path, loop name and text of ``FILE.py`` or ``FILE.py:NAME``."""
    file, mark, name = text.rpartition(":")
    path, wanted = (Path(file), name) if mark and file.endswith(".py") else (Path(text), None)
    try:
        return path, wanted, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidInput(
            "there is no such file", where=str(path), fix="give the file that declares the loop"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the file can't be read: {error}", where=str(path)) from None


def told(options: argparse.Namespace, status: LoopStatus) -> None:
    """Answer with where a loop stands."""
    answer(status, as_json=options.json, show=lambda: _show_status(status))


def _show_plan(found: Planned) -> None:
    before = f"applied now: {found.applied[:12]}" if found.applied else "not applied yet"
    say(f"{found.loop}: declaration {found.digest[:12]}, {before}")
    if not found.changes:
        say("no changes")
    for change in found.changes:
        say(f"  {plain(change.sentence())}")
        for line in change.diff.splitlines():
            say(f"    {plain(line)}")


def _show_statuses(found: tuple[LoopStatus, ...]) -> None:
    table(
        ("loop", "env", "champion", "work", "challenger", "traffic", "alarms", "waiting for"),
        (
            (
                status.name,
                status.environment,
                _version(status.summary.champion),
                "paused" if status.summary.paused is not None else status.summary.work,
                _version(status.summary.version),
                _traffic(status),
                ", ".join(status.summary.alarms) or "-",
                status.summary.waiting,
            )
            for status in found
        ),
        empty="no loop is applied yet: `kilter apply FILE`",
    )


def _show_status(status: LoopStatus) -> None:
    summary = status.summary
    say(f"{status.name} ({status.environment}): {status.purpose or 'no purpose is written down'}")
    lines = {
        "owner": status.owner,
        "time": f"{status.now:%Y-%m-%d %H:%M} UTC by the clock of the store",
        "champion": _version(summary.champion),
        "challenger": f"{_version(summary.version)} ({summary.stage or summary.work})"
        if summary.work != "idle"
        else "-",
        "traffic": _traffic(status),
        "alarms": ", ".join(summary.alarms) or "-",
        "waiting for": summary.waiting,
        "paused": summary.paused,
        "frozen": _frozen(status),
        "drill": None if status.drill is None else status.drill.sentence(),
        "training": None if status.failure is None else f"failed {summary.failures} times in a row: {status.failure}",
        "budget left": None if summary.budget_left is None else f"{summary.budget_left:.0f} CPU seconds today",
    }
    lines |= {f"batch {one.name}": _batch(one) for one in summary.batches}
    width = max(map(len, lines))
    for name, value in lines.items():
        say(f"  {name:<{width}}  {plain(value)}")


def _batch(one: BatchSummary) -> str:
    """Return where a batch of the schedule stands."""
    slot = "" if one.slot is None else f" {one.slot:%Y-%m-%d %H:%M}"
    said = {
        "waiting": "waits for a champion",
        "running": f"scores{slot}",
        "retrying": f"failed for{slot}, and is tried again",
        "done": f"{one.rows:,} rows for{slot}",
        "failed": f"given up for{slot}: {one.failed}",
    }[one.work]
    return said if one.due is None else f"{said}; next {one.due:%Y-%m-%d %H:%M}"


def _show_why(found: Why) -> None:
    made = found.prediction
    if made is not None:
        say(
            f"{made.id}: {made.value:.6g} for {plain(made.key)} on {made.at:%Y-%m-%d %H:%M} as {made.arm}, by {found.version}"
        )
        say(f"  saw  {', '.join(f'{plain(name)}={plain(value)}' for name, value in made.inputs.items())}")
        if made.client or made.trace:
            who = f"asked by {plain(made.client)}" if made.client else "asked by nobody known"
            say(f"  {who}" + (f", in trace {plain(made.trace)}" if made.trace else ""))
        say()
    say(f"{found.version}: {found.stage} ({plain(found.verdict)})")
    say(f"  trigger      {plain(found.trigger)}")
    for name in ("run", "data_digest", "feature_digest", "code_digest", "spec", "environment"):
        say(f"  {name.removesuffix('_digest'):<11}  {plain(getattr(found.lineage, name))}")
    say()
    for link in found.chain:
        say(f"{link.at:%Y-%m-%d %H:%M}  {link.step:<8}  {plain(link.title)}")
        for finding in link.findings:
            say(f"{'':<28}{plain(finding.sentence())}")


def _frozen(status: LoopStatus) -> str | None:
    summary = status.summary
    if not summary.frozen:
        return None
    end = "" if summary.frozen_until is None else f", until {summary.frozen_until:%Y-%m-%d %H:%M}"
    return f"{summary.frozen}{end}"


def _version(number: int | None) -> str:
    return "-" if number is None else f"v{number}"


def _traffic(status: LoopStatus) -> str:
    summary = status.summary
    if summary.mode is None:
        return "-"
    said = f"canary {summary.share} %" if summary.mode == "canary" else summary.mode
    return said if summary.confirmed else f"{said} (on its way)"
