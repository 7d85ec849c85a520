"""Frameworks that a declaration names are imported when something of theirs is used: where a model is trained.

``from lightgbm import LGBMClassifier`` at the top of a user's file takes seconds and a hundred megabytes. Who reads the file only
for what it declares (``kilter plan``, the server, the controller) has no use for that. While such a file runs, the import
statements of that file, and of no other, give stand-ins for the packages named here. Any use of a stand-in (a call, a look at
an attribute of what it stands for, a base class) imports the real thing. The semantics are those of PEP 810 (explicit lazy
imports), given to a known few packages.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from importlib.util import find_spec
from typing import Any

FRAMEWORKS = frozenset(
    {
        "catboost",
        "jax",
        "keras",
        "lightgbm",
        "scipy",
        "sklearn",
        "statsmodels",
        "tensorflow",
        "torch",
        "transformers",
        "xgboost",
    }
)
"""Packages that are slow to import and that a declaration only names."""


class Later:
    """What an import statement has given, without the import.

    Args:
        module: The module.
        names: Attributes within it, outermost first; none for the module itself.
        also: Modules below it that the file imports too.
    """

    __slots__ = ("_also", "_module", "_names")

    def __init__(self, module: str, names: tuple[str, ...], also: set[str]) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "_also", also)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            return getattr(real(self), name)
        return Later(self._module, (*self._names, name), self._also)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(real(self), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the real thing."""
        return real(self)(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return real(self)[key]

    def __iter__(self) -> Any:
        return iter(real(self))

    def __len__(self) -> int:
        return len(real(self))

    def __bool__(self) -> bool:
        return bool(real(self))

    def __eq__(self, other: object) -> bool:
        return bool(real(self) == (real(other) if isinstance(other, Later) else other))

    def __hash__(self) -> int:
        return hash(real(self))

    def __repr__(self) -> str:
        return repr(real(self))

    def __or__(self, other: Any) -> Any:
        return real(self) | (real(other) if isinstance(other, Later) else other)

    def __ror__(self, other: Any) -> Any:
        return other | real(self)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (real(self),)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, real(self))

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, real(self))


def real(later: Later) -> Any:
    """Return what a stand-in stands for.

    Raises:
        ImportError: When the package can't be imported, or has no such name.
    """
    found: Any = importlib.import_module(later._module)  # noqa: SLF001 - one idea, in one file
    for module in sorted(later._also):  # noqa: SLF001
        importlib.import_module(module)
    path = later._module  # noqa: SLF001
    for name in later._names:  # noqa: SLF001
        path = f"{path}.{name}"
        try:
            found = getattr(found, name)
        except AttributeError:
            try:
                found = importlib.import_module(path)
            except ModuleNotFoundError as error:
                raise ImportError(f"cannot import {path}", name=path) from error
    return found


def importing_later() -> dict[str, Any]:
    """Return builtins for the namespace of a user's file, whose import statements give stand-ins for frameworks."""
    below: dict[str, set[str]] = {}

    def importer(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the names of the protocol
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        top = name.partition(".")[0]
        if level or top not in FRAMEWORKS or top in sys.modules or "*" in (fromlist or ()) or find_spec(top) is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return Later(name, (), set())
        below.setdefault(top, set()).add(name)  # ``import a.b`` and ``import a.c`` bind the same name
        return Later(top, (), below[top])

    return {**vars(builtins), "__import__": importer}


def import_now(namespace: MutableMapping[str, Any]) -> None:
    """Put the real things where a user's file has stand-ins, before its functions are called.

    Raises:
        ImportError: When one can't be imported.
    """
    for name, value in list(namespace.items()):
        if type(value) is Later:
            namespace[name] = real(value)
    namespace["__builtins__"] = builtins
