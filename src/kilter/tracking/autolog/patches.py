"""Standing beside the functions of others: what they do stays what it was, and can be put back."""

from __future__ import annotations

import contextvars
import functools
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kilter.core.errors import KilterError
from kilter.tracking.fluent import active_run, run
from kilter.tracking.sdk.settings import plain

_LOG = logging.getLogger("kilter.tracking")
_LONGEST = 500


class Choice(NamedTuple):
    """What the user chose.

    Args:
        models: Keep the models.
        experiment: What runs belong to that are made here.
        store: Where they go.
    """

    models: bool = True
    experiment: str = "autolog"
    store: str | Path | None = None


_choice = [Choice()]
_patched: list[tuple[Any, str, Any, bool]] = []
_seen: set[str] = set()
_complained: set[str] = set()
_going_on: set[Session] = set()
_session: contextvars.ContextVar[Session | None] = contextvars.ContextVar("kilter_autolog", default=None)


def choose(choice: Choice) -> None:
    """Take what the user chose."""
    _choice[0] = choice


def complain(problem: Exception) -> None:
    """Say once what went wrong; the fit goes on."""
    said = f"{type(problem).__name__}: {problem}"
    if said not in _complained:
        _complained.add(said)
        _LOG.warning("autolog: something was not logged, and the work goes on: %s", said)


class Session:
    """One fit that is tracked.

    Args:
        name: What is fitted: ``LGBMClassifier``.
        framework: The package that it is of.
    """

    def __init__(self, name: str, framework: str) -> None:
        self.name = name
        self.framework = framework
        around = active_run()
        self.own = around is None or around.id in _seen
        if around is None:
            choice = _choice[0]
            self.run = run(choice.experiment, name=name, store=choice.store)
        elif self.own:
            self.run = around.child(name)
        else:
            self.run = around
            _seen.add(around.id)
        if self.own:
            self.run.__enter__()
            _seen.add(self.run.id)
        self.run.tags({"autolog": framework, "estimator": name})
        _going_on.add(self)

    def end(self, error: BaseException | None) -> None:
        """End the run, if it is the fit's own."""
        _going_on.discard(self)
        if self.own:
            self.run.__exit__(None if error is None else type(error), error, None)

    def params(self, values: Mapping[str, Any], prefix: str = "") -> None:
        """Note parameters, those that are no simple values by their text."""
        self.run.params({f"{prefix}{name}": simple(value) for name, value in values.items()})

    def keep_model(self, save: Callable[[Path], object], file: str, **about: Any) -> None:
        """Keep a model.

        Args:
            save: Writes it to a path.
            file: What the file is called.
            about: Parameters of the model.
        """
        if not _choice[0].models:
            return
        with tempfile.TemporaryDirectory(prefix="kilter-model-") as folder:
            path = Path(folder) / file
            save(path)
            self.run.model("model", path, type=self.framework, params=about)


def current() -> Session | None:
    """Return the fit that is being tracked here."""
    return _session.get()


def busy() -> bool:
    """Say whether a fit is being tracked anywhere in this process."""
    return bool(_going_on)


def patch(
    owner: Any,
    name: str,
    begin: Callable[[tuple[Any, ...], dict[str, Any]], tuple[Session | None, tuple[Any, ...], dict[str, Any]]],
    done: Callable[[Session, Any, tuple[Any, ...], dict[str, Any]], object],
) -> None:
    """Stand beside a function.

    Args:
        owner: The module or class that has it.
        name: Its name.
        begin: Told the arguments; returns a session (None when this call is not to be tracked) and the arguments to call it with.
        done: Told the session, the result and the arguments.
    """
    original = getattr(owner, name)
    if getattr(original, "__kilter_autolog__", False):
        return

    @functools.wraps(original)
    def beside(*positional: Any, **named: Any) -> Any:
        session: Session | None = None
        given, words = positional, named
        before = _session.get()
        try:
            session, given, words = begin(positional, dict(named))
        except Exception as problem:  # noqa: BLE001 - a fit is never broken by us
            complain(problem)
            given, words = positional, named
        if session is None:
            return original(*given, **words)
        token = _session.set(session)
        try:
            result = original(*given, **words)
        except BaseException as error:
            if session is not before:
                _safely(functools.partial(session.end, error))
            raise
        finally:
            _session.reset(token)
        _safely(functools.partial(done, session, result, positional, named))
        if session is not before:
            _safely(functools.partial(session.end, None))
        return result

    beside.__kilter_autolog__ = True  # type: ignore[attr-defined]
    put(owner, name, beside)


def put(owner: Any, name: str, value: Any) -> None:
    """Set an attribute, and remember what was there."""
    own = name in vars(owner)
    _patched.append((owner, name, vars(owner).get(name), own))
    setattr(owner, name, value)


def restore() -> None:
    """Put everything back."""
    while _patched:
        owner, name, value, own = _patched.pop()
        try:
            if own:
                setattr(owner, name, value)
            else:
                delattr(owner, name)
        except (AttributeError, TypeError) as problem:
            complain(problem)


def simple(value: Any) -> Any:
    """Return a parameter's value, or its text when it is no simple one."""
    try:
        said = plain(value)
    except (KilterError, TypeError, ValueError, RecursionError):
        said = repr(value)
    text = said if isinstance(said, str) else None
    if text is None and isinstance(said, list | dict):
        text = repr(value)
        return said if len(text) <= _LONGEST else text[:_LONGEST]
    return said if text is None else text[:_LONGEST]


def metric_name(name: str) -> str:
    """Return a name that a metric can have."""
    return (
        "".join(letter if letter.isalnum() or letter in " ./@:+%()-_" else "_" for letter in name).strip("/")[:250]
        or "_"
    )


def _safely(act: Callable[[], object]) -> None:
    try:
        act()
    except Exception as problem:  # noqa: BLE001 - see above
        complain(problem)
