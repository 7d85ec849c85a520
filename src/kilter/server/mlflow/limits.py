"""MLflow's rules for names and sizes, with its own words (mlflow/utils/validation.py of 3.18): clients compare them."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from typing import Any

from kilter.server.mlflow.problems import INVALID, Refused

KEY = 250
PARAM = 6000
TAG = 8000
EXPERIMENT_TAG = 20_000
EXPERIMENT_NAME = 500
BATCH = {"metrics": 1000, "params": 100, "tags": 100}
ENTITIES = 1000
RUNS = 50_000
DATASET = {"name": 500, "digest": 36, "source": 65_535, "schema": 1_048_575, "profile": 16_777_215}

_NAME = re.compile(r"^[/\w.\- :]*$")
_CHARACTERS = "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/)."


def check_key(name: str, path: str, what: str) -> None:
    """Refuse what can't be the name of a metric, a param or a tag.

    Args:
        name: The name.
        path: Where it stands in the request.
        what: What MLflow calls it: ``Metric name``, ``Param key`` or ``key``.
    """
    if not _NAME.match(name):
        raise Refused(INVALID, _invalid(path, name, _CHARACTERS))
    normal = posixpath.normpath(name)
    if normal != name or normal == "." or normal.startswith(("..", "/")):
        raise Refused(
            INVALID,
            _invalid(
                path,
                name,
                "Names may be treated as files in certain cases, and must not resolve to other names"
                f" when treated as such. This name would resolve to {normal!r}",
            ),
        )
    check_length(name, what, KEY)


def check_length(value: str, what: str, limit: int) -> None:
    """Refuse a text that is too long."""
    if len(value) > limit:
        raise Refused(INVALID, f"'{what}' exceeds the maximum length of {limit} characters")


def check_time(key: str, value: float, timestamp: int, path: str) -> None:
    """Refuse a time before 1970."""
    if timestamp < 0:
        reason = f"metric '{key}' (value={value}). Timestamp must be a nonnegative long (64-bit integer) "
        raise Refused(INVALID, _invalid(path, timestamp, reason))


def check_batch(counts: dict[str, int]) -> None:
    """Refuse a batch that is too large."""
    for name, count in (*counts.items(), ("metrics, params, and tags", sum(counts.values()))):
        limit = BATCH.get(name, ENTITIES)
        if count > limit:
            raise Refused(
                INVALID,
                f"A batch logging request can contain at most {limit} {name}. Got {count} {name}. "
                f"Please split up {name} across multiple requests and try again.",
            )


def check_unique(keys: Sequence[str]) -> None:
    """Refuse a batch that gives one parameter twice."""
    if len(set(keys)) < len(keys):
        twice = [key for place, key in enumerate(keys) if key in keys[:place]]
        raise Refused(
            INVALID,
            f"Duplicate parameter keys have been submitted: {twice}. Please ensure the request contains only one param "
            "value per param key.",
        )


def _invalid(path: str, value: Any, reason: str) -> str:
    return f"Invalid value {json.dumps(value, sort_keys=True, separators=(',', ':'))} for parameter '{path}' supplied: {reason}"
