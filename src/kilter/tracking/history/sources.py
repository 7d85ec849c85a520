"""Opening a source by its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kilter.core.errors import InvalidInput
from kilter.tracking.history.records import Source

KINDS: Final = {
    "mlflow": "a server's http:// address, an mlruns folder, an mlflow.db, or the database URL of a store",
    "wandb": "a wandb folder, or one offline-run-* folder of it",
    "comet": "an offline archive (.zip), or a folder of them",
    "neptune": "the folder of Parquet files that neptune-exporter wrote",
    "tensorboard": "a folder with event files, at any depth",
}


def open_source(kind: str, place: str, files: Path | None = None) -> Source:
    """Open a source; each one's code is loaded when it is asked for.

    Args:
        kind: One of :data:`KINDS`.
        place: Where it is.
        files: A further folder that files may come from.

    Raises:
        InvalidInput: When there is nothing of that kind.
        Unavailable: When what reads it is not installed, or a server does not answer.
    """
    match kind:
        case "mlflow":
            return _open_mlflow(place, files)
        case "wandb":
            from kilter.tracking.history.wandb import WandbSource  # noqa: PLC0415

            return WandbSource(Path(place), files)
        case "comet":
            from kilter.tracking.history.comet import CometSource  # noqa: PLC0415

            return CometSource(Path(place))
        case "neptune":
            from kilter.tracking.history.neptune import NeptuneSource  # noqa: PLC0415

            return NeptuneSource(Path(place), files)
        case "tensorboard":
            from kilter.tracking.history.tensorboard import TensorboardSource  # noqa: PLC0415

            return TensorboardSource(Path(place))
    raise InvalidInput(f"{kind!r} is no source", where="import", allowed=", ".join(KINDS))


def _open_mlflow(place: str, files: Path | None) -> Source:
    """Open a server, a folder or a database.

    Args:
        place: Its address.
        files: A further folder that artifacts may come from.

    Raises:
        InvalidInput: When it is none of them.
    """
    if place.startswith(("http://", "https://")):
        from kilter.tracking.history.mlflow_server import ServerSource  # noqa: PLC0415

        return ServerSource(place)
    path = Path(place.removeprefix("file://"))
    if "://" in place and not place.startswith("file://"):
        from kilter.tracking.history.mlflow_database import DatabaseSource  # noqa: PLC0415

        return DatabaseSource(place, files)
    if path.is_dir() and (path / "mlflow.db").is_file() and not (path / "mlruns").is_dir():
        path /= "mlflow.db"
    if path.is_dir():
        if (path / "mlruns").is_dir() and not any(path.glob("*/meta.yaml")):
            path = path / "mlruns"
        from kilter.tracking.history.mlflow_folder import FolderSource  # noqa: PLC0415

        return FolderSource(path, files)
    if path.is_file():
        from kilter.tracking.history.mlflow_database import DatabaseSource  # noqa: PLC0415

        with path.open("rb") as file:
            if file.read(16) == b"SQLite format 3\x00":
                return DatabaseSource(f"sqlite:///{path.resolve()}", files, folder=path.resolve().parent)
    raise InvalidInput(
        "there is no history of MLflow",
        where=place,
        allowed="a server's http:// address, an mlruns folder, an mlflow.db, or a store's database URL",
    )
