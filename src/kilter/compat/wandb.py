"""Weights & Biases' common calls on a run of Kilter: ``import kilter.compat.wandb as wandb``.

``init``, ``log``, ``finish``, ``config``, ``summary``, ``save``, ``Table``, ``Html`` and ``Image`` of a file; a project is an experiment. Anything else
that the real module has is not here, and asking for it says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kilter.core.errors import InvalidInput
from kilter.tracking.fluent import ActiveRun
from kilter.tracking.fluent import run as start_run

__all__ = [
    "Config",
    "Html",
    "Image",
    "Run",
    "Summary",
    "Table",
    "config",
    "finish",
    "init",
    "log",
    "run",
    "save",
    "summary",
]

_NO_RUN = "there is no run: call wandb.init() first"


class Table:
    """Rows under columns; a run keeps them as a JSON file of the real module's form.

    Args:
        columns: Their names.
        data: The rows.
        dataframe: A frame of pandas or Polars, in place of both.
    """

    def __init__(
        self, columns: Sequence[str] | None = None, data: Sequence[Sequence[Any]] | None = None, dataframe: Any = None
    ) -> None:
        if dataframe is not None:
            self.columns = [str(name) for name in dataframe.columns]
            rows = dataframe.rows() if hasattr(dataframe, "rows") else dataframe.itertuples(index=False, name=None)
            self.data = [list(row) for row in rows]
        else:
            self.columns = list(columns or ["Input", "Output", "Expected"])
            self.data = [list(row) for row in data or ()]

    def add_data(self, *row: Any) -> None:
        """Add a row.

        Raises:
            InvalidInput: When it has not one value for each column.
        """
        if len(row) != len(self.columns):
            raise InvalidInput(
                f"{len(row)} values", where="Table.add_data", allowed=f"{len(self.columns)}: {self.columns}"
            )
        self.data.append(list(row))


class Html:
    """A page.

    Args:
        data: Its text, or the path of a file that holds it.
    """

    def __init__(self, data: str | Path) -> None:
        path = Path(data) if isinstance(data, Path) or str(data).endswith((".html", ".htm")) else None
        self.html = path.read_text(encoding="utf-8") if path is not None else str(data)


class Image:
    """A picture from a file.

    Args:
        path: The file.
        caption: What is on it.
    """

    def __init__(self, path: str | Path, caption: str = "") -> None:
        self.path = Path(path)
        self.caption = caption


class Config(MutableMapping[str, Any]):
    """What a run is given: by key or by attribute; a value that is set is a param."""

    def __init__(self, owner: Run) -> None:
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "_values", {})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        raise InvalidInput(f"param {name!r} can't be taken back", where="wandb.config")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def update(self, values: Any = (), /, allow_val_change: bool = False, **more: Any) -> None:  # noqa: ARG002 - the module's
        """Set several values: of a mapping, or of anything with attributes, as ``argparse`` returns."""
        given = dict(values if isinstance(values, Mapping | Sequence) else vars(values)) | more
        self._values.update(given)
        self._owner.tracked.params(**_flat(given))


class Summary(MutableMapping[str, Any]):
    """The last word about a run: the newest value of each metric, and what is set by hand, which becomes a tag."""

    def __init__(self, owner: Run) -> None:
        self._owner = owner
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value
        self._owner.tracked.tag(
            f"wandb.summary.{name}", value if isinstance(value, str) else json.dumps(value, default=str)
        )

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def seen(self, name: str, value: Any) -> None:
        """Note a logged value."""
        self._values[name] = value


class Run:
    """A run that goes on; made by :func:`init`."""

    def __init__(self, tracked: ActiveRun, project: str, name: str) -> None:
        self.tracked = tracked
        self.project = project
        self.name = name
        self.step = 0
        self._waiting: dict[str, Any] = {}
        self.config = Config(self)
        self.summary = Summary(self)

    @property
    def id(self) -> str:
        """Its id."""
        return self.tracked.id

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        """Log values at a step; without one, each call is a step of its own unless ``commit`` is false.

        Args:
            data: Names and values: numbers are metrics, the rest is kept as files.
            step: The step; values of one step may come in several calls.
            commit: Whether the step is done.
        """
        if step is not None:
            if step != self.step:
                self._write()
            self.step = step
        self._waiting |= data
        if commit or (commit is None and step is None):
            self._write()
            self.step += 1

    def finish(self, exit_code: int | None = None) -> None:
        """End the run: as failed, with an exit code other than 0."""
        self._write()
        failed = RuntimeError(f"exit code {exit_code}") if exit_code else None
        self.tracked.__exit__(None if failed is None else RuntimeError, failed, None)
        if _State.run is self:
            _State.run = None

    def save(self, path: str | Path) -> None:
        """Keep a file, or the files of a pattern."""
        given = Path(path)
        found = sorted(given.parent.glob(given.name)) if any(sign in given.name for sign in "*?[") else [given]
        for file in found:
            self.tracked.artifact(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(1 if kind is not None else 0)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, {}
        numbers: dict[str, float] = {}
        for name, value in _flat(waiting).items():
            if isinstance(value, bool | int | float) or (hasattr(value, "item") and getattr(value, "size", 1) == 1):
                numbers[name] = float(value)
                self.summary.seen(name, numbers[name])
            else:
                self._keep(name, value)
        if numbers:
            self.tracked.metrics(self.step, **numbers)

    def _keep(self, name: str, value: Any) -> None:
        base = f"media/{name}/{self.step}"
        match value:
            case Table():
                rows = {"columns": value.columns, "data": value.data}
                self.tracked.data(f"{base}.table.json", json.dumps(rows, default=str).encode())
            case Html():
                self.tracked.data(f"{base}.html", value.html.encode())
            case Image():
                self.tracked.artifact(value.path, f"{base}{value.path.suffix}")
                if value.caption:
                    self.tracked.tag(f"wandb.caption.{name}", value.caption)
            case _:
                self.tracked.data(f"logged/{name}/{self.step}.json", json.dumps(value, default=str).encode())


class _State:
    """The run of this process."""

    run: Run | None = None


run: Run | None
config: Config
summary: Summary
# The three are looked up when they are asked for: they change with the run.


def init(
    project: str = "uncategorized",
    *,
    name: str = "",
    config: Any = None,
    tags: Sequence[str] = (),
    notes: str = "",
    group: str = "",
    job_type: str = "",
    store: str | Path | None = None,
) -> Run:
    """Begin a run; one that goes on is ended first.

    Args:
        project: The experiment.
        name: What to call it.
        config: What it is given.
        tags: Words about it.
        notes: What it is for.
        group: What it belongs to beside its experiment.
        job_type: What kind of work it is.
        store: Where to track, as for ``kilter.run``.
    """
    if _State.run is not None:
        _State.run.finish()
    said = {"mlflow.note.content": notes, "wandb.group": group, "wandb.job_type": job_type}
    words = {key: value for key, value in said.items() if value} | {f"wandb.tag.{tag}": "true" for tag in tags}
    tracked = start_run(project, name=name, tags=words, store=store).__enter__()
    _State.run = Run(tracked, project, name or tracked.id)
    if config is not None:
        _State.run.config.update(config)
    return _State.run


def log(data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:
    """Log values to the run that goes on; see :meth:`Run.log`."""
    _current().log(data, step, commit)


def save(path: str | Path) -> None:
    """Keep a file of the run that goes on."""
    _current().save(path)


def finish(exit_code: int | None = None) -> None:
    """End the run that goes on; without one, do nothing."""
    if _State.run is not None:
        _State.run.finish(exit_code)


def __getattr__(name: str) -> Any:
    if name == "run":
        return _State.run
    if name in {"config", "summary"}:
        return getattr(_current(), name)
    raise AttributeError(f"kilter.compat.wandb has no {name!r}: see its __all__, or use kilter.run")


def _current() -> Run:
    if _State.run is None:
        raise InvalidInput(_NO_RUN, where="wandb")
    return _State.run


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{path}.")
        else:
            found[path] = value
    return found
