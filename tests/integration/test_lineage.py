"""From an answer back to the data, the code and the run behind it."""

from __future__ import annotations

import json

import pytest
from examples.flights.airline import rows

from kilter.cli.main import main
from kilter.core.digests import digest_json
from kilter.core.errors import NotFound


@pytest.mark.slow
def test_any_answer_leads_back_to_its_data_its_code_and_its_run(house, tmp_path, shop, visited, capsys):
    one = house(tmp_path / "store")
    kilter = one.workspace
    spec = kilter.loops.apply(shop, "shop.py", by="test")
    with pytest.raises(NotFound, match="'shop' has no champion yet"):
        kilter.loops.why("shop")
    kilter.data.ingest("visits", visited(one.clock.now()))
    one.work()
    one.serve()
    one.settle("shop", lambda status: status.summary.champion == 1 and status.summary.confirmed)
    asked = rows(visited(one.clock.now(), days=1).select("visit", "at", "price", "hour"))
    answers = one.post("shop", asked).json()["predictions"]

    answer = answers[5]
    prediction = kilter.endpoints.prediction(answer["id"])
    assert (prediction.key, prediction.value, prediction.version) == (asked[5]["visit"], answer["value"], 1)
    assert prediction.inputs == {name: asked[5][name] for name in ("price", "hour")}
    lineage = kilter.models.lineage(prediction.loop, prediction.version)
    run = kilter.runs.get(lineage.run)
    assert (run.data_digest, run.code_digest) == (lineage.data_digest, lineage.code_digest)
    assert (lineage.spec, run.spec) == (spec.digest, spec.digest)
    declared = kilter.loops.spec("shop")
    assert lineage.code_digest == digest_json([declared.train.source, declared.label.expression.source])
    assert kilter.objects.get(lineage.environment)
    assert {point.name for point in run.metrics} >= {"holdout_log_loss", "training_rows"}

    # The same chain on the command line, from the id alone.
    assert main(one.arguments("why", answer["id"], "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["stage"]) == ("shop@v1", "champion")
    assert told["prediction"]["value"] == answer["value"]
    assert told["lineage"]["run"] == run.id
    assert {"data", "run", "gates", "stage"} <= {link["step"] for link in told["chain"]}
    assert main(one.arguments("why", answer["id"])) == 0
    said = capsys.readouterr().out
    for part in (answer["id"], asked[5]["visit"], "shop@v1", run.id, lineage.data_digest):
        assert part in said

    # An id that names nothing, and an answer that no version made.
    assert main(one.arguments("why", "main-ffff-0", "--json")) == 1
    assert json.loads(capsys.readouterr().out)["detail"] == "there is no such prediction"
    assert main(one.arguments("why", "nonsense", "--json")) == 1
    assert json.loads(capsys.readouterr().out)["allowed"] == "shop"
