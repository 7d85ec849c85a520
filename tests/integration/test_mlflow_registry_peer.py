"""The same calls to MLflow's own store and to ours, through its own client: the same answers and the same refusals."""

from __future__ import annotations

import gc
import os
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kilter.testing.server import RunningServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

STEPS = int(os.environ.get("KILTER_REGISTRY_STEPS", "60"))
NAMES = ("a", "B b", "c.d-é")
ALIASES = ("best", "Best", "blue_1", "latest", "v2", "a b")
STAGES = ("None", "staging", "Production", "ARCHIVED", "prod")
KEYS = ("k", "l.m", "a/b", "b!d", "../x")
PROMPT = "mlflow.prompt.is_prompt"
FILTERS = (
    "",
    "name = 'a'",
    "name != 'a'",
    "name LIKE '%b'",
    "name ILIKE '%B'",
    "name IN ('a', 'c.d-é')",
    "tags.k = 'v1'",
    "tags.k != 'v1'",
    "tag.`l.m` LIKE 'v%' and name != 'x'",
    f"tags.`{PROMPT}` = 'true'",
    f"tags.`{PROMPT}` != 'true'",
    f"tags.`{PROMPT}` = 'false' and tags.k = 'v1'",
    "tags.k = 'v1' and tags.`l.m` = 'v2'",
    "color = 'x'",
    "tags.k > 'a'",
)
VERSIONS = (*FILTERS, "version_number >= 2", "run_id = 'r1'", "source_path = 'runs:/r1/m'", "version_number = 1.5")


@pytest.fixture
def mlflow() -> ModuleType:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return pytest.importorskip("mlflow")


@pytest.fixture
def url(tmp_path: Path):
    store = tmp_path / "store"
    with RunningServer(store) as running:
        yield running.url
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def act_of(chance: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return a call at random: method, arguments and named arguments."""
    name, version = chance.choice(NAMES), str(chance.choice((1, 1, 2, 2, 3, 4, 9)))
    key, value = chance.choice(KEYS), chance.choice(("v1", "v2", ""))
    alias, run = chance.choice(ALIASES), chance.choice(("r1", "r2"))
    tags = {"k": value, **({PROMPT: "true"} if name == NAMES[2] else {})}
    source = "dummy-source" if name == NAMES[2] else f"runs:/{run}/m"
    calls: list[tuple[int, str, tuple[Any, ...], dict[str, Any]]] = [
        (4, "create_registered_model", (name,), {"tags": tags, "description": "d"}),
        (8, "create_model_version", (name, source), {"run_id": run, "tags": tags, "description": "e"}),
        (1, "delete_registered_model", (name,), {}),
        (2, "delete_model_version", (name, version), {}),
        (1, "update_registered_model", (name, "new words"), {}),
        (1, "update_model_version", (name, version, "new words"), {}),
        (3, "set_registered_model_tag", (name, key, value), {}),
        (1, "delete_registered_model_tag", (name, key), {}),
        (3, "set_model_version_tag", (name, version, key, value), {}),
        (1, "delete_model_version_tag", (name, version, key), {}),
        (4, "set_registered_model_alias", (name, alias, version), {}),
        (1, "delete_registered_model_alias", (name, alias), {}),
        (3, "get_model_version_by_alias", (name, alias), {}),
        (3, "get_registered_model", (name,), {}),
        (3, "get_model_version", (name, version), {}),
        (1, "get_model_version_download_uri", (name, version), {}),
        (3, "get_latest_versions", (name, chance.choice((None, ["Staging"], ["production", "None"], ["x"]))), {}),
        (4, "search_registered_models", (chance.choice(FILTERS),), {"order_by": ["name DESC"]}),
        (4, "search_model_versions", (chance.choice(VERSIONS),), {"order_by": ["name ASC", "version_number ASC"]}),
        (3, "transition_model_version_stage", (name, version, chance.choice(STAGES)), {}),
    ]
    _, method, given, more = chance.choices(calls, weights=[weight for weight, *_ in calls])[0]
    return method, given, more


def outcome(mlflow: ModuleType, call: Callable[[], Any], *, aliases: bool) -> Any:
    """Return what a call gives, without times, or the code and the beginning of what it is refused with."""
    try:
        return plain(call(), aliases=aliases)
    except mlflow.exceptions.MlflowException as error:
        text = re.sub(r"^[A-Z_]+: ", "", str(error))
        return error.error_code, text if error.error_code == "RESOURCE_DOES_NOT_EXIST" else ""


def plain(value: Any, *, aliases: bool) -> Any:
    if value is None or isinstance(value, str):
        return value
    if hasattr(value, "latest_versions"):
        newest = sorted((str(one.version), one.current_stage) for one in value.latest_versions)
        named = {alias: str(number) for alias, number in value.aliases.items()}
        return value.name, value.description or "", dict(value.tags), named, newest
    if hasattr(value, "current_stage"):
        fields = (value.name, str(value.version), value.current_stage, value.source, value.run_id, value.status)
        return (
            *fields,
            value.description or "",
            dict(value.tags),
            sorted(value.aliases) if aliases else None,
        )
    return [plain(one, aliases=aliases) for one in value]


def test_mlflows_store_and_ours_answer_alike(mlflow, url, tmp_path):
    theirs = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}", f"sqlite:///{tmp_path / 'mlflow.db'}")
    ours = mlflow.MlflowClient(url, url)
    chance = random.Random(int(os.environ.get("KILTER_REGISTRY_SEED", "7")))
    said: list[tuple[str, tuple[Any, ...]]] = []
    seen: set[str] = set()
    for _ in range(STEPS):
        method, given, more = act_of(chance)
        said.append((method, given))
        aliases = not method.startswith("search")  # MLflow's searches don't say a version's aliases; ours do
        one, other = (
            outcome(mlflow, lambda client=client: getattr(client, method)(*given, **more), aliases=aliases)  # noqa: B023
            for client in (theirs, ours)
        )
        if method == "get_latest_versions" and isinstance(one, list):
            one, other = sorted(one, key=str), sorted(other, key=str)
        assert other == one, said[-8:]
        if not (isinstance(one, tuple) and len(one) == 2):
            seen.add(method)
    assert len(seen) >= 10, "most calls were refused: nothing was compared"
