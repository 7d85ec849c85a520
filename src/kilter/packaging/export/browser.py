"""A model for browsers: an ONNX graph, ONNX Runtime Web beside it, a module that asks it, and a page that asks the module."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput
from kilter.packaging.bundle import Parts, folding_inputs
from kilter.packaging.export.graph import graph_files
from kilter.packaging.export.source import identifier, wrapped
from kilter.packaging.export.web_runtime import LICENSE

RUNTIME = "runtime"
"""The folder of the runtime's files in the bundle."""

_ARRAYS = {
    "tensor(float)": ("float32", "Float32Array"),
    "tensor(double)": ("float64", "Float64Array"),
    "tensor(int64)": ("int64", "BigInt64Array"),
    "tensor(int32)": ("int32", "Int32Array"),
    "tensor(bool)": ("bool", "Uint8Array"),
    "tensor(string)": ("string", "Array"),
}


def browser_files(parts: Parts, name: str, title: str, runtime: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a folder that predicts in a browser without a network: any server of static files shows it.

    Args:
        parts: The bundle.
        name: The model's name.
        title: What to call it in comments and on the page: the version and its bundle.
        runtime: The files of ONNX Runtime Web, from :func:`kilter.packaging.export.web_runtime.runtime_files`.

    Raises:
        InvalidInput: When the model has no form in ONNX that a browser can run, or needs features that are looked up.
        Unavailable: When the converters are not installed.
    """
    signature = parts.manifest.signature
    if signature.views:
        raise InvalidInput("the model looks features up by entity, and a browser has none", where="--target browser",
                           fix="export it as a container: --target container")  # fmt: skip
    called = identifier(name)
    found = graph_files(parts, name)
    graph = f"{called}.onnx"
    about = next(one for one in json.loads(found["graphs.json"])["graphs"] if one["file"] == graph)
    words = {"title": title.replace("\n", " "), "graph": graph, **_inputs(parts), **_ends(parts, about)}
    page = _PAGE_SCRIPT.replace("{module}", called).replace("{example}", _example(parts))
    return {
        graph: found[graph],
        "test_vector.json": found["test_vector.json"],
        f"{called}.mjs": _MODULE.format(**words).encode(),
        "page.mjs": page.encode(),
        "index.html": _PAGE.replace("{title}", html.escape(title)).encode(),
        f"{RUNTIME}/LICENSE": LICENSE.encode(),
        **{f"{RUNTIME}/{file}": data for file, data in sorted(runtime.items())},
    }


def _inputs(parts: Parts) -> dict[str, str]:
    encoding = parts.manifest.signature.encoding
    categories = {encoding.names[place]: encoding.categories[encoding.names[place]] for place in encoding.categorical}
    return {
        "inputs": wrapped((_js(one) for one in encoding.names), "  "),
        "outputs": wrapped((_js(one) for one in parts.manifest.signature.outputs), "  "),
        "categories": _js(categories),
    }


def _ends(parts: Parts, about: Mapping[str, Any]) -> dict[str, str]:
    """Return what goes into the graph and what comes out, as JavaScript."""
    from kilter.packaging.onnx_runtime import output_of  # noqa: PLC0415 - an extra, which made the graph

    signature, spec = parts.manifest.signature, parts.manifest.spec()
    for one in about["inputs"]:
        if one["type"] not in _ARRAYS:
            raise InvalidInput(f"the graph's input {one['name']!r} is of the type {one['type']}", where="--target browser",
                               allowed=", ".join(_ARRAYS))  # fmt: skip
    places = {name: place for place, name in enumerate(signature.encoding.names)}
    single = len(about["inputs"]) == 1 and about["inputs"][0]["type"] != "tensor(string)"
    feeds = []
    for one in about["inputs"]:
        type_, array = _ARRAYS[one["type"]]
        column = -1 if single else places[one["name"]]
        shape = [*(signature.shape or (len(places),))] if single else [1]
        feeds.append(
            f"  {{ name: {_js(one['name'])}, type: {_js(type_)}, array: {array}, column: {column}, shape: {shape} }},"
        )
    answered = output_of(spec.output, [(one["name"], one["type"]) for one in about["outputs"]])
    return {
        "feeds": "\n".join(feeds),
        "output": _js(answered),
        "positive": "true" if spec.output == "probability" else "false",
        "width": str(len(signature.outputs)),
    }


def _example(parts: Parts) -> str:
    """Return a row that the model was packaged with as a record: what the form shows first."""
    encoding = parts.manifest.signature.encoding
    _, rows = folding_inputs(parts)
    found: dict[str, object] = {}
    for name, value in zip(encoding.names, rows[0].tolist(), strict=True):
        known = encoding.categories.get(name)
        found[name] = None if math.isnan(value) else value if known is None else known[int(value)]
    return _js(found)


def _js(value: object) -> str:
    """Return a value as JavaScript that is also safe inside a page."""
    return (
        msgspec.json.encode(value)
        .decode()
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


_MODULE = """\
// {title}
//
// predict(rows) answers records by name: a number each, or with several outputs an array each. A value that is missing, or a category
// never seen, is missing to the model. answer(rows) takes rows of numbers in the order of inputs, NaN where a value is missing.
// Everything lies beside this file: nothing is asked from another place.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

export const inputs = [
{inputs}
];
export const outputs = [
{outputs}
];
export const categories = {categories};

const here = (path) => new URL(path, import.meta.url).href;
ort.env.wasm.wasmPaths = {{ wasm: here("./runtime/ort-wasm-simd-threaded.wasm") }};
ort.env.wasm.numThreads = 1; // several need headers that few static servers send
ort.env.logLevel = "error";

// what goes in: one tensor of all columns (column -1), or a tensor for each
const feeds = [
{feeds}
];
const codes = new Map(Object.entries(categories).map(([name, known]) => [name, new Map(known.map((text, code) => [text, code]))]));
let loading;

async function load() {{
  const answer = await fetch(here("./{graph}"));
  if (!answer.ok) throw new Error(`{graph} can't be loaded: ${{answer.status}}`);
  return ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), {{ executionProviders: ["wasm"] }});
}}

export function encode(record) {{
  return inputs.map((name) => {{
    const value = Object.hasOwn(record, name) ? record[name] : null;
    if (value === null || value === undefined) return NaN;
    const known = codes.get(name);
    if (known !== undefined) return known.has(value) ? known.get(value) : NaN;
    if (typeof value === "boolean") return value ? 1 : 0;
    if (typeof value !== "number") throw new TypeError(`input ${{name}} is a ${{typeof value}}, expected a number`);
    return value;
  }});
}}

function tensor(feed, rows) {{
  const whole = feed.column < 0;
  let values = whole ? rows.flat() : rows.map((row) => row[feed.column]);
  if (feed.type === "string") {{
    const known = categories[inputs[feed.column]] ?? [];
    values = values.map((code) => (Number.isNaN(code) ? "" : known[code]));
  }} else if (feed.type === "int64") {{
    values = values.map((value) => BigInt(Math.trunc(value)));
  }}
  return new ort.Tensor(feed.type, feed.array.from(values), [rows.length, ...feed.shape]);
}}

export async function answer(rows) {{
  for (const row of rows) {{
    if (row.length !== inputs.length) throw new RangeError(`${{row.length}} inputs were given, expected ${{inputs.length}}`);
  }}
  if (rows.length === 0) return [];
  const session = await (loading ??= load());
  const found = await session.run(Object.fromEntries(feeds.map((feed) => [feed.name, tensor(feed, rows)])), [{output}]);
  const values = Array.from(found[{output}].data, Number);
  const each = values.length / rows.length;
  const answers = rows.map((_, row) => values.slice(row * each, (row + 1) * each));
  if ({positive} && each === 2) return answers.map((pair) => pair[1]);
  return {width} === 1 ? answers.map((one) => one[0]) : answers;
}}

export async function predict(rows) {{
  return answer(rows.map(encode));
}}

// Asks the model about the rows that it was packaged with, and returns how far its answers are from those of then.
export async function selfTest() {{
  const vector = await (await fetch(here("./test_vector.json"))).json();
  const found = (await answer(vector.rows.map((row) => row.map((value) => value ?? NaN)))).flat();
  const wanted = vector.answers.flat();
  const apart = wanted.map((value, place) => Math.abs(found[place] - value) / Math.max(1, Math.abs(value)));
  const worst = Math.max(...apart.map((value) => (Number.isNaN(value) ? Infinity : value)));
  return {{ rows: vector.rows.length, difference: worst, tolerance: vector.tolerance, passed: worst <= vector.tolerance }};
}}
"""

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; style-src 'unsafe-inline'; form-action 'none'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
form { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1rem; align-items: center; }
input, select, button { font: inherit; padding: .25rem .5rem; }
button, output { grid-column: 1 / -1; }
output { font-variant-numeric: tabular-nums; white-space: pre-line; font-size: 1.25rem; }
</style>
</head>
<body>
<h1>{title}</h1>
<form id="row"></form>
<p id="state" role="status">Loading. A page that is opened as a file can't load its modules: serve this folder, for example with
<code>python3 -m http.server</code>.</p>
<script type="module" src="./page.mjs"></script>
</body>
</html>
"""

_PAGE_SCRIPT = """\
import { categories, inputs, outputs, predict, selfTest } from "./{module}.mjs";

const example = {example};
const form = document.getElementById("row");
const state = document.getElementById("state");

function field(name) {
  const label = document.createElement("label");
  label.textContent = label.htmlFor = name;
  const known = Object.hasOwn(categories, name) ? categories[name] : undefined;
  const input = document.createElement(known === undefined ? "input" : "select");
  if (known === undefined) Object.assign(input, { type: "number", step: "any", value: example[name] ?? "" });
  else {
    input.append(new Option("(missing)", ""), ...known.map((text, code) => new Option(text, String(code))));
    input.value = example[name] === null ? "" : String(known.indexOf(example[name]));
  }
  input.id = input.name = name;
  form.append(label, input);
  return () => {
    if (input.value === "") return null;
    return known === undefined ? Number(input.value) : known[Number(input.value)];
  };
}

const readers = inputs.map(field);
const button = document.createElement("button");
button.textContent = "Predict";
const shown = document.createElement("output");
form.append(button, shown);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const [found] = await predict([Object.fromEntries(inputs.map((name, place) => [name, readers[place]()]))]);
    shown.textContent = [found].flat().map((value, place) => `${outputs[place]}: ${value}`).join("\\n");
  } catch (error) {
    shown.textContent = String(error.message);
  }
});

selfTest().then(
  (test) => {
    const limit = `(allowed: ${test.tolerance})`;
    state.textContent = test.passed
      ? `Ready: the answers to ${test.rows} example rows are the packaged model's.`
      : `The answers differ from the packaged model's by ${test.difference} ${limit}.`;
    document.body.dataset.state = test.passed ? "ready" : "differs";
  },
  (error) => {
    state.textContent = String(error.message);
    document.body.dataset.state = "failed";
  },
);
"""
