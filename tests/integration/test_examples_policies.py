"""The demo's controls: the same days under the other policies, computed by the backtest in a process of their own."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kilter.loop.backtest import Outcome

pytest.importorskip("lightgbm")


def test_the_other_policies_are_computed_beside_the_replay(tmp_path):
    out = tmp_path / "policies.json"
    command = [
        sys.executable,
        "-m",
        "examples.flights.policies",
        "--end",
        "2013-03-10T00:00:00+00:00",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(out.read_bytes(), type=tuple[Outcome, ...])
    assert {outcome.name for outcome in found} >= {"frozen", "blind monthly", "psi alarm deploys"}
    assert all(math.isfinite(outcome.log_loss) and 0.5 < outcome.auc < 1 for outcome in found)
