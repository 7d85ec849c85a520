"""``kilter log``: how large the logs are, who still reads them, what retention would do, and the archive of predictions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, say, table
from kilter.cli.target import connected, environment
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.serving.recording.logs import LogInfo, Trimmed
    from kilter.serving.recording.retention import Retention


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    add("list", "the logs of the store: size, oldest record, and how far their readers are", _list)
    trim = add("trim", "archive and remove what has outlived its rule and every reader has passed", _trim)
    trim.add_argument("--dry-run", action="store_true", help="only say what would be done")
    trim.add_argument("--age", help='keep predictions for so long, like "90d"; the environment\'s rule if not given')
    trim.add_argument("--size", help='keep so much of each prediction log, like "20 GB"')
    trim.add_argument("--rows-age", help="the same for the row log, whose rows stay in the tables")
    trim.add_argument("--rows-size", help="the same for the row log")
    trim.add_argument("--no-archive", action="store_true", help="don't copy predictions to the archive before")
    add(
        "archive",
        "copy every closed segment of the prediction logs to the archive's tables, and remove nothing",
        _archive,
    )
    add("forget", "wait no longer for a reader that won't come back", _forget).add_argument("reader")


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.logs.overview()
    columns = ("log", "segments", "size", "oldest", "removed up to", "end", "readers")
    answer(found, as_json=options.json, show=lambda: table(columns, (_row(one) for one in found)))


def _row(log: LogInfo) -> tuple[object, ...]:
    readers = ", ".join(f"{one.reader} at {one.position:x}" if one.position >= 0 else f"{one.reader} at the start"
                        for one in log.readers)  # fmt: skip
    ends = ["-" if position < 0 else f"{position:x}" for position in (log.removed, log.end)]
    return (log.log, log.segments, _bytes(log.size), log.oldest, *ends, readers)


def _trim(options: argparse.Namespace) -> None:
    keep = _rule(options)
    with connected(options) as kilter:
        found = kilter.logs.trim(keep, options.dry_run)
    answer(found, as_json=options.json, show=lambda: _show(found, dry_run=options.dry_run))


def _archive(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.logs.archive()
    answer(
        found,
        as_json=options.json,
        show=lambda: table(("log", "predictions archived"), ((one.log, one.archived) for one in found)),
    )


def _forget(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.logs.forget(options.reader)
    answer(
        {"reader": options.reader, "logs": found},
        as_json=options.json,
        show=lambda: say(f"forgotten in {found} logs" if found else "there was no such reader"),
    )


def _rule(options: argparse.Namespace) -> Retention:
    from kilter.serving.recording.retention import Keep, Retention  # noqa: PLC0415 - opens the way to the rooms

    overlay = environment(options.env)
    known = Retention() if overlay is None else overlay.keep
    given = (options.age, options.size, options.rows_age, options.rows_size)
    if any(given):
        known = Retention(
            predictions=Keep(age=options.age or "", size=options.size or ""),
            rows=Keep(age=options.rows_age or "", size=options.rows_size or ""),
            archive=known.archive,
        )
    elif known.predictions.forever and known.rows.forever:
        raise InvalidInput(
            "no rule says how much is kept",
            where="kilter log trim",
            allowed='--age, --size, --rows-age, --rows-size, or keep = { predictions = { age = "90d" } } in kilter.toml',
        )
    return Retention(predictions=known.predictions, rows=known.rows, archive=known.archive and not options.no_archive)


def _show(found: list[Trimmed], *, dry_run: bool) -> None:
    verb = "would go" if dry_run else "removed"
    rows = [
        (one.log, one.segments, _bytes(one.size), one.archived, one.error or ", ".join(one.held) or "nobody")
        for one in found
    ]
    table(("log", f"segments {verb}", "size", "predictions archived", "more is held by"), rows)


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
