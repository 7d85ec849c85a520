"""Large objects: pieces that versions share, what is left behind, what is damaged."""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest
from blake3 import blake3

from kilter.core.digests import digest
from kilter.core.errors import Damaged, InvalidInput, NotFound, Unavailable
from kilter.engines.objects.cutting import LEAST, MOST, Cutter
from kilter.engines.objects.store import ObjectStore

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def cut(data: bytes, at_once: int) -> list[bytes]:
    cutter, found = Cutter(), []
    for begin in range(0, len(data), at_once):
        found += cutter.feed(data[begin : begin + at_once])
    return [*found, *cutter.end()]


def write(objects: ObjectStore, data: bytes) -> str:
    writer = objects.writer()
    for begin in range(0, len(data), 700_001):
        writer.write(data[begin : begin + 700_001])
    return writer.finish()


@pytest.fixture
def objects(tmp_path) -> ObjectStore:
    return ObjectStore.open(str(tmp_path / "objects"))


def held(objects: ObjectStore) -> int:
    return sum(entry.size for entry in objects._shelf.list("pieces"))


@pytest.mark.parametrize("size", [0, 1, LEAST, MOST, MOST + 1, 13 * MIB])
def test_pieces_join_to_the_whole_however_it_comes(size):
    data = noise(size)
    once = cut(data, size or 1)
    assert b"".join(once) == data
    assert cut(data, 77_777) == once
    assert all(len(piece) <= MOST for piece in once)
    assert all(len(piece) >= LEAST for piece in once[:-1])


def test_a_changed_header_costs_a_piece_or_two(objects):
    first = noise(40 * MIB)
    second = b"a header that is longer now" + first[5:]
    assert write(objects, first) == digest(first)
    before = held(objects)
    assert write(objects, second) == digest(second)
    assert held(objects) - before <= 2 * MOST
    assert b"".join(objects.read(digest(second))) == second == objects.get(digest(second))
    assert sorted(objects.digests()) == sorted([digest(first), digest(second)])


def test_text_and_zeros_are_cut_as_well():
    text = b"".join(b"%d,%d\n" % (place, place * 7919 % 104_729) for place in range(900_000))
    changed = b"id,value\n" + text
    known = {digest(piece) for piece in cut(text, MIB)}
    fresh = [piece for piece in cut(changed, MIB) if digest(piece) not in known]
    assert sum(len(piece) for piece in fresh) <= 2 * MOST
    assert {len(piece) for piece in cut(bytes(20 * MIB), MIB)} <= {MOST}


def test_a_range_reads_only_its_bytes(objects):
    for size in (5 * MIB, 20 * MIB):
        data = noise(size)
        name = write(objects, data)
        for start, end in ((0, 10), (3 * MIB + 1, size - 7), (size - 1, size), (size, size), (100, 10 * size)):
            assert b"".join(objects.read(name, start, end)) == data[start:end], (size, start, end)
        assert objects.size(name) == size
        assert objects.has(name)


def test_a_damaged_piece_is_noticed_before_it_is_handed_out(objects, tmp_path):
    data = noise(20 * MIB)
    name = write(objects, data)
    piece = max((tmp_path / "objects" / "pieces").rglob("*"), key=lambda file: file.stat().st_size)
    changed = bytearray(piece.read_bytes())
    changed[7] ^= 1
    piece.write_bytes(changed)
    handed = bytearray()

    def read() -> None:
        for part in objects.read(name):
            handed.extend(part)

    with pytest.raises(Damaged):
        read()
    assert data.startswith(handed)
    piece.unlink()
    with pytest.raises(Damaged, match="lost a piece"):
        objects.get(name)
    assert write(objects, data) == name  # the same upload once more heals it
    assert objects.get(name) == data


def test_an_object_of_an_earlier_version_in_one_piece_is_read(objects, tmp_path):
    data = noise(20 * MIB)
    name = objects.put(data)
    assert b"".join(objects.read(name)) == data
    assert b"".join(objects.read(name, 5, 12 * MIB)) == data[5 : 12 * MIB]
    file = tmp_path / "objects" / name[:2] / name[2:]
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Damaged):
        list(objects.read(name))


def test_what_was_never_finished_is_swept_and_nothing_else(objects, tmp_path):
    kept = noise(12 * MIB)
    name = write(objects, kept)
    writer = objects.writer()
    writer.write(noise(30 * MIB, 2))  # and the process goes away
    asyncio.run(stage(objects, "ab" * 16, b"part"))
    before = held(objects)
    assert objects.sweep(3600) == 0
    old = time.time() - 7200
    for file in (tmp_path / "objects").rglob("*"):
        os.utime(file, (old, old))
    assert objects.sweep(3600) >= before - len(kept)
    assert held(objects) == len(kept)
    assert objects.get(name) == kept
    with pytest.raises(NotFound):
        objects.staging.about("ab" * 16)
    assert not list((tmp_path / "objects" / "staging").iterdir())


def test_a_piece_that_is_used_again_is_young_again(objects, tmp_path):
    data = noise(12 * MIB)
    writer = objects.writer()
    writer.write(data)
    old = time.time() - 7200
    for file in (tmp_path / "objects" / "pieces").rglob("*"):
        os.utime(file, (old, old))
    again = objects.writer()
    again.write(data)
    assert objects.sweep(3600) == 0
    name = again.finish()
    assert objects.get(name) == data


async def stage(objects: ObjectStore, upload: str, data: bytes) -> None:
    async def pieces():
        yield data

    objects.staging.begin(upload, b"about")
    await objects.staging.put(upload, 1, pieces())


def test_a_part_that_breaks_off_is_not_there(objects):
    async def broken():
        yield b"x" * 100
        raise OSError("gone")

    upload = "cd" * 16
    objects.staging.begin(upload, b"about")
    with pytest.raises(Unavailable, match="gone"):
        asyncio.run(objects.staging.put(upload, 1, broken()))
    assert objects.staging.parts(upload) == {}


def test_pieces_by_name_give_the_whole_or_nothing(objects):
    pieces = [noise(MIB, seed) for seed in range(3)]
    names = [digest(piece) for piece in pieces]
    assert objects.missing(names) == tuple(names)
    for piece in pieces[:2]:
        objects.put_piece(piece)
    assert objects.missing(names) == (names[2],)
    whole = blake3(b"".join(pieces)).hexdigest()
    with pytest.raises(NotFound, match="no piece"):
        objects.assemble(names, whole)
    objects.put_piece(pieces[2])
    with pytest.raises(InvalidInput, match="another digest"):
        objects.assemble(names[::-1], whole)
    assert not objects.has(whole)
    assert objects.assemble(names, whole) == 3 * MIB
    assert objects.get(whole) == b"".join(pieces)
    with pytest.raises(InvalidInput, match="bytes"):
        objects.put_piece(bytes(MOST + 1))
    for wrong in ("../../etc/passwd", "x", ""):
        with pytest.raises(InvalidInput):
            objects.missing([wrong])
        with pytest.raises(InvalidInput):
            objects.staging.about(wrong)


def test_bytes_with_another_digest_is_refused(objects):
    writer = objects.writer()
    writer.write(noise(10 * MIB))
    with pytest.raises(InvalidInput, match="another digest"):
        writer.finish("0" * 64)
    assert not objects.has("0" * 64)
