"""Places outside this store that a version may name: kept as they are said, given back, and never read here.

What is allowed is a list, not a rule: object stores and file systems that teams keep their models in. Nothing of this server
connects to them, so the check is for those who will: a reference must not carry a secret, must not be read otherwise by another
parser, and must not lead a client that holds Azure's credentials to a host which isn't Azure's.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from kilter.core.errors import InvalidInput

ALLOWED = (
    "s3://BUCKET/PATH, gs://BUCKET/PATH, wasbs://CONTAINER@ACCOUNT.blob.core.windows.net/PATH, "
    "abfss://FILESYSTEM@ACCOUNT.dfs.core.windows.net/PATH, hdfs://HOST:PORT/PATH, dbfs:/PATH"
)
FIX = (
    "download them (mlflow artifacts download -u URI -d FOLDER) and `kilter deploy FOLDER`, or log that folder to a run of this "
    "server and register runs:/RUN/PATH"
)

_ROUNDS = 8
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}\Z")
_AZURE = r"(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)\Z"
_AUTHORITIES: dict[str, re.Pattern[str]] = {
    "s3": _BUCKET,
    "gs": _BUCKET,
    "wasbs": re.compile(rf"[a-z0-9$-]{{1,63}}@[a-z0-9]{{3,24}}\.blob\.core\.{_AZURE}"),
    "abfss": re.compile(
        rf"[A-Za-z0-9$_.-]{{1,63}}@(?:[a-z0-9]{{3,24}}\.dfs\.core\.{_AZURE}|onelake\.dfs\.fabric\.microsoft\.com\Z)"
    ),
    "hdfs": re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,254}(?::\d{1,5})?)?\Z"),
    "dbfs": re.compile(r"\Z"),
}
"""What may stand between ``//`` and the path, by scheme; no colon before an ``@``, so no password."""
_NAMELESS = frozenset({"hdfs", "dbfs"})
"""They may stand without an authority: the client's own cluster is meant."""


def lies_elsewhere(place: str) -> bool:
    """Say whether a version's files are outside this store, by the scheme of where they are."""
    return place.partition(":")[0].lower() in _AUTHORITIES and ":" in place


def check_elsewhere(place: str, where: str = "source") -> str:
    """Return a place outside this store that a version may name.

    Raises:
        InvalidInput: When it is none, climbs, carries a secret, a query or a fragment, or has characters that don't print.
    """
    plain = _unquoted(place)
    try:
        parts = urlsplit(place)
    except ValueError:
        raise _none(place, where) from None
    authority = _AUTHORITIES.get(parts.scheme)
    if (
        authority is None
        or plain is None
        or not (place.isprintable() and plain.isprintable())
        or set("?#") & set(place)
        or "\\" in plain
        or {".", ".."} & set(plain.split("/"))
        or not authority.match(parts.netloc)
        or not (parts.netloc or parts.scheme in _NAMELESS)
        or not (parts.path.startswith("/") and parts.path.strip("/"))
    ):
        raise _none(place, where)
    return place


def _none(place: str, where: str) -> InvalidInput:
    return InvalidInput(f"{place[:100]!r} is no place outside this store that a version may name", where=where,
                        allowed=ALLOWED, fix="give an absolute place without a query, a fragment, a password or '..'")  # fmt: skip


def _unquoted(text: str) -> str | None:
    """Return a text with its quoting undone, however often it was quoted; None of one that was quoted too often."""
    for _ in range(_ROUNDS):
        plain = unquote(text)
        if plain == text:
            return text
        text = plain
    return None


def refuse_reading(reference: str, place: str) -> InvalidInput:
    """Return what is said when somebody wants the bytes of a version whose files aren't here.

    Args:
        reference: The version, as people write it.
        place: Where its files are.
    """
    return InvalidInput(
        f"the files of {reference} lie elsewhere: {place[:300]!r} is kept as a reference, and this server doesn't read it",
        where="models",
        fix=FIX,
    )
