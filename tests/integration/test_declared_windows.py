"""Several candidate windows: each is trained, a nested holdout chooses, and the gates judge on rows that nobody touched."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from kilter.loop.building import fit
from kilter.loop.declaration.sources import declaration

WINDOWS = 'data=(Window(train="30d", holdout="7d"), Window(train="10d", holdout="7d"), Window(train="10d", holdout="7d", mode="expand")),'


def test_every_window_is_tried_and_an_honest_holdout_chooses(house, tmp_path, shop, visited):
    one = house(tmp_path / "store")
    now = one.clock.now()
    kilter = one.workspace
    text = shop.replace('data=Window(train="30d", holdout="7d"),', WINDOWS)
    assert text != shop
    kilter.loops.apply(text, "shop.py", by="test")
    # Until a fortnight ago dear things sold best: a window that looks further back learns the wrong lesson.
    before = visited(now - timedelta(days=19), days=40, slope=-6.0)
    kilter.data.ingest("visits", pl.concat([before, visited(now, days=19)]))
    one.work()
    version = kilter.models.get("shop", one.until(lambda: kilter.loops.status("shop").summary.version))
    evidence = one.until(lambda: kilter.models.history("shop", version.version).evidence)[0]

    run = kilter.runs.get(version.lineage.run)
    losses = {m.name.partition("/")[2]: m.last for m in run.metrics if m.name.startswith("nested_log_loss/")}
    assert set(losses) == {"slide:30d", "slide:10d", "expand:10d"}
    assert losses["slide:10d"] == min(losses.values())
    assert len(set(losses.values())) == 3
    assert run.params["window"] == "slide 10d"
    assert run.params["holdout"] == "7d"

    # The gates saw the newest week, all of it, and nothing of it took part in training or choosing.
    week = visited(now, days=7).filter(pl.col("paid_at") <= now)
    assert {finding.rows for finding in evidence.findings} == {week.height}
    loop, _ = declaration(kilter.database, kilter.objects, version.lineage.spec)
    rows = kilter.data.frame("visits", known_by=now)
    fitted = fit(loop, rows, now)
    assert fitted.training.digest == version.lineage.data_digest
    assert fitted.training.times.max() < fitted.holdout.times.min()
    newest = pl.col("at") >= now - timedelta(days=7)
    spoiled = rows.with_columns(spent=pl.when(newest).then((pl.col("spent") == 0).cast(pl.Float64)).otherwise("spent"))
    other = fit(loop, spoiled, now)
    assert other.choice == fitted.choice
    assert other.training.digest == fitted.training.digest
    assert other.holdout.digest != fitted.holdout.digest
