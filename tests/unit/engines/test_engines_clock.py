"""One clock for several processes."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.core.errors import Damaged, NotFound
from kilter.engines.clock import SharedClock


def test_all_see_the_time_that_one_sets(tmp_path, clock):
    first, second = SharedClock(tmp_path / "run" / "clock"), SharedClock(tmp_path / "run" / "clock")
    with pytest.raises(NotFound, match="not been started"):
        first.now()
    first.set(clock.now())
    assert second.now() == clock.now()
    second.set(clock.advance(timedelta(days=300, microseconds=1)))
    assert first.now() == clock.now()
    code = "import sys; from kilter.engines.clock import SharedClock; print(SharedClock(sys.argv[1]).now().isoformat())"
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run" / "clock")], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == clock.now().isoformat()


@given(moment=st.datetimes(datetime(1980, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_microseconds_are_kept(tmp_path_factory, moment):
    shared = SharedClock(tmp_path_factory.mktemp("clock") / "clock")
    shared.set(moment.astimezone(timezone(timedelta(hours=5))))
    assert shared.now() == moment


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 8, b"long enough to be wrong"])
def test_a_file_that_holds_no_time_is_damage(tmp_path, content):
    (tmp_path / "clock").write_bytes(content)
    with pytest.raises(Damaged):
        SharedClock(tmp_path / "clock").now()
