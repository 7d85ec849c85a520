"""Whether a run can be had again: which of its inputs differ, and whether the results do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from kilter.core.digests import short
from kilter.core.errors import InvalidInput, NotFound
from kilter.tracking.environment import code_digest, environment_lock
from kilter.tracking.records import Run
from kilter.tracking.sdk.recording import Code, Recorded
from kilter.tracking.service import RunService

Input = Literal["code", "environment", "data", "seed", "hardware", "command", "settings", "params"]

_OWN = ("environment.lock", "recorded.json", "source.py", "code.diff")
"""Files that say what a run was made with; they are inputs, no results."""

_SHOWN = 12


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was.

    Args:
        input: What kind of input it is.
        name: What exactly: ``numpy``, ``commit``, a data set's name.
        was: How it was; empty when it was not there.
        now: How it is; empty when it is not there.
    """

    input: Input
    name: str
    was: str = ""
    now: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A result that is not the same.

    Args:
        kind: ``metric`` or ``file``.
        name: Its name.
        was: Its final value, or its digest.
        now: The same of the new run; empty when it has none.
    """

    kind: Literal["metric", "file"]
    name: str
    was: str = ""
    now: str = ""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was made with, as far as anybody recorded it.

    Args:
        recorded: Command, code, machine; None when nobody recorded them.
        lock: The distributions, by name.
        source: Digest of the program.
        data: Digests of data by name.
        seed: Its seed.
        params: Its parameters.
    """

    recorded: Recorded | None = None
    lock: dict[str, str] = {}
    source: str = ""
    data: dict[str, str] = {}
    seed: int | None = None
    params: dict[str, str] = {}


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """What became of reproducing a run.

    Args:
        run: The run.
        verdict: ``same inputs`` or ``inputs differ`` when nothing was run again; else ``identical`` or ``different``.
        differences: The inputs that differ.
        unknown: What was not recorded, and can't be compared.
        again: The new run; empty when nothing was run again.
        compared: How many results were compared.
        results: The results that differ.
    """

    run: str
    verdict: Literal["same inputs", "inputs differ", "identical", "different"]
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = ()
    again: str = ""
    compared: int = 0
    results: tuple[Result, ...] = ()


def made_with(runs: RunService, run: Run) -> Made:
    """Return what a run was made with.

    Args:
        runs: The runs of the store.
        run: The run.
    """
    names = {kept.name for kept in run.artifacts}
    recorded: Recorded | None = None
    if "recorded.json" in names:
        try:
            recorded = msgspec.json.decode(runs.artifact(run.id, "recorded.json"), type=Recorded)
        except msgspec.MsgspecError:
            recorded = None  # another client's file of that name
    lock = runs.artifact(run.id, "environment.lock") if "environment.lock" in names else b""
    data = {one.name: one.digest for one in run.inputs.datasets}
    if run.data_digest:
        data["data"] = run.data_digest
    return Made(
        recorded=recorded,
        lock=_packages(lock),
        source=run.code_digest,
        data=data,
        seed=run.seed,
        params={name: str(value) for name, value in run.params.items()},
    )


def here(run: Run, recorded: Recorded, source: Path | None) -> Made:
    """Return what the run would be made with here and now.

    Args:
        run: The run: its local data are looked at again.
        recorded: What was seen of this place.
        source: The program, when it is there.
    """
    from kilter.tracking.fluent import file_digest  # noqa: PLC0415 - the client's module, for one of its functions

    data: dict[str, str] = {}
    for one in run.inputs.datasets:
        path = Path(one.source)
        if one.source_type != "local" or not one.source or one.schema:
            continue  # what was in memory is only known when it runs again
        try:
            data[one.name] = file_digest(path) if path.exists() else ""
        except InvalidInput:
            data[one.name] = ""
    text = ""
    if source is not None:
        try:
            text = code_digest(source.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            text = ""
    return Made(recorded=recorded, lock=_packages(environment_lock()), source=text, data=data, seed=run.seed)


def differences(was: Made, now: Made, *, ran: bool) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Return which inputs differ, and which can't be compared.

    Args:
        was: What the run was made with.
        now: What it would be, or was, made with now.
        ran: The second one has run: then its data and its parameters are known as well.
    """
    found: list[Difference] = []
    unknown: list[str] = []
    if not was.source or not now.source:
        unknown.append("program")
    else:
        found += _named("code", {"program": short(was.source)}, {"program": short(now.source)})
    if was.recorded is None:
        unknown += ["commit", "hardware", "command"]
    elif now.recorded is not None:
        found += _recorded(was.recorded, now.recorded)
        if was.recorded.code is None:
            unknown.append("commit")
    if was.lock:
        found += _named("environment", was.lock, now.lock)
    else:
        unknown.append("environment")
    data = now.data if ran else {name: now.data.get(name, digest) for name, digest in was.data.items()}
    found += _named(
        "data", {name: short(value) for name, value in was.data.items()}, {n: short(v) for n, v in data.items()}
    )
    if was.seed is None:
        unknown.append("seed")
    if ran:
        found += _named("seed", {"seed": str(was.seed)}, {"seed": str(now.seed)})
        found += _named("params", was.params, now.params)
    else:
        unknown += [f"data {name!r}" for name in was.data if name not in now.data]
    return tuple(found), tuple(unknown)


def results(was: Run, now: Run) -> tuple[int, tuple[Result, ...]]:
    """Compare final metrics, to the last bit, and files, by their digests.

    Returns:
        How many were compared, and those that differ.
    """
    found: list[Result] = []
    before = {one.name: float(one.last) for one in was.metrics if not one.name.startswith("system/")}
    after = {one.name: float(one.last) for one in now.metrics if not one.name.startswith("system/")}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        same = old is not None and new is not None and (old == new or (math.isnan(old) and math.isnan(new)))
        if not same:
            found.append(Result(kind="metric", name=name, was=_number(old), now=_number(new)))
    files, made = _files(was), _files(now)
    found += [
        Result(kind="file", name=name, was=short(files.get(name, "")), now=short(made.get(name, "")))
        for name in sorted(files.keys() | made.keys())
        if files.get(name) != made.get(name)
    ]
    return len(before.keys() | after.keys()) + len(files.keys() | made.keys()), tuple(found)


def reproduction(runs: RunService, run: Run, again: Run) -> Reproduction:
    """Compare a run with one that was meant to be the same."""
    changed, unknown = differences(made_with(runs, run), made_with(runs, again), ran=True)
    compared, differing = results(run, again)
    failed = again.status != run.status
    return Reproduction(
        run=run.id,
        verdict="different" if differing or failed else "identical",
        differences=changed,
        unknown=unknown,
        again=again.id,
        compared=compared,
        results=differing,
    )


def marked(runs: RunService, run: str, token: str) -> Run:
    """Return the run that was made again under a mark.

    Raises:
        NotFound: When the command made none.
    """
    page = runs.list(filter=f"tags.reproduction = '{token}'", order="started", limit=1)
    if not page.runs:
        raise NotFound(
            f"the command ended and left no run that reproduces {run}",
            where="reproduce",
            fix="does the program still call kilter.run()?",
        )
    return page.runs[0]


def _recorded(was: Recorded, now: Recorded) -> Iterable[Difference]:
    yield from _code(was.code, now.code)
    yield from _named("seed", was.seeds, {**now.seeds, **{n: v for n, v in was.seeds.items() if n == "run"}})
    yield from _named("settings", was.settings, now.settings)
    old, new = was.hardware, now.hardware
    for name in ("cpu", "cores", "memory", "machine", "gpus", "driver"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield Difference(input="hardware", name=name, was=_said(before), now=_said(after))


def _code(was: Code | None, now: Code | None) -> Iterable[Difference]:
    if was is None:
        return
    if now is None:
        yield Difference(input="code", name="commit", was=was.commit, now="no working copy")
        return
    if was.commit != now.commit:
        yield Difference(input="code", name="commit", was=was.commit, now=now.commit)
    if was.diff != now.diff:
        yield Difference(
            input="code", name="uncommitted changes", was=short(was.diff) or "none", now=short(now.diff) or "none"
        )
    for name in was.untracked[:_SHOWN]:
        if name not in now.untracked:
            yield Difference(input="code", name=name, was="not in git", now="")


def _named(kind: Input, was: Mapping[str, str], now: Mapping[str, str]) -> list[Difference]:
    return [
        Difference(input=kind, name=name, was=was.get(name, ""), now=now.get(name, ""))
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def _packages(lock: bytes) -> dict[str, str]:
    lines = (line.partition("==") for line in lock.decode(errors="replace").splitlines())
    return {name: version for name, mark, version in lines if mark}


def _files(run: Run) -> dict[str, str]:
    return {
        kept.name: kept.digest
        for kept in run.artifacts
        if kept.name not in _OWN and not kept.name.startswith("resumed/")
    }


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
