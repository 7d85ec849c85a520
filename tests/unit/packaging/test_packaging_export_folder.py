"""An exported folder is complete or not there, and says when it was changed."""

import hashlib

import msgspec
import pytest

from kilter.core.digests import digest
from kilter.core.errors import Conflict, Damaged, Unavailable
from kilter.packaging.export.folder import ExportManifest, read, write

MADE = ExportManifest(target="c", model="m", version=1, bundle="", framework="", inputs=(), outputs=(), label="binary")
FILES = {"a.txt": b"a", "below/b.txt": b"bb"}


def test_files_are_listed_with_their_digests(tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "far" / "away"):
        written = write(out, FILES, MADE)
        assert [entry.path for entry in written.files] == ["a.txt", "below/b.txt"]
        assert (written.files[1].blake3, written.files[1].sha256) == (digest(b"bb"), hashlib.sha256(b"bb").hexdigest())
        assert read(out) == written
        assert msgspec.json.decode((out / "manifest.json").read_bytes())["kind"] == "kilter-export"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "far"]


def test_a_changed_or_missing_file_shows(tmp_path):
    out = tmp_path / "out"
    write(out, FILES, MADE)
    (out / "a.txt").write_bytes(b"b")
    with pytest.raises(Damaged, match=r"a\.txt"):
        read(out)
    (out / "a.txt").unlink()
    with pytest.raises(Unavailable):
        read(out)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(Damaged):
        read(out)


def test_only_an_earlier_export_is_replaced(tmp_path):
    out = tmp_path / "out"
    write(out, FILES, MADE)
    with pytest.raises(Conflict, match="not empty"):
        write(out, {"c.txt": b""}, MADE)
    write(out, {"c.txt": b""}, MADE, force=True)
    assert sorted(path.name for path in out.iterdir()) == ["c.txt", "manifest.json"]
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "manifest.json").write_text('{"kind": "something else"}')
    with pytest.raises(Conflict, match="other things"):
        write(theirs, FILES, MADE, force=True)
    with pytest.raises(Conflict, match="a file"):
        write(theirs / "manifest.json", FILES, MADE, force=True)
    with pytest.raises(Unavailable):
        write(theirs / "manifest.json" / "below", FILES, MADE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]
    assert [path.name for path in theirs.iterdir()] == ["manifest.json"]
