"""What is written as an event is read as it was, to the byte; what is no event of ours is none."""

import base64
import json

import pytest

from kilter.engines.streams.cloud_events import decode, encode
from kilter.engines.streams.port import Outgoing

VALUES = [
    b"",
    b"{}",
    b'{"a": 1.50, "a": 2, "b": "\xc3\xa4"}',
    b' {"a": 1}',
    b'{"a": 1}\n',
    b'{"a": }',
    b'{"a": "\xff"}',
    b"[1, 2]",
    b"null",
    b"\x00\xff",
    b'{"specversion":"1.0","type":"kilter.message"}',
]


@pytest.mark.parametrize("key", [b"", b"k", "ключ".encode(), b"\xff\x00"])
@pytest.mark.parametrize("value", VALUES)
def test_a_message_comes_back_as_it_was(key, value):
    made = decode(encode(Outgoing("g/in/1", key, value, "no row: ä")))
    assert made == ("g/in/1", key, value, "no row: ä")


def test_the_event_is_one_that_others_read():
    event = json.loads(encode(Outgoing("i", b"k", b'{"a": 1.50}')))
    assert event == {"specversion": "1.0", "type": "kilter.message", "source": "kilter", "id": "i",
                     "partitionkey": "k", "data": {"a": 1.5}}  # fmt: skip
    letter = json.loads(encode(Outgoing("i", b"", b"no json", "why")))
    assert base64.b64decode(letter["data_base64"]) == b"no json"
    assert (letter["reason"], "data" in letter, "partitionkey" in letter) == ("why", False, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"a": 1}',
        b'{"specversion":"1.0","type":"com.example","source":"/s","id":"1","data":{}}',
        b'{"specversion":"1.0","type":"kilter.message","source":"kilter"}',
        b'{"specversion":"1.0","type":"kilter.message","id":',
    ],
)
def test_anything_else_is_no_event_of_ours(data):
    assert decode(data) is None
