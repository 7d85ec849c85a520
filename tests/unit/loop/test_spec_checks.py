from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from kilter.core.errors import DeclarationError
from kilter.loop.declaration.checks import check, require
from kilter.loop.declaration.spec import load, load_source

EXAMPLE = Path(__file__).parents[3] / "examples" / "flights" / "flight_delay.py"

TEXT = """
from dataclasses import dataclass
import polars as pl
from math import sqrt
from kilter import (Canary, Label, Loop, Retrain, Shadow, Table, Window, at_least, auc, beats_champion, calibration,
                    count, decay, drift, fair, faster_than, features, log_loss, mean, recall)

flights = Table("flights", key="flight_id", time="sched_dep")
other = Table("other", key="id", time="at")
origin = features(flights, entity="origin", time="dep_time", lag="1h", delay_3h=mean("dep_delay", "3h"))

@dataclass(frozen=True)
class Params:
    trees: int = 80

@dataclass
class Loose:
    trees: int = 80

def is_late() -> pl.Expr:
    return pl.col("arr_delay") > 15

def train(data, p: Params):
    return 1

def alone(data):
    return 1

stale = decay(log_loss)
loop = Loop(
    name="flight-delay",
    owner="ana",
    inputs=[flights.columns("carrier", "dest"), origin],
    label=Label(is_late, known_at="arr_time"),
    train=train,
    params=Params(),
    data=Window(train="60d", holdout="7d"),
    gates=[
        beats_champion(log_loss),
        at_least(auc, 0.65),
        fair(by="carrier", metric=recall, max_gap=0.15),
        faster_than(p99="20ms"),
    ],
    release=[Shadow(), Canary(steps=(5, 25, 50))],
    monitors=[stale, calibration(), drift("psi")],
    retrain=Retrain(on=(stale,), every="30d", cooldown="7d", budget="10 cpu-min/day"),
    fallback=0.22,
    approve={"prod": "owner"},
)
"""

SCHEMA: dict[str, pl.DataType] = {
    "flight_id": pl.String(),
    "sched_dep": pl.Datetime("us", "UTC"),
    "dep_time": pl.Datetime("us", "UTC"),
    "arr_time": pl.Datetime("us", "UTC"),
    "carrier": pl.String(),
    "dest": pl.String(),
    "origin": pl.String(),
    "dep_delay": pl.Float64(),
    "arr_delay": pl.Float64(),
}


def faults(*changes: tuple[str, str], schema: bool = True) -> list[DeclarationError]:
    text = TEXT
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return check(load_source(text, "delays.py"), {"flights": SCHEMA} if schema else None)


def test_a_sound_declaration_has_no_faults() -> None:
    assert faults() == []
    assert faults(schema=False) == []
    assert check(load(EXAMPLE)) == []
    require(load(EXAMPLE))


WRONG = {
    "name": [('name="flight-delay"', 'name="Flight Delay"')],
    "owner": [('owner="ana"', 'owner=" "')],
    "inputs": [('inputs=[flights.columns("carrier", "dest"), origin]', "inputs=[]")],
    "inputs[0]": [('flights.columns("carrier", "dest"), origin', "flights, origin")],
    "inputs: two tables": [('"dest"), origin', '"dest"), other.columns("x"), origin')],
    "inputs: features only": [('flights.columns("carrier", "dest"), origin', "origin")],
    "inputs[1]": [('"dest"), origin', '"dest"), flights.columns("dest"), origin')],
    "inputs[0]: unknown column": [('"carrier", "dest"', '"carier", "dest"')],
    "inputs[1].lag": [('lag="1h"', 'lag="1 hour"')],
    "inputs[1].entity": [('entity="origin"', 'entity="orign"')],
    "inputs[1].delay_3h": [('mean("dep_delay", "3h")', 'mean("dep_delay", "3hours")')],
    "inputs[1].delay_3h: column": [('mean("dep_delay", "3h")', 'mean("delay", "3h")')],
    "inputs[1].delay_3h: leak": [
        ('time="dep_time"', 'time="sched_dep"'),
        ('mean("dep_delay", "3h")', 'mean("arr_delay", "3h")'),
    ],
    "inputs[0]: leak": [('"carrier", "dest"', '"carrier", "arr_delay"')],
    "inputs[0]: known_at": [('"carrier", "dest"', '"carrier", "arr_time"')],
    "label.known_at": [('known_at="arr_time"', 'known_at="sched_dep"')],
    "label.known_at: unknown": [('known_at="arr_time"', 'known_at="arival"')],
    "label.expression": [("Label(is_late", 'Label(lambda: pl.col("arr_delay") > 15')],
    "label.expression: imported": [("Label(is_late", "Label(sqrt")],
    "label.expression: raises": [('return pl.col("arr_delay") > 15', "return 1 / 0")],
    "label.expression: no expression": [('return pl.col("arr_delay") > 15', "return True")],
    "label.expression: unknown column": [('pl.col("arr_delay") > 15', 'pl.col("arr_dely") > 15')],
    "label.expression: text": [('pl.col("arr_delay") > 15', 'pl.col("origin")')],
    "label.expression: nonsense": [('pl.col("arr_delay") > 15', 'pl.col("origin").dt.hour() > 15')],
    "train": [("train=train", "train=lambda data, p: 1")],
    "train: value": [("train=train", "train=3")],
    "params: missing": [("    params=Params(),\n", "")],
    "params: not taken": [("train=train", "train=alone")],
    "params: wrong class": [("params=Params()", "params=Loose()")],
    "params: value": [("params=Params()", "params={'trees': 80}")],
    "data.train": [('train="60d"', 'train="two months"')],
    "data.holdout": [('holdout="7d"', 'holdout="60d"')],
    "data.mode": [('holdout="7d"', 'holdout="7d", mode="slid"')],
    "data": [
        ('data=Window(train="60d", holdout="7d")', 'data=(Window("60d", "7d"), Window("90d", "14d"))'),
    ],
    "gates": [
        ("beats_champion(log_loss),", ""),
        ("at_least(auc, 0.65),", ""),
    ],
    "gates[0]": [("beats_champion(log_loss),", "stale,")],
    "gates[0].confidence": [("beats_champion(log_loss)", "beats_champion(log_loss, confidence=95)")],
    "gates[0].resample": [("beats_champion(log_loss)", 'beats_champion(log_loss, resample="days")')],
    "gates[0].metric": [("beats_champion(log_loss)", 'beats_champion("log_loss")')],
    "gates[0].margin": [("beats_champion(log_loss)", "beats_champion(log_loss, margin=-0.1)")],
    "gates[1].bound": [("0.65", 'float("nan")')],
    "gates[1].metric.threshold": [("at_least(auc,", "at_least(recall.at(2.0),")],
    "gates[2].by": [('by="carrier"', 'by="career"')],
    "gates[2].max_gap": [("max_gap=0.15", "max_gap=15")],
    "gates[3].p99": [('p99="20ms"', 'p99="20"')],
    "release": [("release=[Shadow(), Canary(", "release=[Canary(), Canary(")],
    "release[0].bake": [("Shadow()", "Shadow(bake=14)")],
    "release[0].limit": [("Shadow()", 'Shadow(bake="30d")')],
    "release[1].steps": [("(5, 25, 50)", "(5, 50, 25)")],
    "release[1].steps: whole": [("(5, 25, 50)", "(5, 25, 100)")],
    "release[1].steps: none": [("(5, 25, 50)", "()")],
    "monitors[3]": [('drift("psi")]', 'drift("psi"), decay(log_loss, by=0.2)]')],
    "monitors[2].method": [('drift("psi")', 'drift("foo")')],
    "monitors[0].by": [("decay(log_loss)", "decay(log_loss, by=0)")],
    "monitors: a gate": [('drift("psi")]', "at_least(auc, 0.6)]")],
    "retrain.on[0]": [("on=(stale,)", "on=(decay(log_loss, by=0.3),)")],
    "retrain.every": [('every="30d"', 'every="3d"')],
    "retrain.budget": [("10 cpu-min/day", "10 minutes")],
    "approve": [('"prod": "owner"', '"production": "owner"')],
    "approve.prod": [('"prod": "owner"', '"prod": "boss"')],
    "fallback": [("fallback=0.22", "fallback=22.0")],
    "seed": [("fallback=0.22", "fallback=0.22, seed=-1")],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_names_its_field_and_line(name: str) -> None:
    found = faults(*WRONG[name])
    assert found, "nothing was found"
    field = name.partition(":")[0]
    fitting = [error for error in found if error.where.partition(": ")[2].startswith(field)]
    assert fitting, [str(error) for error in found]
    assert all(error.message and (error.allowed or error.fix or "failed" in error.message) for error in fitting)
    file, line = fitting[0].where.partition(": ")[0].split(":")
    assert file == "delays.py"
    assert 30 <= int(line) <= 52


def test_messages_help() -> None:
    (error,) = faults(('"carrier", "dest"', '"carier", "dest"'))
    assert str(error).startswith("delays.py:33: inputs[0]: table 'flights' has no column 'carier'")
    assert "did you mean 'carrier'?" in str(error)
    (error,) = faults(('name="flight-delay"', 'name="Flight Delay"'))
    assert "'flight-delay' would do" in str(error)
    (error,) = faults(('flights.columns("carrier", "dest"), origin', "flights, origin"))
    assert "use flights.columns(...)" in str(error)
    (error,) = faults(('"prod": "owner"', '"production": "owner"'))
    assert "did you mean 'prod'?" in str(error)


def test_the_first_fault_says_how_many_more_there_are() -> None:
    text = TEXT.replace('owner="ana"', 'owner=""').replace("0.22", "22.0")
    with pytest.raises(DeclarationError, match=r"nobody answers for the model \(and 1 more\)"):
        require(load_source(text, "delays.py"))


def test_a_fallback_is_a_probability_even_before_there_are_rows() -> None:
    (error,) = faults(("fallback=0.22", "fallback=22.0"), schema=False)
    assert "no probability" in str(error)
    assert faults(("fallback=0.22", "fallback=22.0"), ('pl.col("arr_delay") > 15', 'pl.col("arr_delay") * 2')) == []
