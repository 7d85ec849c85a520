"""What tracking's pages show, without a browser: addresses, tables, differences, previews, notes, champions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import InvalidInput, NotFound
from kilter.loop.workspace import Workspace
from kilter.registry.records import Lineage, ModelVersion, StageMark, VersionHistory
from kilter.server.ui.differences import side_by_side, text_diff
from kilter.server.ui.drawing import drawing
from kilter.server.ui.model_pages import reigns
from kilter.server.ui.notes import NOTE, rendered
from kilter.server.ui.pages import Pages
from kilter.server.ui.previews import entries, image_type, preview
from kilter.server.ui.tracking_address import asked, experiment_path, place_of
from kilter.tracking.filters import condition
from kilter.tracking.records import Artifact, MetricPoint

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path / "store", ManualClock(START)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("metrics.loss << 3", 14),
        ("metrics.loss < 3 and params.x ~ 3", 30),
        ("metrics.loss < 3 or params.x = 3", 17),
        ("metrics.loss", 12),
        ("foo = 'a'", 0),
        ("status = 'FAILED' and name = 3", 22),
        ("metrics.loss < 3 and", 20),
    ],
)
def test_the_place_of_an_error_in_a_filter(text: str, place: int) -> None:
    with pytest.raises(InvalidInput) as refused:
        condition(text)
    assert place_of(text, refused.value) == place


def test_names_that_an_address_cannot_say_go_by_number() -> None:
    assert experiment_path("flight-delay", 3) == "/experiments/flight-delay"
    assert experiment_path("two words", 3) == "/experiments/two%20words"
    for name in ("/Users/me/x", "..", "a/b", "x.json", "<img>", "~4", "über", "a?b", "a#b"):
        assert experiment_path(name, 3) == "/experiments/~3" or name == "über"


def test_what_an_address_asks_for_is_checked() -> None:
    found = asked({"filter": "a", "columns": "metrics.loss,,params.x", "tree": "1", "limit": "20", "ungrouped": "1"})
    assert (found.filter, found.columns, found.tree, found.limit) == ("a", ("metrics.loss", "params.x"), True, 20)
    assert asked({}).columns is None
    assert asked({"columns": ""}).columns == ()
    for wrong in ({"view": "most"}, {"limit": "-1"}, {"offset": "x"}, {"limit": "9999"}, {"offset": "9" * 40}):
        with pytest.raises(InvalidInput):
            asked(wrong)
    assert drawing({"metric": "m", "smooth": "0.5", "from": "2"}).low == 2.0
    for wrong in ({"smooth": "1"}, {"smooth": "x"}, {"x": "y"}, {"spread": "z"}, {"from": "nan"}, {"width": "1e9"}):
        with pytest.raises(InvalidInput):
            drawing(wrong)


def test_a_table_says_what_is_wrong_with_its_filter_and_shows_what_differs_first(workspace: Workspace) -> None:
    runs, pages = workspace.runs, Pages(workspace).tracking
    for number in range(5):
        one = runs.start("x", params={"same": 1, "rate": number}, tags={"mlflow.user": "ada"}).id
        runs.log_metrics(one, [MetricPoint(name="loss", value=number)])
    table = pages.table("x", {})
    assert table.columns == ("started", "duration", "tags.mlflow.user", "metrics.loss", "params.rate")
    assert table.rows.total == 5
    assert len(table.rows.rows[0].cells) == 3
    wrong = pages.table("x", {"filter": "metrics.loss <"})
    assert (wrong.filter_place, wrong.rows.total) == (14, 0)
    assert "loss" in wrong.filter_problem
    assert "cursor" not in pages.table("x", {"order": "??"}).other_problem
    assert pages.table("x", {"order": "??"}).other_problem
    assert pages.rows("x", {"filter": "metrics.loss > 2"}).total == 2
    assert pages.table(f"~{table.number}", {}).name == "x"
    for name in ("nobody", "~99", "~"):
        with pytest.raises(NotFound):
            pages.table(name, {})
    assert [one.runs for one in pages.cards({})] == [5]
    assert pages.cards({"filter": "nothing like it"}) == ()
    with pytest.raises(InvalidInput):
        pages.cards({"filter": "name ~ 3"})


def test_a_comparison_has_every_value_side_by_side(workspace: Workspace) -> None:
    runs, pages = workspace.runs, Pages(workspace).tracking
    ids = []
    for number in range(3):
        one = runs.start("x", params={"rate": number / 10, "same": "a"}, tags={"t": str(number)}, seed=number).id
        runs.log_metrics(one, [MetricPoint(name="loss", value=number + step, step=step) for step in range(5)])
        runs.log_artifact(one, "train.py", f"rate = {number}\nprint(rate)\n".encode())
        ids.append(one)
    found = pages.compare_data({"runs": ",".join(ids)})
    assert [(one.name, one.differs) for one in found.params] == [("rate", True), ("same", False)]
    assert found.numbers == {"loss": (4.0, 5.0, 6.0)}
    assert found.grouping == ("params.rate", "tags.t")
    assert [one.id for one in found.runs] == ids
    curves = pages.curves({"runs": ",".join(ids), "metric": "loss", "smooth": "0.5"})
    assert [one.x for one in curves.lines] == [[0, 1, 2, 3, 4]] * 3
    assert curves.lines[0].faint == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    grouped = pages.curves({"runs": ",".join(ids), "metric": "loss", "group": "params.same"})
    assert [(one.name, one.runs) for one in grouped.lines] == [("same = a", tuple(ids))]
    assert "Student" in grouped.spread
    runs.log_metrics(ids[0], [MetricPoint(name="loss", value=float("inf") and "Infinity", step=9)])
    assert pages.curves({"runs": ids[0], "metric": "loss"}).lines[0].odd == 1, "a new point is seen at once"
    changed = pages.changed({"left": ids[0], "right": ids[1]})
    assert [(one.name, one.lines) for one in changed.files] == [
        ("train.py", (("@", "@@ -1,2 +1,2 @@"), ("-", "rate = 0"), ("+", "rate = 1"), (" ", "print(rate)"))),
    ]
    assert pages.compare_data({"experiment": "x", "filter": "metrics.loss > 5"}).left_out == 0
    for wrong, kind in (({}, InvalidInput), ({"runs": "no"}, NotFound), ({"runs": "a' or '1"}, NotFound),
                        ({"runs": ",".join(map(str, range(99)))}, InvalidInput)):  # fmt: skip
        with pytest.raises(kind):
            pages.compare_data(wrong)


def test_a_run_says_where_it_came_from_and_what_came_of_it(workspace: Workspace) -> None:
    runs = workspace.runs
    parent = runs.start("x", name="above").id
    run = runs.start("x", tags={"mlflow.parentRunId": parent, "mlflow.source.git.commit": "abc", "team": "ops",
                                "mlflow.user": "ada", NOTE: "# hi"}).id  # fmt: skip
    workspace.models.register("x", "a" * 64, run, "s" * 64, "d" * 64, "why")
    view = Pages(workspace).tracking.run_data(run)
    assert (view.parent, view.who, view.own_tags) == ((parent, "above"), "ada", {"team": "ops"})
    assert view.code == (("Commit", "abc"),)
    assert [(one.model, one.version) for one in view.versions] == [("x", 1)]
    assert Pages(workspace).tracking.run_data(parent).children == 1
    before = Pages(workspace).tracking.run_pulse(run)
    runs.log_metrics(run, [MetricPoint(name="loss", value=1)])
    after = Pages(workspace).tracking.run_pulse(run)
    assert {part for part in after.parts if after.parts[part] != before.parts[part]} == {"numbers"}


def test_differences() -> None:
    lines = side_by_side([{"a": 1, "b": 0.1, "c": [1]}, {"a": 1, "b": 0.25}])
    assert [(one.name, one.values, one.differs) for one in lines] == [
        ("b", ("0.1", "0.25"), True), ("c", ("[1]", None), True), ("a", ("1", "1"), False),
    ]  # fmt: skip
    assert text_diff("x", "a\n", "a\n").same
    assert text_diff("x", "", "-- sql\n++ more").lines[1:] == (("+", "-- sql"), ("+", "++ more"))
    assert text_diff("x", "\n".join(map(str, range(9000))), "").cut


def test_folders_and_previews() -> None:
    files = [Artifact(name=name, digest="", size=size, at=START) for name, size in
             (("a/b/c.txt", 3), ("a/d.txt", 4), ("z.png", 5), ("ab.txt", 6))]  # fmt: skip
    assert [(one.name, one.folder, one.size, one.files) for one in entries(files, "")] == [
        ("a", True, 7, 2), ("ab.txt", False, 6, 1), ("z.png", False, 5, 1),
    ]  # fmt: skip
    assert [one.path for one in entries(files, "a")] == ["a/b", "a/d.txt"]
    assert entries(files, "no") == ()
    frame = pl.DataFrame({"x": range(500), "y": [None, *["w" * 1000] * 499]})
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    table = preview("t.parquet", 1, buffer.getvalue())
    assert (table.kind, table.columns, table.total, table.cut, len(table.rows)) == ("table", ("x", "y"), 500, True, 200)
    assert table.rows[0] == ("0", "\N{EN DASH}")
    assert len(table.rows[1][1]) == 301
    csv = preview("t.csv", 1, b"a,b\n1,2\n3,4\n")
    assert (csv.rows, csv.total, csv.cut) == ((("1", "2"), ("3", "4")), 2, False)
    logged = preview("t.json", 1, msgspec.json.encode({"columns": ["q"], "data": [["x"], [1.5]]}))
    assert (logged.kind, logged.rows) == ("table", (("x",), ("1.5",)))
    assert preview("c.json", 1, b'{"a":[1]}').text == '{\n  "a": [\n    1\n  ]\n}'
    deep = preview("deep.json", 1, b"[" * 100_000)
    assert deep.kind == "text"
    assert preview("page.html", 1, b"<script>").kind == "text"
    assert preview("m.bin", 1, b"\x00\x01").kind == preview("l.txt", 1, b"\xff\xfe").kind == "none"
    assert preview("bad.parquet", 1, b"no").problem
    assert preview("big.txt", 1, None).problem
    assert (image_type("p/roc.PNG"), image_type("page.html"), image_type("png")) == ("image/png", "", "")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "![a](http://evil.example/x.png)",
        "[a](data:text/html;base64,PHNjcmlwdD4=)",
        '[a](https://x.example "onmouseover=alert(1)")',
        "<a href='vbscript:x'>",
    ],
)
def test_a_note_is_never_more_than_text_and_links(text: str) -> None:
    html = rendered(text)
    assert not any(word in html for word in ("<script", "<img", 'href="javascript', 'href="data', "<a href='"))


def test_a_note_in_markdown() -> None:
    assert rendered("**a** [b](https://c.example)") == '<p><strong>a</strong> <a href="https://c.example">b</a></p>\n'
    assert "<table>" in rendered("|a|\n|-|\n|1|")


def history(number: int, *marks: tuple[str, int]) -> VersionHistory:
    version = ModelVersion(model="m", version=number, bundle="", lineage=Lineage(run="", spec="", data_digest=""), trigger="",
                           at=START, stage="candidate", reason="")  # fmt: skip
    stages = tuple(StageMark(stage=stage, reason=stage, at=START + timedelta(days=day)) for stage, day in marks)  # type: ignore[arg-type]
    return VersionHistory(version=version, stages=stages, evidence=(), approvals=())


def test_who_was_champion_when() -> None:
    found = reigns([
        history(3, ("candidate", 4), ("champion", 6)),
        history(2, ("candidate", 1), ("champion", 2), ("rolled_back", 3)),
        history(1, ("champion", 0), ("retired", 2), ("champion", 3), ("champion", 5)),
    ])  # fmt: skip
    days = [
        (one.version, (one.since - START).days, None if one.until is None else (one.until - START).days)
        for one in found
    ]
    assert days == [(3, 6, None), (1, 3, 6), (2, 2, 3), (1, 0, 2)]
    assert reigns([]) == ()


def test_empty_stores_teach(workspace: Workspace) -> None:
    pages = Pages(workspace)
    assert "kilter.run(" in pages.tracking.experiments({})
    assert "MLFLOW_TRACKING_URI" in pages.tracking.experiments({})
    assert "kilter deploy" in pages.models.index({})
    workspace.runs.create_experiment("none yet")
    assert "kilter.run(" in pages.tracking.experiment("none yet", {}, acts=False)
