"""A device's log, and what a device believes of a release, without a server."""

import os
import signal
import subprocess
import sys

import pytest

from kilter.core.errors import InvalidInput
from kilter.packaging.export.device.recording import EdgeLog
from kilter.packaging.export.device.release import CONTEXT, EdgeError, Refused, verified
from kilter.packaging.export.signing import make_key, read_key, signed_files

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """A key that signs releases."""
    path = tmp_path_factory.mktemp("key") / "release.pem"
    make_key(path)
    return path


def public(key):
    return key.with_name("release.pem.pub").read_bytes()


def signed(key, files, sequence=1):
    made = signed_files(files, "visits", 1, "b", sequence, key)
    return made["release.json"], made["release.sig"]


def test_what_was_signed_is_read(key):
    found = verified(*signed(key, {"a.onnx": b"x", "below/b.json": b"yy"}), [public(key)])
    assert (found.model, found.version, found.sequence) == ("visits", 1, 1)
    assert [(one.path, one.size) for one in found.files] == [("a.onnx", 1), ("below/b.json", 2)]


@pytest.mark.parametrize("path", ["../state.json", "/etc/passwd", "a/../../b", ".hidden", "a//b", "a/", ""])
def test_a_path_that_leaves_the_folder_is_refused(key, path):
    with pytest.raises(Refused, match="must not"):
        verified(*signed(key, {path: b"x"}), [public(key)])


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"kind": 1}', b'{"model": "m", "version": -1}'])
def test_what_is_no_release_is_refused_although_it_is_signed(key, data):
    with pytest.raises(Refused, match="no release"):
        verified(data, read_key(key).sign(CONTEXT + data), [public(key)])


def test_a_signature_is_good_for_releases_only(key):
    data, _ = signed(key, {"a": b"x"})
    with pytest.raises(Refused, match="signature"):
        verified(data, read_key(key).sign(data), [public(key)])
    with pytest.raises(Refused, match="signature"):
        verified(*signed(key, {"a": b"x"}), [])
    with pytest.raises(EdgeError, match="no public key"):
        verified(*signed(key, {"a": b"x"}), [b"none"])


def test_the_key_has_to_be_one(key, tmp_path):
    for text in (b"", b"no key", public(key)):
        (tmp_path / "key").write_bytes(text)
        with pytest.raises(InvalidInput, match="openssl genpkey"):
            signed(tmp_path / "key", {"a": b"x"})
    with pytest.raises(InvalidInput, match="can't be read"):
        read_key(tmp_path / "gone")
    with pytest.raises(InvalidInput, match="can't be written"):
        make_key(key)
    with pytest.raises(InvalidInput, match="no release's number"):
        signed(key, {"a": b"x"}, 0)
    assert key.stat().st_mode & 0o077 == 0


WRITER = """
import sys
from pathlib import Path
from kilter.packaging.export.device.recording import EdgeLog
log = EdgeLog(Path(sys.argv[1]))
for place in range(100000):
    print(log.append({"place": place, "text": "x" * 200}), flush=True)
"""


@pytest.mark.crash
def test_what_was_acknowledged_survives_a_kill(tmp_path):
    said = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
        )
        said += [int(process.stdout.readline()) for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split("\n")[:-1] if line]
        process.wait(10)
        process.stdout.close()
    log = EdgeLog(tmp_path / "log")
    found = [number for number, _ in log.read(1_000_000, 1 << 30)]
    assert found == list(range(len(found)))
    assert set(said) <= set(found)
    log.close()


def test_a_torn_record_is_cut_off(tmp_path):
    log = EdgeLog(tmp_path / "log")
    log.append({"a": 1})
    log.close()
    (path,) = (tmp_path / "log").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'1 12345678 {"a"')
    log = EdgeLog(tmp_path / "log")
    assert log.append({"a": 2}) == 1
    assert log.read() == [(0, {"a": 1}), (1, {"a": 2})]
    with pytest.raises(EdgeError, match="another process"):
        EdgeLog(tmp_path / "log")
    log.close()


def test_the_log_is_bounded_and_counts_what_it_drops(tmp_path):
    log = EdgeLog(tmp_path / "log", limit=20_000, segment=2_000)
    for place in range(500):
        log.append({"place": place, "text": "x" * 100})
    assert sum(path.stat().st_size for path in (tmp_path / "log").glob("*.jsonl")) <= 20_000
    found = log.read(1000)
    assert [number for number, _ in found] == list(range(500 - len(found), 500))
    assert log.dropped == 500 - len(found) > 0
    log.acknowledge(499)
    assert (log.waiting, log.read()) == (0, [])
    assert len(list((tmp_path / "log").glob("*.jsonl"))) == 1
    dropped = log.dropped
    log.close()
    log = EdgeLog(tmp_path / "log", limit=20_000, segment=2_000)
    assert log.append({"place": 500}) == 500
    assert (log.dropped, log.waiting) == (dropped, 1)
    with pytest.raises(EdgeError, match="at most 2,000"):
        log.append({"text": "x" * 3000})
    log.close()
