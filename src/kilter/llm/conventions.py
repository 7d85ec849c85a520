"""What a span means, whichever instrumentation recorded it: its type, what went in and out, the model, the tokens.

Four dialects are understood beside MLflow's own: OpenTelemetry's conventions for generative AI (today's and those before), OpenInference,
Traceloop (OpenLLMetry) and Langfuse. The attributes themselves are kept as they were sent; what is found here stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from kilter.llm.records import UNKNOWN, Span
from kilter.llm.usage import CACHED, COSTS, TOKENS, dollars

INPUTS = "mlflow.spanInputs"
OUTPUTS = "mlflow.spanOutputs"
TYPE = "mlflow.spanType"
USAGE = "mlflow.chat.tokenUsage"
COST = "mlflow.llm.cost"
MODEL = "mlflow.llm.model"
PROVIDER = "mlflow.llm.provider"
REQUEST = "mlflow.traceRequestId"
TAG = "mlflow.traceTag."
SERVICE = "service.name"
_UNNAMED = "unknown_service"

_KINDS: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "openinference.span.kind",
        {
            name: name
            for name in (
                "TOOL",
                "CHAIN",
                "LLM",
                "RETRIEVER",
                "EMBEDDING",
                "AGENT",
                "RERANKER",
                "GUARDRAIL",
                "EVALUATOR",
            )
        },
    ),
    (
        "gen_ai.operation.name",
        {
            "chat": "CHAT_MODEL",
            "create_agent": "AGENT",
            "embeddings": "EMBEDDING",
            "execute_tool": "TOOL",
            "generate_content": "LLM",
            "invoke_agent": "AGENT",
            "invoke_workflow": "WORKFLOW",
            "response": "LLM",
            "retrieval": "RETRIEVER",
            "text_completion": "LLM",
        },
    ),
    ("traceloop.span.kind", {"workflow": "WORKFLOW", "task": "TASK", "agent": "AGENT", "tool": "TOOL"}),
    (
        "langfuse.observation.type",
        {
            "generation": "LLM",
            "embedding": "EMBEDDING",
            "tool": "TOOL",
            "retriever": "RETRIEVER",
            "agent": "AGENT",
            "chain": "CHAIN",
            "evaluator": "EVALUATOR",
            "guardrail": "GUARDRAIL",
        },
    ),
)
_INPUTS = (
    INPUTS,
    "input.value",
    "gen_ai.input.messages",
    "gen_ai.tool.call.arguments",
    "traceloop.entity.input",
    "gen_ai.prompt",
    "langfuse.observation.input",
)
_OUTPUTS = (
    OUTPUTS,
    "output.value",
    "gen_ai.output.messages",
    "gen_ai.tool.call.result",
    "traceloop.entity.output",
    "gen_ai.completion",
    "langfuse.observation.output",
)
_MODELS = (
    MODEL,
    "llm.response.model_name",
    "llm.model_name",
    "llm.request.model_name",
    "embedding.model_name",
    "gen_ai.response.model",
    "gen_ai.request.model",
    "langfuse.observation.model.name",
)
_PROVIDERS = (PROVIDER, "llm.provider", "gen_ai.provider.name", "gen_ai.system", "llm.system")
_SESSIONS = ("session.id", "gen_ai.conversation.id", "langfuse.session.id")
_USERS = ("user.id", "langfuse.user.id")
_COUNTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("llm.token_count.prompt",),
        ("llm.token_count.completion",),
        ("llm.token_count.total",),
        ("llm.token_count.prompt_details.cache_read",),
        ("llm.token_count.prompt_details.cache_write",),
    ),
    (
        ("gen_ai.usage.input_tokens",),
        ("gen_ai.usage.output_tokens",),
        ("gen_ai.usage.total_tokens",),
        ("gen_ai.usage.cache_read.input_tokens",),
        ("gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens"),
    ),
    (("gen_ai.usage.prompt_tokens",), ("gen_ai.usage.completion_tokens",), ("llm.usage.total_tokens",), (), ()),
)
"""Of each dialect: what goes in, comes out, both together, is read from a cache and written to one."""
_LANGFUSE = "langfuse.observation.usage_details"
_COUNTING = frozenset({_LANGFUSE, *(name for dialect in _COUNTS for names in dialect for name in names)})
_RAW = (
    ("input", "input_tokens", "prompt_tokens"),
    ("output", "output_tokens", "completion_tokens"),
    ("total", "total_tokens"),
)


class Meaning(NamedTuple):
    """What a span means."""

    type: str
    inputs: Any
    outputs: Any
    usage: dict[str, int]
    cost: dict[str, float]
    model: str | None
    provider: str | None


def meaning(attributes: Mapping[str, Any]) -> Meaning:
    """Return what the attributes of a span mean."""
    inputs, outputs = _first(attributes, _INPUTS), _first(attributes, _OUTPUTS)
    return Meaning(
        type=type_of(attributes),
        inputs=inputs,
        outputs=outputs,
        usage=_usage(attributes),
        cost=_cost(attributes),
        model=_word(_first(attributes, _MODELS)) or _model_within(inputs) or _model_within(outputs),
        provider=_word(_first(attributes, _PROVIDERS)),
    )


def type_of(attributes: Mapping[str, Any]) -> str:
    """Return the type of a span: ``LLM``, ``TOOL``; ``UNKNOWN`` when no dialect says it."""
    said = attributes.get(TYPE)
    if isinstance(said, str) and said and said != UNKNOWN:
        return said[:100]
    for name, types in _KINDS:
        kind = attributes.get(name)
        if isinstance(kind, str) and kind in types:
            return types[kind]
    return UNKNOWN


def session_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the conversation that a span is a part of."""
    return _word(_first(attributes, _SESSIONS), 250)


def user_of(attributes: Mapping[str, Any]) -> str | None:
    """Return whose request a span is a part of."""
    return _word(_first(attributes, _USERS), 250)


def completed(span: Span) -> dict[str, Any]:
    """Return a span's attributes with those beside them by which MLflow's clients and pages know what it means.

    A span of MLflow knows nothing of who recorded it: the root says the service's name, if somebody gave it one.
    """
    attributes, found = span.attributes, meaning(span.attributes)
    service = span.resource.get(SERVICE) if span.parent is None else None
    beside = {
        REQUEST: span.trace,
        TYPE: found.type,
        INPUTS: found.inputs,
        OUTPUTS: found.outputs,
        USAGE: found.usage or None,
        COST: found.cost or None,
        MODEL: found.model,
        PROVIDER: found.provider,
        SERVICE: None if str(service).startswith(_UNNAMED) else service,
    }
    whole = dict(attributes)
    for name, value in beside.items():
        if value is not None and (whole.get(name) is None or name in {REQUEST, TYPE}):
            whole[name] = value
    return whole


def decoded(value: Any) -> Any:
    """Return what a text spells in JSON, when it spells a list or an object; else the value itself."""
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return value
    return value


# ---------------------------------------------------------------- within


def _first(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value = attributes.get(name)
        if value is not None and value != "":
            return value
    return None


def _word(value: Any, most: int = 500) -> str | None:
    return value[:most] if isinstance(value, str) and value else None


def _model_within(value: Any) -> str | None:
    found = decoded(value) if isinstance(value, str) and '"model"' in value else value
    return _word(found.get("model")) if isinstance(found, dict) else None


def _count(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        return None
    return value


def _usage(attributes: Mapping[str, Any]) -> dict[str, int]:
    said = decoded(attributes.get(USAGE))
    if isinstance(said, dict):
        return _counted([said.get(name) for name in (*TOKENS, *CACHED)])
    if _COUNTING.isdisjoint(attributes):
        return {}
    for dialect in _COUNTS:
        found = _counted([_first(attributes, names) for names in dialect])
        if any(name in found for name in TOKENS):
            return found
    raw = decoded(attributes.get(_LANGFUSE))
    return _counted([_first(raw, names) for names in _RAW]) if isinstance(raw, dict) else {}


def _counted(values: list[Any]) -> dict[str, int]:
    found = {
        name: count
        for name, value in zip((*TOKENS, *CACHED), values, strict=False)
        if (count := _count(value)) is not None
    }
    if "total_tokens" not in found and "input_tokens" in found and "output_tokens" in found:
        found["total_tokens"] = found["input_tokens"] + found["output_tokens"]
    return found


def _cost(attributes: Mapping[str, Any]) -> dict[str, float]:
    said = decoded(attributes.get(COST))
    if not isinstance(said, dict):
        return {}
    return {name: cost for name in COSTS if (cost := dollars(said.get(name))) is not None}
