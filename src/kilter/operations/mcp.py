"""Reads as tools of the Model Context Protocol; the one module that knows the package ``mcp``.

Only operations that change nothing and that a viewer may call are offered: an agent can look, and can do nothing else.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

import msgspec
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent, Tool

from kilter.core.errors import KilterError, NotFound
from kilter.operations.arguments import did_you_mean
from kilter.operations.table import Operation, Registry

_LONGEST = 200_000
_INSTRUCTIONS = (
    "Kilter keeps models in kilter: each loop trains, proves, releases and watches one model. "
    "Start with loops_list; loops_why tells the evidence behind a version; journal_events tells what happened. "
    "All tools only read."
)

_Context = ServerRequestContext[Any]


def readable(registry: Registry) -> list[Operation]:
    """Return the operations that are offered as tools."""
    return [found for found in registry if found.plain]


def tool_name(operation: Operation) -> str:
    """Return the tool's name: ``runs_list``."""
    return f"{operation.noun}_{operation.verb}"


def server(registry: Registry) -> Server[Any]:
    """Return an MCP server over the reads of a table of operations."""
    operations = {tool_name(found): found for found in readable(registry)}
    tools = [
        Tool(name=name, description=found.doc or found.summary, input_schema=_schema(found))
        for name, found in operations.items()
    ]

    async def list_tools(_context: _Context, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    async def call_tool(_context: _Context, params: CallToolRequestParams) -> CallToolResult:
        found = operations.get(params.name)
        try:
            if found is None:
                near = did_you_mean(params.name, operations)
                raise NotFound("there is no such tool", where="tool", fix=near or "list the tools")
            text = await asyncio.to_thread(_call, found, params.arguments or {})
        except KilterError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        return CallToolResult(content=[TextContent(type="text", text=text)])

    return Server(
        "kilter",
        version=version("kilter"),
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve_stdio(registry: Registry) -> None:
    """Serve one client over standard input and output until it goes away."""
    made = server(registry)

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await made.run(reading, writing, made.create_initialization_options())

    asyncio.run(serve())


def _call(operation: Operation, arguments: dict[str, object]) -> str:
    text = msgspec.json.encode(operation.call(arguments)).decode()
    if len(text) > _LONGEST:
        raise KilterError(
            f"the result is too long ({len(text):,} characters)",
            where=operation.name,
            fix="ask for less: a smaller limit",
        )
    return text


def _schema(operation: Operation) -> dict[str, Any]:
    """Return the arguments' JSON schema with the object itself on top, as the protocol wants it."""
    whole = msgspec.json.schema(operation.request)
    definitions: dict[str, Any] = whole.get("$defs", {})
    name = str(whole.get("$ref", "")).rpartition("/")[2]
    top = dict(definitions.pop(name, {"type": "object"}))
    return {**top, "$defs": definitions} if definitions else top
