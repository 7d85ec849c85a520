# Each line that ends in ``# error: ...`` must be rejected by the type checker, with a message that holds these words;
# all other lines must pass. The file is read by a type checker and never run.
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import polars as pl

from kilter import (
    Canary,
    Choice,
    Dataset,
    Label,
    Loop,
    Pruner,
    Range,
    Retrain,
    Shadow,
    Table,
    Trial,
    Tune,
    Window,
    at_least,
    auc,
    beats_champion,
    calibration,
    count,
    decay,
    drift,
    fair,
    faster_than,
    features,
    log_loss,
    mean,
    recall,
    tune,
)
from kilter import Lop  # error: has no attribute "Lop"


@dataclass(frozen=True)
class Params:
    trees: Annotated[int, Range(20, 400, log=True)] = 80


@dataclass(frozen=True)
class OtherParams:
    depth: int = 3


flights = Table("flights", key="flight_id", time="sched_dep")
origin = features(flights, entity="origin", time="dep_time", lag="1h", n=count("3h"), delay=mean("dep_delay", "3h"))


def is_late() -> pl.Expr:
    return pl.col("arr_delay") > 15


def is_true() -> bool:
    return True


def train(data: Dataset, p: Params) -> object:
    return (data, p)


def train_alone(data: Dataset) -> object:
    return data


def train_number(data: int) -> object:
    return data


sound = Loop(
    name="m", owner="o", inputs=[flights.columns("carrier"), origin], label=Label(is_late, known_at="arr_time"),
    train=train, params=Params(), data=(Window(train="60d"), Window(train="90d", mode="expand")),
    gates=[beats_champion(log_loss, resample="day"), at_least(auc, 0.65), fair(by="carrier", metric=recall, max_gap=0.1)],
    release=[Shadow(), Canary()], monitors=[decay(log_loss), calibration(), drift("psi")],
    retrain=Retrain(on=(decay(log_loss),)), approve={"staging": "auto", "prod": "owner"},
)
smallest = Loop(name="m", owner="o", inputs=[origin], label=Label(is_late, known_at="arr_time"), train=train_alone)
label = Label(is_late, known_at="arr_time")


def objective(trial: Trial) -> float:
    return float(trial.params["x"])


searched = Loop(
    name="m", owner="o", inputs=[origin], label=label, train=train, params=Params(),
    tune=Tune(space={"trees": Choice(1, 2)}, metric=(log_loss, auc), pruner=Pruner("asha", first=2)),
)
tune(objective, {"x": Range(0, 1)}, direction=("minimize",), sampler="cma-es", pruner="median")

Table("flights", key="flight_id")  # error: Missing positional argument "time"
Table("flights", key=3, time="at")  # error: incompatible type "int"; expected "str"
features(flights, entity="origin", time="dep_time", n="3h")  # error: incompatible type "str"; expected "Aggregate"
Window(mode="slid")  # error: expected "Literal['slide', 'expand']"
Window(train=60)  # error: incompatible type "int"; expected "str"
Label(is_true, known_at="arr_time")  # error: "Callable[[], bool]"; expected "Callable[[], Expr]"
Label(pl.col("x") > 15, known_at="arr_time")  # error: expected "Callable[[], Expr]"
beats_champion(log_loss, resample="days")  # error: expected "Literal['hour', 'day', 'week']"
beats_champion("log_loss")  # error: incompatible type "str"; expected "Metric"
at_least(auc)  # error: Missing positional argument "bound"
fair("carrier", metric=recall, max_gap=0.1)  # error: Too many positional arguments
faster_than(p99=20)  # error: incompatible type "int"; expected "str"
Canary(steps=[5, 25])  # error: incompatible type "list[int]"; expected "tuple[int, ...]"
Canary(bake=2)  # error: incompatible type "int"; expected "str"
Shadow(bake=14)  # error: incompatible type "int"; expected "str"
drift("foo")  # error: expected "Literal['psi']"
decay("log_loss")  # error: incompatible type "str"; expected "Metric"
Retrain(on=decay(log_loss))  # error: incompatible type "Decay"
Retrain(on=(at_least(auc, 0.6),))  # error: "tuple[AtLeast]"
Retrain(budget=600)  # error: incompatible type "int"; expected "str | None"
Loop(name="m", inputs=[origin], label=label, train=train_alone)  # error: Missing named argument "owner"
Loop(name="m", owner="o", inputs=[flights], label=label, train=train_alone)  # error: "Table"
Loop(name="m", owner="o", inputs=[origin], label=is_late, train=train_alone)  # error: expected "Label"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train, params=OtherParams())  # error: Argument "train"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_number)  # error: Argument "train"
Loop(name="m", owner="o", inputs=[origin], label=label, train=3)  # error: Argument "train"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, gates=[decay(log_loss)])  # error: "Decay"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, monitors=[at_least(auc, 1)])  # error: "AtLeast"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, release=[Window()])  # error: "Window"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, data=[Window()])  # error: "list[Window]"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, approve={"production": "owner"})  # error: Dict entry
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, approve={"prod": "boss"})  # error: Dict entry
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, fallback="0.2")  # error: expected "float | None"
Loop(name="m", owner="o", inputs=[origin], label=label, train=train_alone, gate=[])  # error: Unexpected keyword argument "gate"
Range(1)  # error: Missing positional argument "high"
Range("1", 2)  # error: incompatible type "str"; expected "float"
Tune(metric="log_loss")  # error: incompatible type "str"
Tune(sampler="tpee")  # error: expected "Literal['tpe', 'cma-es', 'random', 'grid']"
Tune(pruner="ash")  # error: incompatible type
Tune(space={"trees": (1, 2)})  # error: Dict entry
tune(objective, {"x": Range(0, 1)}, direction="min")  # error: incompatible type
tune(objective, {"x": 3})  # error: Dict entry
tune(Params, {"x": Range(0, 1)})  # error: Argument 1 to "tune"
sound.name = "n"  # error: "name"
