"""Histories that grew, were cut off, were edited, or were never what they claim to be."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.history.memory import small_file
from kilter.tracking.history.records import (
    Broken,
    Brought,
    Ended,
    LeftOut,
    Measured,
    Piece,
    RunSeen,
    Said,
    Source,
)
from kilter.tracking.history.selection import Selection
from kilter.tracking.history.sources import open_source
from kilter.tracking.history.writer import VERSION, Writer
from kilter.tracking.records import MetricPoint, spelled
from kilter.tracking.service import RunService

FIXTURES = Path(__file__).parents[2] / "fixtures" / "imports"
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def runs(database: Database, clock: ManualClock, tmp_path: Path) -> RunService:
    return RunService(database, ObjectStore.open(str(tmp_path / "objects")), clock)


class Told(Source):
    """A source that says what it was told, and breaks where it was told to."""

    kind = "told"

    def __init__(self, points: list[MetricPoint], version: str, *, stop: int = 10**9, error: Exception | None = None):
        self.points = points
        self.version = version
        self.stop = stop
        self.error = error

    def experiments(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        return iter(())

    def runs(self) -> Iterator[RunSeen | Broken | LeftOut]:
        yield RunSeen(origin="one", experiment="e", name="run", started_at=BEGAN, version=self.version)

    def read(self, run: RunSeen) -> Iterator[Piece]:  # noqa: ARG002 - there is one
        yield Said(params={"a": 1, "odd [name]": 2})
        for start in range(0, len(self.points), 1000):
            if start >= self.stop and self.error is not None:
                raise self.error
            yield Measured(self.points[start : start + 1000])
        yield small_file("notes.txt", self.version.encode())
        yield Ended("FINISHED", BEGAN + timedelta(hours=1))

    def close(self) -> None:
        pass


def point(step: int, value: float, name: str = "loss", at: int | None = None) -> MetricPoint:
    return MetricPoint(
        name=name, value=spelled(value), step=step, at=BEGAN + timedelta(seconds=step if at is None else at)
    )


def bring(runs: RunService, source: Source, chosen: str = "") -> Brought:
    writer = Writer(runs, selection=Selection(chosen))
    return writer.bring(source, "here", lambda _: None, list(source.runs()))


def stored(runs: RunService, name: str = "loss") -> list[tuple[int, float]]:
    (run,) = runs.list(view="all").runs
    return [(one.step, one.number) for one in runs.metrics(run.id, name)]


def test_a_run_that_grew_gets_only_what_is_new(runs: RunService) -> None:
    points = [point(step, step / 7) for step in range(25_000)]
    assert bring(runs, Told(points[:12_345], "1")).points == 12_345
    grown = bring(runs, Told(points, "2"))
    assert (grown.runs, grown.grown, grown.points, grown.files) == (0, 1, 25_000 - 12_345, 1)
    assert stored(runs) == [(step, step / 7) for step in range(25_000)]
    (run,) = runs.list().runs
    assert runs.artifact(run.id, "notes.txt") == b"2"
    assert json.loads(run.tags["kilter.import.names"]) == {"odd _name_": "odd [name]"}


@pytest.mark.parametrize("stop", [1000, 10_000, 13_000, 24_000])
def test_an_import_that_was_cut_off_goes_on_where_it_was(runs: RunService, stop: int) -> None:
    points = [point(step % 50, step / 7, at=step) for step in range(25_000)]  # many points of one step
    with pytest.raises(Unavailable):
        bring(runs, Told(points, "1", stop=stop, error=Unavailable("away")))
    again = bring(runs, Told(points, "1"))
    assert (again.runs, again.failed) == (1, ())
    assert sorted(stored(runs)) == sorted((step % 50, step / 7) for step in range(25_000))
    assert bring(runs, Told(points, "1")).unchanged == 1


def test_what_came_before_something_broken_holds_and_is_completed_later(runs: RunService) -> None:
    points = [point(step, step / 7) for step in range(5000)]
    broken = bring(runs, Told(points, "1", stop=3000, error=ValueError("torn")))
    assert [failure.why for failure in broken.failed] == ["ValueError: torn"]
    (run,) = runs.list().runs
    assert (len(stored(runs)), run.status, VERSION in run.tags) == (3000, "INTERRUPTED", False)
    whole = bring(runs, Told(points, "1"))
    assert (whole.points, whole.failed) == (2000, ())
    (run,) = runs.list().runs
    assert (len(stored(runs)), run.status) == (5000, "FINISHED")


def test_a_source_that_was_edited_is_compared_point_by_point(runs: RunService) -> None:
    points = [point(step, float(step)) for step in range(100)]
    bring(runs, Told(points, "1"))
    late = [*points[:50], point(49, 0.5, at=1000), *points[50:], point(100, 100.0)]
    assert bring(runs, Told(late, "2")).points == 2
    assert sorted(stored(runs)) == sorted([*((step, float(step)) for step in range(101)), (49, 0.5)])
    assert bring(runs, Told(late, "3")).points == 0


def test_a_param_that_changed_is_told_and_kept(runs: RunService) -> None:
    bring(runs, Told([], "1"))
    (run,) = runs.list().runs

    class Changed(Told):
        def read(self, run: RunSeen) -> Iterator[Piece]:  # noqa: ARG002 - there is one
            yield Said(params={"a": 2})

    assert bring(runs, Changed([], "2")).left_out == {"param that changed after it was imported": 1}
    assert runs.get(run.id).params["a"] == 1


def test_a_run_that_was_deleted_here_stays_so(runs: RunService) -> None:
    bring(runs, Told([], "1"))
    (run,) = runs.list().runs
    runs.delete(run.id)
    assert bring(runs, Told([point(1, 1.0)], "2")).unchanged == 1
    assert runs.list().runs == ()


def test_names_of_metrics_that_meet_stay_apart(runs: RunService) -> None:
    bring(
        runs, Told([point(1, 1.0, "a[0]"), point(1, 2.0, "a{0}"), point(1, 3.0, "a_0_"), point(1, 4.0, "x" * 300)], "1")
    )
    (run,) = runs.list().runs
    assert len(run.metrics) == 4
    assert sorted(float(metric.last) for metric in run.metrics) == [1.0, 2.0, 3.0, 4.0]


def test_a_filter_that_asks_for_the_unknown_is_refused() -> None:
    with pytest.raises(InvalidInput, match="can't be chosen by"):
        Selection("metrics.auc > 1")


# ---------------------------------------------------------------- files that are not what they claim


def opened(runs: RunService, kind: str, place: Path, files: Path | None = None) -> Brought:
    return bring(runs, open_source(kind, str(place), files))


def copied(tmp_path: Path, kind: str) -> Path:
    return Path(shutil.copytree(FIXTURES / kind, tmp_path / kind))


def test_a_link_out_of_the_folder_is_not_followed(runs: RunService, tmp_path: Path) -> None:
    folder = copied(tmp_path, "wandb")
    (tmp_path / "secret.txt").write_text("secret")
    log = next(folder.glob("wandb/*/run-*.wandb"))
    (log.parent / "files" / "linked.txt").symlink_to(tmp_path / "secret.txt")
    (log.parent / "files" / "folder").symlink_to(tmp_path, target_is_directory=True)
    brought = opened(runs, "wandb", log.parent)
    assert brought.left_out["file that is a link out of the folder (give its folder with --files)"] == 1
    assert brought.left_out["folder that is a link"] == 1
    (run,) = runs.list().runs
    assert [kept.name for kept in run.artifacts if "linked" in kept.name or "secret" in kept.name] == []


def test_a_torn_log_is_read_up_to_there_and_goes_on(runs: RunService, tmp_path: Path) -> None:
    log = next(copied(tmp_path, "wandb").glob("wandb/*/run-*.wandb"))
    whole = log.read_bytes()
    log.write_bytes(whole[: len(whole) // 2])
    torn = opened(runs, "wandb", log.parent)
    (run,) = runs.list().runs
    assert (torn.failed, run.status) == ((), "RUNNING")
    log.write_bytes(whole)
    grown = opened(runs, "wandb", log.parent)
    (run,) = runs.list().runs
    assert grown.grown == 1
    assert grown.points > 0
    assert run.status in {"FINISHED", "FAILED"}
    assert [one.step for one in runs.metrics(run.id, "loss")] == list(range(40))


@pytest.mark.parametrize("kind", ["wandb", "tensorboard"])
def test_a_flipped_bit_stops_that_run_and_no_other(runs: RunService, tmp_path: Path, kind: str) -> None:
    folder = copied(tmp_path, kind)
    log = min(folder.glob("**/run-*.wandb" if kind == "wandb" else "**/train/*tfevents*"))
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0x10
    log.write_bytes(data)
    brought = opened(runs, kind, folder)
    assert len(brought.failed) == 1
    assert "checksum" in brought.failed[0].why
    assert brought.runs >= 1


@pytest.mark.parametrize("kind", ["wandb", "tensorboard", "comet", "neptune", "mlflow"])
@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b":W&B\xe1\xbe\x00" + b"\xff" * 64, b"PK\x03\x04" + b"x" * 50])
def test_rubbish_is_refused_with_a_reason(runs: RunService, tmp_path: Path, kind: str, data: bytes) -> None:
    names = {
        "wandb": "run-x.wandb",
        "tensorboard": "events.out.tfevents.1.x",
        "comet": "x.zip",
        "neptune": "RUN-1_part_0.parquet",
        "mlflow": "1/meta.yaml",
    }
    path = tmp_path / "rubbish" / names[kind]
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    try:
        brought = opened(runs, kind, tmp_path / "rubbish")
    except InvalidInput:
        assert kind == "mlflow"
        return
    stored_points = sum(metric.count for run in runs.list(view="all").runs for metric in run.metrics)
    assert (brought.points, stored_points) == (0, 0)
    assert brought.failed or kind == "tensorboard"  # an event file without an event is an empty run


def archive(path: Path, members: dict[str, bytes], messages: list[object]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("experiment.json", json.dumps({"offline_id": path.stem, "start_time": 1, "stop_time": 2}))
        file.writestr("messages.json", "\n".join(json.dumps(message) for message in messages))
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_a_bomb_is_not_unpacked(runs: RunService, tmp_path: Path) -> None:
    big = io.BytesIO(b"\0" * (400 << 20))
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr("experiment.json", "{}")
        file.writestr("messages.json", "")
        with file.open("x", "w") as member:
            shutil.copyfileobj(big, member, 1 << 20)
    brought = opened(runs, "comet", path)
    assert "would unpack to" in brought.failed[0].why
    assert brought.runs == 0


def test_names_that_climb_stay_inside(runs: RunService, tmp_path: Path) -> None:
    upload = {"upload_type": "asset", "additional_params": {"fileName": "../../../etc/passwd"}, "file_path": "a"}
    other = {"upload_type": "asset", "additional_params": {"fileName": "/etc/shadow"}, "file_path": "../b"}
    path = archive(
        tmp_path / "climbing.zip",
        {"a": b"one", "../b": b"two"},
        [{"type": "file_upload", "payload": upload}, {"type": "file_upload", "payload": other}],
    )
    opened(runs, "comet", path)
    (run,) = runs.list().runs
    assert [kept.name for kept in run.artifacts] == ["etc/passwd", "etc/shadow"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "metric_msg", "payload": {"metric": [1], "local_timestamp": 1}},
        {"type": "metric_msg", "payload": {"metric": {"metricName": "a", "metricValue": {}, "step": 1}}},
        {"type": "metric_msg", "payload": {"metric": {"metricName": "a", "metricValue": 1, "step": 2**80}}},
        {"type": "metric_msg", "payload": {"metric": {"metricName": "a", "metricValue": 1}, "local_timestamp": 1e300}},
        {"type": "parameter_msg", "payload": {"param": "x"}},
        ["no", "object"],
    ],
)
def test_a_message_of_the_wrong_shape_stops_its_run(runs: RunService, tmp_path: Path, message: object) -> None:
    archive(tmp_path / "bad.zip", {}, [{"type": "log_other", "payload": {"key": "Name", "value": "n"}}, message])
    archive(tmp_path / "good.zip", {}, [])
    brought = opened(runs, "comet", tmp_path)
    assert len(brought.failed) == 1
    assert brought.runs == 1


def test_metadata_that_would_make_objects_makes_none(runs: RunService, tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    (folder / "1" / "abc").mkdir(parents=True)
    (folder / "1" / "meta.yaml").write_text("name: e\nexperiment_id: '1'\n")
    mark = tmp_path / "mark"
    (folder / "1" / "abc" / "meta.yaml").write_text(f"run_id: !!python/object/apply:os.mkdir ['{mark}']\n")
    brought = opened(runs, "mlflow", folder)
    assert "no YAML" in brought.failed[0].why
    assert not mark.exists()


def test_artifacts_of_a_run_come_from_its_folder_only(runs: RunService, tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    (folder / "1" / "abc").mkdir(parents=True)
    (folder / "1" / "meta.yaml").write_text("name: e\nexperiment_id: '1'\n")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.txt").write_text("secret")
    (folder / "1" / "abc" / "meta.yaml").write_text(
        f"run_id: abc\nstart_time: 1\nstatus: 3\nend_time: 2\nartifact_uri: {secret}\n"
    )
    brought = opened(runs, "mlflow", folder)
    assert sum(brought.left_out.values()) == 1
    assert runs.list().runs[0].artifacts == ()
    os.utime(folder / "1" / "abc" / "meta.yaml", (9, 9))
    assert opened(runs, "mlflow", folder, files=secret).files == 1


def test_a_length_that_lies_is_no_reason_to_allocate_it(runs: RunService, tmp_path: Path) -> None:
    log = tmp_path / "events.out.tfevents.1.x"
    with log.open("wb") as file:
        start = struct.pack("<Q", 1 << 60)
        file.write(start + struct.pack("<I", 0) + b"x" * 100)
    brought = opened(runs, "tensorboard", tmp_path)
    assert "checksum" in brought.failed[0].why
