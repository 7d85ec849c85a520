"""A model as one ECMAScript module that needs nothing else: for a browser, Node.js and everything between."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from kilter.packaging.export.forest import OUT_OF_RANGE, ZERO, Forest
from kilter.packaging.export.source import Code, tables_of, wrapped
from kilter.packaging.linear import Linear

_HEAD = """\
// {title}
//
// predict(row) answers one row: {columns} numbers in the order of inputs, NaN where a value is missing, and for a category its code.
// encode(record) makes such a row of a record by name; a value that is missing, or a category never seen, is NaN.

export const inputs = [
{inputs}
];
export const outputs = [
{outputs}
];
export const categories = {categories};

const codes = new Map(Object.entries(categories).map(([name, known]) => [name, new Map(known.map((text, code) => [text, code]))]));

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
"""

_FOREST = """\

const thresholds = new {array}([
{thresholds}
]);
// the next node, or ~leaf
const lefts = new Int32Array([
{lefts}
]);
const rights = new Int32Array([
{rights}
]);
const features = new Uint16Array([
{features}
]);
// 1 categorical, 2 a missing value goes left, 4 zero is missing, 8 NaN is missing
const flags = new Uint8Array([
{flags}
]);
// the set of categories of a node: where it begins, and how many words it has
const firsts = new Uint32Array([
{firsts}
]);
const counts = new Uint32Array([
{counts}
]);
const sets = new Uint32Array([
{sets}
]);
const leaves = new {array}([
{leaves}
]);
const roots = new Int32Array([
{roots}
]);
const targets = new Uint16Array([
{targets}
]);

const inSet = (node, code) =>
  code >>> 5 < counts[node] && ((sets[firsts[node] + (code >>> 5)] >>> (code & 31)) & 1) === 1;

function goesLeft(node, value) {{
{left}
}}

export function predict(row) {{
  if (row.length !== {columns}) throw new RangeError(`${{row.length}} inputs were given, expected {columns}`);
  const held = {array}.from(row);
  const sums = new {array}([
{base}
  ]);
  for (let tree = 0; tree < {trees}; tree++) {{
    let place = roots[tree];
    while (place >= 0) place = goesLeft(place, held[features[place]]) ? lefts[place] : rights[place];
    sums[targets[tree]] += leaves[~place];
  }}
{link}
}}
"""

_LIGHTGBM_LEFT = f"""\
  const said = flags[node];
  if (said & 1) return value > -1 && value < 2147483648 && inSet(node, Math.trunc(value));
  if (Number.isNaN(value)) {{
    if (said & 8) return (said & 2) !== 0;
    value = 0;
  }}
  if (said & 4 && value >= -{ZERO!r} && value <= {ZERO!r}) return (said & 2) !== 0;
  return value <= thresholds[node];"""

_XGBOOST_LEFT = f"""\
  const said = flags[node];
  if (Number.isNaN(value)) return (said & 2) !== 0;
  if (said & 1) return !(value >= 0 && value < {OUT_OF_RANGE:.0f}) || !inSet(node, Math.trunc(value));
  return value < thresholds[node];"""

_LINEAR = """\

const weights = [
{weights}
];
const fill = [
{fill}
];
// by input: per code of a category, then for a missing or unknown one, what is added to each output
const tables = new Map([
{tables}
]);

export function predict(row) {{
  if (row.length !== {columns}) throw new RangeError(`${{row.length}} inputs were given, expected {columns}`);
  const sums = Float64Array.from([
{base}
  ]);
  for (let input = 0; input < {columns}; input++) {{
    let value = row[input];
    const table = tables.get(input);
    if (table !== undefined) {{
      const known = table.length - 1;
      const added = table[value >= 0 && value < known ? Math.trunc(value) : known];
      for (let output = 0; output < {outputs_count}; output++) sums[output] += added[output];
      continue;
    }}
    if (Number.isNaN(value)) value = fill[input];
    for (let output = 0; output < {outputs_count}; output++) sums[output] += weights[output][input] * value;
  }}
{link}
}}
"""

_TEST = """\
// Asks the model about example rows; ends with 1 when an answer is not the packaged model's.
import {{ readFileSync }} from "node:fs";
import {{ predict }} from "./{name}.mjs";

const vector = JSON.parse(readFileSync(new URL("./test_vector.json", import.meta.url), "utf8"));
let worst = 0;
vector.rows.forEach((row, place) => {{
  const answer = predict(row.map((value) => value ?? NaN));
  vector.answers[place].forEach((wanted, output) => {{
    const far = Math.abs(answer[output] - wanted) / Math.max(1, Math.abs(wanted));
    if (!(far <= worst)) worst = far;
  }});
}});
console.log(`${{vector.rows.length}} rows, largest difference ${{worst}}`);
process.exitCode = worst <= vector.tolerance ? 0 : 1;
"""

_SOFTMAX = """\
  const most = sums.reduce((a, b) => Math.max(a, b));
  const raised = sums.map((sum) => Math.exp(sum - most));
  const total = raised.reduce((a, b) => a + b, 0);
  return Array.from(raised, (each) => {narrow});"""


def js_files(code: Code) -> dict[str, bytes]:
    """Return the files of a model as JavaScript: a module and a program that tests it.

    Args:
        code: The model.
    """
    words = {"name": code.name, "columns": len(code.inputs), "title": " ".join(code.title.split()),
             "outputs_count": len(code.outputs)}  # fmt: skip
    head = _HEAD.format(
        **words,
        inputs=wrapped(map(json.dumps, code.inputs), "  "),
        outputs=wrapped(map(json.dumps, code.outputs), "  "),
        categories=json.dumps({name: list(code.categories[name]) for name in code.inputs if name in code.categories}),
    )
    body = _forest(code.source, words) if isinstance(code.source, Forest) else _linear(code.source, words)
    return {f"{code.name}.mjs": (head + body).encode(), f"{code.name}_test.mjs": _TEST.format(**words).encode()}


def _forest(forest: Forest, words: dict[str, object]) -> str:
    tables, single = tables_of(forest), forest.dialect == "xgboost"
    columns = list(zip(*tables.nodes, strict=True)) or [()] * 7
    features, flags, thresholds, lefts, rights, firsts, counts = columns
    return _FOREST.format(
        **words,
        array="Float32Array" if single else "Float64Array",
        thresholds=_numbers(thresholds),
        lefts=_numbers(lefts),
        rights=_numbers(rights),
        features=_numbers(features),
        flags=_numbers(flags),
        firsts=_numbers(firsts),
        counts=_numbers(counts),
        sets=_numbers(tables.words),
        leaves=_numbers(tables.leaves),
        roots=_numbers(tables.roots),
        targets=_numbers(tables.targets),
        left=_XGBOOST_LEFT if single else _LIGHTGBM_LEFT,
        base=_numbers(forest.base, "    "),
        trees=len(tables.roots),
        link=_forest_link(forest, single=single),
    )


def _forest_link(forest: Forest, *, single: bool) -> str:
    divide = f"  for (let output = 0; output < sums.length; output++) sums[output] /= {forest.divisor};\n"
    match forest.link:
        case "identity":
            link = "  return Array.from(sums);"
        case "exp":
            link = _each("Math.exp(sum)", single=single)
        case "log1pexp":
            link = _each("Math.log1p(Math.exp(sum))", single=single)
        case "signed-square":
            link = _each("sum * Math.abs(sum)", single=single)
        case "hinge":
            link = _each("sum > 0 ? 1 : 0", single=single)
        case "softmax":
            link = _SOFTMAX.format(narrow="Math.fround(each / Math.fround(total))" if single else "each / total")
        case _ if single:
            link = _each("1 / Math.fround(Math.fround(Math.exp(Math.min(-sum, 88.7))) + 1)", single=single)
        case _:
            link = _each(f"1 / (1 + Math.exp({-forest.scale!r} * sum))", single=single)
    return (divide if forest.divisor != 1 else "") + link


def _each(expression: str, *, single: bool = False) -> str:
    return f"  return Array.from(sums, (sum) => {f'Math.fround({expression})' if single else expression});"


def _linear(form: Linear, words: dict[str, object]) -> str:
    match form.link:
        case "identity":
            link = "  return Array.from(sums);"
        case "exp":
            link = _each("Math.exp(sum)")
        case "logit":
            link = _each("1 / (1 + Math.exp(-sum))")
        case "one-vs-rest":
            link = (
                "  const each = sums.map((sum) => 1 / (1 + Math.exp(-sum)));\n"
                "  const total = each.reduce((a, b) => a + b, 0);\n"
                "  return Array.from(each, (one) => (total === 0 ? 1 / sums.length : one / total));"
            )
        case "softmax":
            link = _SOFTMAX.format(narrow="each / total")
    fill = form.fill or (None,) * len(form.weights[0])
    tables = [
        f"  [{place}, [\n" + "\n".join(f"    [{_plain(row)}]," for row in table) + "\n  ]],"
        for place, table in sorted((int(place), table) for place, table in form.tables.items())
    ]
    return _LINEAR.format(
        **words,
        weights="\n".join(f"  [\n{_numbers(row, '    ')}\n  ]," for row in form.weights),
        fill=_numbers((math.nan if value is None else value) for value in fill),
        tables="\n".join(tables),
        base=_numbers(form.intercept, "    "),
        link=link,
    )


def _plain(values: Iterable[float]) -> str:
    return ", ".join(map(_number, values))


def _numbers(values: Iterable[float], indent: str = "  ") -> str:
    return wrapped(map(_number, values), indent)


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)
