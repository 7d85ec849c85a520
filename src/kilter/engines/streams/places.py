"""Which stream an address names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.streams.port import Sink, Source

ALLOWED = "log:NAME, kafka://host:port/topic, nats://host:port/subject or redis://host:port/stream"
_PACKAGES = {"kafka": "confluent_kafka", "nats": "nats", "redis": "redis"}


class Place(NamedTuple):
    """A stream's address, read.

    Args:
        scheme: ``log``, ``kafka``, ``nats`` or ``redis``.
        servers: ``host:port``, several joined by commas; empty for a log.
        name: The log, topic, subject or stream.
        options: What stands behind the question mark.
    """

    scheme: str
    servers: str
    name: str
    options: dict[str, str]

    def sibling(self, ending: str) -> Place:
        """Return the stream beside this one whose name ends so."""
        return self._replace(name=self.name + ending)


def place_of(url: str, where: str) -> Place:
    """Read a stream's address.

    Args:
        url: The address.
        where: The option that gave it, for errors.

    Raises:
        InvalidInput: When it names no stream, or has credentials in it.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "log" and rest and not rest.startswith("//"):
        return Place("log", "", rest, {})
    parts = urlsplit(url)
    if parts.scheme not in _PACKAGES or not parts.netloc or not parts.path.strip("/"):
        raise InvalidInput(f"{parts.scheme or url[:40]!r} names no stream", where=where, allowed=ALLOWED)
    if "@" in parts.netloc:
        raise InvalidInput(
            "an address with credentials ends up in logs", where=where, fix="see ?config= or the environment"
        )
    return Place(
        parts.scheme, parts.netloc, parts.path.strip("/"), dict(parse_qsl(parts.query, keep_blank_values=True))
    )


def open_source(place: Place, group: str, mark: Callable[[], str], folder: Path) -> Source:
    """Open a stream to read.

    Args:
        place: The stream.
        group: Who reads; each group reads every message.
        mark: Says how far the written streams are.
        folder: The folder of the workspace's own streams.

    Raises:
        InvalidInput: When an option is none of the engine's.
        Unavailable: When the engine's package is not installed, or the broker doesn't answer.
        Conflict: When another process reads for the group.
    """
    _check_package(place.scheme)
    match place.scheme:
        case "kafka":
            from kilter.engines.streams import kafka  # noqa: PLC0415 - an extra

            _check_options(place, kafka.OPTIONS)
            return kafka.KafkaSource(place.servers, place.name, group, mark, place.options)
        case "nats":
            from kilter.engines.streams import jetstream  # noqa: PLC0415 - an extra

            _check_options(place, jetstream.OPTIONS)
            return jetstream.JetStreamSource(place.servers, place.name, group, mark, place.options)
        case "redis":
            from kilter.engines.streams import redis_streams  # noqa: PLC0415 - an extra

            _check_options(place, redis_streams.OPTIONS)
            return redis_streams.RedisSource(place.servers, place.name, group, mark, place.options)
        case _:
            from kilter.engines.streams.local import LogSource  # noqa: PLC0415 - as its neighbours

            return LogSource(folder, place.name, group, mark)


def open_sink(place: Place, folder: Path) -> Sink:
    """Open a stream to write.

    Args:
        place: The stream.
        folder: The folder of the workspace's own streams.

    Raises:
        InvalidInput: When an option is none of the engine's.
        Unavailable: When the engine's package is not installed, or the broker doesn't answer.
        Conflict: When another process writes the log.
    """
    _check_package(place.scheme)
    match place.scheme:
        case "kafka":
            from kilter.engines.streams import kafka  # noqa: PLC0415 - an extra

            _check_options(place, ("config",))
            return kafka.KafkaSink(place.servers, place.name, place.options)
        case "nats":
            from kilter.engines.streams import jetstream  # noqa: PLC0415 - an extra

            _check_options(place, ("stream", "credentials"))
            return jetstream.JetStreamSink(place.servers, place.name, place.options)
        case "redis":
            from kilter.engines.streams import redis_streams  # noqa: PLC0415 - an extra

            _check_options(place, ("db", "password"))
            return redis_streams.RedisSink(place.servers, place.name, place.options)
        case _:
            from kilter.engines.streams.local import LogSink  # noqa: PLC0415 - as its neighbours

            return LogSink(folder, place.name)


def _check_package(scheme: str) -> None:
    package = _PACKAGES.get(scheme)
    if package is not None and find_spec(package) is None:
        raise Unavailable(
            f"the package for {scheme} is not installed", where=scheme, fix=f"pip install kilter[{scheme}]"
        )


def _check_options(place: Place, allowed: Iterable[str]) -> None:
    unknown = sorted(set(place.options) - set(allowed))
    if unknown:
        raise InvalidInput(
            f"{place.scheme} has no option {unknown[0]!r}", where=place.name, allowed=", ".join(allowed) or "none"
        )
