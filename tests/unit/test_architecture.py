"""The house is built as it is drawn: directions of imports, no cycles, no file that holds three ideas."""

from __future__ import annotations

import configparser
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import grimp
import pytest

from kilter.data.declare import Table
from kilter.loop.remote import RemoteKilter
from kilter.testing.server import RunningServer

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "kilter"
LONGEST = 800
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}

HEAVY = {
    "aio_pika": ("kilter.engines.streams.rabbitmq",),
    "aiormq": ("kilter.engines.streams.rabbitmq",),
    "alembic": ("kilter.engines.sql.migrations",),
    "apprise": ("kilter.engines.notify",),
    "jwt": ("kilter.governance.oidc",),
    "boto3": ("kilter.engines.streams.kinesis",),
    "botocore": ("kilter.engines.streams.kinesis",),
    "catboost": ("kilter.packaging",),
    "confluent_kafka": ("kilter.engines.streams.kafka",),
    "cryptography": ("kilter.packaging.export", "kilter.serving.edge"),
    "deltalake": ("kilter.engines.tables.delta", "kilter.engines.tables.paths"),
    "h2": ("kilter.serving.grpc",),
    "google": ("kilter.engines.streams.pubsub", "kilter.serving.grpc", "kilter.tracking.history.messages"),
    "httptools": ("kilter.server", "kilter.serving"),
    "httpx": ("kilter.testing",),
    "jinja2": ("kilter.server",),
    "lightgbm": ("kilter.packaging",),
    "litestar": ("kilter.server",),
    "lmdb": ("kilter.engines.online",),
    "markdown_it": ("kilter.server.ui.notes",),
    "mcp": ("kilter.operations.mcp",),
    "nats": ("kilter.engines.streams.jetstream",),
    "onnx": ("kilter.packaging",),
    "onnxruntime": ("kilter.packaging",),
    "opentelemetry": ("kilter.serving.telemetry",),
    "openfeature": ("kilter.release.openfeature",),
    "obstore": ("kilter.engines",),
    "pyarrow": ("kilter.serving.protocols.arrow",),
    "pyspark": ("kilter.serving.scoring.spark",),
    "optuna": ("kilter.loop.tuning.search",),
    "psycopg": ("kilter.engines.sql",),
    "pytest": ("kilter.testing",),
    "ray": ("kilter.serving.ray", "kilter.serving.scoring.ray_data"),
    "redis": ("kilter.engines.streams.redis_streams",),
    "rich": ("kilter.cli",),
    "skops": (
        "kilter.packaging.sklearn_skops",
        "kilter.packaging.mlmodel.loader",
        "kilter.tracking.autolog.estimators",
    ),
    "sklearn": ("kilter.packaging",),
    "torch": ("kilter.packaging.torch_export",),
    "uvloop": ("kilter.server", "kilter.serving"),
    "xgboost": ("kilter.packaging",),
    "yaml": ("kilter.packaging.mlmodel", "kilter.tracking.history.mlflow_folder"),
}
"""Packages that only a part of the house may import."""

LATE = {
    "alembic": "a store of an older schema",
    "arro3": "the first table",
    "attr": "nobody: Litestar loads it by itself where it is installed",
    "deltalake": "the first table",
    "lightgbm": "a training, or a model that is loaded",
    "markdown_it": "the first note on a page",
    "onnxruntime": "a model that is loaded",
    "pandas": "nobody",
    "pyarrow": "the first answer in Arrow",
    "pydantic": "nobody: Litestar loads it by itself where it is installed",
    "rich": "a person at a terminal",
    "scipy": "a training",
    "sklearn": "a training, or a model that is loaded",
}
"""Packages that a server has not loaded before something asks for them, and what does. They stay with the process from then on."""


@cache
def graph() -> grimp.ImportGraph:
    """Every import between modules, also those inside functions and those for the type checker."""
    return grimp.build_graph(
        "kilter", include_external_packages=True, exclude_type_checking_imports=False, cache_dir=None
    )


@cache
def without_type_checking() -> grimp.ImportGraph:
    """Every import that happens."""
    return grimp.build_graph("kilter", exclude_type_checking_imports=True, cache_dir=None)


def test_no_import_cycle() -> None:
    # the package's own names are given by its first file to users, never to its own modules
    found = [cycle for module in sorted(without_type_checking().modules) if (cycle := _cycle(module)) is not None]
    assert found == []


def _cycle(module: str) -> tuple[str, ...] | None:
    imports = without_type_checking()
    for imported in sorted(imports.find_modules_directly_imported_by(module)):
        back = imports.find_shortest_chain(imported, module)
        if back is not None:
            return (module, *back)
    return None


def test_the_house_does_not_import_itself_through_its_front_door() -> None:
    assert sorted(graph().find_modules_that_directly_import("kilter")) == []


def test_import_contracts_hold() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_room_is_in_the_contracts() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    drawn = {
        name.strip()
        for line in contracts["importlinter:contract:layers"]["layers"].splitlines()
        for name in line.replace("|", ":").split(":")
        if name.strip()
    }
    rooms = {f"kilter.{path.parent.name}" for path in SOURCE.glob("*/__init__.py")}
    assert rooms == drawn


@pytest.mark.parametrize("package", sorted(HEAVY))
def test_a_heavy_package_is_imported_in_its_place_only(package: str) -> None:
    if package not in graph().modules:
        return
    importers = graph().find_modules_that_directly_import(package)
    assert [name for name in sorted(importers) if not name.startswith(HEAVY[package])] == []


@pytest.mark.slow
def test_a_server_that_tracks_runs_has_loaded_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "store", PYTHONPROFILEIMPORTTIME="1") as server:
        started = _loaded(server)
        with RemoteKilter(server.url, server.token) as house:
            house.runs.start("first", params={"depth": 3})
            tracked = _loaded(server)
            house.data.declare(Table("flights", key="id", time="at"))
            house.data.append("flights", [{"id": "a", "at": "2013-03-01T00:00:00Z"}])
            house.data.flush("flights")
        flushed = _loaded(server)
    assert {"litestar", "sqlalchemy"} <= started
    assert {name: LATE[name] for name in sorted(started & LATE.keys())} == {}
    assert {name: LATE[name] for name in sorted(tracked & LATE.keys())} == {}
    assert "deltalake" in flushed


def _loaded(server: RunningServer) -> set[str]:
    """The packages that it has loaded, as the interpreter says on its standard error."""
    lines = [line.rpartition("|")[2].strip() for line in server.log.read_text().splitlines() if "import time:" in line]
    return {name.partition(".")[0] for name in lines}


def python_files() -> list[Path]:
    """All Python files that we write."""
    folders = ("src", "tests", "examples", "benchmarks")
    return sorted(
        path for folder in folders for path in (ROOT / folder).glob("**/*.py") if "__pycache__" not in path.parts
    )


def test_no_file_holds_three_ideas() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    named = [
        path
        for path in python_files()
        if FORBIDDEN & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    ]
    assert named == []


def test_names_of_test_files_are_unique() -> None:
    names = sorted(path.name for path in (ROOT / "tests").glob("**/test_*.py"))
    assert [name for name, following in pairwise(names) if name == following] == []


def test_every_room_says_what_it_does() -> None:
    for path in sorted(SOURCE.glob("*/__init__.py")):
        text = path.read_text()
        assert text.startswith('"""'), path
        assert text.rstrip().endswith('"""'), f"{path} holds more than its docstring"
        assert len(text.splitlines()) <= 10, f"{path}: five lines are enough"
