"""Parts that wait aside, in a folder and in a bucket."""

import polars as pl
import pytest

from kilter.core.errors import Damaged
from kilter.engines.files.staging import clear_stage, read_staged, stage_beside, stage_of, staged
from kilter.engines.files.writing import Job, open_output


def name(number):
    return f"{number}" * 64


def written(root, number, *parts):
    place = stage_of(root, name(number))
    output = open_output(place, Job(name(number), {}), format="arrow")
    for part in parts:
        output.write(*part, pl.DataFrame({"n": [number, part[1]]}))
    return place


def test_parts_are_found_in_any_order_and_jobs_do_not_mix(bytes_url):
    root = stage_beside(bytes_url)
    assert root != bytes_url
    first = written(root, 1, (2, 0), (0, 7), (0, 1))
    second = written(root, 2, (0, 1))
    found = staged(first)
    assert sorted(found) == [(0, 1), (0, 7), (2, 0)]
    assert read_staged(first, found[0, 7])["n"].to_list() == [1, 7]
    clear_stage(root, but=name(2))
    assert staged(first) == {}
    assert list(staged(second)) == [(0, 1)]
    clear_stage(root)
    assert staged(second) == {}
    clear_stage(root)


def test_a_straggler_writes_nothing_where_its_job_was_cleared(tmp_path):
    root = stage_beside(str(tmp_path / "out"))
    output = open_output(stage_of(root, name(1)), Job(name(1), {}), format="arrow")
    written(root, 2, (0, 0))
    clear_stage(root, but=name(2))
    with pytest.raises(Exception, match="can't be written"):
        output.write(0, 0, pl.DataFrame({"n": [1]}))
    assert staged(stage_of(root, name(1))) == {}


def test_a_part_that_was_cut_off_is_told(tmp_path):
    place = written(stage_beside(str(tmp_path / "out")), 1, (0, 0))
    (piece,) = staged(place).values()
    with open(piece.uri, "r+b") as file:  # noqa: PTH123 - its middle is cut out
        file.truncate(40)
    with pytest.raises(Damaged):
        read_staged(place, piece)
