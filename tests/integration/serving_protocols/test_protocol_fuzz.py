"""Malformed requests over every face: each is answered, with a 4xx that says where, and the front stays as it was.

Some thousands by default; ``KILTER_FUZZ=100000`` for as many as one likes. The seed is fixed: a failure comes again.
"""

import asyncio
import gzip
import io
import json
import os
import random
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

COUNT = int(os.environ.get("KILTER_FUZZ", "4000"))
CONNECTIONS = 8
ROWS = [[0.5, -1.0, 2.0, 0.25], [1.5, 1.0, -2.0, 0.5]]
NAMES = ["a", "b", "c", "d"]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
JSON, SECRET = "application/json", "s3cr3t-value"
AT = "2013-03-01T10:00:00Z"


def infer(names=("input",), rows=ROWS, kind="FP64"):
    if names == ("input",):
        return {
            "inputs": [
                {"name": "input", "shape": [len(rows), 4], "datatype": kind, "data": [v for r in rows for v in r]}
            ]
        }
    return {
        "inputs": [
            {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.5]},
            {"name": "city", "shape": [1, 1], "datatype": "BYTES", "data": ["Ulm"]},
            {"name": "id", "shape": [1], "datatype": "BYTES", "data": ["k"]},
            {"name": "at", "shape": [1], "datatype": "INT64", "data": [0]},
        ],
        "outputs": [{"name": "value", "parameters": {"binary_data": True}}],
        "parameters": {"priority": 1, "timeout": 1_000_000, "kilter_key": "u"},
        "id": "r",
    }


VALID = [
    ("POST", "/predict/tree", {"rows": RECORDS}),
    ("POST", "/predict/mixed", {"rows": [{"id": "1", "at": AT, "x": 1.0, "city": "Ulm"}]}),
    ("POST", "/predict/split/versions/2", {"rows": [{"id": "1", "at": 0, "x": 1.0}]}),
    ("POST", "/v2/models/tree/infer", infer()),
    ("POST", "/v2/models/tree/versions/1/infer", infer(kind="INT32", rows=[[1, 2, 3, 4]])),
    ("POST", "/v2/models/mixed/infer", infer(("x", "city"))),
    ("POST", "/v2/repository/index", {"ready": True}),
    ("POST", "/v2/repository/models/tree/load", {"parameters": {}}),
    ("POST", "/v1/models/tree:predict", {"instances": ROWS}),
    ("POST", "/v1/models/tree:predict", {"inputs": {n: [r[i] for r in ROWS] for i, n in enumerate(NAMES)}}),
    ("POST", "/v1/models/mixed:predict", {"instances": [{"x": 1.0, "city": "Ulm", "id": 4, "at": 0}]}),
    ("POST", "/v1/models/classes:classify", {"examples": RECORDS, "context": {"a": 1}}),
    ("POST", "/v1/models/tree:explain", {"instances": ROWS}),
    ("POST", "/serving-endpoints/tree/invocations", {"dataframe_split": {"columns": NAMES, "index": [0, 1], "data": ROWS}}),
    ("POST", "/serving-endpoints/mixed/invocations", {"dataframe_records": [{"x": 1, "city": None}], "params": {}}),
    ("POST", "/endpoints/tree/invocations", ROWS),
    ("POST", "/endpoints/tree/invocations-response-stream", {"inputs": ROWS}),
    ("POST", "/v1/projects/p/locations/l/endpoints/tree:predict", {"instances": RECORDS, "parameters": {}}),
    ("POST", "/v1/projects/p/locations/l/endpoints/tree:rawPredict", {"instances": ROWS}),
    ("POST", "/score", {"input_data": {"columns": NAMES, "data": ROWS}}),
    ("POST", "/score", {"Inputs": {"data": RECORDS}}),
    ("POST", "/invocations", {"inputs": ROWS}),
    ("PUT", "/predictions/tree", RECORDS[0]),
    ("POST", "/predictions/tree/1", ROWS),
]  # fmt: skip
"""One request per face and form; those without a name are refused for that alone, which is an answer too."""

VALUES = [
    None, True, False, 0, -1, 1, 3, 1 << 31, (1 << 63) - 1, 1 << 63, -(1 << 70), 10**30, 1.5, -0.0, 1e308, 1e-320, "", SECRET,
    "NaN", "1", "\u0000", "\ud83d\ude00", [], [[]], [[[]]], [None], [SECRET], [1, "1"], {}, {SECRET: SECRET}, {"b64": "AA=="},
    {"": {}}, [[1.0] * 4] * 3, [{}], "FP32", "BYTES", "BF16", "FP8", "UINT8", [2, 4], [4, 2], [-1, 4], [1 << 40, 1 << 40], [0, 4],
    "value", "probabilities", {"binary_data_size": 10}, {"binary_data_size": -1}, {"classification": 1 << 70},
    {"shared_memory_region": "x"}, "2013-13-01", 1e300, [1.0] * 50,
]  # fmt: skip
LITERALS = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"1e400",
    b"0x10",
    b"01",
    b"'a'",
    b"\xff",
    b"\xed\xa0\x80",
    b"nul",
    b"-",
    b"[1,]",
]


def paths(value, found, here=()):
    """Collect the places of a JSON value."""
    found.append(here)
    if isinstance(value, dict):
        for name, one in value.items():
            paths(one, found, (*here, name))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            paths(one, found, (*here, place))
    return found


def changed(chance, value):
    """Return a JSON value with a place changed, dropped, doubled or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.choice(paths(value, []))
        new = json.loads(json.dumps(chance.choice(VALUES)))
        if not place:
            value = new if chance.random() < 0.3 else value
            continue
        inside = value
        for step in place[:-1]:
            inside = inside[step]
        act = chance.random()
        if act < 0.6:
            inside[place[-1]] = new
        elif act < 0.75:
            del inside[place[-1]]
        elif isinstance(inside, dict):
            inside[chance.choice((SECRET, "inputs", "instances", "data", "columns", "rows", "parameters", "x"))] = new
        else:
            inside.insert(place[-1], new)
    return value


def spoiled(chance, body):
    """Return bytes with some cut, flipped, or put in."""
    body = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        act, place = chance.random(), chance.randrange(len(body) + 1)
        if act < 0.3:
            del body[place:]
        elif act < 0.6 and body:
            body[place % len(body)] = chance.randrange(256)
        elif act < 0.8:
            body[place:place] = chance.choice(LITERALS)
        else:
            del body[place : place + chance.randint(1, 12)]
    return bytes(body)


def deep(chance):
    """Return JSON that is nested far deeper than anybody reads."""
    depth = chance.choice((100, 1_000, 5_000, 50_000))
    inner = chance.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
    frame = chance.choice(
        (
            b"%b",
            b'{"instances":%b}',
            b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP64","data":%b}]}',
            b'{"rows":[{"a":%b}]}',
        )
    )
    return frame.replace(b"%b", inner)


def binary(chance):
    """Return an inference request with binary tensors whose sizes or lengths are wrong, or whose numbers are."""
    count = chance.choice((1, 2, 3))
    kind, code = chance.choice(
        (("FP64", "d"), ("FP32", "f"), ("INT32", "i"), ("BF16", "h"), ("BOOL", "?"), ("BYTES", "d"), ("FP8", "b"))
    )
    data = struct.pack(f"<{4 * count}{code}", *[chance.choice((0, 1)) for _ in range(4 * count)])
    if chance.random() < 0.3 and code in "df":
        data = struct.pack(
            f"<{4 * count}{code}",
            *[chance.choice((float("inf"), float("nan"), -float("inf"))) for _ in range(4 * count)],
        )
    size = chance.choice((len(data), len(data) + 1, len(data) - 1, 0, -1, 1 << 40, "8", None, 2.5))
    shape = chance.choice(
        ([count, 4], [4, count], [count * 4], [], [-1, 4], [1 << 33, 1 << 33], [count, 4, 1], ["1", 4], [True, 4])
    )
    tensor = {
        "name": chance.choice(("input", "a", "x", "")),
        "shape": shape,
        "datatype": kind,
        "parameters": {"binary_data_size": size},
    }
    head = {
        "inputs": [tensor] * chance.choice((1, 1, 1, 2)),
        "parameters": {"binary_data_output": chance.choice((True, False, 1, "yes", None))},
    }
    if chance.random() < 0.2:
        head = changed(chance, head)
    text = json.dumps(head).encode()
    length = chance.choice(
        (len(text), len(text), len(text), len(text) + 1, len(text) - 1, 0, 1 << 40, -1, "x", "1 2", "")
    )
    body = text + data
    if chance.random() < 0.2:
        body = spoiled(chance, body)
    model = chance.choice(("tree", "mixed", "classes"))
    return (
        "POST",
        f"/v2/models/{model}/infer",
        {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"},
        body,
    )


def compressed(chance):
    """Return a body that is called compressed: a bomb, half a stream, garbage, or an honest one."""
    method, path, value = chance.choice(VALID)
    body = json.dumps(changed(chance, value)).encode()
    coding = chance.choice(("gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", ""))
    packed = gzip.compress(body, 1) if chance.random() < 0.5 else zlib.compress(body)
    act = chance.random()
    if act < 0.05:
        packed = BOMB
        coding = "gzip"
    elif act < 0.5:
        packed = spoiled(chance, packed)
    return method, path, {"Content-Encoding": coding, "Content-Type": JSON}, packed


BOMB = gzip.compress(bytes(64 << 20), 9)


def tables():
    """Return honest bodies in the other formats."""
    frame = pl.DataFrame(RECORDS)
    mixed = pl.DataFrame({"x": [1.0, 2.0], "city": ["Ulm", None]})
    found = [
        ("text/csv", frame.write_csv().encode()),
        ("text/csv", mixed.write_csv().encode()),
        ("text/csv", b"1,2,3,4\n5,6,7,8\n"),
    ]
    for one in (frame, mixed):
        for kind, write in (("stream", one.write_ipc_stream), ("file", one.write_ipc)):
            for compression in ("uncompressed", "lz4", "zstd"):
                held = io.BytesIO()
                write(held, compression=compression)
                found.append((f"application/vnd.apache.arrow.{kind}", held.getvalue()))
    for array in (np.array(ROWS), np.array(ROWS, dtype=np.float32, order="F"), np.array(ROWS[0]), np.array([["x"]])):
        held = io.BytesIO()
        np.save(held, array)
        found.append(("application/x-npy", held.getvalue()))
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return [*found, ("application/x-npy", objects.getvalue())]


TABLES = tables()
PLACES = ("/endpoints/{}/invocations", "/serving-endpoints/{}/invocations", "/predictions/{}", "/v1/models/{}:predict")


def table(chance):
    kind, body = chance.choice(TABLES)
    path = chance.choice(PLACES).format(chance.choice(("tree", "mixed", "split")))
    return "POST", path, {"Content-Type": kind}, spoiled(chance, body) if chance.random() < 0.9 else body


def odd(chance):
    """Return what is odd about the request itself: its path, method, type, or headers."""
    method, path, value = chance.choice(VALID)
    body = json.dumps(value).encode()
    headers = {"Content-Type": JSON}
    act = chance.randrange(6)
    if act == 0:
        path = path.replace(
            "tree", chance.choice(("none", "TREE", "%74ree", "..", "tree%00", "a" * 300, "tre\u00eb", "tree/"))
        )
    elif act == 1:
        path += chance.choice(
            ("/x", "?a=%zz", "//", "/versions/99999999999999", "/versions/-1", "%", ":predict", "/labels/%20")
        )
    elif act == 2:
        method = chance.choice(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"))
    elif act == 3:
        headers["Content-Type"] = chance.choice(
            ("", "text/plain", "application/x-pickle", "multipart/form-data; boundary=x", ";", "application/xml")
        )
    elif act == 4:
        names = ("X-Kilter-Key", "Idempotency-Key", "X-Amzn-SageMaker-Session-Id", "X-Amzn-SageMaker-Target-Variant",
                 "X-Amzn-SageMaker-Inference-Id", "X-Request-Timeout", "Accept", "Accept-Encoding", "azureml-model-deployment",
                 "X-Amzn-SageMaker-Enable-Explanations", "Priority", "traceparent")  # fmt: skip
        headers[chance.choice(names)] = chance.choice(
            ("", "x" * 900, "v99", "-1", "0", "nan", "\xe9", "application/x-npy", "gzip", "u=9", "1e9")
        )
    else:
        body = chance.choice((b"", b" ", b"null", b"{}", b"[]", b'""', b"0", b"\x00", b"\xef\xbb\xbf{}"))
    return method, path, headers, body


def one(chance):  # noqa: PLR0911 - one way per kind of fault
    """Return a request: method, path, headers, body."""
    kind = chance.random()
    if kind < 0.45:
        method, path, value = chance.choice(VALID)
        return method, path, {"Content-Type": JSON}, json.dumps(changed(chance, value)).encode()
    if kind < 0.6:
        method, path, value = chance.choice(VALID)
        return method, path, {"Content-Type": JSON}, spoiled(chance, json.dumps(value).encode())
    if kind < 0.75:
        return binary(chance)
    if kind < 0.83:
        return table(chance)
    if kind < 0.9:
        return odd(chance)
    if kind < 0.99:
        return compressed(chance)
    method, path, _ = chance.choice(VALID)
    return method, path, {"Content-Type": JSON}, deep(chance)


async def ask(reader, writer, request):
    """Send a request as it is, and return its answer's status, headers and body."""
    method, path, headers, body = request
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    first, *rest = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    return int(first.split()[1]), found, await reader.readexactly(int(found["content-length"]))


def check(request, status, headers, body):  # noqa: PLR0911 - one way per fault
    """Return what is wrong with an answer, or nothing."""
    if status >= 500 and status != 503:
        return "a server error"
    if status == 503:
        return "unavailable"
    if "content-encoding" in headers:
        body = gzip.decompress(body) if headers["content-encoding"] == "gzip" else zlib.decompress(body)
    if status >= 400:
        said = json.loads(body)
        if not said.get("detail"):
            return "no reason is given"
        if SECRET.encode() in body:
            return "what was sent is echoed"
        if status == 422 and not said.get("where"):
            return "no place is given"
        if len(body) > 4_000:
            return "too much is said"
    return ""


def resident(pid):
    return int(
        next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[
            1
        ]
    )


def test_every_malformed_request_is_answered(models):
    port = models.client.base_url.port
    statuses, faults = Counter(), []
    pid, workers = models.process.pid, models.pids("tree", 1)
    memory = []

    async def client(number):
        chance = random.Random(number)
        reader = writer = None
        for count in range(COUNT // CONNECTIONS):
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            request = one(chance)
            try:
                status, headers, body = await ask(reader, writer, request)
            except (OSError, EOFError, TimeoutError) as error:
                faults.append((f"no answer: {type(error).__name__}", request))
                writer = None
                continue
            statuses[status] += 1
            wrong = check(request, status, headers, body)
            if wrong:
                faults.append((wrong, request))
            if headers.get("connection") == "close":
                writer.close()
                writer = None
            if number == 0 and count in {COUNT // CONNECTIONS // 4, COUNT // CONNECTIONS - 1}:
                memory.append(resident(pid))
        if writer is not None:
            writer.close()

    async def go():
        await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))

    before = resident(pid)
    asyncio.run(go())
    faults.sort(key=lambda fault: not fault[0].startswith("no answer"))
    shown = [(wrong, method, path, headers, body[:300]) for wrong, (method, path, headers, body) in faults[:5]]
    print(f"{sum(statuses.values())} requests, {dict(sorted(statuses.items()))}, RSS in kB {before} -> {memory}")
    assert not faults, f"{len(faults)} of {sum(statuses.values())}: {shown}"
    assert min(statuses) == 200
    assert statuses[400] > statuses[200]
    assert models.pids("tree", 1) == workers, "no worker died"
    assert memory[-1] < memory[0] * 1.3 + 30_000, "memory stays where it was after the first quarter"
    answer = models.client.post("/v2/models/tree/infer", json=infer())
    assert answer.status_code == 200
