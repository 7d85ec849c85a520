"""Scoring streams with a version of the registry: the wiring behind ``kilter stream``."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import msgspec

from kilter.core.errors import InvalidInput, KilterError, Unavailable
from kilter.engines.streams.places import open_sink, open_source, place_of
from kilter.loop.versions.scoring import lookup, version_of
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import fetch
from kilter.registry.records import ModelVersion
from kilter.serving.answering.rows import RowReader
from kilter.serving.recording.predictions import PredictionLog, fronts
from kilter.serving.scoring.model import Scorer
from kilter.serving.scoring.streams import Answering, StreamScorer, Turn, follow

log = logging.getLogger("kilter.streaming")

_DEAD = "-dead"


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream scorer does.

    Args:
        model: A model, whose champion answers and is followed, or one version: ``flight-delay@v7``.
        source: The stream to read: ``kafka://host:port/topic``, ``nats://``, ``redis://`` or ``log:NAME``.
        target: The stream of the answers.
        dead: The stream of messages that can't be used; ``-dead`` behind the target's name if empty.
        group: Who reads; the model's name if empty.
        record: Whether predictions are recorded.
        front: The name under which they are; from the group if empty.
        batch: Messages per turn at most.
        drain: End when nothing is left to read.
        look: Seconds between two looks for a new champion, and for what may be recorded.
        count: Seconds between two counts of the messages that wait.
    """

    model: str
    source: str
    target: str
    dead: str = ""
    group: str = ""
    record: bool = True
    front: str = ""
    batch: int = 4_000
    drain: bool = False
    look: float = 2.0
    count: float = 10.0


def stream(workspace: Workspace, plan: StreamPlan, stopping: Callable[[], bool]) -> Iterator[Turn]:
    """Answer a stream's messages until told to stop.

    Args:
        workspace: The store.
        plan: What to do.
        stopping: Says whether to stop.

    Yields:
        What each turn did.

    Raises:
        InvalidInput: When the plan can't be used.
        NotFound: When there is no such model.
        Unavailable: When a broker can't be reached.
        Conflict: When another process reads for the group, or writes the log.
    """
    if plan.batch < 1:
        raise InvalidInput(f"{plan.batch} messages per turn", where="--batch", allowed="1 or more")
    source, target = place_of(plan.source, "--from"), place_of(plan.target, "--to")
    dead = place_of(plan.dead, "--dead") if plan.dead else target.sibling(_DEAD)
    places = [one[:3] for one in (source, target, dead)]
    if len(set(places)) < len(places):
        raise InvalidInput(
            "two of the streams are one", where="--from, --to, --dead", allowed="three different streams"
        )
    champion = _Champion(workspace, plan.model, plan.look)
    group = plan.group or plan.model.partition("@")[0]
    folder = workspace.store.folder / "log" / "streams"
    with ExitStack() as stack:
        recorded = None
        if plan.record:
            front = plan.front or "stream_" + re.sub(r"[^a-z0-9]+", "_", group.lower())[:50]
            recorded = PredictionLog.open(workspace.prediction_logs(), front, readonly=False)
            stack.callback(recorded.close)
            recorded.redactors = workspace.recording.redactors()
        answers = open_sink(target, folder)
        stack.callback(answers.close)
        letters = open_sink(dead, folder)
        stack.callback(letters.close)
        scorer = StreamScorer(
            champion,
            group,
            answers,
            letters,
            workspace.clock,
            log=recorded,
            others=lambda front: _log_of(workspace, front),
            batch=plan.batch,
        )
        given = open_source(source, group, scorer.mark, folder)
        stack.callback(given.close)
        looked = time.monotonic()
        counted = looked - plan.count
        for turn in follow(scorer, given, stopping, drain=plan.drain):
            waiting = None
            if time.monotonic() - counted >= plan.count:
                counted = time.monotonic()
                with suppress(Unavailable):  # nothing depends on it
                    waiting = given.lag()
            yield turn._replace(waiting=waiting)
            if recorded is not None and time.monotonic() - looked >= plan.look:
                looked = time.monotonic()
                _obey(workspace, recorded)


def _log_of(workspace: Workspace, front: str) -> PredictionLog | None:
    """Open the prediction log of another front of this workspace."""
    folder = workspace.prediction_logs()
    return PredictionLog.open(folder, front) if front in fronts(folder) else None


def _obey(workspace: Workspace, recorded: PredictionLog) -> None:
    """Take the rules of recording as they are now."""
    try:
        recorded.redactors = workspace.recording.redactors()
    except KilterError as error:
        log.warning("the rules of recording can't be read, those that are known hold on: %s", error)


class _Champion:
    """The version that answers: the one that was named, or whatever is champion."""

    def __init__(self, workspace: Workspace, model: str, look: float) -> None:
        self._workspace = workspace
        self._model = model
        self._named = "@" in model and not model.endswith("@champion")
        self._look = look
        self._looked = time.monotonic()
        self._now = self._load(version_of(workspace, model))

    def __call__(self) -> Answering:
        """Return the version that answers now."""
        if not self._named and time.monotonic() - self._looked >= self._look:
            self._looked = time.monotonic()
            try:
                newest = version_of(self._workspace, self._model)
                if newest.version != self._now.version:
                    self._now = self._load(newest)
                    log.info("%s answers from now on", newest.reference)
            except KilterError as error:  # the one that is loaded goes on
                log.warning("the champion can't be looked up: %s", error)
        return self._now

    def _load(self, version: ModelVersion) -> Answering:
        parts = fetch(version.bundle, self._workspace.objects)
        found = lookup(self._workspace, parts)
        return Answering(
            model=version.model,
            version=version.version,
            arm="direct" if self._named else "champion",
            scorer=Scorer(parts, found),
            reader=RowReader(parts.manifest.signature),
            lookup=found,
        )
