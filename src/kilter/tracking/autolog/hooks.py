"""Doing something when a module is imported, now or later."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from kilter.tracking.autolog.patches import complain

_waiting: dict[str, str] = {}


def when_imported(module: str, preparer: str) -> None:
    """Call ``prepare(module)`` of one of our modules once another one has been imported.

    Args:
        module: What is waited for; it may be imported already.
        preparer: Our module.
    """
    if module in sys.modules and not _importing(sys.modules[module]):
        _prepare(sys.modules[module], preparer)
        return
    _waiting[module] = preparer
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def forget() -> None:
    """Wait for nothing any more."""
    _waiting.clear()
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)


class _Finder(MetaPathFinder):
    """Finds nothing itself: it lets the others find, and stands beside the loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting:
            return None
        preparer = _waiting.pop(fullname)
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Beside(spec.loader, preparer)
                return spec
        return None


class _Beside(Loader):
    """A loader that prepares the module after the real one has run it."""

    def __init__(self, loader: Loader, preparer: str) -> None:
        self._loader = loader
        self._preparer = preparer

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader  # whoever looks finds what would be there without us
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _prepare(module, self._preparer)


_FINDER = _Finder()


def _importing(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


def _prepare(module: ModuleType, preparer: str) -> None:
    try:
        importlib.import_module(preparer).prepare(module)
    except Exception as problem:  # noqa: BLE001 - a version that we do not know is used without us
        complain(problem)
