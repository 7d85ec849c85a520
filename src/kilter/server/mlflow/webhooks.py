"""Webhooks over MLflow's wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kilter.core.errors import NotFound
from kilter.registry.records import HookStatus, Webhook
from kilter.registry.service import ModelService
from kilter.server.mlflow.experiments import millis
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.problems import INVALID, MISSING, Refused

T = TypeVar("T")

_STATUS: dict[str, HookStatus] = {"ACTIVE": "ACTIVE", "DISABLED": "DISABLED"}
_MOST = 1_000
_SCHEMES = ("https", "http")


class Webhooks:
    """The calls about webhooks.

    Args:
        models: The registry's operations.
    """

    def __init__(self, models: ModelService) -> None:
        self._models = models

    def create(self, fields: Fields) -> dict[str, Any]:
        """``POST webhooks``."""
        name, url = fields.text("name", required=True), fields.text("url", required=True)
        _check_url(url)
        events = _events(fields)
        if not events:
            raise Refused(INVALID, "Missing value for required parameter 'events'.")
        made = self._models.create_webhook(
            name,
            url,
            events,
            fields.text("description"),
            fields.text("secret"),
            _status(fields) or "ACTIVE",
        )
        return {"webhook": shown(made)}

    def list(self, fields: Fields) -> dict[str, Any]:
        """``GET webhooks``."""
        limit = fields.integer("max_results", 100) or 100
        if not 1 <= limit <= _MOST:
            raise Refused(INVALID, f"max_results must be between 1 and {_MOST}.")
        page = self._models.webhooks(limit, fields.text("page_token") or None)
        answer: dict[str, Any] = {"webhooks": [shown(hook) for hook in page.webhooks]}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def get(self, _fields: Fields, hook: str) -> dict[str, Any]:
        """``GET webhooks/ID``."""
        return {"webhook": shown(_known(hook, lambda: self._models.webhook(hook)))}

    def update(self, fields: Fields, hook: str) -> dict[str, Any]:
        """``PATCH webhooks/ID``."""
        if fields.has("url"):
            _check_url(fields.text("url"))
        changed = _known(
            hook,
            lambda: self._models.change_webhook(
                hook,
                fields.text("name") or None,
                fields.text("url") or None,
                _events(fields) or None,
                fields.optional("description"),
                fields.optional("secret"),
                _status(fields),
            ),
        )
        return {"webhook": shown(changed)}

    def delete(self, _fields: Fields, hook: str) -> dict[str, Any]:
        """``DELETE webhooks/ID``."""
        _known(hook, lambda: self._models.delete_webhook(hook))
        return {}

    def test(self, fields: Fields, hook: str) -> dict[str, Any]:
        """``POST webhooks/ID/test``."""
        event = _event(fields.one("event")) if fields.has("event") else ""
        found = _known(hook, lambda: self._models.test_webhook(hook, event))
        result: dict[str, Any] = {"success": found.success}
        if found.status is not None:
            result |= {"response_status": found.status, "response_body": found.body}
        if found.error:
            result["error_message"] = f"Failed to test webhook: {found.error}"
        return {"result": result}


def shown(hook: Webhook) -> dict[str, Any]:
    """Return a webhook as MLflow shows it: without its secret."""
    pairs = (event.partition(".") for event in hook.events)
    found: dict[str, Any] = {
        "webhook_id": hook.id,
        "name": hook.name,
        "url": hook.url,
        "events": [{"entity": entity.upper(), "action": action.upper()} for entity, _, action in pairs],
        "status": hook.status,
        "creation_timestamp": millis(hook.created_at),
        "last_updated_timestamp": millis(hook.changed_at),
    }
    return {**found, "description": hook.description} if hook.description else found


def _check_url(url: str) -> None:
    """Refuse what is no URL in MLflow's words; whether it may be called is the registry's to say."""
    if not url.strip():
        raise Refused(INVALID, f"Webhook URL cannot be empty or just whitespace: {url[:100]!r}")
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise Refused(INVALID, f"Invalid webhook URL {url[:100]!r}: {error}") from None
    if scheme not in _SCHEMES:
        raise Refused(
            INVALID, f"Invalid webhook URL scheme: {scheme[:60]!r}. Allowed schemes are: {', '.join(_SCHEMES)}."
        )


def _events(fields: Fields) -> tuple[str, ...]:
    return tuple(_event(one) for one in fields.items("events"))


def _event(fields: Fields) -> str:
    entity, action = fields.text("entity", required=True), fields.text("action", required=True)
    return f"{entity.lower()}.{action.lower()}"


def _status(fields: Fields) -> HookStatus | None:
    said = fields.text("status")
    if said and said not in _STATUS:
        raise Refused(INVALID, f"Invalid value {said[:60]} for parameter 'status' supplied.")
    return _STATUS.get(said)


def _known(hook: str, act: Callable[[], T]) -> T:
    try:
        return act()
    except NotFound:
        raise Refused(MISSING, f"Webhook with ID {hook} not found.") from None
