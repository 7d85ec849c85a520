"""An MLmodel file from anywhere: read for what it says, refused for what it could do, and never the end of the process."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core.errors import InvalidInput, KilterError
from kilter.packaging.mlmodel.document import LARGEST, Document, read_document

PLAIN = b"""\
flavors:
  lightgbm:
    data: model.lgb
    model_class: lightgbm.basic.Booster
  python_function:
    loader_module: mlflow.lightgbm
mlflow_version: 3.17.2
saved_input_example_info:
  artifact_path: input_example.json
  pandas_orient: split
  type: dataframe
signature:
  inputs: '[{"type": "double", "name": "a", "required": true}, {"type": "tensor", "tensor-spec":
    {"dtype": "float32", "shape": [-1, 2]}}]'
  outputs: null
utc_time_created: '2026-11-21 21:46:04.503618'
"""


def test_what_mlflow_writes_is_read():
    found = read_document(PLAIN)
    assert found.flavors["lightgbm"]["data"] == "model.lgb"
    assert found.mlflow_version == "3.17.2"
    assert found.example is not None
    assert (found.example.path, found.example.type) == ("input_example.json", "dataframe")
    assert found.inputs is not None
    assert [(one.name, one.type, one.shape) for one in found.inputs] == [("a", "double", ()), ("", "tensor", (-1, 2))]


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * (LARGEST + 1), "bytes"),
        (BOMB + b"flavors: {x: {}}\n", "alias"),
        (b"flavors: &f\n  x: {}\nmore: *f\n", "alias"),
        (b"flavors: {x: " + b"[" * 5000 + b"]" * 5000 + b"}", "deeper"),
        (b"flavors: {x: {y: [" + b"0," * 30_000 + b"]}}", "more than"),
        (b"flavors: !!python/object/apply:os.system ['true']\n", "no YAML of plain values"),
        (b"!!python/name:os.system x", "no YAML of plain values"),
        (b"\xff\xfe\x00", "no YAML of plain values"),
        (b"flavors: [", "no YAML of plain values"),
        (b"? [a]\n: b\n", "no YAML of plain values"),
        (b"flavors: {x: 2026-99-99}\n", "no YAML of plain values"),
        (b"", "no mapping"),
        (b"- a\n", "no mapping"),
        (b"a: b\n", "no flavours"),
        (b"flavors: {}\n", "no flavours"),
        (b"flavors: {x: y}\n", "no flavours"),
        (b"flavors: {1: {}}\n", "no flavours"),
        (b"flavors: {x: {}}\nsignature: {inputs: '['}\n", "no JSON"),
        (b"flavors: {x: {}}\nsignature: {inputs: '{}'}\n", "no list"),
        (b"flavors: {x: {}}\nsignature: {inputs: [1]}\n", "no list"),
        (b"flavors: {x: {}}\nsignature: {inputs: '[{}]'}\n", "without a type"),
        (b"""flavors: {x: {}}\nsignature: {inputs: '[{"type": "double", "name": 5}]'}\n""", "no text"),
        (b"""flavors: {x: {}}\nsignature: {inputs: '[{"type": "tensor", "tensor-spec": {"shape": [-2]}}]'}\n""", "without a shape"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_at_once(data, message):
    started = time.process_time()
    with pytest.raises(InvalidInput, match=message) as caught:
        read_document(data)
    assert caught.value.where == "MLmodel"
    assert len(str(caught.value)) < 500
    assert time.process_time() - started < 10


def read_or_refused(data: bytes) -> None:
    """Whatever the bytes are: a document, or an error that names the file."""
    found: object
    try:
        found = read_document(data)
    except KilterError as error:
        found = error
    assert isinstance(found, Document) or found.where == "MLmodel"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=12), inside, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(
    ["flavors", "signature", "saved_input_example_info", "mlflow_version", "inputs", "artifact_path", "type"]
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS | st.text(max_size=8), VALUES, max_size=6))
def test_any_yaml_is_a_document_or_an_error_of_ours(given_value):
    data = yaml.safe_dump(given_value, allow_unicode=True).encode("utf-8", "surrogatepass")
    read_or_refused(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400) | st.text("{}[]:,-&*!?|>'\"\n\t #%@`ab01", max_size=200).map(str.encode))
def test_any_bytes_are_a_document_or_an_error_of_ours(data):
    read_or_refused(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(PLAIN) - 1), st.binary(min_size=1, max_size=6))
def test_a_file_with_a_fault_is_a_document_or_an_error_of_ours(place, fault):
    read_or_refused(PLAIN[:place] + fault + PLAIN[place + len(fault) :])
