from __future__ import annotations

from pathlib import Path

from kilter.cli.main import main
from kilter.loop.workspace import Workspace

FILE = Path(__file__).parents[2] / "examples" / "flights" / "flight_delay.py"


def test_the_environments_rules_tighten_the_declaration(tmp_path, monkeypatch, capsys):
    (tmp_path / "kilter.toml").write_text('[env.dev]\nstore = "store"\napprove = "owner"\nbudget = "90 cpu-s/day"\n')
    monkeypatch.chdir(tmp_path)
    assert main(["apply", str(FILE), "--json"]) == 0, capsys.readouterr()
    with Workspace.open(tmp_path / "store") as workspace:
        policy = workspace.loops.ledger.row("flight-delay").state.policy
    assert (policy.approval, policy.budget) == ("owner", 90.0)
