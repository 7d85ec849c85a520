"""Keys at rest, at the door, and the register of who came."""

from datetime import UTC, datetime, timedelta

import pytest

from kilter.core.access import new_secret, secret_digest
from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthorized
from kilter.loop.workspace import Workspace
from kilter.serving.access.consumers import MOST, ConsumerService, Seen, family
from kilter.serving.access.keys import KeyRing

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    with Workspace.open(tmp_path, ManualClock(NOW)) as workspace:
        yield workspace


def test_the_store_has_digests_only(store):
    key, digest = new_secret("kk_")
    assert digest == secret_digest(key)
    store.keys.create("app", digest, ["one", "one", "two"])
    [held] = store.keys.all()
    assert (held.digest, held.endpoints) == (digest, ("one", "two"))
    store.database.close()
    assert key.encode() not in b"".join(path.read_bytes() for path in store.store.folder.glob("kilter.db*"))


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("App", "0" * 64), "name"),
        (("token", "0" * 64), "name"),
        (("anonymous", "0" * 64), "name"),
        (("a" * 65, "0" * 64), "name"),
        (("app", "0" * 63), "digest"),
        (("app", "kk_a-key-that-was-sent-by-mistake"), "digest"),
        (("app", "0" * 64, ["one", "No Such"]), r"endpoints\[1\]"),
        (("app", "0" * 64, [], NOW), "expires_at"),
    ],
)
def test_what_can_not_be_a_key_is_refused(store, arguments, where):
    with pytest.raises(InvalidInput, match=where) as error:
        store.keys.create(*arguments)
    assert "kk_a-key" not in str(error.value)


def test_names_are_given_once(store):
    store.keys.create("app", "1" * 64)
    for name, digest in (("app", "2" * 64), ("second", "1" * 64)):
        with pytest.raises(Conflict):
            store.keys.create(name, digest)
    first = store.keys.revoke("app")
    store.clock.advance(timedelta(hours=1))
    assert store.keys.revoke("app") == first
    with pytest.raises(Conflict):
        store.keys.create("app", "3" * 64)
    with pytest.raises(NotFound):
        store.keys.revoke("nobody")


def test_the_door(store):
    clock = store.clock
    ring = KeyRing(None, clock)
    assert (ring.locked, ring.caller(None).name) == (False, "")
    (mine, mine_digest), (short, short_digest), (gone, gone_digest) = (
        new_secret("kk_"),
        new_secret("kk_"),
        new_secret("kk_"),
    )
    store.keys.create("mine", mine_digest, ["one"])
    store.keys.create("short", short_digest, (), NOW + timedelta(hours=1))
    store.keys.create("gone", gone_digest)
    store.keys.revoke("gone")
    ring.know(store.keys.all())
    assert ring.caller(f"Bearer {mine}").name == "mine"
    assert ring.caller(f"bearer  {mine} ").name == "mine"
    assert ring.caller(None, mine).name == "mine"
    assert ring.caller(f"Bearer {short}").name == "short"
    for sent in (None, "", mine, f"Basic {mine}", f"Bearer {gone}", "Bearer kk_x", f"Bearer {mine_digest}"):
        with pytest.raises(Unauthorized) as error:
            ring.caller(sent)
        assert mine not in str(error.value)
    ring.check("mine", "one")
    ring.check("short", "two")
    with pytest.raises(Forbidden):
        ring.check("mine", "two")
    clock.advance(timedelta(hours=1))
    with pytest.raises(Unauthorized, match="expired"):
        ring.caller(f"Bearer {short}")


def test_the_last_key_revoked_does_not_open_the_door(store):
    key, digest = new_secret("kk_")
    store.keys.create("app", digest)
    store.keys.revoke("app")
    ring = KeyRing(None, store.clock)
    ring.know(store.keys.all())
    with pytest.raises(Unauthorized):
        ring.caller(f"Bearer {key}")
    with_token = KeyRing("s3cret", store.clock)
    with_token.know(store.keys.all())
    assert with_token.caller("Bearer s3cret").name == "token"


# ---------------------------------------------------------------- consumers


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (b"curl/8.5.0", "curl"),
        (b"python-requests/2.32", "python-requests"),
        (b"grpc-python/1.80 grpc-c/50 (linux; chttp2)", "grpc-python"),
        (b"Boto3/1.40 md/Botocore#1.40 ua/2.1", "boto3"),
        (b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "browser"),
        (b"", "none"),
        (b"my-own/1", "other"),
        (b"\xff" * 10_000, "other"),
    ],
)
def test_programs_are_known_by_few_words(agent, name):
    assert family(agent) == name


def test_what_a_front_counts_is_bounded():
    seen = Seen(most=10)
    for number in range(1000):
        seen.saw("one", f"client-{number}", b"", "predict", 2)
    taken = seen.take()
    assert len(taken) == 11
    assert sum(requests for requests, _ in taken.values()) == 1000
    assert taken["one", "other", "other", "other"] == [990, 1980]
    assert seen.take() == {}
    seen.put_back(taken)
    assert seen.take() == taken


def test_the_register_adds_up_and_remembers_when(store):
    seen = Seen()
    seen.saw("one", "app", b"curl/8", "predict", 3)
    seen.saw("one", "", b"curl/8", "v2", 1)
    store.consumers.add(seen.take())
    store.clock.advance(timedelta(days=1))
    seen.saw("one", "app", b"curl/9", "predict", 1)
    store.consumers.add(seen.take())
    first, second = store.consumers.of("one")
    assert (first.client, first.agent, first.protocol, first.requests, first.rows) == ("app", "curl", "predict", 2, 4)
    assert (first.first_seen, first.last_seen) == (NOW, NOW + timedelta(days=1))
    assert (second.client, second.protocol) == ("anonymous", "v2")
    assert store.consumers.forget("one", "app") == 1
    assert [one.client for one in store.consumers.all()] == ["anonymous"]


def test_the_register_is_bounded_and_keeps_the_newest(store):
    service = ConsumerService(store.database, store.clock, most=3)
    for number in range(6):
        store.clock.advance(timedelta(minutes=1))
        service.add({("one", f"c{number}", "curl", "v2"): [1, 1]})
    assert [one.client for one in service.of("one")] == ["c5", "c4", "c3"]
    assert MOST <= 10_000
