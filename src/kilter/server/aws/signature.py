"""Signature Version 4: who signed a request, without the secret in it.

The secret access key of the client is a token of this server; the access key id may be anything.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

from kilter.operations.table import ROLES, Role

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/,\s]+)/(?P<scope>\d{8}/[\w-]+/[\w-]+/aws4_request), ?"
    r"SignedHeaders=(?P<signed>[\w;-]+), ?Signature=(?P<signature>[0-9a-f]{64})\Z"
)
_SKEW = timedelta(minutes=15)
_NEEDED = frozenset({"host", "x-amz-date", "x-amz-target"})


def role_of(
    tokens: Mapping[Role, str],
    method: str,
    path: str,
    query: bytes,
    headers: Mapping[bytes, str],
    body: bytes,
    now: datetime | None = None,
) -> Role | None:
    """Return the role of the token that a request is signed with; None when it is signed with none of them.

    Args:
        tokens: The server's tokens by role.
        method: The request's method.
        path: Its path.
        query: Its query.
        headers: Its headers, each name once.
        body: Its whole body.
        now: The time; the machine's, if not said.
    """
    found = _HEADER.match(headers.get(b"authorization", ""))
    if found is None:
        return None
    signed, moment = found["signed"].split(";"), headers.get(b"x-amz-date", "")
    if not _NEEDED.issubset(signed) or not _recent(moment, now or datetime.now(UTC)):
        return None
    if not found["scope"].startswith(moment[:8]):
        return None
    lines = [f"{name}:{' '.join(headers.get(name.encode(), '').split())}\n" for name in signed]
    canonical = "\n".join(
        (
            method,
            quote(path, safe="/-_.~"),
            _query(query),
            "".join(lines),
            found["signed"],
            hashlib.sha256(body).hexdigest(),
        )
    )
    text = f"AWS4-HMAC-SHA256\n{moment}\n{found['scope']}\n{hashlib.sha256(canonical.encode('latin-1', 'replace')).hexdigest()}"
    matching: list[Role] = [
        role
        for role, token in tokens.items()
        if hmac.compare_digest(_signature(token, found["scope"], text), found["signature"])
    ]
    return max(matching, key=ROLES.index, default=None)


def _signature(secret: str, scope: str, text: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _recent(moment: str, now: datetime) -> bool:
    try:
        at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return abs(now - at) <= _SKEW


def _query(query: bytes) -> str:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(pairs))
