"""Objects in a folder and in S3 when their bytes or their places are not right."""

import pytest

from kilter.core.digests import digest
from kilter.core.errors import Damaged, InvalidInput, Unavailable
from kilter.engines.location import Bucket, Folder, locate
from kilter.engines.objects.store import ObjectStore


@pytest.fixture
def store(tmp_path):
    return ObjectStore.open(str(tmp_path / "objects"))


def place(tmp_path, name):
    return tmp_path / "objects" / name[:2] / name[2:]


def test_a_flipped_byte_is_damage(store, tmp_path):
    name = store.put(b"the model's trees")
    file = place(tmp_path, name)
    file.write_bytes(b"the model's treez")
    with pytest.raises(Damaged, match=name[:12]):
        store.get(name)


@pytest.mark.parametrize("cut", [0, 1, 16])
def test_a_torn_object_is_damage_and_a_put_mends_it(store, tmp_path, cut):
    name = store.put(b"the model's trees")
    place(tmp_path, name).write_bytes(b"the model's trees"[:cut])
    with pytest.raises(Damaged):
        store.get(name)
    assert store.put(b"the model's trees") == name
    assert store.get(name) == b"the model's trees"


def test_other_files_in_the_folder_are_no_objects(store, tmp_path):
    name = store.put(b"x")
    (tmp_path / "objects" / "README").write_text("hello")
    (tmp_path / "objects" / name[:2] / "notes.txt").write_text("hello")
    assert list(store.digests()) == [name]


def test_a_file_url_and_a_path_are_one_place(tmp_path):
    folder = tmp_path / "with space"
    name = ObjectStore.open(str(folder)).put(b"x")
    assert ObjectStore.open(folder.as_uri()).get(name) == b"x"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        ObjectStore.open(str(tmp_path / "file"))
    with pytest.raises(Unavailable):
        ObjectStore.open(str(tmp_path / "file" / "below"))


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    store = ObjectStore.open("s3://bucket/x?endpoint=http://127.0.0.1:9")
    for method in (store.get, store.has, store.delete):
        with pytest.raises(Unavailable, match="does not answer") as caught:
            method(digest(b""))
        assert caught.value.retryable
        assert "hidden-secret" not in str(caught.value)
    with pytest.raises(Unavailable):
        list(store.digests())


def test_a_bucket_that_is_not_there(s3_server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with pytest.raises(Unavailable, match=r"NoSuchBucket|not found"):
        ObjectStore.open(f"s3://no-such-bucket/x?endpoint={s3_server}").put(b"x")


def test_two_prefixes_of_a_bucket_are_two_stores(s3_url):
    first, second = (ObjectStore.open(s3_url.replace("/store", f"/{name}")) for name in ("a", "a/b"))
    name = first.put(b"x")
    assert not second.has(name)
    assert list(second.digests()) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty URL"),
        ("ftp://host/x", "unknown scheme"),
        ("file://otherhost/x", "not a local folder"),
        ("s3://a/x", "not a bucket name"),
        ("s3://Upper_Case/x", "not a bucket name"),
        ("s3://key:secret@bucket/x", "ends up in logs"),
        ("s3://bucket/x?secret_access_key=1", "unknown option"),
        ("s3://bucket/../x", "climbs out"),
    ],
)
def test_an_unknown_place_says_what_is_allowed(url, words):
    with pytest.raises(InvalidInput, match=words):
        locate(url)


def test_a_place_is_read_from_its_url(tmp_path):
    assert locate(str(tmp_path)) == Folder(tmp_path)
    assert locate(f"file://{tmp_path}/a%20b") == Folder(tmp_path / "a b")
    place = locate("s3://bucket/a//b/?endpoint=http://127.0.0.1:9000&region=eu-central-1")
    assert place == Bucket("bucket", "a/b", "http://127.0.0.1:9000", "eu-central-1")
    assert place.url == "s3://bucket/a/b"
    assert locate("s3://bucket").url == "s3://bucket"
