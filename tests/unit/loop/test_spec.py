from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kilter.core.errors import DeclarationError, InvalidInput
from kilter.loop.declaration.plan import plan, rebuilds
from kilter.loop.declaration.policy import policy_of
from kilter.loop.declaration.spec import (
    Declared,
    load,
    load_all,
    load_source,
    parse_budget,
    spec_from_json,
    spec_of,
)

EXAMPLE = Path(__file__).parents[3] / "examples" / "flights" / "flight_delay.py"

TEXT = '''
from dataclasses import dataclass
import polars as pl
from kilter import Canary, Label, Loop, Retrain, Shadow, Table, Window, at_least, auc, beats_champion, decay, log_loss

FACTOR = 2
UNUSED = 3
rows = Table("rows", key="id", time="at")

@dataclass(frozen=True)
class Params:
    trees: int = 10

def scaled(value):
    """Scale."""
    return value * FACTOR

def is_late() -> pl.Expr:
    return pl.col("delay") > scaled(5)

def train(data, p: Params):
    # nothing to see
    return scaled(p.trees)

def unrelated():
    return UNUSED

worse = decay(log_loss)
loop = Loop(
    name="delays", owner="ana", inputs=[rows.columns("a", "b")],
    label=Label(is_late, known_at="known"), train=train, params=Params(),
    data=Window(train="60d", holdout="7d"),
    gates=[beats_champion(log_loss), at_least(auc, 0.6)],
    release=[Shadow(bake="14d"), Canary(bake="2d")],
    monitors=[worse], retrain=Retrain(on=(worse,), every="30d", budget="10 cpu-min/day"),
    fallback=0.2, approve={"prod": "owner"},
)
'''


def declared(*changes: tuple[str, str]) -> Declared:
    text = TEXT
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return load_source(text, "delays.py")


BASE = spec_of(declared())


def test_the_example_is_loaded_and_has_one_digest_everywhere(tmp_path: Path) -> None:
    first = load(EXAMPLE)
    copy = tmp_path / "elsewhere.py"
    copy.write_text(first.text)
    assert first.name == "flight-delay"
    specs = [spec_of(first), spec_of(load(copy)), spec_of(load_source(first.text, "stored.py"))]
    assert len({spec.digest for spec in specs}) == 1
    program = f"from kilter.loop.declaration.spec import load, spec_of; print(spec_of(load({str(copy)!r})).digest)"
    other = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": "7"}
    )
    assert other.stdout.strip() == specs[0].digest
    assert str(tmp_path) not in msgspec.json.encode(specs[1]).decode()


def test_a_spec_comes_back_from_json() -> None:
    assert spec_from_json(msgspec.json.decode(msgspec.json.encode(BASE.json()))) == BASE


@pytest.mark.parametrize(
    "change",
    [
        ("# nothing to see", "# something else"),
        ('"""Scale."""', '"""Scale by two."""'),
        ("return UNUSED", "return UNUSED + 1"),
        ("UNUSED = 3", "UNUSED = 4"),
        ('bake="14d"', 'bake="2w"'),
        ('"10 cpu-min/day"', '"600 cpu-s/day"'),
        ("auc, beats_champion, decay", "auc, beats_champion, calibration, decay"),
        ('    fallback=0.2, approve={"prod": "owner"},', '    approve={"prod": "owner"},\n\n    fallback=0.20,'),
    ],
)
def test_what_does_nothing_changes_nothing(change: tuple[str, str]) -> None:
    assert spec_of(declared(change)).digest == BASE.digest
    assert plan(BASE, spec_of(declared(change))) == []


@pytest.mark.parametrize(
    ("change", "field", "rebuild"),
    [
        (("FACTOR = 2", "FACTOR = 3"), "label.expression", True),
        (("return value * FACTOR", "return value + FACTOR"), "label.expression", True),
        (("return scaled(p.trees)", "return scaled(p.trees) + 1"), "train", True),
        (("trees: int = 10", "trees: int = 11"), "train", True),
        (("params=Params()", "params=Params(trees=11)"), "params.trees", True),
        (('train="60d"', 'train="90d"'), "data[0].train", True),
        (('"a", "b"', '"a"'), "inputs[0].names", True),
        (("auc, 0.6)", "auc, 0.7)"), "gates[1].bound", False),
        (('bake="2d"', 'bake="3d"'), "release[1].bake", False),
        (('every="30d"', 'every="31d"'), "retrain.every", False),
        (("fallback=0.2", "fallback=None"), "fallback", False),
        (('owner="ana"', 'owner="bo"'), "owner", False),
        (('"prod": "owner"', '"prod": "auto"'), "approve.prod", False),
    ],
)
def test_what_does_something_is_named(change: tuple[str, str], field: str, rebuild: bool) -> None:
    new = spec_of(declared(change))
    changes = plan(BASE, new)
    assert new.digest != BASE.digest
    assert field in [found.field for found in changes]
    assert rebuilds(changes) is rebuild
    assert (new.data_digest != BASE.data_digest) is rebuild
    assert all(found.sentence() for found in changes)


def test_a_new_loop_is_created() -> None:
    (change,) = plan(None, BASE)
    assert (change.effect, change.sentence()) == ("creates the loop", "loop: none -> delays (creates the loop)")


def test_a_changed_function_shows_its_lines() -> None:
    (change,) = plan(BASE, spec_of(declared(("return scaled(p.trees)", "return p.trees"))))
    assert "-    return scaled(p.trees)" in change.diff
    assert "+    return p.trees" in change.diff


def test_policy() -> None:
    policy = policy_of(BASE, "prod")
    assert (policy.loop, policy.owner, policy.spec, policy.on) == ("delays", "ana", BASE.digest, ("decay(log_loss)",))
    assert (policy.every, policy.cooldown, policy.budget) == (30 * 86400.0, 7 * 86400.0, 600.0)
    assert (policy.shadow_bake, policy.shadow_limit) == (14 * 86400.0, 28 * 86400.0)
    assert (policy.canary_steps, policy.canary_bake, policy.keep_warm) == ((5, 25, 50), 2 * 86400.0, 2 * 86400.0)
    assert policy.approval == "owner"
    assert policy_of(BASE).approval == "auto"
    assert policy_of(BASE, "dev", approve="owner", budget="1 cpu-min/day").approval == "owner"
    assert policy_of(BASE, "dev", budget="1 cpu-min/day").budget == 60.0
    assert policy_of(BASE, "dev", budget="1 cpu-h/day").budget == 600.0
    alone = policy_of(spec_of(declared(('release=[Shadow(bake="14d"), Canary(bake="2d")]', "release=[Shadow()]"))))
    assert (alone.canary_steps, alone.keep_warm) == ((), 2 * 86400.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10 cpu-min/day", 600.0), ("90 cpu-s / day", 90.0), ("0.5 cpu-h/day", 1800.0)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["10 min/day", "10 cpu-min", "0 cpu-s/day", "-1 cpu-s/day", "10 cpu-min/week", ""])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a budget"):
        parse_budget(text)


def test_the_smallest_loop_has_the_defaults_of_an_expert() -> None:
    loop = load_source(
        "import polars as pl\nfrom kilter import Label, Loop, Table\nt = Table('t', key='k', time='at')\n"
        "def y() -> pl.Expr:\n    return pl.col('y')\ndef train(data):\n    return 1\n"
        "loop = Loop(name='m', owner='o', inputs=[t.columns('x')], label=Label(y, known_at='k2'), train=train)",
        "m.py",
    )
    spec = spec_of(loop)
    assert [gate.kind for gate in spec.gates] == ["BeatsChampion", "BeatsNaive"]
    assert [step.kind for step in spec.release] == ["Shadow", "Canary"]
    assert [monitor.kind for monitor in spec.monitors] == ["Decay", "Calibration", "Drift"]
    assert spec.approve == {"prod": "owner"}
    assert policy_of(spec).on == ("decay(log_loss)", "calibration")


def test_several_loops_in_one_file(tmp_path: Path) -> None:
    text = (
        TEXT + "\nimport dataclasses\nothers = [dataclasses.replace(loop, name=f'delays-{c}') for c in ('ua', 'aa')]\n"
    )
    path = tmp_path / "many.py"
    path.write_text(text)
    assert [found.name for found in load_all(path)] == ["delays", "delays-ua", "delays-aa"]
    assert load(path, "delays-aa").loop.name == "delays-aa"
    assert load(path, "loop").loop.name == "delays"
    with pytest.raises(DeclarationError, match=r"declares 3 loops.*delays-ua"):
        load(path)
    with pytest.raises(DeclarationError, match="no loop named 'delay'"):
        load(path, "delay")


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("x = (\n", "bad.py:1", "not Python"),
        ("x = 1\ny = 1 / 0\n", "bad.py:2", "ZeroDivisionError"),
        ("import nothing_like_it\n", "bad.py:1", "No module named"),
        ("from kilter import Lop\n", "bad.py:1", "Lop"),
        ("from kilter import Loop\nloop = Loop(name='x')\n", "bad.py:2", "owner"),
        ("import sys\nsys.exit(3)\n", "bad.py:2", "SystemExit"),
        ("def f():\n    raise ValueError('inner')\n\nf()\n", "bad.py:2", "inner"),
        ("", "bad.py", "declares no loop"),
        ("\x00", "bad.py:1", "not Python"),
    ],
)
def test_a_broken_file_is_reported_with_its_line(tmp_path: Path, text: str, where: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(DeclarationError, match=message) as caught:
        load(path)
    assert caught.value.where.startswith(str(path.parent / where) if ":" in where else str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="No such file"):
        load(tmp_path / "none.py")
    (tmp_path / "latin.py").write_bytes(b"x = '\xff'")
    with pytest.raises(DeclarationError, match="can't be read"):
        load(tmp_path / "latin.py")
