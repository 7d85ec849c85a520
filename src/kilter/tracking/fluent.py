"""Tracking in two lines: ``with kilter.run("experiment") as r: r.metric("loss", 0.3)``.

Logging never breaks or delays a training: what is logged goes to a buffer on the local disk, and from there to the store or the server
as soon as it can be reached; ``kilter sync`` sends what a process left behind.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from kilter.core.errors import InvalidInput, KilterError
from kilter.tracking.columns import packed
from kilter.tracking.records import DatasetInput, Status
from kilter.tracking.sdk.live import Live, live
from kilter.tracking.sdk.media import audio_bytes, data_digest, figure_bytes, image_bytes, table_bytes
from kilter.tracking.sdk.notebook import card
from kilter.tracking.sdk.records import Data, Model, Points
from kilter.tracking.sdk.settings import Settings, plain
from kilter.tracking.writing import check_name

P = ParamSpec("P")
R = TypeVar("R")

_current: contextvars.ContextVar[tuple[ActiveRun, ...]] = contextvars.ContextVar("kilter_runs", default=())
_open: list[ActiveRun] = []
_BLOCK = 50_000


def run(
    experiment: str = "default",
    *,
    name: str = "",
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    seed: int | None = None,
    store: str | Path | None = None,
    resume: str = "",
    data_digest: str = "",
    system_metrics: bool | float | None = None,
    record: bool = True,
) -> ActiveRun:
    """Track a piece of work.

    Args:
        experiment: What it belongs to.
        name: What to call it.
        params: What it is given; more can be added with :meth:`ActiveRun.params`.
        tags: Words about it.
        seed: Its seed.
        store: A folder, or the address of a server; the environment variable ``KILTER_STORE`` or ``.kilter`` if not said.
        resume: The id of a run that goes on; its metrics continue where they stopped.
        data_digest: What names the data that it is made with; see :meth:`ActiveRun.dataset` for more than one.
        system_metrics: Seconds between two looks at processor, memory, disk, network and graphics; False for none. Ten seconds, or
            what ``KILTER_SYSTEM_METRICS`` says, if not said.
        record: Keep the program, the environment's lock, git's commit and differences, the command and the hardware.

    Returns:
        A context manager: the run ends with the block, as ``FAILED`` when the block raises. It is a decorator as well: each call of the
        function is then a run, with the arguments as its parameters. In a process that was started for a run (``KILTER_RUN``: a trial of
        ``kilter tune``), the first one writes to that run, and whoever began it ends it.
    """
    return ActiveRun(
        Settings(
            experiment=experiment,
            name=name,
            params=params or {},
            tags=tags or {},
            seed=seed,
            store=store,
            resume=resume,
            data_digest=data_digest,
            system_metrics=system_metrics,
            record=record,
        )
    )


def active_run() -> ActiveRun | None:
    """Return the innermost run that goes on here: of this thread, else the one that was started last in this process."""
    for found in reversed(_current.get()):
        if found in live:
            return found
    for found in reversed(_open):
        if found in live:
            return found
    return None


class ActiveRun(Live):
    """A run that is going on; made by :func:`run`, and used from any thread or process.

    Every call returns at once: a thread of its own writes to the disk at the latest a second later, and another one sends to the store.
    """

    def __enter__(self) -> Self:
        self.start()
        _current.set((*_current.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.set(tuple(found for found in _current.get() if found is not self))
        status: Status = "FINISHED"
        if kind is not None:
            status = "INTERRUPTED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        self.finish(status, "" if kind is None else f"{kind.__name__}: {error}")

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make each call of a function a run, with its arguments as parameters."""
        signature = inspect.signature(function)

        @functools.wraps(function)
        def tracked(*positional: P.args, **named: P.kwargs) -> R:
            settings = self.settings
            with type(self)(_named(settings, settings.name or function.__name__)) as one:
                one.params(_simple(signature, positional, named))
                return function(*positional, **named)

        return tracked

    def __reduce__(self) -> tuple[Callable[..., ActiveRun], tuple[str, str, str]]:
        return attached, (self.id, self.experiment, self.place)

    def start(self) -> None:
        """Begin without a ``with``: for notebooks. End with :meth:`finish`; the end of the process ends it as well."""
        super().start()
        _open[:] = [found for found in _open if found in live and found is not self] + [self]

    def child(
        self, name: str = "", *, params: dict[str, Any] | None = None, tags: dict[str, str] | None = None
    ) -> ActiveRun:
        """Return a run within this one: ``with r.child("fold-1") as fold:``.

        Args:
            name: What to call it.
            params: What it is given.
            tags: Words about it.
        """
        settings = Settings(
            experiment=self.experiment,
            name=name,
            params=params or {},
            tags=tags or {},
            seed=self.settings.seed,
            store=self.place or self.settings.store,
            parent=self.id,
            system_metrics=False,
            record=False,
        )
        return ActiveRun(settings)

    # ------------------------------------------------------------ values

    def param(self, name: str, value: Any) -> None:
        """Note one parameter."""
        self.params({name: value})

    def tag(self, name: str, value: str) -> None:
        """Say something about the run."""
        self.tags({name: value})

    def metrics(self, step: int | None = None, values: Mapping[str, float] | None = None, /, **named: float) -> None:
        """Add a point to each of several metrics.

        Args:
            step: The step of all of them.
            values: Names to values: ``run.metrics(3, {"valid/loss": 0.2})``.
            named: The same as keywords; ``step=`` is the step as well.
        """
        if step is None and "step" in named:
            step = named.pop("step")  # type: ignore[assignment]  # a step is a whole number, and checked as one
        for name, value in {**(values or {}), **named}.items():
            self.metric(name, value, step)

    def history(self, name: str, values: Sequence[float], steps: Sequence[int] | None = None) -> None:
        """Add many points to a metric at once.

        Args:
            name: The metric.
            values: The values: a list or an array.
            steps: Their steps; those that follow the last one of this metric, if not said.
        """

        def put() -> None:
            check_name(name, "metric")
            numbers = [float(value) for value in values]
            places = range(self._steps.get(name, -1) + 1, self._steps.get(name, -1) + 1 + len(numbers))
            own = [int(step) for step in places] if steps is None else [int(step) for step in steps]
            if len(own) != len(numbers):
                raise InvalidInput(f"{len(numbers)} values with {len(own)} steps", where="history", allowed="as many")
            now = time.time_ns() // 1000
            for begin in range(0, len(own), _BLOCK):
                part = slice(begin, begin + _BLOCK)
                data = packed(own[part], numbers[part], [now] * len(own[part]))
                self._put(Points(names=[name], counts=[len(own[part])], data=data))
            if own:
                self._steps[name], self._last[name] = own[-1], numbers[-1]

        self._attempt(put)

    # ------------------------------------------------------------ files

    def text(self, name: str, text: str) -> None:
        """Keep a text as a file of the run.

        Args:
            name: The file; ``.txt`` is added when it has no ending.
            text: The text.
        """
        self.data(_ending(name, ".txt"), text.encode())

    def table(self, name: str, data: Any) -> None:
        """Keep a table, as Parquet.

        Args:
            name: What to call it.
            data: A frame of Polars, pandas or Arrow, rows as mappings, or columns by name.
        """
        self._made(name, lambda: (table_bytes(data), ".parquet"))

    def figure(self, name: str, figure: Any) -> None:
        """Keep a figure of matplotlib (as PNG) or plotly (as JSON)."""
        self._made(name, lambda: figure_bytes(figure))

    def image(self, name: str, image: Any, step: int | None = None) -> None:
        """Keep a picture, as PNG.

        Args:
            name: What to call it.
            image: An array of height, width and 1 to 4 channels, of bytes or of numbers from 0 to 1; or a picture of Pillow.
            step: The step that it belongs to; it becomes part of the file's name.
        """
        self._made(name, lambda: (image_bytes(image), ".png"), step)

    def audio(self, name: str, samples: Any, rate: int, step: int | None = None) -> None:
        """Keep a sound, as WAV.

        Args:
            name: What to call it.
            samples: Numbers from -1 to 1, or 16-bit integers; one column for each channel.
            rate: Samples a second.
            step: The step that it belongs to; it becomes part of the file's name.
        """
        self._made(name, lambda: (audio_bytes(samples, rate), ".wav"), step)

    # ------------------------------------------------------------ data and models

    def dataset(
        self, name: str, data: Any = None, *, version: str = "", source: str = "", context: str = "training"
    ) -> None:
        """Note data that the run reads, by the digest of its content or by its version.

        Args:
            name: What it is called.
            data: A frame, an array or bytes, whose digest is taken; a path, whose file's digest is taken.
            version: What names its content, instead of a digest: a commit, a snapshot, a version of a table.
            source: Where it came from.
            context: What it is read for: ``training``, ``validation``, ``test``.
        """

        def note() -> None:
            schema = profile = ""
            digest, place = version, source
            if not version:
                if data is None:
                    raise InvalidInput("neither data nor a version", where="dataset", allowed="one of them")
                if isinstance(data, Path):
                    digest, place = file_digest(data), source or str(data)
                else:
                    digest, schema, profile = data_digest(data)
            kind = "local" if place and "://" not in place else ""
            one = DatasetInput(
                name=name,
                digest=digest,
                source_type=kind,
                source=place,
                schema=schema,
                profile=profile,
                tags={"mlflow.data.context": context},
            )
            self._put(Data(dataset=one))

        self._attempt(note)

    def model(
        self,
        name: str,
        path: str | Path,
        *,
        type: str = "",  # noqa: A002 - what it is called everywhere
        step: int = 0,
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Keep a model that the run made: its files, and a logged model that can be searched for and registered.

        Args:
            name: What to call it.
            path: Its file or folder, as the library's own ``save`` wrote it.
            type: What kind of model it is: ``lightgbm``.
            step: At which step it was made: a checkpoint.
            params: What it is made with.
            tags: Words about it.
        """
        folder = f"models/{name}" if not step else f"models/{name}/step-{step}"
        source = Path(path)
        self.artifact(source, folder if source.is_dir() else f"{folder}/{source.name}")
        given = {key: str(plain(value)) for key, value in (params or {}).items()}
        self._put(Model(name=name, type=type, path=folder, step=step, params=given, tags=tags or {}))

    # ------------------------------------------------------------ within

    def _made(self, name: str, make: Callable[[], tuple[bytes, str]], step: int | None = None) -> None:
        def keep() -> None:
            data, ending = make()
            place = name if step is None else f"{name}/{step:08d}"
            self._keep(_ending(place, ending), data)

        self._attempt(keep)

    def _repr_html_(self) -> str:
        try:
            page = self.url
        except (KilterError, OSError):
            page = ""
        return card(
            self.id or "not stored",
            self.experiment,
            self.settings.name,
            self.status,
            page,
            self._known_params,
            self._last,
        )

    def __repr__(self) -> str:
        return f"<kilter run {self.id or 'not started'} of {self.experiment}, {self.status}>"


def attached(identity: str, experiment: str, place: str) -> ActiveRun:
    """Return a run of another process, to be logged to from this one: what a run becomes when it is pickled.

    Args:
        identity: The run's id.
        experiment: What it belongs to.
        place: The store.
    """
    found = ActiveRun(Settings(experiment=experiment, store=place or None))
    found.id, found.place, found.status = identity, place, "RUNNING"
    found._joining = bool(identity and place)  # noqa: SLF001 - of this very class
    return found


def file_digest(path: Path) -> str:
    """Return the digest of a file, or of a folder: of its files' names and digests.

    Raises:
        InvalidInput: When there is none.
    """
    from blake3 import blake3  # noqa: PLC0415 - beside its only use

    from kilter.core.digests import digest_json  # noqa: PLC0415

    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file())
        return digest_json([[file.relative_to(path).as_posix(), file_digest(file)] for file in files])
    try:
        return blake3(max_threads=1).update_mmap(os.fspath(path)).hexdigest()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", where="dataset") from None


def _ending(name: str, ending: str) -> str:
    return name if "." in name.rpartition("/")[2] else f"{name}{ending}"


def _named(settings: Settings, name: str) -> Settings:
    import msgspec  # noqa: PLC0415 - beside its only use

    return msgspec.structs.replace(settings, name=name)


def _simple(signature: inspect.Signature, positional: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that can be parameters; data and objects are left out."""
    try:
        bound = signature.bind(*positional, **named)
    except TypeError:
        return {}  # the call itself will say what is wrong with it
    bound.apply_defaults()
    return {
        name: value
        for name, value in bound.arguments.items()
        if isinstance(value, str | int | float | bool | type(None))
    }
