"""The beginning of what was asked and answered, as a list of traces shows it."""

from __future__ import annotations

from typing import Any

import msgspec

from kilter.llm.conventions import decoded

LONGEST = 1000


def preview(value: Any, role: str) -> str | None:
    """Return the text of the last message of a role, or the value itself as JSON; at most 1000 characters.

    Args:
        value: What went in or came out.
        role: ``user`` or ``assistant``.
    """
    if value is None:
        return None
    # A text within quotes, as MLflow's clients write it of the traces that they send: one list shows both.
    found = decoded(value)
    text = _message(found, role) or (value if found is not value else msgspec.json.encode(value).decode())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _message(value: Any, role: str) -> str:
    messages = [one for one in _messages(value) if isinstance(one, dict) and isinstance(one.get("role"), str)]
    last = next((one for one in reversed(messages) if one["role"] == role), messages[-1] if messages else None)
    return "" if last is None else _text(last.get("content", last.get("parts")))


def _messages(value: Any) -> list[Any]:
    """Return the messages of a chat's request or answer, in the forms of OpenAI's and OpenTelemetry's."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return []
    for name in ("messages", "input", "output"):
        if isinstance(value.get(name), list):
            return list(value[name])
    choices = value.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return [choices[0].get("message")]
    request = value.get("request")
    return _messages(request) if isinstance(request, dict) and "request" not in request else []


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    for part in content:
        if isinstance(part, dict):
            text = part.get("text", part.get("content"))
            if isinstance(text, str):
                return text
    return ""
