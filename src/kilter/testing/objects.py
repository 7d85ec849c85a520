"""The contract of object stores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from kilter.core.digests import digest
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore


class ObjectStoreContract:
    """What every object store does; a subclass gives the fixture ``objects``, an empty store."""

    def test_returns_what_was_put(self, objects: ObjectStore) -> None:
        """Bytes come back under their BLAKE3 digest, the empty ones too."""
        for data in (b"", b"x", bytes(range(256)) * 4096):
            assert objects.put(data) == digest(data)
            assert objects.get(digest(data)) == data

    def test_takes_any_buffer(self, objects: ObjectStore) -> None:
        """A bytearray and a memoryview are bytes as well."""
        name = objects.put(bytearray(b"flight"))
        assert objects.put(memoryview(b"flight")) == name
        assert objects.get(name) == b"flight"

    def test_putting_twice_is_putting_once(self, objects: ObjectStore) -> None:
        """The same bytes have one object."""
        objects.put(b"same")
        objects.put(b"same")
        assert list(objects.digests()) == [digest(b"same")]

    def test_lists_every_object(self, objects: ObjectStore) -> None:
        """The digests are those of everything that was put."""
        assert list(objects.digests()) == []
        names = {objects.put(b"%d" % number) for number in range(30)}
        assert sorted(objects.digests()) == sorted(names)

    def test_deletes(self, objects: ObjectStore) -> None:
        """A deleted object is gone, and deleting it again is no error."""
        name = objects.put(b"gone")
        assert objects.has(name)
        objects.delete(name)
        objects.delete(name)
        assert not objects.has(name)
        with pytest.raises(NotFound, match="no object"):
            objects.get(name)

    @pytest.mark.parametrize("name", ["", "abc", "../../etc/passwd", "A" * 64, "0" * 63 + "/", "0" * 65])
    def test_refuses_what_is_no_digest(self, objects: ObjectStore, name: str) -> None:
        """A name that is no digest never reaches the disk."""
        for method in (objects.get, objects.has, objects.delete):
            with pytest.raises(InvalidInput, match="not a digest"):
                method(name)

    def test_many_threads_put_the_same(self, objects: ObjectStore) -> None:
        """Writers of the same bytes do not disturb each other."""
        data = b"shared" * 10_000
        with ThreadPoolExecutor(4) as pool:
            names = set(pool.map(lambda _: objects.put(data), range(16)))
        assert names == {digest(data)}
        assert objects.get(digest(data)) == data
