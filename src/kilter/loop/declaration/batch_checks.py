"""The batches of a declaration: names, schedules, and places that a run each can have."""

from __future__ import annotations

import re

from kilter.engines.sql.places import has_password, is_database
from kilter.loop.declaration.faults import Faults
from kilter.loop.declare import Batch

_NAME = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
_SHORTEST = 60.0
_SLOT = "{slot}"
_TABLES = ("table:", "online:")


def check_batches(faults: Faults) -> None:
    """Check what the champion scores on a schedule."""
    names: set[str] = set()
    for i, batch in enumerate(faults.loop.batch):
        field = f"batch[{i}]"
        texts = {
            name: getattr(batch, name) for name in ("input", "output", "every", "name", "query", "key", "bad_rows")
        }
        for name, given in texts.items():
            faults.kind(f"{field}.{name}", given, (str,), "a text")
        if not all(isinstance(given, str) for given in texts.values()):
            continue
        if not _NAME.match(batch.name):
            faults.wrong(
                f"{field}.name", f"{batch.name!r} can't be a name", allowed="lower-case words joined by hyphens"
            )
        if batch.name in names:
            faults.wrong(f"{field}.name", f"two batches are called {batch.name!r}", fix="give each a name of its own")
        names.add(batch.name)
        every = faults.duration(f"{field}.every", batch.every)
        if every is not None and every < _SHORTEST:
            faults.wrong(f"{field}.every", f"{batch.every!r} is too often", allowed="a minute or more")
        _places(faults, field, batch)
        for name in ("max_nulls", "max_unknown", "max_outside"):
            given = getattr(batch, name)
            if given is not None and (
                isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1
            ):
                faults.wrong(f"{field}.{name}", f"{given!r} is no share", allowed="a number from 0 to 1")


def _places(faults: Faults, field: str, batch: Batch) -> None:
    written = {"output": batch.output}
    if batch.bad_rows not in ("fail", "null"):
        written["bad_rows"] = batch.bad_rows
    for name, place in {"input": batch.input, **written}.items():
        if not place.strip():
            faults.wrong(f"{field}.{name}", "there is no place", allowed="files, table:NAME or a database's address")
        if has_password(place):
            faults.wrong(
                f"{field}.{name}", "the address has a password in it", allowed="postgresql://user:${NAME}@host/name",
                fix="put it into a variable of the controller's environment and name that",
            )  # fmt: skip
    for name, place in written.items():
        if place.strip() and not place.startswith(_TABLES) and not is_database(place) and _SLOT not in place:
            faults.wrong(
                f"{field}.{name}", f"each run would find the files of the last one in {place!r}",
                fix=f"put {_SLOT} into it, which becomes the run's time",
            )  # fmt: skip
    if batch.query and not is_database(batch.input):
        faults.wrong(f"{field}.query", "a query goes to a database", allowed='input="postgresql://user@host/name"')
    if is_database(batch.input) and not batch.query and "query=" not in batch.input:
        faults.wrong(f"{field}.query", "there is no query", allowed='query="SELECT ..."')
    if is_database(batch.output) and "table=" not in batch.output:
        faults.wrong(f"{field}.output", "the address names no table", allowed="...?table=NAME")
