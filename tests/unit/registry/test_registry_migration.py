"""A store from before there was a registry for everybody: its loops' models are shown, and can be trained on."""

from __future__ import annotations

import sqlalchemy as sa

from kilter.core.clock import ManualClock
from kilter.core.digests import digest
from kilter.engines.sql.database import Database
from kilter.engines.sql.migrations.upgrade import downgrade
from kilter.registry.service import ModelService


def test_models_of_before_are_shown(empty_url: str, clock: ManualClock) -> None:
    database = Database.open(empty_url)
    try:
        database.migrate()
        models = ModelService(database, clock)

        def train(model: str, key: str) -> int:
            made = models.register(
                model, digest(key.encode()), run=f"run_{key}", spec="s", data_digest="d", trigger="t", key=key
            )
            return made.version

        for model, key in (("flight", "a"), ("flight", "b"), ("x" * 128, "c")):
            train(model, key)
        with database.transaction() as connection:
            models.set_alias(connection, "flight", "champion", 2)
        models.approve("flight", 1, "ana")
        downgrade(database, "0003")
        with database.reading() as connection:
            assert "registered_models" not in sa.inspect(connection).get_table_names()
        database.migrate()
        assert {(model.name[:6], model.owner, model.aliases.get("champion")) for model in models.search().models} == {
            ("flight", "loop", 2),
            ("xxxxxx", "loop", None),
        }
        found = {one.version: (one.run, one.approval) for one in models.search_versions(model="flight").versions}
        assert found == {1: ("run_a", "approved"), 2: ("run_b", "pending")}
        assert train("flight", "d") == 3
        assert models.registered_version("flight", "latest").run == "run_d"
        assert models.changes("flight")[-1].after == "3"
    finally:
        database.close()
