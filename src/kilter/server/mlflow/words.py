"""MLflow's words for filters, orders and page tokens that can't be read: its clients and their tests know them."""

from __future__ import annotations

import re

from kilter.core.errors import InvalidInput
from kilter.server.mlflow.problems import INVALID, Refused

_ENTITIES = "['metric', 'parameter', 'tag', 'attribute', 'dataset']"
_ATTRIBUTES = "'artifact_uri', 'created', 'end_time', 'run_id', 'run_name', 'start_time', 'status', 'user_id'"
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"can't read the order (.*)"), "Invalid ordering key in order_by clause '{}'."),
    (
        re.compile(r"can't read the list (.*)"),
        "Expected a quoted string value for parameter (e.g. 'my-value'). Got value {}",
    ),
    (re.compile(r"there is no kind of field (.*)"), f"Invalid entity type '{{}}'. Valid values are {_ENTITIES}"),
    (
        re.compile(r"data are not compared with the value (.*)"),
        "Expected a quoted string value for dataset attributes. Got value {}",
    ),
    (
        re.compile(r"data are not compared with (.*)"),
        "Invalid comparator '{}' not one of '=, !=, LIKE, ILIKE, IN, NOT IN'",
    ),
    (
        re.compile(r"data have no field (.*)"),
        "Invalid dataset key '{}' specified. Valid keys are 'name', 'digest', 'context'",
    ),
    (re.compile(r"there is no field (.*)"), f"Invalid attribute key '{{}}' specified. Valid keys are {_ATTRIBUTES}"),
    (re.compile(r"can't read (.*)"), "Invalid clause(s) in filter string: '{}'"),
)
_COMPARED = re.compile(r"(\S+) (\S+) (.*)")


def in_mlflows_words(error: InvalidInput) -> Refused:
    """Return a refusal that says what an MLflow server would say, as far as it has words for it."""
    if error.where == "cursor":
        return Refused(INVALID, "Invalid page token, could not base64-decode")
    for pattern, words in _RULES:
        if found := pattern.fullmatch(error.message):
            what = found[1]
            return Refused(INVALID, words.format(what[1:-1] if what[0] == what[-1] and what[0] in "'\"" else what))
    if found := re.fullmatch(r"an experiment has no (\w+)", error.message):
        return Refused(
            INVALID, f"Invalid entity type '{found[1]}'. Valid entity types are ('attribute', 'tag', 'tags')"
        )
    compared = _COMPARED.fullmatch(error.message)
    if compared and error.allowed == "a number":
        return Refused(INVALID, f"Expected numeric value type for metric. Found '{compared[3]}'")
    if compared and "1970" in error.allowed:
        return Refused(
            INVALID, f"Expected numeric value type for numeric attribute: {compared[1]}. Found '{compared[3]}'"
        )
    return Refused(INVALID, f"Invalid {error.where}: {error}")
