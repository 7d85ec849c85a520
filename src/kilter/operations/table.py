"""Operations written once: a marked method is the API, and the rest is derived from its signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, overload

import msgspec

from kilter.core.errors import NotFound
from kilter.operations.arguments import did_you_mean, read_arguments

P = ParamSpec("P")
R = TypeVar("R")

Role = Literal["viewer", "editor", "approver", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "editor", "approver", "admin")

_MARK = "__kilter_operation__"


@dataclass(frozen=True)
class Mark:
    """What ``@operation`` writes on a function."""

    writes: bool
    role: Role
    key: str = ""
    repeatable: bool = False


@overload
def operation(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def operation(
    *, writes: bool = False, role: Role | None = None, key: str = "", repeatable: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def operation(
    function: Callable[P, R] | None = None,
    /,
    *,
    writes: bool = False,
    role: Role | None = None,
    key: str = "",
    repeatable: bool = False,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a service's method as an operation; the function itself stays as it is.

    Args:
        function: The method, when the decorator is written without brackets.
        writes: The operation changes something: HTTP POST only, an idempotency key is honoured, and MCP doesn't offer it.
        role: The least role that may call it; ``viewer`` for reads and ``editor`` for writes unless given.
        key: The argument that carries the caller's idempotency key, of an operation that remembers its keys itself.
        repeatable: Doing it twice leaves what doing it once leaves, so an attempt that was cut off is simply run again.
    """
    mark = Mark(writes=writes, role=role or ("editor" if writes else "viewer"), key=key, repeatable=repeatable)

    def stamp(marked: Callable[P, R]) -> Callable[P, R]:
        setattr(marked, _MARK, mark)
        return marked

    return stamp if function is None else stamp(function)


@dataclass(frozen=True)
class Operation:
    """One operation, as every face sees it.

    Args:
        noun: The service's name in paths: ``runs``.
        verb: The method's name: ``list``.
        function: The method, bound to its service when the service was given as an object.
        writes: It changes something.
        role: The least role that may call it.
        summary: The first line of the docstring.
        doc: The whole docstring.
        request: A Struct made from the signature; unknown fields are refused.
        result: The annotated result type.
        key: The argument that carries the caller's idempotency key, of an operation that remembers its keys itself.
        repeatable: Doing it twice leaves what doing it once leaves.
    """

    noun: str
    verb: str
    function: Callable[..., Any]
    writes: bool
    role: Role
    summary: str
    doc: str
    request: type[msgspec.Struct]
    result: Any
    key: str = ""
    repeatable: bool = False

    @property
    def name(self) -> str:
        """The operation's name: ``runs.list``."""
        return f"{self.noun}.{self.verb}"

    @property
    def path(self) -> str:
        """The path of its route: ``/api/v1/runs/list``."""
        return f"/api/v1/{self.noun}/{self.verb}"

    @property
    def plain(self) -> bool:
        """Whether it only reads, for anyone: such an operation may be a ``GET`` and a tool of an agent."""
        return not self.writes and self.role == "viewer"

    def call(self, arguments: Mapping[str, object], *, text: bool = False) -> Any:
        """Check the arguments and call the function.

        Args:
            arguments: Plain JSON values by name.
            text: The values are strings (of a query string) and are read leniently.

        Raises:
            InvalidInput: When an argument is unknown, missing or of the wrong type.
        """
        return self.invoke(read_arguments(self.request, arguments, text=text))

    def invoke(self, request: msgspec.Struct) -> Any:
        """Call the function with arguments that were checked already."""
        return self.function(**{field: getattr(request, field) for field in self.request.__struct_fields__})


class Registry:
    """All operations, by noun and verb.

    Args:
        operations: The operations, in the order in which documents list them.
    """

    def __init__(self, operations: tuple[Operation, ...]) -> None:
        self._by_name = {found.name: found for found in operations}

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, noun: str, verb: str) -> Operation:
        """Return an operation.

        Raises:
            NotFound: When there is none of that name.
        """
        found = self._by_name.get(f"{noun}.{verb}")
        if found is None:
            near = did_you_mean(f"{noun}.{verb}", self._by_name)
            raise NotFound("no such operation", where="operation", fix=near or "see /openapi.json for all operations")
        return found

    def call(self, noun: str, verb: str, arguments: Mapping[str, object]) -> Any:
        """Check the arguments and call the operation ``noun.verb``."""
        return self.find(noun, verb).call(arguments)


def collect(services: Mapping[str, object]) -> Registry:
    """Return the operations of services by noun.

    Args:
        services: Noun to a service: an object (its operations can be called) or a class (they can only be described).

    Raises:
        TypeError: When a marked method's signature can't be an operation; this is a mistake in Kilter, not of its user.
    """
    return Registry(
        tuple(_describe(noun, verb, method) for noun, service in services.items() for verb, method in _marked(service))
    )


def _marked(service: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    owner = service if isinstance(service, type) else type(service)
    names = {name: None for kind in reversed(owner.__mro__) for name in vars(kind)}
    for name in names:
        if not name.startswith("_") and hasattr(getattr(owner, name), _MARK):
            yield name, getattr(service, name)


def _describe(noun: str, verb: str, method: Callable[..., Any]) -> Operation:
    mark: Mark = getattr(method, _MARK)
    hints = typing.get_type_hints(method, include_extras=True)
    parameters = list(inspect.signature(method).parameters.values())
    if not inspect.ismethod(method):
        parameters = parameters[1:]  # the method of a class, not of an object: the first one is ``self``
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in parameters:
        where = f"{noun}.{verb}({parameter.name})"
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"{where}: an operation's arguments are named ones")
        if parameter.name not in hints:
            raise TypeError(f"{where}: an operation's arguments are annotated")
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hints[parameter.name]))
        else:
            fields.append((parameter.name, hints[parameter.name], parameter.default))
    if "return" not in hints:
        raise TypeError(f"{noun}.{verb}: an operation's result is annotated")
    doc = inspect.getdoc(method) or ""
    request = msgspec.defstruct(
        f"{noun.title()}{verb.title().replace('_', '')}", fields, kw_only=True, forbid_unknown_fields=True, frozen=True
    )
    return Operation(
        noun=noun,
        verb=verb,
        function=method,
        writes=mark.writes,
        role=mark.role,
        summary=doc.partition("\n")[0],
        doc=doc,
        request=request,
        result=hints["return"],
        key=mark.key,
        repeatable=mark.repeatable,
    )
