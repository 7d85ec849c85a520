"""What is refused before a cluster is asked, and what is told when its engine is absent."""

import sys

import pytest

from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.files.writing import NOWHERE, Job
from kilter.serving.scoring.cluster import score_on
from kilter.serving.scoring.files import Files, Plan
from kilter.serving.scoring.stretches import Options


class Nowhere:
    """An output that has nothing yet, and is given nothing."""

    def last(self):
        return NOWHERE


def plan(tmp_path, output="out"):
    (tmp_path / "in.csv").write_text("a\n1\n")
    target = output if ":" in output else str(tmp_path / output)
    return Plan(model="m@v1", bundle="b", input=str(tmp_path / "in.csv"), output=target)


@pytest.mark.parametrize(
    ("engine", "package", "module"), [("ray", "ray", "ray_data"), ("spark", "pyspark.errors", "spark")]
)
def test_an_engine_that_is_not_installed_is_named(engine, package, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"kilter.serving.scoring.{module}", raising=False)
    asked = plan(tmp_path)
    with pytest.raises(Unavailable, match=rf"not installed.*kilter\[{engine}\]"):
        score_on(engine, asked, Job("d" * 64, {}), Files(asked.input), Nowhere(), Options(objects=""))
    assert [one.name for one in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize("output", ["table:scores", "online:scores", "postgresql://user@host/base?table=scores"])
def test_an_output_without_a_place_beside_it_wants_one(output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = plan(tmp_path, output)
    with pytest.raises(InvalidInput, match="stage: there is no place for parts beside this output"):
        score_on("ray", asked, Job("d" * 64, {}), Files(asked.input), Nowhere(), Options(objects=""))
    assert [one.name for one in tmp_path.iterdir()] == ["in.csv"]
