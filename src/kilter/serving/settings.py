"""How an endpoint is run: how many workers, how much may wait and for how long, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from kilter.core.durations import parse_duration
from kilter.core.errors import InvalidInput
from kilter.core.words import did_you_mean
from kilter.serving.recording.retention import parse_size

MOST_REPLICAS: Final = 1024
_TIMES: Final = ("batch_stretch", "queue_seconds", "timeout", "idle")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an endpoint is run. It changes how fast it answers and never what.

    Args:
        replicas: Worker processes per version, at least; 0 lets an endpoint without traffic sleep.
        replicas_max: At most; 0 for the same number. Between the two it follows the load.
        batch_rows: Rows that one call of the model may answer.
        batch_stretch: By how many seconds the rows of a batch may lengthen it.
        queue_rows: Rows that may wait at the endpoint.
        queue_seconds: A request is refused when what waits before it would take longer than this; 0 for no such bound.
        concurrency: Requests that may be under way at the endpoint; 0 for no bound.
        timeout: Seconds that a request has, unless it asks for fewer.
        cache: Bytes of answers that are kept for rows that come again, for models whose signature says that they are
            deterministic; 0 for none.
        idle: Seconds without traffic after which an endpoint with ``replicas = 0`` sleeps.
    """

    replicas: int = 1
    replicas_max: int = 0
    batch_rows: int = 4096
    batch_stretch: float = 0.1
    queue_rows: int = 20_000
    queue_seconds: float = 5.0
    concurrency: int = 0
    timeout: float = 30.0
    cache: int = 0
    idle: float = 300.0

    @property
    def most(self) -> int:
        """The most workers per version."""
        return max(self.replicas_max, self.replicas, 1)


def check_settings(settings: Settings, where: str) -> None:
    """Refuse settings that can't be honoured.

    Raises:
        InvalidInput: It names the field.
    """
    if not 0 <= settings.replicas <= MOST_REPLICAS:
        raise InvalidInput(f"{settings.replicas} is no number of processes", where=f"{where}.replicas",
                           allowed=f"0 to {MOST_REPLICAS}")  # fmt: skip
    if settings.replicas_max and not max(settings.replicas, 1) <= settings.replicas_max <= MOST_REPLICAS:
        raise InvalidInput(f"{settings.replicas_max} is no number of processes", where=f"{where}.replicas_max",
                           allowed=f"0, or {max(settings.replicas, 1)} to {MOST_REPLICAS}")  # fmt: skip
    for field in ("batch_rows", "queue_rows"):
        if getattr(settings, field) < 1:
            raise InvalidInput(f"{getattr(settings, field)} rows", where=f"{where}.{field}", allowed="1 or more")
    for field in ("batch_stretch", "timeout", "idle"):
        if not getattr(settings, field) > 0:
            raise InvalidInput(f"{getattr(settings, field)} seconds", where=f"{where}.{field}", allowed="more than 0")
    for field in ("queue_seconds", "concurrency", "cache"):
        if getattr(settings, field) < 0:
            raise InvalidInput(f"{getattr(settings, field)}", where=f"{where}.{field}", allowed="0 or more")


def settings_of(given: Mapping[str, Any], base: Settings, where: str) -> Settings:
    """Return settings as people write them: times like ``"5s"``, sizes like ``"64 MB"``, or plain seconds and bytes.

    Args:
        given: The fields that are said.
        base: What holds for the others.
        where: What is being read, for the error.

    Raises:
        InvalidInput: When there is no such field, or it can't be honoured.
    """
    known = Settings.__struct_fields__
    said: dict[str, Any] = {}
    for name, value in given.items():
        field = f"{where}.{name}"
        if name not in known:
            raise InvalidInput("there is no such setting", where=field, allowed=", ".join(known),
                               fix=did_you_mean(name, known))  # fmt: skip
        if isinstance(value, str) and name in _TIMES:
            value = parse_duration(value, where=field).total_seconds()  # noqa: PLW2901 - the same, as a number
        elif isinstance(value, str) and name == "cache":
            value = parse_size(value, where=field)  # noqa: PLW2901
        said[name] = value
    try:
        settings = msgspec.convert({**msgspec.structs.asdict(base), **said}, Settings)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), where=where) from error
    check_settings(settings, where)
    return settings
