"""Where a store of bytes lies: a folder on this machine, or a prefix in an S3 bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from obstore.store import S3Store

from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from obstore.store import S3Config

ALLOWED = 'a folder ("/data/objects", "file:///data/objects") or "s3://bucket/prefix?endpoint=URL&region=NAME"'
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_OPTIONS = {"endpoint": "endpoint", "region": "region"}


class Folder(msgspec.Struct, frozen=True, tag="folder"):
    """A folder on this machine."""

    path: Path

    @property
    def url(self) -> str:
        """The folder as a URL."""
        return self.path.as_uri()


class Bucket(msgspec.Struct, frozen=True, tag="s3"):
    """A prefix in a bucket that speaks S3.

    Args:
        name: The bucket.
        prefix: The path inside it, without slashes at the ends; may be empty.
        endpoint: The server, when it is not Amazon's.
        region: The region; ``us-east-1`` if not said.
    """

    name: str
    prefix: str
    endpoint: str = ""
    region: str = "us-east-1"

    @property
    def url(self) -> str:
        """The prefix as a URL, without the options."""
        return f"s3://{self.name}/{self.prefix}".rstrip("/")


def locate(url: str) -> Folder | Bucket:
    """Return the place that a URL names.

    Credentials are never part of a URL; they come from the environment (``AWS_ACCESS_KEY_ID``, ...).

    Args:
        url: A folder, a ``file:`` URL or an ``s3:`` URL.

    Raises:
        InvalidInput: When the URL names neither.
    """
    if "://" not in url:
        if not url:
            raise InvalidInput("an empty URL names no store", where="store", allowed=ALLOWED)
        return Folder(Path(url).absolute())
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise InvalidInput(f"{url!r} is not a local folder", where="store", allowed=ALLOWED)
        return Folder(Path(unquote(parts.path)).absolute())
    if parts.scheme != "s3":
        raise InvalidInput(f"{url!r} has an unknown scheme", where="store", allowed=ALLOWED)
    if parts.username or parts.password:
        raise InvalidInput(
            "an S3 URL with credentials in it ends up in logs",
            where="store",
            fix="put them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if not _BUCKET.match(parts.netloc):
        raise InvalidInput(f"{parts.netloc!r} is not a bucket name", where=url, allowed="3 to 63 of a-z, 0-9, '-', '.'")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise InvalidInput(f"unknown option {unknown[0]!r}", where=parts.netloc, allowed=", ".join(_OPTIONS))
    prefix = "/".join(part for part in unquote(parts.path).split("/") if part)
    if ".." in prefix.split("/"):
        raise InvalidInput(f"{prefix!r} climbs out of its prefix", where=parts.netloc, allowed=ALLOWED)
    return Bucket(parts.netloc, prefix, options.get("endpoint", ""), options.get("region", "us-east-1"))


def s3_store(place: Bucket) -> S3Store:
    """Return the store of obstore for a prefix in a bucket."""
    config: S3Config = {"region": place.region}
    if place.endpoint:
        config["endpoint"] = place.endpoint
    return S3Store(
        place.name,
        prefix=place.prefix or None,
        config=config,
        client_options={"allow_http": place.endpoint.startswith("http://"), "connect_timeout": "5s", "timeout": "60s"},
        retry_config={"max_retries": 3},
    )
