"""Signing in through an identity provider: the authorization code flow with PKCE.

Sources: OpenID Connect Core 1.0 (sections 3.1 and 3.1.3.7), OpenID Connect Discovery 1.0, RFC 7636 (PKCE), RFC 9700 (security of
OAuth 2.0). PyJWT checks signatures; the provider is spoken to by the standard library, over TLS except on this machine.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from kilter.core.access import is_loopback
from kilter.core.errors import Forbidden, InvalidInput, Unavailable
from kilter.operations.table import ROLES, Role

LOGIN_SECONDS = 600.0
_MOST_LOGINS = 10_000
_KEPT_SECONDS = 3600.0
_TIMEOUT = 10.0
_LARGEST = 1 << 20
_SIGNED = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key; a provider's word signed with our own secret, or with nothing, counts for nothing."""


@dataclass(frozen=True)
class Settings:
    """Which provider, and what its word is worth.

    Args:
        issuer: The provider's address, as it names itself.
        client: Our name at the provider.
        secret: Our secret there; empty for a public client.
        first: The role of somebody who signs in for the first time; None lets in only who was added before.
        groups: The role that each of the provider's groups gives; it is given anew whenever somebody signs in.
        claim: The claim that has the groups.
        scopes: What is asked for.
    """

    issuer: str
    client: str
    secret: str = field(default="", repr=False)
    first: Role | None = "viewer"
    groups: Mapping[str, Role] = field(default_factory=dict)
    claim: str = "groups"
    scopes: str = "openid email profile"


@dataclass(frozen=True)
class Vouched:
    """What a provider says about somebody.

    Args:
        subject: Its issuer and its subject.
        names: What they may be called, the best first.
        email: Their address, if the provider has verified it, else empty.
        groups: Their groups.
    """

    subject: str
    names: tuple[str, ...]
    email: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class _Login:
    """A login that is under way."""

    nonce: str
    verifier: str
    back: str
    until: float


def settings_from(environment: Mapping[str, str] = os.environ) -> Settings | None:
    """Return the provider that the environment names, or None when it names none.

    ``KILTER_OIDC_ISSUER`` and ``KILTER_OIDC_CLIENT_ID`` are needed; ``KILTER_OIDC_CLIENT_SECRET``, ``KILTER_OIDC_ROLE`` (a role,
    or ``none``), ``KILTER_OIDC_GROUPS`` (``ml-admins=admin,ml=editor``), ``KILTER_OIDC_GROUPS_CLAIM`` and
    ``KILTER_OIDC_SCOPES`` may be there.

    Raises:
        InvalidInput: When one of them can't be used.
    """
    issuer, client = environment.get("KILTER_OIDC_ISSUER", ""), environment.get("KILTER_OIDC_CLIENT_ID", "")
    if not issuer:
        return None
    check_address(issuer, "KILTER_OIDC_ISSUER")
    if not client:
        raise InvalidInput("the provider is named, and our name there is not", where="KILTER_OIDC_CLIENT_ID")
    first = environment.get("KILTER_OIDC_ROLE", "viewer")
    pairs = [pair.partition("=") for pair in environment.get("KILTER_OIDC_GROUPS", "").split(",") if pair.strip()]
    return Settings(
        issuer=issuer,
        client=client,
        secret=environment.get("KILTER_OIDC_CLIENT_SECRET", ""),
        first=None if first == "none" else _role(first, "KILTER_OIDC_ROLE"),
        groups={name.strip(): _role(role.strip(), "KILTER_OIDC_GROUPS") for name, _, role in pairs},
        claim=environment.get("KILTER_OIDC_GROUPS_CLAIM", "groups"),
        scopes=environment.get("KILTER_OIDC_SCOPES", "openid email profile"),
    )


def check_address(address: str, where: str) -> None:
    """Refuse an address over which secrets would travel in the clear.

    Raises:
        InvalidInput: When it is neither https, nor on this machine.
    """
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and is_loopback(parts.hostname):
        return
    raise InvalidInput(f"{address[:200]!r}", where=where, allowed="an https:// address")


class Provider:
    """An identity provider.

    Args:
        settings: Which one.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._logins: dict[str, _Login] = {}
        self._lock = threading.Lock()
        self._found: tuple[float, dict[str, Any]] | None = None

    def start(self, back: str) -> tuple[str, str]:
        """Return where to send somebody who wants to sign in, and the state of the login, to be bound to the browser.

        Args:
            back: Our address that the provider sends them back to.

        Raises:
            Unavailable: When the provider can't be reached, or too many logins are under way.
        """
        about = self._about()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        now = time.monotonic()
        with self._lock:
            self._logins = {one: login for one, login in self._logins.items() if login.until > now}
            if len(self._logins) >= _MOST_LOGINS:
                raise Unavailable("too many logins are under way", where="login", fix="try again in some minutes")
            self._logins[state] = _Login(nonce, verifier, back, now + LOGIN_SECONDS)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.settings.client,
            "redirect_uri": back,
            "scope": self.settings.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        place = about["authorization_endpoint"]
        return f"{place}{'&' if '?' in place else '?'}{urlencode(asked)}", state

    def finish(self, state: str, bound: str, code: str) -> Vouched:
        """Return whom the provider has sent back.

        Args:
            state: The state in the address.
            bound: The state that the browser was given when it set out.
            code: The code in the address.

        Raises:
            Forbidden: When this browser didn't set out, the login is too old, or the provider's word can't be believed.
            Unavailable: When the provider can't be reached.
        """
        with self._lock:
            login = self._logins.pop(state, None)
        if login is None or login.until < time.monotonic() or not secrets.compare_digest(state, bound):
            raise Forbidden("this login was not begun here, or too long ago", where="login", fix="sign in again")
        about = self._about()
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": login.back,
            "client_id": self.settings.client,
            "code_verifier": login.verifier,
        }
        headers = {"content-type": "application/x-www-form-urlencoded"}
        if self.settings.secret:
            pair = f"{self.settings.client}:{self.settings.secret}".encode()
            headers["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        answer = _fetch(about["token_endpoint"], urlencode(asked).encode(), headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise Forbidden("the identity provider gave no id token", where="login")
        claims = self._believed(token, login.nonce, about)
        more = about.get("userinfo_endpoint")
        if more and "email" not in claims and isinstance(answer.get("access_token"), str):
            check_address(str(more), "the provider's userinfo_endpoint")
            found = _fetch(str(more), headers={"authorization": f"Bearer {answer['access_token']}"})
            if found.get("sub") != claims["sub"]:  # OpenID Connect Core, 5.3.2: else it is about somebody else
                raise Forbidden("the identity provider speaks of two persons", where="login")
            claims = {**found, **claims}
        return self._vouched(claims, about)

    def _believed(self, token: str, nonce: str, about: Mapping[str, Any]) -> dict[str, Any]:
        import jwt  # noqa: PLC0415 - an extra, and only who signs in needs it

        try:
            key = _key(
                jwt.PyJWKSet.from_dict(_fetch(about["jwks_uri"])).keys, jwt.get_unverified_header(token).get("kid")
            )
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(_SIGNED),
                audience=self.settings.client,
                issuer=about["issuer"],
                leeway=30,
                options={"require": ["exp", "iat", "aud", "iss", "sub", "nonce"]},
            )
        except jwt.PyJWTError as error:
            raise Forbidden(f"the identity provider's word can't be believed: {error}", where="login") from error
        if not secrets.compare_digest(str(claims["nonce"]), nonce):
            raise Forbidden("the identity provider's word is about another login", where="login", fix="sign in again")
        if claims.get("azp", self.settings.client) != self.settings.client:
            raise Forbidden("the identity provider's word is meant for somebody else", where="login")
        return claims

    def _vouched(self, claims: Mapping[str, Any], about: Mapping[str, Any]) -> Vouched:
        email = str(claims.get("email", "")).strip().lower() if claims.get("email_verified") is True else ""
        groups = claims.get(self.settings.claim, ())
        names = (email, str(claims.get("preferred_username", "")), str(claims.get("email", "")), str(claims["sub"]))
        return Vouched(
            subject=f"{about['issuer']} {claims['sub']}"[:600],
            names=tuple(name for name in names if name),
            email=email,
            groups=tuple(str(one) for one in groups) if isinstance(groups, (list, tuple)) else (str(groups),),
        )

    def _about(self) -> dict[str, Any]:
        """Return what the provider says about itself, at most an hour old."""
        kept = self._found
        if kept is not None and time.monotonic() - kept[0] < _KEPT_SECONDS:
            return kept[1]
        about = _fetch(f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if str(about.get("issuer", "")).rstrip("/") != self.settings.issuer.rstrip("/"):
            raise Forbidden("the identity provider calls itself otherwise", where="KILTER_OIDC_ISSUER")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            check_address(str(about.get(name, "")), f"the provider's {name}")
        self._found = (time.monotonic(), about)
        return about


def _key(keys: Sequence[Any], name: object) -> Any:
    """Return the key that a word names; a provider with one key need not name it (OpenID Connect Core, 10.1).

    Raises:
        Forbidden: When there is none.
    """
    found = [key for key in keys if name is None or key.key_id == name]
    if len(found) != 1:
        raise Forbidden("the identity provider has not the key that its word names", where="login")
    return found[0]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A code and a secret are sent to the address that was named, and to no other."""

    def redirect_request(self, *_given: Any) -> None:
        return None


def _fetch(address: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    asked = urllib.request.Request(address, data=body, headers={"accept": "application/json", **(headers or {})})  # noqa: S310 - checked
    try:
        with urllib.request.build_opener(_NoRedirects).open(asked, timeout=_TIMEOUT) as answer:
            found = msgspec.json.decode(answer.read(_LARGEST))
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(2000).decode("utf-8", "replace")
        raise Forbidden(f"the identity provider answered {error.code}: {said[:200]}", where="login") from error
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise Unavailable("the identity provider can't be reached", where="login", fix="try again") from error
    if not isinstance(found, dict):
        raise Unavailable("the identity provider can't be understood", where="login")
    return found


def _role(text: str, where: str) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise InvalidInput(f"{text[:40]!r} is no role", where=where, allowed=", ".join(ROLES))
