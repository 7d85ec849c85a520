from __future__ import annotations

import asyncio
import threading

import pytest

from kilter.core.errors import Conflict, Unavailable
from kilter.server.groups import Groups


class Work:
    """Notes the groups that it is given, and holds the first one until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.ended = 0

    def act(self, asked):
        self.groups.append(list(asked))
        self.began.set()
        self.go.wait(10)
        if 13 in asked:
            raise Conflict("thirteen")
        return [one * 2 for one in asked]

    def end(self) -> None:
        self.ended += 1


async def began(work: Work) -> None:
    await asyncio.get_running_loop().run_in_executor(None, work.began.wait, 10)


def test_what_waits_is_done_as_one_group_and_each_gets_its_own():
    work = Work()
    groups: Groups[int, int] = Groups(work.act, work.end, together=4)

    async def go():
        first = groups.ask(1)
        await began(work)
        others = [groups.ask(number) for number in range(2, 8)]
        work.go.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(go()) == [2, 4, 6, 8, 10, 12, 14]
    assert work.groups == [[1], [2, 3, 4, 5], [6, 7]]
    groups.close()
    assert work.ended == 1


def test_an_error_of_the_group_is_that_of_all_in_it_and_of_nobody_else():
    work = Work()
    work.go.set()
    groups: Groups[int, int] = Groups(work.act, work.end)

    async def go():
        with pytest.raises(Conflict, match="thirteen"):
            await groups.ask(13)
        return await groups.ask(1)

    assert asyncio.run(go()) == 2
    groups.close()


def test_the_queue_is_bounded_and_whoever_goes_away_still_counts():
    work = Work()
    groups: Groups[int, int] = Groups(work.act, work.end, most=3)

    async def go():
        asked = [groups.ask(1)]
        await began(work)
        asked += [groups.ask(2), groups.ask(3)]
        with pytest.raises(Unavailable, match="busy"):
            groups.ask(4)
        asked[1].cancel()
        with pytest.raises(Unavailable, match="busy"):
            groups.ask(4)
        work.go.set()
        assert await asked[0] == 2
        assert await asked[2] == 6
        return await groups.ask(5)

    assert asyncio.run(go()) == 10
    assert work.groups[1] == [2, 3]  # what was asked is done, whether or not somebody waits
    groups.close()


def test_closing_does_what_waits_and_takes_no_more():
    work = Work()
    groups: Groups[int, int] = Groups(work.act, work.end)

    async def go():
        asked = [groups.ask(1)]
        await began(work)
        asked.append(groups.ask(2))
        threading.Timer(0.05, work.go.set).start()
        await asyncio.get_running_loop().run_in_executor(None, groups.close)
        with pytest.raises(Unavailable, match="ending"):
            groups.ask(3)
        return await asyncio.gather(*asked)

    assert asyncio.run(go()) == [2, 4]
    assert work.ended == 1
