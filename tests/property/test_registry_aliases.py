"""Aliases, stages and numbers of a registered model, whatever is done in whatever order, against a plain model of them."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kilter.core.clock import ManualClock
from kilter.core.errors import NotFound
from kilter.engines.sql.database import Database
from kilter.registry.service import ModelService

SOURCE = "runs:/r/m"
NUMBERS = st.integers(1, 6)
ALIASES = st.sampled_from(["best", "Best", "blue-1", "champion"])
STAGES = st.sampled_from(["None", "Staging", "Production", "Archived"])


class Registry(RuleBasedStateMachine):
    """The service, and beside it a dictionary that says what it should say."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.open(f"sqlite:///{Path(self.folder.name) / 'kilter.db'}")
        self.database.migrate()
        self.models = ModelService(self.database, ManualClock(datetime(2020, 1, 1, tzinfo=UTC)))
        self.models.create("m")
        self.stages: dict[int, str] = {}
        self.aliases: dict[str, int] = {}
        self.latest = 0

    @rule()
    def register(self) -> None:
        self.latest += 1
        assert self.models.add_version("m", SOURCE).version == self.latest
        self.stages[self.latest] = "None"

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        if number not in self.stages:
            with pytest.raises(NotFound):
                self.models.delete_version("m", number)
            return
        self.models.delete_version("m", number)
        del self.stages[number]
        self.aliases = {alias: of for alias, of in self.aliases.items() if of != number}

    @rule(alias=ALIASES, number=NUMBERS)
    def assign(self, alias: str, number: int) -> None:
        if number not in self.stages:
            with pytest.raises(NotFound):
                self.models.assign_alias("m", alias, number)
            return
        self.models.assign_alias("m", alias, number)
        self.aliases[alias] = number

    @rule(alias=ALIASES)
    def drop(self, alias: str) -> None:
        self.models.drop_alias("m", alias)
        self.aliases.pop(alias, None)

    @rule(number=NUMBERS, stage=STAGES, archive=st.booleans())
    def move(self, number: int, stage: str, archive: bool) -> None:
        archive = archive and stage in {"Staging", "Production"}
        if number not in self.stages:
            with pytest.raises(NotFound):
                self.models.set_stage("m", number, stage, archive)
            return
        self.models.set_stage("m", number, stage, archive)
        if archive:
            self.stages = {one: "Archived" if of == stage else of for one, of in self.stages.items()}
        self.stages[number] = stage

    @rule()
    def make_again(self) -> None:
        self.models.delete("m")
        self.models.create("m")
        self.stages, self.aliases, self.latest = {}, {}, 0

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "models"):
            return
        found = self.models.registered("m")
        assert found.aliases == self.aliases
        versions = self.models.search_versions(model="m").versions
        assert {one.version: one.stage for one in versions} == self.stages
        for one in versions:
            assert set(one.aliases) == {alias for alias, of in self.aliases.items() if of == one.version}
        newest: dict[str, int] = {}
        for number, stage in self.stages.items():
            newest[stage] = max(number, newest.get(stage, 0))
        assert {one.stage: one.version for one in found.latest} == newest
        assert self.told() == self.aliases

    def told(self) -> dict[str, int]:
        """What the history alone says about the aliases of the model as it is now."""
        said: dict[str, int] = {}
        for change in self.models.changes("m", limit=10_000):
            if change.what == "model":
                said = {}
            elif change.what == "alias" and change.after is not None:
                said[change.field] = int(change.after)
            elif change.what == "alias":
                said.pop(change.field)
        return said

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            self.folder.cleanup()


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
