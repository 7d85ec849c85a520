"""What the command line prints: tables and lines for people, one JSON document for programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from kilter.core.errors import KilterError

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 160


def plain(value: object) -> str:
    """Return a value as one line of text without control characters, which could otherwise command the terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        text = value
    elif isinstance(value, msgspec.Struct | dict | list | tuple):
        text = msgspec.json.encode(value).decode()
    else:
        text = str(value)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def console(*, error: bool = False) -> Console:
    """Return where people read: in colour on a terminal unless ``NO_COLOR`` is set, wide and plain elsewhere."""
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that `--json` doesn't pay

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "0") or 0) or _WIDE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=not stream.isatty())


def answer(value: object, *, as_json: bool, show: Callable[[], None]) -> None:
    """Print a result: as one JSON document, or as ``show`` shows it to people."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        sys.stdout.flush()
    else:
        show()


def say(text: str = "") -> None:
    """Print a line for people."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "nothing yet") -> None:
    """Print rows under headings, or a word when there are none."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    printed = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        printed.add_column(column, overflow="fold")
    for row in rows:
        printed.add_row(*(Text(plain(value)) for value in row))
    if printed.row_count:
        console().print(printed)
    else:
        say(empty)


def fields(value: msgspec.Struct | dict[str, Any], skip: frozenset[str] = frozenset(), indent: str = "") -> None:
    """Print a record as names and values; what is nested is printed below its name."""
    named: dict[str, Any] = value if isinstance(value, dict) else msgspec.structs.asdict(value)
    shown = {name: item for name, item in named.items() if name not in skip}
    width = max((len(name) for name in shown), default=0)
    for name, item in shown.items():
        if isinstance(item, msgspec.Struct) or (isinstance(item, dict) and item):
            say(f"{indent}{name}:")
            fields(item, indent=indent + "  ")
        elif isinstance(item, list | tuple) and item and isinstance(item[0], msgspec.Struct):
            say(f"{indent}{name}:")
            for entry in item:
                fields(entry, indent=indent + "  ")
                say()
        else:
            say(f"{indent}{name:<{width}}  {plain(item)}")


def records(found: Sequence[msgspec.Struct], columns: Sequence[str] = (), empty: str = "nothing yet") -> None:
    """Print records of one kind as a table.

    Args:
        found: The records.
        columns: Which fields to show; all simple ones when empty.
        empty: What to say when there are none.
    """
    if not found:
        say(empty)
        return
    names = list(columns) or [
        field.name
        for field in msgspec.structs.fields(type(found[0]))
        if not isinstance(getattr(found[0], field.name), msgspec.Struct | dict | list | tuple)
    ]
    table(names, ([getattr(record, name) for name in names] for record in found))


def say_error(error: KilterError) -> None:
    """Print an error for people: what, where, what is allowed, and what to do."""
    red, bold, off = ("\x1b[31m", "\x1b[1m", "\x1b[0m") if _colour() else ("", "", "")
    where = f"{plain(error.where)}: " if error.where else ""
    lines = [f"{red}{bold}error:{off} {where}{plain(error.message)}"]
    if error.allowed:
        lines.append(f"  allowed: {plain(error.allowed)}")
    if error.fix:
        lines.append(f"  fix: {plain(error.fix)}")
    sys.stderr.write("\n".join(lines) + "\n")


def _colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(label: str, total: int | None, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show how far something is, how fast it goes and how long it still takes: a bar on a terminal, a line per tenth elsewhere.

    Args:
        label: What is being done.
        total: How many steps there are, or None when that isn't known.
        quiet: Print nothing.

    Yields:
        A function that is told how many more steps are done.
    """
    if quiet:
        yield lambda _steps: None
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console(error=True)) as bar:
            task = bar.add_task(label, total=total, pace="")

            def advance(steps: int) -> None:
                bar.advance(task, steps)
                speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
                bar.update(task, pace="" if speed is None else f"{speed:,.0f}/s")

            yield advance
    else:
        lines = _Lines(label, total)
        yield lines.advance
        lines.end()


class _Lines:
    """Progress as lines, for logs."""

    def __init__(self, label: str, total: int | None) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._next = 0.1
        self._began = time.monotonic()

    def advance(self, steps: int) -> None:
        self._done += steps
        if self._total and self._done < self._total and self._done / self._total >= self._next:
            pace = self._pace()
            left = f", {(self._total - self._done) / pace:,.0f} s left" if pace else ""
            sys.stderr.write(f"{self._label}: {self._done:,} of {self._total:,}, {pace:,.0f}/s{left}\n")
            self._next = self._done / self._total + 0.1

    def end(self) -> None:
        sys.stderr.write(f"{self._label}: {self._done:,} done, {self._pace():,.0f}/s\n")

    def _pace(self) -> float:
        """Return how many steps a second were done."""
        return self._done / max(time.monotonic() - self._began, 1e-3)
