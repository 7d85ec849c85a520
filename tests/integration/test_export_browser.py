"""A model as JavaScript predicts in a real browser, without a network, what the endpoint answers."""

import html
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import kilter
from kilter.cli.main import main
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import load

lightgbm = pytest.importorskip("lightgbm")

CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
PAGE = """\
<!doctype html><meta charset="utf-8"><body><script type="module">
%s
const records = %s;
document.body.textContent = JSON.stringify(records.map((record) => predict(encode(record))));
</script>
"""


@pytest.mark.ui
@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium on this machine")
def test_a_browser_answers_like_the_endpoint(tmp_path):
    random = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "price": random.normal(size=300),
            "city": random.choice(["Rome", 'Ber"lin', "</script>", "Köln"], 300).tolist(),
            "hour": random.integers(0, 24, 300),
        }
    ).with_columns(pl.when(pl.int_range(pl.len()) % 7 > 0).then("price").alias("price"))
    codes = frame["city"].cast(pl.Enum(sorted(set(frame["city"])))).to_physical().to_numpy()
    matrix = np.column_stack([frame["price"].to_numpy(), codes, frame["hour"].to_numpy()]).astype(float)
    target = (np.nan_to_num(matrix[:, 0]) + (matrix[:, 2] > 11) - (codes == 2) + random.normal(size=300)) > 0.5
    model = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_per_group": 5},
        lightgbm.Dataset(matrix, target.astype(float), categorical_feature=[1], feature_name=frame.columns),
        10,
    )
    store = tmp_path / "store"
    deployed = kilter.deploy(model, name="visits", example=frame.to_dicts(), store=store)
    assert main(["export", "visits", "--target", "js", "--out", str(tmp_path / "js"), "--store", str(store)]) == 0
    records = [*frame.head(50).to_dicts(), {"city": "Atlantis", "price": 1, "hour": 3}, {}]
    # a closing tag inside a script would end it
    source = (tmp_path / "js" / "visits.mjs").read_text().replace("</script>", "<\\/script>")
    (tmp_path / "page.html").write_text(PAGE % (source, json.dumps(records).replace("</script>", "<\\/script>")))
    run = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    body = run.stdout.partition("<body>")[2].partition("</body>")[0]
    with Workspace.open(store) as workspace:
        runtime = load(deployed.bundle, workspace.objects)
        wanted = runtime.predict(runtime.encoding.rows(records))
    np.testing.assert_allclose(np.ravel(json.loads(html.unescape(body))), wanted, rtol=1e-14)
    assert len(np.unique(wanted)) > 10
